"""A pipe's room."""

from __future__ import annotations

import fcntl
import logging
from typing import Final

log = logging.getLogger(__name__)

PIPE_BYTES: Final = (
    1 << 20
)  # that may wait before the writer has to; an unprivileged process may have no more (pipe(7))


def widen(descriptor: int, writer: str) -> None:
    """As much room as can be had, so that a camera's frame comes at once. ``writer``: for the log."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError as error:
        # the system's limit for all of a user's pipes (pipe-user-pages-soft); the usual 64 KiB do as well
        log.debug("pipe of %s not made larger: %s", writer, error)
