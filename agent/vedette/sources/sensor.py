"""What a sensor's source is, and the thread that listens to it.

A sensor gives readings, and none of them may go missing unnoticed: what arrives together is handed on together, in its
order, and what cannot be used is counted by reason. There is no newest reading that wins; whoever takes the readings
decides what becomes of those it has no time for. A file that is read flat out waits meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np

from vedette import clock
from vedette.contract.errors import SourceLostError, SourceStalledError
from vedette.contract.types import Readings

from .lines import Parsed, Tally
from .supervise import Outcome, SourceThread
from .unusable import untimed_lines, unusable_lines

JITTER_S: Final = 0.1  # how late a batch of readings may be read without that there was a silence before it
AVERAGING: Final = 0.05  # weight of the newest batch
READ_S: Final = 0.25  # how long one read waits; `Listener.stop` takes that long at most

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SensorOptions:
    """How a sensor is to be read. ``channels``: the names that the model wants, in its order.

    ``rate_hz``: readings a second, of a sensor that is polled and says no rate itself, and of a recording without times;
    the URL's ``rate=`` goes before it. ``pace``, ``loop``: of a recording. ``window_s``: how long the model's window is;
    a recording that is shorter is refused. ``max_gap_s``: readings further apart are not of one window; 0: all are. Times
    in seconds. The files are those of mqtts://, see `vedette.trust.credentials`; ``password_file`` of mqtt:// as well.
    """

    url: str
    channels: tuple[str, ...]
    pace: Literal["native", "max"] = "native"
    loop: bool = False
    rate_hz: float | None = None
    open_timeout_s: float = 10.0
    window_s: float = 0.0
    max_gap_s: float = 0.0
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


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
        self._name = name
        self._doubt = ""  # as it was told

    @property
    def live(self) -> bool:
        """Whether time goes on without whoever takes the readings."""
        return self._source.live

    def status(self) -> ListenerStatus:
        """May be called by any thread."""
        readings, reopened, outcome, why = self._standing()
        tally = self._source.tally
        if outcome is Outcome.STALLED:
            why += unusable_lines(tally)
        return ListenerStatus(readings, dict(tally.malformed), dict(tally.problems), tally.lost, reopened, outcome, why)

    def _no_more(self) -> None:
        """Nobody waits for readings here."""

    def _doubt_time(self) -> None:
        """Told once: a pause of such a sensor cannot be seen."""
        doubt = untimed_lines(self._source.tally) if self._source.tally.untimed else ""
        if doubt and doubt != self._doubt:
            self._doubt = doubt
            log.warning("%s: %s", self._name, doubt)

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
                self._doubt_time()
                if self._arrived(len(readings), now) == len(readings) or self._outcome is not None:
                    self._set(None, "")
                self._on_readings(readings)
            elif source.endless and source.reopens_when_silent:
                silent_s = (now - self._last_ns) / 1e9
                if silent_s > self._stall_timeout_s:
                    raise SourceStalledError(f"no reading for {silent_s:.1f} s")
        return Outcome.END, "stopped"


class Arrivals:
    """Says when readings arrived that have no times of their own; one stream's.

    Readings are read in batches, and late where the machine is busy, while the sensor goes on evenly. So the times run
    at the usual distance, which is measured, and behind the clock by at most `JITTER_S`: what is late comes next. A
    silence that leaves them further behind is one; they then catch up with the clock, and it shows before them.
    """

    def __init__(self) -> None:
        self._arrived_ns = 0  # of the last batch; 0: nothing has come yet
        self._last_ns = 0.0  # what was said of its last reading
        self._elapsed_ns = self._count = 0.0  # between two batches and of one, moving averages

    def readings(self, parsed: Parsed, now_ns: int) -> Readings:
        """``now_ns``: CLOCK_BOOTTIME when they were complete in memory."""
        count = len(parsed)
        if parsed.times_ns is not None or not count:
            return as_readings(parsed, now_ns)
        step_ns, last_ns = self._step(count, now_ns) if self._arrived_ns else (0.0, float(now_ns))
        self._arrived_ns, self._last_ns = now_ns, last_ns
        times_ns = (last_ns - np.arange(count - 1, -1, -1) * step_ns).astype(np.int64)
        return Readings(parsed.values, times_ns, now_ns, False)

    def _step(self, count: int, now_ns: int) -> tuple[float, float]:
        """From one reading of a batch to the next, and the time of its last one."""
        elapsed_ns = float(now_ns - self._arrived_ns)
        if not self._count:
            self._elapsed_ns, self._count = elapsed_ns, float(count)
        usual_ns = self._elapsed_ns / self._count
        elapsed_ns = min(elapsed_ns, count * usual_ns * 2 + JITTER_S * 1e9)  # a long silence says little of the rate
        self._elapsed_ns += (elapsed_ns - self._elapsed_ns) * AVERAGING
        self._count += (count - self._count) * AVERAGING
        behind_ns = now_ns - (self._last_ns + count * usual_ns)
        if behind_ns > JITTER_S * 1e9:
            return usual_ns, float(now_ns)
        # ahead of the clock they cannot be; behind it, they come closer little by little
        advance_ns = count * usual_ns + behind_ns * (AVERAGING if behind_ns > 0 else 1.0)
        return advance_ns / count, self._last_ns + advance_ns


def as_readings(parsed: Parsed, arrived_ns: int) -> Readings:
    """Lines that were complete at ``arrived_ns``, CLOCK_BOOTTIME, as readings; it is their time where they have none."""
    timed = parsed.times_ns is not None
    times_ns = parsed.times_ns if parsed.times_ns is not None else np.full(len(parsed), arrived_ns, np.int64)
    return Readings(parsed.values, times_ns, arrived_ns, timed)


def no_readings(channels: int) -> Readings:
    """Nothing yet."""
    return Readings(np.empty((0, channels), np.float32), np.empty(0, np.int64), clock.now_ns(), False)
