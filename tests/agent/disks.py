"""Disks that are full or read-only, for real: small file systems in memory. Mounting needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


class Mount:
    """Called with options of tmpfs, mounts one and returns its folder. `again` changes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = False

    def __call__(self, options: str) -> Path:
        self.folder.mkdir()
        self._run("mount", "-t", "tmpfs", "-o", options, "vedette-test", str(self.folder))
        self.mounted = True
        return self.folder

    def again(self, options: str) -> None:
        """Other options, "remount" among them."""
        self._run("mount", "-o", options, str(self.folder))

    def unmount(self) -> None:
        """As it should be at the end of a test."""
        if self.mounted:
            self._run("umount", "--lazy", str(self.folder))

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fills the disk up but for so many bytes; the file that does it."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as target:
        try:
            while True:
                target.write(b"x" * 4096)
        except OSError:
            os.truncate(file, max(0, file.stat().st_size - leave))
    return file
