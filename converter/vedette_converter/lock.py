"""One process at a time: a lock that the kernel lets go of however the process ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from vedette.contract.errors import UserError


@contextlib.contextmanager
def alone(path: Path, busy: str, fix: str) -> Iterator[None]:
    """Holds the lock of this file. Raises `UserError`, which says ``busy`` and ``fix``, where another process has it."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(busy, where=path, fix=fix) from None
        yield
