"""Whether a classifier sees anything: the test against answering without looking."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vedette_converter.chance import FEWEST, LEVEL, at_least, blind, doubts, doubts_unlabelled
from vedette_converter.cli import main

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
LABELS = ("disc", "square", "cross")


@pytest.mark.parametrize(
    ("hits", "count", "share"), [(0, 5, 0.3), (3, 3, 1 / 3), (20, 60, 1 / 3), (30, 60, 0.25), (60, 60, 0.9)]
)
def test_the_tail_of_the_binomial_distribution(hits: int, count: int, share: float) -> None:
    exact = Fraction(share)
    tail = sum(comb(count, k) * exact**k * (1 - exact) ** (count - k) for k in range(hits, count + 1))
    assert at_least(hits, count, share) == pytest.approx(float(tail), rel=1e-9)


def test_a_network_that_guesses_is_doubted() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3, dtype=np.int32), 20)
    [said] = doubts(rng.permutation(truth).astype(np.int64), truth, LABELS)
    assert "no better than chance" in said and "--mean, --std" in said and "above 0.05" in said


def test_a_network_that_answers_all_alike_is_doubted_although_one_in_three_is_right() -> None:
    truth = np.repeat(np.arange(3, dtype=np.int32), 20)
    [said] = doubts(np.full(60, 1), truth, LABELS)
    assert "answers all 60 evaluation pictures alike, 'square'" in said
    [said] = doubts(np.full(60, -1), truth, LABELS)
    assert "alike:" in said


@pytest.mark.parametrize("each", [1, 20])
def test_one_that_sees_is_not(each: int) -> None:
    truth = np.repeat(np.arange(3, dtype=np.int32), each)
    assert doubts(truth.astype(np.int64), truth, LABELS) == []


def test_answering_the_most_frequent_is_no_merit() -> None:
    truth = np.array([0] * 95 + [1] * 5, np.int32)
    answers = np.zeros(100, np.int64)
    answers[3] = 1
    [said] = doubts(answers, truth, LABELS)
    assert "top-1 0.9400 of 100, and without looking it would be 0.9410" in said


def test_seeing_the_rare_ones_is() -> None:
    truth = np.array([0] * 95 + [1] * 5, np.int32)
    answers = truth.astype(np.int64)
    answers[[0, 99]] = 1, 0
    assert doubts(answers, truth, LABELS) == []


def test_too_few_pictures_prove_nothing_either_way() -> None:
    assert blind(np.array([0, 1]), np.array([0, 1], np.int32), LABELS) is None
    assert blind(np.array([1, 0]), np.array([0, 1], np.int32), LABELS) is None
    assert doubts(np.array([1, 0]), np.array([0, 1], np.int32), LABELS) == []


def test_labels_in_reverse_are_blindness() -> None:
    truth = np.repeat(np.arange(3, dtype=np.int32), 20)
    p = blind(2 - truth.astype(np.int64), truth, LABELS)
    assert p is not None and p > LEVEL


def test_pictures_of_one_label_are_held_against_guessing() -> None:
    truth = np.zeros(30, np.int32)
    assert doubts(np.zeros(30, np.int64), truth, LABELS) == []
    [said] = doubts(np.ones(30, np.int64), truth, LABELS)
    assert "without looking it would be 0.3333" in said


def test_without_labels_one_answer_to_many_is_told() -> None:
    assert doubts_unlabelled(np.zeros(FEWEST - 1, np.int64), LABELS) == []
    assert doubts_unlabelled(np.arange(FEWEST) % 2, LABELS) == []
    [said] = doubts_unlabelled(np.zeros(FEWEST, np.int64), LABELS)
    assert f"all {FEWEST} pictures of --data alike, 'disc'" in said


@pytest.fixture
def colours(tf: Any, tmp_path: Path) -> Path:
    """A network that tells red, green and blue where pixels come as -1..1; as 0..255 all three saturate, and red wins."""
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    rng = np.random.default_rng(1)
    for number, label in enumerate(("red", "green", "blue")):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for n in range(10):
            pixels = rng.integers(10, 60, (40, 40, 3), np.uint8)
            pixels[..., 2 - number] += 180  # BGR
            cv2.imwrite(str(tmp_path / "pictures" / label / f"{n}.png"), pixels)
    given = tf.keras.Input((16, 16, 3), batch_size=1)
    seen = tf.keras.layers.GlobalAveragePooling2D()(tf.keras.layers.Activation("tanh")(given))
    last = tf.keras.layers.Dense(3, activation="softmax")
    model = tf.keras.Model(given, last(seen))
    last.set_weights([10 * np.eye(3, dtype=np.float32), np.array([3, 0, 0], np.float32)])
    model.save(tmp_path / "colours.keras")
    return tmp_path


@pytest.mark.parametrize(("scale", "doubted"), [((), True), (("--mean", "127.5", "--std", "127.5"), False)])
def test_a_forgotten_mean_is_told_in_table_and_page_and_ships_nothing(
    colours: Path, scale: tuple[str, ...], doubted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    page = colours / "report.html"
    code = main([
        "build", str(colours / "colours.keras"), "--labels", str(colours / "labels.txt"), "--data",
        str(colours / "pictures"), "--evaluate", str(colours / "pictures"), "--out", str(colours / "out.tflite"),
        "--report", str(page), *scale,
    ])  # fmt: skip
    printed, said = capsys.readouterr()
    assert code == (1 if doubted else 0), printed
    assert (colours / "out.tflite").exists() is not doubted
    assert ("float network better than chance" in said and "--mean, --std" in said) is doubted
    assert ("answers all 30 evaluation pictures alike" in printed) == doubted, printed
    assert ("answers all 30 evaluation pictures alike" in page.read_text()) == doubted
