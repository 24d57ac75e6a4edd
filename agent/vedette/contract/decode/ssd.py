"""SSD heads with anchors (Liu et al., arXiv 1512.02325), decoded from raw tensors.

Only what may pass the score threshold is ever turned into floats: the threshold is carried over the activation and the
quantisation into raw units once, a little below its place, and the whole logit tensor is compared with it as it lies in
memory. What is left is judged by its score, so that no rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..boxes import nms
from ..errors import ModelError
from ..manifest import SsdAnchors, SsdOutput
from ..types import Detections, Float32Array, Tensor, TensorSpec
from ._tensors import CANDIDATES, MAX_COORDINATE, MAX_ENCODED_SIDE, expect_shape, pick, sigmoid

_SURE: Final = 1e-7  # scores this near to 0 or 1 are beyond float32


def anchor_boxes(spec: SsdAnchors) -> Float32Array:
    """(anchors, 4) float32: ``y_center, x_center, height, width``, fractions of the input.

    The order and arithmetic of ``create_ssd_anchors`` in TensorFlow's object detection API: maps from fine to coarse,
    cells row by row, anchors within a cell.
    """
    layers = len(spec.feature_maps)
    step = (spec.max_scale - spec.min_scale) / (layers - 1) if layers > 1 else 0.0
    scales = [spec.min_scale + step * i for i in range(layers)] + [1.0]
    blocks = []
    for layer, (rows, columns) in enumerate(spec.feature_maps):
        scale = scales[layer]
        if layer == 0 and spec.reduce_boxes_in_lowest_layer:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            shapes = [(scale, ratio) for ratio in spec.aspect_ratios]
            if spec.interpolated_scale_aspect_ratio > 0:
                shapes.append((math.sqrt(scale * scales[layer + 1]), spec.interpolated_scale_aspect_ratio))
        sides = np.array([(s / math.sqrt(r), s * math.sqrt(r)) for s, r in shapes])
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        centers = np.repeat(np.stack([y.ravel(), x.ravel()], axis=1), len(shapes), axis=0)
        blocks.append(np.concatenate([centers, np.tile(sides, (rows * columns, 1))], axis=1))
    return np.concatenate(blocks).astype(np.float32)


class SsdDecoder:
    """See the module."""

    def __init__(self, spec: SsdOutput, tensors: Sequence[TensorSpec], score_threshold: float) -> None:
        self._boxes_index = spec.boxes
        self._scores_index = spec.scores
        self._box_tensor = pick(tensors, spec.boxes, "boxes")
        self._score_tensor = pick(tensors, spec.scores, "scores")
        self._anchors = anchor_boxes(spec.anchors)
        expect_shape(self._box_tensor, "boxes", (1, len(self._anchors), 4))
        expect_shape(self._score_tensor, "scores", (1, len(self._anchors), None))
        self._columns = self._score_tensor.shape[2]
        self._background = int(spec.background)
        if self._columns <= self._background:
            raise ModelError("output.scores", expected="at least one class", found=str(self._columns))
        self._box_scale = np.asarray(spec.box_scale, np.float32)
        self._activation = spec.activation
        self._threshold = score_threshold
        self._raw_threshold = self._to_raw(score_threshold) if spec.activation != "softmax" else None
        self._nms_iou = spec.nms_iou
        self._limit = spec.max_detections

    @property
    def classes(self) -> int:
        """How many classes the network tells apart, the background not counted."""
        return self._columns - self._background

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Detections:
        """Boxes as fractions of the input tensor."""
        raw = outputs[self._scores_index].reshape(-1)
        if self._raw_threshold is not None:
            hits = np.flatnonzero(raw >= self._raw_threshold)
            anchors, columns = np.divmod(hits, self._columns)
            scores = self._activate(self._score_tensor.to_real(raw[hits]))
            passing = scores >= self._threshold
            anchors, columns, scores = anchors[passing], columns[passing], scores[passing]
        else:
            real = self._score_tensor.to_real(raw).reshape(-1, self._columns)
            exp = np.exp(real - real.max(axis=1, keepdims=True))
            probabilities = exp / exp.sum(axis=1, keepdims=True)
            anchors, columns = np.nonzero(probabilities >= self._threshold)
            scores = probabilities[anchors, columns]
        if self._background:
            real_classes = columns > 0
            anchors, columns, scores = anchors[real_classes], columns[real_classes], scores[real_classes]
        if len(scores) > CANDIDATES:
            best = np.argpartition(-scores, CANDIDATES)[:CANDIDATES]
            best.sort()
            anchors, columns, scores = anchors[best], columns[best], scores[best]
        if not len(scores):
            return Detections.none()
        class_ids = (columns - self._background).astype(np.int32)
        boxes = self._decode_boxes(outputs[self._boxes_index].reshape(-1, 4), anchors)
        sane = (np.abs(boxes) < MAX_COORDINATE).all(axis=1)  # False for NaN
        if not sane.all():
            boxes, scores, class_ids = boxes[sane], scores[sane], class_ids[sane]
        kept = nms(boxes, scores, class_ids, iou_threshold=self._nms_iou, limit=self._limit)
        return Detections(boxes[kept], scores[kept], class_ids[kept])

    def _decode_boxes(self, raw: Tensor, index: NDArray[np.intp]) -> Float32Array:
        # y = ty / sy * ha + ya, h = exp(th / sh) * ha (Ren et al., arXiv 1506.01497, eq. 2, with the box coder's scales)
        anchors = self._anchors[index]
        with np.errstate(over="ignore", invalid="ignore"):  # the caller drops what is not finite
            encoded = self._box_tensor.to_real(raw[index]) / self._box_scale
            center = encoded[:, :2] * anchors[:, 2:] + anchors[:, :2]
            half = np.exp(np.minimum(encoded[:, 2:], MAX_ENCODED_SIDE)) * anchors[:, 2:] / 2
            low = center - half
            high = center + half
        return np.stack([low[:, 1], low[:, 0], high[:, 1], high[:, 0]], axis=1).astype(np.float32)

    def _activate(self, real: Float32Array) -> Float32Array:
        if self._activation == "none":
            return real
        return sigmoid(real)

    def _to_raw(self, score: float) -> Any:
        """A raw value, in the tensor's own dtype, that is at most a little below the least one whose score passes."""
        tensor = self._score_tensor
        if self._activation == "sigmoid":
            if score < _SURE:
                real = -math.inf
            else:
                clipped = min(score, 1 - _SURE)
                # float32 scores are 2**-23 apart at most, which is so much in logits (the sigmoid's slope is s(1 - s))
                real = math.log(clipped / (1 - clipped)) - 2**-22 / (clipped * (1 - clipped))
        else:
            real = score - 0.001 * abs(score)
        if tensor.dtype.kind == "f":
            return tensor.dtype.type(max(real, np.finfo(tensor.dtype.name).min))
        limits = np.iinfo(tensor.dtype.name)
        step = max(real / (tensor.scale or 1.0), float(-(2**31))) + tensor.zero_point - 1
        return tensor.dtype.type(min(max(math.floor(step), limits.min), limits.max))
