"""Least squares in the place of training: what was redundant costs nothing, and all else less than it did."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from vedette_converter import prune

tf = pytest.importorskip("tensorflow", reason="the converter's extra is not installed")


def samples(count: int = 6) -> list[Any]:
    rng = np.random.default_rng(1)
    # smooth, as pictures are: neighbouring pixels say nearly the same
    return [tf.constant(np.cumsum(rng.normal(0, 0.3, (4, 16, 16, 3)), axis=1).astype(np.float32)) for _ in range(count)]


def network(*, bias: bool = True, strides: int = 1, padding: str = "same", dilation: int = 1) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    layers = keras.layers
    x = pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(32, 3, padding="same", use_bias=bias, name="first")(x)
    if not bias:
        x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(
        24, 3, strides=strides, padding=padding, dilation_rate=dilation, activation="relu", use_bias=bias, name="second"
    )(x)
    y = layers.Conv2D(24, 1, use_bias=bias, name="third")(x)
    x = layers.Add()([x, y])
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    return keras.Model(pixels, layers.Dense(5, name="last")(x))


def error(model: Any, other: Any, batches: list[Any]) -> float:
    pairs = [(model(batch, training=False), other(batch, training=False)) for batch in batches]
    off = sum(float(tf.reduce_sum((a - b) ** 2)) for a, b in pairs)
    spread = np.concatenate([np.asarray(a) for a, _ in pairs])
    return off / float(((spread - spread.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"strides": 2}, {"padding": "valid"}, {"dilation": 2}, {"strides": 2, "padding": "valid"}],
)
def test_each_layer_errs_less_and_so_does_the_network(options: dict[str, Any]) -> None:
    model = network(**options)
    plan = prune.plan(model, prune.L1Norm(), ratio=0.5, multiple=4)
    smaller = prune.apply(model, plan)
    shown = samples()
    before = error(model, smaller, shown)
    done: list[tuple[int, int]] = []
    refits = prune.reconstruct(model, smaller, plan, shown, on_layer=lambda *told: done.append(told))
    assert [refit.layer for refit in refits] == ["second", "third", "last"] and done[-1] == (3, 3)
    assert all(refit.after < refit.before for refit in refits), refits
    assert error(model, smaller, shown) < 0.3 * before


def test_channels_that_said_the_same_as_others_are_not_missed() -> None:
    model = network()
    first, depthwise = model.get_layer("first"), next(x for x in model.layers if "depthwise" in x.name)
    for variable in (first.kernel, first.bias, depthwise.kernel, depthwise.bias):
        axis = 2 if variable is depthwise.kernel else -1
        half = np.take(np.asarray(variable), range(16), axis=axis)
        variable.assign(np.concatenate([half, half], axis=axis))
    cuts = [
        prune.Cut(group.name, group.layers, group.size, tuple(range(16, 32)) if "first" in group.layers else ())
        for group in prune.analyse(model).groups
    ]
    plan = prune.Plan(tuple(cuts))
    smaller = prune.apply(model, plan)
    shown = samples()
    assert error(model, smaller, shown) > 0.1
    [refit] = prune.reconstruct(model, smaller, plan, shown)
    assert refit.layer == "second" and refit.after < 1e-4
    assert error(model, smaller, shown) < 1e-3


def test_a_few_samples_are_not_learned_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    keras.utils.set_random_seed(5)
    layers = keras.layers
    pixels = keras.Input((4, 4, 3))
    x = layers.Conv2D(96, 3, activation="relu", padding="valid", name="first")(pixels)
    model = keras.Model(pixels, layers.Dense(5, name="last")(layers.GlobalAveragePooling2D()(x)))
    plan = prune.plan(model, prune.L1Norm(), ratio=0.5, multiple=8)
    rng = np.random.default_rng(2)
    shown, unseen = ([tf.constant(rng.normal(size=(n, 4, 4, 3)).astype(np.float32))] for n in (64, 400))

    def refitted() -> tuple[float, float]:
        smaller = prune.apply(model, plan)
        [refit] = prune.reconstruct(model, smaller, plan, shown)
        return error(model, smaller, unseen), refit.ridge

    plain = error(model, prune.apply(model, plan), unseen)
    chosen, ridge = refitted()
    assert chosen < 0.8 * plain and ridge > 3e-4
    monkeypatch.setattr(sys.modules["vedette_converter.prune.reconstruct"], "RIDGES", (1e-9,))
    assert refitted() == (pytest.approx(plain), float("inf")), "as many samples as weights: nothing to be learned so"
