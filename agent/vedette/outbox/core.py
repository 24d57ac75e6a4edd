"""What an outbox is wherever it keeps its messages: the order, the bounds, what is in flight, the accounts.

Pure bookkeeping without a lock: `vedette.outbox.memory` and `vedette.outbox.disk` put one around it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from vedette import clock
from vedette.clock import ClockState
from vedette.delivery import ENTRY_OVERHEAD, Depth, Entry, Key, LedgerRow, Stream, WhenFull

from .account import Account

TURN: Final = 2000  # messages that are given up at once, before whoever waits for the outbox's lock
PAUSE_S: Final = 0.001  # between two turns; a lock that is taken again at once, nobody else gets
MAX_EARLIER_ROWS: Final = 30  # of earlier epochs in the ledger, which must fit into one message; the rest follow


class Place(Enum):
    """Where a message is kept, beside memory."""

    MEMORY = "nowhere else"
    WRITING = "in a transaction that is under way"
    FILE = "in the file"


@dataclass(slots=True, eq=False)
class Item:
    """An entry in its outbox.

    ``number``: its place in the order of all. ``born_ns``: its capture as a CLOCK_BOOTTIME of this boot, for its age.
    ``appended_ns``: the same of its `append`. ``held``: nobody gets to see it yet. ``replay``: since it is in flight.
    ``settled``: accepted, rejected or dropped.
    """

    entry: Entry
    account: Account
    number: int
    born_ns: int
    appended_ns: int
    place: Place = Place.MEMORY
    held: bool = True
    replay: bool = False
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """``max_age_s``: 0 for no bound."""

    max_messages: int
    max_bytes: int
    max_age_s: float = 0.0
    when_full: WhenFull = "drop_oldest"


class Backlog(Protocol):
    """What waits, in order. ``in``: whether the key waits."""

    def __len__(self) -> int: ...
    def __contains__(self, key: Key) -> bool: ...
    def push(self, item: Item) -> None:
        """The newest."""
        ...

    def pop(self) -> Item | None:
        """The oldest; None where there is none, or it cannot be read just now."""
        ...

    def put_back(self, items: Iterable[Item]) -> None:
        """Those that were the oldest, in their order."""
        ...

    def take(self, key: Key) -> Item | None:
        """This one, wherever it stands."""
        ...


class MemoryBacklog:
    """See `Backlog`."""

    def __init__(self) -> None:
        self._items: OrderedDict[Key, Item] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def push(self, item: Item) -> None:
        """See `Backlog.push`."""
        self._items[item.entry.key] = item

    def pop(self) -> Item | None:
        """See `Backlog.pop`."""
        return self._items.popitem(last=False)[1] if self._items else None

    def put_back(self, items: Iterable[Item]) -> None:
        """See `Backlog.put_back`."""
        for item in reversed(list(items)):
            self._items[item.entry.key] = item
            self._items.move_to_end(item.entry.key, last=False)

    def take(self, key: Key) -> Item | None:
        """See `Backlog.take`."""
        return self._items.pop(key, None)


class Core:
    """See the module. ``on_settled``: told of each item that is accepted, rejected or dropped.

    A message is *held* from `admit` to `show`: it counts, and nobody gets to see it.
    """

    def __init__(
        self, epoch: int, bounds: Bounds, backlog: Backlog, on_settled: Callable[[Item], None] = lambda item: None
    ) -> None:
        self.epoch = epoch
        self._bounds = bounds
        self._backlog = backlog
        self._on_settled = on_settled
        self._boot = clock.boot_id()
        self._accounts: dict[tuple[int, Stream], Account] = {}
        self._in_flight: OrderedDict[Key, Item] = OrderedDict()
        self._held = 0
        self._bytes = 0
        self._fixed_bytes = 0  # of what is held or in flight
        self.next_number = 1

    # what there is

    @property
    def waits(self) -> bool:
        """Whether `batch` would find something."""
        return len(self._backlog) > 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits, is in flight or held."""
        return not self._messages

    @property
    def _messages(self) -> int:
        return len(self._backlog) + len(self._in_flight) + self._held

    @property
    def keeps_what_it_has(self) -> bool:
        """Whether it drops the newest when it is full."""
        return self._bounds.when_full == "drop_newest"

    def depth(self) -> Depth:
        """See `Outbox.depth`."""
        return Depth(self._messages, self._bytes)

    def in_flight(self) -> Iterator[Item]:
        """Oldest first."""
        return iter(self._in_flight.values())

    def accounts(self) -> Iterator[Account]:
        """All of them."""
        return iter(self._accounts.values())

    def account(self, stream: Stream) -> Account:
        """The stream's account in this epoch."""
        account = self._accounts.get((self.epoch, stream))
        if account is None:
            account = Account(self.epoch, stream)
            self._accounts[self.epoch, stream] = account
        return account

    def take_over(self, account: Account, waiting_bytes: int) -> None:
        """One of an earlier epoch, whose ``account.waiting`` messages the backlog has: none of them is news."""
        account.replay_until = account.last
        self._accounts[account.epoch, account.stream] = account
        self._bytes += waiting_bytes

    def rows(self) -> list[LedgerRow]:
        """This epoch's, and before them those of earlier ones: unsettled first, at most `MAX_EARLIER_ROWS`."""
        given = [account for account in self._accounts.values() if account.last]
        earlier = sorted(
            (account for account in given if account.epoch != self.epoch), key=lambda a: (a.waiting == 0, a.epoch)
        )
        return [
            account.row() for account in [*earlier[:MAX_EARLIER_ROWS], *(a for a in given if a.epoch == self.epoch)]
        ]

    # what comes in

    def admit(self, stream: Stream, captured_ns: int, clock_state: ClockState, body: bytes) -> Item | Key:
        """A message with the next seq of its stream, held; its key alone where it was dropped at once."""
        if not self._make_room(len(body) + ENTRY_OVERHEAD):
            return self.refuse(stream)
        account = self.account(stream)
        entry = Entry(Key(self.epoch, stream, account.next_seq()), captured_ns, self._boot, clock_state, body)
        item = Item(entry, account, self.next_number, captured_ns, clock.now_ns())
        self.next_number += 1
        account.waiting += 1
        self._held += 1
        self._bytes += entry.size
        self._fixed_bytes += entry.size
        return item

    def show(self, item: Item) -> None:
        """From now on `batch` finds it."""
        item.held = False
        self._held -= 1
        self._fixed_bytes -= item.entry.size
        self._backlog.push(item)

    def _make_room(self, size: int) -> bool:
        if self._fits(size):
            return True
        if self.keeps_what_it_has or not self._could_fit(size):
            return False
        while not self._fits(size):
            if not self.drop_oldest("outbox_full"):
                return False
        return True

    def _fits(self, size: int) -> bool:
        return self._messages < self._bounds.max_messages and self._bytes + size <= self._bounds.max_bytes

    def _could_fit(self, size: int) -> bool:
        """Whether it would fit if nothing waited: what is in flight or held cannot be taken back, and stays."""
        fixed = len(self._in_flight) + self._held
        return fixed < self._bounds.max_messages and self._fixed_bytes + size <= self._bounds.max_bytes

    def refuse(self, stream: Stream) -> Key:
        """A message with the next seq of its stream, dropped at once."""
        account = self.account(stream)
        key = Key(self.epoch, stream, account.next_seq())
        account.drop(key.seq, "outbox_full")
        return key

    # what goes out

    def drop_oldest(self, reason: str) -> bool:
        """Whether there was one."""
        item = self._backlog.pop()
        if item is not None:
            self._drop(item, reason)
        return item is not None

    def drop(self, key: Key, reason: str) -> bool:
        """Whether it waited."""
        item = self._backlog.take(key)
        if item is not None:
            self._drop(item, reason)
        return item is not None

    def _drop(self, item: Item, reason: str) -> None:
        item.account.drop(item.entry.key.seq, reason)
        self._forget(item)

    def drop_old(self, now_ns: int) -> bool:
        """Gives up what is older than `Bounds.max_age_s`, from the oldest on, `TURN` at most. Whether there may be more."""
        if not self._bounds.max_age_s:
            return False
        born_before = now_ns - int(self._bounds.max_age_s * 1e9)
        for _ in range(TURN):
            item = self._backlog.pop()
            if item is None:
                return False
            if item.born_ns >= born_before:
                self._backlog.put_back([item])
                return False
            self._drop(item, "too_old")
        return True

    def _forget(self, item: Item) -> None:
        self._bytes -= item.entry.size
        item.account.waiting -= 1
        item.settled = True
        self._on_settled(item)

    def lose_all_but(self, left: Counter[Account], size: int) -> Counter[Account]:
        """So many messages are left, of so many bytes; the others are gone, and the backlog has forgotten them. How many
        were lost."""
        lost = +Counter({account: account.waiting - left[account] for account in self._accounts.values()})
        for account, count in lost.items():
            account.waiting -= count
            account.lost += count
        self._bytes = size
        return lost

    def batch(self, limit: int) -> list[Entry]:
        """At most so many, oldest first, in flight from now on."""
        entries: list[Entry] = []
        while len(entries) < limit:
            item = self._backlog.pop()
            if item is None:
                break
            item.replay = item.entry.key.seq <= item.account.replay_until
            self._in_flight[item.entry.key] = item
            self._fixed_bytes += item.entry.size
            entries.append(item.entry)
        return entries

    def accept(self, keys: Iterable[Key]) -> None:
        """See `Outbox.accept`."""
        for item in self._land(keys):
            item.account.acknowledged += 1
            self._forget(item)

    def reject(self, keys: Iterable[Key]) -> None:
        """See `Outbox.reject`."""
        for item in self._land(keys):
            item.account.rejected += 1
            self._forget(item)

    def _land(self, keys: Iterable[Key]) -> Iterator[Item]:
        for key in keys:
            item = self._in_flight.pop(key, None)
            if item is not None:
                self._fixed_bytes -= item.entry.size
                yield item

    def release(self) -> None:
        """See `Outbox.release`."""
        items: Sequence[Item] = list(self._in_flight.values())
        self._in_flight.clear()
        for item in items:
            # what is in flight is the oldest of its stream, so that all up to it were
            item.account.replay_until = max(item.account.replay_until, item.entry.key.seq)
            self._fixed_bytes -= item.entry.size
        self._backlog.put_back(items)

    # what is a replay

    def mark_replay(self) -> None:
        """See `Outbox.mark_replay`."""
        for account in self._accounts.values():
            account.replay_until = account.last

    def is_replay(self, key: Key) -> bool:
        """See `Outbox.is_replay`; of what still waits, whether it will be one."""
        item = self._in_flight.get(key)
        if item is not None:
            return item.replay
        account = self._accounts.get((key.epoch, key.stream))
        return account is not None and key.seq <= account.replay_until and key in self._backlog
