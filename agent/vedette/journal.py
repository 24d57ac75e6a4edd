"""sd-daemon(3): puts its level before each line that goes to systemd's journal, for ``journalctl -p warning``."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from .contract.errors import one_line

ERROR: Final = 3  # syslog(3), as are the others
_LEVELS: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: ERROR, logging.CRITICAL: 2}


def is_stderr() -> bool:
    """Whether stderr is the journal: $JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False  # closed, or taken by a test
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def prefix(level: int) -> str:
    """``<3>`` and the like where stderr is the journal, else nothing."""
    return f"<{level}>" if is_stderr() else ""


class Formatter(logging.Formatter):
    """``WARNING text``; in the journal with its level before it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")
        self._journal = is_stderr()

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, logging's name
        """One line, whatever is in the names that it repeats; a traceback comes after it."""
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """The level, the line, and a traceback where there is one."""
        line = super().format(record)
        return f"<{_LEVELS.get(record.levelno, 6)}>{line}" if self._journal else line
