"""What a network costs to run and to keep: multiply-accumulates and parameters, from its layers' shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vedette.contract.errors import ModelError

from .calls import Call, read_calls
from .rules import kind


@dataclass(frozen=True, slots=True)
class Cost:
    """For one sample."""

    macs: int
    """Multiply-accumulates of convolutions and dense layers. Biases, batch norms (folded when converted), activations,
    pooling and sums are not counted."""
    parameters: int
    """All weights, those of batch norms and other fixed ones among them; shared ones once."""
    uncounted: tuple[str, ...]
    """Layers with weights whose multiply-accumulates are not known here."""


def count(model: Any) -> Cost:
    """Raises `ModelError` where the network has no graph, or a layer's output size is open."""
    calls = read_calls(model)
    macs = 0
    uncounted: dict[str, None] = {}
    for call in calls.calls:
        weights = getattr(call.operation, "weights", [])
        each = _macs_each(call, kind(call.operation))
        if each is None:
            if weights:
                uncounted[call.name] = None
            continue
        # a transposed convolution uses its whole kernel at each place of its input, others at each of their output
        transposed = kind(call.operation).endswith("Transpose")
        shape = calls.shapes[call.inputs[0] if transposed else call.outputs[0]][1:-1]
        places = [size for size in shape if size is not None]
        if len(places) != len(shape):
            raise ModelError(
                f"layer {call.name}", where=calls.model.name, expected="a fixed size, to count its work",
                found=list(shape), fix="give the network's input a fixed shape",
            )  # fmt: skip
        macs += math.prod(places) * each
    operations = {id(op): op for op in calls.operations.values()}.values()
    parameters = {id(w): math.prod(w.shape) for op in operations for w in getattr(op, "weights", [])}
    return Cost(macs, sum(parameters.values()), tuple(uncounted))


def _macs_each(call: Call, what: str) -> int | None:
    """Multiply-accumulates at each place; 0 for batch norms and the like, None where it is not known."""
    kernels: dict[str, int] = {
        weight.name: math.prod(weight.shape) for weight in getattr(call.operation, "weights", [])
    }
    if what == "Dense" or what.startswith(("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv")):
        return kernels["kernel"]  # (.., in / groups, out): each output reads its own group alone
    if what.startswith("SeparableConv"):
        # the depthwise step is the one with strides, so both steps run at each place of the output
        return kernels["depthwise_kernel"] + kernels["pointwise_kernel"]
    return 0 if what in ("BatchNormalization", "PReLU", "Normalization", "LayerNormalization") else None
