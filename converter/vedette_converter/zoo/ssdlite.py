"""SSDLite MobileNetV2 as TensorFlow's object detection API builds it, for Keras 3: trainable, prunable, of any size.

Sandler et al., arXiv 1801.04381: MobileNetV2 (table 2) as the backbone, SSDLite (section 6.2) as the head: its
predictors are a depthwise convolution and a 1x1 one. The feature maps are the expansion of block 13 (stride 16), the
last convolution (stride 32) and four more of half the size each (``ssd_mobilenet_v2_feature_extractor.py``).

The published weights come with their batch normalisations folded into kernels and biases, those of the head excepted,
which `load_published` folds too: every layer here is a convolution with a bias. The batch statistics that training
would need are not published, and a network that is distilled from itself does without (docs/converter/specialise.md).

Layers are named as the published ones, ``/`` replaced by ``_``: ``expanded_conv_3_expand``,
``BoxPredictor_0_ClassPredictor``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vedette.contract.errors import ModelError, UserError
from vedette.contract.types import Float32Array, Tensor

from ..prune.calls import load_keras

MAPS: Final = 6
CLASSES: Final = 91
"""Logits of the published head: the background and COCO's 90 ids."""
SIDE_SCALE: Final = 5.0  # what the logarithms of a box's sides are multiplied by: the published `box_scale`
LEAST_SIDE: Final = 32  # pixels of the input: below, two feature maps of stride 16 and 32 are one pixel both
_HEADS: Final = ("BoxEncodingPredictor", "ClassPredictor")
_EPSILON: Final = 0.001  # of the head's batch normalisations: the published nodes' attribute
_BACKBONE: Final = "FeatureExtractor/MobilenetV2/"


@dataclass(frozen=True, slots=True)
class _Block:
    """An inverted residual: 1x1 expansion, 3x3 depthwise, linear 1x1 projection."""

    name: str
    expanded: int
    """0 for the first block, which does not expand."""
    projected: int
    stride: int


def _blocks() -> Iterator[_Block]:
    """arXiv 1801.04381, table 2: expansion factor t, channels c, repetitions n, stride s of the first."""
    number, channels = 0, 32
    for t, c, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                       (6, 320, 1, 1)):  # fmt: skip
        for i in range(n):
            name = f"expanded_conv_{number}" if number else "expanded_conv"
            yield _Block(name, 0 if t == 1 else t * channels, c, s if i == 0 else 1)
            number, channels = number + 1, c


_EXTRA: Final = ((256, 512), (128, 256), (128, 256), (64, 128))  # 1x1, then depthwise of stride 2 and 1x1


def feature_maps(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of each feature map for an input of this size in pixels, finest first: SAME padding rounds up."""
    maps = []
    for level in range(4, 4 + MAPS):
        maps.append((-(-height // 2**level), -(-width // 2**level)))
    return tuple(maps)


def anchors_per_cell(level: int) -> int:
    """Of feature map ``level``: three on the finest, six on each of the others."""
    return 3 if level == 0 else 6


def build(
    height: int = 300, width: int = 300, *, classes: int = CLASSES, widths: Mapping[str, int] | None = None
) -> Any:
    """The network, a functional Keras model, with weights drawn at random (Glorot).

    Input: (1, height, width, 3) float32, RGB in -1..1; the batch is open. Outputs: box encodings (batch, anchors, 4),
    ``ty, tx, th, tw`` of arXiv 1506.01497 as the detection API scales them, and logits (batch, anchors, classes), the
    background's first. ``widths``: output channels by layer, for those that differ from the published ones.

    Raises `UserError` where a size cannot be.
    """
    for name, value in (("height", height), ("width", width)):
        if value < LEAST_SIDE:
            raise UserError(f"the detector's input {name}", expected=f"at least {LEAST_SIDE} pixels", found=value)
    if classes < 2:
        raise UserError("the detector's classes", expected="the background and at least one more", found=classes)
    keras = load_keras()
    layers = keras.layers
    own = dict(widths or {})

    def conv(
        x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1, activation: str | None = "relu6"
    ) -> Any:
        return layers.Conv2D(
            own.get(name, filters), kernel, strides=stride, padding="same", activation=activation, name=name
        )(x)

    def depthwise(x: Any, name: str, stride: int = 1) -> Any:
        return layers.DepthwiseConv2D(3, strides=stride, padding="same", activation="relu6", name=name)(x)

    x = inputs = keras.Input((height, width, 3), name="picture")
    x = conv(x, "Conv", 32, 3, 2)
    maps = []
    for block in _blocks():
        entry = x
        if block.expanded:
            x = conv(x, f"{block.name}_expand", block.expanded)
        if block.name == "expanded_conv_13":
            maps.append(x)
        x = depthwise(x, f"{block.name}_depthwise", block.stride)
        x = conv(x, f"{block.name}_project", block.projected, activation=None)
        if block.expanded and block.stride == 1 and block.projected == _published_width(block.name):
            x = layers.Add(name=f"{block.name}_add")([entry, x])
    x = conv(x, "Conv_1", 1280)
    maps.append(x)
    for number, (narrow, wide) in enumerate(_EXTRA, start=2):
        x = conv(x, f"layer_19_1_Conv2d_{number}_1x1_{narrow}", narrow)
        name = f"layer_19_2_Conv2d_{number}_3x3_s2_{wide}"
        x = conv(depthwise(x, f"{name}_depthwise", 2), name, wide)
        maps.append(x)
    outputs = []
    for head, columns in zip(_HEADS, (4, classes), strict=True):
        parts = []
        for level, x in enumerate(maps):
            name = f"BoxPredictor_{level}_{head}"
            x = depthwise(x, f"{name}_depthwise")
            x = conv(x, name, anchors_per_cell(level) * columns, activation=None)
            parts.append(layers.Reshape((-1, columns), name=f"{name}_rows")(x))
        # XNNPACK concatenates five tensors at most; the five coarse maps are small, so joining them first is cheap
        coarse = layers.Concatenate(axis=1, name=f"{head}_coarse")(parts[1:])
        outputs.append(layers.Concatenate(axis=1, name=head)([parts[0], coarse]))
    return keras.Model(inputs, outputs, name="ssdlite_mobilenet_v2")


def _published_width(name: str) -> int:
    """Of what enters a block."""
    channels = 32
    for block in _blocks():
        if block.name == name:
            return channels
        channels = block.projected
    raise KeyError(name)


def published(weights: Mapping[str, Tensor], where: str) -> dict[str, tuple[Float32Array, Float32Array]]:
    """Kernel and bias by layer, out of the weights of the TensorFlow.js graph by their names, everything folded.

    Kernels: (height, width, in, out), depthwise ones (3, 3, channels, 1). Raises `ModelError` where a weight is missing.
    """

    def take(name: str) -> Float32Array:
        if name not in weights:
            raise ModelError(
                "not the detector's weights", where=where, expected=f"a weight {name}", found=f"{len(weights)} others"
            )
        return np.asarray(weights[name], np.float32)

    found: dict[str, tuple[Float32Array, Float32Array]] = {}
    for layer in _layer_names():
        head = layer.startswith("BoxPredictor")
        deep = layer.endswith("_depthwise")
        path = _path(layer)
        if head and deep:
            gamma, beta, mean, variance = (
                take(f"{path}/BatchNorm/{name}") for name in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            scale = gamma / np.sqrt(variance + np.float32(_EPSILON))
            found[layer] = take(f"{path}/depthwise_weights") * scale[:, None], beta - mean * scale
        elif head:
            found[layer] = take(f"{path}/weights"), take(f"{path}/biases")
        elif deep:
            scale = take(f"{path}/BatchNorm/batchnorm/mul")
            found[layer] = take(f"{path}/depthwise_weights") * scale[:, None], take(f"{path}/BatchNorm/batchnorm/sub")
        else:
            found[layer] = take(f"{path}/Conv2D/merged_input"), take(f"{path}/BatchNorm/batchnorm/sub")
    return found


def load_published(model: Any, weights: Mapping[str, Tensor], where: str) -> None:
    """Gives a network of the published widths the published weights (`published`), whatever the size of its input.

    Raises `ModelError` where a weight is missing or has another shape.
    """
    for name, (kernel, bias) in published(weights, where).items():
        layer = model.get_layer(name)
        for have, new in zip((layer.kernel, layer.bias), (kernel, bias), strict=True):
            if tuple(have.shape) != new.shape:
                raise ModelError(f"layer {name}", where=where, expected=list(have.shape), found=list(new.shape))
            have.assign(new)


def select_classes(model: Any, class_ids: Sequence[int]) -> Any:
    """A detector that knows the background and these classes alone, in this order: the head's other channels are cut.

    ``class_ids``: lines of the labels, from 0; the background is none of them. Also takes a network that was pruned.
    Raises `UserError` where there is no such class, or one is named twice.
    """
    before = classes_of(model)
    if not class_ids or len(set(class_ids)) != len(class_ids) or not all(0 <= i < before - 1 for i in class_ids):
        raise UserError("kept classes", expected=f"different ones of 0 to {before - 2}", found=list(class_ids))
    columns = np.array([0, *(i + 1 for i in class_ids)])
    _, height, width, _ = model.input.shape
    smaller = build(height, width, classes=len(columns), widths=widths_of(model))
    for layer in smaller.layers:
        if not layer.weights:
            continue
        values = model.get_layer(layer.name).get_weights()
        if layer.name.endswith("_ClassPredictor"):
            anchors = values[1].size // before
            chosen = (np.arange(anchors)[:, None] * before + columns).reshape(-1)
            values = [value[..., chosen] for value in values]
        layer.set_weights(values)
    return smaller


def resized(model: Any, height: int, width: int) -> Any:
    """The same network for an input of another size, with the same weights; a pruned one too.

    Its anchors are shares of the input, so on a smaller one each is fewer pixels, while what a weight has learned is
    pixels. The boxes' predictors are given the difference: the box they mean stays the same in pixels.
    """
    other = build(height, width, classes=classes_of(model), widths=widths_of(model))
    _, old_height, old_width, _ = model.input.shape
    grown = np.array([old_height / height, old_width / width], np.float32)  # of an anchor's pixels, by the other's
    for layer in other.layers:
        if not layer.weights:
            continue
        values = model.get_layer(layer.name).get_weights()
        if layer.name.endswith("_BoxEncodingPredictor"):
            kernel, bias = values
            anchors = len(bias) // 4
            factor = np.tile(np.concatenate([grown, [1, 1]]), anchors)  # ty, tx: in sides of the anchor
            more = np.tile(np.concatenate([[0, 0], SIDE_SCALE * np.log(grown)]), anchors)  # th, tw: logarithms
            values = [(kernel * factor).astype(np.float32), (bias * factor + more).astype(np.float32)]
        layer.set_weights(values)
    return other


def classes_of(model: Any) -> int:
    """Logits of an anchor, the background's counted."""
    return int(model.outputs[1].shape[-1])


def widths_of(model: Any) -> dict[str, int]:
    """Output channels by layer, the heads' last ones left out: what `build` needs to make a pruned network again."""
    return {
        layer.name: int(layer.filters)
        for layer in model.layers
        if hasattr(layer, "filters") and not layer.name.endswith(_HEADS)
    }


def _layer_names() -> Iterator[str]:
    """Every layer that has weights."""
    yield "Conv"
    for block in _blocks():
        if block.expanded:
            yield f"{block.name}_expand"
        yield f"{block.name}_depthwise"
        yield f"{block.name}_project"
    yield "Conv_1"
    for number, (narrow, wide) in enumerate(_EXTRA, start=2):
        yield f"layer_19_1_Conv2d_{number}_1x1_{narrow}"
        yield f"layer_19_2_Conv2d_{number}_3x3_s2_{wide}_depthwise"
        yield f"layer_19_2_Conv2d_{number}_3x3_s2_{wide}"
    for level in range(MAPS):
        for head in _HEADS:
            yield f"BoxPredictor_{level}_{head}_depthwise"
            yield f"BoxPredictor_{level}_{head}"


def _path(layer: str) -> str:
    """Where the published graph keeps a layer's weights."""
    if layer.startswith("BoxPredictor"):
        return layer[: len("BoxPredictor_0")] + "/" + layer[len("BoxPredictor_0") + 1 :]
    if layer.startswith("expanded_conv"):
        block, _, part = layer.rpartition("_")
        return f"{_BACKBONE}{block}/{part}"
    return _BACKBONE + layer
