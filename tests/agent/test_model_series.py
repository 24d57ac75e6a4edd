"""Models of sensor readings: bundles and plain files, in the agent's hands and on the command line."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real import run_cli
from test_cli import document, good, mistake

from series_bundle import network, results, write, write_csv
from signals import CHANNELS, CLASSES, LABELS, LENGTH, OUTPUTS, THRESHOLD, normalised, quantities, series_input, windows
from vedette.config import parse_config
from vedette.contract.bundle import has_archive
from vedette.contract.errors import ModelError, ReadingsError
from vedette.contract.manifest import AnomalyOutput
from vedette.contract.types import Anomaly, Classes, Frame, Readings, Values, Window
from vedette.contract.window import WindowBuilder
from vedette.engine import TfliteEngine, load_runtime
from vedette.models.model import Model, ModelSpec, PlainModel, load_model, read_model, self_test


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: write(folder, name) for name in OUTPUTS}


def loaded(path: Path, plain: PlainModel | None = None, **options: Any) -> Model:
    return load_model(read_model(str(path), plain), **options)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_bundle_runs_and_proves_itself(name: str, bundles: dict[str, Path]) -> None:
    model = loaded(bundles[name])
    outcome = self_test(model)
    assert outcome is not None and outcome.passed is True, outcome
    values, ids = windows(12, 21)
    expected = results(name, TfliteEngine(network(name, "float32"), load_runtime("auto")), normalised(values))
    for window, kind, reference in zip(values, ids, expected, strict=True):
        found = model(window)
        assert type(found) is type(reference)
        if isinstance(found, Classes) and isinstance(reference, Classes):
            assert found.class_ids[0] == reference.class_ids[0] == kind
        elif isinstance(found, Anomaly) and isinstance(reference, Anomaly):
            assert found.anomalous == reference.anomalous == (CLASSES[kind] == "run")
            assert found.errors.shape == (3,)
            assert found.score == pytest.approx(reference.score, rel=0.1, abs=0.005)
        elif isinstance(found, Values):
            np.testing.assert_allclose(found.values, quantities(window), atol=0.3)


def test_a_window_is_as_good_as_its_values(bundles: dict[str, Path]) -> None:
    model = loaded(bundles["regress"])
    values, _ = windows(1, 5)
    one, other = model(values[0]), model(Window(1, 0, 0, 0, values[0]))
    assert isinstance(one, Values) and isinstance(other, Values)
    assert one.values.tolist() == other.values.tolist()


def test_what_is_no_window_is_refused(bundles: dict[str, Path]) -> None:
    model = loaded(bundles["classify"])
    with pytest.raises(ReadingsError, match=r"expected shape \(24, 3\), found \(23, 3\)"):
        model.preprocess(np.zeros((23, 3), np.float32))
    with pytest.raises(ReadingsError, match="finite"):
        model.preprocess(np.full((24, 3), np.nan, np.float32))
    with pytest.raises(ReadingsError, match="shape"):
        model.preprocess(Frame(1, 0, 0, np.zeros((24, 24, 3), np.uint8)))


def test_siblings_have_buffers_of_their_own(bundles: dict[str, Path]) -> None:
    model = loaded(bundles["anomaly"])
    twin = model.sibling()
    values, _ = windows(2, 6, kinds=(1, 2))
    model.preprocess(values[0])
    twin.preprocess(values[1])
    model.infer()
    twin.infer(model.engine)
    walking, running = model.decode(), twin.decode()
    assert isinstance(walking, Anomaly) and isinstance(running, Anomaly)
    assert not walking.anomalous and running.anomalous


def test_the_threshold_can_be_moved_while_it_runs(bundles: dict[str, Path]) -> None:
    model = loaded(bundles["anomaly"], score_threshold=1e6)
    running = windows(1, 7, kinds=(2,))[0][0]
    found = model(running)
    assert isinstance(found, Anomaly) and not found.anomalous and found.threshold == 1e6
    mover = threading.Thread(target=model.decide_from, args=(THRESHOLD,))
    mover.start()
    mover.join()
    again = model(running)
    assert isinstance(again, Anomaly) and again.anomalous and again.score == found.score
    with pytest.raises(ModelError, match="expected a number above 0"):
        model.decide_from(0.0)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_plain_model_says_in_the_configuration_what_it_takes(name: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(CLASSES) + "\n")
    channels = ", ".join(f'{{ name = "{channel}" }}' for channel in CHANNELS)
    output = {
        "classify": 'decoder = "classify"',
        "anomaly": f'decoder = "anomaly"\nthreshold = {THRESHOLD}',
        "regress": 'decoder = "regress"\nquantities = [{ name = "level" }, { name = "slope" }]\n'
        "scale = [1.0, 10.0]\noffset = [9.81, 0.0]",
    }[name]
    text = f"""
[pipeline.wrist]
model = "{network(name, "int8")}"
source = "serial:///dev/ttyUSB0"
[pipeline.wrist.plain]
{f'labels_file = "{labels}"' if name == "classify" else ""}
[pipeline.wrist.plain.output]
{output}
[pipeline.wrist.plain.input]
kind = "series"
channels = [{channels}]
length = 24
stride = 12
rate_hz = 50.0
mean = [0.0, 9.81, 0.0]
std = [2.0, 3.0, 2.0]
"""
    plain = parse_config(text.encode(), tmp_path / "v.toml").pipelines["wrist"].plain
    assert plain is not None
    labels_file = Path(plain.labels_file) if plain.labels_file else None
    spec = read_model(str(network(name, "int8")), PlainModel(plain.output, plain.input, labels_file))
    assert spec.labels == LABELS[name]
    model = load_model(spec)
    assert self_test(model) is None
    values, ids = windows(3, 8)
    for window, kind in zip(values, ids, strict=True):
        found = model(window)
        if isinstance(found, Classes):
            assert found.class_ids[0] == kind
        elif isinstance(found, Anomaly):
            assert found.anomalous == (CLASSES[kind] == "run")
        else:
            assert isinstance(found, Values)
            np.testing.assert_allclose(found.values, quantities(window), atol=0.3)


def test_names_and_tensors_that_do_not_fit(tmp_path: Path, bundles: dict[str, Path]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("x\ny\ntemperature\n")
    anomaly = str(network("anomaly", "int8"))
    with pytest.raises(ModelError, match="expected x, y, z, found x, y, temperature"):
        read_model(anomaly, PlainModel(OUTPUTS["anomaly"], series_input(), labels))
    with pytest.raises(ModelError, match=r"series-anomaly-int8.tflite: input tensor .*expected shape \[1, 25, 3\]"):
        loaded(Path(anomaly), PlainModel(OUTPUTS["anomaly"], series_input(length=25)))
    with pytest.raises(ModelError, match="has no labels"):
        read_model(str(network("classify", "int8")), PlainModel(OUTPUTS["classify"], series_input()))
    with pytest.raises(ModelError, match="is a bundle, which says all of itself"):
        read_model(str(bundles["anomaly"]), PlainModel(OUTPUTS["anomaly"], series_input()))
    assert has_archive(bundles["anomaly"])
    spec = read_model(str(bundles["classify"]))
    engine = TfliteEngine(spec.path, load_runtime("auto"))
    with pytest.raises(ModelError, match=r"series-classify.tflite: output.reconstruction"):
        Model(replace(spec, output=AnomalyOutput(threshold=1.0), labels=CHANNELS), engine)
    assert isinstance(spec, ModelSpec)


# On the command line


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "walk.csv")


def test_infer_prints_a_line_a_window(bundles: dict[str, Path], walk: Path) -> None:
    text = good("infer", bundles["classify"], walk).stdout.splitlines()
    assert "100 readings, 7 windows, 0 gaps, 0 late" in text[0]
    first = [line for line in text[1:] if line[:12].strip()]
    assert len(first) == 7
    assert all("walk" in line for line in first)
    assert first[1].split()[0] == "0.240"
    text = good("infer", bundles["anomaly"], walk).stdout.splitlines()
    assert len(text) == 8 and all("normal" in line for line in text[1:])
    text = good("infer", bundles["anomaly"], walk, "--threshold", "1e-6").stdout.splitlines()
    assert all("anomalous" in line for line in text[1:])
    assert "level" in good("infer", bundles["regress"], walk).stdout


def test_infer_tells_a_clock_that_was_set_back_and_a_time_that_nobody_named(
    bundles: dict[str, Path], walk: Path, tmp_path: Path
) -> None:
    header, *lines = walk.read_text().splitlines(keepends=True)
    twice = tmp_path / "twice.csv"
    twice.write_text(header + "".join(lines) * 2)
    assert ", 1 clock set back" in good("infer", bundles["classify"], twice).stdout.splitlines()[0]
    walk.write_text(header.replace("t,", "timestamp_s,", 1) + "".join(lines))
    outcome = run_cli("infer", bundles["classify"], walk)
    assert outcome.returncode == 0 and "7 windows" in outcome.stdout
    assert outcome.stderr.startswith(f"vedette: {walk}: no column or key is called t, time or timestamp")
    assert "'timestamp_s'" in outcome.stderr and len(outcome.stderr.splitlines()) == 1


def test_infer_as_json(bundles: dict[str, Path], walk: Path, tmp_path: Path) -> None:
    run = write_csv(tmp_path / "run.csv", kind=2)
    answer = document("infer", bundles["anomaly"], walk, run, "--json")
    assert set(answer) == {"model", "engine", "results"}
    for result, file, anomalous in zip(answer["results"], (walk, run), (False, True), strict=True):
        assert (result["file"], result["readings"], result["gaps"], result["late"]) == (str(file), 100, 0, 0)
        assert [w["anomaly"]["anomalous"] for w in result["windows"]] == [anomalous] * 7
        first = result["windows"][0]
        assert first["window"] == {"seq": 1, "samples": LENGTH, "first_us": 0, "last_us": 460_000}
        assert set(first["latency_ms"]) == {"preprocess", "infer", "decode"}
        assert list(first["anomaly"]["channels"]) == list(CHANNELS)
    # the same readings, cut by the builder itself
    values = np.loadtxt(run, delimiter=",", skiprows=1)[:, [2, 3, 1]].astype(np.float32)
    builder = WindowBuilder(series_input())
    cut = builder.push(Readings(values, np.arange(100) * 20_000_000, 0, True))
    model = loaded(bundles["anomaly"])
    for window, said in zip(cut, answer["results"][1]["windows"], strict=True):
        found = model(window)
        assert isinstance(found, Anomaly)
        assert said["anomaly"]["score"] == pytest.approx(found.score, rel=1e-5)


def test_infer_of_a_recording_shorter_than_a_window(bundles: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.zeros((5, 3), np.float32))
    outcome = run_cli("infer", bundles["classify"], tmp_path / "short.npy")
    assert "5 readings, 0 windows" in outcome.stdout and outcome.returncode == 2
    [line] = outcome.stderr.splitlines()
    assert f"short.npy: not one window: expected {LENGTH} readings" in line and "found 5 readings" in line


@pytest.mark.parametrize(("parts", "unit"), [(1e3, "milliseconds"), (1e6, "microseconds"), (1e3 / 3, "milliseconds")])
def test_infer_of_times_in_another_unit(
    bundles: dict[str, Path], walk: Path, tmp_path: Path, parts: float, unit: str
) -> None:
    header, *lines = walk.read_text().splitlines()
    rows = [line.split(",", 1) for line in lines]
    assert header.startswith("t,")
    odd = tmp_path / "odd.csv"
    odd.write_text("\n".join([header, *(f"{float(t) * parts},{rest}" for t, rest in rows)]))
    outcome = run_cli("infer", bundles["classify"], odd, walk)
    assert outcome.returncode == 2
    [line] = outcome.stderr.splitlines()
    assert "odd.csv: not one window" in line and f"the model wants 0.02 s: is t in {unit}?; write t in seconds" in line
    assert "walk.csv  100 readings, 7 windows" in outcome.stdout, "the other is looked at all the same"


def test_mistakes_are_one_line(bundles: dict[str, Path], walk: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("x,y,z\n1,2,3\n1,2\n")
    assert f"{bad}:3:" in mistake("infer", bundles["classify"], bad)
    assert "--draw" in mistake("infer", bundles["classify"], walk, "--draw", tmp_path / "out")
    assert "expected a number above 0" in mistake("infer", bundles["anomaly"], walk, "--threshold", "0")
    assert "expected a number from 0 to 1" in mistake("infer", bundles["classify"], walk, "--threshold", "2")
    assert "no recording" in mistake("infer", bundles["classify"], tmp_path / "x.png")


def test_show_and_bench_know_windows(bundles: dict[str, Path]) -> None:
    text = good("show", bundles["anomaly"]).stdout
    assert "24 readings at 50 Hz, a window every 12" in text
    assert "3: x (m/s2), y (m/s2), z (m/s2)" in text
    assert "0.1 (mse)" in text
    assert document("show", bundles["anomaly"], "--json")["input"]["kind"] == "series"
    answer = document("bench", bundles["anomaly"], "--seconds", "0.2", "--json")
    assert answer["runs"] > 0 and set(answer["latency_ms"]) == {"preprocess", "infer", "decode", "total"}
    assert "windows a second" in good("bench", bundles["anomaly"], "--seconds", "0.2").stdout
