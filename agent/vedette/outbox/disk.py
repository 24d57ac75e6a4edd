"""The outbox on disk: in memory while acknowledgements flow, in a file when they do not; or in the file at once.

``spill``: a message that nobody has acknowledged within `SPILL_S` is written to the file, and so is what is left at
the end. ``always``: `append` returns when the message is on the medium; appends of several threads share a transaction.
``memory``: nothing is written, and what the file still has is delivered.

What an account knows after a crash. Every transaction holds the accounts' numbers of its moment. With ``always`` that is
all there is to know. With ``spill`` messages come and go between two transactions, so that each also sets a *lease*: the
last seq that may be given before the next one; a seq beyond it waits for a transaction. The true last seq is between
the two, and what is between is counted as lost: an upper bound. After a crash of the process, but not of the
machine, `vedette.outbox.tally` has the numbers themselves.

Locks, in this order: ``_writing`` for whoever writes a transaction, ``_changed`` for everything in memory; nothing is
written, synced or waited for under the latter, pages of a long backlog are read under it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette import clock
from vedette.clock import ClockState, now_ns
from vedette.contract.errors import StateError
from vedette.delivery import ENTRY_OVERHEAD, Depth, Durable, Entry, Key, LedgerRow, Stream

from .account import Account
from .aside import put_aside
from .core import Bounds, Core, Item, Place
from .paged import PagedBacklog
from .recovery import recovered
from .store import FILE, AccountRow, Boot, BrokenFileError, Change, DiskError, MessageRow, State, Store
from .tally import Tally, read_tally

log = logging.getLogger(__name__)

TICK_S: Final = 0.3
SPILL_S: Final = 0.5  # after which a message that is not acknowledged is written, a tick later at the latest
TIDY_S: Final = 1.0  # least time between two transactions that only take messages out
COUNT_S: Final = 5.0  # least time between two transactions for nothing but the accounts' numbers
RETRY_S: Final = 5.0  # between two tries while the disk takes nothing
GROUP: Final = 2000  # messages of one transaction, so that the next one does not wait for long
MIN_LEASE: Final = 2  # seqs; twice as many as were given since the last transaction, where that is more
LATEST_NS: Final = 253_402_300_800 * 10**9  # the year 10000


@dataclass(frozen=True, slots=True)
class _Plan:
    """A transaction, and what it means for memory."""

    change: Change
    leases: list[tuple[Account, int]]
    come: list[Item]
    gone: list[int]
    pending: list[Item]
    more: bool


class DiskOutbox:
    """See `vedette.delivery.Outbox`, which this is.

    ``store``: open, or None where the file cannot be used now; it is tried again. ``max_memory_bytes``: of messages that
    are not in the file yet. ``lost``: rows that the file does not know of. ``on_alert``: told of what went wrong, and of
    its end, on any thread, without a lock held. ``keep_epoch``: makes the epoch durable where that failed before, or
    raises `OSError`; called before a file is opened again.
    """

    def __init__(
        self,
        folder: Path,
        store: Store | None,
        epoch: int,
        bounds: Bounds,
        *,
        durable: Durable,
        max_memory_bytes: int,
        lost: Sequence[LedgerRow] = (),
        on_alert: Callable[[str], None] = log.warning,
        keep_epoch: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._durable = durable
        self._max_memory_bytes = max_memory_bytes
        self._lost = tuple(lost)
        self._on_alert = on_alert
        self._keep_epoch = keep_epoch
        self._boot = clock.boot_id()
        self._synced = clock.clock_state() == "synced"
        self._opened_ns = now_ns()
        self._writing = threading.Lock()
        # under _changed
        self._changed = threading.Condition()
        self._backlog = PagedBacklog(self._read, self._has)
        self._core = Core(epoch, bounds, self._backlog, self._settled)
        self._store: Store | None = None
        self._tally: Tally | None = None
        self._by_number: dict[int, Account] = {}
        self._boots: dict[str, Boot] = {}
        self._unstored: OrderedDict[Key, Item] = OrderedDict()  # not in the file, or on their way
        self._unstored_bytes = 0
        self._gone: list[int] = []  # numbers of messages that are settled and still in the file
        self._dirty: set[Account] = set()
        self._pending: list[Item] = []  # held until a transaction
        self._written_ns = 0
        self._tried_ns = now_ns()
        self._failing = ""
        self._broken = ""
        self._listener: Callable[[], None] = lambda: None
        self._closed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="outbox", daemon=True)
        self._guarded(lambda: self._attach_again() if store is None else self._attach(store))
        self._thread.start()

    # the interface

    def append(self, stream: Stream, captured_ns: int, clock: ClockState, body: bytes) -> Key | None:
        """See `Outbox.append`. Waits for the medium with ``always``, and where a lease has run out."""
        with self._changed:
            if self._closed:
                raise RuntimeError("append after close")
            self._synced = clock == "synced"
            item = self._admit(stream, captured_ns, clock, body)
            account = self._core.account(stream)
            self._dirty.add(account)
            if isinstance(item, Key):
                self._note(account)
                return None
            waits = self._must_wait(item) or bool(self._pending)  # nobody overtakes
            if waits:
                self._pending.append(item)
            else:
                self._core.show(item)
                self._changed.notify()
            self._note(account)
        if waits:
            with self._writing:
                if item.held:
                    self._flush()
        self._listener()
        return item.entry.key

    def _admit(self, stream: Stream, captured_ns: int, clock_state: ClockState, body: bytes) -> Item | Key:
        if not self._make_memory(len(body) + ENTRY_OVERHEAD):
            return self._core.refuse(stream)
        item = self._core.admit(stream, captured_ns, clock_state, body)
        if isinstance(item, Item):
            self._unstored[item.entry.key] = item
            self._unstored_bytes += item.entry.size
        return item

    def _make_memory(self, size: int) -> bool:
        """Room for what is not in the file: it takes nothing, or too slowly."""
        if self._unstored_bytes + size <= self._max_memory_bytes:
            return True
        if self._core.keeps_what_it_has or size > self._max_memory_bytes:
            return False
        for key in list(self._unstored):
            self._core.drop(key, "outbox_full")
            if self._unstored_bytes + size <= self._max_memory_bytes:
                return True
        return False

    def _must_wait(self, item: Item) -> bool:
        if self._failing or self._store is None or self._durable == "memory":
            return False
        return self._durable == "always" or item.entry.key.seq > item.account.lease

    def batch(self, limit: int, timeout_s: float) -> Sequence[Entry]:
        """See `Outbox.batch`."""
        with self._changed:
            if not self._core.waits and timeout_s > 0:
                self._changed.wait(timeout_s)
            return self._core.batch(limit)

    def accept(self, keys: Iterable[Key]) -> None:
        """See `Outbox.accept`. The file forgets them a little later, several at once."""
        with self._changed:
            self._core.accept(keys)
            self._changed.notify_all()

    def reject(self, keys: Iterable[Key], reason: str) -> None:
        """See `Outbox.reject`. A rejected message is counted and not kept."""
        with self._changed:
            self._core.reject(keys)
            self._changed.notify_all()

    def release(self) -> None:
        """See `Outbox.release`."""
        with self._changed:
            self._core.release()
            self._changed.notify_all()

    def mark_replay(self) -> None:
        """See `Outbox.mark_replay`."""
        with self._changed:
            self._core.mark_replay()

    def is_replay(self, key: Key) -> bool:
        """See `Outbox.is_replay`."""
        with self._changed:
            return self._core.is_replay(key)

    def depth(self) -> Depth:
        """See `Outbox.depth`."""
        with self._changed:
            return self._core.depth()

    def ledger(self) -> Sequence[LedgerRow]:
        """See `Outbox.ledger`."""
        with self._changed:
            return [*self._lost, *self._core.rows()]

    def on_append(self, listener: Callable[[], None]) -> None:
        """See `Outbox.on_append`."""
        self._listener = listener

    def wait_empty(self, timeout_s: float) -> bool:
        """See `Outbox.wait_empty`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._core.empty, timeout_s)

    def problems(self) -> Mapping[str, str]:
        """See `Outbox.problems`."""
        with self._changed:
            return {"outbox": self._failing} if self._failing else {}

    def close(self) -> None:
        """See `Outbox.close`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._writing:
            self._flush(everything=True)

    def end(self) -> None:
        """See `Outbox.end`."""
        if self._stop.is_set():
            return
        self.close()
        self._stop.set()
        self._thread.join()
        with self._writing, self._changed:
            if self._tally is not None and not self._failing:
                self._tally.close()
                self._tally = None
            if self._store is not None:
                self._store.close()
                self._store = None

    # what changes in memory, under _changed

    def _settled(self, item: Item) -> None:
        account = item.account
        self._dirty.add(account)
        before, after = account.stale
        if item.place is Place.FILE:
            self._gone.append(item.number)
            account.stale = (before + 1, after + 1)
        elif item.place is Place.WRITING:
            account.stale = (before, after + 1)
        else:
            del self._unstored[item.entry.key]
            self._unstored_bytes -= item.entry.size
        self._note(account)

    def _note(self, account: Account) -> None:
        if self._tally is not None and account.epoch == self._core.epoch:
            self._tally.note(account)

    def _show_pending(self) -> None:
        """Those at the front that need not wait, or no longer."""
        shown = 0
        for item in self._pending:
            if self._must_wait(item) and item.place is not Place.FILE:
                break
            self._core.show(item)
            shown += 1
        del self._pending[:shown]
        if shown:
            self._changed.notify_all()

    # the writing thread

    def _tend(self) -> None:
        while not self._stop.wait(TICK_S):
            with self._writing:
                with self._changed:
                    self._core.drop_old(now_ns())
                    due = self._due(now_ns())
                if due:
                    self._flush()

    def _due(self, now: int) -> bool:
        if self._failing or self._broken or self._store is None:
            return (now - self._tried_ns) / 1e9 >= (0.0 if self._broken else RETRY_S)
        since_s = (now - self._written_ns) / 1e9
        if (self._gone and since_s >= TIDY_S) or (self._dirty and since_s >= COUNT_S):
            return True
        return any(True for _ in self._ripe(now, everything=self._closed))

    def _ripe(self, now: int, *, everything: bool) -> Iterable[Item]:
        """What is to be written, oldest first."""
        if self._durable == "memory":
            return
        everything = everything or self._durable == "always" or self._unstored_bytes > self._max_memory_bytes // 2
        for item in self._unstored.values():
            if not everything and (now - item.appended_ns) / 1e9 < SPILL_S:
                return
            yield item

    def _flush(self, *, everything: bool = False) -> None:
        """Writes what is to be written. The caller has ``_writing``."""
        self._guarded(lambda: self._write(everything))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Does it; what the disk says against it becomes a problem, and its end a message."""
        with self._changed:
            self._tried_ns = now_ns()
            was = self._failing
        why = ""
        try:
            if self._broken:
                raise BrokenFileError(self._broken)
            work()
        except (DiskError, StateError) as error:
            why = str(error)
        except BrokenFileError as error:
            why = self._replace(str(error))
        with self._changed:
            self._failing = f"the disk takes nothing, messages are kept in memory: {why}" if why else ""
            now = self._failing
            self._show_pending()
        if now != was and (now or was):
            self._on_alert(f"outbox: {now}" if now else "outbox: the disk takes messages again")

    def _write(self, everything: bool) -> None:
        more = True
        while more:
            if self._store is None:
                self._attach_again()
            store = self._store
            assert store is not None
            with self._changed:
                plan = self._plan(store, everything)
            try:
                store.write(plan.change)
            except BaseException:
                with self._changed:
                    self._undo(plan)
                raise
            with self._changed:
                self._done(plan)
            more = plan.more

    def _plan(self, store: Store, everything: bool) -> _Plan:
        now = now_ns()
        come: list[Item] = []
        more = False
        for item in self._ripe(now, everything=everything):
            if len(come) == GROUP:
                more = True
                break
            come.append(item)
        boots = self._boots_to_write(store, come, now)
        for item in come:
            item.place = Place.WRITING
        gone, self._gone = self._gone, []
        own = self._durable != "memory"
        if self._closed:  # a lease that was not used up is given back
            self._dirty.update(account for account in self._core.accounts() if account.lease != account.last)
        accounts = [a for a in self._dirty if own or a.epoch != self._core.epoch]
        self._dirty = set()
        leases = [(account, self._lease(account)) for account in accounts]
        for account in accounts:
            self._number(account)
            account.stale = (account.stale[0], 0)
            self._note(account)
        change = Change(
            State(max(store.state.epoch, self._core.epoch), self._core.epoch if own else store.state.kept,
                  store.state.generation + 1),
            boots,
            [_row(account, lease) for account, lease in leases],
            [self._message(store, item) for item in come],
            gone,
        )  # fmt: skip
        return _Plan(change, leases, come, gone, list(self._pending), more)

    def _lease(self, account: Account) -> int:
        if self._durable == "always" or self._closed or account.epoch != self._core.epoch:
            return account.last
        return account.last + max(MIN_LEASE, 2 * (account.last - account.written))

    def _number(self, account: Account) -> None:
        if not account.number:
            account.number = max(self._by_number, default=0) + 1
            self._by_number[account.number] = account

    def _boots_to_write(self, store: Store, come: Sequence[Item], now: int) -> list[Boot]:
        known = {boot.boot for boot in store.boots.values()}
        boots = [self._boots[item.entry.boot] for item in come if item.entry.boot not in {*known, self._boot}]
        own = Boot(self._boot, time.time_ns() - now, self._synced)
        written = next((boot for boot in store.boots.values() if boot.boot == self._boot), None)
        moved = written is None or abs(written.ahead_ns - own.ahead_ns) > 50_000_000 or written.synced != own.synced
        if moved and (own.synced or written is None or not written.synced):
            boots.append(own)
        return boots

    def _message(self, store: Store, item: Item) -> MessageRow:
        entry = item.entry
        return MessageRow(
            item.number, item.account.number, entry.key.seq, store.boot_number(entry.boot), entry.captured_ns,
            entry.clock, entry.body,
        )  # fmt: skip

    def _undo(self, plan: _Plan) -> None:
        for item in plan.come:
            if item.settled:
                del self._unstored[item.entry.key]
                self._unstored_bytes -= item.entry.size
            item.place = Place.MEMORY
        self._gone = plan.gone + self._gone
        self._dirty.update(account for account, _ in plan.leases)

    def _done(self, plan: _Plan) -> None:
        self._written_ns = now_ns()
        for item in plan.come:
            del self._unstored[item.entry.key]
            self._unstored_bytes -= item.entry.size
            item.place = Place.FILE
            if item.settled:
                self._gone.append(item.number)
        for (account, lease), row in zip(plan.leases, plan.change.accounts, strict=True):
            account.lease, account.written = lease, row.last
            account.stale = (account.stale[1], account.stale[1])
            self._note(account)
        if self._tally is not None:
            self._tally.generation(plan.change.state.generation)
        self._show_pending()
        self._backlog.page_out()

    # the file

    def _attach(self, store: Store) -> None:
        """Takes over what is in the file, and begins this epoch in it. The caller has ``_writing``, or is the first."""
        try:
            found = recovered(store, read_tally(self._folder, store.state.generation), self._boot)
            kept_before = store.state.kept
            with self._changed:
                own = self._durable != "memory"
                kept = self._core.epoch if own else store.state.kept
                change = Change(
                    State(max(store.state.epoch, self._core.epoch), kept, store.state.generation + 1),
                    accounts=[_row(account, account.last) for account in found.accounts],
                    gone=found.bad,
                    forgotten=found.forgotten,
                )
            store.write(change)
            store.forget_boots([self._boot])
            tally = (
                Tally(self._folder, self._core.epoch, self._boot, change.state.generation)
                if self._durable == "spill"
                else None
            )
        except OSError as error:
            store.close()
            raise DiskError(error.strerror or str(error)) from None
        except BaseException:
            store.close()
            raise
        with self._changed:
            self._store = store
            self._tally = tally
            self._lost = tuple(row for row in self._lost if row.epoch > kept_before)
            for account in found.accounts:
                self._by_number[account.number] = account
                self._core.take_over(account, found.bytes[account.number])
            for account in self._core.accounts():
                self._number(account)
            self._dirty.update(a for a in self._core.accounts() if a not in found.accounts)
            self._boots.update({boot.boot: boot for boot in store.boots.values()})
            number = found.highest
            for item in self._memory_items():
                number += 1
                item.number = number
            self._core.next_number = number + 1
            self._backlog.begin(found.count, found.highest + 1)
            self._changed.notify_all()
        if found.bad:
            self._on_alert(
                f"outbox: {store.path}: {len(found.bad)} messages were not as they were written, and are lost"
            )

    def _attach_again(self) -> None:
        try:
            self._keep_epoch()
        except OSError as error:
            raise DiskError(error.strerror or str(error)) from None
        self._attach(Store(self._folder))

    def _memory_items(self) -> list[Item]:
        """Everything that is in memory and not settled, in order."""
        return [*self._core.in_flight(), *self._backlog.in_memory(), *self._pending]

    def _replace(self, why: str) -> str:
        """Puts a broken file aside and begins another one; memory goes into it. Why that failed, or nothing."""
        with self._changed:
            store, self._store, self._broken = self._store, None, ""
            if store is not None:
                store.close()
            self._backlog.forget_outside()
            items = self._memory_items()
            lost = self._core.lose_all_but(items)
            self._unstored = OrderedDict((item.entry.key, item) for item in items)
            self._unstored_bytes = sum(item.entry.size for item in items)
            for item in items:
                item.place = Place.MEMORY
            for account in self._core.accounts():
                account.number, account.lease, account.stale = 0, 0, (0, 0)
            self._by_number.clear()
            self._gone.clear()
        path = self._folder / FILE
        try:
            kept = put_aside(path, "-wal", "-shm")
            self._on_alert(
                f"outbox: {path} is broken and was put aside as {kept.name}: {why}; {lost} messages are lost"
            )
            self._attach_again()
            self._write(everything=False)
        except (OSError, DiskError, StateError, BrokenFileError) as error:
            return str(error)
        return ""

    def _read(self, after: int, before: int, limit: int) -> list[Item]:
        store = self._store
        if store is None or self._broken:
            return []
        try:
            rows = store.read(after, before, limit)
        except DiskError as error:
            log.warning("outbox: %s cannot be read now: %s", store.path, error)
            return []
        except BrokenFileError as error:
            self._broken = str(error)
            return []
        if not rows:
            self._broken = f"{self._backlog.outside} messages are missing in it"
        return [self._item(store, row) for row in rows]

    def _has(self, key: Key, after: int, before: int) -> bool:
        account = next((a for a in self._core.accounts() if (a.epoch, a.stream) == (key.epoch, key.stream)), None)
        if self._store is None or account is None:
            return False
        try:
            return self._store.has(account.number, key.seq, after, before)
        except (DiskError, BrokenFileError):
            return False

    def _item(self, store: Store, row: MessageRow) -> Item:
        boot, account = store.boots[row.boot], self._by_number[row.account]
        born_ns, wall_ns = row.captured_ns, None
        if boot.boot != self._boot:
            at = row.captured_ns + boot.ahead_ns
            wall_ns = at if 0 <= at < LATEST_NS else None
            # how old it is, the clocks say if both can be trusted; else it is at least as old as this start
            trusted = boot.synced and self._synced and wall_ns is not None
            born_ns = at - (time.time_ns() - now_ns()) if trusted else self._opened_ns
        key = Key(account.epoch, account.stream, row.seq)
        entry = Entry(key, row.captured_ns, boot.boot, row.clock, row.body, wall_ns)
        return Item(entry, account, row.number, born_ns, self._opened_ns, Place.FILE, held=False)


def _row(account: Account, lease: int) -> AccountRow:
    return AccountRow(
        account.number, account.epoch, account.stream, account.last, lease, account.acknowledged, account.rejected,
        account.dropped, account.lost, tuple(account.ranges), account.ranges_cut,
    )  # fmt: skip
