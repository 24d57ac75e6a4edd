"""A recording of JSON lines, as a sensor's program prints them for the agent -> its columns and times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vedette.contract.errors import ReadingsError
from vedette.contract.types import Int64Array

TIME_KEYS: Final = ("t", "time", "timestamp")  # as the agent knows them
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_S: Final = 9e9  # int64 nanoseconds reach a little further


def read_ndjson(path: Path, columns: Sequence[str], time: str) -> tuple[NDArray[np.float64], Int64Array | None]:
    """(n, columns), and the times in nanoseconds where the first line has one.

    A line is an object with these keys, an object with ``values``, a list in this order, or a bare list of them. Its time
    is keyed ``time``, ``t``, ``time`` or ``timestamp``, the first that is there: seconds, or ISO 8601 (UTC without a zone).
    Raises `ReadingsError` with the file and the line.
    """
    keys = tuple(key for key in dict.fromkeys((time, *TIME_KEYS)) if key not in columns)
    rows: list[list[float]] = []
    times: list[int | None] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            reading = _decoded(line, where, columns)
            rows.append(_values(reading, where, columns))
            times.append(_time_ns(reading, where, keys))
            if (times[-1] is None) != (times[0] is None):
                raise ReadingsError(
                    "a line of the recording", where=where, expected="a time in every line or in none",
                    found="one without" if times[-1] is None else "one with a time, after others without",
                )  # fmt: skip
    known = [at for at in times if at is not None]
    return np.array(rows, np.float64).reshape(-1, len(columns)), np.array(known, np.int64) if known else None


def _decoded(line: bytes, where: str, columns: Sequence[str]) -> dict[str, Any] | list[Any]:
    try:
        reading = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = f"{line[:40].decode('utf-8', 'backslashreplace')!r}: {error}"
        raise ReadingsError(
            "a line of the recording", where=where, expected=_example(columns), found=found,
            fix="lines of commas are named .csv",
        ) from None  # fmt: skip
    if not isinstance(reading, dict | list):
        raise ReadingsError("a line of the recording", where=where, expected=_example(columns), found=repr(reading))
    return reading


def _values(reading: dict[str, Any] | list[Any], where: str, columns: Sequence[str]) -> list[float]:
    listed = reading if isinstance(reading, list) else reading.get("values") if columns[0] not in reading else None
    if isinstance(listed, list):
        if len(listed) != len(columns):
            expected = f"{len(columns)} values, {', '.join(columns)}"
            raise ReadingsError("a line of the recording", where=where, expected=expected, found=f"{len(listed)}")
        return [_number(value, where, name) for name, value in zip(columns, listed, strict=True)]
    assert isinstance(reading, dict)
    if missing := [name for name in columns if name not in reading]:
        found = ", ".join(reading)[:200] or "an empty object"
        raise ReadingsError(f"no key {missing[0]}", where=where, expected=", ".join(columns), found=found)
    return [_number(reading[name], where, name) for name in columns]


def _number(value: Any, where: str, name: str) -> float:
    if type(value) not in (int, float):  # true is none
        raise ReadingsError(name, where=where, expected="a number", found=repr(value)[:40])
    try:
        return float(value)
    except OverflowError:
        return math.inf  # refused later, as every value that is not finite


def _time_ns(reading: dict[str, Any] | list[Any], where: str, keys: Iterable[str]) -> int | None:
    key = next((key for key in keys if isinstance(reading, dict) and reading.get(key) is not None), None)
    if key is None or not isinstance(reading, dict):
        return None
    at = reading[key]
    if isinstance(at, int | float) and not isinstance(at, bool) and abs(at) < _MAX_S:
        return round(at * 1e9)
    if isinstance(at, str):
        try:
            moment = datetime.fromisoformat(at)
            since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
        except (ValueError, OverflowError):
            pass
        else:
            if abs(since.total_seconds()) < _MAX_S:
                return since // timedelta(microseconds=1) * 1000
    raise ReadingsError(key, where=where, expected="seconds, or ISO 8601", found=repr(at)[:40])


def _example(columns: Sequence[str]) -> str:
    return "a reading as JSON, such as " + "{" + ", ".join(f'"{name}": 0.1' for name in ("t", *columns[:2])) + "}"
