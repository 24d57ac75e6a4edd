"""Planes -> small pictures and whole ones.

A network's small input is resized from each plane: that reads half the bytes of BGR, and no BGR is made of all the pixels
that are not kept. What comes out differs from BGR that was resized by how chroma is put in between; what a network finds in
it, `make bench-planes` compares.
"""

from __future__ import annotations

import cv2
import numpy as np

from .types import Planes, UInt8Array


def resized_to_bgr(
    planes: Planes, area: tuple[slice, slice], size: tuple[int, int], interpolation: int, into: UInt8Array
) -> None:
    """``area``: rows and columns, of which the chroma's are taken to the next even number outwards; ``size``: width and
    height of what is made of it; ``interpolation``: one of OpenCV's; ``into``: (height, width, 3) uint8 BGR."""
    rows, columns = (slice(part.start // 2, (part.stop + 1) // 2) for part in area)
    parts = (planes.luma[area], planes.red[rows, columns], planes.blue[rows, columns])  # in OpenCV's order
    merged = cv2.merge([cv2.resize(part, size, interpolation=interpolation) for part in parts])
    cv2.cvtColor(merged, cv2.COLOR_YCrCb2BGR, dst=into)


class PlanesToBgr:
    """All of a picture in BGR. Owned by one thread: it keeps a scratch buffer."""

    def __init__(self) -> None:
        self._compact = np.empty((0, 0), np.uint8)
        # OpenCV expects what video has: Y in 16..235, Cb and Cr in 16..240 (ITU-R BT.601, 8 bits)
        full = np.arange(256, dtype=np.float64)
        self._luma = np.rint(16 + full * 219 / 255).astype(np.uint8)
        self._chroma = np.rint(128 + (full - 128) * 224 / 255).astype(np.uint8)

    def __call__(self, planes: Planes, into: UInt8Array | None = None) -> UInt8Array:
        """(height, width, 3) uint8 BGR, in ``into`` where it fits."""
        height, width = planes.luma.shape
        if self._compact.shape != (height * 3 // 2, width):
            self._compact = np.empty((height * 3 // 2, width), np.uint8)
        cv2.LUT(planes.luma, self._luma, dst=self._compact[:height])
        blue, red = self._compact[height:].reshape(2, height // 2, width // 2)
        cv2.LUT(planes.blue, self._chroma, dst=blue)
        cv2.LUT(planes.red, self._chroma, dst=red)
        if into is None or into.shape != (height, width, 3) or not into.flags.c_contiguous:
            into = np.empty((height, width, 3), np.uint8)
        cv2.cvtColor(self._compact, cv2.COLOR_YUV2BGR_I420, dst=into)
        return into
