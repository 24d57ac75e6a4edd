"""Recordings are read, sorted out by purpose and cut into windows; what cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import series_project
from numpy.typing import NDArray
from series_project import write_csv

from vedette.contract.errors import ReadingsError, UserError
from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.types import TensorSpec
from vedette.recordings import read_recording
from vedette_converter.recipe.series import Jitter, Series
from vedette_converter.series import recordings, windows
from vedette_converter.series.given import sort_out
from vedette_converter.series.taken import oddities
from vedette_converter.train.data import PLAIN

SPEC = SeriesInput(channels=(Channel(name="x"), Channel(name="y")), length=4, stride=2, rate_hz=10.0)
NAMES = ("x", "y")


def refusal(path: Path, text: str, columns: tuple[str, ...] = NAMES) -> str:
    path.write_text(text)
    with pytest.raises(ReadingsError) as caught:
        recordings.read(path, columns, "")
    return caught.value.line().replace(str(path), "FILE")


def test_columns_are_found_by_name_in_any_order_and_others_are_left(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text in (
        "\ufeffy, note,time,x\n1,7,0.5,2\n\n3,7,1.5,4\n",
        "y;note;timestamp;x;\r\n1;slow;1970-01-01 00:00:00.5;2;\r\n3;;1970-01-01T01:00:01.5+01:00;4;\r\n",
        "t\ty\tx\n0.5\t1\t2\n1.5\t3\t4\n",
        "at,t,y,x\n0.5,9,1,2\n1.5,8,3,4\n",
    ):
        path.write_text(text)
        found = recordings.read(path, NAMES, "at" if text.startswith("at") else "")
        assert found.values.tolist() == [[2, 1], [4, 3]] and found.values.dtype == np.float32
        assert found.times_ns is not None and found.times_ns.tolist() == [500_000_000, 1_500_000_000]
        read = read_recording(path, NAMES, time="at" if text.startswith("at") else "")
        assert read.values.tolist() == found.values.tolist() and read.times_ns.tolist() == found.times_ns.tolist()
    path.write_text("Time,x,y\n0.5,2,1\n")
    found = recordings.read(path, NAMES, "")
    assert found.times_ns is None and "not used: 'Time'; where one is the time, call it t" in found.doubt


def test_an_array_has_its_columns_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6).reshape(3, 2))
    assert recordings.read(path, NAMES, "").values.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x,z\n1,2\n", "FILE:1: no column y: expected x, y, found x, z; the first line names the columns"),
        ("1,2\n3,4\n", "FILE:1: no column x: expected x, y, found 1, 2"),
        ("", "FILE:1: no column x: expected x, y, found an empty line"),
        ("x,y\r1,2\r", "FILE:1: recording cannot be read: found new-line character seen in unquoted field"),
        ("x y\n1 2\n", "FILE:1: no column x: expected x, y, found x y"),
        ("x,y\n", "FILE: not one reading"),
        (
            "x,y\n1,2\n3,4,5\n",
            "FILE:3: a line that cannot be used (wrong count): expected values of x, y, found '3,4,5'",
        ),
        ("x,y\n1,2\n3\n", "FILE:3: a line that cannot be used (wrong count): expected values of x, y, found '3'"),
        (
            "x,y\n1,2\n3,\n",
            "FILE:3: a line that cannot be used (not a number): expected values of x, y, found '3,'; take",
        ),
        ("x,y\n1,2\n3,broken\n", "FILE:3: a line that cannot be used (not a number)"),
        (
            "x;y\n1,5;2\n",
            "FILE:2: a line that cannot be used (not a number): expected values of x, y, found '1,5;2'; decim",
        ),
        (
            "x,y\n1,2\n3,nan\n",
            "FILE:3: a line that cannot be used (not finite): expected values of x, y, found '3,nan'; t",
        ),
        ("x,y\n1,2\n1e39,4\n", "FILE:3: a line that cannot be used (not finite)"),
        ("time,x,y\nnan,1,2\n", "FILE:2: a line that cannot be used (bad time)"),
        (
            "t,x,y\n1764260000123,1,2\n",
            "FILE:2: a line that cannot be used (bad time): expected values of x, y, found '176",
        ),
        ("t,x,t,y\n1,1,2,2\n", "FILE:1: a line that cannot be used (duplicate column)"),
        ('x,y\n"1,2\n', "FILE:2: a line that cannot be used (wrong count)"),
    ],
)
def test_what_is_wrong_in_a_recording_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path / "a.csv", text).startswith(expected)


def test_json_lines_are_read_as_the_agent_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    for text in (
        '{"t": 0.5, "x": 2, "y": 1.0, "note": null}\n\n{"y": 3, "x": 4, "t": 1.5}\n',
        '\ufeff{"timestamp": "1970-01-01T00:00:00.5", "values": [2, 1]}\n{"timestamp": 1.5, "values": [4, 3]}',
        '{"time": 0.5, "x": 2, "y": 1}\n{"time": "1970-01-01T01:00:01.500+01:00", "values": [4, 3]}\n',
        '{"at": 0.5, "t": 9, "x": 2, "y": 1}\n{"at": 1.5, "t": 8, "x": 4, "y": 3}\n',
    ):
        path.write_text(text)
        found = recordings.read(path, NAMES, "at" if "at" in text[:4] else "")
        assert found.values.tolist() == [[2, 1], [4, 3]] and found.values.dtype == np.float32
        assert found.times_ns is not None and found.times_ns.tolist() == [500_000_000, 1_500_000_000]
    path.write_text("[2, 1]\n[4, 3]\n")
    assert recordings.read(path, NAMES, "").times_ns is None
    assert recordings.list_recordings(tmp_path, "")[0].path == path and recordings.holds_recordings(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "1,2\n",
            "FILE:1: a line that cannot be used (not json): expected values of x, y, found '1,2'; lines of commas are na",
        ),
        ("7\n", "FILE:1: a line that cannot be used (not json)"),
        ('{"x": 1, "z": 2}\n', "FILE:1: a line that cannot be used (missing channel): expected values of x, y, found"),
        (
            '{"x": 1, "y": 2}\n{}\n',
            "FILE:2: a line that cannot be used (missing channel): expected values of x, y, found",
        ),
        ("[1, 2]\n[1]\n", "FILE:2: a line that cannot be used (wrong count): expected values of x, y, found '[1]'"),
        ('{"x": 1, "y": true}\n', "FILE:1: a line that cannot be used (not a number)"),
        ("[1, 1e39]\n", "FILE:1: a line that cannot be used (not finite)"),
        ("\n", "FILE: not one reading"),
        ('{"t": "noon", "x": 1, "y": 2}\n', "FILE:1: a line that cannot be used (bad time)"),
        ('{"t": 1e10, "x": 1, "y": 2}\n', "FILE:1: a line that cannot be used (bad time)"),
        ('{"t": 1, "x": 1, "y": 2}\n[1, 2]\n', "FILE:2: a line that cannot be used (bad time)"),
        ("[1, 2]\n" + "[" * 5000 + "\n", "FILE:2: a line that cannot be used (not "),
        ("[1, 2]\n[1, 1" + "0" * 400 + "]\n", "FILE:2: a line that cannot be used (not finite)"),
    ],
)
def test_what_is_wrong_in_json_lines_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path / "a.ndjson", text).startswith(expected)


def test_json_lines_under_the_name_of_csv_are_told_their_name(tmp_path: Path) -> None:
    said = refusal(tmp_path / "a.csv", '{"t": 0.5, "x": 2, "y": 1}\n')
    assert said.startswith("FILE:1: no column x: expected x, y") and said.endswith("lines of JSON are named .ndjson")
    assert refusal(tmp_path / "a.jsonl", "t,x,y\n1,2,3\n").endswith("lines of commas are named .csv")


def test_what_is_no_text_and_no_array_is_refused(tmp_path: Path) -> None:
    binary, array = tmp_path / "a.csv", tmp_path / "a.npy"
    binary.write_bytes(b"x,y\n\xff\xfe\n")
    with pytest.raises(ReadingsError, match=r"a\.csv:2: a line that cannot be used .*; write it as UTF-8"):
        recordings.read(binary, NAMES, "")
    binary.write_bytes("x,y,°C\n1,2,3\n".encode("latin-1"))
    assert recordings.read(binary, NAMES, "").values.tolist() == [[1, 2]]
    binary.write_bytes("x,y\n1,2\n".encode("utf-16"))
    with pytest.raises(ReadingsError, match="is no text: expected UTF-8, found bytes of 0"):
        recordings.read(binary, NAMES, "")
    for made, expected in (
        (np.zeros((3, 3)), "expected 2 columns: x, y, found 3"),
        (np.zeros(3), r"expected numbers, \(readings, 2\), found float64 \[3\]"),
        (np.array([[{}]]), "cannot be read: expected an array of numbers"),  # a pickle, which could run code
    ):
        np.save(array, made, allow_pickle=True)
        with pytest.raises(ReadingsError, match=expected):
            recordings.read(array, NAMES, "")
    array.write_bytes(b"\x93NUMPY")
    with pytest.raises(ReadingsError, match=r"a\.npy: recording cannot be read"):
        recordings.read(array, NAMES, "")


def test_hidden_copies_are_no_recordings(tmp_path: Path) -> None:
    for name in ("a.csv", ".ipynb_checkpoints/a-checkpoint.csv", "._a.csv"):
        write_csv(tmp_path / "own" / name, "x,y", np.zeros((4, 2)))
    assert [one.path.name for one in recordings.list_recordings(tmp_path / "own", "")] == ["a.csv"]
    (tmp_path / "own" / "a.csv").unlink()
    assert not recordings.holds_recordings(tmp_path / "own")


def test_groups_are_what_stands_before_the_separator(tmp_path: Path) -> None:
    for name in ("run/p1-left.csv", "run/p1-right.csv", "walk/p2.csv"):
        write_csv(tmp_path / name, "x,y", np.zeros((4, 2)))
    assert [one.group for one in recordings.list_recordings(tmp_path, "-")] == ["p1", "p1", "p2"]
    each = [one.group for one in recordings.list_recordings(tmp_path, "")]
    assert each == ["run/p1-left.csv", "run/p1-right.csv", "walk/p2.csv"]
    labelled = recordings.list_labelled(tmp_path, ["walk", "run"], "-")
    assert [(one.path.name, one.class_id) for one in labelled] == [
        ("p2.csv", 0),
        ("p1-left.csv", 1),
        ("p1-right.csv", 1),
    ]


def test_windows_are_cut_and_know_their_recording(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", "time,x,y,load", np.column_stack([np.arange(6) / 10, np.ones((6, 2)), np.arange(6)]))
    gap = np.array([0, 1, 2, 3, 40, 41, 42, 43]) / 10
    write_csv(tmp_path / "b.csv", "time,x,y,load", np.column_stack([gap, np.ones((8, 2)), np.arange(8)]))
    listed = recordings.list_recordings(tmp_path, "")
    made = windows.cut(listed, SPEC, Series(target="last"), quantities=(Channel(name="load"),))
    assert made.values.shape == (4, 4, 2) and made.recording.tolist() == [0, 0, 1, 1]
    assert made.targets.ravel() == pytest.approx([3, 5, 3, 7], abs=1e-4)
    mean = windows.cut(listed, SPEC, Series(target="mean"), quantities=(Channel(name="load"),))
    assert mean.targets.ravel() == pytest.approx([1.5, 3.5, 1.5, 5.5], abs=1e-4)


def test_a_recording_shorter_than_a_window_is_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", "x,y", np.zeros((3, 2)))
    with pytest.raises(ReadingsError, match=r"a\.csv: recording is shorter than a window: expected 4 samples at 10 Hz"):
        windows.cut(recordings.list_recordings(tmp_path, ""), SPEC, Series())


def test_what_became_of_readings_is_said(tmp_path: Path) -> None:
    def rows(times: list[float]) -> NDArray[np.float64]:
        return np.column_stack([times, np.ones((len(times), 2))])

    tenths = np.arange(24) / 10
    for name, times in (
        ("gap", [*tenths[:8], *tenths[14:]]),
        ("late", [*tenths[:8], *tenths[4:]]),
        ("reset", [*tenths + 100, *tenths]),
        ("slow", [*tenths * 3]),
        ("quick", [*np.arange(80) / 200]),
    ):
        write_csv(tmp_path / f"{name}.csv", "t,x,y", rows(times))
    (tmp_path / "untimed.csv").write_text("Time,x,y\n" + "0,1,2\n" * 9)
    made = windows.cut(recordings.list_recordings(tmp_path, ""), SPEC, Series())
    taken = {one.path: own for one, own in zip(made.recordings, made.taken, strict=True)}
    broken, untimed, slow, quick = oddities(taken, SPEC)
    assert untimed.startswith("1 recordings have no times: their samples are taken to be 10 a second (")
    assert "untimed.csv: no column" in untimed and untimed.endswith("or name it as [series] time)")
    assert broken.startswith("3 of 6 recordings are not whole, 1 gaps, 4 late, 1 times the clock was set back: ")
    assert slow.startswith("1 recordings have 3.333 readings a second or more, where the network takes 10")
    assert quick.startswith("1 recordings have up to 200 readings a second") and "above 5 Hz" in quick
    whole = {path: own for path, own in taken.items() if path.name == "slow.csv"}
    assert len(oddities(whole, SPEC)) == 1 and oddities(whole, msgspec.structs.replace(SPEC, rate_hz=10 / 3)) == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (
            np.arange(9),
            "found 9 readings, 8 gaps: they are 1 s apart; is [input] rate_hz their rate? It asks for one every 0.1 s",
        ),
        (
            np.arange(9) // 5,
            "1 gaps, 7 late: 7 of 9 readings are not later than the one before; t must rise from reading to reading",
        ),
        (
            np.arange(9)[::-1] * 2,
            "8 times the clock was set back: 8 of 9 readings are not later than the one before; t must rise",
        ),
        (
            np.arange(9) * 100,
            "found 9 readings, 8 gaps: readings are 100 s apart by their t, the model wants 0.1 s: is t in mill",
        ),
    ],
)
def test_a_recording_whose_times_give_no_window_is_told_why(
    tmp_path: Path, times: NDArray[np.float64], expected: str
) -> None:
    write_csv(tmp_path / "a.csv", "t,x,y", np.column_stack([times, np.ones((len(times), 2))]))
    with pytest.raises(ReadingsError) as caught:
        windows.cut(recordings.list_recordings(tmp_path, ""), SPEC, Series())
    assert expected in caught.value.line()


def test_a_channel_that_never_changes_is_divided_by_1(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", "x,y", np.column_stack([np.full(8, 7.0), np.tile([1.0, 3.0], 4)]))
    made = windows.cut(recordings.list_recordings(tmp_path, ""), SPEC, Series())
    mean, std = windows.moments(made)
    assert mean == (7.0, 2.0) and std == (1.0, 1.0)


def test_looks_depend_on_the_window_and_the_view_alone(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", "x,y", np.random.default_rng(0).normal(size=(40, 2)))
    made = windows.cut(recordings.list_recordings(tmp_path, ""), SPEC, Series())
    tensor = TensorSpec("in", (1, 4, 1, 2), np.dtype(np.float32))
    jitter = Jitter(noise=0.1, scale=0.2)
    samples = windows.training_samples(made, SPEC, tensor, np.empty((len(made), 0), np.float32), jitter)
    assert samples.inputs.shape == (len(made), 4, 1, 2) and not len(samples.class_ids)
    batches = samples.batches(4, PLAIN, 3)
    alone = batches.looks(np.array([5]), 1)
    assert (batches.looks(np.array([2, 5, 7]), 1)[1] == alone[0]).all()
    assert (batches.looks(np.array([5]), 2) != alone).any()
    assert (samples.batches(4, None, 3).looks(np.arange(4), 1) == samples.inputs[:4]).all()
    seen = [batch[0] for batch in batches.epoch(0)]
    assert len(seen) == batches.steps == len(made) // 4
    assert all((a == b[0]).all() for a, b in zip(seen, samples.batches(4, PLAIN, 3).epoch(0), strict=True))


def test_whole_groups_are_held_back() -> None:
    made = [recordings.Recording(Path(f"{g}-{n}"), f"g{g}") for g in range(5) for n in range(4)]
    kept, held = windows.split(made, 0.3, 1, "here")
    assert {one.group for one in kept}.isdisjoint({one.group for one in held})
    assert len(kept) + len(held) == 20 and len(held) == 8  # two groups of four: the first that reach 0.3
    assert windows.split(made, 0.3, 1, "here") == (kept, held)
    with pytest.raises(UserError, match="two groups at least, found 1"):
        windows.split(made[:4], 0.3, 1, "here")


def test_who_is_judged_is_learned_from_by_nothing(tmp_path: Path) -> None:
    project = series_project.motions(tmp_path)
    recipe = project.read().recipe
    given = sort_out(recipe, ("slow", "fast"), project.data, [project.data], project.data)
    assert {one.group for one in given.judged} == {"p4"} and len(given.judged) == 4
    for part in (given.learned, given.normalised, given.calibrated):
        assert {one.group for one in part} == {"p1", "p2", "p3"}
    assert len(given.compared) == 16


def test_what_is_learned_from_cannot_be_judged_by_even_under_another_name(tmp_path: Path) -> None:
    project = series_project.motions(tmp_path)
    recipe = msgspec.structs.replace(project.read().recipe, series=Series(group="-"))
    with pytest.raises(UserError, match=r"is learned from, so nothing can be judged by it"):
        sort_out(recipe, ("slow", "fast"), project.data, [project.data], project.data)
    for label in ("slow", "fast"):
        copy = tmp_path / "test" / label / "renamed.csv"
        copy.parent.mkdir(parents=True)
        copy.write_bytes((project.data / label / "p1-left.csv").read_bytes())
    with pytest.raises(UserError, match=r"renamed\.csv: is learned from.*the same in --train: .*p1-left\.csv"):
        sort_out(recipe, ("slow", "fast"), project.data, [tmp_path / "test"], project.data)


def test_anomalies_are_not_learned_from(tmp_path: Path) -> None:
    project = series_project.hum(tmp_path)
    recipe = project.read().recipe
    names = ("x", "y")
    given = sort_out(recipe, names, project.test, [], project.test)
    assert all(one.path.parent.name == "normal" for one in (*given.learned, *given.held_back, *given.calibrated))
    assert len(given.compared) == 6
    for path in (project.test / "normal").iterdir():
        path.unlink()
    (project.test / "normal").rmdir()
    with pytest.raises(UserError, match="anomalies are not learned from: expected a folder normal beside it"):
        sort_out(recipe, names, project.test, [], project.test)
