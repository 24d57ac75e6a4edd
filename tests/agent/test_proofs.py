"""What a bundle proved on this machine: asked once, remembered, and asked again when anything about it has changed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerator import accelerated_bundle
from real import BUNDLE

from tiny import DATA
from vedette.config import parse_config
from vedette.contract.errors import ModelError, SelfTestError
from vedette.contract.manifest import ClassifyOutput, Tolerance
from vedette.engine import load_runtime, probe_bundle
from vedette.models import proofs
from vedette.models.model import ModelSpec, PlainModel, load_model, read_model, self_test
from vedette.models.proofs import Proofs
from vedette.service.compose import prepare
from vedette.service.lanes import load_models


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_model(str(accelerated_bundle(tmp_path)))


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which bundles were tried in a child; they are tried all the same."""
    seen: list[str] = []

    def counted(path: Path, *rest: Any) -> Any:
        seen.append(path.name)
        return probe_bundle(path, *rest)

    monkeypatch.setattr(proofs, "probe_bundle", counted)
    return seen


def test_a_bundle_is_tested_once(spec: ModelSpec, tmp_path: Path, probed: list[str]) -> None:
    state = tmp_path / "state"
    runtime = load_runtime("litert")
    first = Proofs(state).prove(spec, runtime)
    assert first is not None and first.passed is True
    assert first == self_test(load_model(spec))  # what this process finds itself
    one = Proofs(state)
    assert one.prove(spec, runtime) == one.prove(spec, runtime) == first
    assert probed == [spec.path.name]
    assert (state / "proofs.json").stat().st_mode & 0o777 == 0o600


def test_whatever_decides_about_it_makes_it_be_tested_again(
    spec: ModelSpec, tmp_path: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = load_runtime("litert")
    Proofs(tmp_path).prove(spec, runtime)
    Proofs(tmp_path).prove(spec, replace(runtime, version="99.0"))
    assert len(probed) == 2
    monkeypatch.setattr(proofs, "cpu_identity", lambda: "another")
    Proofs(tmp_path).prove(spec, runtime)
    assert len(probed) == 3
    monkeypatch.setattr(np, "__version__", "99.0")
    Proofs(tmp_path).prove(spec, runtime)
    assert len(probed) == 4
    (tmp_path / "other").mkdir()
    other = read_model(str(accelerated_bundle(tmp_path / "other", version="2.0")))
    Proofs(tmp_path).prove(other, runtime)
    Proofs(tmp_path).prove(other, runtime)
    assert len(probed) == 5


def test_what_fails_is_not_remembered(tmp_path: Path, probed: list[str]) -> None:
    hopeless = Tolerance(min_agreement=1.0, max_mean_score_error=0.0)  # int8 is not float
    spec = read_model(str(accelerated_bundle(tmp_path, tolerances={"xnnpack": hopeless})))
    for _ in range(2):
        with pytest.raises(SelfTestError, match="self-test failed on this machine: found xnnpack: agreement"):
            Proofs(tmp_path).prove(spec, load_runtime("litert"))
    assert len(probed) == 2


def test_a_plain_model_has_nothing_to_prove(tmp_path: Path, probed: list[str]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    spec = read_model(str(DATA / "tiny-uint8.tflite"), PlainModel(ClassifyOutput(), labels_file=labels))
    assert Proofs(tmp_path).prove(spec, load_runtime("litert")) is None
    assert probed == []


@pytest.mark.parametrize("content", ["", "{", "[]x", '[{"circumstances": 1}]', '{"a": 1}', "\udcff"])
def test_a_file_that_cannot_be_read_costs_a_test(
    spec: ModelSpec, tmp_path: Path, probed: list[str], content: str
) -> None:
    (tmp_path / "proofs.json").write_text(content, errors="surrogateescape")
    for _ in range(2):
        Proofs(tmp_path).prove(spec, load_runtime("litert"))
    assert len(probed) == 1


def test_a_verdict_that_says_failed_is_not_believed(spec: ModelSpec, tmp_path: Path, probed: list[str]) -> None:
    Proofs(tmp_path).prove(spec, load_runtime("litert"))
    kept = json.loads((tmp_path / "proofs.json").read_text())
    kept[0]["outcome"]["passed"] = False
    (tmp_path / "proofs.json").write_text(json.dumps(kept))
    Proofs(tmp_path).prove(spec, load_runtime("litert"))
    assert len(probed) == 2


def test_a_folder_that_cannot_be_written_costs_a_test(spec: ModelSpec, tmp_path: Path, probed: list[str]) -> None:
    state = tmp_path / "file"
    state.write_text("")
    with pytest.raises(NotADirectoryError):
        (state / "proofs.json").read_bytes()
    assert Proofs(state / "folder").prove(spec, load_runtime("litert")) is not None
    assert len(probed) == 1


def test_only_so_many_are_kept(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probed: list[str]
) -> None:
    outcome = Proofs(tmp_path).prove(spec, load_runtime("litert"))
    monkeypatch.setattr(proofs, "probe_bundle", lambda *_: outcome)
    for number in range(100):
        Proofs(tmp_path).prove(replace(spec, sha256=f"{number:064x}"), load_runtime("litert"))
    kept = json.loads((tmp_path / "proofs.json").read_text())
    assert len(kept) == proofs.MAX_PROOFS
    assert kept[-1]["circumstances"]["bundle"] == f"{99:064x}"


def test_a_runtime_that_crashes_on_it_is_an_error_of_the_bundle(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError, match="crashes the runtime that loads it: found SIGSEGV"):
        Proofs(tmp_path).prove(spec, load_runtime("litert"))


def test_a_bundle_that_changes_in_between_is_no_proof(spec: ModelSpec, tmp_path: Path) -> None:
    accelerated_bundle(tmp_path, version="3.0")  # under the same name
    with pytest.raises(ModelError, match="changed while it was in use"):
        Proofs(tmp_path).prove(spec, load_runtime("litert"))


def test_models_are_loaded_only_after_their_proof(tmp_path: Path, probed: list[str]) -> None:
    text = f'[pipeline.a]\nmodel = "{BUNDLE}"\nsource = "x.mp4"\n[pipeline.b]\nmodel = "{BUNDLE}"\nsource = "x.mp4"\n'
    config = parse_config(text.replace("x.mp4", str(BUNDLE.parents[1] / "examples/media/people-walking.mp4")).encode(),
                          tmp_path / "v.toml")  # fmt: skip
    for _ in range(2):
        loaded = load_models(prepare(config, tmp_path / "v.toml"), config.engine, Proofs(tmp_path))
        assert all(one.self_test is not None and one.self_test.passed for one in loaded.values())
        for lane in {one.lane for one in loaded.values()}:
            lane.stop()
            lane.close()
    assert probed == [BUNDLE.name]
