"""The outbox in memory: bounded in messages, bytes and age. What it holds when the process dies is gone, and said so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from vedette.clock import ClockState, now_ns
from vedette.delivery import Depth, Entry, Key, LedgerRow, Stream, WhenFull

from .core import PAUSE_S, Bounds, Core, MemoryBacklog
from .lock import FolderLock


class MemoryOutbox:
    """See `vedette.delivery.Outbox`, which this is.

    ``lost``: rows for epochs that ended without saying goodbye, to be shown in the ledger. ``lock``: of the state folder
    whose epoch this is, closed at the `end`.
    """

    def __init__(
        self,
        epoch: int,
        *,
        max_messages: int,
        max_bytes: int,
        max_age_s: float = 0.0,
        when_full: WhenFull = "drop_oldest",
        lost: Sequence[LedgerRow] = (),
        lock: FolderLock | None = None,
    ) -> None:
        self._core = Core(epoch, Bounds(max_messages, max_bytes, max_age_s, when_full), MemoryBacklog())
        self._lost = tuple(lost)
        self._lock = lock
        self._changed = threading.Condition()
        self._listener: Callable[[], None] = lambda: None
        self._closed = False

    def append(self, stream: Stream, captured_ns: int, clock: ClockState, body: bytes) -> Key | None:
        """See `Outbox.append`. Never blocks but for the lock."""
        with self._changed:
            if self._closed:
                raise RuntimeError("append after close")
            self._core.drop_old(now_ns())
            item = self._core.admit(stream, captured_ns, clock, body)
            if isinstance(item, Key):
                return None
            self._core.show(item)
            self._changed.notify()
        self._listener()
        return item.entry.key

    def batch(self, limit: int, timeout_s: float) -> Sequence[Entry]:
        """See `Outbox.batch`."""
        with self._changed:
            if not self._core.waits and timeout_s > 0:
                self._changed.wait(timeout_s)
        while True:
            with self._changed:
                if not self._core.drop_old(now_ns()):
                    return self._core.batch(limit)
            time.sleep(PAUSE_S)

    def accept(self, keys: Iterable[Key]) -> None:
        """See `Outbox.accept`."""
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
        """See `Outbox.problems`. Memory has none."""
        return {}

    def close(self) -> None:
        """See `Outbox.close`. Memory is not durable: what waits is lost with the process, and the epoch says so."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def end(self) -> None:
        """See `Outbox.end`. There is nothing to let go but the folder."""
        if self._lock is not None:
            self._lock.close()
