"""The outbox in memory: bounded in messages and bytes. What it holds when the process dies is gone, and said so."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from vedette import clock
from vedette.clock import ClockState
from vedette.delivery import Depth, Entry, Key, LedgerRow, Stream, WhenFull

from .account import Account


class MemoryOutbox:
    """See `vedette.delivery.Outbox`, which this is.

    ``lost``: rows for epochs that ended without saying goodbye, to be shown in the ledger.
    """

    def __init__(
        self,
        epoch: int,
        *,
        max_messages: int,
        max_bytes: int,
        when_full: WhenFull = "drop_oldest",
        lost: Sequence[LedgerRow] = (),
    ) -> None:
        self._epoch = epoch
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._when_full = when_full
        self._lost = tuple(lost)
        self._boot = clock.boot_id()
        self._changed = threading.Condition()
        self._accounts: dict[Stream, Account] = {}
        self._waiting: OrderedDict[Key, Entry] = OrderedDict()
        self._in_flight: OrderedDict[Key, Entry] = OrderedDict()
        self._replay: set[Key] = set()
        self._count: dict[Stream, int] = {}
        self._bytes = 0
        self._listener: Callable[[], None] = lambda: None
        self._closed = False

    def append(self, stream: Stream, captured_ns: int, clock: ClockState, body: bytes) -> Key | None:
        """See `Outbox.append`. Never blocks but for the lock."""
        with self._changed:
            if self._closed:
                raise RuntimeError("append after close")
            account = self._accounts.get(stream)
            if account is None:
                account = self._accounts[stream] = Account(self._epoch, stream)
            key = Key(self._epoch, stream, account.next_seq())
            entry = Entry(key, captured_ns, self._boot, clock, body)
            if not self._make_room(entry.size):
                account.drop(key.seq, "outbox_full")
                return None
            self._waiting[key] = entry
            self._count[stream] = self._count.get(stream, 0) + 1
            self._bytes += entry.size
            self._changed.notify()
        self._listener()
        return key

    def _make_room(self, size: int) -> bool:
        if self._fits(size):
            return True
        if self._when_full == "drop_newest" or not self._could_fit(size):
            return False
        while not self._fits(size):
            key, entry = self._waiting.popitem(last=False)
            self._forget(entry)
            self._accounts[key.stream].drop(key.seq, "outbox_full")
        return True

    def _fits(self, size: int) -> bool:
        messages = len(self._waiting) + len(self._in_flight)
        return messages < self._max_messages and self._bytes + size <= self._max_bytes

    def _could_fit(self, size: int) -> bool:
        """Whether it would fit if nothing waited: what is in flight cannot be taken back, and stays."""
        in_flight_bytes = sum(entry.size for entry in self._in_flight.values())
        return len(self._in_flight) < self._max_messages and in_flight_bytes + size <= self._max_bytes

    def _forget(self, entry: Entry) -> None:
        self._bytes -= entry.size
        self._count[entry.key.stream] -= 1
        self._replay.discard(entry.key)

    def batch(self, limit: int, timeout_s: float) -> Sequence[Entry]:
        """See `Outbox.batch`."""
        with self._changed:
            if not self._waiting and timeout_s > 0:
                self._changed.wait(timeout_s)
            entries: list[Entry] = []
            while self._waiting and len(entries) < limit:
                key, entry = self._waiting.popitem(last=False)
                self._in_flight[key] = entry
                entries.append(entry)
            return entries

    def accept(self, keys: Iterable[Key]) -> None:
        """See `Outbox.accept`."""
        with self._changed:
            for key in keys:
                entry = self._in_flight.pop(key, None)
                if entry is not None:
                    self._forget(entry)
                    self._accounts[key.stream].acknowledged += 1
            self._changed.notify_all()

    def reject(self, keys: Iterable[Key], reason: str) -> None:
        """See `Outbox.reject`. In memory a rejected message is counted and not kept."""
        with self._changed:
            for key in keys:
                entry = self._in_flight.pop(key, None)
                if entry is not None:
                    self._forget(entry)
                    self._accounts[key.stream].rejected += 1
            self._changed.notify_all()

    def release(self) -> None:
        """See `Outbox.release`."""
        with self._changed:
            for key in reversed(self._in_flight):
                self._waiting[key] = self._in_flight[key]
                self._waiting.move_to_end(key, last=False)
                self._replay.add(key)
            self._in_flight.clear()
            self._changed.notify_all()

    def mark_replay(self) -> None:
        """See `Outbox.mark_replay`."""
        with self._changed:
            self._replay.update(self._waiting)

    def is_replay(self, key: Key) -> bool:
        """See `Outbox.is_replay`."""
        with self._changed:
            return key in self._replay

    def depth(self) -> Depth:
        """See `Outbox.depth`."""
        with self._changed:
            return Depth(len(self._waiting) + len(self._in_flight), self._bytes)

    def ledger(self) -> Sequence[LedgerRow]:
        """See `Outbox.ledger`."""
        with self._changed:
            rows = [account.row(self._count.get(stream, 0)) for stream, account in self._accounts.items()]
            return [*self._lost, *rows]

    def on_append(self, listener: Callable[[], None]) -> None:
        """See `Outbox.on_append`."""
        self._listener = listener

    def wait_empty(self, timeout_s: float) -> bool:
        """Waits until nothing waits or is in flight; whether that came true."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._in_flight, timeout_s)

    def close(self) -> None:
        """See `Outbox.close`. Memory is not durable: what waits is lost with the process, and the epoch says so."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
