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
written, synced or waited for under the latter, pages of a long backlog are read under it. Where a message in one of them
is not as it was written, nobody reads on before all of them were looked through, under ``_writing`` alone.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from vedette import clock
from vedette.clock import ClockState, now_ns
from vedette.contract.errors import StateError
from vedette.delivery import ENTRY_OVERHEAD, Depth, Durable, Entry, Key, LedgerRow, Stream

from .aside import put_aside
from .core import PAUSE_S, Bounds, Core, Item
from .draft import Draft
from .paged import PagedBacklog
from .recovery import item_of, recovered
from .store import FILE, LOG_SUFFIXES, Bad, BrokenFileError, DiskError, Store
from .tally import Tally, read_tally

log = logging.getLogger(__name__)

TICK_S: Final = 0.3  # between two looks at what is to be written
RETRY_S: Final = 5.0  # between two tries while the disk takes nothing


class DiskOutbox:
    """See `vedette.delivery.Outbox`, which this is.

    ``store``: open, or None where the file cannot be used now; it is tried again. ``max_memory_bytes``: of messages that
    are not in the file yet. ``streams``: known to the file before their first message, which may come when the disk takes
    nothing any more. ``lost``: rows that the file may not know of. ``on_alert``: told of what went wrong once,
    on any thread, without a lock held. ``keep_epoch``: makes the epoch durable where that failed before, or
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
        streams: Sequence[Stream] = (),
        lost: Sequence[LedgerRow] = (),
        on_alert: Callable[[str], None] = log.warning,
        keep_epoch: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._durable = durable
        self._on_alert = on_alert
        self._keep_epoch = keep_epoch
        self._boot = clock.boot_id()
        self._opened_ns = now_ns()
        self._writing = threading.Lock()
        # under _changed
        self._changed = threading.Condition()
        self._draft = Draft(epoch, durable, max_memory_bytes)
        self._backlog = PagedBacklog(self._read, self._has)
        self._core = Core(epoch, bounds, self._backlog, self._draft.settled)
        for stream in streams:
            self._core.account(stream)
        self._store: Store | None = None
        self._lost = tuple(lost)
        self._pending: list[Item] = []  # held until a transaction
        self._tried_ns = now_ns()
        self._failing = ""
        self._unread = ""
        self._broken = ""
        self._listener: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="outbox", daemon=True)
        self._guarded(lambda: self._attach_again() if store is None else self._attach(store))
        self._thread.start()

    # the interface

    def append(self, stream: Stream, captured_ns: int, clock: ClockState, body: bytes) -> Key | None:
        """See `Outbox.append`. Waits for the medium with ``always``, and where a lease has run out."""
        with self._changed:
            if self._draft.closed:
                raise RuntimeError("append after close")
            self._draft.synced = clock != "unsynced"
            fits = self._draft.make_room(self._core, len(body) + ENTRY_OVERHEAD)
            item = self._core.admit(stream, captured_ns, clock, body) if fits else self._core.refuse(stream)
            if isinstance(item, Key):
                self._draft.touched(self._core.account(stream))
                return None
            self._draft.came(item)
            self._draft.touched(item.account)
            waits = self._must_wait(item) or bool(self._pending)  # nobody overtakes
            if waits:
                self._pending.append(item)
            else:
                self._core.show(item)
                self._changed.notify()
        if waits:
            with self._writing:
                if item.held:
                    self._flush()
        self._listener()
        return item.entry.key

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
            found = {"disk": self._failing, "disk reads": self._unread}
            return {key: f"outbox: {why}" for key, why in found.items() if why}

    def close(self) -> None:
        """See `Outbox.close`."""
        with self._changed:
            self._draft.closed = True
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
            self._draft.end(trusted=not self._failing)
            if self._store is not None:
                self._store.close()
                self._store = None

    def _must_wait(self, item: Item) -> bool:
        return not self._failing and self._store is not None and self._draft.must_wait(item)

    def _show_pending(self) -> None:
        """Those at the front that need not wait, or no longer. Under _changed."""
        shown = 0
        for item in self._pending:
            if self._must_wait(item):
                break
            self._core.show(item)
            shown += 1
        del self._pending[:shown]
        if shown:
            self._changed.notify_all()

    # the writing thread

    def _tend(self) -> None:
        pause_s = TICK_S
        while not self._stop.wait(pause_s):
            with self._writing:
                with self._changed:
                    more = self._core.drop_old(now_ns())
                    due = self._due(now_ns(), more)
                if due:
                    self._flush()
            pause_s = PAUSE_S if more else TICK_S

    def _due(self, now: int, more: bool) -> bool:
        """``more``: the file has as much to forget as is good for one transaction, and that is not all."""
        if self._failing or self._broken or self._store is None:
            return (now - self._tried_ns) / 1e9 >= (0.0 if self._broken else RETRY_S)
        return more or self._backlog.doubted or self._draft.due(now)

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
        if now and not was:
            log.warning("outbox: %s", now)
        elif was and not now:
            log.info("outbox: the disk takes messages again")

    def _write(self, everything: bool) -> None:
        more = True
        while more:
            if self._store is None:
                self._attach_again()
            store = self._store
            assert store is not None
            if self._backlog.doubted:
                self._sift(store)
            with self._changed:
                plan = self._draft.plan(self._core, store, everything=everything)
            try:
                store.write(plan.change)
            except BaseException:
                with self._changed:
                    self._draft.undo(plan)
                raise
            with self._changed:
                self._draft.done(plan)
                self._show_pending()
                self._backlog.page_out()
            more = plan.more

    # the file

    def _attach_again(self) -> None:
        try:
            self._keep_epoch()
        except OSError as error:
            raise DiskError(error.strerror or str(error)) from None
        self._attach(Store(self._folder))

    def _attach(self, store: Store) -> None:
        """Takes over what is in the file, and begins this epoch in it. The caller has ``_writing``, or is the first."""
        try:
            found = recovered(store, read_tally(self._folder, store.state.generation), self._boot)
            with self._changed:
                if store.state.kept != self._core.epoch:  # else an attempt to begin it failed half-way
                    self._lost = tuple(row for row in self._lost if row.epoch > store.state.kept)
                change = self._draft.first(self._core, store, found)
            store.write(change)
            tally = None
            if self._durable == "spill":
                tally = Tally(self._folder, self._core.epoch, self._boot, change.state.generation)
        except OSError as error:
            store.close()
            raise DiskError(error.strerror or str(error)) from None
        except BaseException:
            store.close()
            raise
        with self._changed:
            self._store, self._unread = store, ""
            for account in found.accounts:
                self._core.take_over(account, found.bytes[account.number])
            self._draft.begin(self._core, store, found, tally)
            number = found.highest
            for item in self._memory_items():
                number += 1
                item.number = number
            self._core.next_number = number + 1
            self._backlog.begin(found.count, found.highest + 1, in_flight=any(self._core.in_flight()))
            self._changed.notify_all()
        self._tell_lost(store, len(found.bad))

    def _sift(self, store: Store) -> None:
        """Finds out which messages of those in the file alone can be read; the others are lost. The caller has ``_writing``.

        A message that cannot be read is not asked whose it was: the account that misses one has lost it.
        """
        after, before = self._backlog.span  # stays as it is: see there
        there: Counter[int] = Counter()
        size = 0
        rotten = []
        for row in store.between(after, before):
            if isinstance(row, Bad):
                rotten.append(row.number)
            else:
                there[row.account] += 1
                size += len(row.body) + ENTRY_OVERHEAD
        with self._changed:
            items = self._memory_items()
            left = Counter(item.account for item in items)
            left.update({self._draft.account(number): count for number, count in there.items()})
            lost = self._core.lose_all_but(left, size + sum(item.entry.size for item in items))
            for account in lost:
                self._draft.touched(account)
            self._draft.rotten(number for number in rotten if number not in store.passed_over)
            store.passed_over.update(rotten)
            self._backlog.sifted(there.total())
            self._changed.notify_all()
        self._tell_lost(store, lost.total())

    def _tell_lost(self, store: Store, count: int) -> None:
        if count:
            self._on_alert(f"outbox: {store.path}: {count} messages are not as they were written, and lost")

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
            left = Counter(item.account for item in items)
            lost = self._core.lose_all_but(left, sum(item.entry.size for item in items)).total()
            self._draft.start_over(self._core, items)
        path = self._folder / FILE
        try:
            kept = put_aside(path, *LOG_SUFFIXES)
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
            if not self._unread:
                log.warning("outbox: %s cannot be read now: %s", store.path, error)
            self._unread = f"what waits in {store.path} cannot be read now: {error}"
            return []
        except BrokenFileError as error:
            self._broken = str(error)
            return []
        self._unread = ""
        self._backlog.doubted = not rows
        synced = self._draft.synced
        return [
            item_of(store, row, self._draft.account(row.account), self._boot, synced, self._opened_ns) for row in rows
        ]

    def _has(self, key: Key, after: int, before: int) -> bool:
        account = next((a for a in self._core.accounts() if (a.epoch, a.stream) == (key.epoch, key.stream)), None)
        if self._store is None or account is None:
            return False
        try:
            return self._store.has(account.number, key.seq, after, before)
        except (DiskError, BrokenFileError):
            return False
