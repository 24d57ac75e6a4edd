"""A network of one number is a classifier of two labels: the number is the second's score, the first has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vedette.contract.bundle import open_bundle
from vedette.contract.errors import ModelError
from vedette.contract.manifest import ClassifyOutput
from vedette_converter import quantise
from vedette_converter.binary import with_both
from vedette_converter.chance import doubts_unlabelled
from vedette_converter.cli import main
from vedette_converter.load.keras import from_model
from vedette_converter.quantise.graph import read_graph
from vedette_converter.train.kept import save_network


def brightness(tf: Any, activation: str | None) -> Any:
    """Above 0, or 0.5, where the picture is bright: the mean of its pixels less 128, by 8."""
    layers = tf.keras.layers
    pixels = tf.keras.Input((16, 16, 3))
    last = layers.Dense(1, activation=activation)
    model = tf.keras.Model(pixels, last(layers.GlobalAveragePooling2D()(pixels)))
    last.set_weights([np.full((3, 1), 1 / 24, np.float32), np.full(1, -16, np.float32)])
    return model


def build_of(model: Any, folder: Path, pictures: Path, labels: str) -> list[str]:
    """The command that makes a bundle of it."""
    save_network(model, folder / "shade.keras")
    (folder / "labels.txt").write_text(labels)
    return ["build", str(folder / "shade.keras"), "--data", str(pictures), "--labels", str(folder / "labels.txt")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(5)
    for label, low in (("dark", 0), ("bright", 160)):
        (folder / label).mkdir()
        for number in range(20):
            shade = rng.integers(low, low + 96)
            pixels = np.clip(rng.normal(shade, 4, (32, 32, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / label / f"{number}.png"), pixels)
    return folder


@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_both_scores_by_one_dense_layer(tf: Any, activation: str) -> None:
    network = from_model(brightness(tf, "sigmoid" if activation == "none" else None))
    both = with_both(network, activation)
    pixels = np.full((1, 16, 16, 3), 130, np.float32)
    (said,), (first, second) = network.run(pixels)[0], both.run(pixels)[0][0]
    assert second == said[0] and first == pytest.approx(1 - said[0] if activation == "none" else -said[0])
    assert read_graph(quantise.to_float32(both)).ops[-1].name == "FULLY_CONNECTED"


@pytest.mark.parametrize("ending", ["sigmoid", None])
def test_two_labels_make_a_bundle_of_it(
    tf: Any, pictures: Path, tmp_path: Path, ending: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = build_of(brightness(tf, ending), tmp_path, pictures, "dark\nbright\n")
    out = tmp_path / "shade.tflite"
    assert main([*command, "--evaluate", str(pictures), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "top-1 accuracy, 40 pictures" in printed and "| 1.0000 | 1.0000 (+0.0000) |" in printed
    assert "number is the score of 'bright', the second label; 'dark' has the rest" in printed
    bundle = open_bundle(out)
    assert bundle.labels == ("dark", "bright") and isinstance(bundle.manifest.output, ClassifyOutput)
    assert bundle.manifest.output.activation == ("none" if ending else "sigmoid")
    assert main([*command, "--activation", "softmax"]) == 2
    assert "one number for two labels" in capsys.readouterr().err


def test_one_label_is_a_class_of_which_nothing_can_be_judged(
    tf: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = build_of(brightness(tf, None), tmp_path, pictures, "bright\n")
    assert main([*command, "--out", str(tmp_path / "shade.tflite")]) == 0
    assert "alike" not in capsys.readouterr().out
    assert main([*command, "--evaluate", str(pictures)]) == 2
    assert "nothing to tell apart: expected two labels at least, found bright; name what" in capsys.readouterr().err
    assert main([*command, "--activation", "softmax"]) == 2
    assert "a softmax of one number is always 1" in capsys.readouterr().err


def test_one_answer_of_several_is_doubted() -> None:
    assert doubts_unlabelled(np.zeros(20, np.int64), ["a", "b"]) and not doubts_unlabelled(
        np.zeros(20, np.int64), ["a"]
    )


def test_a_softmax_of_one_number_is_refused() -> None:
    from vedette.contract.decode import make_decoder
    from vedette.contract.types import TensorSpec

    tensor = TensorSpec("score", (1, 1), np.dtype(np.float32))
    with pytest.raises(ModelError, match="a softmax of one number is always 1"):
        make_decoder(ClassifyOutput(activation="softmax"), [tensor], 1)
