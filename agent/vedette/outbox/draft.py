"""What the outbox's file does not say yet, and the transactions that say it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vedette import clock
from vedette.delivery import Durable, Key

from .account import Account
from .core import Core, Item, Place
from .recovery import Recovered
from .store import AccountRow, Boot, Change, MessageRow, State, Store
from .tally import Tally

SPILL_S: Final = 0.5  # after which a message that is not acknowledged is written, when the writer comes by
TIDY_S: Final = 1.0  # least time between two transactions that only take messages out
COUNT_S: Final = 5.0  # least time between two transactions for nothing but the accounts' numbers
GROUP: Final = 2000  # messages of one transaction, so that the next one does not wait for long
MIN_LEASE: Final = 2  # seqs; one and a half times as many as were given since the last transaction, where that is more
CLOCK_MOVED_NS: Final = 50_000_000  # the wall clock against CLOCK_BOOTTIME, from which on it is written again


@dataclass(frozen=True, slots=True)
class Plan:
    """A transaction, and what it means for memory. ``more``: there is more to write than it takes."""

    change: Change
    leases: list[tuple[Account, int]]
    come: list[Item]
    more: bool


class Draft:
    """See the module. Owned by its outbox, under its lock; `plan`, `done` and `undo` by whoever writes, in turn.

    ``synced``: whether the wall clock was at the last `append`. ``closed``: there will be no other.
    """

    def __init__(self, epoch: int, durable: Durable, max_memory_bytes: int) -> None:
        self._epoch = epoch
        self._durable = durable
        self._max_memory_bytes = max_memory_bytes
        self._boot = clock.boot_id()
        self.synced = clock.clock_state() == "synced"
        self.closed = False
        self._unstored: OrderedDict[Key, Item] = OrderedDict()  # not in the file, or on their way
        self._unstored_bytes = 0
        self._gone: list[int] = []  # numbers of messages that are settled and still in the file
        self._dirty: set[Account] = set()
        self._by_number: dict[int, Account] = {}
        self._boots: dict[str, Boot] = {}
        self._tally: Tally | None = None
        self._written_ns = 0

    # what happens

    def came(self, item: Item) -> None:
        """It is in memory alone."""
        self._unstored[item.entry.key] = item
        self._unstored_bytes += item.entry.size

    def settled(self, item: Item) -> None:
        """It was accepted, rejected or dropped, and its account says so already."""
        account = item.account
        before, after = account.stale
        if item.place is Place.FILE:
            self._gone.append(item.number)
            account.stale = (before + 1, after + 1)
        elif item.place is Place.WRITING:
            account.stale = (before, after + 1)
        else:
            self._leave(item)
        self.touched(account)

    def rotten(self, numbers: Iterable[int]) -> None:
        """These are in the file, and nobody can read them."""
        self._gone.extend(numbers)

    def touched(self, account: Account) -> None:
        """Its numbers have changed."""
        if self._durable != "memory" or account.epoch != self._epoch:
            self._dirty.add(account)
        if self._tally is not None:
            self._tally.note(account)

    def _leave(self, item: Item) -> None:
        del self._unstored[item.entry.key]
        self._unstored_bytes -= item.entry.size

    def make_room(self, core: Core, size: int) -> bool:
        """In memory, for what is not in the file: the disk takes nothing, or too slowly."""
        if self._unstored_bytes + size <= self._max_memory_bytes:
            return True
        if core.keeps_what_it_has or size > self._max_memory_bytes:
            return False
        while self._drop_oldest(core):
            if self._unstored_bytes + size <= self._max_memory_bytes:
                return True
        return False

    def _drop_oldest(self, core: Core) -> bool:
        """Whether there was one: what is in flight stays, and what is being written would free nothing before it is safe."""
        candidates = (key for key, item in self._unstored.items() if item.place is Place.MEMORY)
        return any(core.drop(key, "outbox_full") for key in candidates)

    def must_wait(self, item: Item) -> bool:
        """Whether nobody may see it before a transaction."""
        if self._durable == "memory" or item.place is Place.FILE:
            return False
        return self._durable == "always" or item.entry.key.seq > item.account.lease

    # what is to be written

    def due(self, now: int) -> bool:
        """Whether it is time for a transaction."""
        since_s = (now - self._written_ns) / 1e9
        if (self._gone and since_s >= TIDY_S) or (self._dirty and since_s >= COUNT_S):
            return True
        return next(self._ripe(now, everything=False), None) is not None

    def _ripe(self, now: int, *, everything: bool) -> Iterator[Item]:
        """Messages to be written, oldest first."""
        if self._durable == "memory":
            return
        everything = everything or self.closed or self._durable == "always"
        everything = everything or self._unstored_bytes > self._max_memory_bytes // 2
        for item in self._unstored.values():
            if not everything and (now - item.appended_ns) / 1e9 < SPILL_S:
                return
            yield item

    def plan(self, core: Core, store: Store, *, everything: bool) -> Plan:
        """The next transaction; from here to `done` or `undo` it is under way."""
        now = clock.now_ns()
        come: list[Item] = []
        more = False
        for item in self._ripe(now, everything=everything):
            if len(come) == GROUP:
                more = True
                break
            come.append(item)
        boots = self._boots_to_write(store, come, now)
        self._dirty.update(item.account for item in come)  # each may be settled while it is written
        if self.closed:  # a lease that was not used up is given back
            for account in core.accounts():
                if account.lease != account.last:
                    self.touched(account)
        leases = [(account, self._lease(core, account)) for account in self._dirty]
        gone, self._gone, self._dirty = self._gone, [], set()
        for item in come:
            item.place = Place.WRITING
        for account, _ in leases:
            self.number(account)
            account.stale = (account.stale[0], 0)
            self._note(account)
        change = Change(
            self._state(core, store),
            boots,
            [row_of(account, lease) for account, lease in leases],
            [_message_of(store, item) for item in come],
            gone,
        )
        return Plan(change, leases, come, more)

    def _state(self, core: Core, store: Store) -> State:
        kept = store.state.kept if self._durable == "memory" else core.epoch
        return State(max(store.state.epoch, core.epoch), kept, store.state.generation + 1)

    def _lease(self, core: Core, account: Account) -> int:
        if self._durable == "always" or self.closed or account.epoch != core.epoch:
            return account.last
        return account.last + max(MIN_LEASE, (account.last - account.written) * 3 // 2)

    def number(self, account: Account) -> None:
        """Gives it the id of its row, unless it has one."""
        if not account.number:
            account.number = max(self._by_number, default=0) + 1
            self._by_number[account.number] = account

    def account(self, number: int) -> Account:
        """The one with this id."""
        return self._by_number[number]

    def _note(self, account: Account) -> None:
        if self._tally is not None:
            self._tally.note(account)

    def _boots_to_write(self, store: Store, come: Sequence[Item], now: int) -> list[Boot]:
        known = {boot.boot: boot for boot in store.boots.values()}
        needed = {item.entry.boot for item in come} - known.keys() - {self._boot}
        boots = [self._boots[boot] for boot in sorted(needed)]
        own, written = Boot(self._boot, time.time_ns() - now, self.synced), known.get(self._boot)
        # a clock that is right is not exchanged for one that is not
        if written is None or own.synced > written.synced or (own.synced == written.synced and _moved(own, written)):
            boots.append(own)
        return boots

    # what became of it

    def done(self, plan: Plan) -> None:
        """It is on the medium."""
        self._written_ns = clock.now_ns()
        for item in plan.come:
            self._leave(item)
            item.place = Place.FILE
            if item.settled:
                self._gone.append(item.number)
        # the tally's generation comes last: see there
        for (account, lease), row in zip(plan.leases, plan.change.accounts, strict=True):
            account.lease, account.written = lease, row.last
            account.stale = (account.stale[1], account.stale[1])
            self._note(account)
        if self._tally is not None:
            self._tally.generation(plan.change.state.generation)

    def undo(self, plan: Plan) -> None:
        """It is not."""
        for item in plan.come:
            item.place = Place.MEMORY
            if item.settled:
                self._leave(item)
        self._gone = [*plan.change.gone, *self._gone]
        self._dirty.update(account for account, _ in plan.leases)

    # another file

    def first(self, core: Core, store: Store, found: Recovered) -> Change:
        """The transaction with which this epoch begins in a file: its accounts have an id there, for the tally, and count
        nothing yet."""
        self._by_number = {account.number: account for account in found.accounts}
        own = [account for account in core.accounts() if account.epoch == self._epoch and self._durable != "memory"]
        for account in own:
            account.number = 0
            self.number(account)
        blank = [AccountRow(account.number, self._epoch, account.stream, 0, 0, 0, 0, 0, 0, (), 0) for account in own]
        return Change(
            self._state(core, store),
            accounts=[*(row_of(account, account.last) for account in found.accounts), *blank],
            gone=found.bad,
            forgotten=found.forgotten,
            forgotten_boots=[
                number for number, then in store.boots.items() if number not in found.boots and then.boot != self._boot
            ],
        )

    def begin(self, core: Core, store: Store, found: Recovered, tally: Tally | None) -> None:
        """That transaction is done, and ``core`` has taken over what was found."""
        self._tally = tally
        for account in core.accounts():
            if account not in found.accounts and account.last:
                self.number(account)
                self.touched(account)
        self._boots.update({boot.boot: boot for boot in store.boots.values()})

    def start_over(self, core: Core, items: Sequence[Item]) -> None:
        """The file is gone. ``items``: everything that is left, oldest first."""
        self._unstored = OrderedDict((item.entry.key, item) for item in items)
        self._unstored_bytes = sum(item.entry.size for item in items)
        for item in items:
            item.place = Place.MEMORY
        for account in core.accounts():
            account.number, account.lease, account.stale = 0, 0, (0, 0)
        self._by_number.clear()
        self._gone.clear()
        self.end(trusted=True)

    def end(self, *, trusted: bool) -> None:
        """Nothing more is noted. ``trusted``: what the file says is all there is to know."""
        if self._tally is not None and trusted:
            self._tally.close()
        self._tally = None


def row_of(account: Account, lease: int) -> AccountRow:
    """As it stands in the file."""
    return AccountRow(
        account.number, account.epoch, account.stream, account.last, lease, account.acknowledged, account.rejected,
        account.dropped, account.lost, tuple(account.ranges), account.ranges_cut,
    )  # fmt: skip


def _moved(one: Boot, other: Boot) -> bool:
    return abs(one.ahead_ns - other.ahead_ns) > CLOCK_MOVED_NS


def _message_of(store: Store, item: Item) -> MessageRow:
    entry = item.entry
    return MessageRow(
        item.number, item.account.number, entry.key.seq, store.boot_number(entry.boot), entry.captured_ns, entry.clock,
        entry.body,
    )  # fmt: skip
