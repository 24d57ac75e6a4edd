"""YOLO's kind of detector: every candidate is one row (or column) of box, objectness or not, and a score a class.

Layouts: the export code of YOLOv5 and YOLOv8 (decoded boxes), and YOLOX (Ge et al., arXiv 2107.08430: boxes still on the
grid). Scores beyond 0..1, which only rounding or a broken network makes, count as 0 or 1: so no class can lift a candidate
above its objectness, and most candidates are never looked at any further.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..boxes import nms
from ..errors import ModelError
from ..manifest import YoloOutput
from ..types import Detections, Float32Array, Tensor, TensorSpec
from ._tensors import (
    MAX_COORDINATE,
    MAX_ENCODED_SIDE,
    best_candidates,
    expect_shape,
    per_pixel,
    pick,
    picture_sides,
    to_score,
)


class YoloDecoder:
    """See the module."""

    def __init__(
        self,
        spec: YoloOutput,
        tensors: Sequence[TensorSpec],
        score_threshold: float,
        *,
        inputs: Sequence[TensorSpec] = (),
    ) -> None:
        """``inputs``: the network's; needed for boxes in pixels and on a grid."""
        self._spec = spec
        self._tensor = pick(tensors, spec.predictions, "predictions")
        expect_shape(self._tensor, "predictions", (1, None, None))
        candidates, numbers = self._tensor.shape[1:] if spec.layout == "rows" else self._tensor.shape[:0:-1]
        self._first = 4 + spec.objectness
        if numbers <= self._first:
            raise ModelError(
                f"output.predictions: tensor {self._tensor.name}",
                expected=f"more than {self._first} numbers a candidate", found=str(numbers),
                fix='layout = "columns", where each stands in a column' if spec.layout == "rows" else "",
            )  # fmt: skip
        self._classes = numbers - self._first
        self._threshold = score_threshold
        self._unit = np.ones(4, np.float32)
        self._grid: Float32Array | None = None
        if spec.strides:
            width, height = picture_sides(inputs)
            self._grid = _grid(spec.strides, width, height)
            self._unit = per_pixel(inputs)
            if len(self._grid) != candidates:
                raise ModelError(
                    f"output.predictions: tensor {self._tensor.name}",
                    expected=f"{len(self._grid)} candidates at strides {list(spec.strides)} of {width}x{height}",
                    found=str(candidates),
                )
        elif spec.units == "pixels":
            self._unit = per_pixel(inputs)

    @property
    def classes(self) -> int:
        """How many classes the network tells apart."""
        return self._classes

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Detections:
        """Boxes as fractions of the input tensor; each candidate of its best class alone."""
        spec = self._spec
        raw = outputs[spec.predictions].reshape(self._tensor.shape[1:])
        if spec.layout == "columns":
            raw = raw.T  # a view: a column of it lies in one piece
        if spec.objectness:
            sure = to_score(self._tensor.to_real(raw[:, 4]), spec.activation)
            index = np.flatnonzero(sure >= self._threshold)
            scores = (
                to_score(self._tensor.to_real(raw[index, self._first :].max(axis=1)), spec.activation) * sure[index]
            )
            passing = scores >= self._threshold
            index, scores = index[passing], scores[passing]
        else:
            scores = to_score(self._tensor.to_real(raw[:, self._first :].max(axis=1)), spec.activation)
            index = np.flatnonzero(scores >= self._threshold)
            scores = scores[index]
        best = best_candidates(scores)
        index, scores = index[best], scores[best]
        rows = raw[index]
        boxes, sane = self._boxes(self._tensor.to_real(rows[:, :4]), index)
        class_ids = rows[:, self._first :].argmax(axis=1).astype(np.int32)
        boxes, scores, class_ids = boxes[sane], scores[sane], class_ids[sane]
        kept = nms(boxes, scores, class_ids, iou_threshold=spec.nms_iou, limit=spec.max_detections)
        return Detections(boxes[kept], scores[kept], class_ids[kept])

    def _boxes(self, found: Float32Array, index: NDArray[np.intp]) -> tuple[Float32Array, NDArray[np.bool_]]:
        """Corners, and which of them are boxes: with sides above 0, of this world."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self._grid is not None:
                grid = self._grid[index]
                stride = grid[:, 2:]
                center = (found[:, :2] + grid[:, :2]) * stride
                found = np.concatenate([center, np.exp(np.minimum(found[:, 2:], MAX_ENCODED_SIDE)) * stride], axis=1)
            found = found * self._unit
            half = found[:, 2:] / 2
            boxes = np.concatenate([found[:, :2] - half, found[:, :2] + half], axis=1)
            # False for NaN
            sane = (np.abs(boxes) < MAX_COORDINATE).all(axis=1) & (half > 0).all(axis=1)
        return np.asarray(boxes, np.float32), sane


def _grid(strides: Sequence[int], width: int, height: int) -> Float32Array:
    """(candidates, 3) float32: column, row and stride of each cell, map by map, row by row."""
    if width % max(strides) or height % max(strides):
        raise ModelError(
            "output.strides",
            expected=f"an input of whole cells, multiples of {max(strides)}",
            found=f"{width}x{height}",
        )
    maps = []
    for stride in strides:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        maps.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(maps).astype(np.float32)
