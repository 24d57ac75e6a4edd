"""A program of the configuration's: started without a shell, heard, and ended with all that it has started."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import subprocess
import time
import weakref
from typing import Final

from vedette.contract.errors import SourceError

from .lines import shown
from .pipes import widen
from .process_group import end_group, exit_of, signal_group
from .registry import masked_url

log = logging.getLogger(__name__)

READ_BYTES: Final = 65_536
TERMINATE_S: Final = 1.0  # from SIGTERM to SIGKILL
STDERR_LINES: Final = 20  # that are logged within `STDERR_S`; the others are counted
STDERR_S: Final = 10.0  # and twice as long each time, up to
STDERR_MOST_S: Final = 3600.0  # while it goes on: one whose camera is away is started, and complains, for days
_URL: Final = re.compile(r"://\S+")  # behind its scheme
LAST_PIECES: Final = 16  # of its standard error that are read after its end: something it started may write on


class RunningProgram:
    """In a process group of its own, which ends with this process at the latest. ``out``, ``err``: descriptors that do not
    block, of its standard output and error; ``err`` is below 0 once that has ended."""

    def __init__(self, command: list[str], complaints: Complaints) -> None:
        """Starts it. ``complaints``: of this program, of earlier runs, too. Raises `SourceError` where there is none."""
        try:
            process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise SourceError("program cannot be run", where=command[0], found=text) from None
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        self._at_exit = weakref.finalize(self, end_group, process)
        self._complaints = complaints
        self.out, self.err = process.stdout.fileno(), process.stderr.fileno()
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        widen(self.out, command[0])

    def hear_complaints(self) -> bool:
        """Reads a piece of the standard error, for the log; whether there was one."""
        if self.err < 0:
            return False
        try:
            data = os.read(self.err, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.err = -1
        self._complaints.hear(data)
        return bool(data)

    @property
    def last_words(self) -> str:
        """The last thing that it complained of, as it may follow another text."""
        return f", after {self._complaints.last!r}" if self._complaints.last else ""

    def end(self) -> str:
        """How it ended, after its standard output has, and the last thing that it complained of."""
        text = exit_of(self._process, TERMINATE_S) or "its standard output closed"
        pieces = 0
        while pieces < LAST_PIECES and self.hear_complaints():
            pieces += 1
        return text + self.last_words

    def close(self) -> None:
        """Ends the program and all that it has started: SIGTERM, then SIGKILL. Calling it again does nothing."""
        if not self._at_exit.alive:
            return
        signal_group(self._process, signal.SIGTERM)
        try:
            exit_of(self._process, TERMINATE_S)
        finally:  # with no descriptor left to wait with, it ends at once; so it does where this process ends meanwhile
            self._at_exit()
        self._complaints.flush()


class Complaints:
    """A program's standard error for the log: a few lines, URLs without their passwords, and how many more there were."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._since_s = self._heard_s = 0.0
        self._within_s = STDERR_S
        self._said = 0
        self._unsaid = 0
        self._rest = b""
        self._last = b""

    @property
    def last(self) -> str:
        """The last line; empty where there was none."""
        return _legible(self._last)

    def hear(self, data: bytes) -> None:
        """Logs what there is room for. Nothing is the end."""
        *lines, self._rest = (self._rest + data).split(b"\n") if data else (self._rest, b"")
        if len(self._rest) > READ_BYTES:  # from a word on: what is left of a URL would show its password
            self._rest = self._rest[-READ_BYTES:].partition(b" ")[2]
        for line in lines:
            if line.strip():
                self._say(line.strip())

    def flush(self) -> None:
        """Says how many lines were left out; once, until there is room for others."""
        if self._unsaid and self._said <= STDERR_LINES:
            self._said += 1
            log.warning("%s: %d more lines", self._program, self._unsaid)
            self._unsaid = 0

    def _say(self, line: bytes) -> None:
        self._last = line
        now = time.monotonic()
        if now - self._since_s > self._within_s:
            goes_on = now - self._heard_s < self._within_s
            self._within_s = min(2 * self._within_s, STDERR_MOST_S) if goes_on else STDERR_S
            self._since_s, self._said = now, 0
            self.flush()
        self._heard_s = now
        if self._said < STDERR_LINES:
            self._said += 1
            log.warning("%s: %s", self._program, _legible(line))
        else:
            self._unsaid += 1


def _legible(line: bytes) -> str:
    """Passwords are masked before it is cut short: of half a URL nobody could tell where they are."""
    text = _URL.sub(lambda url: masked_url(f"x{url[0]}")[1:], line.decode("utf-8", "backslashreplace"))
    return shown(text.encode())


def parse_command(text: str) -> list[str]:
    """Splits as a shell would, runs none. Raises `SourceError`, which does not repeat the command."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SourceError("malformed command", where="exec:", found=str(error).lower()) from None
    if not words:
        raise SourceError("no command", where="exec:", expected="exec:COMMAND")
    return words
