"""Interlaced video: OpenCV from 4.13 on makes no pictures of it, and does not say so.

FFmpeg's scaler refuses such a frame, OpenCV calls that a success and hands out memory that nobody has written to: black, or
what another camera showed. Whether a video may be interlaced stands in its header, for H.264 (ITU-T H.264, 7.3.2.1.1) and
MPEG-2 (ITU-T H.262, 6.2.2.3), which is what interlaced cameras, discs and broadcasts use. Whether pictures are made of it is
then tried.
"""

from __future__ import annotations

import re
from typing import Any, Final

import cv2
import numpy as np

from .capture import retrieve

REFUSED: Final[dict[str, Any]] = {
    "problem": "interlaced video cannot be read",
    "expected": "progressive video",
    "found": f"OpenCV {cv2.__version__}, which makes no pictures of interlaced video",
    "fix": "set the camera to progressive, deinterlace the file, or: pip install 'opencv-python-headless<4.13'",
}
"""What an error says where there are `no_pictures`."""

TRIED: Final = 5  # frames that would all have to show the very same picture
_REFUSES: Final = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13)

# profiles whose sequence parameter set says more of the samples
_HIGH_PROFILES: Final = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


def may_be_interlaced(capture: cv2.VideoCapture) -> bool:
    """Whether its header allows for interlaced frames, which need not mean that there are any."""
    try:
        index = int(capture.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX))
        found, header = capture.retrieve(flag=index) if index > 0 else (False, None)
    except cv2.error:
        return False
    return bool(found) and header is not None and allows_interlaced(header.tobytes())


def no_pictures(capture: cv2.VideoCapture) -> bool:
    """Whether OpenCV makes no pictures of a video that may be interlaced. Takes its first frames."""
    first = None
    for _ in range(TRIED if _REFUSES else 0):
        picture = retrieve(capture, None) if capture.grab() else None
        if picture is None:
            return False  # whoever reads on will say why
        if first is not None and not np.array_equal(picture, first):
            return False
        first = picture
    return first is not None


def allows_interlaced(header: bytes) -> bool:
    """``header``: of the codec, as containers and RTSP hand it over. False of other codecs, and of what is malformed."""
    parameters = _h264_parameters(header)
    try:
        if parameters is not None:
            return not _frames_only(parameters)
    except IndexError:
        return False
    # sequence_extension(): the start code, an id of 1, eight bits of profile and level, progressive_sequence
    sequence = re.search(rb"(?s)\x00\x00\x01\xb5[\x10-\x1f](.)", header)
    return sequence is not None and b"\x00\x00\x01\xb3" in header and not sequence[1][0] & 0x08


def _h264_parameters(header: bytes) -> bytes | None:
    """The sequence parameter set, without the byte that says it is one; of an avcC box or of a byte stream."""
    if len(header) > 8 and header[0] == 1 and header[5] & 0xE0 == 0xE0 and header[8] & 0x1F == 7:
        found = header[9:]
    else:
        start = re.search(rb"\x00\x00\x01[\x07\x27\x47\x67]", header)
        if start is None:
            return None
        found = header[start.end() :]
    return found.replace(b"\x00\x00\x03", b"\x00\x00")  # 7.4.1: the 3 keeps what follows from being a start code


def _frames_only(parameters: bytes) -> bool:
    """frame_mbs_only_flag. Raises `IndexError` where the bits end before it."""
    bits = _Bits(parameters)
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    if profile in _HIGH_PROFILES:
        chroma = bits.unsigned()
        if chroma == 3:
            bits.take(1)
        bits.unsigned()
        bits.unsigned()
        bits.take(1)
        if bits.take(1):
            for number in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    bits.scaling_list(16 if number < 6 else 64)
    bits.unsigned()
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.unsigned()
        bits.unsigned()
        for _ in range(bits.unsigned()):
            bits.unsigned()
    bits.unsigned()
    bits.take(1)
    bits.unsigned()
    bits.unsigned()
    return bool(bits.take(1))


class _Bits:
    """Read from the highest bit of the first byte on. Raises `IndexError` at the end."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._next = 0

    def take(self, count: int) -> int:
        """So many bits as a number."""
        value = 0
        for place in range(self._next, self._next + count):
            value = value << 1 | self._content[place >> 3] >> (7 - (place & 7)) & 1
        self._next += count
        return value

    def unsigned(self) -> int:
        """ue(v), 9.1; se(v) takes as many bits."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def scaling_list(self, size: int) -> None:
        """Passes it over, 7.3.2.1.1.1."""
        scale = 8
        for _ in range(size):
            code = self.unsigned()
            scale = (scale + (code + 1 >> 1 if code & 1 else -(code >> 1))) % 256
            if not scale:
                return
