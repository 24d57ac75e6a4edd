"""Processes that build: native code that crashes, and memory that TensorFlow keeps, are theirs and not the search's.

A process serves several trials, since TensorFlow takes seconds to load, and only trials of one kind: those that train
load it with other kernels than those that do not (`vedette_converter.tensorflow`), so that what comes out is what
``vedette-convert build`` makes in a process of its own. It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any, Final, TypeVar

from vedette.contract.errors import FaultError, UserError, VedetteError

TRIALS: Final = 8  # of one process
TELL_S: Final = 0.25  # between two words on how far a step is

Result = TypeVar("Result")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Refused:
    """An error, as it goes through a pipe."""

    problem: str
    where: str
    expected: str
    found: str
    fix: str
    users: bool
    trace: str = ""

    def error(self) -> VedetteError:
        """The error again."""
        kind = UserError if self.users else FaultError
        return kind(self.problem, where=self.where, expected=self.expected, found=self.found, fix=self.fix)


class Builder:
    """Runs one function after the other in processes of its own. Not for use by two threads at once."""

    def __init__(self, tell: Tell) -> None:
        """``tell`` hears how far it is, a few words at a time, from another thread."""
        self._context = multiprocessing.get_context("spawn")
        self._words: Any = self._context.SimpleQueue()
        self._tell = tell
        self._pools: dict[bool, ProcessPoolExecutor] = {}
        self._listener = threading.Thread(target=self._listen, name="search-progress", daemon=True)
        self._listener.start()

    def run(self, function: Callable[..., Result], *arguments: Any, trains: bool) -> Result:
        """``function(*arguments, progress)`` in a process; ``trains``: whether it trains a network.

        Raises what it raised as `UserError` or `FaultError`, and `FaultError` where the process died.
        """
        pool = self._pools.get(trains)
        if pool is None:
            pool = self._pools[trains] = ProcessPoolExecutor(
                1, mp_context=self._context, initializer=_start, initargs=(self._words,), max_tasks_per_child=TRIALS
            )
        try:
            found = pool.submit(_guarded, function, arguments).result()
        except BrokenProcessPool:
            del self._pools[trains]
            pool.shutdown(wait=False)
            raise FaultError("the process that built it died", found="a crash, or no memory left") from None
        if isinstance(found, Refused):
            raise found.error()
        result: Result = found
        return result

    def close(self) -> None:
        """Ends the processes."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        self._words.put(None)
        self._listener.join(timeout=5)

    def _listen(self) -> None:
        while (word := self._words.get()) is not None:
            self._tell(word)


_words: Any = None  # of this process, set once when it starts


def _start(words: Any) -> None:
    global _words
    _words = words
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a child
    connection.wait([parent.sentinel])
    os._exit(1)


def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments, _Words(_words.put))
    except VedetteError as error:
        return Refused(
            error.problem, str(error.where), str(error.expected), str(error.found), error.fix,
            isinstance(error, UserError),
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - whatever a converter raises is a trial that failed, with its reason
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        return Refused("the network cannot be made", "", "", f"{type(error).__name__}: {line}"[:400], "", False,
                       traceback.format_exc())  # fmt: skip


class _Words:
    """A `Progress` that puts what it is told into words, a few times a second."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._last = 0.0

    def begin(self, step: str, total: int) -> Callable[[], None]:
        """See `vedette_converter.progress.Progress`."""
        done = 0
        self._say(step)

        def advance() -> None:
            nonlocal done
            done += 1
            if time.monotonic() - self._last >= TELL_S:
                self._say(f"{step} {done}/{total}")

        return advance

    def note(self, text: str) -> None:
        """See `vedette_converter.progress.Progress`."""

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        self._tell(text)
