"""Planes -> small pictures and whole ones.

A network's small input is resized from each plane: that reads half the bytes of BGR, and no BGR is made of all the pixels
that are not kept. What comes out differs from BGR that was resized by how chroma is put in between; what a network finds in
it, `make bench-planes` compares.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from .types import Float32Array, Planes, UInt8Array

# 8 bits in full -> what video has: Y in 16..235, Cb and Cr in 16..240 (ITU-R BT.601); and back, cut off at both ends
_FULL: Final = np.arange(256, dtype=np.float64)
_LUMA_TO_VIDEO, _CHROMA_TO_VIDEO = (
    np.rint(table).astype(np.uint8) for table in (16 + _FULL * 219 / 255, 128 + (_FULL - 128) * 224 / 255)
)
_LUMA_IN_FULL, _CHROMA_IN_FULL = (
    np.clip(np.rint(table), 0, 255).astype(np.uint8)
    for table in ((_FULL - 16) * 255 / 219, 128 + (_FULL - 128) * 255 / 224)
)
_IN_FULL: Final = np.dstack([_LUMA_IN_FULL, _CHROMA_IN_FULL, _CHROMA_IN_FULL])


def full_luma(luma: Float32Array) -> Float32Array:
    """Y as in video -> 0..255, and beyond both ends where it was."""
    return (luma - np.float32(16)) * np.float32(255 / 219)


def resized_to_bgr(
    planes: Planes, area: tuple[slice, slice], size: tuple[int, int], interpolation: int, into: UInt8Array
) -> None:
    """``area``: rows and columns, of which the chroma's are taken to the next even number outwards; ``size``: width and
    height of what is made of it; ``interpolation``: one of OpenCV's; ``into``: (height, width, 3) uint8 BGR."""
    rows, columns = (slice(part.start // 2, (part.stop + 1) // 2) for part in area)
    parts = (planes.luma[area], planes.red[rows, columns], planes.blue[rows, columns])  # in OpenCV's order
    merged = cv2.merge([cv2.resize(part, size, interpolation=interpolation) for part in parts])
    if not planes.full_range:
        merged = cv2.LUT(merged, _IN_FULL)
    cv2.cvtColor(merged, cv2.COLOR_YCrCb2BGR, dst=into)


def resized_luma(
    planes: Planes, area: tuple[slice, slice], size: tuple[int, int], interpolation: int, into: UInt8Array
) -> None:
    """As `resized_to_bgr`, in grey alone: ``into``: (height, width) uint8."""
    cv2.resize(planes.luma[area], size, dst=into, interpolation=interpolation)
    if not planes.full_range:
        cv2.LUT(into, _LUMA_IN_FULL, dst=into)


class PlanesToBgr:
    """All of a picture in BGR. Owned by one thread: it keeps a scratch buffer."""

    def __init__(self) -> None:
        self._compact = np.empty((0, 0), np.uint8)

    def __call__(self, planes: Planes, into: UInt8Array | None = None) -> UInt8Array:
        """(height, width, 3) uint8 BGR, in ``into`` where it fits."""
        height, width = planes.luma.shape
        if self._compact.shape != (height * 3 // 2, width):
            self._compact = np.empty((height * 3 // 2, width), np.uint8)
        blue, red = self._compact[height:].reshape(2, height // 2, width // 2)
        parts = ((planes.luma, self._compact[:height]), (planes.blue, blue), (planes.red, red))
        for (plane, compact), table in zip(parts, (_LUMA_TO_VIDEO, _CHROMA_TO_VIDEO, _CHROMA_TO_VIDEO), strict=True):
            if planes.full_range:  # OpenCV expects what video has
                cv2.LUT(plane, table, dst=compact)
            else:
                np.copyto(compact, plane)
        if into is None or into.shape != (height, width, 3) or not into.flags.c_contiguous:
            into = np.empty((height, width, 3), np.uint8)
        cv2.cvtColor(self._compact, cv2.COLOR_YUV2BGR_I420, dst=into)
        return into
