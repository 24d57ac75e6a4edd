"""Time: one monotonic clock for everything, and what the wall clock makes of it.

CLOCK_BOOTTIME goes on while the machine sleeps and is never set. The wall clock is only looked at when a message is
rendered, so that what was captured before the clock was set is dated right afterwards. `ClockWatch` notices when it is.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

from vedette import timedate

ClockState: TypeAlias = Literal["synced", "unsynced", "stepped"]
"""``stepped``: disciplined, but set within the last `STEPPED_S`."""

STEP_NS: Final = 400_000_000
"""By how much the wall clock is set at once, and not slewed: what systemd-timesyncd steps (its NTP_MAX_ADJUST), less than
what chrony does."""
SLEW: Final = 0.1  # of the time that passes; chrony slews by a twelfth at most (its maxslewrate)
STEPPED_S: Final = 60.0
ASK_S: Final = 20.0
"""How long timedated's word is believed, where the kernel may not be asked; less than the 30 s after which timedated ends,
so that it need not be started, and the journal told, at each question."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MAX_ERROR_US: Final = 16_000_000
"""adjtimex(2): the kernel's NTP_PHASE_LIMIT. The error may be that large from the boot, or from a setting of the clock, on
until somebody disciplines it, and again 9 h after that was done last. STA_UNSYNC is not looked at, as timedated does not:
chrony without ``rtcsync`` leaves it set, to keep the kernel from the hardware clock."""


def now_ns() -> int:
    """CLOCK_BOOTTIME, nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """Of this boot, as the kernel says it: two readings of CLOCK_BOOTTIME compare only within one boot."""
    return _BOOT_ID.read_text().strip()


def wall_time(captured_ns: int) -> str:
    """What the wall clock says now of a moment of CLOCK_BOOTTIME in this boot: RFC 3339, UTC, microseconds."""
    age_ns = now_ns() - captured_ns
    return rfc3339(time.time_ns() - age_ns)


def rfc3339(unix_ns: int) -> str:
    """Nanoseconds since 1970 -> ``2026-11-22T15:04:05.123456Z``."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=2)  # of many messages in a second
def _to_the_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def clock_state() -> ClockState:
    """Whether the clock is disciplined by NTP, PTP or the like. The kernel is asked, which changes nothing, or where that is
    forbidden, as in the systemd unit, timedated; where neither answers, nobody vouches for the clock: ``unsynced``."""
    max_error_us = _max_error_us()
    disciplined = timedate.ntp_synchronized() if max_error_us is None else max_error_us < _MAX_ERROR_US
    return "synced" if disciplined else "unsynced"


def _max_error_us() -> int | None:
    """By adjtimex(2); None where it may not be called."""
    buffer = ctypes.create_string_buffer(512)  # struct timex is 208 bytes on 64-bit Linux; modes = 0 reads only
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return None
    return ctypes.c_long.from_buffer(buffer, _MAX_ERROR_OFFSET).value


class ClockWatch:
    """The wall clock as it was at the last look: the kernel need not be asked for each frame.

    `refresh` belongs to one thread; any may call the watch itself, which gives the state.
    """

    def __init__(
        self,
        state: Callable[[], ClockState] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = now_ns,
        ask_s: float | None = None,
    ) -> None:
        """``state``: whether it is disciplined; `clock_state`. ``wall_ns``: since 1970. ``mono_ns``: of CLOCK_BOOTTIME.

        ``ask_s``: how long the answer is believed unless the clock is set meanwhile; `ASK_S` where the kernel may not be
        asked, else not at all.
        """
        self._look = state or clock_state
        if ask_s is None:
            ask_s = 0.0 if state or _max_error_us() is not None else ASK_S
        self._ask_ns = ask_s * 1e9
        self._wall_ns = wall_ns
        self._mono_ns = mono_ns
        self._ahead_ns, self._looked_ns = self._ahead()
        self._stepped_ns: int | None = None
        self._answer: ClockState = self._look()
        self._asked_ns = self._looked_ns
        self._state = self._answer

    def __call__(self) -> ClockState:
        return self._state

    def refresh(self) -> int:
        """Looks again. By how much the clock was set since the last look, nanoseconds, forward where positive; 0 where it
        was only slewed, by `SLEW` at most. A leap second is a step, too."""
        ahead_ns, now = self._ahead()
        step_ns = ahead_ns - self._ahead_ns
        if abs(step_ns) <= STEP_NS + SLEW * (now - self._looked_ns):
            step_ns = 0
        else:
            self._stepped_ns = now
        self._ahead_ns, self._looked_ns = ahead_ns, now
        if step_ns or now - self._asked_ns >= self._ask_ns:
            self._answer, self._asked_ns = self._look(), now
        if self._stepped_ns is not None and now - self._stepped_ns > STEPPED_S * 1e9:
            self._stepped_ns = None
        self._state = "stepped" if self._answer == "synced" and self._stepped_ns is not None else self._answer
        return step_ns

    def _ahead(self) -> tuple[int, int]:
        """The wall clock less CLOCK_BOOTTIME, and when; the best of three, for a thread may wait between two readings."""
        best = None
        for _ in range(3):
            before = self._mono_ns()
            wall = self._wall_ns()
            after = self._mono_ns()
            if best is None or after - before < best[0]:
                best = after - before, wall - (before + after) // 2, after
        assert best is not None
        return best[1:]


def step_in_words(step_ns: int) -> str:
    """For people: what `ClockWatch.refresh` found."""
    return f"the clock was set {'forward' if step_ns > 0 else 'back'} by {abs(step_ns) / 1e9:.1f} s"


# struct timex: modes (int, padded to a long), offset, freq, maxerror (longs)
_MAX_ERROR_OFFSET: Final = 3 * ctypes.sizeof(ctypes.c_long)
