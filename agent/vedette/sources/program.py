"""``exec:COMMAND``: a program that prints NDJSON on its standard output."""

from __future__ import annotations

import os

from vedette.contract.errors import SourceLostError
from vedette.contract.types import Readings

from .descriptor import READ_BYTES, Gatherer, LineStream
from .lines import LineCutter, LineParser, Tally
from .running import Complaints, RunningProgram
from .sensor import SensorOptions, no_readings
from .unusable import unusable_lines


class ProgramSource:
    """See `vedette.sources.sensor.SensorSource`."""

    def __init__(self, command: list[str], options: SensorOptions) -> None:
        self._command = command
        self._channels = options.channels
        self.tally = Tally()
        self._complaints = Complaints(command[0])
        self._program: RunningProgram | None = None
        self._gatherer = Gatherer()
        self._stream: LineStream

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
        self._program = RunningProgram(self._command, self._complaints)
        self._stream = LineStream(LineParser(self._channels, self.tally, format="ndjson"), LineCutter(self.tally))
        self._gatherer = Gatherer(self._program.out, self._program.err)

    def read(self, timeout_s: float) -> Readings | None:
        """See `SensorSource.read`."""
        program = self._program
        assert program is not None
        ready = self._gatherer.wait(timeout_s)
        if (err := program.err) in ready:
            program.hear_complaints()
            if program.err < 0:
                self._gatherer.forget(err)
        if program.out not in ready:
            return no_readings(len(self._channels))
        try:
            data = os.read(program.out, READ_BYTES)
        except BlockingIOError:
            return no_readings(len(self._channels))
        if not data:
            self._stream.broken()
            found = program.end() + unusable_lines(self.tally)
            raise SourceLostError("the program ended", where=self._command[0], found=found)
        return self._stream.take(data)

    def close(self) -> None:
        """Ends the program and all that it has started: SIGTERM, then SIGKILL."""
        program, self._program = self._program, None
        if program is not None:
            self._stream.broken()
            program.close()
