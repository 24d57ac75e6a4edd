"""A wall clock for the agent alone: by a small library of our own where there is a C compiler, else by libfaketime
(github.com/wolfcw/libfaketime). Either is preloaded (ld.so(8)), and answers in the C library's place.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

SOURCE: Final = Path(__file__).with_name("set_clock.c")
_COMPILERS: Final = ("cc", "gcc", "clang")
_PLACES: Final = ("/usr/lib", "/usr/local/lib", "/usr/lib64")
_FAKETIME: Final = "**/faketime/libfaketimeMT.so.1"
_TRY: Final = "import time; time.sleep(0.01); print(time.time())"
_DAY_S: Final = 86_400.0


class WallClock(Protocol):
    """The times of CLOCK_MONOTONIC and CLOCK_BOOTTIME stay as they are."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the agent needs to see it."""
        ...

    def jump(self, days: float) -> None:
        """So far off the machine's clock it is from now on, a second later at the latest."""
        ...


class SetClock:
    """``set_clock.c``. It also says for the kernel whether the clock is disciplined, which the machine's may not be."""

    def __init__(self, library: Path, folder: Path) -> None:
        file = folder / "clock"
        file.write_bytes(bytes(16))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 16)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(file)}
        self.set(0.0)

    def set(self, ahead_s: float, *, synced: bool = True) -> None:
        """By how much the process's clock is ahead of this one's from now on."""
        self._shared[8:] = struct.pack("<q", synced)
        self._shared[:8] = struct.pack("<q", int(ahead_s * 1e9))

    def jump(self, days: float) -> None:
        """See `WallClock.jump`."""
        self.set(days * _DAY_S)


class Faketime:
    """libfaketime."""

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

    def jump(self, days: float) -> None:
        """See `WallClock.jump`."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{days * _DAY_S:+.0f}\n")
        new.replace(self._file)


def wall_clock(folder: Path) -> WallClock | str:
    """One that works with this Python, or why there is none.

    libfaketime 0.9.10 does not: it answers EINVAL to clock_nanosleep(2), which `time.sleep` has used since Python 3.11.
    """
    made = set_clock(folder)
    if not isinstance(made, str) and (why := _does_not_work(made, "set_clock.so")) is None:
        return made
    library = next((found for place in _PLACES for found in sorted(Path(place).glob(_FAKETIME))), None)
    if library is None:
        reason = made if isinstance(made, str) else why
        return f"{reason}; no libfaketime, and the machine's own clock is not ours to set"
    faked = Faketime(library, folder)
    return _does_not_work(faked, library.name) or faked


def set_clock(folder: Path) -> SetClock | str:
    """Our own library, compiled into this folder; or why it cannot be."""
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return "no C compiler"
    library = folder / "set_clock.so"
    done = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"{Path(compiler).name} cannot compile {SOURCE.name}: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
    return SetClock(library, folder)


def _does_not_work(clock: WallClock, name: str) -> str | None:
    """Why not, of a Python like this one."""
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
        return f"{name} does not work with this Python: {last}"
    if abs(ahead_s + 400 * _DAY_S) > 3600:
        return f"{name} does not set the clock of this Python: {ahead_s:+.0f} s in the place of -400 days"
    return None
