"""A teacher's answers on its own anchors -> on the anchors of a student whose feature maps have other sizes.

A smaller input moves every cell, and with it what each anchor has to say. A student's anchor is given the answer of the
teacher's anchors of the same shape whose cells' centres lie in its cell: the surest of them, for an object must not get
lost between the cells. Where none lies there, the nearest answers. Boxes are the same boxes, encoded for the other anchor.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from vedette.contract.decode.ssd import anchor_boxes
from vedette.contract.manifest import SsdAnchors
from vedette.contract.types import Float32Array

_LARGEST = 10.0  # of an encoded side: exp() of more is no box


class Regrid:
    """See the module. Without any change where both have the same feature maps."""

    def __init__(
        self, teacher: SsdAnchors, student: SsdAnchors, box_scale: Sequence[float], *, background: bool = True
    ) -> None:
        """Anchors that differ in their feature maps alone; ``box_scale``: ty, tx, th, tw of both (see `SsdOutput`)."""
        self._scale = np.asarray(box_scale, np.float32)
        self._from, self._to = anchor_boxes(teacher), anchor_boxes(student)
        self._background = int(background)
        self._same = teacher == student
        self._candidates = _candidates(teacher, student, len(self._from), len(self._to))

    def __call__(self, boxes: Float32Array, logits: Float32Array) -> tuple[Float32Array, Float32Array]:
        """(anchors, 4) encodings and (anchors, classes) logits of one picture, of the teacher's anchors -> the student's."""
        if self._same:
            return boxes, logits
        sure = logits[:, self._background :].max(axis=1)
        sure = np.append(sure, -np.inf).astype(np.float32)  # for the candidates that are none: index -1
        best = self._candidates[np.arange(len(self._to)), sure[self._candidates].argmax(axis=1)]
        source, anchors = self._from[best], self._to
        encoded = boxes[best] / self._scale
        center = encoded[:, :2] * source[:, 2:] + source[:, :2]
        sides = np.exp(np.minimum(encoded[:, 2:], _LARGEST)) * source[:, 2:]
        moved = np.concatenate([(center - anchors[:, :2]) / anchors[:, 2:], np.log(sides / anchors[:, 2:])], axis=1)
        return np.asarray(moved * self._scale, np.float32), logits[best]


def _candidates(teacher: SsdAnchors, student: SsdAnchors, from_count: int, to_count: int) -> NDArray[np.intp]:
    """(student's anchors, most candidates): places among the teacher's anchors, filled up with -1."""
    if len(teacher.feature_maps) != len(student.feature_maps):
        raise ValueError(f"feature maps: {len(teacher.feature_maps)} and {len(student.feature_maps)}")
    found: list[list[int]] = []
    first = 0
    for level, ((rows, columns), own) in enumerate(zip(teacher.feature_maps, student.feature_maps, strict=True)):
        shapes = _shapes(teacher, level)
        down, across = _within(rows, own[0]), _within(columns, own[1])
        for row in range(own[0]):
            for column in range(own[1]):
                cells = [first + (y * columns + x) * shapes for y in down[row] for x in across[column]]
                found.extend([cell + shape for cell in cells] for shape in range(shapes))
        first += rows * columns * shapes
    if (first, len(found)) != (from_count, to_count):
        raise ValueError(f"anchors: {first} and {len(found)}, not {from_count} and {to_count}")
    table = np.full((len(found), max(map(len, found))), -1, np.intp)
    for place, some in enumerate(found):
        table[place, : len(some)] = some
    return table


def _shapes(anchors: SsdAnchors, level: int) -> int:
    """Anchors of one cell."""
    finest = level == 0 and anchors.reduce_boxes_in_lowest_layer
    one = msgspec.structs.replace(anchors, feature_maps=((1, 1),), reduce_boxes_in_lowest_layer=finest)
    return len(anchor_boxes(one))


def _within(source: int, target: int) -> list[list[int]]:
    """For each of ``target`` equal parts of a line: which of ``source`` parts' centres lie in it, or the nearest one."""
    centres = (np.arange(source) + 0.5) / source
    parts = []
    for place in range(target):
        inside = np.flatnonzero((centres >= place / target) & (centres < (place + 1) / target))
        parts.append([int(i) for i in inside] or [int(np.abs(centres - (place + 0.5) / target).argmin())])
    return parts
