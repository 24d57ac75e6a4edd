"""The bundle in ``models/``: it opens, proves itself, and finds people."""

from __future__ import annotations

from pathlib import Path

import pytest
from converter_project import BUNDLE, RECIPE, ROOT

from vedette.contract import golden
from vedette.contract.bundle import open_bundle
from vedette.engine import TfliteEngine, load_runtime, run_self_test
from vedette_converter.pictures import list_pictures, read_picture
from vedette_converter.recipe import read_recipe
from vedette_converter.subject import Detector

PICTURES = ROOT / "models" / "golden"


@pytest.mark.parametrize("kernels", ["default", "builtin"])  # the reference kernels take ten seconds: bench/detector.py
def test_it_proves_itself(kernels: str) -> None:
    bundle = open_bundle(BUNDLE)
    vectors = golden.decode(bundle.read("golden.npz"), bundle.path)
    engine = TfliteEngine(bundle.path, load_runtime(), kernels=kernels)  # type: ignore[arg-type]
    test = run_self_test(engine, bundle.manifest, len(bundle.labels), vectors, bundle.path)
    assert test.passed is True, test.reason
    assert test.verdict.judged > 100


def test_it_keeps_its_recipes_gate() -> None:
    manifest = open_bundle(BUNDLE).manifest
    limits = read_recipe(RECIPE).recipe.gate
    annotated, unlabelled = manifest.evaluation
    figure = annotated.metrics[0]
    assert figure.name.startswith("COCO mAP") and annotated.data.count == 159
    assert figure.before - figure.after <= limits.max_drop
    assert unlabelled.metrics[0].after >= limits.min_agreement


def test_it_finds_people_a_cat_and_a_cup() -> None:
    bundle = open_bundle(BUNDLE)
    engine = TfliteEngine(bundle.path, load_runtime())
    detector = Detector(engine, bundle.manifest.input, bundle.manifest.output, bundle.labels, score_threshold=0.5)

    def labels(name: str) -> list[str]:
        return [bundle.labels[class_id] for class_id in detector(read_picture(PICTURES / name)).class_ids]

    assert labels("vtest-000.jpg").count("person") >= 2
    assert "person" in labels("astronaut.jpg")
    assert "cat" in labels("chelsea.jpg")
    assert "cup" in labels("coffee.jpg")


def test_every_golden_picture_has_its_origin_in_the_readme() -> None:
    readme = (PICTURES / "README.md").read_text()
    for path in list_pictures(PICTURES):
        name = "vtest-NNN.jpg" if path.name.startswith("vtest-") else path.name
        assert f"`{name}`" in readme, path.name


def test_it_is_as_small_as_its_readme_says() -> None:
    size = f"{BUNDLE.stat().st_size / 1e6:.2f} MB"
    assert size in Path(ROOT / "models" / "README.md").read_text()
