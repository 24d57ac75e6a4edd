"""Boxes that a network has decoded itself, in one tensor, and a score a class of each in another.

What YOLOv4, UltraFace, DETR (Carion et al., arXiv 2005.12872) and many others are exported with: what is left is to
suppress what overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..boxes import nms
from ..errors import ModelError
from ..manifest import BoxesOutput
from ..types import Detections, Float32Array, Tensor, TensorSpec
from ._tensors import MAX_COORDINATE, best_candidates, expect_shape, per_pixel, pick, to_score


class BoxesDecoder:
    """See the module."""

    def __init__(
        self,
        spec: BoxesOutput,
        tensors: Sequence[TensorSpec],
        score_threshold: float,
        *,
        inputs: Sequence[TensorSpec] = (),
    ) -> None:
        """``inputs``: the network's; needed for boxes in pixels."""
        self._spec = spec
        self._boxes = pick(tensors, spec.boxes, "boxes")
        self._scores = pick(tensors, spec.scores, "scores")
        rows = spec.layout == "rows"
        expect_shape(self._boxes, "boxes", (1, None, 4) if rows else (1, 4, None))
        candidates = self._boxes.shape[1 if rows else 2]
        expect_shape(self._scores, "scores", (1, candidates, None) if rows else (1, None, candidates))
        columns = self._scores.shape[2 if rows else 1]
        self._columns = slice(spec.background == "first", columns - (spec.background == "last"))
        self._classes = columns - (spec.background != "none")
        if self._classes < 1:
            raise ModelError(
                f"output.scores: tensor {self._scores.name}", expected="at least one class", found=str(columns)
            )
        self._threshold = np.float32(score_threshold)
        self._centered = "width" in spec.box
        named = ("x", "y", "width", "height") if self._centered else ("x_min", "y_min", "x_max", "y_max")
        self._order = [spec.box.index(name) for name in named]
        self._unit = np.ones(4, np.float32)
        if spec.units == "pixels":
            self._unit = per_pixel(inputs)

    @property
    def classes(self) -> int:
        """How many classes the network tells apart, the background not counted."""
        return self._classes

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Detections:
        """Boxes as fractions of the input tensor; each candidate of its best class alone."""
        spec = self._spec
        raw = outputs[spec.scores].reshape(self._scores.shape[1:])
        boxes = outputs[spec.boxes].reshape(self._boxes.shape[1:])
        if spec.layout == "columns":
            raw, boxes = raw.T, boxes.T  # views
        said = raw[:, self._columns]
        if spec.activation == "softmax":
            scores = _softmax_best(self._scores.to_real(raw), self._columns)
        else:
            scores = to_score(self._scores.to_real(said.max(axis=1)), spec.activation)
        index = np.flatnonzero(scores >= self._threshold)  # False for NaN
        index = index[best_candidates(scores[index])]
        boxes, sane = self._corners(boxes[index])
        index, boxes = index[sane], boxes[sane]
        scores, class_ids = scores[index], said[index].argmax(axis=1).astype(np.int32)
        kept = nms(boxes, scores, class_ids, iou_threshold=spec.nms_iou, limit=spec.max_detections)
        return Detections(boxes[kept], scores[kept], class_ids[kept])

    def _corners(self, raw: Tensor) -> tuple[Float32Array, NDArray[np.bool_]]:
        """Corners, and which of them are boxes: with sides above 0, of this world."""
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = self._boxes.to_real(raw)[:, self._order] * self._unit
            if self._centered:
                half = boxes[:, 2:] / 2
                boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
            # False for NaN
            sane = (np.abs(boxes) < MAX_COORDINATE).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return np.asarray(boxes, np.float32), sane


def _softmax_best(real: Float32Array, columns: slice) -> Float32Array:
    """(candidates,): the largest share of the columns; infinity less itself is NaN, which passes no threshold."""
    with np.errstate(over="ignore", invalid="ignore"):
        exp = np.exp(real - real.max(axis=1, keepdims=True))
        return np.asarray(exp[:, columns].max(axis=1) / exp.sum(axis=1), np.float32)
