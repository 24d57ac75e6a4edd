"""The thread that keeps one source open: reads it to its end, and opens it again with back-off when it is lost.

How a source can end has four names (`Outcome`), never one mixed up with another. Cameras and sensors share all of this;
what reading means is theirs. Whatever a source raises, expected or not, is a loss, and it is tried again.
"""

from __future__ import annotations

import enum
import logging
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

from vedette import clock
from vedette.contract.errors import RetryableError, SourceError, SourceStalledError, one_line

log = logging.getLogger(__name__)

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = (
    2.0  # from the beginning of one try to that of the next, so that a camera is back soon when it is
)
MAX_FAULTS: Final = 10  # of one source, that the log has with their tracebacks


class Outcome(enum.Enum):
    """How reading came to an end, or why it cannot begin."""

    END = "end"  # a file or folder was read to its end and does not loop
    LOST = "lost"  # the camera or sensor, or its server, broke off
    STALLED = "stalled"  # open, but nothing came within stall_timeout_s
    FROZEN = "frozen"  # frames come, and all show the very same picture for frozen_timeout_s


class Openable(Protocol):
    """What every source can do. All calls come from one thread, its `SourceThread`."""

    @property
    def endless(self) -> bool:
        """Whether an end is a loss (a camera) rather than an end (a file)."""
        ...

    def open(self) -> None:
        """Raises `SourceError` when it can never be opened, `SourceLostError` when it may be later."""
        ...

    def close(self) -> None:
        """Gives everything back. Calling it again does nothing."""
        ...


class SourceThread(ABC):
    """Runs `_read_to_end` again and again. ``thing``: what the source gives one of, for messages.

    ``stall_timeout_s``: nothing for so long is `Outcome.STALLED`. ``on_change`` hears of each change of outcome, on this
    thread.
    """

    def __init__(
        self,
        source: Openable,
        *,
        name: str,
        thing: str,
        stall_timeout_s: float,
        on_change: Callable[[Outcome | None, str], None],
    ) -> None:
        self._endless = source.endless
        self._openable = source
        self._thing = thing
        self._stall_timeout_s = stall_timeout_s
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()
        self._count = 0  # of what was given
        self._reopened = 0
        self._outcome: Outcome | None = None
        self._why = "opening"
        self._faults: set[str] = set()  # that the log has
        self._last_ns = clock.now_ns()

    @abstractmethod
    def _read_to_end(self) -> tuple[Outcome, str]:
        """Reads the open source until it ends, or ``self._stop`` is set. Raises what reading raises."""

    @abstractmethod
    def _no_more(self) -> None:
        """Nothing will come any more: the source has ended for good."""

    def start(self) -> None:
        """Begins to read. A `SourceError` while opening for the first time is raised here, for it is the user's.

        A camera or sensor is opened by the thread: it may be away, or take long to answer, and the agent runs all the
        same.
        """
        if not self._endless:
            self._openable.open()
        self._last_ns = clock.now_ns()
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread; one that hangs in native code is left behind, a daemon."""
        self._stop.set()
        self._no_more()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        backoff_s = BACKOFF_MIN_S
        is_open = was_open = not self._endless  # start() has opened it
        while not self._stop.is_set():
            before, began_ns = self._count, clock.now_ns()
            try:
                if not is_open:
                    self._openable.open()
                    is_open = True
                    with self._lock:
                        self._reopened += was_open
                        self._last_ns = clock.now_ns()
                    was_open = True
                outcome, why = self._read_to_end()
            except RetryableError as error:
                stalled = isinstance(error, SourceStalledError)
                outcome, why = (Outcome.STALLED if stalled else Outcome.LOST), error.line()
            except SourceError as error:
                # it could be opened once: a device that is unplugged, a file that is being replaced
                outcome, why = Outcome.LOST, error.line()
            except Exception as error:  # noqa: BLE001  a thread that ended would never bring the source back
                outcome, why = Outcome.LOST, self._fault(error)
            try:
                self._openable.close()
            except Exception as error:  # noqa: BLE001
                self._fault(error)
            is_open = False
            if self._stop.is_set():
                return
            self._set(outcome, why)
            if outcome is Outcome.END:
                self._no_more()
                return
            tried_s = (clock.now_ns() - began_ns) / 1e9
            if self._count > before:
                backoff_s, tried_s = BACKOFF_MIN_S, 0.0
            # half to whole of the step: many devices must not come back to one camera server at once
            self._stop.wait(max(BACKOFF_MIN_S, backoff_s - tried_s) * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _fault(self, error: Exception) -> str:
        """What a source does not mean to raise, as one line. The log has it once with its traceback."""
        why = one_line(f"a fault of ours: {type(error).__name__}: {error}")[:500]
        if why not in self._faults and len(self._faults) < MAX_FAULTS:
            self._faults.add(why)
            log.error("%s: %s", self._thread.name, why, exc_info=error)
        return why

    def _arrived(self, count: int, now_ns: int) -> int:
        """So many things have come; how many there are now."""
        with self._lock:
            self._count += count
            self._last_ns = now_ns
            return self._count

    def _standing(self) -> tuple[int, int, Outcome | None, str]:
        """Count, reopened, outcome and why. A stall is noticed here, for a stalled reader cannot say so itself."""
        with self._lock:
            outcome, why = self._outcome, self._why
            silent_s = (clock.now_ns() - self._last_ns) / 1e9
            if outcome is None and self._endless and silent_s > self._stall_timeout_s:
                outcome, why = Outcome.STALLED, f"no {self._thing} for {silent_s:.1f} s"
            return self._count, self._reopened, outcome, why

    def _set(self, outcome: Outcome | None, why: str) -> None:
        with self._lock:
            changed = outcome != self._outcome
            self._outcome, self._why = outcome, why
        if changed:
            self._on_change(outcome, why)
