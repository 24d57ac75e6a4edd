"""Captions of boxes: put where none hides another, as far as there is room, and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from vedette.contract.types import UInt8Array

FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
WHITE: Final = (255, 255, 255)

Rectangle = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are outside."""


@dataclass(frozen=True, slots=True)
class Caption:
    """``box``: of what it tells. ``color``: BGR, of the ground on which it is written."""

    text: str
    box: Rectangle
    color: tuple[int, int, int]


def write_captions(canvas: UInt8Array, captions: Sequence[Caption]) -> None:
    """Writes them upon the picture. ``captions``: the best first; it has the first choice of a place, and where two must
    overlap it stays readable."""
    height, width = canvas.shape[:2]
    scale = max(0.4, min(width, height) / 1200)
    extents, bases = [], []
    for caption in captions:
        (w, h), base = cv2.getTextSize(caption.text, FONT, scale, 1)
        extents.append((w, h + base))
        bases.append(base)
    places = place_captions([caption.box for caption in captions], extents, (width, height))
    for caption, (left, top, right, bottom), base in reversed(list(zip(captions, places, bases, strict=True))):
        cv2.rectangle(canvas, (left, top), (right, bottom), caption.color, cv2.FILLED)
        cv2.putText(canvas, caption.text, (left, bottom - base // 2 - 1), FONT, scale, WHITE, 1, cv2.LINE_AA)


def place_captions(
    boxes: Sequence[Rectangle], extents: Sequence[tuple[int, int]], size: tuple[int, int]
) -> list[Rectangle]:
    """Where each goes. ``extents``: their widths and heights, ``size``: the picture's.

    The first of six places that is free, over the box, under it or in it, is taken; the first of all where none is.
    """
    taken = np.empty((len(boxes), 4), np.int64)
    for number, (box, extent) in enumerate(zip(boxes, extents, strict=True)):
        others = taken[:number]
        wanted = [_inside(place, extent, size) for place in _corners(box, extent)]
        taken[number] = next((place for place in wanted if not _meets(place, others)), wanted[0])
    return [(int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in taken]


def _corners(box: Rectangle, extent: tuple[int, int]) -> list[tuple[int, int]]:
    """The upper left corners that a caption might have, the best first."""
    left, top, right, bottom = box
    width, height = extent
    over, under, flush = top - height, bottom, right - width
    return [(left, over), (flush, over), (left, under), (flush, under), (left, top), (left, bottom - height)]


def _inside(corner: tuple[int, int], extent: tuple[int, int], size: tuple[int, int]) -> Rectangle:
    left, top = (max(0, min(at, most - own)) for at, own, most in zip(corner, extent, size, strict=True))
    return left, top, left + extent[0], top + extent[1]


def _meets(place: Rectangle, others: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> bool:
    left, top, right, bottom = place
    return bool(((others[:, 0] < right) & (left < others[:, 2]) & (others[:, 1] < bottom) & (top < others[:, 3])).any())
