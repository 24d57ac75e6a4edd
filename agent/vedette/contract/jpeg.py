"""JPEG -> pictures, as large as they are needed and no larger.

A USB camera sends JPEG, and so do many network cameras. Decoding one takes more than anything else that is done to a frame
outside the network, and most frames are never looked at: of a camera of 30 a second a pipeline may take five. So a frame
stays as it came until somebody needs its pixels; and a network with a small input gets a picture of a half, a quarter or an
eighth of the size, which costs less (`make bench-cameras`): each block of 8x8 pixels is transformed to 4x4, 2x2 or one, as
the mean of what it stands for (`scale_num`/`scale_denom` of libjpeg). That is at least as large as the network's input,
whose own resizing goes on from there.
"""

from __future__ import annotations

import zlib
from typing import Final

import cv2
import numpy as np

from .errors import UndecodableError
from .types import Jpeg, UInt8Array

# how many times smaller -> OpenCV's name for it; not turned as Exif says, for pictures of a stream do not turn
_FLAGS: Final = {
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    1: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
}
_FINGERPRINTED: Final = 16  # every 16th byte of the coded data: what differs early differs in all that comes behind

# ITU-T T.81, table B.1
_MARKER: Final = 0xFF
_START_OF_IMAGE: Final = 0xD8
_START_OF_SCAN: Final = 0xDA
_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those are tables, and an extension
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


def read_jpeg(data: UInt8Array) -> Jpeg:
    """``data``: (n,) uint8. Reads its header as far as the first scan. Raises `UndecodableError` for what is none."""
    view = data.data
    if len(view) < 4 or view[0] != _MARKER or view[1] != _START_OF_IMAGE:
        raise UndecodableError(
            "no JPEG", found=f"{len(view)} bytes that begin with {bytes(view[:4]).hex() or 'nothing'}"
        )
    at, size = 2, (0, 0)
    try:
        while True:
            if view[at] != _MARKER:
                raise UndecodableError("a broken JPEG", expected=f"a marker at byte {at}", found=f"{view[at]:#04x}")
            marker = view[at + 1]
            if marker == _MARKER:  # any number of them may fill up
                at += 1
                continue
            at += 2
            if marker in _ALONE:
                continue
            length = view[at] << 8 | view[at + 1]
            if marker in _START_OF_FRAME:
                # length, precision, lines, samples a line
                size = (view[at + 3] << 8 | view[at + 4], view[at + 5] << 8 | view[at + 6])
            at += length
            if marker == _START_OF_SCAN:
                break
    except IndexError:
        raise UndecodableError("a broken JPEG", found=f"its end within the header, after {len(view)} bytes") from None
    if not all(size):  # 0 lines: they are told behind the scan, which no camera does
        raise UndecodableError("a broken JPEG", found="a header without a size")
    return Jpeg(data, *size, scan=at)


def reduction(height: int, width: int, least_height: int, least_width: int) -> int:
    """How many times smaller a picture may be decoded so that it is still no smaller than that: 1, 2, 4 or 8."""
    return next((factor for factor in _FLAGS if height >= factor * least_height and width >= factor * least_width), 1)


def decode(jpeg: Jpeg, factor: int = 1) -> UInt8Array:
    """(height / factor, width / factor, 3) uint8 BGR, rounded up; once for all who ask for that. ``factor``: 1, 2, 4 or 8.
    Not to be written to: others are given it, too.

    Nothing is made of a larger one that another has had decoded: what somebody sees must not depend on who else looks.
    Raises `UndecodableError` where it cannot be decoded.
    """
    with jpeg.decoding:
        if (known := jpeg.decoded.get(factor)) is not None:
            return known
        try:
            decoded = cv2.imdecode(jpeg.data, _FLAGS[factor])
        except cv2.error as error:
            raise UndecodableError("a JPEG that cannot be decoded", found=error.err) from None
        expected = (-(-jpeg.height // factor), -(-jpeg.width // factor), 3)
        if decoded is None or decoded.shape != expected:
            # the same words for every frame of a camera: said once, not for each
            found = f"a broken picture of {jpeg.width}x{jpeg.height}"
            raise UndecodableError("a JPEG that cannot be decoded", found=found)
        pixels = jpeg.decoded[factor] = np.asarray(decoded, np.uint8)
        return pixels


def fingerprint(jpeg: Jpeg) -> int:
    """The same for the same picture, whatever a header says of the time."""
    return zlib.crc32(jpeg.data[jpeg.scan :: _FINGERPRINTED].tobytes())
