"""The whole road with recordings: classes, anomalies and values, trained, quantised, judged and proved."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import series_project
from series_project import Project, write_csv

from vedette.contract import golden
from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.manifest import AnomalyOutput, ClassifyOutput, RegressOutput, SeriesInput
from vedette.contract.types import Anomaly
from vedette.engine import TfliteEngine, load_runtime, run_self_test
from vedette_converter import cli, package, report
from vedette_converter.build import Inputs, build
from vedette_converter.measured import Measured
from vedette_converter.recipe import read_recipe
from vedette_converter.recipe.series import Series
from vedette_converter.series import recordings, windows
from vedette_converter.subject import Subject
from vedette_converter.train.kept import save_network
from vedette_converter.zoo.windows import autoencoder

Built = tuple[Project, Measured, Bundle]


def built(project: Project, judged: Path, name: str = "tiny.toml") -> Built:
    inputs = Inputs(
        project.data, annotated=(judged,), training=project.data, out=project.folder / "out.tflite",
        work=project.folder / "work", report=project.folder / "out.html",
    )  # fmt: skip
    measured, bundle = build(read_recipe(project.folder / name), inputs)
    return project, measured, bundle


@pytest.fixture(scope="module")
def motions(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Built:
    project = series_project.motions(tmp_path_factory.mktemp("motions"))
    return built(project, project.data)


@pytest.fixture(scope="module")
def hum(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Built:
    project = series_project.hum(tmp_path_factory.mktemp("hum"))
    return built(project, project.test)


@pytest.fixture(scope="module")
def scale(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Built:
    project = series_project.scale(tmp_path_factory.mktemp("scale"))
    return built(project, project.test)


def spec_of(bundle: Bundle) -> SeriesInput:
    assert isinstance(bundle.manifest.input, SeriesInput)
    return bundle.manifest.input


def test_motions_of_a_person_never_seen_are_told_apart(motions: Built) -> None:
    _, measured, bundle = motions
    accuracy = measured.accuracy
    assert accuracy is not None and accuracy.metric == "top-1" and accuracy.before > 0.8
    assert accuracy.drop <= 0.05
    assert [figure.name for figure in accuracy.more] == ["macro F1"]
    first, last = bundle.manifest.evaluation
    assert [metric.name for metric in first.metrics] == ["top-1 accuracy", "macro F1"]
    assert first.data.count == accuracy.data.count == 4 * 11  # four recordings of 200 samples, 32 every 16
    assert last.metrics[0].name.startswith("share of the ")
    assert bundle.manifest.task == "classify" and bundle.labels == ("slow", "fast")


def test_the_best_class_counts_whatever_score_the_device_tells_it_from(motions: Built, tmp_path: Path) -> None:
    project, usual, _ = motions
    recipe = project.edit("top_k = 2", "top_k = 2\nscore_threshold = 0.999", "surest.toml")
    inputs = Inputs(
        project.data, annotated=(project.data,), training=project.data, out=tmp_path / "b.tflite",
        work=project.folder / "work",
    )  # fmt: skip
    measured, bundle = build(read_recipe(recipe), inputs)
    assert measured.accuracy is not None and usual.accuracy is not None
    assert measured.accuracy.before == usual.accuracy.before and measured.accuracy.more == usual.accuracy.more
    assert measured.agreement == usual.agreement
    assert isinstance(bundle.manifest.output, ClassifyOutput) and bundle.manifest.output.score_threshold == 0.999


def test_what_is_in_the_manifest_was_found_without_the_person_who_is_judged(motions: Built) -> None:
    project, _, bundle = motions
    spec = spec_of(bundle)
    listed = [one for one in recordings.list_recordings(project.data, "-") if one.group != "p4"]
    mean, std = windows.moments(windows.cut(listed, spec, Series(group="-")))
    assert spec.mean == mean and spec.std == std
    assert abs(mean[0]) < 0.05  # the fourth person's offset of 0.3 is not in it
    assert bundle.manifest.calibration is not None and bundle.manifest.calibration.count == 40


@pytest.mark.parametrize("which", ["motions", "hum", "scale"])
def test_the_bundle_proves_itself_on_every_kind_of_kernels(which: str, request: pytest.FixtureRequest) -> None:
    _, _, bundle = request.getfixturevalue(which)
    vectors = golden.decode(bundle.read("golden.npz"), "golden.npz")
    assert vectors.recording is not None and vectors.picture is None
    for kernels in package.KERNELS:
        engine = TfliteEngine(bundle.path, load_runtime(), kernels=kernels)
        test = run_self_test(engine, bundle.manifest, len(bundle.labels), vectors, bundle.path)
        assert test.passed is True, test.reason
        assert test.verdict.judged > 0
        engine.close()


def test_a_motion_that_was_never_normal_stands_out(hum: Built) -> None:
    _, measured, bundle = hum
    accuracy = measured.accuracy
    assert accuracy is not None and accuracy.metric == "AUC" and min(accuracy.before, accuracy.after) > 0.95
    f1, found, alarms = accuracy.more
    assert f1.name.startswith("F1 at the threshold") and f1.after > 0.7
    assert 0 <= alarms.after < 0.4 < found.after <= 1
    assert accuracy.told == pytest.approx(found.after - alarms.after) and accuracy.told <= accuracy.tellable
    assert ("anomalies told at the threshold", True) in [(row.what, row.holds) for row in measured.rows]
    assert bundle.manifest.task == "anomaly" and bundle.labels == ("x", "y")


def test_the_threshold_is_the_stated_quantile_of_the_bundles_own_scores_on_what_was_held_back(hum: Built) -> None:
    project, _, bundle = hum
    output, spec = bundle.manifest.output, spec_of(bundle)
    assert isinstance(output, AnomalyOutput)
    learned, held = windows.split(recordings.list_recordings(project.data, ""), 0.34, 1, "")
    assert len(learned) == 3 and len(held) == 3
    assert spec.mean == windows.moments(windows.cut(learned, spec, Series()))[0]
    subject = Subject(TfliteEngine(bundle.path, load_runtime()), spec, output, bundle.labels, score_threshold=None)
    scores = []
    for values in windows.cut(held, spec, Series()).values:
        found = subject(values)
        assert isinstance(found, Anomaly)
        scores.append(found.score)
    assert output.threshold == pytest.approx(np.quantile(scores, 0.9, method="higher"), rel=1e-5)


def test_a_value_is_estimated_in_its_unit(scale: Built) -> None:
    _, measured, bundle = scale
    accuracy = measured.accuracy
    assert accuracy is not None and accuracy.metric == "R2" and min(accuracy.before, accuracy.after) > 0.5
    (error,) = accuracy.more
    assert error.name == "mean absolute error: load" and error.unit == "kg" and error.after < 4  # of 5 to 20 kg
    assert isinstance(bundle.manifest.output, RegressOutput) and bundle.labels == ("load",)


def test_the_table_and_the_page_speak_of_windows(motions: Built, hum: Built, scale: Built) -> None:
    for project, measured, _ in (motions, hum, scale):
        text = report.markdown(measured)
        assert "windows" in text and "pictures" not in text
        page = (project.folder / "out.html").read_text()
        assert page.count("<figure") >= 8 and "data:image/png;base64," in page and "no pictures" not in page


def test_the_page_shows_windows_of_every_label(motions: Built) -> None:
    project, *_ = motions
    page = (project.folder / "out.html").read_text()
    assert page.count("slow/p") >= 2 and page.count("fast/p") >= 2


def test_the_page_shows_anomalies_where_there_are_some_to_judge_by(hum: Built) -> None:
    project, *_ = hum
    page = (project.folder / "out.html").read_text()
    assert page.count("normal/later-") >= 2 and page.count("anomaly/broken-") >= 2


def test_one_recording_of_a_label_gives_no_interval(motions: Built, tmp_path: Path) -> None:
    project, *_ = motions
    for label in ("slow", "fast"):
        (tmp_path / "judged" / label).mkdir(parents=True)
        shutil.copy(project.data / label / "p4-left.csv", tmp_path / "judged" / label)
    inputs = Inputs(
        project.data, annotated=(tmp_path / "judged",), training=project.data, out=tmp_path / "b.tflite",
        work=project.folder / "work", report=tmp_path / "b.html",
    )  # fmt: skip
    measured, bundle = build(project.read(), inputs)
    assert measured.accuracy is not None and measured.accuracy.interval is None
    assert [figure.interval for figure in measured.accuracy.more] == [None]
    assert all(metric.difference_interval is None for e in bundle.manifest.evaluation for metric in e.metrics)
    assert report.as_object(measured, bundle, None)["measured"]["accuracy"]["difference_interval"] is None
    assert "no interval: one recording alone of a label" in report.markdown(measured)
    assert "no interval: one recording alone of a label" in (tmp_path / "b.html").read_text()


def test_the_same_steps_make_the_same_bundle(hum: Built, tmp_path: Path) -> None:
    project, _, first = hum
    inputs = Inputs(
        project.data, annotated=(project.test,), training=project.data, out=tmp_path / "again.tflite",
        work=project.folder / "work",
    )  # fmt: skip
    _, second = build(project.read(), inputs)
    assert second.sha256 == first.sha256


def test_a_smaller_autoencoder_learns_what_the_larger_one_says(hum: Built, tmp_path: Path) -> None:
    project, *_ = hum
    recipe = project.edit("[quantise]", "[distil]\nepochs = 3\nlearning_rate = 0.05\n\n[quantise]", "distil.toml")
    inputs = Inputs(
        project.data, annotated=(project.test,), training=project.data, out=tmp_path / "b.tflite",
        work=project.folder / "work",
    )  # fmt: skip
    measured, _ = build(read_recipe(recipe), inputs)
    assert [stage.name for stage in measured.stages] == ["float32", "distilled float32", "int8"]


def test_a_known_threshold_stays(hum: Built, tmp_path: Path) -> None:
    project, *_ = hum
    recipe = project.edit("quantile = 0.9", "threshold = 0.75", "known.toml")
    _, bundle = build(
        read_recipe(recipe), Inputs(project.data, training=project.data, out=tmp_path / "b.tflite", work=tmp_path)
    )
    assert isinstance(bundle.manifest.output, AnomalyOutput) and bundle.manifest.output.threshold == 0.75
    assert [len(e.metrics) for e in bundle.manifest.evaluation] == [1]  # agreement alone: nothing was given to judge by


def test_a_threshold_that_nothing_reaches_ships_nothing(
    hum: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project, *_ = hum
    recipe, out = project.edit("quantile = 0.9", "threshold = 1e6", "deaf.toml"), tmp_path / "deaf.tflite"
    data, test, work = str(project.data), str(project.test), str(project.folder / "work")
    code = cli.main([
        "build", str(recipe), "--data", data, "--evaluate", test, "--out", str(out), "--work", work,
    ])  # fmt: skip
    said = capfd.readouterr().err
    assert code == 1 and not out.exists()
    assert (
        "expected anomalies told at the threshold >= 0.1, found 0; another threshold would have reached 1: is" in said
    )
    assert said.strip().endswith("promise less: [gate] min_told")


def test_a_recording_that_makes_the_threshold_alone_is_named(tf: Any, tmp_path: Path) -> None:
    project = series_project.hum(tmp_path)
    _, held = windows.split(recordings.list_recordings(project.data, ""), 0.34, 1, "")
    write_csv(held[0].path, "time,x,y", series_project.motion(6.0, np.random.default_rng(3)) * [1, 4, 4])
    measured, _ = build(project.read(), Inputs(project.data, out=tmp_path / "x.tflite", work=tmp_path / "work"))
    [said] = [one for one in measured.findings if "alone makes the threshold" in one]
    assert said.startswith(str(held[0].path)) and said.endswith("is it a normal one?")


def test_what_nothing_was_judged_by_and_a_threshold_out_of_few_windows_are_said(hum: Built, tmp_path: Path) -> None:
    project, judged, _ = hum
    recipe = project.edit("quantile = 0.9", "quantile = 0.99", "few.toml")
    work = project.folder / "work"
    measured, _ = build(
        read_recipe(recipe), Inputs(project.data, training=project.data, out=tmp_path / "b.tflite", work=work)
    )
    assert any(said.startswith("nothing was given to judge by (--evaluate)") for said in measured.findings)
    few = "the threshold is the highest score of 33 normal windows that were held back: quantile 0.99 wants 100 or more"
    assert few in measured.findings
    odd = ("judge by", "highest score", "alone makes")
    assert not any(words in said for words in odd for said in judged.findings)


def test_one_object_for_programs(motions: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project, *_ = motions
    data = str(project.data)
    arguments = ["build", str(project.recipe), "--data", data, "--train", data, "--evaluate", data, "--json"]
    code = cli.main([*arguments, "--out", str(tmp_path / "x.tflite"), "--work", str(project.folder / "work")])
    document = json.loads(capfd.readouterr().out)
    assert code == 0 and document["error"] is None
    assert document["measured"]["accuracy"]["more"][0]["name"] == "macro F1"
    assert document["bundle"]["sha256"] == open_bundle(tmp_path / "x.tflite").sha256


def mistake(project: Project, capfd: pytest.CaptureFixture[str], recipe: Path, *more: str) -> str:
    """The one line of a command that must fail, and leave nothing."""
    out = project.folder / "out"
    out.mkdir()
    arguments = ["build", str(recipe), "--data", str(project.data), "--out", str(out / "x.tflite"), *more]
    code = cli.main([*arguments, "--work", str(out / "work")])
    captured = capfd.readouterr()
    assert code == 2 and captured.out == "" and list(out.iterdir()) == []
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("vedette-convert: error: ")
    return line


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("slow/p1-left.csv", "time,x\n0,1\n", "p1-left.csv:1: no column y: expected x, y, found time, x"),
        (
            "slow/p1-left.csv",
            "time,x,y\n0,1,2\n0.02,1,2,3\n",
            "p1-left.csv:3: a line that cannot be used (wrong count)",
        ),
        ("slow/p1-left.csv", "time,x,y\n0,1,2\n0.02,nan,2\n", "p1-left.csv:3: a line that cannot be used (not finite)"),
        (
            "slow/p1-left.csv",
            "time,x,y\n0,1,2\n",
            "p1-left.csv: recording is shorter than a window: expected 32 samples",
        ),
        (
            "slow/p1-left.csv",
            "time,x,y\n" + "".join(f"{20 * n},1,2\n" for n in range(99)),
            "found 99 readings, 98 gaps: readings are 20 s apart by their t, the model wants 0.02 s: is t in milliseconds",
        ),
        ("slow/p1-left.csv", "time|x|y\n0|1|2\n", "found time|x|y; the first line names the columns"),
        ("slow/p1-left.csv", "", "p1-left.csv:1: no column x: expected x, y, found an empty line"),
        ("hop/p1.csv", "time,x,y\n0,1,2\n", "hop: a folder that is no label: expected slow, fast"),
    ],
)
def test_a_bad_recording_is_one_line_and_leaves_nothing(
    file: str, content: str, expected: str, tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = series_project.motions(tmp_path)
    path = project.data / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    assert expected in mistake(project, capfd, project.recipe, "--evaluate", str(project.data))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('judged = ["p4"]', 'judged = ["p9"]', "[series] judged: no recording of p9"),
        ('judged = ["p4"]', "", "is learned from, so nothing can be judged by it"),
        ('judged = ["p4"]', 'judged = ["p1", "p2", "p3", "p4"]', "no recordings but those of [series] judged"),
        ("length = 32", "length = 8", "[input] length: expected at least 16 for this network, found 8"),
        ("rate_hz = 50.0", 'rate_hz = 50.0\nlayout = "channel-time"', '[input] layout: expected "time-channel"'),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line_and_leaves_nothing(
    old: str, new: str, expected: str, tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = series_project.motions(tmp_path)
    recipe = project.edit(old, new)
    assert expected in mistake(project, capfd, recipe, "--evaluate", str(project.data))


def test_an_empty_folder_is_one_line(tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = series_project.hum(tmp_path)
    for path in project.data.iterdir():
        path.unlink()
    assert "data: no recordings: expected files named .csv, .ndjson, .jsonl or .npy" in mistake(
        project, capfd, project.recipe
    )


def test_labels_that_do_not_fit_are_one_line(tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = series_project.motions(tmp_path)
    (tmp_path / "labels.txt").write_text("slow\nfast\nhop\n")
    line = mistake(project, capfd, project.recipe, "--evaluate", str(project.data))
    assert "hop: no folder for a label: expected one folder a label: slow, fast, hop" in line


def test_recordings_without_a_recipe_are_refused(tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = series_project.hum(tmp_path)
    model = tmp_path / "ae.keras"
    save_network(autoencoder(length=32, channels=2, filters=8, code=2, seed=1), model)
    line = mistake(project, capfd, model)
    assert "recordings of sensors need a recipe: expected channels, length and stride" in line


def test_a_network_of_ones_own_takes_windows_in_its_own_shape(tf: Any, tmp_path: Path) -> None:
    import keras

    project = series_project.hum(tmp_path)
    window = keras.Input((2, 32))
    flat = keras.layers.Flatten()(window)
    save_network(keras.Model(window, keras.layers.Dense(64)(keras.layers.Dense(6)(flat))), tmp_path / "own.keras")
    text = project.recipe.read_text().replace('format = "zoo"\nnetwork = "autoencoder"\nfilters = 16\ncode = 4',
                                              'format = "keras"\nfile = "own.keras"')  # fmt: skip
    text = text.replace("rate_hz = 50.0", 'rate_hz = 50.0\nlayout = "channel-time"')
    project.recipe.write_text(text.replace("epochs = 40", "epochs = 2"))
    _, measured, bundle = built(project, project.test)
    assert measured.accuracy is not None and bundle.manifest.source.url == "file:own.keras"
    assert spec_of(bundle).layout == "channel-time"


def test_recordings_without_times_are_said_to_be_evenly_spaced(tf: Any, tmp_path: Path) -> None:
    project = series_project.hum(tmp_path)
    for path in project.data.iterdir():
        write_csv(path, "x,y", np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:])
    recipe = project.read().recipe
    assert recipe.train is not None
    short = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, epochs=1))
    file = dataclasses.replace(project.read(), recipe=short)
    measured, _ = build(file, Inputs(project.data, out=tmp_path / "x.tflite", work=tmp_path / "work"))
    said = "6 recordings have no times: their samples are taken to be 50 a second"
    assert said in measured.findings
