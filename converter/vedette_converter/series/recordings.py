"""Recordings in a folder, a file each: ``.csv`` with a line of names on top, ``.ndjson`` or ``.jsonl``, or ``.npy``."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vedette.contract.errors import ReadingsError
from vedette.contract.manifest import Dataset
from vedette.contract.types import Float32Array, Int64Array
from vedette.recordings import MAX_BYTES, SUFFIXES, TAKE_OUT, read_recording

OF_SENSORS: Final = frozenset({".csv", ".ndjson"})  # the others are found beside pictures, too
MAX_LINE: Final = 65_536  # bytes; of names
_NEEDED: Final = "files named .csv, .ndjson, .jsonl or .npy"


@dataclass(frozen=True, slots=True)
class Recording:
    """One file."""

    path: Path
    group: str
    """Recordings of one group stay on one side of every split."""
    class_id: int = -1
    """The line of the labels' file, from 0; -1 where it carries no label."""


@dataclass(frozen=True, slots=True)
class Read:
    """What is in a recording. ``values``: (n, columns) float32, finite. ``times_ns``: (n,) int64, rising or not, or None."""

    values: Float32Array
    times_ns: Int64Array | None
    doubt: str = ""
    """What to ask where there are no times, and a column that nobody uses might be one."""


def holds_recordings(path: Path) -> bool:
    """Whether a folder holds ``.csv`` or ``.ndjson`` files, right in it or below."""
    return path.is_dir() and any(file.suffix.lower() in OF_SENSORS for file in _seen(path))


def list_recordings(folder: Path, group: str) -> list[Recording]:
    """Every recording in a folder and the folders below it, by path. ``group``: see `vedette_converter.recipe.series`.

    Hidden files and folders, in which editors and systems keep copies, are left.
    Raises `ReadingsError` where there are none.
    """
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, "No such folder")
        found = sorted(path for path in _seen(folder) if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise ReadingsError("folder cannot be read", where=folder, found=error.strerror or str(error)) from None
    if not found:
        raise ReadingsError("no recordings", where=folder, expected=_NEEDED)
    return [Recording(path, _group(path, folder, group)) for path in found]


def _seen(folder: Path) -> Iterator[Path]:
    """Everything below it that is not hidden."""
    return (path for path in folder.rglob("*") if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def list_labelled(folder: Path, labels: Sequence[str], group: str) -> list[Recording]:
    """``folder/LABEL/*.csv``, one folder a label. Raises `ReadingsError` where folders and labels do not fit together."""
    if not folder.is_dir():
        raise ReadingsError("folder cannot be read", where=folder, expected="a folder with one folder a label")
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    if missing := [label for label in labels if label not in found]:
        raise ReadingsError(
            "no folder for a label", where=folder / missing[0], expected="one folder a label: " + ", ".join(labels),
            found=", ".join(sorted(found)) or "no folders",
        )  # fmt: skip
    if extra := sorted(found - set(labels)):
        raise ReadingsError("a folder that is no label", where=folder / extra[0], expected=", ".join(labels))
    return [
        Recording(one.path, one.group, number)
        for number, label in enumerate(labels)
        for one in list_recordings(folder / label, group)
    ]


def _group(path: Path, folder: Path, separator: str) -> str:
    if separator and separator in path.stem:
        return path.stem.partition(separator)[0]
    return path.stem if separator else path.relative_to(folder).as_posix()


def read(path: Path, columns: Sequence[str], time: str) -> Read:
    """The named columns, in this order, and the times where there are some, as the agent reads them.

    ``time``: what their column or key is called where it has another name than the usual ones. A ``.npy`` has no names: its
    columns are these, in this order, and no more. Raises `ReadingsError` with the file and the line.
    """
    doubts: list[str] = []
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReadingsError(
                "recording too large", where=path, expected=f"at most {MAX_BYTES} bytes", fix="cut it in two"
            )
        if path.suffix.lower() == ".npy":
            return _read_npy(path, columns)
        if path.suffix.lower() == ".csv":
            _expect_names(path, columns)
        found = read_recording(path, tuple(columns), time=time, on_doubt=doubts.append)
    except OSError as error:
        raise ReadingsError("recording cannot be read", where=path, found=error.strerror or str(error)) from None
    return Read(found.values, found.times_ns if found.timed else None, *doubts)


def _read_npy(path: Path, columns: Sequence[str]) -> Read:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ReadingsError(
            "recording cannot be read", where=path, expected="an array of numbers", found=str(error)
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 2:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise ReadingsError("recording", where=path, expected=f"numbers, (readings, {len(columns)})", found=found)
    if array.shape[1] != len(columns):
        raise ReadingsError(
            "recording", where=path, expected=f"{len(columns)} columns: {', '.join(columns)}", found=f"{array.shape[1]}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        values = np.ascontiguousarray(array, np.float32)
    if not len(values):
        raise ReadingsError("recording is empty", where=path, expected="one reading at least")
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise ReadingsError(
            f"reading {row + 1}: {columns[column]}", where=path, expected="a finite number",
            found=f"{array[row, column]}", fix=TAKE_OUT,
        )  # fmt: skip
    return Read(values, None)


def _expect_names(path: Path, columns: Sequence[str]) -> None:
    """The agent takes lines of numbers alone for the model's channels; what is learned from shall say what it is."""
    with path.open("rb") as file:
        line = file.readline(MAX_LINE)
    if b"\0" in line:
        raise ReadingsError("recording is no text", where=path, expected="UTF-8", found="bytes of 0, as UTF-16 has")
    text = line.decode("utf-8-sig", "replace")  # of columns that nobody uses
    mark = next((mark for mark in ",;\t" if mark in text), ",")
    try:
        names = [name.strip() for name in next(csv.reader([text], delimiter=mark, skipinitialspace=True), [])]
    except csv.Error as error:
        raise ReadingsError(
            "recording cannot be read", where=f"{path}:1", found=str(error), fix="end each line with \\n, or \\r\\n"
        ) from None
    if missing := [name for name in columns if name not in names]:
        raise ReadingsError(
            f"no column {missing[0]}", where=f"{path}:1", expected=", ".join(columns),
            found=", ".join(names[:32])[:200] or "an empty line",
            fix="lines of JSON are named .ndjson" if text[:1] in ("{", "[") else "the first line names the columns",
        )  # fmt: skip


def dataset(name: str, recordings: Sequence[Recording], windows: int) -> Dataset:
    """What a manifest says of windows: how many, and the sha256 over the sha256 of every recording, by path."""
    return Dataset(name=name, count=windows, sha256=digest(recordings))


def digest_of(path: Path) -> str:
    """sha256 of a recording's file. Raises `ReadingsError` naming it."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ReadingsError("recording cannot be read", where=path, found=error.strerror or str(error)) from None


def digest(recordings: Sequence[Recording]) -> str:
    """sha256 over the sha256 of every recording's file, in order of their paths."""
    ordered = sorted(recording.path for recording in recordings)
    each = [digest_of(path) for path in ordered]
    return hashlib.sha256("\n".join(each).encode()).hexdigest()
