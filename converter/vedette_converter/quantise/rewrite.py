"""What layers of a Keras model compute, written so that integers can hold it: the same numbers in other operations.

*A pool over the whole map* becomes a mean. TFLite's int8 AVERAGE_POOL_2D puts out the scale of what comes in. Averages of a
whole map are far smaller than its largest value, so most of the eight bits say nothing. MEAN has a range of its own; XNNPACK
takes it in int8, and the pool not.

*A layer normalisation* (Ba et al., arXiv 1607.06450) takes the mean off first. Keras computes ``x * inv + (beta - mean *
inv)``: two large numbers whose difference is small, which eight bits do not hold, and a NEG, which has no integer kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from ..load import Network
from ..tensorflow import load_tensorflow
from ..zoo.network import as_network

_Call: TypeAlias = Callable[[Any], Any]


def for_integers(network: Network) -> Network | None:
    """The network so written; None where it came without a Keras model, or has no such layer."""
    if network.model is None:
        return None
    calls = [(layer, call) for layer in _layers(network.model) if (call := _pool(layer) or _norm(layer)) is not None]
    if not calls:
        return None
    with _called(calls):
        written = as_network(network.model)
    # of signatures in an order of their own nothing is guessed
    same = (written.inputs, written.outputs) == (network.inputs, network.outputs)
    return written if same else None


def _layers(model: Any) -> list[Any]:
    """Those inside of others, too."""
    return [layer for layer in model._flatten_layers() if layer is not model]


def _pool(layer: Any) -> _Call | None:
    """As a mean, where it covers all of one map."""
    if type(layer).__name__ != "AveragePooling2D" or layer.padding != "valid" or len(layer._inbound_nodes) != 1:
        return None
    if layer.data_format != "channels_last" or tuple(layer.input.shape[1:3]) != tuple(layer.pool_size):
        return None
    tf = load_tensorflow()
    return lambda inputs: tf.reduce_mean(inputs, axis=(1, 2), keepdims=True)


def _norm(layer: Any) -> _Call | None:
    """By what is left without the mean, where it is Keras 3's own and computes in float32."""
    kind = type(layer)
    if kind.__name__ != "LayerNormalization" or not kind.__module__.startswith("keras.src."):
        return None
    if layer.rms_scaling or layer.compute_dtype != "float32":
        return None
    tf = load_tensorflow()

    def call(inputs: Any) -> Any:
        axes = [axis % len(inputs.shape) for axis in layer.axis]
        shape = [size if axis in axes else 1 for axis, size in enumerate(inputs.shape)]
        centred = inputs - tf.reduce_mean(inputs, axis=axes, keepdims=True)
        # no tf.square: of it becomes SQUARED_DIFFERENCE, which has no kernel in int16
        variance = tf.reduce_mean(centred * centred, axis=axes, keepdims=True)
        outputs = centred * tf.math.rsqrt(variance + layer.epsilon)
        if layer.gamma is not None:
            outputs *= tf.reshape(layer.gamma, shape)
        return outputs if layer.beta is None else outputs + tf.reshape(layer.beta, shape)

    return call


@contextlib.contextmanager
def _called(calls: list[tuple[Any, _Call]]) -> Iterator[None]:
    for layer, call in calls:
        layer.call = call
    try:
        yield
    finally:
        for layer, _ in calls:
            del layer.call  # the class's own is back
