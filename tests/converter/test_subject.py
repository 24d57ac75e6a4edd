"""What the agent would make of a network, before there is a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput, ImageInput
from vedette.contract.types import Classes
from vedette.engine import TfliteEngine, load_runtime
from vedette_converter.subject import Subject


def test_a_classifier_that_leaves_its_softmax_to_be_done_is_refused(tf: Any, tmp_path: Path) -> None:
    layers = tf.keras.layers
    pixels = layers.Input((8, 8, 3))
    logits = layers.Dense(2, kernel_initializer="ones", bias_initializer=lambda *_, **__: [0.0, -9.0])
    model = tf.keras.Model(pixels, logits(layers.GlobalAveragePooling2D()(pixels)))
    path = tmp_path / "logits.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())

    def seen(output: ClassifyOutput) -> Any:
        engine = TfliteEngine(path, load_runtime())
        subject = Subject(engine, ImageInput(height=8, width=8), output, ["near", "far"], score_threshold=None)
        return subject(np.full((8, 8, 3), 4, np.uint8))

    with pytest.raises(UserError, match=r"output\.activation: .* scores from 0 to 1, found 12; .*softmax"):
        seen(ClassifyOutput())
    found = seen(ClassifyOutput(activation="softmax"))
    assert isinstance(found, Classes) and found.class_ids[0] == 0 and found.scores[0] > 0.99
