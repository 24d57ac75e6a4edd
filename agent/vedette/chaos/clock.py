"""A wall clock for the agent alone, by libfaketime (github.com/wolfcw/libfaketime), where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PLACES: Final = ("/usr/lib", "/usr/local/lib", "/usr/lib64")
_LIBRARY: Final = "**/faketime/libfaketimeMT.so.1"
_TRY: Final = "import time; time.sleep(0.01); print(time.time())"


class WallClock:
    """The times of CLOCK_MONOTONIC and CLOCK_BOOTTIME stay as they are. ``environment``: what the agent needs to see it."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._file = folder / "faketime"
        self.jump(0)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, days: int) -> None:
        """So far off the machine's clock it is from now on, a second later at the latest."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{days * 86400:+d}\n")
        new.replace(self._file)


def wall_clock(folder: Path) -> WallClock | str:
    """One that works with this Python, or why there is none.

    libfaketime 0.9.10 does not: it answers EINVAL to clock_nanosleep(2), which `time.sleep` has used since Python 3.11.
    """
    library = next((found for place in _PLACES for found in sorted(Path(place).glob(_LIBRARY))), None)
    if library is None:
        return "no libfaketime, and the machine's own clock is not ours to set"
    clock = WallClock(library, folder)
    clock.jump(-400)
    tried = subprocess.run(
        [sys.executable, "-c", _TRY], env={**os.environ, **clock.environment}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    clock.jump(0)
    try:
        ahead_s = float(tried.stdout) - time.time()
    except ValueError:
        last = (tried.stderr.strip().splitlines() or ["nothing"])[-1]
        return f"{library.name} does not work with this Python: {last}"
    if abs(ahead_s + 400 * 86400) > 3600:
        return f"{library.name} does not set the clock of this Python: {ahead_s:+.0f} s in the place of -400 days"
    return clock
