"""``vedette-convert specialise``: mistakes, a bundle, a gate that does not hold, and work that is not done twice.

All but the mistakes need the npm package; VEDETTE_COCO_SSD points to it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from converter_project import BUNDLE, RECIPE, ROOT

from vedette.contract import golden
from vedette.contract.bundle import open_bundle
from vedette.contract.errors import UserError
from vedette.contract.manifest import SsdOutput
from vedette.engine import TfliteEngine, load_runtime, run_self_test
from vedette_converter.cli import main
from vedette_converter.lock import alone
from vedette_converter.recipe import read_recipe
from vedette_converter.specialise import fitted, judging, lessons

CLIP = ROOT / "examples" / "media" / "people-walking.mp4"


def arguments(folder: Path, *more: str, source: Path | None = None) -> list[str]:
    package = [] if source is None else ["--source", str(source)]
    return [
        "specialise", str(BUNDLE), "--frames", str(CLIP), "--keep", "person", "--out", str(folder / "yard.tflite"),
        "--work", str(folder / "work"), *package, *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--keep", "persn"], "--keep: expected one of its labels, found persn; did you mean person?"),
        (["--keep", "person"], "--keep: expected at least one label, each once"),
        (["--held-back", "1.5"], "--held-back: expected 0.05 to 0.95, found 1.5"),
        (["--speedup", "0.5"], "--speedup: expected 1 to 50"),
        (["--most", "10"], "--most: expected at least 64"),
        (["--size", "300"], "--size: expected HEIGHTxWIDTH in pixels, such as 224x300"),
        (["--size", "16x300"], "--size: expected sides of 32 to 1280 pixels, found 16"),
        (["--recipe", "nowhere.toml"], "nowhere.toml"),
        ([], "the recipe's weights are not part of this project"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    assert main(arguments(tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said.split(":")[0] in error and said.split("expected ")[-1] in error
    assert not list(tmp_path.glob("*.tflite"))


def test_another_recipe_than_the_bundles_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "other.toml"
    recipe.write_text(RECIPE.read_text() + "\n# changed\n")
    assert main(arguments(tmp_path, "--recipe", str(recipe))) == 2
    assert "not the recipe that the bundle was made by" in capsys.readouterr().err
    alone = tmp_path / "alone.tflite"
    shutil.copy(BUNDLE, alone)
    assert main([*arguments(tmp_path)[:1], str(alone), *arguments(tmp_path)[2:]]) == 2
    assert "the bundle's recipe is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("frame", "size"),
    [((576, 768), (224, 300)), ((1080, 1920), (176, 300)), ((1920, 1080), (300, 176)), ((480, 480), (300, 300)),
     ((40, 4000), (32, 300))],
)  # fmt: skip
def test_the_input_takes_the_cameras_proportions(frame: tuple[int, int], size: tuple[int, int]) -> None:
    assert fitted(frame, read_recipe(RECIPE).recipe.input) == size  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_bundle_then_a_gate_that_does_not_hold(
    tmp_path: Path, coco_package: Path, tf: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mild speed-up, a few steps: what is proved is the way, not how far it goes (bench/converter.py does that)."""
    for name, value in (("STEPS", 4), ("VIEWS", 2), ("BATCH", 4), ("LEARNING_RATE", 1e-5), ("TURNS", 40)):
        monkeypatch.setattr(lessons, name, value)
    monkeypatch.setattr(judging, "ROUNDS", 20)
    monkeypatch.setattr(judging, "LOOKS", 2)
    monkeypatch.setattr(judging, "CALIBRATION", 32)
    asked = ["--speedup", "1.5", "--size", "300x300", "--most", "70", "--json"]
    out = tmp_path / "yard.tflite"
    assert main(arguments(tmp_path, *asked, source=coco_package)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["error"] is None and told["measured"]["ap50"]["int8"] >= 0.85
    assert told["measured"]["frames"]["learned"] + told["measured"]["frames"]["held_back"] <= 70
    assert told["measured"]["macs"]["after"] < told["measured"]["macs"]["before"]  # the other classes' logits

    bundle = open_bundle(out)
    manifest = bundle.manifest
    assert bundle.labels == ("person",) and manifest.name == "yard" and manifest.precision == "int8"
    assert isinstance(manifest.output, SsdOutput) and manifest.output.anchors.feature_maps[0] == (19, 19)
    assert manifest.evaluation[0].metrics[0].after == pytest.approx(told["measured"]["ap50"]["int8"], abs=1e-4)
    assert manifest.calibration is not None and manifest.calibration.count == 32  # of more that were learned from
    about = manifest.extensions["specialise"]
    assert "score >= 0.5" in about["definition"]
    learned, held = about["learned_from"]["name"], about["held_back"]["name"]
    assert int(learned.rsplit(" ", 1)[1]) < int(held.split("from ")[1].split(" ")[0])  # time does not mix
    vectors = golden.decode(bundle.read("golden.npz"), bundle.path)
    test = run_self_test(TfliteEngine(out, load_runtime()), manifest, 1, vectors, out)
    assert test.passed is True and test.verdict.judged >= 32

    # the same again does no lesson twice; and where the gate does not hold, the old bundle stays and no other comes
    monkeypatch.setattr(lessons, "learn", None)
    before = out.read_bytes()
    assert main(arguments(tmp_path, *asked, "--min-ap", "1.0", source=coco_package)) == 1
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["bundle"] is None and [row["holds"] for row in told["gate"]] == [False, True]
    assert "the gate does not hold, no bundle was written" in told["error"]
    assert "AP50" in captured.err and captured.err.count("\n") == 1
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir() if path != out] == ["work"]


def test_two_at_the_same_work_are_told_apart(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with (
        alone(lock, "another process is at the same work", "wait for it"),
        pytest.raises(UserError, match="another process is at the same work"),
        alone(lock, "another process is at the same work", "wait for it"),
    ):
        pass
    with alone(lock, "another process is at the same work", "wait for it"):
        pass
