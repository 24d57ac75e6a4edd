"""MobileNetV1 (Howard et al., arXiv 1704.04861, table 1) for classification, of any width and input size."""

from __future__ import annotations

from typing import Any, Final

from vedette.contract.errors import UserError

from ..prune.calls import load_keras

LEAST_SIDE: Final = 32  # pixels: the network halves its input five times
LEAST_FILTERS: Final = 8  # of any layer, however small the width: what SIMD kernels take at a time
# (filters at width 1, stride) of each depthwise separable block
_BLOCKS: Final = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)


def build(
    classes: int, *, height: int = 224, width: int = 224, channels: int = 3, multiplier: float = 1.0,
    dropout: float = 0.0,
) -> Any:  # fmt: skip
    """The network, a functional Keras model with batch normalisations, its weights drawn at random.

    Input: (batch, height, width, channels) float32, in -1..1. Output: logits (batch, classes), no softmax behind them.
    ``multiplier``: the paper's alpha, on every layer's filters, rounded to a multiple of `LEAST_FILTERS`. ``dropout``:
    0 to below 1, before the logits. Raises `UserError` where a number cannot be.
    """
    for name, value, least in (("height", height, LEAST_SIDE), ("width", width, LEAST_SIDE), ("channels", channels, 1),
                               ("classes", classes, 2)):  # fmt: skip
        if value < least:
            raise UserError(f"MobileNet's {name}", expected=f"at least {least}", found=value)
    if not 0 < multiplier <= 4:
        raise UserError("MobileNet's multiplier", expected="above 0, at most 4", found=multiplier)
    if not 0 <= dropout < 1:
        raise UserError("MobileNet's dropout", expected="0 to below 1", found=dropout)
    layers = load_keras().layers

    def filters(at_one: int) -> int:
        return max(LEAST_FILTERS, int(at_one * multiplier / LEAST_FILTERS + 0.5) * LEAST_FILTERS)

    def normalised(x: Any, name: str) -> Any:
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x)

    x = inputs = load_keras().Input((height, width, channels), name="picture")
    x = layers.Conv2D(filters(32), 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = normalised(x, "stem")
    for number, (size, stride) in enumerate(_BLOCKS, start=1):
        name = f"block_{number}_depthwise"
        x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=name)(x)
        x = normalised(x, name)
        name = f"block_{number}_pointwise"
        x = layers.Conv2D(filters(size), 1, use_bias=False, name=name)(x)
        x = normalised(x, name)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return load_keras().Model(inputs, layers.Dense(classes, name="logits")(x), name="mobilenet_v1")
