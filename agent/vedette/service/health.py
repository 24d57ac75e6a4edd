"""How this device is: the kernel's word, most of it read from /proc and /sys.

None where a device cannot say, or cannot now: a sensor may go, and there may be no descriptor left to read with.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette import clock
from vedette.sysfs import matching, number

_THERMAL: Final = Path("/sys/class/thermal")
PLATFORM: Final = Path("/sys/devices/platform")
THROTTLED_FILES: Final = "soc*/soc*:firmware/get_throttled"
"""Below /sys/devices/platform: the Raspberry Pi firmware's bits, hex. A Pi 5's soc has its address in its name."""

THROTTLED_BITS: Final = {
    0: "under-voltage now", 1: "frequency capped now", 2: "throttled now", 3: "soft temperature limit now",
    16: "under-voltage since boot", 17: "frequency capped since boot", 18: "throttled since boot",
    19: "soft temperature limit since boot",
}  # fmt: skip
"""What they mean (Raspberry Pi documentation, vcgencmd get_throttled)."""
THROTTLED_NOW: Final = 0xF


@dataclass(frozen=True, slots=True)
class Health:
    """Units in the names. ``throttled``: the firmware's bits (vcgencmd get_throttled), 0 is well."""

    uptime_s: float
    temperature_c: float | None
    throttled: int | None
    load_1m: float | None
    memory_available_bytes: int | None
    agent_pss_bytes: int
    disk_free_bytes: int | None
    threads: int | None
    open_files: int | None


def read_health(state_dir: Path) -> Health:
    """A look at the machine now."""
    return Health(
        uptime_s=clock.now_ns() / 1e9,
        temperature_c=_temperature_c(),
        throttled=read_throttled(),
        load_1m=_load_1m(),
        memory_available_bytes=_memory_available_bytes(),
        agent_pss_bytes=pss_bytes(os.getpid()),
        disk_free_bytes=_disk_free_bytes(state_dir),
        threads=_count(Path("/proc/self/task")),
        open_files=_count(Path("/proc/self/fd")),
    )


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process and its children: shared pages are split among those that share them.

    0 where it cannot be read (another user's process, no smaps_rollup, no descriptor left).
    """
    total = 0
    for member in [pid, *_descendants(pid)]:
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended meanwhile, or is not ours to see
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in matching(Path(f"/proc/{pid}/task"), "*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue  # the thread has ended meanwhile
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _temperature_c() -> float | None:
    """The hottest of the kernel's thermal zones."""
    readings = []
    for zone in matching(_THERMAL, "thermal_zone*/temp"):
        if (temperature := celsius(zone)) is not None:
            readings.append(temperature)
    return max(readings, default=None)


def celsius(file: Path) -> float | None:
    """What a file of a thermal zone says, in thousandths of a degree."""
    value = number(file)  # a zone that is switched off answers with an error
    return None if value is None else value / 1000


def throttled_words(bits: int) -> list[str]:
    """The firmware's bits in words; what holds now is not said again as "since boot"."""
    now = [words for bit, words in THROTTLED_BITS.items() if bit < 16 and bits & 1 << bit]
    return now + [w for bit, w in THROTTLED_BITS.items() if bit >= 16 and bits & 1 << bit and not bits & 1 << bit - 16]


def read_throttled(files: Iterable[Path] | None = None) -> int | None:
    """The Raspberry Pi firmware's bits as they are now; None where there are none. ``files``: where they stand; None: to be
    looked for."""
    for file in matching(PLATFORM, THROTTLED_FILES) if files is None else files:
        try:
            return int(file.read_text(), 16)
        except (OSError, ValueError):
            continue  # not every firmware says it
    return None


def _disk_free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None  # the folder has gone, or its disk


def _memory_available_bytes() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:")), None)


def _load_1m() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _count(folder: Path) -> int | None:
    """How much there is in it."""
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return None
