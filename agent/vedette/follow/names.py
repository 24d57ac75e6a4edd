"""What a thing is called: a network that scores each class for itself has several names for one.

A van is a car and a truck at the same place, in one picture more the one and in the next the other; followed class by class
it would be two things, or one that ends and begins anew. So boxes of several classes that are as good as the same one are
one detection; where a network gives each box its best name alone, the next picture's box at the same place tells as much.
What a track was once called it may be found by later.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vedette.contract.boxes import iou
from vedette.contract.types import Detections, Float32Array, Int32Array

Bools: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = NDArray[np.intp]

# classes share the boxes of an SSD's anchors, or of YOLO's cells; a rider and a horse are further apart
TWIN_IOU: Final = 0.9
LEAST: Final = np.float32(1e-6)  # a name that scored nothing is one all the same


def twins(found: Detections, good: Bools, counts: Bools) -> dict[int, int]:
    """Which detections are another one by another name, and which: of those that ``count`` and share a box the best one, a
    good one before a poor one. The others stand for themselves."""
    rows = counts.nonzero()[0]
    if len(rows) < 2 or (found.class_ids[rows] == found.class_ids[rows[0]]).all():
        return {}
    rows = rows[np.lexsort((-found.scores[rows], ~good[rows]))]
    boxes, class_ids = found.boxes[rows], found.class_ids[rows]
    same = np.triu((class_ids[:, None] != class_ids) & (iou(boxes, boxes) >= TWIN_IOU), 1)
    heads: dict[int, int] = {}
    for head, twin in np.argwhere(same).tolist():
        if rows[head] not in heads:
            heads.setdefault(int(rows[twin]), int(rows[head]))
    return heads


class Names:
    """What each track has been called: for each class the scores, summed up. Rows are the tracks'."""

    def __init__(self) -> None:
        self._sums: Float32Array = np.empty((0, 0), np.float32)
        self.several = False
        """Whether any track has more than one."""

    def begin(self, count: int) -> None:
        """So many tracks more, without a name."""
        self._sums = np.concatenate((self._sums, np.zeros((count, self._sums.shape[1]), np.float32)))

    def keep(self, rows: Bools) -> None:
        """The others are gone."""
        self._sums = self._sums[rows]
        self.several = self.several and bool(((self._sums > 0.0).sum(axis=1) > 1).any())

    def known(self, class_ids: Int32Array) -> Bools:
        """(tracks, n) whether each track has been called so."""
        self._widen(class_ids)
        return self._sums[:, class_ids] > 0.0

    def add(self, rows: Rows, class_ids: Int32Array, scores: Float32Array, *, several: bool = False) -> None:
        """Calls the tracks ``rows`` (n,) so, each once, or by ``several`` names."""
        self._widen(class_ids)
        self._sums[rows, class_ids] += np.maximum(scores, LEAST)
        self.several |= several

    def best(self, rows: Rows) -> Rows:
        """(n,) the class of the greatest sum."""
        return np.asarray(self._sums[rows].argmax(axis=1))

    def _widen(self, class_ids: Int32Array) -> None:
        missing = int(class_ids.max(initial=-1)) + 1 - self._sums.shape[1]
        if missing > 0:
            self._sums = np.pad(self._sums, ((0, 0), (0, missing)))
