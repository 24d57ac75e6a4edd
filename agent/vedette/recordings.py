"""A recording's file -> its readings: ``.csv``, ``.ndjson`` or ``.jsonl`` lines as live sources take them, or ``.npy``.

Strict, unlike a live source: the first line that cannot be used is an error that names it.
"""

from __future__ import annotations

import re
import tokenize
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np

from .contract.errors import ReadingsError
from .contract.types import Readings
from .sources.lines import LineCutter, LineParser, Tally
from .sources.unusable import advice, untimed_lines

MAX_BYTES: Final = 256 * 1024 * 1024
CHUNK_BYTES: Final = 1024 * 1024
FORMATS: Final[dict[str, Literal["csv", "ndjson"]]] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
SUFFIXES: Final = frozenset({*FORMATS, ".npy"})
TAKE_OUT: Final = "take out what was not measured; a gap in time is no mistake"


def read_recording(
    path: Path, channels: tuple[str, ...], *, time: str = "", on_doubt: Callable[[str], None] = lambda _: None
) -> Readings:
    """All readings of a file: the values of these channels in this order, with the file's times where it has some.

    ``arrived_ns`` is 0, as are all times where there are none. ``time``: what the time is called where it has another name
    than the usual ones. ``on_doubt``: is told where a column may be the time, and is
    not called so. Raises `ReadingsError` that names file and line.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ReadingsError("no recording", where=path, expected="a name that ends in " + ", ".join(sorted(SUFFIXES)))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReadingsError(
                "recording too large", where=path, expected=f"at most {MAX_BYTES} bytes", fix="cut it into pieces"
            )
        readings = _npy(path, channels) if suffix == ".npy" else _lines(path, channels, time, on_doubt)
    except OSError as error:
        raise ReadingsError("cannot be read", where=path, found=error.strerror or str(error)) from None
    if not len(readings):
        raise ReadingsError("not one reading", where=path)
    return readings


def _lines(path: Path, channels: tuple[str, ...], time: str, on_doubt: Callable[[str], None]) -> Readings:
    tally = Tally()
    cutter, parser = LineCutter(tally), LineParser(channels, tally, format=FORMATS[path.suffix.lower()], time=time)
    parts = []
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            parts.append(parser.parse(cutter.feed(data)))
            if tally.total():
                raise _first_bad_line(path, channels, time)
    parts.append(parser.parse(cutter.end(broken=False)))
    if tally.total():
        raise _first_bad_line(path, channels, time)
    if doubt := untimed_lines(tally):
        on_doubt(doubt)
    values = np.concatenate([part.values for part in parts])
    timed = [part.times_ns for part in parts if part.times_ns is not None and len(part)]
    times_ns = np.concatenate(timed) if timed else np.zeros(len(values), np.int64)
    return Readings(values, times_ns, 0, bool(timed))


def _first_bad_line(path: Path, channels: tuple[str, ...], time: str) -> ReadingsError:
    """Once more, line by line, for whole pieces of a file do not say which it was."""
    tally = Tally()
    cutter, parser = LineCutter(tally), LineParser(channels, tally, format=FORMATS[path.suffix.lower()], time=time)
    number = 0
    with path.open("rb") as file:
        # a line without an end is no longer kept than the cutter would keep it
        while not tally.total() and (data := file.readline(CHUNK_BYTES)):
            number += 1
            parser.parse(cutter.feed(data))
    parser.parse(cutter.end(broken=False))
    reason, example = next(iter(tally.problems.items()), ("", ""))
    return ReadingsError(
        f"a line that cannot be used ({reason.replace('_', ' ')})", where=f"{path}:{number}",
        expected="values of " + ", ".join(channels), found=repr(example),
        fix=_fix(reason, example, len(channels), FORMATS[path.suffix.lower()], number),
    )  # fmt: skip


def _fix(reason: str, example: str, channels: int, format: Literal["csv", "ndjson"], number: int) -> str:
    """What to do about such a line of a file."""
    if re.search(r"\\x[0-9a-f]{2}", example):  # as a byte that is none of UTF-8's is shown
        return "write it as UTF-8"
    if format == "ndjson" and example[:1] not in ("{", "["):
        return "lines of commas are named .csv"
    if said := advice(reason, example, channels):
        return said
    if format == "csv" and number == 1:
        return "the first line names the columns, or has the channels' values in this order"
    return TAKE_OUT if reason in ("not_a_number", "not_finite") else ""


def _npy(path: Path, channels: tuple[str, ...]) -> Readings:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it was written by Python 2
            # mapped, so that a header which claims more than the file holds is an error and no allocation
            array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, TypeError, EOFError, SyntaxError, OverflowError, RecursionError, MemoryError,
            tokenize.TokenError) as error:  # fmt: skip
        # numpy reads the header as Python, and falls back on an older syntax by its tokens
        raise ReadingsError("no array", where=path, expected="a .npy file", found=str(error)) from None
    expected = f"numbers of shape (readings, {len(channels)}), for {', '.join(channels)}"
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != len(channels):
        raise ReadingsError("array does not fit", where=path, expected=expected, found=f"{array.dtype} {array.shape}")
    with np.errstate(over="ignore"):
        values = np.array(array, np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise ReadingsError(
            f"reading {row + 1}: {channels[column]}", where=path, expected="a finite number",
            found=f"{array[row, column]}",
        )  # fmt: skip
    return Readings(values, np.zeros(len(values), np.int64), 0, False)
