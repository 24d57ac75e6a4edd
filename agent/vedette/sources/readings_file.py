"""``csv:///PATH`` and ``ndjson:///PATH``: recordings, at their own pace, faster or flat out, once or again and again."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, Literal

import numpy as np

from vedette import clock
from vedette.contract.errors import SourceError
from vedette.contract.time_unit import DOUBT_FROM, DOUBT_SHARE, doubted_order, doubted_step
from vedette.contract.types import Int64Array, Readings
from vedette.contract.window import CLOCK_BACK_NS

from .lines import LineCutter, LineParser, Parsed, Tally, shown
from .sensor import SensorOptions, as_readings, no_readings
from .unusable import MOST_NAMES, unusable

CHUNK_BYTES: Final = 65_536
BATCH_NS: Final = 10_000_000  # at its own pace, readings due within so long of one another are handed on together
JUMP_NS: Final = (
    3600 * 1_000_000_000
)  # a recording that is silent for longer goes on at once, as one that turns back does
ENOUGH: Final = 0.99  # of a window: times are rounded

log = logging.getLogger(__name__)


class RecordingSource:
    """See `vedette.sources.sensor.SensorSource`. A recording without times is one of evenly spaced readings."""

    def __init__(
        self,
        path: Path,
        format: Literal["csv", "ndjson"],
        columns: tuple[str, ...],
        rate_hz: float | None,
        options: SensorOptions,
        speed: float = 1.0,
    ) -> None:
        """``rate_hz``: of a recording without times; None for what the options say. ``speed``: how many times faster than
        its own pace it is played; its times stay as they are.
        """
        self._path = path
        self._format: Literal["csv", "ndjson"] = format
        self._columns = columns
        self._rate_hz = rate_hz or options.rate_hz
        self._options = options
        self._speed = speed
        self.tally = Tally()
        self._file: IO[bytes] | None = None
        self._parser: LineParser
        self._cutter: LineCutter
        self._pending: Readings = no_readings(len(options.channels))
        self._count = 0  # readings since the file's begin
        self._again = False  # what comes next is the first of a file that begins again
        self._first_ns = 0  # time of the reading that was due at _begun_ns, CLOCK_BOOTTIME
        self._begun_ns = 0
        self._last_ns: int | None = None
        self._identity: tuple[int, ...] | None = None  # of the file that is open

    @property
    def live(self) -> bool:
        """At its own pace a recording behaves as a sensor does."""
        return self._options.pace == "native"

    @property
    def endless(self) -> bool:
        """A recording has an end."""
        return False

    @property
    def reopens_when_silent(self) -> bool:
        """A recording may be silent."""
        return False

    def open(self) -> None:
        """Raises `SourceError` when the file is missing, its first reading cannot be used as it is asked for, or it is
        shorter than the model's window, so that nothing would ever come of it.
        """
        self.close()
        try:
            if self._path.is_fifo():  # opening one waits for whoever writes to it
                raise SourceError(
                    "no recording", where=self._path, expected="a regular file", found="a pipe",
                    fix=f"exec:cat {self._path} reads one",
                )  # fmt: skip
            self._file = self._path.open("rb")
            self._identity = _identity(os.fstat(self._file.fileno()))
        except OSError as error:
            raise SourceError("cannot be opened", where=self._path, found=error.strerror) from None
        self._begin()
        try:
            self._pending = self._first()
            if self._options.window_s and self._pending.timed:
                self._check_length()
        except SourceError:
            self.close()
            raise

    def read(self, timeout_s: float) -> Readings | None:
        """See `SensorSource.read`."""
        readings: Readings | None = self._pending
        if not len(self._pending):
            readings = self._next()
            if readings is None:
                return None
        assert readings is not None
        if not self.live or not len(readings):
            self._pending = no_readings(readings.values.shape[1])
            return readings
        return self._due(readings, timeout_s)

    def close(self) -> None:
        """See `SensorSource.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._pending = no_readings(len(self._options.channels))

    def _check_length(self) -> None:
        """Reads as much of the file as a window needs."""
        rest = RecordingSource(
            self._path, self._format, self._columns, self._rate_hz,
            replace(self._options, loop=False, pace="max", window_s=0.0),
        )  # fmt: skip
        needed_ns = self._options.window_s * ENOUGH * 1e9
        gap_ns = int(self._options.max_gap_s * 1e9)
        back_ns = max(CLOCK_BACK_NS, gap_ns)
        longest_ns = begun_ns = last_ns = count = gaps = step_ns = late = before_ns = 0
        rest.open()
        try:
            while longest_ns < needed_ns:
                readings = rest.read(0.0)
                if readings is None:
                    break
                for time_ns in readings.times_ns.tolist():
                    count += 1
                    late += count > 1 and time_ns <= before_ns
                    before_ns = time_ns
                    if count == 1 or last_ns - time_ns > back_ns:
                        begun_ns = time_ns  # its clock was set back: a window begins anew
                    elif time_ns <= last_ns:
                        continue  # late, and left out
                    elif gap_ns and time_ns - last_ns > gap_ns:
                        begun_ns, gaps, step_ns = time_ns, gaps + 1, time_ns - last_ns
                    last_ns = time_ns
                    longest_ns = max(longest_ns, last_ns - begun_ns)
        finally:
            rest.close()
        if longest_ns < needed_ns:
            self._doubt_times(count, late, gaps, step_ns)
            again = "; a window never goes on where it begins again" if self._options.loop else ""
            raise SourceError(
                "shorter than a window", where=self._path,
                expected=f"at least {self._options.window_s:.3g} s of readings, as the model's window has",
                found=f"{longest_ns / 1e9:.3g} s" + (f" without a gap, {gaps} gaps" if gaps else "")
                + f" in {count} readings", fix=f"take a longer recording{again}",
            )  # fmt: skip

    def _doubt_times(self, count: int, late: int, gaps: int, step_ns: int) -> None:
        """Raises `SourceError` where nearly every step is a gap, such as ``step_ns`` is, or goes back in time."""
        doubt = doubted_order(count, late)
        if doubt is None and count > DOUBT_FROM and gaps >= DOUBT_SHARE * (count - 1) and self._options.rate_hz:
            doubt = doubted_step(step_ns / 1e9, 1.0 / self._options.rate_hz)
        if doubt is not None:
            raise SourceError(f"no window can come of it: {doubt[0]}", where=self._path, fix=doubt[1])

    def _is_replaced(self) -> bool:
        """Whether the path leads to other content than when it was opened."""
        try:
            return _identity(self._path.stat()) != self._identity
        except OSError:
            return True  # opening it says what is the matter

    def _begin(self) -> None:
        """At the file's first line."""
        assert self._file is not None
        self._file.seek(0)
        self._cutter = LineCutter(self.tally)
        self._parser = LineParser(self._options.channels, self.tally, format=self._format, columns=self._columns)
        self._count = 0
        self._last_ns = None

    def _first(self) -> Readings:
        first = self._next()
        if first is None:
            raise SourceError("not one reading", where=self._path)
        if self.live and not first.timed:
            raise SourceError(
                "no times", where=self._path, expected='a column or key "t"',
                found=", ".join(repr(shown(name.encode())) for name in self.tally.untimed[:MOST_NAMES]),
                fix='add ?rate=HZ, or set pace = "max"',
            )  # fmt: skip
        return first

    def _next(self) -> Readings | None:
        """The readings of the next piece of the file, times made from the rate where there are none. None at the end."""
        assert self._file is not None
        while True:
            refused = self.tally.total()
            data = self._file.read(CHUNK_BYTES)
            lines = self._cutter.feed(data) if data else self._cutter.end(broken=False)
            parsed = self._parser.parse(lines)
            if not self._count and not len(parsed) and self.tally.total() > refused:
                self._complain()
            if len(parsed):
                readings = replace(self._timed(parsed), anew=self._again)
                self._again = False
                self._count += len(parsed)
                return readings
            if data:
                continue
            if not self._options.loop:
                return None
            if not self._count:
                raise SourceError("not one reading", where=self._path)
            self._again = True
            if self._is_replaced():
                log.info("%s: another file than before is read from now on", self._path)
                self.open()
                readings, self._pending = self._pending, no_readings(len(self._options.channels))
                return readings
            self._begin()

    def _complain(self) -> None:
        """Raises `SourceError` where the file's whole beginning is of no use."""
        raise unusable(self.tally, self._path)

    def _timed(self, parsed: Parsed) -> Readings:
        if parsed.times_ns is not None or not self._rate_hz:
            return as_readings(parsed, clock.now_ns())
        index = np.arange(self._count, self._count + len(parsed))
        times_ns: Int64Array = np.rint(index * (1e9 / self._rate_hz)).astype(np.int64)
        return Readings(parsed.values, times_ns, clock.now_ns(), True)

    def _due(self, readings: Readings, timeout_s: float) -> Readings:
        """Waits for the first of them, and hands on those that are due with it; the others go on pending."""
        now = clock.now_ns()
        first = int(readings.times_ns[0])
        late_ns = now - self._begun_ns - (first - self._first_ns) / self._speed
        step_ns = 0 if self._last_ns is None else first - self._last_ns
        if self._last_ns is None or step_ns < 0 or step_ns > JUMP_NS or late_ns > 1_000_000_000:
            self._first_ns, self._begun_ns = first, now
        wait_ns = self._begun_ns + (first - self._first_ns) / self._speed - now
        if wait_ns > timeout_s * 1e9:
            time.sleep(timeout_s)
            self._pending = readings
            return no_readings(readings.values.shape[1])
        time.sleep(max(0, wait_ns) / 1e9)
        now = clock.now_ns()
        times = readings.times_ns
        # up to the first that is not due yet, or goes back in time
        due_ns = self._first_ns + int((now - self._begun_ns) * self._speed)
        held = (times > max(first, due_ns) + int(BATCH_NS * self._speed)) | (np.diff(times, prepend=first) < 0)
        count = int(np.argmax(held)) if held.any() else len(times)
        self._pending = Readings(readings.values[count:], times[count:], now, True)
        self._last_ns = int(times[count - 1])
        return Readings(readings.values[:count], times[:count], now, True, readings.anew)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
