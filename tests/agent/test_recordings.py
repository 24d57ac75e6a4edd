"""Recordings as files: what is read of them, and which line is named where one cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vedette.contract.errors import ReadingsError
from vedette.recordings import CHUNK_BYTES, read_recording

XY = ("x", "y")
LINE = "1.000000000000000000000,2.000000000000000000000\n"
BEYOND = LINE * (3 * CHUNK_BYTES // 2 // len(LINE))  # lines that end in the second chunk


def recording(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "times_ns"),
    [
        ("header.csv", "y,x,t,z\n2,1,0.5,9\n4,3,0.75,9\n", [500_000_000, 750_000_000]),
        ("bare.csv", "1,2\n3,4\n", None),
        ("tabs.csv", "time\tx\ty\r\n1\t1\t2\r\n2\t3\t4\r\n", [10**9, 2 * 10**9]),
        ("keyed.ndjson", '{"y": 2, "x": 1, "t": 0.5}\n{"t": 0.75, "x": 3, "y": 4}', [500_000_000, 750_000_000]),
        ("listed.jsonl", "[1, 2]\n\n[3, 4]\n", None),
        ("iso.ndjson", '{"timestamp": "1970-01-01T00:00:01Z", "x": 1, "y": 2}\n'
         '{"timestamp": "1970-01-01T00:00:02Z", "x": 3, "y": 4}\n', [10**9, 2 * 10**9]),
    ],
)  # fmt: skip
def test_lines_are_read(tmp_path: Path, name: str, text: str, times_ns: list[int] | None) -> None:
    found = read_recording(recording(tmp_path, name, text), XY)
    assert found.values.tolist() == [[1, 2], [3, 4]]
    assert found.values.dtype == np.float32
    assert found.timed == (times_ns is not None)
    assert found.times_ns.tolist() == (times_ns or [0, 0])


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("timestamp_s,x,y", "'timestamp_s'"),
        ("x,Timestamp (s),y", "'Timestamp (s)'"),
        ("note,x,y,millis", "'note', 'millis'"),
        ("t,x,y", ""),
        ("x,y,note,time", ""),
        ("x,y", ""),
        ("x,,y", ""),
    ],
)
def test_a_header_that_names_no_time_is_doubted_where_a_column_is_not_used(
    tmp_path: Path, header: str, told: str
) -> None:
    doubts: list[str] = []
    row = ",".join("1" for _ in header.split(","))
    read_recording(recording(tmp_path, "a.csv", f"{header}\n{row}\n{row}\n"), XY, on_doubt=doubts.append)
    if not told:
        assert doubts == []
    else:
        [doubt] = doubts
        assert told in doubt and "t, time or timestamp" in doubt and "in seconds" in doubt


def test_long_files_are_read_whole(tmp_path: Path) -> None:
    count = 3 * CHUNK_BYTES // 20
    lines = "".join(f"{i / 100:.2f},{i}.5,-{i}\n" for i in range(count))
    found = read_recording(recording(tmp_path, "long.csv", "t,x,y\n" + lines), XY)
    assert len(found) == count
    np.testing.assert_array_equal(found.values[:, 1], -np.arange(count, dtype=np.float32))
    np.testing.assert_array_equal(found.times_ns, np.arange(count) * 10_000_000)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_arrays_are_read(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]], dtype))
    found = read_recording(tmp_path / "a.npy", XY)
    assert found.values.tolist() == [[1, 2], [3, 4]]
    assert found.values.dtype == np.float32 and not found.timed


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "x,y\n1,2\n3,oops\n5,6\n", "a.csv:3: a line that cannot be used (not a number): expected values of x, y"),
        ("a.csv", "x,y\n1,2\n3\n", "a.csv:3: a line that cannot be used (wrong count)"),
        ("a.csv", "x,z\n1,2\n", "a.csv:1: a line that cannot be used (missing channel)"),
        ("a.csv", "x,y,x\n1,2,3\n", "a.csv:1: a line that cannot be used (duplicate column)"),
        ("a.csv", "t,x,y,t\n1,2,3,4\n", "a.csv:1: a line that cannot be used (duplicate column)"),
        ("a.csv", "t,x,y\n1,1,2\n,1,2\n", "a.csv:3: a line that cannot be used (bad time)"),
        ("a.csv", "x,y\n1,inf\n", "a.csv:2: a line that cannot be used (not finite)"),
        ("a.csv", "x,y\n" + BEYOND + "1,zwei\n1,2\n", f"a.csv:{2 + BEYOND.count(chr(10))}: a line"),
        ("a.csv", "x,y\n1,2\n3,4,5", "a.csv:3: a line that cannot be used (wrong count)"),
        ("a.csv", b"\xff\xfe1,2\n", "; write it as UTF-8"),
        ("a.csv", "x [g],y [g]\n1,2\n", "found 'x [g],y [g]'; the first line names the columns, or has"),
        ("a.csv", "x,y\n1,\n", "a.csv:2: a line that cannot be used (not a number): expected values of x, y, found '1,'; t"),
        ("a.csv", "x,y\n", "a.csv: not one reading"),
        ("a.csv", "", "a.csv: not one reading"),
        ("a.csv", "1," * 40_000 + "\n", "a.csv:1: a line that cannot be used (too long)"),
        ("a.ndjson", '{"x": 1, "y": 2}\n{"x": 1}\n', "a.ndjson:2: a line that cannot be used (missing channel)"),
        ("a.ndjson", "nothing\n", "a.ndjson:1: a line that cannot be used (not json)"),
        ("a.npy", b"PK", "a.npy: no array"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000, 2), }"
         + b" " * 31 + b"\n", "a.npy: no array"),
        ("a.txt", "1,2\n", "a.txt: no recording: expected a name that ends in .csv, .jsonl, .ndjson, .npy"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_clear_line(tmp_path: Path, name: str, text: str | bytes, problem: str) -> None:
    with pytest.raises(ReadingsError) as caught:
        read_recording(recording(tmp_path, name, text), XY)
    assert problem in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (
            np.zeros((2, 3)),
            "array does not fit: expected numbers of shape (readings, 2), for x, y, found float64 (2, 3)",
        ),
        (np.zeros(4), "array does not fit"),
        (np.array([["a", "b"]]), "array does not fit"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "reading 2: y: expected a finite number, found nan"),
        (np.array([[1.0, 1e39]]), "reading 1: y: expected a finite number, found 1e+39"),
        (np.zeros((0, 2)), "not one reading"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: np.ndarray, problem: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ReadingsError) as caught:
        read_recording(tmp_path / "a.npy", XY)
    assert problem in str(caught.value)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}, {}]], object), allow_pickle=True)
    with pytest.raises(ReadingsError, match="no array"):
        read_recording(tmp_path / "a.npy", XY)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReadingsError, match=r"none\.csv: cannot be read: found No such file"):
        read_recording(tmp_path / "none.csv", XY)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ReadingsError, match="Is a directory"):
        read_recording(tmp_path / "folder.csv", XY)


def test_names_beyond_ascii(tmp_path: Path) -> None:
    path = recording(tmp_path, "a.ndjson", json.dumps({"värme, 'yta'": 1.5, "y": 2}) + "\n")
    assert read_recording(path, ("värme, 'yta'", "y")).values.tolist() == [[1.5, 2.0]]
