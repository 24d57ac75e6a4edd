"""Processes that build: native code that crashes, and memory that TensorFlow keeps, are theirs and not the search's.

A process serves several trials, since TensorFlow takes seconds to load, and only trials of one kind: those that train
load it with other kernels than those that do not (`vedette_converter.tensorflow`), so that what comes out is what
``vedette-convert build`` makes in a process of its own. It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Final, TypeVar

from vedette.contract.errors import FaultError, UserError, VedetteError

TRIALS: Final = 8  # of one process
WORDS: Final = 200  # characters, at most, of what is said of a step: far below what a pipe takes at once
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
        # No queue: a process that dies while it holds a queue's lock would stop all others. So short a write is whole.
        self._heard, self._said = self._context.Pipe(duplex=False)
        self._end, self._alive = self._context.Pipe(duplex=False)
        self._tell = tell
        self._busy = False
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
                1,
                mp_context=self._context,
                initializer=_start,
                initargs=(self._said, self._end),
                max_tasks_per_child=TRIALS,
            )
        self._busy = True
        try:
            found = pool.submit(_guarded, function, arguments).result()
            self._busy = False
        except BrokenProcessPool:
            self._busy = False
            del self._pools[trains]
            pool.shutdown(wait=False)
            raise FaultError("the process that built it died", found="a crash, or no memory left") from None
        if isinstance(found, Refused):
            raise found.error()
        result: Result = found
        return result

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        if self._busy:
            self._alive.close()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        self._alive.close()
        self._said.send_bytes(b"")
        self._listener.join(timeout=5)
        for end in (self._heard, self._said, self._end):
            end.close()

    def _listen(self) -> None:
        while word := self._heard.recv_bytes():
            self._tell(word.decode(errors="replace"))


_said: connection.Connection | None = None  # of this process, set once when it starts


def _start(said: connection.Connection, end: connection.Connection) -> None:
    global _said
    _said = said
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one hears it too, and ends it
    threading.Thread(target=_end_with_parent, args=(end,), name="parent", daemon=True).start()


def _end_with_parent(end: connection.Connection) -> None:
    """``end`` is at its end as soon as the parent closes its own, or is no more."""
    connection.wait([end])
    os._exit(1)


def _say(text: str) -> None:
    if _said is not None and text:
        _said.send_bytes(text[:WORDS].encode())


def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments, _Words(_say))
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
