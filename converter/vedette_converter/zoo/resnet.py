"""Residual networks for small pictures (He et al., arXiv 1512.03385, section 4.2): ResNet-20, and MLPerf Tiny's ResNet-8.

Three stages of basic blocks, each stage half the size and twice the channels of the one before; the first block of a
stage has a 1x1 convolution in its shortcut.
"""

from __future__ import annotations

from typing import Any

from ..tensorflow import load_tensorflow

BLOCKS = {"resnet8": 1, "resnet20": 3}  # blocks a stage


def resnet(name: str, *, height: int, width: int, channels: int, classes: int, filters: int, seed: int) -> Any:
    """A Keras 3 network, inputs (n, height, width, channels) float32 -> probabilities (n, classes).

    ``name``: a key of `BLOCKS`. ``filters``: of the first stage; 16 is the paper's. ``seed``: of the first weights.
    """
    load_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = pixels = keras.Input((height, width, channels), name="image")

    def convolution(x: Any, filters: int, name: str, *, size: int = 3, stride: int = 1, relu: bool = True) -> Any:
        x = layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
        )(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    x = convolution(x, filters, "stem")
    for stage in range(3):
        wide = filters * 2**stage
        for block in range(BLOCKS[name]):
            stride = 2 if stage and not block else 1
            here = f"stage{stage + 1}_block{block + 1}"
            shortcut = x
            x = convolution(x, wide, f"{here}_inner", stride=stride)
            x = convolution(x, wide, f"{here}_outer", relu=False)
            if stride != 1:
                shortcut = convolution(shortcut, wide, f"{here}_shortcut", size=1, stride=stride, relu=False)
            x = layers.ReLU(name=f"{here}_relu")(layers.Add(name=f"{here}_add")([x, shortcut]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(classes, activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, x, name=name)
