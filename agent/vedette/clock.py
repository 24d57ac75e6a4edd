"""Time: one monotonic clock for everything, and what the wall clock makes of it.

CLOCK_BOOTTIME goes on while the machine sleeps and is never set. The wall clock is only looked at when a message is
rendered, so that what was captured before the clock was set is dated right afterwards. `ClockWatch` notices when it is.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

ClockState: TypeAlias = Literal["synced", "unsynced", "stepped"]
"""``stepped``: disciplined, but set within the last `STEPPED_S`."""

STEP_NS: Final = 400_000_000
"""By how much the wall clock is set at once, and not slewed: what systemd-timesyncd steps (its NTP_MAX_ADJUST), less than
what chrony does."""
SLEW: Final = 0.1  # of the time that passes; chrony slews by a twelfth at most (its maxslewrate)
STEPPED_S: Final = 60.0

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_STA_UNSYNC: Final = 0x0040


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
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def clock_state() -> ClockState:
    """Whether the kernel's clock is disciplined by NTP, PTP or the like (adjtimex(2), which asks and changes nothing)."""
    buffer = ctypes.create_string_buffer(512)  # struct timex is 208 bytes on 64-bit Linux; modes = 0 reads only
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(buffer)
    if state < 0:
        # a sandbox may forbid the call; then nobody vouches for the clock
        return "unsynced"
    status = int.from_bytes(buffer.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], sys.byteorder)
    return "unsynced" if state == _TIME_ERROR or status & _STA_UNSYNC else "synced"


class ClockWatch:
    """The wall clock as it was at the last look: the kernel need not be asked for each frame.

    `refresh` belongs to one thread; any may call the watch itself, which gives the state.
    """

    def __init__(
        self,
        state: Callable[[], ClockState] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = now_ns,
    ) -> None:
        """``state``: what the kernel says; `clock_state`. ``wall_ns``: since 1970. ``mono_ns``: of CLOCK_BOOTTIME."""
        self._look = state or clock_state
        self._wall_ns = wall_ns
        self._mono_ns = mono_ns
        self._ahead_ns, self._looked_ns = self._ahead()
        self._stepped_ns: int | None = None
        self._state: ClockState = self._look()

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
        state = self._look()
        if self._stepped_ns is not None and now - self._stepped_ns > STEPPED_S * 1e9:
            self._stepped_ns = None
        self._state = "stepped" if state == "synced" and self._stepped_ns is not None else state
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


# struct timex: modes (int, padded to a long), offset, freq, maxerror, esterror (longs), status (int)
_STATUS_OFFSET: Final = 5 * ctypes.sizeof(ctypes.c_long)
