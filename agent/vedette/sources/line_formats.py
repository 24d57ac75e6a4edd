"""The two ways to write a reading as a line of text, JSON and CSV: a line by itself, or a chunk of good ones at once.

What cannot be used is a `RefusedLineError`, which says why. `vedette.sources.lines` says what a reading looks like.
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

from vedette.contract.types import Int64Array

MAX_TIME_S: Final = 9.2e9  # int64 nanoseconds reach a little further
TIME_KEYS: Final = ("t", "time", "timestamp")


Reason: TypeAlias = Literal[
    "not_json",  # no object or list of JSON, or no UTF-8
    "missing_channel",  # a key or column that the model wants is not there
    "duplicate_column",  # a header that names a channel, or the time, twice
    "wrong_count",  # a list or a line of CSV with too few or too many values
    "not_a_number",  # text, null, true or false
    "not_finite",  # NaN, infinity, or beyond float32
    "bad_time",  # no time although others have one, or one that cannot be
    "too_long",  # more than MAX_LINE bytes without an end of line
    "cut_off",  # the stream broke off before the line's end
    "joined_midway",  # what came before the first end of line of a wire that was joined at some moment
    "retained",  # an old message that a broker keeps: nobody knows how old
]


class RefusedLineError(Exception):
    """A line is no reading. Never leaves `vedette.sources.lines`."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


Row: TypeAlias = tuple[Sequence[float], float | str | None]
"""A reading: its values in the model's order, and its time, seconds or ISO 8601; None where it says none."""


class JsonReadings:
    """NDJSON through msgspec's typed decoders: the three forms of a reading, the one that came last tried first."""

    def __init__(self, channels: tuple[str, ...], time_keys: tuple[str, ...]) -> None:
        n = len(channels)
        time_keys = tuple(key for key in time_keys if key not in channels)
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
        self._used = {*channels, "values"}
        self._keys = re.compile("|".join(map(re.escape, (f"`$.{key}`" for key in time_keys))) or "(?!)")

    def chunk(self, lines: bytes) -> tuple[Any, Any] | None:
        """All values, (n, channels) float64, and the times, if any. None where not every line is of one good form.

        Raises what parsing raises.
        """
        form = self._last
        count = lines.count(b"\n")
        # decode_lines does not care where lines end; so that each item is one line, each must begin and end as one
        if not lines.startswith(form.opens) or lines.count(form.between) != count - 1:
            return None
        items = form.decoder.decode_lines(lines)
        if len(items) != count:
            return None
        return np.array([*map(form.values, items)], np.float64), form.times(items)

    def line(self, line: bytes) -> Row:
        """One reading. Raises `RefusedLineError`."""
        line = line.strip().removeprefix(b"\xef\xbb\xbf")
        if line[:1] not in (b"{", b"["):
            raise RefusedLineError("not_json")  # a line of CSV begins as a number, which is JSON and no reading
        forms = [self._bare] if line[:1] == b"[" else [self._keyed, self._listed]
        if self._last in forms:
            forms.sort(key=lambda form: form is not self._last)
        first: RefusedLineError | None = None
        for form in forms:
            try:
                item = form.decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                refused = RefusedLineError(self._reason(error, line))
                # of a list that is wrong, not that its keys are missing
                if first is None or first.reason == "missing_channel":
                    first = refused
                continue
            self._last = form
            times = form.times([item])
            return form.values(item), None if times is None else times[0]
        assert first is not None
        raise first

    def unused(self, line: bytes) -> tuple[str, ...]:
        """The keys of a reading that nobody uses, and that could be its time: perhaps one is."""
        try:
            item = msgspec.json.decode(line.strip().removeprefix(b"\xef\xbb\xbf"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ()
        pairs = item.items() if isinstance(item, dict) else ()
        return tuple(key for key, value in pairs if key not in self._used and type(value) in (int, float, str))

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
        self.decoder = msgspec.json.Decoder(kind)
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


class CsvReadings:
    """CSV whose delimiter (comma, semicolon or tab) the first line shows."""

    def __init__(self, channels: tuple[str, ...], columns: tuple[str, ...], time_keys: tuple[str, ...]) -> None:
        self._wanted = channels
        self._time_keys = time_keys
        self._delimiter = b""
        self._unusable = False  # a header has come that lacks a channel
        self.untimed: tuple[str, ...] = ()
        """The columns that a header names and nobody uses, where none of it is the time: perhaps one is."""
        self.columns: Columns | None = self.named(columns) if columns else None

    def named(self, names: Sequence[str]) -> Columns:
        """Raises `RefusedLineError` where a channel has no column, or what is wanted has two."""
        if repeated(names, (*self._wanted, *self._time_keys)):
            raise RefusedLineError("duplicate_column")
        try:
            where = tuple(names.index(name) for name in self._wanted)
        except ValueError:
            raise RefusedLineError("missing_channel") from None
        keys = [key for key in self._time_keys if key in names and key not in self._wanted]
        self.untimed = () if keys else tuple(name for name in names if name and name not in self._wanted)
        return Columns(len(names), where, names.index(keys[0]) if keys else None)

    def chunk(self, lines: bytes) -> tuple[Any, Any] | None:
        """As `JsonReadings.chunk`; None before the first line was read by itself, too."""
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

    def line(self, line: bytes) -> Row | None:
        """One reading; None for a header. Raises `RefusedLineError`."""
        line = line.removeprefix(b"\xef\xbb\xbf")
        delimiter = self._delimiter or next((d for d in (b",", b";", b"\t") if d in line), b",")
        try:
            text = line.decode("utf-8", "replace")  # a column that nobody uses may say what it likes, as in a chunk
            fields = next(csv.reader([text], delimiter=delimiter.decode(), skipinitialspace=True))
        except csv.Error:
            raise RefusedLineError("not_a_number") from None
        fields = [field.strip() for field in fields]
        if self._is_header(fields):
            self.columns, self._unusable = None, True
            self.columns, self._unusable = self.named(fields), False
            self._delimiter = delimiter
            return None
        if self._unusable:
            raise RefusedLineError("missing_channel")
        columns = self.columns or Columns(len(self._wanted), tuple(range(len(self._wanted))), None)
        if len(fields) != columns.width:
            raise RefusedLineError("wrong_count")
        values = [_number(fields[index]) for index in columns.channels]
        self.columns, self._delimiter = columns, delimiter
        if columns.time is None:
            return values, None
        time = fields[columns.time]
        if not time:
            raise RefusedLineError("bad_time")
        try:
            return values, _number(time)
        except RefusedLineError:
            return values, time

    def _is_header(self, fields: list[str]) -> bool:
        known = any(field in self._wanted or field in self._time_keys for field in fields)
        return known and not any(_is_number(field) for field in fields)


def repeated(names: Sequence[str], wanted: Sequence[str]) -> str:
    """The first column that is wanted, and there twice; "" for none."""
    return next((name for name in wanted if names.count(name) > 1), "")


def _number(field: str) -> float:
    if "_" in field or not field.isascii():  # Python's own notation, and other scripts' digits
        raise RefusedLineError("not_a_number")
    try:
        return float(field)
    except ValueError:
        raise RefusedLineError("not_a_number") from None


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except RefusedLineError:
        return False
    return True


def times_to_ns(times: Sequence[float | str | None]) -> Int64Array:
    """Raises `RefusedLineError` for a time that is none, or out of int64's reach."""
    if any(type(time) is not float for time in times):
        return np.array([_time_ns(time) for time in times], np.int64)
    seconds = np.array(times, np.float64)
    if not (np.abs(seconds) < MAX_TIME_S).all():  # NaN is not, either
        raise RefusedLineError("bad_time")
    return np.rint(seconds * 1e9).astype(np.int64)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _time_ns(time: float | str | None) -> int:
    if isinstance(time, float):
        return int(times_to_ns([time])[0])
    try:
        moment = datetime.fromisoformat(time or "")
    except ValueError:
        raise RefusedLineError("bad_time") from None
    try:
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    except OverflowError:
        raise RefusedLineError("bad_time") from None
    time_ns = since // timedelta(microseconds=1) * 1000
    if abs(time_ns) >= MAX_TIME_S * 1e9:
        raise RefusedLineError("bad_time")
    return time_ns
