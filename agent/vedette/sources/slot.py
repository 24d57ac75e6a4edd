"""One place between whoever reads frames and whoever takes them, for the newest."""

from __future__ import annotations

import threading

from vedette import clock
from vedette.contract.types import Frame


class Slot:
    """Holds the newest frame between two threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._closed = False
        self.stale = 0

    def put(self, frame: Frame, *, wait: bool) -> bool:
        """Shows a frame; whether it did, for a closed slot takes none. ``wait``: first waits until the last one was taken;
        otherwise that one is stale, and counted."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._frame is None or self._closed)
            if self._closed:
                return False
            if self._frame is not None:
                self.stale += 1
            self._frame = frame
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float) -> Frame | None:
        """Takes the frame, waiting for it; None when none came in time, or the slot is closed and empty."""
        with self._changed:
            if self._frame is None and not self._closed:
                self._changed.wait(timeout_s)
            frame, self._frame = self._frame, None
            if frame is not None:
                self._changed.notify_all()
            return frame

    def await_newer(self, expected_ns: int, until_ns: int) -> None:
        """Where a frame waits to be taken, until a newer one does, or that time, CLOCK_BOOTTIME, has come.

        ``expected_ns``: when the newer one will be there. Where that is longer from now than the one that waits is old, the
        wait would cost more than it gains, and nobody waits.
        """
        with self._changed:
            waits = self._frame
            now = clock.now_ns()
            if waits is not None and expected_ns - now > now - waits.captured_ns:
                return
            while waits is not None and self._frame is waits and not self._closed:
                left_ns = until_ns - clock.now_ns()
                if left_ns <= 0:
                    return
                self._changed.wait(left_ns / 1e9)

    def pass_over(self) -> None:
        """Counts a frame as stale that was not even put here."""
        self.stale += 1

    @property
    def closed(self) -> bool:
        """Whether no more frames will come; the last one may still be there."""
        return self._closed

    @property
    def empty(self) -> bool:
        """Whether no frame is there now."""
        return self._frame is None

    def close(self) -> None:
        """No more frames; whoever waits is woken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
