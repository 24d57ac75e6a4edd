"""Frames that come as JPEG: handed on as they are, for most are never looked at, and others not in full."""

from __future__ import annotations

import cv2
import numpy as np

from vedette.contract.errors import UndecodableError
from vedette.contract.image import MAX_PIXELS
from vedette.contract.jpeg import read_jpeg
from vedette.contract.types import Jpeg, UInt8Array


def raw_frame(capture: cv2.VideoCapture) -> UInt8Array | None:
    """Of a capture that does not decode, the grabbed frame's bytes: (n,) uint8, in memory of its own. None where it gives
    none."""
    try:
        ok, data = capture.retrieve()
    except cv2.error:
        return None
    return np.asarray(data.reshape(-1), np.uint8) if ok and data is not None and data.dtype == np.uint8 else None


def jpeg_frame(capture: cv2.VideoCapture) -> Jpeg | None:
    """The same; None, too, where that is no JPEG, or more pixels than memory is asked for."""
    data = raw_frame(capture)
    try:
        jpeg = read_jpeg(data) if data is not None else None
    except UndecodableError:
        return None
    return jpeg if jpeg is not None and jpeg.width * jpeg.height <= MAX_PIXELS else None
