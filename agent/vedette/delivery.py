"""The vocabulary of delivery: streams, entries, the outbox's interface and its ledger.

The outbox is the only queue between a pipeline and the broker. Delivery is a transaction: `Outbox.batch` hands out
entries, the publisher says `accept`, `reject` or `release` for each, by its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from .clock import ClockState

WhenFull: TypeAlias = Literal["drop_oldest", "drop_newest"]
Durable: TypeAlias = Literal["memory", "spill", "always"]


class Stream(NamedTuple):
    """One pipeline's one topic."""

    pipeline: str
    topic: str


class Key(NamedTuple):
    """What no two messages of a device ever share."""

    epoch: int
    stream: Stream
    seq: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One message that waits to be delivered.

    ``body``: a JSON object's bytes without the fields that are rendered when it is sent. ``captured_ns``:
    CLOCK_BOOTTIME of the boot ``boot``. ``clock``: the wall clock's state at capture. ``wall_ns``: the capture in
    nanoseconds since 1970 as that boot knew it, for a message of an earlier boot; of this boot the wall clock is asked.
    """

    key: Key
    captured_ns: int
    boot: str
    clock: ClockState
    body: bytes
    wall_ns: int | None = None

    @property
    def size(self) -> int:
        """What it counts for in the outbox's bound, bytes: its body and an allowance for the rest of it."""
        return len(self.body) + ENTRY_OVERHEAD


ENTRY_OVERHEAD = 400  # bytes; an allowance for an Entry, its Key and their places in the outbox, not a measurement


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages first..last of a stream that were given up, and why."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """The account of one stream in one epoch.

    ``last - first + 1 = acknowledged + waiting + rejected + dropped + lost_at_crash``, always. Where nothing was kept of
    an epoch that ended without saying goodbye, ``last`` and ``lost_at_crash`` are None: nobody knows.
    """

    epoch: int
    stream: Stream
    first: int
    last: int | None
    acknowledged: int
    waiting: int
    rejected: int
    dropped: int
    dropped_ranges: tuple[Dropped, ...]
    ranges_cut: int
    lost_at_crash: int | None = 0

    @property
    def balances(self) -> bool:
        """Whether the sum holds; False where nobody knows."""
        if self.last is None or self.lost_at_crash is None:
            return False
        accounted = self.acknowledged + self.waiting + self.rejected + self.dropped + self.lost_at_crash
        return self.last - self.first + 1 == accounted


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits, sent and not yet acknowledged included."""

    messages: int
    bytes: int


class Outbox(Protocol):
    """Keeps messages until the broker has acknowledged them.

    Every method may be called by any thread. `append` and `close` may block for as long as the medium takes to make a
    message durable, never for the broker.
    """

    def append(self, stream: Stream, captured_ns: int, clock: ClockState, body: bytes) -> Key | None:
        """Gives the message its seq, the next of its stream, and keeps it.

        None when it was dropped at once because the outbox is full and keeps what it has; its seq is used up, so that
        the gap shows, and the ledger names it.
        """
        ...

    def batch(self, limit: int, timeout_s: float) -> Sequence[Entry]:
        """At most ``limit`` entries to send, oldest first; they are in flight from now on. Waits for the first."""
        ...

    def accept(self, keys: Iterable[Key]) -> None:
        """The broker has acknowledged them: they are forgotten. A key that is not in flight is passed over."""
        ...

    def reject(self, keys: Iterable[Key], reason: str) -> None:
        """The broker has refused them, or never will take them: counted and kept out of the way of the others."""
        ...

    def release(self) -> None:
        """The connection is gone: all that was in flight waits again, in its old order, and counts as replayed."""
        ...

    def is_replay(self, key: Key) -> bool:
        """Whether an entry in flight was already waiting when the connection came up."""
        ...

    def mark_replay(self) -> None:
        """The connection has come up: what waits now was kept for it."""
        ...

    def depth(self) -> Depth:
        """What waits."""
        ...

    def ledger(self) -> Sequence[LedgerRow]:
        """The account of every stream and epoch that is not settled, and of this epoch."""
        ...

    def on_append(self, listener: Callable[[], None]) -> None:
        """``listener`` is called after each `append` that kept its message, on that thread; it must not wait."""
        ...

    def wait_empty(self, timeout_s: float) -> bool:
        """Waits until nothing waits or is in flight; whether that came true."""
        ...

    def problems(self) -> Mapping[str, str]:
        """What is wrong with the medium now, by what it concerns; empty where all is well."""
        ...

    def close(self) -> None:
        """No more `append`; what waits is made durable where the medium can. The rest can still be delivered."""
        ...

    def end(self) -> None:
        """After `close`, once nothing is delivered any more: the last account is noted, and the medium let go."""
        ...
