"""Files that are there whole or not at all; small ones that must survive a power cut, and are for nobody else to read."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename, fsync of the folder; mode 0600. Raises `OSError`."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def replacing(path: Path, half: Path | None = None) -> Iterator[Path]:
    """A name to write to, which takes the file's place at the end, and is gone where anything goes wrong. Raises `OSError`.

    ``half``: that name; by default a hidden one in the same folder.
    """
    half = half or path.with_name(f".{path.name}.part")
    try:
        yield half
        half.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a folder that nobody may write to has nothing to be removed
            half.unlink()
        raise


def try_place(path: Path) -> None:
    """Raises `OSError` where a file could not be made here, or put in the place of one, by a trial that leaves nothing."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.TemporaryFile(dir=path.parent):
        pass
