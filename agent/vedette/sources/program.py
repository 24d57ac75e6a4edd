"""``exec:COMMAND``: a program that prints NDJSON on its standard output."""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import signal
import subprocess
import time
import weakref
from typing import Any, Final

from vedette.contract.errors import SourceError, SourceLostError
from vedette.contract.types import Readings

from .descriptor import READ_BYTES, Gatherer, LineStream
from .lines import LineCutter, LineParser, Tally, shown
from .process_group import end_group, exit_of, signal_group
from .sensor import SensorOptions, no_readings
from .unusable import unusable_lines

log = logging.getLogger(__name__)

PIPE_BYTES: Final = 1 << 20  # what may wait in the pipe before the program has to; Linux's limit for users
TERMINATE_S: Final = 1.0  # from SIGTERM to SIGKILL
STDERR_LINES: Final = 20  # that are logged within `STDERR_S`; the others are counted
STDERR_S: Final = 10.0
LAST_PIECES: Final = 16  # of its standard error that are read after its end: something it started may write on


class ProgramSource:
    """See `vedette.sources.sensor.SensorSource`. The program runs without a shell, in a process group of its own."""

    def __init__(self, command: list[str], options: SensorOptions) -> None:
        self._command = command
        self._channels = options.channels
        self.tally = Tally()
        self._process: subprocess.Popen[bytes] | None = None
        self._at_exit: Any = None
        self._out = self._err = -1
        self._gatherer = Gatherer()
        self._stream: LineStream
        self._complaints = _Complaints(command[0])

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A program that ends is a loss."""
        return True

    @property
    def reopens_when_silent(self) -> bool:
        """A program that hangs is ended and begun again."""
        return True

    def open(self) -> None:
        """Raises `SourceError` where there is no such program."""
        try:
            process = subprocess.Popen(
                self._command, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise SourceError("program cannot be run", where=self._command[0], found=text) from None
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        self._at_exit = weakref.finalize(self, end_group, process)
        self._out, self._err = process.stdout.fileno(), process.stderr.fileno()
        os.set_blocking(self._out, False)
        os.set_blocking(self._err, False)
        try:
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:
            # the system's limit for all of a user's pipes; the usual 64 KiB do as well
            log.debug("pipe of %s not made larger: %s", self._command[0], error)
        parser = LineParser(self._channels, self.tally, format="ndjson")
        self._stream = LineStream(parser, LineCutter(self.tally))
        self._gatherer = Gatherer(self._out, self._err)

    def read(self, timeout_s: float) -> Readings | None:
        """See `SensorSource.read`."""
        ready = self._gatherer.wait(timeout_s)
        if self._err in ready:
            self._hear_complaints()
        if self._out not in ready:
            return no_readings(len(self._channels))
        try:
            data = os.read(self._out, READ_BYTES)
        except BlockingIOError:
            return no_readings(len(self._channels))
        if not data:
            self._stream.broken()
            raise SourceLostError("the program ended", where=self._command[0], found=self._end())
        return self._stream.take(data)

    def close(self) -> None:
        """Ends the program and all that it has started: SIGTERM, then SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        self._stream.broken()
        signal_group(process, signal.SIGTERM)
        try:
            exit_of(process, TERMINATE_S)
        finally:  # with no descriptor left to wait with, it ends at once; so it does where this process ends meanwhile
            self._at_exit()
        self._complaints.flush()

    def _hear_complaints(self) -> bool:
        """Reads a piece of the standard error; whether there was one."""
        if self._err < 0:
            return False
        try:
            data = os.read(self._err, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._gatherer.forget(self._err)
            self._err = -1
        self._complaints.hear(data)
        return bool(data)

    def _end(self) -> str:
        """How it ended, and the last thing that it complained of."""
        assert self._process is not None
        text = exit_of(self._process, TERMINATE_S) or "its standard output closed"
        pieces = 0
        while pieces < LAST_PIECES and self._hear_complaints():
            pieces += 1
        if self._complaints.last:
            text += f", after {self._complaints.last!r}"
        return text + unusable_lines(self.tally)


class _Complaints:
    """A program's standard error for the log: a few lines, and how many more there were."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._since_s = 0.0
        self._said = 0
        self._unsaid = 0
        self._rest = b""
        self.last = ""

    def hear(self, data: bytes) -> None:
        """Logs what there is room for. Nothing is the end."""
        *lines, self._rest = (self._rest + data).split(b"\n") if data else (self._rest, b"")
        self._rest = self._rest[-READ_BYTES:]
        for line in lines:
            if line.strip():
                self._say(shown(line.strip()))

    def flush(self) -> None:
        """Says how many lines were left out."""
        if self._unsaid:
            log.warning("%s: %d more lines", self._program, self._unsaid)
            self._unsaid = 0

    def _say(self, text: str) -> None:
        self.last = text
        now = time.monotonic()
        if now - self._since_s > STDERR_S:
            self.flush()
            self._since_s, self._said = now, 0
        if self._said < STDERR_LINES:
            self._said += 1
            log.warning("%s: %s", self._program, text)
        else:
            self._unsaid += 1


def parse_command(text: str) -> list[str]:
    """Splits as a shell would, runs none. Raises `SourceError`, which does not repeat the command."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SourceError("malformed command", where="exec:", found=str(error).lower()) from None
    if not words:
        raise SourceError("no command", where="exec:", expected="exec:COMMAND")
    return words
