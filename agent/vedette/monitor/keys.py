"""Single keys of a terminal, without Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Keys:
    """Made by `keyboard`."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def wait(self, timeout_s: float) -> str:
        """What was typed, or an empty string after so many seconds."""
        if self._fd is None:
            time.sleep(timeout_s)
            return ""
        readable, _, _ = select.select([self._fd], [], [], timeout_s)
        if not readable:
            return ""
        typed = os.read(self._fd, 64)
        if not typed:  # the terminal has been closed
            self._fd = None
        return typed.decode("ascii", "replace")


@contextmanager
def keyboard() -> Iterator[Keys]:
    """Keys come at once and are not shown, until this block is left. Without a terminal there are none."""
    if not sys.stdin.isatty():
        yield Keys(None)
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)  # Ctrl-C and Ctrl-Z go on to mean what they mean
    try:
        yield Keys(fd)
    finally:
        with suppress(termios.error):  # it has been closed
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
