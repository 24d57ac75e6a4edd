"""When the next frame of what was recorded is due."""

from __future__ import annotations

import time
from typing import Final

JUMP_NS: Final = 10_000_000_000  # a file's times are not believed where they go forward by more than this at once


class Pace:
    """Holds a replayed source to its own speed, or tells how far that would be. ``interval_s``: from one frame to the next,
    where they have no times of their own. ``held``: False where it is read flat out."""

    def __init__(self, interval_s: float, *, held: bool = True) -> None:
        self._interval_ns = int(interval_s * 1e9)
        self._held = held
        self._due_ns = 0  # of the last frame
        self._media_ns = 0
        self.elapsed_ns = -1
        """From the first frame to the last one, of the media's own time; below 0 before there was one."""

    def wait(self, media_ns: int = 0) -> None:
        """Until the next frame is due. A reader that is late by more than a second starts counting anew.

        ``media_ns``: when it is, of the media's own time. Where that stands still, goes back or jumps, the interval counts.
        """
        step_ns, self._media_ns = media_ns - self._media_ns, media_ns
        if not 0 < step_ns <= JUMP_NS:
            step_ns = self._interval_ns
        self.elapsed_ns = 0 if self.elapsed_ns < 0 else self.elapsed_ns + step_ns
        if not self._held:
            return
        now = time.monotonic_ns()
        due_ns = self._due_ns + step_ns
        if self._due_ns == 0 or now - due_ns > 1_000_000_000:
            due_ns = now
        if due_ns > now:
            time.sleep((due_ns - now) / 1e9)
        self._due_ns = due_ns
