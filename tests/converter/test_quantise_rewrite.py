"""A pool over the whole map is quantised as a mean, a layer normalisation by what is left without it; nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette.engine import TfliteEngine, load_runtime
from vedette_converter import quantise
from vedette_converter.quantise.graph import read_graph
from vedette_converter.quantise.rewrite import for_integers
from vedette_converter.recipe.quantisation import Quantise
from vedette_converter.zoo.network import as_network

tf = pytest.importorskip("tensorflow", reason="the converter's extra is not installed")


def network(size: int, *, padding: str = "valid") -> Any:
    import keras

    keras.utils.set_random_seed(1)
    x = pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.AveragePooling2D(size, padding=padding)(x)
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def samples() -> list[Any]:
    """Bright dots in the dark: their averages are far from their extremes."""
    rng = np.random.default_rng(2)
    return [np.where(rng.random((1, 8, 8, 3)) < 0.03, 4.0, 0.0).astype(np.float32) for _ in range(64)]


@pytest.mark.parametrize("ranges", ["minmax", "percentile"])
def test_a_pool_over_all_becomes_a_mean_with_a_range_of_its_own(ranges: Any, tmp_path: Any) -> None:
    model = network(8)
    plain = as_network(model)
    made = quantise.convert(plain, Quantise(ranges=ranges), lambda: iter(samples()))
    ops = {op.name: op for op in read_graph(made).ops}
    assert "MEAN" in ops and "AVERAGE_POOL_2D" not in ops
    assert "AVERAGE_POOL_2D" in {op.name for op in read_graph(quantise.to_float32(as_network(model))).ops}, "untouched"
    pooled = quantise.to_int8(plain, iter(samples()))
    wanted = np.concatenate([plain.run(sample)[0] for sample in samples()])
    off = [np.abs(outputs(flatbuffer, tmp_path) - wanted).mean() for flatbuffer in (made, pooled)]
    assert off[0] < 0.7 * off[1]


def outputs(flatbuffer: bytes, folder: Any) -> Any:
    (folder / "n.tflite").write_bytes(flatbuffer)
    engine = TfliteEngine(folder / "n.tflite", load_runtime())
    inputs, found = engine.allocate()
    spec = engine.inputs[0]
    results = []
    for sample in samples():
        inputs[0][...] = np.clip(np.round(sample / spec.scale) + spec.zero_point, -128, 127)
        engine.invoke(inputs, found)
        results.append(engine.outputs[0].to_real(found[0]).copy())
    return np.concatenate(results)


def test_other_pools_stay() -> None:
    assert for_integers(as_network(network(4))) is None
    assert for_integers(as_network(network(8, padding="same"))) is None


@pytest.mark.parametrize(
    "options", [{}, {"axis": [1, 2]}, {"center": False}, {"scale": False, "epsilon": 0.5}, {"axis": 1, "scale": False}]
)
def test_a_normalisation_says_the_same_without_the_mean(options: dict[str, Any]) -> None:
    import keras

    rng = np.random.default_rng(3)
    layer = keras.layers.LayerNormalization(**options)
    inputs = keras.Input((6, 5))
    model = keras.Model(inputs, keras.Sequential([layer, keras.layers.Dense(4)])(inputs))
    for weight in layer.weights:
        weight.assign(rng.normal(1.0, 0.3, weight.shape))
    plain = as_network(model)
    written = for_integers(plain)
    assert written is not None
    sample = rng.normal(3.0, 2.0, (1, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(written.run(sample)[0], plain.run(sample)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("precision", "least_db"), [("int8", 20.0), ("int16x8", 35.0)])
def test_a_transformer_becomes_integers(precision: Any, least_db: float, tmp_path: Any) -> None:
    import keras

    keras.utils.set_random_seed(4)
    layers = keras.layers
    x = window = keras.Input((16, 6))
    x = layers.Dense(16)(x)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, activation="relu")(x)))
    plain = as_network(keras.Model(window, layers.Dense(4)(layers.GlobalAveragePooling1D()(x))))
    windows = list(np.random.default_rng(5).normal(size=(32, 1, 16, 6)).astype(np.float32))
    made = quantise.convert(
        plain, Quantise(precision=precision, input="float32", output="float32"), lambda: iter(windows)
    )
    assert "NEG" not in {op.name for op in read_graph(made).ops}
    (tmp_path / "n.tflite").write_bytes(made)
    engine = TfliteEngine(tmp_path / "n.tflite", load_runtime())
    inputs, found = engine.allocate()
    noise = signal = 0.0
    for sample in windows:
        inputs[0][...] = sample
        engine.invoke(inputs, found)
        wanted = plain.run(sample)[0]
        signal, noise = signal + float((wanted**2).sum()), noise + float(((found[0] - wanted) ** 2).sum())
    assert 10 * np.log10(signal / noise) > least_db


def test_other_normalisations_stay() -> None:
    import keras

    inputs = keras.Input((6, 5))
    for layer in (keras.layers.LayerNormalization(dtype="mixed_float16"), keras.layers.UnitNormalization()):
        assert for_integers(as_network(keras.Model(inputs, layer(inputs)))) is None
