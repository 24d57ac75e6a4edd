"""A wall clock that a test sets for one process, and a kernel that says whether it is disciplined: ``set_clock.c``."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class SetClock:
    """``environment``: of the process. Both can be set while it runs."""

    def __init__(self, folder: Path, *, ahead_s: float = 0.0, synced: bool = True) -> None:
        gcc = shutil.which("gcc")
        if gcc is None:
            pytest.skip("no gcc: a wall clock that is set stays untested")
        library, file = folder / "set_clock.so", folder / "clock"
        subprocess.run([gcc, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        file.write_bytes(bytes(16))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 16)
        self.environment = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(file)}
        self.set(ahead_s, synced=synced)

    def set(self, ahead_s: float, *, synced: bool = True) -> None:
        """By how much the process's clock is ahead of this one's from now on."""
        self._shared[8:] = struct.pack("<q", synced)
        self._shared[:8] = struct.pack("<q", int(ahead_s * 1e9))
