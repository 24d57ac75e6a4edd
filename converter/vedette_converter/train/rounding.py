"""Training that sees what int8 will do to the activations, and learns to live with it.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", arXiv
1712.05877, section 3: in the forward pass each tensor that the integer network will hold is rounded to 256 steps of its
range, and the gradient goes through as if it were not. The range is the batch's own. Weights, which get a scale a channel,
are not rounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..tensorflow import load_tensorflow

_FUSED: Final = frozenset({"BatchNormalization", "ReLU", "Activation"})
"""Layers that the converter folds into the one before: what lies between the two never exists in integers."""
_HANDED_ON: Final = frozenset({"InputLayer", "Flatten", "Reshape", "Dropout", "MaxPooling2D", "ZeroPadding2D"})
"""Layers whose outputs are values of their inputs, rounded already. The network's input is bytes."""


@contextlib.contextmanager
def rounded_activations(model: Any) -> Iterator[None]:
    """Inside the block what the layers of a functional network put out is rounded to eight bits while it trains."""
    changed = [(layer, vars(layer).get("call"), layer.call) for layer in model.layers if _is_rounded(layer)]
    for layer, _, call in changed:
        layer.call = _rounded(call)
    try:
        yield
    finally:
        for layer, own, _ in changed:
            if own is None:
                del layer.call  # the class's own is back
            else:
                layer.call = own


def _is_rounded(layer: Any) -> bool:
    if type(layer).__name__ in _HANDED_ON:
        return False
    readers = [node.operation for node in layer._outbound_nodes]
    return not (len(readers) == 1 and type(readers[0]).__name__ in _FUSED)


def _rounded(call: Callable[..., Any]) -> Callable[..., Any]:
    tf = load_tensorflow()

    def rounding(*inputs: Any, **options: Any) -> Any:
        out = call(*inputs, **options)
        if not tf.is_tensor(out) or not out.dtype.is_floating:
            return out
        real = tf.cast(out, tf.float32)
        low = tf.stop_gradient(tf.minimum(tf.reduce_min(real), 0.0))
        high = tf.stop_gradient(tf.maximum(tf.reduce_max(real), 1e-6))
        return tf.cast(tf.quantization.fake_quant_with_min_max_vars(real, low, high), out.dtype)

    return rounding
