"""A Keras model -> the `Network` that conversion and evaluation work on."""

from __future__ import annotations

from typing import Any

import numpy as np

from vedette.contract.types import TensorSpec

from ..load.network import Network
from ..tensorflow import load_tensorflow


def as_network(model: Any) -> Network:
    """Batch 1, the weights as they are now (frozen into the graph: train on, and freeze again)."""
    tf = load_tensorflow()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shapes = [(1, *tensor.shape[1:]) for tensor in model.inputs]

    def run(*samples: Any) -> list[Any]:
        results = model(samples[0] if len(samples) == 1 else list(samples), training=False)
        return list(tf.nest.flatten(results))

    concrete = tf.function(run, autograph=False).get_concrete_function(
        *(tf.TensorSpec(shape, tf.float32) for shape in shapes)
    )
    frozen = convert_variables_to_constants_v2(concrete)
    inputs = tuple(
        TensorSpec(tensor.name, shape, np.dtype(np.float32)) for tensor, shape in zip(model.inputs, shapes, strict=True)
    )
    outputs = tuple(
        TensorSpec(name, (1, *tensor.shape[1:]), np.dtype(np.float32))
        for name, tensor in zip(model.output_names, model.outputs, strict=True)
    )
    return Network(inputs, outputs, frozen, model)
