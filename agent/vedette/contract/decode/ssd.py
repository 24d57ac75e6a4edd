"""SSD heads with anchors (Liu et al., arXiv 1512.02325), decoded from raw tensors.

Only what may pass the score threshold is ever turned into floats: the threshold is carried over the activation and the
quantisation into raw units once, a little below its place, and the whole logit tensor is compared with it as it lies in
memory. What is left is judged by its score, so that no rounding decides.

A tensor of 8 bits has 256 values: what each of them means is computed once, by the same arithmetic, and looked up. On the
way of a frame every call of numpy finds its code and its tables gone from the caches, so that fewer calls matter more than
fewer numbers, and a few values are looked at without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..boxes import nms, nms_of_few
from ..errors import ModelError
from ..manifest import MAX_ANCHORS, SsdAnchors, SsdOutput, SsdPriors
from ..types import Detections, Float32Array, Tensor, TensorSpec
from ._tensors import MAX_COORDINATE, MAX_ENCODED_SIDE, best_candidates, expect_shape, pick, picture_sides, to_score

FEW: Final = 32  # values that may pass; so many are looked at one by one, without a call of numpy for each step
_COLUMNS: Final = np.arange(4)
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


def prior_boxes(spec: SsdPriors, width: int, height: int) -> Float32Array:
    """The same of `SsdPriors`, for an input of so many pixels; cells row by row, sizes in order."""
    cells = [(-(-height // stride), -(-width // stride)) for stride in spec.strides]
    count = sum(rows * columns * len(sizes) for (rows, columns), sizes in zip(cells, spec.sizes, strict=True))
    if count > MAX_ANCHORS:
        raise ModelError("output.priors", expected=f"at most {MAX_ANCHORS} anchors", found=str(count))
    blocks = []
    for stride, (rows, columns), sizes in zip(spec.strides, cells, spec.sizes, strict=True):
        row, column, size = np.meshgrid(np.arange(rows), np.arange(columns), sizes, indexing="ij")
        down, across = (rows, columns) if spec.even else (height / stride, width / stride)
        y, x = (row + 0.5) / down, (column + 0.5) / across
        blocks.append(np.stack([y, x, size / height, size / width], axis=-1).reshape(-1, 4))
    boxes = np.concatenate(blocks).astype(np.float32)
    return np.minimum(boxes, np.float32(1)) if spec.clip else boxes


class SsdDecoder:
    """See the module."""

    def __init__(
        self,
        spec: SsdOutput,
        tensors: Sequence[TensorSpec],
        score_threshold: float,
        *,
        inputs: Sequence[TensorSpec] = (),
    ) -> None:
        """``inputs``: the network's; needed for priors."""
        self._boxes_index = spec.boxes
        self._scores_index = spec.scores
        self._box_tensor = pick(tensors, spec.boxes, "boxes")
        self._score_tensor = pick(tensors, spec.scores, "scores")
        if spec.anchors is not None:
            self._anchors = anchor_boxes(spec.anchors)
        else:
            assert spec.priors is not None  # the manifest's own check
            self._anchors = prior_boxes(spec.priors, *picture_sides(inputs))
        self._order = None if spec.order == "yxhw" else np.array([1, 0, 3, 2])
        self._numbers = 4 + 2 * spec.key_points
        expect_shape(self._box_tensor, "boxes", (1, len(self._anchors), self._numbers))
        self._linear = spec.sides == "linear"
        expect_shape(self._score_tensor, "scores", (1, len(self._anchors), None))
        self._columns = self._score_tensor.shape[2]
        self._background = int(spec.background)
        if self._columns <= self._background:
            raise ModelError("output.scores", expected="at least one class", found=str(self._columns))
        self._box_scale = np.asarray(spec.box_scale, np.float32)
        self._activation = spec.activation
        self._threshold = float(np.float32(score_threshold))  # scores are float32, also where Python compares them
        self._raw_threshold = self._to_raw(self._threshold) if spec.activation != "softmax" else None
        self._nms_iou = spec.nms_iou
        self._limit = spec.max_detections
        self._score_of = None if spec.activation == "softmax" else self._tabled(self._score_tensor, self._activate)
        self._encoded_of = self._tabled(self._box_tensor, self._encoded)
        # a negative value finds its place from the end, which is its place by its byte, too
        self._score_list = [] if self._score_of is None else self._score_of[:, 0].tolist()
        self._encoded_list = [] if self._encoded_of is None else self._encoded_of.T.tolist()
        self._passes = bytearray(self._score_tensor.elements)
        self._may_pass = np.frombuffer(self._passes, np.bool_)  # the same memory

    @property
    def classes(self) -> int:
        """How many classes the network tells apart, the background not counted."""
        return self._columns - self._background

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Detections:
        """Boxes as fractions of the input tensor."""
        raw = outputs[self._scores_index].reshape(-1)
        if self._raw_threshold is not None:
            np.greater_equal(raw, self._raw_threshold, out=self._may_pass)
            if self._background:  # which wins at nearly every anchor
                self._may_pass[:: self._columns] = False
            if self._score_list and self._encoded_list:
                few = self._positions_of_few()
                if few is not None:
                    return self._decode_few(few, raw, outputs[self._boxes_index].reshape(-1, self._numbers)[:, :4])
            hits = np.flatnonzero(self._may_pass)
            scores = self._scores(raw[hits])
            passing = scores >= self._threshold
            if not passing.all():
                hits, scores = hits[passing], scores[passing]
            anchors, columns = np.divmod(hits, self._columns)
        else:
            real = self._score_tensor.to_real(raw).reshape(-1, self._columns)
            with np.errstate(over="ignore", invalid="ignore"):  # infinity less itself: NaN, which passes no threshold
                exp = np.exp(real - real.max(axis=1, keepdims=True))
            probabilities = exp / exp.sum(axis=1, keepdims=True)
            anchors, columns = np.nonzero(probabilities >= self._threshold)
            if self._background:
                anchors, columns = anchors[columns > 0], columns[columns > 0]
            scores = probabilities[anchors, columns]
        best = best_candidates(scores)
        anchors, columns, scores = anchors[best], columns[best], scores[best]
        if not len(scores):
            return Detections.none()
        class_ids = (columns - self._background).astype(np.int32)
        boxes = self._decode_boxes(outputs[self._boxes_index].reshape(-1, self._numbers)[:, :4], anchors)
        if not (np.abs(boxes) < MAX_COORDINATE).all():  # False for NaN
            sane = (np.abs(boxes) < MAX_COORDINATE).all(axis=1)
            boxes, scores, class_ids = boxes[sane], scores[sane], class_ids[sane]
        kept = nms(boxes, scores, class_ids, iou_threshold=self._nms_iou, limit=self._limit)
        return Detections(boxes[kept], scores[kept], class_ids[kept])

    def _positions_of_few(self) -> list[int] | None:
        """Where `_may_pass` is true; None where that is at more than `FEW` places."""
        positions: list[int] = []
        position = self._passes.find(1)
        while position >= 0:
            if len(positions) == FEW:
                return None
            positions.append(position)
            position = self._passes.find(1, position + 1)
        return positions

    def _decode_few(self, positions: Sequence[int], scores: Tensor, boxes: Tensor) -> Detections:
        """What the rest of `__call__` does, of the raw values at these positions, one by one."""
        found: list[tuple[float, int, tuple[float, float, float, float]]] = []
        of_y, of_x, of_height, of_width = self._encoded_list
        for position in positions:
            score = self._score_list[scores.item(position)]
            if not score >= self._threshold:  # nor is NaN
                continue
            anchor, column = divmod(position, self._columns)
            encoded = boxes[anchor] if self._order is None else boxes[anchor][self._order]
            raw_y, raw_x, raw_height, raw_width = encoded.tolist()
            anchor_y, anchor_x, height, width = self._anchors[anchor].tolist()
            y = of_y[raw_y] * height + anchor_y
            x = of_x[raw_x] * width + anchor_x
            half_height, half_width = of_height[raw_height] * height, of_width[raw_width] * width
            if not (abs(y) + half_height < MAX_COORDINATE and abs(x) + half_width < MAX_COORDINATE):  # False for NaN
                continue
            found.append(
                (score, column - self._background, (x - half_width, y - half_height, x + half_width, y + half_height))
            )
        if not found:
            return Detections.none()
        found.sort(key=itemgetter(0), reverse=True)  # stable
        kept = nms_of_few(
            [box for _, _, box in found], [class_id for _, class_id, _ in found], iou_threshold=self._nms_iou,
            limit=self._limit,
        )  # fmt: skip
        chosen = [found[i] for i in kept]
        return Detections(
            np.array([box for _, _, box in chosen], np.float32),
            np.array([score for score, _, _ in chosen], np.float32),
            np.array([class_id for _, class_id, _ in chosen], np.int32),
        )

    def _decode_boxes(self, raw: Tensor, index: NDArray[np.intp]) -> Float32Array:
        # y = ty / sy * ha + ya, h = exp(th / sh) * ha (Ren et al., arXiv 1506.01497, eq. 2, with the box coder's scales)
        anchors = self._anchors[index]
        chosen = raw[index] if self._order is None else raw[index][:, self._order]
        boxes = np.empty((len(index), 4), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller drops what is not finite
            if self._encoded_of is None:
                encoded = self._encoded(self._box_tensor.to_real(chosen))
            else:
                encoded = self._encoded_of[chosen.view(np.uint8), _COLUMNS]
            center = encoded[:, :2] * anchors[:, 2:] + anchors[:, :2]
            half = encoded[:, 2:] * anchors[:, 2:]
            np.subtract(center, half, out=boxes[:, 1::-1])
            np.add(center, half, out=boxes[:, :1:-1])
        return boxes

    def _encoded(self, real: Float32Array) -> Float32Array:
        """(n, 4): of the centre how far it is off the anchor's, of the sides the half; in sides of the anchor."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = real / self._box_scale
            if self._linear:
                scaled[:, 2:] = np.where(scaled[:, 2:] > 0, scaled[:, 2:] / 2, np.nan)  # a box without sides is none
            else:
                scaled[:, 2:] = np.exp(np.minimum(scaled[:, 2:], MAX_ENCODED_SIDE)) / 2
        return np.asarray(scaled, np.float32)

    def _scores(self, raw: Tensor) -> Float32Array:
        if self._score_of is None:
            return self._activate(self._score_tensor.to_real(raw))
        return np.asarray(self._score_of[raw.view(np.uint8), 0], np.float32)

    @staticmethod
    def _tabled(tensor: TensorSpec, function: Callable[[Float32Array], Float32Array]) -> Float32Array | None:
        """What ``function`` makes of each raw value, by its byte: (256, 4) float32. None where a value has more bytes."""
        if tensor.dtype.itemsize != 1:
            return None
        every = np.arange(256, dtype=np.uint8).view(tensor.dtype)
        return function(np.repeat(tensor.to_real(every)[:, None], 4, axis=1))

    def _activate(self, real: Float32Array) -> Float32Array:
        return to_score(real, self._activation)

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
            real = score * (1 - 0.001) if score > 0 else -math.inf  # what is below 0 counts as 0
        if tensor.dtype.kind == "f":
            return tensor.dtype.type(max(real, np.finfo(tensor.dtype.name).min))
        limits = np.iinfo(tensor.dtype.name)
        step = max(real / (tensor.scale or 1.0), float(-(2**31))) + tensor.zero_point - 1
        return tensor.dtype.type(min(max(math.floor(step), limits.min), limits.max))
