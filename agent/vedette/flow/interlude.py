"""What is to be done between two samples of a pipeline, while nothing of it is under way: any thread asks, one does it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Interlude:
    """An action that must not wait. ``done``: says when it was, or what it raised; cancelled where it never will be."""

    action: Callable[[], None]
    done: Future[None] = field(default_factory=Future)

    def refuse(self) -> None:
        """Cancels it, and wakes whoever waits: `concurrent.futures.wait` does not return for `Future.cancel` alone."""
        self.done.cancel()
        self.done.set_running_or_notify_cancel()

    def perform(self, pipeline: str) -> bool:
        """Does it, unless it was cancelled; whether it did. ``pipeline``: its name, for the log."""
        if not self.done.set_running_or_notify_cancel():
            return False
        try:
            self.action()
        except Exception as error:
            log.exception("pipeline %s: between two samples", pipeline)
            self.done.set_exception(error)
        else:
            self.done.set_result(None)
        return True


class Interludes:
    """Those that were asked for. Any thread may `ask`; who does them is one thread, and closes."""

    def __init__(self) -> None:
        self.waiting: SimpleQueue[Interlude] = SimpleQueue()
        """Those that nobody has begun with."""
        self._lock = threading.Lock()
        self._closed = False  # under it: nobody looks at what waits any more

    def ask(self, action: Callable[[], None]) -> Future[None]:
        """One more, refused where they are closed."""
        interlude = Interlude(action)
        with self._lock:
            if self._closed:
                interlude.refuse()
            else:
                self.waiting.put(interlude)
        return interlude.done

    def close(self) -> None:
        """What waits is refused, and so is what comes."""
        with self._lock:
            self._closed = True
        while not self.waiting.empty():
            self.waiting.get().refuse()
