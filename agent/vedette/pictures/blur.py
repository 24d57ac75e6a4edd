"""Makes parts of a picture unrecognisable, for good: what is left of a region is a handful of averages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, floor
from typing import Final

import cv2
import numpy as np

from vedette.contract.types import Float32Array, UInt8Array

CELLS: Final = 5  # averages along a region's shorter side: of a face, some 5x6 colours are left
MARGIN: Final = 0.1  # of a box, on each side: detectors cut hair and chins off
SMOOTH: Final = 0.8  # cells, a standard deviation
MIN_CELL: Final = 4  # pixels; a region that is so small that its cells would be smaller becomes fewer of them


def blur_boxes(pixels: UInt8Array, boxes: Float32Array) -> None:
    """In place. ``boxes``: (n, 4), x_min, y_min, x_max, y_max as fractions of the picture."""
    height, width = pixels.shape[:2]
    for x_min, y_min, x_max, y_max in boxes.astype(np.float64).tolist():
        more_x, more_y = (x_max - x_min) * MARGIN, (y_max - y_min) * MARGIN
        left, right = _span(x_min - more_x, x_max + more_x, width)
        top, bottom = _span(y_min - more_y, y_max + more_y, height)
        if left < right and top < bottom:
            _blur(pixels[top:bottom, left:right])


def blur_polygons(pixels: UInt8Array, polygons: Iterable[Sequence[tuple[float, float]]]) -> None:
    """In place. ``polygons``: corners x, y as fractions of the picture."""
    height, width = pixels.shape[:2]
    for polygon in polygons:
        corners = np.array(polygon, np.float64) * (width, height)
        left, right = _span(corners[:, 0].min() / width, corners[:, 0].max() / width, width)
        top, bottom = _span(corners[:, 1].min() / height, corners[:, 1].max() / height, height)
        if left >= right or top >= bottom:
            continue
        region = pixels[top:bottom, left:right]
        inside = np.zeros(region.shape[:2], np.uint8)
        cv2.fillPoly(inside, [np.rint(corners - (left, top)).astype(np.int32)], 1)
        # no row of pixels at the edge is left as it was
        hidden = cv2.dilate(inside, np.ones((3, 3), np.uint8)) > 0
        blurred = region.copy()
        _blur(blurred)
        np.copyto(region, blurred, where=hidden[:, :, np.newaxis])


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Whole pixels that hold the span, within the picture."""
    return max(0, floor(low * size)), min(size, ceil(high * size))


def _blur(region: UInt8Array) -> None:
    """Averages over `CELLS` cells, smoothed, and drawn out again without their edges; in place."""
    height, width = region.shape[:2]
    cell = max(MIN_CELL, ceil(min(height, width) / CELLS))
    cells = (max(1, width // cell), max(1, height // cell))
    small = cv2.GaussianBlur(cv2.resize(region, cells, interpolation=cv2.INTER_AREA), (3, 3), SMOOTH)
    np.copyto(region, cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
