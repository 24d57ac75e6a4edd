"""Any kind of picture -> all of it in BGR."""

from __future__ import annotations

from .jpeg import decode
from .planes import PlanesToBgr
from .types import Jpeg, Picture, Planes, UInt8Array


def in_bgr(pixels: Picture) -> UInt8Array:
    """(height, width, 3) uint8 BGR: the picture itself, where it is. Not to be written to.

    Raises `UndecodableError` for a JPEG that cannot be decoded.
    """
    if isinstance(pixels, Jpeg):
        return decode(pixels)
    return PlanesToBgr()(pixels) if isinstance(pixels, Planes) else pixels


def own_bgr(pixels: Picture) -> UInt8Array:
    """(height, width, 3) uint8 BGR in memory of its own. Raises as `in_bgr` does."""
    return in_bgr(pixels) if isinstance(pixels, Planes) else in_bgr(pixels).copy()
