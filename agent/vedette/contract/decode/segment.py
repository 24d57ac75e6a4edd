"""Segmentation, summed up: how much of the picture each class covers, and where. No mask leaves the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..manifest import SegmentOutput
from ..types import Segments, Tensor, TensorSpec
from ._tensors import expect_shape, pick, to_score

WHOLE = (0.0, 0.0, 1.0, 1.0)


class SegmentDecoder:
    """See the module."""

    def __init__(self, spec: SegmentOutput, tensors: Sequence[TensorSpec], score_threshold: float, labels: int) -> None:
        self._spec = spec
        self._tensor = pick(tensors, spec.scores, "scores")
        self._chosen = self._tensor.dtype.kind in "iu" and not self._tensor.quantised and len(self._tensor.shape) == 3
        expect_shape(self._tensor, "scores", (1, None, None) if self._chosen else (1, None, None, None))
        _, self._rows, self._columns, self._classes = (*self._tensor.shape, labels)[:4]
        self.unlabelled: tuple[int, ...] = ()
        """The classes without a label of what was left out last."""
        if self._chosen and spec.activation != "none":
            raise ModelError(
                f"output.scores: tensor {self._tensor.name}: the class of each cell, and no scores",
                expected='activation "none"', found=spec.activation,
            )  # fmt: skip
        if not self._chosen and self._classes == 1 and (spec.activation == "softmax" or spec.background):
            raise ModelError(
                "output: one class alone", expected='activation "sigmoid" or "none", and no background',
                found=f"{spec.activation}, background = {str(spec.background).lower()}",
            )  # fmt: skip
        self._threshold = score_threshold

    @property
    def classes(self) -> int | None:
        """How many classes the network tells apart, the background counted: it has a label too."""
        return None if self._chosen else self._classes

    def __call__(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor] = (),
        seen: tuple[float, float, float, float] = WHOLE,
    ) -> Segments:
        """Boxes and centroids as fractions of the input tensor, shares of ``seen``: the part of it, x_min, y_min, x_max,
        y_max, in which the picture is. What the network says of the bars beside it does not count."""
        columns = _inside(self._columns, seen[0], seen[2])
        rows = _inside(self._rows, seen[1], seen[3])
        grid = outputs[self._spec.scores].reshape(self._rows, self._columns, -1)[rows, columns]
        if not grid.size:
            none = np.empty((0, 4), np.float32)
            return Segments(np.empty(0, np.int32), none[:, 0], none, none[:, :2])
        class_ids = self._labelled(grid[:, :, 0]) if self._chosen else self._class_of(grid)
        by_row = _histogram(class_ids, self._classes)
        by_column = _histogram(class_ids.T, self._classes)
        counts = by_row.sum(axis=1)
        shares = counts / class_ids.size
        chosen = (counts > 0) & (shares >= self._spec.min_share)
        if self._spec.background:
            chosen[0] = False
        index = np.flatnonzero(chosen)
        index = index[np.argsort(-shares[index], kind="stable")]
        x_min, x_mean, x_max = _extent(by_column[index], columns.start, self._columns)
        y_min, y_mean, y_max = _extent(by_row[index], rows.start, self._rows)
        return Segments(
            index.astype(np.int32),
            shares[index].astype(np.float32),
            np.stack([x_min, y_min, x_max, y_max], axis=1).astype(np.float32),
            np.stack([x_mean, y_mean], axis=1).astype(np.float32),
        )

    def _labelled(self, class_ids: Tensor) -> NDArray[np.int32]:
        """(rows, columns): what the network chose, -1 where that has no label."""
        self.unlabelled = ()
        if class_ids.min() >= 0 and class_ids.max() < self._classes:
            return class_ids.astype(np.int32)
        known = (class_ids >= 0) & (class_ids < self._classes)
        self.unlabelled = tuple(np.unique(class_ids[~known]).tolist())
        return np.where(known, class_ids.astype(np.int32), np.int32(-1))

    def _class_of(self, grid: Tensor) -> NDArray[np.int32]:
        """(rows, columns): the best class of each cell, -1 where it scores too little or is no number."""
        # class by class, each in one piece: NumPy is slow over a short last axis
        planes = np.ascontiguousarray(grid.reshape(-1, self._classes).T)
        highest = planes.max(axis=0)
        if self._spec.activation == "softmax":
            # the best one's probability: 1 / sum(exp(x - max))
            with np.errstate(over="ignore", invalid="ignore"):
                real = self._tensor.to_real(planes) - self._tensor.to_real(highest)
                scores = 1.0 / np.exp(real).sum(axis=0)
        else:
            scores = to_score(self._tensor.to_real(highest), self._spec.activation)
        best = np.full(len(highest), -1, np.int32)
        passing = scores >= self._threshold
        for class_id in reversed(range(self._classes)):  # of equal ones the first
            np.copyto(best, np.int32(class_id), where=passing & (planes[class_id] == highest))
        return best.reshape(grid.shape[:2])


def _inside(cells: int, low: float, high: float) -> slice:
    """The cells whose centres lie between two fractions."""
    first = math.ceil(low * cells - 0.5)
    last = math.ceil(high * cells - 0.5)
    return slice(max(0, first), min(cells, max(first, last)))


def _histogram(class_ids: NDArray[np.int32], classes: int) -> NDArray[np.intp]:
    """(classes, rows): how many cells of each class lie in each row; -1 is none."""
    rows = len(class_ids)
    numbered = class_ids + np.arange(1, rows * (classes + 1), classes + 1, dtype=np.int32)[:, None]
    return np.bincount(numbered.ravel(), minlength=rows * (classes + 1)).reshape(rows, classes + 1)[:, 1:].T


def _extent(
    histogram: NDArray[np.intp], start: int, cells: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Where each class of a (classes, size) histogram begins, is on average, and ends, as fractions of all cells."""
    size = histogram.shape[1]
    taken = histogram > 0
    first = taken.argmax(axis=1)
    last = size - taken[:, ::-1].argmax(axis=1)
    mean = histogram @ (np.arange(size) + 0.5) / np.maximum(1, histogram.sum(axis=1))
    return (first + start) / cells, (mean + start) / cells, (last + start) / cells
