"""Arithmetic on boxes: ``x_min, y_min, x_max, y_max``, arrays of shape (n, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .types import Float32Array, Int32Array

FEW: Final = 128  # boxes; so many are compared in Python's own arithmetic, without calls of numpy for each that is kept


def areas(boxes: Float32Array) -> Float32Array:
    """(n,) float32; an inverted box has area 0."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def with_area(boxes: Float32Array) -> NDArray[np.bool_] | None:
    """(n,): which boxes have one, neither inverted nor cut off wholly at a frame's edges; None for all."""
    sides = boxes[:, 2:] > boxes[:, :2]
    return None if sides.all() else np.asarray(sides.all(axis=1), np.bool_)


def iou(a: Float32Array, b: Float32Array) -> Float32Array:
    """Intersection over union of every box of ``a`` (n, 4) with every box of ``b`` (m, 4): (n, m) float32 in 0..1.

    Two boxes without area have IoU 0.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    inter = sides[..., 0] * sides[..., 1]
    union = areas(a)[:, None] + areas(b)[None, :] - inter
    overlap = np.zeros(inter.shape, np.float32)
    np.divide(inter, union, out=overlap, where=union > 0)
    return overlap


def nms(
    boxes: Float32Array,
    scores: Float32Array,
    class_ids: Int32Array,
    *,
    iou_threshold: float,
    limit: int,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class (Felzenszwalb et al., PAMI 2010, section 6).

    A box is dropped when a better one of its class overlaps it by more than ``iou_threshold``. Returns the positions
    of at most ``limit`` kept boxes, best score first; equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) < 2:
        return order[:limit]
    sorted_boxes = boxes[order]
    sorted_ids = class_ids[order]
    if len(order) <= FEW:
        kept = nms_of_few(sorted_boxes.tolist(), sorted_ids.tolist(), iou_threshold=iou_threshold, limit=limit)
    else:
        kept = _choose_one_by_one(sorted_boxes, sorted_ids, np.float32(iou_threshold), limit)
    return order[kept]


def nms_of_few(
    boxes: Sequence[Sequence[float]], class_ids: Sequence[int], *, iou_threshold: float, limit: int
) -> list[int]:
    """The same of boxes that come best score first, in Python's own arithmetic."""
    threshold = float(np.float32(iou_threshold))
    kept: list[int] = []
    better: list[tuple[int, float, float, float, float, float]] = []
    for i, (class_id, (x_min, y_min, x_max, y_max)) in enumerate(zip(class_ids, boxes, strict=True)):
        area = max(x_max - x_min, 0.0) * max(y_max - y_min, 0.0)
        for other, left, top, right, bottom, its_area in better:
            if other != class_id:
                continue
            # the inner loop: without calls of min() and max()
            width = (x_max if x_max < right else right) - (x_min if x_min > left else left)
            if width <= 0:
                continue
            height = (y_max if y_max < bottom else bottom) - (y_min if y_min > top else top)
            if height <= 0:
                continue
            inter = width * height
            # inter > threshold * union is IoU > threshold without dividing by an empty union
            if inter > threshold * (area + its_area - inter):
                break
        else:
            kept.append(i)
            if len(kept) == limit:
                break
            better.append((class_id, x_min, y_min, x_max, y_max, area))
    return kept


def _choose_one_by_one(
    sorted_boxes: Float32Array, sorted_ids: Int32Array, iou_threshold: np.float32, limit: int
) -> list[int]:
    """The same for any number, each with all that are left."""
    alive = np.ones(len(sorted_boxes), np.bool_)
    kept: list[int] = []
    box_areas = areas(sorted_boxes)
    for i in range(len(sorted_boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == limit:
            break
        rest = np.flatnonzero(alive[i + 1 :] & (sorted_ids[i + 1 :] == sorted_ids[i])) + i + 1
        if not len(rest):
            continue
        others = sorted_boxes[rest]
        me = sorted_boxes[i]
        width = np.minimum(others[:, 2], me[2]) - np.maximum(others[:, 0], me[0])
        height = np.minimum(others[:, 3], me[3]) - np.maximum(others[:, 1], me[1])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        union = box_areas[i] + box_areas[rest] - inter
        # inter > threshold * union is IoU > threshold without dividing by an empty union
        alive[rest[inter > iou_threshold * union]] = False
    return kept
