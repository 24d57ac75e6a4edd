"""What the Edge TPU's compiler maps to the Edge TPU, as far as its documentation says.

Sources: https://coral.ai/docs/edgetpu/models-intro/ (model requirements, the table of supported operations with their
limitations, for runtime 14) and https://coral.ai/docs/edgetpu/compiler/ (parameter data caching). The compiler itself
knows more limits than its documentation; where it is installed, `vedette_converter.lint.compiler` asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from .graph import Graph, Op, Tensor
from .rule import Refusal

CACHE_BYTES: Final = 8 * 1024 * 1024
"""On-chip memory for parameters, "roughly 8 MB", less what the program itself takes."""
CUSTOM_OP: Final = "edgetpu-custom-op"
"""What the compiler leaves in the graph in the place of all it mapped."""
MAX_SOFTMAX: Final = 16_000
EIGHT_BITS: Final = frozenset({"INT8", "UINT8"})

Check: TypeAlias = Callable[[Op], Refusal | None]

_PLAIN: Final = frozenset({
    "ADD", "EXPAND_DIMS", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "QUANTIZE", "RELU", "RELU6",
    "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SPACE_TO_DEPTH",
    "SQUARED_DIFFERENCE", "SQUEEZE", "SUB", "TANH", "TRANSPOSE", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM",
})  # fmt: skip
_INSTEAD: Final[Mapping[str, str]] = {
    "DEQUANTIZE": "give the network int8 or uint8 outputs",
    "HARD_SWISH": "use RELU6",
    "LEAKY_RELU": "use RELU6, or PRELU with one slope a channel",
    "ADD_N": "chain two-input ADDs",
    "ARG_MAX": "take the maximum in the decoder",
    "DIV": "multiply by the reciprocal",
    "TFLite_Detection_PostProcess": "it belongs on the CPU: it is last, so nothing is lost but its own time",
}
# Inputs that carry values. The others are weights, shapes or axes, which must be constants.
_DATA: Final[Mapping[str, tuple[int, ...]]] = {
    "SPLIT": (1,), "TRANSPOSE_CONV": (2,), "CONV_2D": (0,), "DEPTHWISE_CONV_2D": (0,), "FULLY_CONNECTED": (0,),
    "MEAN": (0,), "SUM": (0,), "REDUCE_MAX": (0,), "REDUCE_MIN": (0,), "PAD": (0,), "RESHAPE": (0,), "SLICE": (0,),
    "STRIDED_SLICE": (0,), "TRANSPOSE": (0,), "RESIZE_BILINEAR": (0,), "RESIZE_NEAREST_NEIGHBOR": (0,),
    "EXPAND_DIMS": (0,), "PRELU": (0,), "UNIDIRECTIONAL_SEQUENCE_LSTM": (0,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """Where each operation would run."""

    refusals: Mapping[int, Refusal]  # by operation, those that stay on the CPU
    parameter_bytes: int  # constants that the mapped operations read


def estimate(graph: Graph) -> Estimate:
    """Which operations the compiler would map.

    It makes one Edge TPU subgraph. Operations before it may stay on the CPU (the QUANTIZE of a float input); behind it,
    the first that is not supported takes everything that follows from it to the CPU.
    """
    refusals: dict[int, Refusal] = {}
    producers = graph.producers
    inside: dict[int, bool] = {}  # operation -> it or something before it was mapped
    behind: dict[int, int] = {}  # operation -> the one behind which it lost its place
    for op in graph.ops:
        sources = [producers[t.index] for t in op.inputs if t is not None and t.index in producers]
        before = [s for s in sources if s.index < op.index]
        was_inside = any(inside.get(source.index, False) for source in before)
        lost = next((behind[source.index] for source in before if source.index in behind), None)
        own = refusal(op)
        if own is not None:
            refusals[op.index] = own
            if was_inside:
                behind[op.index] = op.index if lost is None else lost
        elif lost is not None:
            blocker = graph.ops[lost]
            refusals[op.index] = Refusal(
                f"it follows operation {lost} ({blocker.kind}): there is one Edge TPU subgraph, and that ended it",
                f"replace operation {lost}",
            )
            behind[op.index] = lost
        inside[op.index] = was_inside or op.index not in refusals
    mapped = [op for op in graph.ops if op.index not in refusals]
    constants = {t.index: t.size_bytes for op in mapped for t in op.inputs if t is not None and t.constant}
    return Estimate(refusals, sum(constants.values()))


def refusal(op: Op) -> Refusal | None:
    """Why this operation cannot run on the Edge TPU, leaving aside what stands before it; None where it can."""
    checks = (_known, _whole, _fixed, _eight_bits, _three_dimensions, _CHECKS.get(op.kind))
    return next((found for check in checks if check is not None and (found := check(op)) is not None), None)


def _data(op: Op) -> tuple[Tensor, ...]:
    positions = _DATA.get(op.kind, tuple(range(len(op.inputs))))
    return tuple(tensor for position in positions if (tensor := op.input(position)) is not None)


def _known(op: Op) -> Refusal | None:
    if op.kind == CUSTOM_OP:
        return None
    if op.custom or (op.kind not in _PLAIN and op.kind not in _CHECKS):
        return Refusal("not among the Edge TPU's operations", _INSTEAD.get(op.kind, ""))
    return None


def _whole(op: Op) -> Refusal | None:
    return None if _data(op) and op.outputs else Refusal("it has no input or no output")


def _fixed(op: Op) -> Refusal | None:
    values = {tensor.index for tensor in _data(op)}
    for tensor in op.tensors:
        if tensor.dynamic:
            return Refusal(f"{tensor.label} has no fixed size", "convert with a fixed input shape (batch 1)")
    for source in op.inputs:
        if source is not None and source.index not in values and not source.constant and not source.variable:
            return Refusal("its weights, shape or axes are computed while the network runs", "make them constants")
    return None


def _eight_bits(op: Op) -> Refusal | None:
    if op.kind == CUSTOM_OP:
        return None
    for tensor in (*_data(op), *op.outputs):
        if tensor.dtype not in EIGHT_BITS or tensor.quantisation is None:
            return Refusal(
                f"{tensor.label} is {tensor.dtype.lower()}, and the Edge TPU computes in int8 and uint8",
                _INSTEAD.get(op.kind, "quantise the whole network, inputs and outputs too"),
            )
    weights = op.input(1)
    if op.macs and weights is not None and weights.dtype not in EIGHT_BITS:
        return Refusal(f"{weights.dtype.lower()} weights", "quantise weights to int8")
    return None


def _three_dimensions(op: Op) -> Refusal | None:
    for tensor in (*_data(op), *op.outputs):
        if any(n != 1 for n in tensor.shape[:-3]):
            return Refusal(
                f"{tensor.kind}: only the three innermost dimensions may exceed 1",
                "use batch 1" if len(tensor.shape) == 4 else "RESHAPE to three dimensions",
            )
    return None


def _no_activation(op: Op) -> Refusal | None:
    if op.activation == "NONE":
        return None
    return Refusal(f"a fused {op.activation}", "give it an operation of its own")


def _concatenation(op: Op) -> Refusal | None:
    constants = [tensor for tensor in _data(op) if tensor.constant]
    if constants and len(op.inputs) > 2:
        return Refusal("a constant among more than two inputs", "concatenate the constant alone, or pad")
    for tensor in constants:
        zero = tensor.quantisation.zero_points[0] if tensor.quantisation and tensor.quantisation.zero_points else 0
        if tensor.value is None or any(n != zero for n in tensor.value):
            return Refusal("a constant that is not all zeros", "compute it, or add it outside the network")
    return _no_activation(op)


def _dilation(op: Op) -> Refusal | None:
    across, down = op.options.get("DilationWFactor", 1), op.options.get("DilationHFactor", 1)
    return None if across == down else Refusal(f"dilation {down}x{across}", "use the same in both directions")


def _fully_connected(op: Op) -> Refusal | None:
    if op.options.get("WeightsFormat"):
        return Refusal("shuffled weights", "convert without it")
    if any(n != 1 for n in op.outputs[0].shape[:-1]):
        return Refusal(
            f"its output {op.outputs[0].kind} is not one-dimensional", "use a 1x1 convolution, or flatten first"
        )
    return None


def _axes(op: Op, position: int) -> set[int]:
    """A constant input's axes, counted from the front; empty where they are not known."""
    source, axes = _data(op), op.input(position)
    if not source or axes is None or axes.value is None:
        return set()
    rank = len(source[0].shape)
    return {axis % rank for axis in axes.value} if rank else set()


def _reduction(op: Op) -> Refusal | None:
    axes, shape = _axes(op, 1), _data(op)[0].shape
    if 0 in axes and len(shape) > 3:
        return Refusal("it reduces over the batch", "reduce over height, width or channels")
    if op.kind == "MEAN" and len(shape) - 1 in axes and shape[-1] % 4:
        return Refusal(f"a mean over {shape[-1]} channels", "make the channels a multiple of 4")
    return None


def _pack(op: Op) -> Refusal | None:
    return Refusal("it packs along the batch", "pack along another axis") if op.options.get("Axis", 0) == 0 else None


def _pad(op: Op) -> Refusal | None:
    paddings = op.input(1)
    if paddings is not None and paddings.value is not None and len(_data(op)[0].shape) > 3 and any(paddings.value[:2]):
        return Refusal("it pads the batch", "pad height and width")
    return None


def _prelu(op: Op) -> Refusal | None:
    slope = op.input(1)
    if slope is not None and any(n != 1 for n in slope.shape[:-1]):
        return Refusal("a slope a pixel", "one a channel (Keras: shared_axes=[1, 2])")
    return None


def _softmax(op: Op) -> Refusal | None:
    shape = op.outputs[0].shape
    if any(n != 1 for n in shape[:-1]) or (shape and shape[-1] > MAX_SOFTMAX):
        return Refusal(
            f"{op.outputs[0].kind}: one dimension of at most {MAX_SOFTMAX} elements is supported",
            "leave it out of the network and let the decoder do it",
        )
    return None


def _split(op: Op) -> Refusal | None:
    axis, source = op.input(0), _data(op)
    if (
        axis is not None
        and axis.value
        and source
        and len(source[0].shape) > 3
        and axis.value[0] % len(source[0].shape) == 0
    ):
        return Refusal("it splits the batch", "split channels")
    return None


def _strided_slice(op: Op) -> Refusal | None:
    strides = op.input(3)
    if strides is not None and strides.value is not None and any(stride != 1 for stride in strides.value):
        return Refusal(f"strides {list(strides.value)}", "use stride 1, or a pool or convolution with that stride")
    if op.options.get("EllipsisMask") or op.options.get("NewAxisMask"):
        return Refusal("a slice with an ellipsis or a new axis", "slice without, then RESHAPE")
    return None


_CHECKS: Final[Mapping[str, Check]] = {
    "AVERAGE_POOL_2D": _no_activation, "MAX_POOL_2D": _no_activation, "CONCATENATION": _concatenation,
    "CONV_2D": _dilation, "DEPTHWISE_CONV_2D": _dilation, "FULLY_CONNECTED": _fully_connected, "MEAN": _reduction,
    "SUM": _reduction, "REDUCE_MAX": _reduction, "REDUCE_MIN": _reduction, "PACK": _pack, "PAD": _pad, "PRELU": _prelu,
    "SOFTMAX": _softmax, "SPLIT": _split, "STRIDED_SLICE": _strided_slice,
}  # fmt: skip
