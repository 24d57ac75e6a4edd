"""A folder of pictures that never grows beyond its bounds: the oldest go first, and only those that are its own."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from pathlib import Path
from typing import Final

from vedette.contract.errors import StateError

PREFIX: Final = "vedette-"
SUFFIX: Final = ".jpg"
_OWN: Final = re.compile(re.escape(PREFIX) + r"[^/]+" + re.escape(SUFFIX))


class Album:
    """Owned by one thread.

    Its own files are those called ``vedette-*.jpg``; whatever else lies in the folder is neither counted nor touched. What
    others take out of it is found out when its turn to go comes.
    """

    def __init__(self, folder: Path, *, max_files: int, max_bytes: int) -> None:
        self._folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._files: deque[tuple[str, int]] | None = None  # name and bytes, the oldest first; None: not looked yet
        self._bytes = 0
        self.removed = 0
        """Pictures that have gone since the start to make room."""

    def add(self, name: str, data: bytes) -> Path:
        """Writes ``vedette-NAME.jpg``, whole or not at all, and takes out what is over the bounds.

        Raises `StateError` where it cannot be written, a full disk included; what was there before stays.
        """
        if len(data) > self._max_bytes:
            raise StateError(
                "a picture is larger than all may be", where=self._folder, expected=f"at most {self._max_bytes} bytes",
                found=str(len(data)), fix="raise max_bytes, or lower max_side or quality",
            )  # fmt: skip
        path = self._folder / f"{PREFIX}{name}{SUFFIX}"
        temporary = self._folder / f".{PREFIX}new"
        try:
            if self._files is None:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
                self._look()
            # first, so that a disk that is full of these pictures has room for the next one
            self._make_room(len(data))
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StateError(
                "a picture cannot be written", where=path, expected="a folder that the agent may write to, with room",
                found=error.strerror or str(error),
            ) from None  # fmt: skip
        assert self._files is not None
        self._files.append((path.name, len(data)))
        self._bytes += len(data)
        return path

    def _look(self) -> None:
        """What an earlier run has left."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _OWN.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, entry.name, status.st_size))
        self._files = deque((name, size) for _, name, size in sorted(found))
        self._bytes = sum(size for _, size in self._files)

    def _make_room(self, size: int) -> None:
        assert self._files is not None
        while self._files and (len(self._files) >= self._max_files or self._bytes + size > self._max_bytes):
            name, bytes_ = self._files[0]
            try:
                (self._folder / name).unlink()
                self.removed += 1
            except FileNotFoundError:
                pass  # somebody has taken it out already: that makes room as well
            self._files.popleft()
            self._bytes -= bytes_
