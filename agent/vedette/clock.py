"""Time: one monotonic clock for everything, and what the wall clock makes of it.

CLOCK_BOOTTIME goes on while the machine sleeps and is never set. The wall clock is only looked at when a message is
rendered, so that what was captured before the clock was set is dated right afterwards.
"""

from __future__ import annotations

import ctypes
import sys
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

ClockState: TypeAlias = Literal["synced", "unsynced"]

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


# struct timex: modes (int, padded to a long), offset, freq, maxerror, esterror (longs), status (int)
_STATUS_OFFSET: Final = 5 * ctypes.sizeof(ctypes.c_long)
