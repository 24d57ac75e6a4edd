"""Waiting for file descriptors, and lines out of them: what a serial port, a program and a socket have in common."""

from __future__ import annotations

import select
import time
from typing import Final

from vedette import clock
from vedette.contract.types import Readings

from .lines import LineCutter, LineParser
from .sensor import as_readings

GATHER_S: Final = 0.005  # how long a fast sensor's readings may wait for the next ones
READ_BYTES: Final = 65_536


class Gatherer:
    """Waits until a descriptor can be read; of a fast sensor a little longer, so that much is read at once.

    Waking up costs more than a reading does: what comes within `GATHER_S` of the last read waits until that is over. A
    sensor slower than that is never kept waiting.
    """

    def __init__(self, *descriptors: int) -> None:
        self._poller = select.poll()
        for descriptor in descriptors:
            self._poller.register(descriptor, select.POLLIN)
        self._last_s = 0.0

    def wait(self, timeout_s: float) -> list[int]:
        """Those that can be read, or have ended."""
        ready = self._poller.poll(timeout_s * 1000)
        if not ready:
            return []
        early_s = self._last_s + GATHER_S - time.monotonic()
        if early_s > 0:
            time.sleep(early_s)
        self._last_s = time.monotonic()
        return [descriptor for descriptor, _ in ready]

    def forget(self, descriptor: int) -> None:
        """One that has ended."""
        self._poller.unregister(descriptor)


class LineStream:
    """Bytes of one open stream -> readings."""

    def __init__(self, parser: LineParser, cutter: LineCutter) -> None:
        self._parser = parser
        self._cutter = cutter

    def take(self, data: bytes) -> Readings:
        """The readings of the lines that are complete with these bytes."""
        return as_readings(self._parser.parse(self._cutter.feed(data)), clock.now_ns())

    def broken(self) -> None:
        """The stream broke off: half a line is counted, not used."""
        self._cutter.end(broken=True)
