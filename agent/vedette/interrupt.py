"""Ctrl-C while a program is still being imported: it ends at once, as of SIGTERM.

Python's own handler would raise `KeyboardInterrupt` wherever an import happens to be: a traceback, and inside a native
library's that is half loaded a crash.
"""

from __future__ import annotations

import signal


def ends_at_once() -> None:
    """From here on. A program that was started with SIGINT ignored, as by nohup, goes on to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_heard() -> None:
    """From here on it is a `KeyboardInterrupt` again, for who has something to put in order."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
