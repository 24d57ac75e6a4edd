"""Lines of text -> readings: NDJSON and CSV, whole chunks at once where every line is well formed.

A reading is an object keyed by channel (``{"t": 1.5, "x": 0.1, "y": 0.2}``), an object with a list of values in the
model's order (``{"t": 1.5, "values": [0.1, 0.2]}``), a bare list of them, or a line of CSV: by the columns that a header
has named, or all channels in the model's order. Keys and columns that the model does not want are ignored.

Times are keyed ``t``, ``time`` or ``timestamp``: seconds of any clock, or ISO 8601 (UTC where it says no zone). Whether
readings are timed is settled by the first one.

Whatever cannot be used is counted by reason in a `Tally`, and never guessed at.
"""

from __future__ import annotations

import csv
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np

from vedette.contract.types import Float32Array, Int64Array

MAX_LINE: Final = 65_536  # bytes; a reading of 256 channels has some 6,000
EXAMPLE_CHARACTERS: Final = 120  # of a malformed line, kept to be shown
MAX_TIME_S: Final = 9.2e9  # int64 nanoseconds reach a little further
TIME_KEYS: Final = ("t", "time", "timestamp")

Format: TypeAlias = Literal["ndjson", "csv", "any"]

Reason: TypeAlias = Literal[
    "not_json",  # no JSON, or no UTF-8
    "missing_channel",  # a key or column that the model wants is not there
    "wrong_count",  # a list or a line of CSV with too few or too many values
    "not_a_number",  # text, null, true or false
    "not_finite",  # NaN, infinity, or beyond float32
    "bad_time",  # no time although others have one, or one that cannot be
    "too_long",  # more than MAX_LINE bytes without an end of line
    "cut_off",  # the stream broke off before the line's end
    "joined_midway",  # what came before the first end of line of a wire that was joined at some moment
    "retained",  # an old message that a broker keeps: nobody knows how old
]


class Tally:
    """What could not be used, by reason. Written by one thread; any may read copies of it."""

    def __init__(self) -> None:
        self.malformed: dict[str, int] = {}
        """Lines that were not used, by `Reason`."""
        self.problems: dict[str, str] = {}
        """The first of them for each reason: printable, shortened."""
        self.lost = 0
        """Messages that the system threw away before they could be read, where it says so."""

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


class _RefusedLineError(Exception):
    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


_Row: TypeAlias = tuple[Sequence[float], float | str | None]


class LineParser:
    """Parses lines of one source. Owned by one thread."""

    def __init__(
        self, channels: tuple[str, ...], tally: Tally, *, format: Format = "any", columns: tuple[str, ...] = ()
    ) -> None:
        """``channels``: the names that the model wants, in its order. ``columns``: the names of CSV's columns where no
        header says them; empty: all channels in the model's order.
        """
        self._channels = channels
        self._tally = tally
        self._format = format
        self._json = _Json(channels)
        self._csv = _Csv(channels, columns)
        self._timed: bool | None = None
        self.skipped = 0
        """Lines that are no readings by right: headers, and blank ones."""

    @property
    def columns(self) -> Columns | None:
        """Where CSV's columns are, once a header or `columns` has said so."""
        return self._csv.columns

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
            times_ns = _times_ns(times) if timed and times is not None else None
        except (ValueError, TypeError, msgspec.DecodeError, RecursionError, _RefusedLineError):
            # each line is looked at by itself then, and the one at fault named
            return None
        self._timed = timed
        return Parsed(reals, times_ns)

    def _one_by_one(self, lines: bytes) -> Parsed:
        rows: list[tuple[Float32Array, int]] = []
        for line in lines.removesuffix(b"\n").split(b"\n"):
            if not line.strip():
                self.skipped += 1
                continue
            try:
                if len(line) > MAX_LINE:
                    raise _RefusedLineError("too_long")
                row = self._json.line(line) if self._is_json(line) else self._csv.line(line)
                if row is None:
                    self.skipped += 1
                    continue
                rows.append(self._checked(row))
            except _RefusedLineError as refused:
                self._tally.refuse(refused.reason, line)
        return self._parsed(rows)

    def _is_json(self, lines: bytes) -> bool:
        if self._format == "any":
            return lines.lstrip()[:1] in b"{["
        return self._format == "ndjson"

    def _checked(self, row: _Row) -> tuple[Float32Array, int]:
        values, time = row
        with np.errstate(over="ignore"):
            reals = np.asarray(values, np.float64).astype(np.float32)
        if not np.isfinite(reals).all():
            raise _RefusedLineError("not_finite")
        if self._timed and time is None:
            raise _RefusedLineError("bad_time")
        time_ns = int(_times_ns([time])[0]) if time is not None and self._timed is not False else 0
        if self._timed is None:
            self._timed = time is not None
        return reals, time_ns

    def _parsed(self, rows: list[tuple[Float32Array, int]]) -> Parsed:
        values = np.array([values for values, _ in rows], np.float32).reshape(len(rows), len(self._channels))
        times_ns = np.array([time_ns for _, time_ns in rows], np.int64) if self._timed else None
        return Parsed(values, times_ns)


class _Json:
    """NDJSON through msgspec's typed decoders: the three forms of a reading, the one that came last tried first."""

    def __init__(self, channels: tuple[str, ...]) -> None:
        n = len(channels)
        time_keys = [key for key in TIME_KEYS if key not in channels]
        names = [f"v{index}" for index in range(n)]
        times = [f"t{index}" for index in range(len(time_keys))]
        renamed = dict(zip(names + times, (*channels, *time_keys), strict=True))
        time_fields = [(name, float | str | None, None) for name in times]
        keyed = msgspec.defstruct("Keyed", [*((name, float) for name in names), *time_fields], rename=renamed)
        fixed: Any = tuple[(float,) * n]  # type: ignore[misc]
        listed = msgspec.defstruct("Listed", [("values", fixed), *time_fields], rename=renamed)
        get_values: Callable[[Any], Sequence[float]] = operator.attrgetter(*names)
        self._keyed = _Form(keyed, get_values if n > 1 else lambda item: (item.v0,), times, b"{", b"}")
        self._listed = _Form(listed, operator.attrgetter("values"), times, b"{", b"}")
        self._bare = _Form(fixed, lambda item: item, [], b"[", b"]")
        self._last = self._keyed
        self._keys = re.compile("|".join(map(re.escape, (f"$.{key}" for key in time_keys))) or "(?!)")

    def chunk(self, lines: bytes) -> tuple[Any, Any] | None:
        form = self._last
        count = lines.count(b"\n")
        # decode_lines does not care where lines end; so that each item is one line, each must begin and end as one
        if not lines.startswith(form.opens) or lines.count(form.between) != count - 1:
            return None
        items = form.decoder.decode_lines(lines)
        if len(items) != count:
            return None
        return np.array([*map(form.values, items)], np.float64), form.times(items)

    def line(self, line: bytes) -> _Row:
        line = line.strip().removeprefix(b"\xef\xbb\xbf")
        forms = [self._bare] if line[:1] == b"[" else [self._keyed, self._listed]
        if self._last in forms:
            forms.sort(key=lambda form: form is not self._last)
        first: _RefusedLineError | None = None
        for form in forms:
            try:
                item = form.decoder_of_one.decode(line)
            except (msgspec.DecodeError, RecursionError) as error:
                refused = _RefusedLineError(self._reason(error, line))
                # of a list that is wrong, not that its keys are missing
                if first is None or first.reason == "missing_channel":
                    first = refused
                continue
            self._last = form
            times = form.times([item])
            return form.values(item), None if times is None else times[0]
        assert first is not None
        raise first

    def _reason(self, error: Exception, line: bytes) -> Reason:
        text = str(error)
        if not isinstance(error, msgspec.ValidationError):
            return "not_finite" if re.search(rb"\b(NaN|Infinity|nan|inf)\b", line) else "not_json"
        if "missing required" in text:
            return "missing_channel"
        if self._keys.search(text):
            return "bad_time"
        if "out of range" in text:
            return "not_finite"
        if "of length" in text:
            return "wrong_count"
        return "not_a_number"


class _Form:
    """One way to write a reading as JSON."""

    def __init__(
        self, kind: Any, values: Callable[[Any], Sequence[float]], times: list[str], opens: bytes, closes: bytes
    ) -> None:
        self.decoder_of_one = msgspec.json.Decoder(kind)
        self.decoder = self.decoder_of_one
        self.values = values
        self.opens = opens
        self.between = closes + b"\n" + opens
        self._times = [operator.attrgetter(name) for name in times]

    def times(self, items: list[Any]) -> list[float | str | None] | None:
        """By the first of the time's keys that the first item has; None where it has none."""
        for get in self._times:
            if get(items[0]) is not None:
                return [get(item) for item in items]
        return None


@dataclass(frozen=True, slots=True)
class Columns:
    """Which of ``width`` columns holds which channel, in the model's order, and the time."""

    width: int
    channels: tuple[int, ...]
    time: int | None


class _Csv:
    """CSV whose delimiter (comma, semicolon or tab) the first line shows."""

    def __init__(self, channels: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self._wanted = channels
        self._delimiter = b""
        self._unusable = False  # a header has come that lacks a channel
        self.columns: Columns | None = self.named(columns) if columns else None

    def named(self, names: Sequence[str]) -> Columns:
        """Raises `_RefusedLineError` where a channel has no column."""
        try:
            where = tuple(names.index(name) for name in self._wanted)
        except ValueError:
            raise _RefusedLineError("missing_channel") from None
        keys = [key for key in TIME_KEYS if key in names and key not in self._wanted]
        return Columns(len(names), where, names.index(keys[0]) if keys else None)

    def chunk(self, lines: bytes) -> tuple[Any, Any] | None:
        columns = self.columns
        if columns is None or not self._delimiter or any(odd in lines for odd in (b'"', b"_", b"\r")):
            return None
        # each end of line becomes a field of its own: a line with too few or too many shows by its place
        split = self._delimiter
        fields = lines[:-1].replace(b"\n", split + b"\n" + split).split(split)
        step = columns.width + 1
        count = lines.count(b"\n")
        ends = fields[columns.width :: step]
        if len(fields) != count * step - 1 or len(ends) != count - 1 or ends.count(b"\n") != count - 1:
            return None
        values = np.array([[*map(float, fields[index::step])] for index in columns.channels], np.float64).T
        if columns.time is None:
            return values, None
        times = fields[columns.time :: step]
        try:
            return values, [*map(float, times)]
        except ValueError:
            return values, [time.decode() for time in times]

    def line(self, line: bytes) -> _Row | None:
        """None for a header."""
        line = line.removeprefix(b"\xef\xbb\xbf")
        delimiter = self._delimiter or next((d for d in (b",", b";", b"\t") if d in line), b",")
        try:
            fields = next(csv.reader([line.decode()], delimiter=delimiter.decode(), skipinitialspace=True))
        except (UnicodeDecodeError, csv.Error):
            raise _RefusedLineError("not_a_number") from None
        fields = [field.strip() for field in fields]
        if self._is_header(fields):
            self.columns, self._unusable = None, True
            self.columns, self._unusable = self.named(fields), False
            self._delimiter = delimiter
            return None
        if self._unusable:
            raise _RefusedLineError("missing_channel")
        columns = self.columns or Columns(len(self._wanted), tuple(range(len(self._wanted))), None)
        if len(fields) != columns.width:
            raise _RefusedLineError("wrong_count")
        values = [_number(fields[index]) for index in columns.channels]
        self.columns, self._delimiter = columns, delimiter
        if columns.time is None:
            return values, None
        time = fields[columns.time]
        if not time:
            raise _RefusedLineError("bad_time")
        try:
            return values, _number(time)
        except _RefusedLineError:
            return values, time

    def _is_header(self, fields: list[str]) -> bool:
        known = any(field in self._wanted or field in TIME_KEYS for field in fields)
        return known and not any(_is_number(field) for field in fields)


def _number(field: str) -> float:
    if "_" in field or not field.isascii():  # Python's own notation, and other scripts' digits
        raise _RefusedLineError("not_a_number")
    try:
        return float(field)
    except ValueError:
        raise _RefusedLineError("not_a_number") from None


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except _RefusedLineError:
        return False
    return True


def _times_ns(times: Sequence[float | str | None]) -> Int64Array:
    """Raises `_RefusedLineError` for a time that is none, or out of int64's reach."""
    if any(type(time) is not float for time in times):
        return np.array([_time_ns(time) for time in times], np.int64)
    seconds = np.array(times, np.float64)
    if not (np.abs(seconds) < MAX_TIME_S).all():  # NaN is not, either
        raise _RefusedLineError("bad_time")
    return np.rint(seconds * 1e9).astype(np.int64)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _time_ns(time: float | str | None) -> int:
    if isinstance(time, float):
        return int(_times_ns([time])[0])
    try:
        moment = datetime.fromisoformat(time or "")
    except ValueError:
        raise _RefusedLineError("bad_time") from None
    try:
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    except OverflowError:
        raise _RefusedLineError("bad_time") from None
    time_ns = since // timedelta(microseconds=1) * 1000
    if abs(time_ns) >= MAX_TIME_S * 1e9:
        raise _RefusedLineError("bad_time")
    return time_ns
