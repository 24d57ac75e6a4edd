"""What a sensor's source is, and the thread that listens to it.

A sensor gives readings, and none of them may go missing unnoticed: what arrives together is handed on together, in its
order, and what cannot be used is counted by reason. There is no newest reading that wins; whoever takes the readings
decides what becomes of those it has no time for. A file that is read flat out waits meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np

from vedette import clock
from vedette.contract.errors import SourceLostError, SourceStalledError
from vedette.contract.types import Readings

from .lines import Parsed, Tally
from .supervise import Outcome, SourceThread

READ_S: Final = 0.25  # how long one read waits; `Listener.stop` takes that long at most


@dataclass(frozen=True, slots=True)
class SensorOptions:
    """How a sensor is to be read. ``channels``: the names that the model wants, in its order.

    ``rate_hz``: readings a second, of a sensor that is polled and says no rate itself, and of a recording without times;
    the URL's ``rate=`` goes before it. ``pace``, ``loop``: of a recording. Times in seconds.
    """

    url: str
    channels: tuple[str, ...]
    pace: Literal["native", "max"] = "native"
    loop: bool = False
    rate_hz: float | None = None
    open_timeout_s: float = 10.0


class SensorSource(Protocol):
    """Gives readings. Life cycle: `open`, `read` until it ends, `close`; then perhaps `open` again.

    All calls come from one thread, the listener's. Only ``tally`` may be read by others.
    """

    @property
    def live(self) -> bool:
        """Whether time goes on without the reader. False: readings wait to be taken."""
        ...

    @property
    def endless(self) -> bool:
        """Whether an end is a loss (a sensor) rather than an end (a recording)."""
        ...

    @property
    def reopens_when_silent(self) -> bool:
        """Whether opening it again may help when nothing comes: a device or a program, not a socket that waits."""
        ...

    @property
    def tally(self) -> Tally:
        """What could not be used, since the source was made."""
        ...

    def open(self) -> None:
        """Raises `SourceError` when it can never be opened, `SourceLostError` when it may be later."""
        ...

    def read(self, timeout_s: float) -> Readings | None:
        """What has arrived, waiting for it; empty when nothing came in time. None at the end. Raises
        `SourceLostError`.
        """
        ...

    def close(self) -> None:
        """Gives everything back. Calling it again does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """What the listener says of its source.

    ``readings``: handed on since the start. ``malformed``: lines that could not be used, by reason (see
    `vedette.sources.lines.Reason`); ``problems``: the first such line for each reason. ``lost``: messages that the
    system threw away before they could be read.
    """

    readings: int
    malformed: dict[str, int]
    problems: dict[str, str]
    lost: int
    reopened: int
    outcome: Outcome | None
    why: str


class Listener(SourceThread):
    """The thread that reads one sensor, hands its readings on, and opens it again with back-off when it is lost.

    ``stall_timeout_s``: no reading for so long is `Outcome.STALLED`; a device or program is opened anew then.
    ``on_readings`` and ``on_change`` are called on this thread; the first may block where the source is not live.
    """

    def __init__(
        self,
        source: SensorSource,
        *,
        name: str,
        stall_timeout_s: float,
        on_readings: Callable[[Readings], None],
        on_change: Callable[[Outcome | None, str], None],
    ) -> None:
        super().__init__(
            source, name=f"listen-{name}", thing="reading", stall_timeout_s=stall_timeout_s, on_change=on_change
        )
        self._source = source
        self._on_readings = on_readings

    @property
    def live(self) -> bool:
        """Whether time goes on without whoever takes the readings."""
        return self._source.live

    def status(self) -> ListenerStatus:
        """May be called by any thread."""
        readings, reopened, outcome, why = self._standing()
        tally = self._source.tally
        if outcome is Outcome.STALLED and tally.malformed:
            why += f" ({tally.total()} lines could not be used)"
        return ListenerStatus(readings, dict(tally.malformed), dict(tally.problems), tally.lost, reopened, outcome, why)

    def _no_more(self) -> None:
        """Nobody waits for readings here."""

    def _read_to_end(self) -> tuple[Outcome, str]:
        source = self._source
        while not self._stop.is_set():
            readings = source.read(READ_S)
            now = clock.now_ns()
            if readings is None:
                if source.endless:
                    raise SourceLostError("the sensor's stream ended")
                return Outcome.END, "read to its end"
            if len(readings):
                if self._arrived(len(readings), now) == len(readings) or self._outcome is not None:
                    self._set(None, "")
                self._on_readings(readings)
            elif source.endless and source.reopens_when_silent:
                silent_s = (now - self._last_ns) / 1e9
                if silent_s > self._stall_timeout_s:
                    raise SourceStalledError(f"no reading for {silent_s:.1f} s")
        return Outcome.END, "stopped"


def as_readings(parsed: Parsed, arrived_ns: int) -> Readings:
    """Lines that were complete at ``arrived_ns``, CLOCK_BOOTTIME, as readings; it is their time where they have none."""
    timed = parsed.times_ns is not None
    times_ns = parsed.times_ns if parsed.times_ns is not None else np.full(len(parsed), arrived_ns, np.int64)
    return Readings(parsed.values, times_ns, arrived_ns, timed)


def no_readings(channels: int) -> Readings:
    """Nothing yet."""
    return Readings(np.empty((0, channels), np.float32), np.empty(0, np.int64), clock.now_ns(), False)
