"""What is said of a plain ``.tflite``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vedette_converter.bare import _speed
from vedette_converter.cli import main
from vedette_converter.train.kept import save_network


def test_what_became_slower_is_not_told_as_faster() -> None:
    assert _speed(0.25) == "4.00 times faster"
    assert _speed(1 / 0.58).startswith("1.72 times slower: `vedette-convert lint` says")


def test_a_second_input_is_named_where_a_classifier_is_expected(
    tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture, more = tf.keras.Input((8, 8, 3), name="picture"), tf.keras.Input((4,), name="more")
    mean = tf.keras.layers.GlobalAveragePooling2D()(picture)
    both = tf.keras.layers.Dense(3, name="classes")(tf.keras.layers.Concatenate()([mean, more]))
    save_network(tf.keras.Model([picture, more], both), tmp_path / "two.keras")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert main(["build", str(tmp_path / "two.keras"), "--data", str(tmp_path), "--evaluate", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert "--evaluate: there is no decoder for this network's results" in said
    assert "found picture float32[1, 8, 8, 3], more float32[1, 4] and classes float32[1, 3]; leave it out" in said
