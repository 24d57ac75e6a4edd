"""A clip that says of itself that it runs at another rate: the same pictures bit for bit, only the clock is another.

The agent plays a file at the pace that its container states, as a camera would give it, and lets go of what nobody has
time for. So a clip of 10 frames a second becomes a camera of any rate.
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2


def paced(clip: Path, fps: float, folder: Path) -> Path:
    """A copy of an .mp4 or .avi in ``folder`` that states ``fps`` frames a second, as nearly as its clock can."""
    data = bytearray(clip.read_bytes())
    if data[4:8] == b"ftyp":
        # ISO/IEC 14496-12, 8.4.2: mdhd, version 0: times of creation and change, timescale, all 32 bits
        at = data.index(b"mdhd") + 4
        if data[at] != 0:
            raise ValueError(f"{clip}: mdhd version {data[at]}, only 0 is known here")
        [timescale] = struct.unpack_from(">I", data, at + 12)
        struct.pack_into(">I", data, at + 12, round(timescale * fps / _fps(clip)))
    elif data[:4] == b"RIFF":
        # AVISTREAMHEADER, after "strh" and its size: type, handler, flags, priority, language, initial frames, scale, rate
        at = data.index(b"strh") + 8
        struct.pack_into("<II", data, at + 20, 1000, round(fps * 1000))
    else:
        raise ValueError(f"{clip}: expected an .mp4 or .avi")
    copy = folder / f"{clip.stem}-{fps:.0f}fps{clip.suffix}"
    copy.write_bytes(data)
    if abs(_fps(copy) / fps - 1) > 0.05:
        raise ValueError(f"{copy}: states {_fps(copy):g} frames a second, expected {fps:g}")
    return copy


def describe(clip: Path) -> str:
    """Its name, size and codec, for a table to say what was played."""
    capture = cv2.VideoCapture(str(clip))
    width, height, code = (
        int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FOURCC)
    )
    capture.release()
    return f"{clip.name}, {width}x{height}, {code.to_bytes(4, 'little').decode('latin-1').strip()}"


def _fps(clip: Path) -> float:
    capture = cv2.VideoCapture(str(clip))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return fps
