"""A network that says one number for two classes: how sure it is of the second, as Keras's binary classifiers end.

Bundles have a score a class. So the first class gets the rest: ``1 - p`` beside ``p``, or, where a sigmoid is left to be
done, ``-z`` beside ``z``, for ``sigmoid(-z) = 1 - sigmoid(z)``. Both are a dense layer, which every precision has a kernel
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vedette.contract.errors import UserError
from vedette.contract.types import TensorSpec

from .load import Network
from .load.graph import as_network, freeze
from .load.shapes import Fed
from .tensorflow import load_tensorflow


def one_number(outputs: Sequence[TensorSpec]) -> bool:
    """Whether the only output is a single number."""
    return len(outputs) == 1 and outputs[0].shape == (1, 1)


def with_both(network: Network, activation: str) -> Network:
    """The network with a score for each of the two classes; it cannot be trained any more.

    Raises `UserError` for a softmax, which two classes in one number do not go with, and where the network came as a
    flatbuffer, which nothing can be added to.
    """
    if activation == "softmax":
        raise UserError(
            "one number for two labels", where="output.activation", expected='"sigmoid", or "none" where it is a score',
            found='"softmax"', fix='activation = "sigmoid" (--activation)',
        )  # fmt: skip
    if network.function is None:
        raise UserError(
            "one number for two labels", expected="two numbers, or the network as Keras or TensorFlow has it",
            found="a flatbuffer", fix="name the one label that the number is the score of",
        )  # fmt: skip
    tf = load_tensorflow()
    (spec,) = network.outputs

    def both(*fed: Any) -> Any:
        (second,) = network.function(*fed)
        return tf.nn.bias_add(tf.matmul(second, [[-1.0, 1.0]]), [0.0 if activation == "sigmoid" else 1.0, 0.0])

    graph, frozen = freeze(both, [(one.shape, tf.float32) for one in network.inputs])
    entries = {t.op.name: (one.name, Fed(one.shape)) for t, one in zip(frozen.inputs, network.inputs, strict=True)}
    return as_network(graph, entries, [(str(frozen.outputs[0].name), spec.name)], "network")
