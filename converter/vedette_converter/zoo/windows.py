"""Small networks for windows of readings: a dense autoencoder, and depthwise separable convolutions along time.

MobileNet's blocks (Howard et al., arXiv 1704.04861, section 3.1) with kernels of (size, 1): TFLite runs them as CONV_2D
and DEPTHWISE_CONV_2D, in int8 as in float, where Keras' one-dimensional layers bring reshapes between all of them.
"""

from __future__ import annotations

from typing import Any, Final

from vedette.contract.errors import UserError

from ..tensorflow import load_tensorflow

STAGES: Final = 3  # blocks, each half as long as the one before
LEAST_LENGTH: Final = 2 ** (STAGES + 1)  # samples: the stem halves too
KERNEL: Final = 5  # samples
MOMENTUM: Final = 0.9  # of the normalisations' averages: a training on few recordings has some hundred steps


def autoencoder(*, length: int, channels: int, filters: int, code: int, seed: int) -> Any:
    """A Keras 3 network, windows (n, length, channels) float32, normalised -> their reconstruction, the same shape.

    ``filters``: width of the first hidden layer; the second has half. ``code``: numbers in the middle. Raises
    `UserError` where the middle would be no narrower than the window.
    """
    if code >= length * channels:
        raise UserError("[source] code", expected=f"below {length * channels}, the values in a window", found=code)
    load_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    window = keras.Input((length, channels), name="window")
    x = layers.Flatten(name="flat")(window)
    widths = {"encoder_1": filters, "encoder_2": max(2, filters // 2)}
    for name, width in widths.items():
        x = layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=name)(x)
    x = layers.Dense(code, name="code")(x)
    for name, width in zip(("decoder_1", "decoder_2"), reversed(widths.values()), strict=True):
        x = layers.Dense(width, activation="relu", kernel_initializer="he_normal", name=name)(x)
    x = layers.Dense(length * channels, name="values")(x)
    return keras.Model(window, layers.Reshape((length, channels), name="reconstruction")(x), name="autoencoder")


def separable(
    *, length: int, channels: int, outputs: int, softmax: bool, filters: int, dropout: float, seed: int,
    name: str = "classes",
) -> Any:  # fmt: skip
    """A Keras 3 network, windows (n, length, 1, channels) float32, normalised -> (n, outputs).

    ``softmax``: whether it ends in one. ``filters``: of the first stage. ``dropout``: 0 to below 1, before the last layer.
    ``name``: of the output. Raises `UserError` for a window that is too short to be halved so often.
    """
    if length < LEAST_LENGTH:
        raise UserError("[input] length", expected=f"at least {LEAST_LENGTH} for this network", found=length)
    load_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers

    def normalised(x: Any, name: str) -> Any:
        norm = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")
        return layers.ReLU(name=f"{name}_relu")(norm(x))

    window = keras.Input((length, 1, channels), name="window")
    x = layers.Conv2D(
        filters, (KERNEL, 1), strides=2, padding="same", use_bias=False, kernel_initializer="he_normal", name="stem"
    )(window)
    x = normalised(x, "stem")
    for stage in range(1, STAGES + 1):
        here = f"block_{stage}_depthwise"
        x = layers.DepthwiseConv2D((KERNEL, 1), strides=2, padding="same", use_bias=False, name=here)(x)
        x = normalised(x, here)
        here = f"block_{stage}_pointwise"
        wide = filters * 2 ** min(stage, 2)
        x = layers.Conv2D(wide, 1, use_bias=False, kernel_initializer="he_normal", name=here)(x)
        x = normalised(x, here)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    last = layers.Dense(outputs, activation="softmax" if softmax else None, name=name)
    return keras.Model(window, last(x), name="separable")
