"""One process at a time: a lock that the kernel lets go of however the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vedette.contract.errors import UserError


@contextlib.contextmanager
def alone(path: Path, busy: str, fix: str) -> Iterator[None]:
    """Holds the lock of this file, which is gone afterwards.

    Raises `UserError`, which says ``busy`` and ``fix``, where another process has it, and where it cannot be written.
    """
    try:
        lock = path.open("w")
    except OSError as error:
        raise UserError("cannot be locked", where=path, found=error.strerror or str(error)) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except OSError:
            mine = False
        if not mine:  # or its holder took the file away just when it was opened here
            raise UserError(busy, where=path, fix=fix)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
