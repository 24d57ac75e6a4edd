"""The two sensor bundles in ``models/``: small, proven, made by their recipes, and of use on the demo's recording."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from converter_project import ROOT

from vedette.contract import golden
from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.manifest import AnomalyOutput, SeriesInput
from vedette.contract.types import Anomaly, Classes
from vedette.contract.window import cut_windows
from vedette.engine import TfliteEngine, load_runtime, run_self_test
from vedette_converter.package import KERNELS
from vedette_converter.recipe import read_recipe
from vedette_converter.series.recordings import read
from vedette_converter.subject import Subject

RECIPES = ROOT / "models" / "recipes"
MEDIA = ROOT / "examples" / "media"
NAMES = ("shuttle-anomaly", "watch-activity")


def bundle_of(name: str) -> Bundle:
    return open_bundle(ROOT / "models" / f"{name}.tflite")


def subject_of(bundle: Bundle) -> tuple[Subject, SeriesInput]:
    spec = bundle.manifest.input
    assert isinstance(spec, SeriesInput)
    engine = TfliteEngine(bundle.path, load_runtime())
    return Subject(engine, spec, bundle.manifest.output, bundle.labels, score_threshold=None), spec


@pytest.mark.parametrize("name", NAMES)
def test_it_was_made_by_its_recipe_and_keeps_its_gate(name: str) -> None:
    manifest, file = bundle_of(name).manifest, read_recipe(RECIPES / f"{name}.toml")
    assert manifest.recipe_sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert manifest.precision == "int8" and manifest.flatbuffer_bytes <= 100_000
    assert manifest.source.licence == "BSD-3-Clause"
    judged = manifest.evaluation[0].metrics[0]
    assert judged.before - judged.after <= file.recipe.gate.max_drop + 1e-3  # both are rounded to four decimals
    if file.recipe.gate.min_accuracy is not None:
        assert judged.after >= file.recipe.gate.min_accuracy


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernels", KERNELS)
def test_it_proves_itself(name: str, kernels: str) -> None:
    bundle = bundle_of(name)
    vectors = golden.decode(bundle.read("golden.npz"), bundle.path)
    engine = TfliteEngine(bundle.path, load_runtime(), kernels=kernels)  # type: ignore[arg-type]
    test = run_self_test(engine, bundle.manifest, len(bundle.labels), vectors, bundle.path)
    assert test.passed is True, test.reason
    assert test.verdict.judged == 32


def test_the_demos_recording_shows_three_exercises_of_a_person_the_network_has_never_seen() -> None:
    assert read_recipe(RECIPES / "watch-activity.toml").recipe.series.judged == ("p10",)
    bundle = bundle_of("watch-activity")
    subject, spec = subject_of(bundle)
    found = read(MEDIA / "shoulder-exercises.csv", [channel.name for channel in spec.channels], "")
    assert found.times_ns is not None
    times = found.times_ns
    seen: list[str] = []
    for begin in (0, 27, 54):
        part = (times >= begin * 1_000_000_000) & (times < (begin + 25) * 1_000_000_000)
        best = Counter[str]()
        for values in cut_windows(spec, found.values[part], times[part]):
            result = subject(values)
            assert isinstance(result, Classes)
            best[bundle.labels[result.class_ids[0]]] += 1
        seen.append(best.most_common(1)[0][0])
    assert seen == ["abduction", "external-rotation", "upright-row"]


def test_a_row_of_another_kind_is_an_anomaly() -> None:
    bundle = bundle_of("shuttle-anomaly")
    subject, spec = subject_of(bundle)
    assert isinstance(bundle.manifest.output, AnomalyOutput)
    usual = np.array([spec.mean], np.float32)
    assert usual.shape == (1, 9)
    first, second = subject(usual), subject(usual + 5 * np.asarray(spec.std, np.float32))
    assert isinstance(first, Anomaly) and isinstance(second, Anomaly)
    assert second.anomalous and second.score > first.score


def test_what_is_shipped_has_its_origin_in_the_readmes() -> None:
    models, media = (folder.joinpath("README.md").read_text() for folder in (ROOT / "models", MEDIA))
    for name in NAMES:
        assert f"{name}.tflite" in models
        assert f'"models/{name}.tflite" = "share/vedette/models/{name}.tflite"' in (ROOT / "pyproject.toml").read_text()
    assert "river" in models and "seglearn" in models and "shoulder-exercises.csv" in media
