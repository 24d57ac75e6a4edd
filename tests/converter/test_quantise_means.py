"""A pool over the whole map is quantised as a mean; any other pool stays one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette_converter import quantise
from vedette_converter.quantise.graph import read_graph
from vedette_converter.quantise.means import with_means
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
    from vedette.engine import TfliteEngine, load_runtime

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
    assert with_means(as_network(network(4))) is None
    assert with_means(as_network(network(8, padding="same"))) is None
