"""Small real networks for the quantiser's tests, as a graph and as a float flatbuffer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from vedette.contract.types import Float32Array, TensorSpec
from vedette_converter import quantise
from vedette_converter.load.network import Network
from vedette_converter.quantise.samples import Sample, Samples

SIDE = 16


def as_network(tf: Any, model: Any) -> Network:
    """A Keras model's graph, batch 1."""
    shapes = [(1, *tensor.shape[1:]) for tensor in model.inputs]
    several = len(shapes) > 1

    def call(*given: Any) -> list[Any]:
        result = model(list(given) if several else given[0], training=False)
        return result if isinstance(result, list) else [result]

    concrete = tf.function(call).get_concrete_function(*(tf.TensorSpec(shape, tf.float32) for shape in shapes))
    inputs = tuple(TensorSpec(f"input_{n}", shape, np.dtype(np.float32)) for n, shape in enumerate(shapes))
    outputs = tuple(
        TensorSpec(f"output_{n}", (1, *tensor.shape[1:]), np.dtype(np.float32))
        for n, tensor in enumerate(model.outputs)
    )
    return Network(inputs, outputs, concrete, model)


def as_flatbuffer(network: Network) -> Network:
    """The same network as if it had come as a float flatbuffer."""
    return replace(network, function=None, model=None, flatbuffer=quantise.to_float32(network))


def sourced(network: Network, source: str) -> Network:
    """``graph`` or ``flatbuffer``."""
    return network if source == "graph" else as_flatbuffer(network)


def classifier(tf: Any) -> Any:
    """Convolutions dense and depthwise, an addition, pooling, a dense layer: 16x16x3 -> 5 logits."""
    keras = tf.keras
    keras.utils.set_random_seed(1)
    x = given = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.ReLU(name="first_relu")(keras.layers.Conv2D(8, 3, padding="same", name="first")(x))
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="deep")(x)
    y = keras.layers.Conv2D(8, 1, name="wide")(keras.layers.ReLU()(y))
    x = keras.layers.Add(name="add")([x, y])
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="last")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(given, keras.layers.Dense(5, name="logits", bias_initializer="random_normal")(x))


def samples(network: Network, count: int = 32, seed: int = 1) -> Samples:
    """Noise of -1 to 1."""
    rng = np.random.default_rng(seed)
    made: list[Sample] = []
    for _ in range(count):
        given = tuple(rng.uniform(-1, 1, spec.shape).astype(np.float32) for spec in network.inputs)
        made.append(given if len(given) > 1 else given[0])

    def begin() -> Iterator[Sample]:
        return iter(made)

    return begin


def outlier(tf: Any, gain: float = 1e4, raised: float = 50.0) -> Any:
    """A network of which one hidden channel shoots up, rarely, to gain / 500 * raised, and no later layer reads it.

    16x16x1 -> ``rare`` (1x1, 16 channels, one of them above 0 for 1 in 1000 inputs) -> ``raise`` (that one's gain; the
    others stay within 0 to 2) -> ``reader`` (1x1, 4 channels) -> ``tail`` (3x3, 4 channels).
    """
    keras = tf.keras
    rng = np.random.default_rng(3)
    x = given = keras.Input((SIDE, SIDE, 1))
    x = keras.layers.Conv2D(16, 1, activation="relu", name="rare")(x)
    x = keras.layers.Conv2D(16, 1, activation="relu", name="raise")(x)
    x = keras.layers.Conv2D(4, 1, activation="relu", name="reader")(x)
    model = keras.Model(given, keras.layers.Conv2D(4, 3, padding="same", name="tail")(x))
    rare = rng.uniform(0.5, 1.5, (1, 1, 1, 16)).astype(np.float32)
    bias = rng.uniform(0.0, 0.5, 16).astype(np.float32)
    rare[..., 0], bias[0] = gain, -0.998 * gain
    gains = np.eye(16, dtype=np.float32)
    gains[0, 0] = raised
    reader = rng.uniform(-0.5, 1.0, (1, 1, 16, 4)).astype(np.float32)
    reader[:, :, 0] = 0.0
    model.get_layer("rare").set_weights([rare, bias])
    model.get_layer("raise").set_weights([gains[None, None], np.zeros(16, np.float32)])
    model.get_layer("reader").set_weights([reader, np.zeros(4, np.float32)])
    return model


def sqnr_db(network: Network, flatbuffer: bytes, unseen: Samples) -> float:
    """Of the worst output, against the float flatbuffer, over samples that calibration did not see."""
    from vedette_converter.quantise.trace import run_outputs, worst_output_sqnr_db

    shown = list(unseen())
    return worst_output_sqnr_db(
        run_outputs(quantise.to_float32(network), shown), run_outputs(flatbuffer, shown)
    )  # fmt: skip


def first_weights(model: Any, name: str) -> list[Float32Array]:
    """A layer's weights, copies."""
    return [np.array(w) for w in model.get_layer(name).get_weights()]
