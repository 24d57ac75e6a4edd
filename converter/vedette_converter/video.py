"""Frames of a video as a folder of pictures: what calibrates a network may be what its camera filmed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from vedette.contract.errors import PictureError
from vedette.contract.image import refuse_name

VIDEOS: Final = frozenset({".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})


@contextlib.contextmanager
def frames_of(video: Path, count: int) -> Iterator[Path]:
    """A folder with ``count`` frames, or all where there are fewer, evenly spread, as PNG; gone after the block.

    Raises `PictureError` where the file is no video.
    """
    refuse_name(video)
    with tempfile.TemporaryDirectory(prefix="vedette-frames-") as folder:
        target = Path(folder) / video.stem
        target.mkdir()
        total = sum(1 for _ in _read(video, decode=False))
        if total == 0:
            raise PictureError("no video that can be decoded", where=video)
        wanted = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
        for number, frame in enumerate(_read(video, decode=True, wanted=wanted)):
            if frame is not None:
                cv2.imwrite(str(target / f"{number:06d}.png"), frame)
        yield target


def _read(video: Path, *, decode: bool, wanted: set[int] | None = None) -> Iterator[cv2.typing.MatLike | None]:
    """Frame by frame; the pixels of those wanted, None for the rest. Containers' own frame counts are often wrong."""
    capture = cv2.VideoCapture(str(video))
    try:
        number = 0
        while capture.grab():
            if decode and (wanted is None or number in wanted):
                known, frame = capture.retrieve()
                yield frame if known else None
            else:
                yield None
            number += 1
    finally:
        capture.release()
