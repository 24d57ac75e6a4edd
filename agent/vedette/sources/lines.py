"""Lines of text -> readings: NDJSON and CSV, whole chunks at once where every line is well formed.

A reading is an object keyed by channel (``{"t": 1.5, "x": 0.1, "y": 0.2}``), an object with a list of values in the
model's order (``{"t": 1.5, "values": [0.1, 0.2]}``), a bare list of them, or a line of CSV: by the columns that a header
has named, or all channels in the model's order. Keys and columns that the model does not want are ignored.

Times are keyed ``t``, ``time`` or ``timestamp``: seconds of any clock, or ISO 8601 (UTC where it says no zone). Whether
readings are timed is settled by the first one.

Whatever cannot be used is counted by reason in a `Tally`, and never guessed at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from vedette.contract.types import Float32Array, Int64Array

from .line_formats import TIME_KEYS, CsvReadings, JsonReadings, Reason, RefusedLineError, Row, times_to_ns

MAX_LINE: Final = 65_536  # bytes; a reading of 256 channels has some 6,000
EXAMPLE_CHARACTERS: Final = 120  # of a malformed line, kept to be shown

Format: TypeAlias = Literal["ndjson", "csv", "any"]


class Tally:
    """What could not be used, by reason. Written by one thread; any may read copies of it."""

    def __init__(self) -> None:
        self.malformed: dict[str, int] = {}
        """Lines that were not used, by `Reason`."""
        self.problems: dict[str, str] = {}
        """The first of them for each reason: printable, shortened."""
        self.lost = 0
        """Messages that the system threw away before they could be read, where it says so."""
        self.wanted: tuple[str, ...] = ()
        """The channels that the lines should have; empty before anybody has parsed one."""
        self.untimed: tuple[str, ...] = ()
        """The columns of a header of CSV, or the keys of the first reading, that nobody uses, where none is the time."""

    def refuse(self, reason: Reason, example: bytes) -> None:
        """Counts a line that is not used."""
        if reason not in self.malformed:
            self.problems[reason] = shown(example)
        self.malformed[reason] = self.malformed.get(reason, 0) + 1

    def total(self) -> int:
        """All lines that were not used."""
        return sum(self.malformed.values())


def shown(raw: bytes) -> str:
    """Bytes from outside as one printable, short piece of text."""
    text = raw[: EXAMPLE_CHARACTERS * 4].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]}... ({len(raw)} bytes)"


class LineCutter:
    """A stream of bytes -> whole lines. Keeps at most `MAX_LINE` bytes of one that is not complete."""

    def __init__(self, tally: Tally, *, joined_midway: bool = False) -> None:
        """``joined_midway``: the first line may be the rest of one; it is used only if it begins as JSON or a header."""
        self._tally = tally
        self._rest = b""
        self._dropping = False
        self._first = joined_midway

    def feed(self, data: bytes) -> bytes:
        """The lines that are complete now, each with its end; empty where none is."""
        head, end, rest = data.rpartition(b"\n")
        if self._dropping:
            if not end:
                return b""
            self._dropping = False
            head = head.partition(b"\n")[2]
            whole = head + end if head else b""
        else:
            whole = self._rest + head + end if end else b""
            rest = rest if end else self._rest + data
        self._rest = rest
        if len(rest) > MAX_LINE:
            self._tally.refuse("too_long", rest)
            self._rest = b""
            self._dropping = True
        if self._first and whole:
            self._first = False
            line, end, others = whole.partition(b"\n")
            # the first digits of a number may be missing, which nothing else would tell
            if line.strip() and line.lstrip()[:1] not in b"{[" and not re.match(rb"\s*[\"A-Za-z_]", line):
                self._tally.refuse("joined_midway", line)
                return others
        return whole

    def end(self, *, broken: bool) -> bytes:
        """What is left at the end, as a line. ``broken``: the stream broke off, and half a number may look like one."""
        rest, self._rest = self._rest, b""
        if not rest.strip():
            return b""
        if broken:
            self._tally.refuse("cut_off", rest)
            return b""
        return rest + b"\n"


@dataclass(frozen=True, slots=True)
class Parsed:
    """``values``: (n, channels) float32, finite. ``times_ns``: (n,) int64 by the sensor's clock; None: untimed."""

    values: Float32Array
    times_ns: Int64Array | None

    def __len__(self) -> int:
        return len(self.values)


class LineParser:
    """Parses lines of one source. Owned by one thread."""

    def __init__(
        self, channels: tuple[str, ...], tally: Tally, *, format: Format = "any", columns: tuple[str, ...] = (),
        time: str = "",
    ) -> None:  # fmt: skip
        """``channels``: the names that the model wants, in its order. ``columns``: the names of CSV's columns where no
        header says them; empty: all channels in the model's order. ``time``: what the time is called where it has another
        name than the usual ones.
        """
        self._channels = channels
        self._tally = tally
        tally.wanted = channels
        self._format = format
        time_keys = (time, *TIME_KEYS) if time and time not in TIME_KEYS else TIME_KEYS
        self._json = JsonReadings(channels, time_keys)
        self._csv = CsvReadings(channels, columns, time_keys)
        tally.untimed = self._csv.untimed
        self._timed: bool | None = None
        self.skipped = 0
        """Lines that are no readings by right: headers, and blank ones."""

    def parse(self, lines: bytes) -> Parsed:
        """``lines``: whole ones, each with its end. Never raises; what cannot be used is in the tally."""
        if not lines:
            return self._parsed([])
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n")
        parsed = self._all_at_once(lines)
        return self._one_by_one(lines) if parsed is None else parsed

    def _all_at_once(self, lines: bytes) -> Parsed | None:
        """None where anything at all is unusual about the chunk."""
        if len(lines) > MAX_LINE and max(map(len, lines.split(b"\n"))) > MAX_LINE:
            return None
        is_json = self._is_json(lines)
        try:
            parsed = self._json.chunk(lines) if is_json else self._csv.chunk(lines)
            if parsed is None:
                return None
            values, times = parsed
            timed = times is not None if self._timed is None else self._timed
            if timed and times is None:
                return None
            with np.errstate(over="ignore"):
                reals = np.ascontiguousarray(values, np.float32)
            if not np.isfinite(reals).all():
                return None
            times_ns = times_to_ns(times) if timed and times is not None else None
        except (ValueError, TypeError, msgspec.DecodeError, RecursionError, RefusedLineError):
            # each line is looked at by itself then, and the one at fault named
            return None
        self._settle(lines, timed=timed)
        return Parsed(reals, times_ns)

    def _one_by_one(self, lines: bytes) -> Parsed:
        rows: list[tuple[Float32Array, int]] = []
        for line in lines.removesuffix(b"\n").split(b"\n"):
            if not line.strip():
                self.skipped += 1
                continue
            try:
                if len(line) > MAX_LINE:
                    raise RefusedLineError("too_long")
                row = self._json.line(line) if self._is_json(line) else self._csv.line(line)
                if row is None:
                    self.skipped += 1
                    self._tally.untimed = self._csv.untimed
                    continue
                rows.append(self._checked(row, line))
            except RefusedLineError as refused:
                self._tally.refuse(refused.reason, line)
        return self._parsed(rows)

    def _is_json(self, lines: bytes) -> bool:
        if self._format == "any":
            return lines.lstrip()[:1] in b"{["
        return self._format == "ndjson"

    def _settle(self, lines: bytes, *, timed: bool) -> None:
        """Whether readings have times, by the first one, which these lines begin with."""
        if self._timed is None and not timed and self._is_json(lines):
            self._tally.untimed = self._json.unused(lines.partition(b"\n")[0])
        self._timed = timed

    def _checked(self, row: Row, line: bytes) -> tuple[Float32Array, int]:
        values, time = row
        with np.errstate(over="ignore"):
            reals = np.asarray(values, np.float64).astype(np.float32)
        if not np.isfinite(reals).all():
            raise RefusedLineError("not_finite")
        if self._timed and time is None:
            raise RefusedLineError("bad_time")
        time_ns = int(times_to_ns([time])[0]) if time is not None and self._timed is not False else 0
        if self._timed is None:
            self._settle(line, timed=time is not None)
        return reals, time_ns

    def _parsed(self, rows: list[tuple[Float32Array, int]]) -> Parsed:
        values = np.array([values for values, _ in rows], np.float32).reshape(len(rows), len(self._channels))
        times_ns = np.array([time_ns for _, time_ns in rows], np.int64) if self._timed else None
        return Parsed(values, times_ns)
