"""Batch normalisation by TensorFlow's fused kernel while a network is trained.

Keras 3 writes it as a dozen operations (mean, squares, root, products), each of which goes through the whole batch in
memory, and of a small network that is much of the work. `tf.raw_ops.FusedBatchNormV3` is the same
arithmetic in one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ..tensorflow import load_tensorflow


@contextlib.contextmanager
def fused_batch_norm(model: Any) -> Iterator[None]:
    """Inside the block `BatchNormalization` of pictures (n, height, width, channels) is one operation where it trains.

    What it computes and what it keeps is the same: moving statistics too. Of an inner model's layers nothing changes.
    """
    changed = [layer for layer in model.layers if _fits(layer)]
    for layer in changed:
        layer.call = _fused(layer, layer.call)
    try:
        yield
    finally:
        for layer in changed:
            del layer.call  # the class's own is back


def _fits(layer: Any) -> bool:
    return type(layer).__name__ == "BatchNormalization" and not getattr(layer, "synchronized", False)


def _fused(layer: Any, unfused: Callable[..., Any]) -> Callable[..., Any]:
    tf = load_tensorflow()

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not (training and layer.trainable and len(inputs.shape) == 4 and layer.axis in (-1, 3)):
            return unfused(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        scale = tf.cast(layer.gamma, tf.float32) if layer.scale else tf.ones(channels)
        offset = tf.cast(layer.beta, tf.float32) if layer.center else tf.zeros(channels)
        nothing = tf.zeros([0])
        out = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=offset,
            mean=nothing,
            variance=nothing,
            epsilon=layer.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        variance = out.batch_variance * ((count - 1.0) / tf.maximum(count, 1.0))  # it gives the unbiased one
        for moving, seen in ((layer.moving_mean, out.batch_mean), (layer.moving_variance, variance)):
            moving.assign(moving * layer.momentum + seen * (1.0 - layer.momentum))
        return out.y

    return call
