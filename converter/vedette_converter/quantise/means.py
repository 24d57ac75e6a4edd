"""A pool over the whole map becomes a mean, which is the same number and quantises better.

TFLite's int8 AVERAGE_POOL_2D puts out the scale of what comes in. Averages of a whole map are far smaller than its largest
value, so most of the eight bits say nothing. MEAN has a range of its own; XNNPACK takes it in int8, and the pool not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..load import Network
from ..tensorflow import load_tensorflow
from ..zoo.network import as_network


def with_means(network: Network) -> Network | None:
    """The network so written; None where it came without a Keras model, or has no such pool."""
    pools = [] if network.model is None else [layer for layer in network.model.layers if _covers_all(layer)]
    if not pools:
        return None
    with _as_means(pools):
        written = as_network(network.model)
    # of signatures in an order of their own nothing is guessed
    same = (written.inputs, written.outputs) == (network.inputs, network.outputs)
    return written if same else None


def _covers_all(layer: Any) -> bool:
    if type(layer).__name__ != "AveragePooling2D" or layer.padding != "valid" or len(layer._inbound_nodes) != 1:
        return False
    if layer.data_format != "channels_last":
        return False
    return tuple(layer.input.shape[1:3]) == tuple(layer.pool_size)


@contextlib.contextmanager
def _as_means(pools: list[Any]) -> Iterator[None]:
    tf = load_tensorflow()
    for pool in pools:
        pool.call = lambda inputs: tf.reduce_mean(inputs, axis=(1, 2), keepdims=True)
    try:
        yield
    finally:
        for pool in pools:
            del pool.call  # the class's own is back
