"""Whether a network of windows sees anything: whole recordings are witnesses, their windows are not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import series_project

from vedette_converter import cli
from vedette_converter.chance import LEVEL
from vedette_converter.series.chance import blind_classes, blind_scores, blind_values, doubts
from vedette_converter.series.judge import auc
from vedette_converter.train.kept import save_network

LENGTHS = np.array([5, 2, 3, 4, 1, 6])
RECORDING = np.repeat(np.arange(6, dtype=np.int32), LENGTHS)


def test_classes_by_all_deals_counted_out() -> None:
    labels = np.array([0, 0, 7, 7, 7, 0], np.int32)
    truth = labels[RECORDING]
    answers = np.where(RECORDING == 3, 0, truth).astype(np.int32)  # one recording wrong
    hits = [(np.array(deal, np.int32)[RECORDING] == answers).sum() for deal in set(itertools.permutations(labels))]
    wanted = np.mean(np.array(hits) >= (answers == truth).sum())
    assert blind_classes(answers, truth, RECORDING) == pytest.approx(wanted)
    assert blind_classes(truth, truth, RECORDING) == pytest.approx(1 / 20)
    assert blind_classes(np.full(len(truth), -1, np.int32), truth, RECORDING) == 1.0


def test_scores_by_all_deals_counted_out() -> None:
    odd = np.array([0, 0, 1, 1, 1, 0], bool)
    scores = np.random.default_rng(4).integers(0, 4, len(RECORDING)) + 1.5 * odd[RECORDING]
    areas = [auc(scores, np.array(deal)[RECORDING]) for deal in set(itertools.permutations(odd.tolist()))]
    wanted = np.mean(np.array(areas) >= auc(scores, odd[RECORDING]) - 1e-9)
    assert blind_scores(scores, odd[RECORDING], RECORDING) == pytest.approx(wanted)


def test_values_are_held_against_saying_the_mean() -> None:
    truth = np.arange(6.0)[RECORDING][:, None]
    assert blind_values(truth, truth, RECORDING) == pytest.approx(1 / 64)
    assert blind_values(np.full_like(truth, truth.mean()), truth, RECORDING) == 1.0
    assert blind_values(truth + 100, truth, RECORDING) == 1.0
    two = np.concatenate([truth, truth], axis=1)  # one of two quantities does
    assert blind_values(np.concatenate([truth, -truth], axis=1), two, RECORDING) == pytest.approx(2 / 64)


def test_where_there_are_many_ways_some_are_drawn() -> None:
    recording = np.repeat(np.arange(40, dtype=np.int32), 3)
    truth = (recording % 4).astype(np.int32)
    p = blind_classes(truth, truth, recording)
    assert p is not None and p < 0.001
    guessed = [blind_classes(np.roll(truth, 3 * n + 3), truth, recording) for n in range(2)]
    assert all(p is not None and p > LEVEL for p in guessed)


def test_many_windows_of_few_recordings_prove_nothing() -> None:
    recording = np.repeat(np.arange(4, dtype=np.int32), 100)
    truth = (recording % 2).astype(np.int32)
    assert blind_classes(truth, truth, recording) is None  # 1 of 6 deals
    assert blind_classes(0 * truth, 0 * truth, recording) is None  # one label
    assert blind_scores(truth.astype(float), truth == 1, recording) is None
    assert blind_values(truth[:, None].astype(float), truth[:, None].astype(float), recording) is None


def test_what_is_said() -> None:
    assert doubts(None, "AUC", 0.5, 6) == doubts(0.05, "AUC", 0.5, 6) == ()
    [said] = doubts(0.4, "AUC", 0.51, 6)
    assert "AUC 0.5100 over 6 recordings (permutation test, p = 0.4, above 0.05): are mean, std and layout" in said


@pytest.mark.parametrize(("scale", "blind"), [("10.0", False), ("-10.0", True)])
def test_values_in_the_wrong_unit_ship_nothing(
    scale: str, blind: bool, tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    project = series_project.scale(tmp_path)
    for number, path in enumerate(sorted(project.data.iterdir())):  # no training: all are there to judge by
        if number < 4:
            path.rename(project.test / path.name)
    window = keras.Input((32, 2))
    power = keras.layers.Dense(1)
    squared = keras.layers.Multiply()([window, window])
    model = keras.Model(window, power(keras.layers.GlobalAveragePooling1D()(squared)))
    power.set_weights([np.full((2, 1), 0.36), np.full(1, 0.47)])  # of the strength's square, near it from 0.5 to 2
    save_network(model, tmp_path / "own.keras")
    text = project.recipe.read_text()
    text = text.replace('format = "zoo"\nnetwork = "separable"\nfilters = 8', 'format = "keras"\nfile = "own.keras"')
    text = text.replace("scale = [10.0]", f"scale = [{scale}]").replace(series_project.TRAIN, "\n")
    text = text.replace('target = "mean"', 'target = "mean"\nnormalise = "given"')
    project.recipe.write_text(text)
    page = tmp_path / "page.html"
    code = cli.main([
        "build", str(project.recipe), "--data", str(project.data), "--evaluate", str(project.test),
        "--out", str(tmp_path / "out.tflite"), "--report", str(page),
    ])  # fmt: skip
    printed, said = capsys.readouterr()
    assert code == (1 if blind else 0), said
    assert (tmp_path / "out.tflite").exists() is not blind
    assert ("float network better than chance" in said and "[output] offset and scale" in said) is blind
    assert ("no better than chance on the evaluation windows" in printed) is blind
    assert ("no better than chance on the evaluation windows" in page.read_text()) is blind
