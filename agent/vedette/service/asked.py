"""What signals ask of an agent: to stop, or to look at its files again.

A handler runs on the main thread between any two of its steps, and `threading.Event` has a lock of its own: one that called
``set`` in the middle of the main thread's ``wait`` would wait for ever. A flag and `queue.SimpleQueue`, whose ``put`` may
interrupt a ``get``, do no such thing.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from queue import Empty, SimpleQueue


class Asked:
    """See the module. Belongs to the main thread."""

    def __init__(self) -> None:
        self._stop = False
        self._reload = False
        self._news: SimpleQueue[None] = SimpleQueue()

    def heed(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads."""
        # of somebody's terminal it says that this was closed
        closed = sys.stdin is not None and sys.stdin.isatty()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self._stopped())
        signal.signal(signal.SIGHUP, lambda *_: self._stopped() if closed else self._reloaded())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # held back since the process began

    def wait(self, timeout_s: float) -> bool:
        """Until something is asked, so long at most. Whether it is to stop, by what was asked at any time."""
        if not self._stop:
            with suppress(Empty):
                self._news.get(timeout=timeout_s)
        return self._stop

    def reload(self) -> bool:
        """Whether that was asked since this was last looked at, once or more often."""
        asked, self._reload = self._reload, False
        return asked

    def _stopped(self) -> None:
        self._stop = True
        self._news.put(None)

    def _reloaded(self) -> None:
        self._reload = True
        self._news.put(None)
