"""Why XNNPACK does not take an operation: rules by operation, type, shape and quantisation.

Sources: the delegate's own checks (google-ai-edge/LiteRT, tflite/delegates/xnnpack/xnnpack_delegate.cc, the ``Visit...``
functions) and its README; each rule was tried against LiteRT 2.3.0. What the delegate really does is measured by
`vedette_converter.lint.measure`; a rule only has to explain it, and stands in where a file cannot be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from .graph import Graph, Op, Tensor
from .rule import Refusal

MAX_RANK: Final = 6  # XNN_MAX_TENSOR_DIMS
MAX_CONCATENATED: Final = 5
MAX_SPLIT: Final = 4
FLOAT: Final = frozenset({"FLOAT32", "FLOAT16"})
EIGHT_BITS: Final = frozenset({"INT8", "UINT8"})
CUSTOM: Final = frozenset({"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D"})  # MediaPipe's

Check: TypeAlias = Callable[[Op], Refusal | None]

_FLOAT_ONLY: Final = frozenset({
    "ABS", "AVERAGE_POOL_2D", "CEIL", "COS", "DIV", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "MAXIMUM", "MINIMUM",
    "NEG", "PRELU", "RELU", "RELU_N1_TO_1", "RELU6", "ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE",
    "SQUARED_DIFFERENCE",
})  # fmt: skip
_FLOAT_OR_8_BITS: Final = frozenset({
    "ADD", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "DEPTH_TO_SPACE", "DEPTHWISE_CONV_2D", "ELU", "FULLY_CONNECTED",
    "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RESHAPE",
    "RESIZE_BILINEAR", "SLICE", "SPACE_TO_DEPTH", "SPLIT", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE",
    "TRANSPOSE_CONV",
})  # fmt: skip
_NO_DATA: Final = frozenset({"ASSIGN_VARIABLE", "READ_VARIABLE", "VAR_HANDLE"})
TAKEN: Final = _FLOAT_ONLY | _FLOAT_OR_8_BITS | _NO_DATA | {"DEQUANTIZE", "DENSIFY", "STABLEHLO_COMPOSITE"}

_INSTEAD: Final[Mapping[str, str]] = {  # not taken at all -> what is
    "ADD_N": "chain two-input ADDs",
    "ARG_MAX": "leave it out of the network and take the maximum in the decoder",
    "ARG_MIN": "leave it out of the network and take the minimum in the decoder",
    "BATCH_TO_SPACE_ND": "use a dilated convolution, which needs no SPACE_TO_BATCH_ND around it",
    "SPACE_TO_BATCH_ND": "use a dilated convolution, which needs no BATCH_TO_SPACE_ND behind it",
    "CAST": "keep one type through the network",
    "EXPAND_DIMS": "use RESHAPE with a fixed shape",
    "SQUEEZE": "use RESHAPE with a fixed shape",
    "PACK": "use RESHAPE and CONCATENATION",
    "UNPACK": "use SPLIT and RESHAPE",
    "GATHER": "use SLICE or SPLIT where the indices are fixed",
    "MIRROR_PAD": "use PAD (zeros)",
    "PADV2": "use PAD (zeros)",
    "POW": "multiply",
    "REVERSE_V2": "reverse the weights that follow instead",
    "RESIZE_NEAREST_NEIGHBOR": "use RESIZE_BILINEAR, or a transposed convolution for a whole factor",
    "SPLIT_V": "use SPLIT into equal parts, or SLICE",
    "TILE": "let ADD or MUL broadcast",
    "BROADCAST_TO": "let ADD or MUL broadcast",
    "L2_NORMALIZATION": "write it out in float, or normalise after the network",
    "LOG_SOFTMAX": "leave it out of the network: the order of the classes is the same",
    "TOPK_V2": "leave it out of the network and sort in the decoder",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "use a convolution over time",
    "WHILE": "unroll the loop (for Keras: unroll=True)",
    "TFLite_Detection_PostProcess": "decode outside the network (SsdOutput in the manifest does)",
}
_FLOAT_INSTEAD: Final[Mapping[str, str]] = {  # taken in float alone -> what is taken in 8 bits
    "AVERAGE_POOL_2D": "for a pool over the whole map use MEAN (Keras: GlobalAveragePooling2D), else a depthwise "
    "convolution with equal weights",
    "SOFTMAX": "leave it out of the network and let the decoder do it",
    "HARD_SWISH": "use RELU6",
    "GELU": "use RELU6",
    "PRELU": "use LEAKY_RELU or RELU6",
    "RELU": "fuse it: right behind a convolution or an ADD that nothing else reads",
    "RELU6": "fuse it: right behind a convolution or an ADD that nothing else reads",
    "RELU_N1_TO_1": "fuse it: right behind a convolution or an ADD that nothing else reads",
    "DIV": "multiply by the reciprocal",
    "MAXIMUM": "use RELU where the other side is 0",
    "MINIMUM": "use RELU6 where the other side is 6",
}


_CONSTANTS: Final[Mapping[str, tuple[int, ...]]] = {  # operation -> the inputs that must be constants
    "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "TRANSPOSE_CONV": (0, 1), "PRELU": (1,),
    "MEAN": (1,), "SUM": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "PAD": (1,), "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,), "TRANSPOSE": (1,), "SLICE": (1, 2), "STRIDED_SLICE": (1, 2, 3), "SPLIT": (0,),
}  # fmt: skip
_WEIGHTS: Final[Mapping[str, int]] = {  # operation with weights (input 1) -> the axis of their channels' scales
    "CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0,
}  # fmt: skip
_DATA: Final[Mapping[str, tuple[int, ...]]] = {"SPLIT": (1,), "TRANSPOSE_CONV": (2,)}  # the others: see `_data`
_ELEMENTWISE: Final = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"})
_SCALES: Final[Mapping[str, tuple[float, float]]] = {"ADD": (2**-10, 2**8), "SUB": (2**-10, 2**8)}  # input / output
_MUL_SCALES: Final = (2**-16, 2**8)  # product of the inputs' / output's


class XnnpackRules:
    """The rules over one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._consumers = graph.consumers
        unpacked: set[int] = set()
        for op in graph.ops:
            source = op.input(0)
            if op.kind in ("DEQUANTIZE", "DENSIFY") and source is not None and (
                source.constant or source.index in unpacked
            ):  # fmt: skip
                unpacked.update(out.index for out in op.outputs)
        self._unpacked = frozenset(unpacked)

    def refusal(self, op: Op) -> Refusal | None:
        """Why XNNPACK leaves this operation alone, None where it takes it."""
        if op.outputs and op.outputs[0].index in self._unpacked:
            return self._unpacking(op)
        return self._by_itself(op)

    def _by_itself(self, op: Op) -> Refusal | None:
        checks = (_known, _whole, self._constants, _shapes, _types, _activation, _OWN.get(op.kind))
        return next((found for check in checks if check is not None and (found := check(op)) is not None), None)

    def _unpacking(self, op: Op) -> Refusal | None:
        """A constant is unpacked once, before the first run, where all who read it are the delegate's."""
        if any(out in self._graph.outputs for out in op.outputs):
            return Refusal("it hands a constant out of the network")
        for reader in (reader for out in op.outputs for reader in self._consumers.get(out.index, [])):
            if self.refusal(reader) is not None:
                return Refusal(f"operation {reader.index} ({reader.kind}), which reads it, is not taken")
        return None

    def _constants(self, op: Op) -> Refusal | None:
        for position in _CONSTANTS.get(op.kind, ()):
            tensor = op.input(position)
            if tensor is None:
                if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                    return Refusal("it has no bias", "give the layer a bias, of zeros if need be")
                continue
            if not tensor.constant and tensor.index not in self._unpacked and 0 not in tensor.shape:
                if op.kind in _WEIGHTS and position:
                    return Refusal("its weights are computed while the network runs")
                return Refusal(
                    "its shape, axes or slope are computed while the network runs",
                    "convert with a fixed input shape (batch 1), so that they become constants",
                )
        return None


def _known(op: Op) -> Refusal | None:
    if op.custom:
        if op.kind in CUSTOM:
            return None
        return Refusal("custom operations run on kernels of their own", _INSTEAD.get(op.kind, ""))
    if op.kind not in TAKEN:
        return Refusal("XNNPACK has no such operation", _INSTEAD.get(op.kind, ""))
    return None


def _whole(op: Op) -> Refusal | None:
    if op.kind in _NO_DATA or op.custom or (_data(op) and op.outputs):
        return None
    return Refusal("it has no input or no output")


def _shapes(op: Op) -> Refusal | None:
    if op.kind in _NO_DATA:
        return None
    for tensor in (*_data(op), *op.outputs):
        if len(tensor.shape) > MAX_RANK:
            return Refusal(f"a tensor of {len(tensor.shape)} dimensions", f"use at most {MAX_RANK}")
    return None


def _data(op: Op) -> tuple[Tensor, ...]:
    """The inputs that carry values, as opposed to weights, shapes and axes."""
    if op.kind in _ELEMENTWISE or op.kind in ("CONCATENATION", "BATCH_MATMUL"):
        positions = tuple(range(len(op.inputs)))
    else:
        positions = _DATA.get(op.kind, (0,))
    return tuple(tensor for position in positions if (tensor := op.input(position)) is not None)


def _types(op: Op) -> Refusal | None:
    if op.kind in _NO_DATA or op.custom or op.kind in ("DENSIFY", "STABLEHLO_COMPOSITE"):
        return None
    values = (*_data(op), *op.outputs)
    if op.kind in _FLOAT_ONLY:
        bad = next((tensor for tensor in values if tensor.dtype not in FLOAT), None)
        if bad is None:
            return None
        return Refusal(f"taken in float alone, and this is {bad.dtype.lower()}", _FLOAT_INSTEAD.get(op.kind, ""))
    if op.kind == "DEQUANTIZE":
        values = _data(op)
        if values and values[0].dtype not in EIGHT_BITS:
            return Refusal(f"taken from int8 and uint8 alone, and this is {values[0].dtype.lower()}")
    for tensor in values:
        if tensor.dtype not in FLOAT and tensor.dtype not in EIGHT_BITS:
            return Refusal(
                f"taken in float, int8 and uint8, and this is {tensor.dtype.lower()}",
                "quantise to int8 with 8-bit activations" if tensor.dtype == "INT16" else "",
            )
        if tensor.dtype in EIGHT_BITS and (
            tensor.quantisation is None or tensor.quantisation.per_channel or tensor.quantisation.axis
        ):
            return Refusal(
                f"{tensor.label} is {tensor.dtype.lower()} without one scale for the whole tensor",
                "quantise activations per tensor",
            )
    types = {tensor.dtype for tensor in values}
    if op.kind not in ("QUANTIZE", "DEQUANTIZE") and len(types) > 1 and not types <= FLOAT:
        return Refusal(
            "mixed types: " + ", ".join(sorted(name.lower() for name in types)), "quantise the whole network"
        )
    return _weights(op, values[0]) if op.kind in _WEIGHTS and values else None


def _weights(op: Op, value: Tensor) -> Refusal | None:
    weights = op.input(1)
    if weights is None:
        return None
    few = ("INT4", "INT2") if op.kind == "FULLY_CONNECTED" else ()
    allowed = (
        {"INT8", *few} if value.dtype == "INT8" else {"UINT8"} if value.dtype == "UINT8" else {*FLOAT, "INT8", *few}
    )
    if weights.dtype not in allowed:
        return Refusal(
            f"{weights.dtype.lower()} weights with {value.dtype.lower()} values", "quantise weights and values to int8"
        )
    scales = weights.quantisation
    if weights.dtype not in FLOAT and scales is None:
        return Refusal("its weights have no scale", "quantise with the TFLite converter")
    if scales is not None and scales.per_channel:
        if weights.dtype == "UINT8":
            return Refusal("uint8 weights with a scale a channel", "quantise to int8")
        if scales.axis != _WEIGHTS[op.kind]:
            return Refusal(
                f"its weights' scales run along axis {scales.axis}", f"quantise along axis {_WEIGHTS[op.kind]}"
            )
    return None


def _activation(op: Op) -> Refusal | None:
    if op.activation in ("NONE", "RELU", "RELU_N1_TO_1", "RELU6") or op.kind == "CONCATENATION":
        return None
    return Refusal(f"a fused {op.activation}", "use RELU or RELU6, or an activation of its own behind it")


def _concatenation(op: Op) -> Refusal | None:
    if len(op.inputs) > MAX_CONCATENATED:
        return Refusal(
            f"{len(op.inputs)} inputs, and it takes at most {MAX_CONCATENATED}",
            f"concatenate in two steps of at most {MAX_CONCATENATED}, or hand the parts out as outputs",
        )
    if len(op.inputs) < 2:
        return Refusal("one input alone", "leave it out")
    out = op.outputs[0]
    if out.dtype == "UINT8" and any(not _same_scale(tensor, out) for tensor in _data(op)):
        return Refusal("uint8 inputs of another scale than the output's", "quantise to int8")
    return None


def _split(op: Op) -> Refusal | None:
    if not 2 <= len(op.outputs) <= MAX_SPLIT:
        return Refusal(
            f"{len(op.outputs)} outputs, and it takes 2 to {MAX_SPLIT}", f"split in steps of at most {MAX_SPLIT}"
        )
    return None


def _reshape(op: Op) -> Refusal | None:
    source, out = op.input(0), op.outputs[0]
    if source is not None and out.dtype in EIGHT_BITS and not _same_scale(source, out):
        return Refusal("its output has another scale than its input", "quantise again: a RESHAPE changes no value")
    return None


def _softmax(op: Op) -> Refusal | None:
    beta = float(op.options.get("Beta", 1.0))
    return None if beta == 1.0 else Refusal(f"beta {beta:g}", "scale the logits before it, and leave beta at 1")


def _strided_slice(op: Op) -> Refusal | None:
    for mask, name in (
        ("EllipsisMask", "an ellipsis"),
        ("NewAxisMask", "a new axis"),
        ("ShrinkAxisMask", "a lost axis"),
    ):
        if op.options.get(mask):
            return Refusal(f"a slice with {name}", "slice without changing the number of dimensions, then RESHAPE")
    strides = op.input(3)
    if strides is not None and strides.value is not None and any(stride != 1 for stride in strides.value):
        return Refusal(f"strides {list(strides.value)}", "use stride 1, or a pool or convolution with that stride")
    return None


def _pool(op: Op) -> Refusal | None:
    across, down = int(op.options.get("StrideW", 1)), int(op.options.get("StrideH", 1))
    width, height = int(op.options.get("FilterWidth", 1)), int(op.options.get("FilterHeight", 1))
    if across > width or down > height:
        return Refusal(
            f"stride {down}x{across} exceeds the window {height}x{width}", "make the window at least as large"
        )
    return None


def _pad(op: Op) -> Refusal | None:
    paddings = op.input(1)
    if paddings is not None and paddings.value is not None and any(pad < 0 for pad in paddings.value):
        return Refusal("negative padding", "use SLICE to cut")
    return None


def _added(op: Op) -> Refusal | None:
    out = op.outputs[0]
    for tensor in _data(op):
        if (ratio := _ratio(tensor, out)) is not None and not _SCALES[op.kind][0] <= ratio < _SCALES[op.kind][1]:
            return Refusal(
                f"input scale {ratio:.3g} times the output's", "calibrate with more data: scales differ too far"
            )
    return None


def _multiplied(op: Op) -> Refusal | None:
    first, second, out = op.input(0), op.input(1), op.outputs[0]
    if first is None or second is None or second.quantisation is None:
        return None
    ratio = _ratio(first, out)
    if ratio is not None and not _MUL_SCALES[0] <= ratio * second.quantisation.scales[0] < _MUL_SCALES[1]:
        return Refusal("the inputs' scales are too far from the output's", "calibrate with more data")
    return None


def _quantize(op: Op) -> Refusal | None:
    source, out = op.input(0), op.outputs[0]
    if source is None or source.dtype in FLOAT:
        return None
    if source.dtype != out.dtype:
        return Refusal(
            f"from {source.dtype.lower()} to {out.dtype.lower()}",
            "make the network's inputs and outputs of the type it computes in",
        )
    ratio = _ratio(source, out)
    if ratio is not None and not 2**-8 <= ratio <= 2**7:
        return Refusal(f"input scale {ratio:.3g} times the output's", "calibrate with more data")
    return None


def _fully_connected(op: Op) -> Refusal | None:
    weights = op.input(1)
    if op.version == 8 or (weights is not None and weights.sparse):
        return Refusal("its weights are sparse", "convert without EXPERIMENTAL_SPARSITY")
    return Refusal("shuffled weights", "convert without it") if op.options.get("WeightsFormat") else None


def _same_scale(one: Tensor, other: Tensor) -> bool:
    if one.quantisation is None or other.quantisation is None:
        return True
    return (one.quantisation.scales, one.quantisation.zero_points) == (
        other.quantisation.scales, other.quantisation.zero_points,
    )  # fmt: skip


def _ratio(one: Tensor, other: Tensor) -> float | None:
    """scale / scale, None where one of them has none."""
    if one.quantisation is None or other.quantisation is None or one.dtype not in EIGHT_BITS:
        return None
    return one.quantisation.scales[0] / other.quantisation.scales[0] if other.quantisation.scales[0] else None


_OWN: Final[Mapping[str, Check]] = {
    "ADD": _added, "SUB": _added, "MUL": _multiplied, "CONCATENATION": _concatenation, "SPLIT": _split,
    "RESHAPE": _reshape, "SOFTMAX": _softmax, "STRIDED_SLICE": _strided_slice, "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool, "PAD": _pad, "QUANTIZE": _quantize, "FULLY_CONNECTED": _fully_connected,
}  # fmt: skip
