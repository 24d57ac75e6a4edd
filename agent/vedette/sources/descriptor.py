"""Waiting for file descriptors, and lines out of them: what a serial port, a program and a socket have in common."""

from __future__ import annotations

import select
import time
from typing import Final

from vedette import clock
from vedette.contract.types import Readings

from .lines import LineCutter, LineParser
from .sensor import Arrivals

GATHER_S: Final = 0.01  # how long the first readings that come wait for the next ones
READ_BYTES: Final = 65_536
MOST_BYTES: Final = 1 << 20
"""Of messages that are taken together: whoever floods costs so much memory at most, and readings come all the same."""


class Gatherer:
    """Waits until a descriptor can be read, and then a little longer, so that what comes together is read together.

    Waking up costs more than a reading does; and after a pause, a terminal shows the first bytes of what has piled up
    before the rest.
    """

    def __init__(self, *descriptors: int) -> None:
        self._poller = select.poll()
        for descriptor in descriptors:
            self._poller.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float) -> list[int]:
        """Those that can be read, or have ended."""
        ready = self._poller.poll(timeout_s * 1000)
        if ready:
            time.sleep(GATHER_S)
        return [descriptor for descriptor, _ in ready]

    def forget(self, descriptor: int) -> None:
        """One that has ended."""
        self._poller.unregister(descriptor)


class LineStream:
    """Bytes of one open stream -> readings."""

    def __init__(self, parser: LineParser, cutter: LineCutter) -> None:
        self._parser = parser
        self._cutter = cutter
        self._arrivals = Arrivals()

    def take(self, data: bytes) -> Readings:
        """The readings of the lines that are complete with these bytes."""
        return self._arrivals.readings(self._parser.parse(self._cutter.feed(data)), clock.now_ns())

    def broken(self) -> None:
        """The stream broke off: half a line is counted, not used."""
        self._cutter.end(broken=True)
