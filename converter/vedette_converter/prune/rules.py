"""Which rule an operation follows, by its class."""

from __future__ import annotations

from typing import Any, Final

from vedette.contract.errors import ModelError

from .calls import Call
from .rule import Rule
from .weighted import BatchNorm, Convolution, Depthwise, Prelu, Separable
from .weightless import (
    Concatenate,
    Flatten,
    Merge,
    Rescale,
    Reshape,
    Through,
    activation_mixes,
    not_divided,
    reduction_mixes,
    softmax_mixes,
)


def _numbered(names: str, *dimensions: int) -> list[str]:
    return [f"{name}{d}D" for name in names.split() for d in dimensions]


_THROUGH: Final = Through()
_UNARY: Final = (
    *("Relu", "Relu6", "ReLU", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Silu", "HardSilu", "Sigmoid"),
    *("HardSigmoid", "LogSigmoid", "HardTanh", "Tanh", "Softplus", "Softsign", "Squareplus", "Exp", "Absolute", "Abs"),
    *("Negative", "Square", "Sqrt", "Clip"),
)  # each finite at zero, where `masked` puts a channel
RULES: Final[dict[str, Rule]] = {
    "Dense": Convolution("units"),
    **dict.fromkeys(_numbered("Conv", 1, 2, 3), Convolution("filters")),
    **dict.fromkeys(["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"], Convolution("filters", -1, -2)),
    **dict.fromkeys(_numbered("DepthwiseConv", 1, 2), Depthwise()),
    **dict.fromkeys(_numbered("SeparableConv", 1, 2), Separable()),
    "BatchNormalization": BatchNorm(),
    "PReLU": Prelu(),
    "Activation": Through(activation_mixes),
    "Softmax": Through(softmax_mixes),
    **dict.fromkeys(["ReLU", "LeakyReLU", "ELU"], _THROUGH),
    **dict.fromkeys(_numbered("MaxPooling AveragePooling GlobalMaxPooling GlobalAveragePooling", 1, 2, 3), _THROUGH),
    **dict.fromkeys(_numbered("ZeroPadding Cropping UpSampling SpatialDropout", 1, 2, 3), _THROUGH),
    **dict.fromkeys(["Resizing", "CenterCrop", "Identity", "RepeatVector", "ActivityRegularization"], _THROUGH),
    **dict.fromkeys(["Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout"], _THROUGH),
    "Rescaling": Rescale(),
    **dict.fromkeys(["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"], Merge()),
    "Concatenate": Concatenate(),
    "Flatten": Flatten(),
    "Reshape": Reshape(),
    **dict.fromkeys([f"ops.{n}" for n in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")], Merge()),
    **dict.fromkeys(["ops.Divide", "ops.TrueDivide"], Through(not_divided)),
    "ops.Concatenate": Concatenate(),
    **dict.fromkeys([f"ops.{n}" for n in ("Mean", "Max", "Amax", "Min", "Amin", "Sum")], Through(reduction_mixes)),
    **dict.fromkeys([f"ops.{n}" for n in _UNARY], _THROUGH),
}
"""By `kind`. Exactly these classes: a subclass may do anything in its ``call``."""


def kind(operation: Any) -> str:
    """The class's name for a Keras layer, ``ops.`` before it for an operation, with its module for anything else."""
    cls = type(operation)
    if cls.__module__.startswith("keras.src.layers."):
        return str(cls.__name__)
    if cls.__module__.startswith(("keras.src.ops.", "keras.src.activations.")):
        return f"ops.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def rule_for(call: Call) -> Rule | None:
    """None for an operation that is not known. Raises `ModelError` where channels come first."""
    if getattr(call.operation, "data_format", None) == "channels_first":
        raise ModelError(
            f"layer {call.name} ({kind(call.operation)})", expected="channels last", found="data_format channels_first",
            fix="rebuild the network with channels_last; TFLite has no other either",
        )  # fmt: skip
    return RULES.get(kind(call.operation))
