"""Clones of Keras networks: exact, or fresh but for what was adapted to data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vedette.contract.manifest import ClassifyOutput, ImageInput
from vedette_converter.cloned import copied, renewed
from vedette_converter.load.keras import _with_inputs
from vedette_converter.load.shapes import Fed
from vedette_converter.progress import Silent
from vedette_converter.recipe.training import Distil
from vedette_converter.student import Steps
from vedette_converter.train.data import Samples
from vedette_converter.train.loop import computing_in_bfloat16
from vedette_converter.train.work import Work

pytest.importorskip("tensorflow", reason="the converter's extra is not installed")
PIXELS = np.random.default_rng(0).integers(60, 200, (24, 8, 8, 3), np.uint8)


def adapted(side: int | None = 8, *, nested: bool = False) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    scale = layers.Normalization(axis=-1, name="scale")
    scale.adapt(PIXELS.astype(np.float32))
    x = pixels = keras.Input((side, side, 3))
    x = keras.Sequential([keras.Input((side, side, 3)), scale])(x) if nested else scale(x)
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    return keras.Model(pixels, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def normalised(model: Any) -> Any:
    """What the first layer makes of the pictures."""
    import keras

    return np.asarray(keras.Model(model.inputs[0], model.layers[1].output)(PIXELS.astype(np.float32)))


@pytest.mark.parametrize("nested", [False, True])
def test_a_copy_answers_as_the_original(nested: bool) -> None:
    model = adapted(nested=nested)
    shown = PIXELS.astype(np.float32)
    assert abs(normalised(model).mean()) < 0.01, "or the test says nothing"
    np.testing.assert_array_equal(copied(model)(shown), model(shown))


@pytest.mark.parametrize("nested", [False, True])
def test_fresh_weights_leave_what_was_adapted(nested: bool) -> None:
    model = adapted(nested=nested)
    fresh = renewed(model, 7)
    np.testing.assert_array_equal(normalised(fresh), normalised(model))
    assert not np.array_equal(fresh.layers[2].kernel, model.layers[2].kernel)


def test_a_network_behind_inputs_of_a_fixed_size_keeps_what_was_adapted() -> None:
    model = adapted(None)
    fixed = _with_inputs(model, [Fed((1, 8, 8, 3))])
    np.testing.assert_allclose(fixed(PIXELS.astype(np.float32)), model(PIXELS.astype(np.float32)), atol=1e-6)


def test_a_student_begins_as_its_teacher_and_the_control_with_its_statistics(tmp_path: Path) -> None:
    model = adapted()
    samples = Samples(PIXELS, np.empty(0, np.int32), ImageInput(height=8, width=8), "some")
    options = Distil(epochs=1, batch=8, views=1, learning_rate=1e-9, control=True)
    steps = Steps(ClassifyOutput(), Work(tmp_path), Silent(), lambda network: b"")
    student = steps.prune_and_distil(model, None, options, None, samples, None)
    shown = PIXELS.astype(np.float32)
    np.testing.assert_allclose(student.model(shown), model(shown), atol=1e-5)
    np.testing.assert_array_equal(normalised(student.control), normalised(model))


def test_adapted_statistics_go_with_a_narrower_type() -> None:
    model = adapted()
    shown = PIXELS.astype(np.float32)
    with computing_in_bfloat16(model, wanted=True):
        np.testing.assert_allclose(np.asarray(model(shown, training=True), np.float32), model(shown), atol=0.05)
    assert model(shown).dtype == np.float32
