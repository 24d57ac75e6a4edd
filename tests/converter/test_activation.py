"""What a classifier leaves to be done is seen by its numbers, where no flag says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from quantise_networks import as_network

from vedette.contract.bundle import open_bundle
from vedette.contract.manifest import ClassifyOutput, ImageInput
from vedette_converter.activation import logit_of
from vedette_converter.cli import main
from vedette_converter.train.kept import save_network


def classifier(tf: Any, activation: str | None) -> Any:
    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    pixels = layers.Input((16, 16, 3))
    y = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 8)(pixels))
    return tf.keras.Model(pixels, layers.Dense(3, activation=activation)(layers.Flatten()(y)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(40):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (16, 16, 3), np.uint8))
    return folder


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_numbers_that_are_no_scores_are_seen(tf: Any, pictures: Path, activation: str | None) -> None:
    found = logit_of(as_network(tf, classifier(tf, activation)), ImageInput(height=16, width=16), pictures, 1)
    assert (found is None) is (activation is not None)


def test_a_network_that_ends_in_logits_becomes_a_bundle_that_does_the_softmax(
    tf: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_network(classifier(tf, None), tmp_path / "mine.keras")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    command = [
        "build", str(tmp_path / "mine.keras"), "--data", str(pictures), "--labels", str(tmp_path / "labels.txt"),
        "--out", str(tmp_path / "mine.tflite"), "--json",
    ]  # fmt: skip
    assert main([*command, "--activation", "none"]) == 2
    assert "the network leaves an activation to be done" in capsys.readouterr().err
    assert main(command) == 0, capsys.readouterr().err
    findings = json.loads(capsys.readouterr().out)["measured"]["findings"]
    assert any(said.startswith("assumed: a softmax is left to be done, for the network says ") for said in findings)
    output = open_bundle(tmp_path / "mine.tflite").manifest.output
    assert isinstance(output, ClassifyOutput) and output.activation == "softmax"
