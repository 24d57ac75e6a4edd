"""A network that training killed is told as such, before anything is made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette.contract.errors import UserError
from vedette_converter.load.keras import from_model
from vedette_converter.train.alive import expect_alive

SAMPLES = list(np.random.default_rng(1).normal(0, 1, (8, 1, 4)).astype(np.float32))


def network(tf: Any, bias: float) -> Any:
    """Its hidden layer gives nothing but zeros where the bias is far below what weights and samples reach."""
    hidden = tf.keras.layers.Dense(3, activation="relu", bias_initializer=tf.keras.initializers.Constant(bias))
    return from_model(tf.keras.Sequential([tf.keras.Input((4,)), hidden, tf.keras.layers.Dense(2, "softmax")]))


def test_a_network_that_answers_all_alike(tf: Any) -> None:
    with pytest.raises(
        UserError, match=r"\[distil\]: training left nothing .* one and the same for 8 samples; lower its"
    ):
        expect_alive(network(tf, -1000.0), SAMPLES, "[distil]")
    expect_alive(network(tf, 0.0), SAMPLES, "[distil]")
    expect_alive(network(tf, -1000.0), SAMPLES[:1], "[distil]")
