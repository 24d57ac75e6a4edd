"""The agent's state folder, on a disk that can be filled.

With root's rights a small file system in memory is mounted, in a mount namespace that ends with this process. Without
them the agent's own limit on the size of files (RLIMIT_FSIZE, setrlimit(2)) makes every write fail instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIZE: Final = 64 << 20  # bytes
_CLONE_NEWNS: Final = 0x20000  # unshare(2)


@dataclass(frozen=True, slots=True)
class StateDisk:
    """``mounted``: whether it is a file system of its own."""

    folder: Path
    mounted: bool

    @property
    def _filler(self) -> Path:
        return self.folder / "chaos.filler"

    def fill(self, pid: int) -> str:
        """Nothing more goes onto it; in words. ``pid``: the agent."""
        if not self.mounted:
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
            return "every write beyond a file's first byte refused"
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                size = file.tell()
        return f"its disk of {SIZE >> 20} MB filled with {size >> 20} MB"

    def empty(self, pid: int) -> None:
        """There is room again."""
        if self.mounted:
            self._filler.unlink(missing_ok=True)
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended, and the next one has no such limit
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def state_disk(folder: Path) -> Iterator[StateDisk]:
    """Makes the folder. To be entered before this process starts a thread: threads before it see another one."""
    folder.mkdir(mode=0o700)
    mounted = os.geteuid() == 0 and _mount(folder)
    try:
        yield StateDisk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def _mount(folder: Path) -> bool:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return False  # a container may not
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "vedette-chaos", str(folder)],
    ):
        try:
            if subprocess.run(command, check=False, capture_output=True).returncode != 0:
                return False
        except OSError:
            return False
    return True
