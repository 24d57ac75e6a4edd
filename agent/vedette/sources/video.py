"""A video file: at its own pace or flat out, once or again and again."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

import cv2

from vedette.contract.errors import SourceError
from vedette.contract.image import refuse_name
from vedette.contract.types import UInt8Array

from .base import Reading
from .capture import open_capture, retrieve
from .interlaced import REFUSED, may_be_interlaced, no_pictures
from .pace import Pace
from .registry import SourceOptions

log = logging.getLogger(__name__)

MAX_BROKEN: Final = 250
"""Packets in a row that cannot be decoded and are passed over, 10 s of most videos; OpenCV says of them what it says at the
end."""
_FPS_RANGE: Final = (0.01, 1000.0)  # what a container may claim; outside it, it is taken to know nothing
_DEFAULT_FPS: Final = 25.0


class VideoFileSource:
    """See `vedette.sources.base.Source`."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._options = options
        self._capture: cv2.VideoCapture | None = None
        self._pace = Pace(0.0)
        self._read_since_start = 0
        self._decoding_ns = 0  # of the last frame
        self._undecodable = 0
        self._said = False  # of this opening, that there is something that cannot be decoded

    @property
    def live(self) -> bool:
        """At its own pace a file behaves as a camera does."""
        return self._options.pace == "native"

    @property
    def endless(self) -> bool:
        """A file has an end."""
        return False

    @property
    def undecodable(self) -> int:
        """See `Flawed.undecodable`."""
        return self._undecodable

    def open(self) -> None:
        """Raises `SourceError` when the file is missing or no video, or OpenCV makes no pictures of it;
        `PictureError` for a name that OpenCV cannot be told."""
        try:
            if not self._path.is_file():
                raise SourceError(
                    "neither a file nor a folder" if self._path.exists() else "no such file",
                    where=self._path, fix="give a video file, a folder of pictures, or a URL",
                )  # fmt: skip
            self._path.open("rb").close()  # FFmpeg would not say why it cannot
        except OSError as error:
            raise SourceError("cannot be opened", where=self._path, found=error.strerror or str(error)) from None
        refuse_name(self._path)
        capture = self._open()
        if may_be_interlaced(capture):
            refused = no_pictures(capture)
            capture.release()
            if refused:
                raise SourceError(where=self._path, **REFUSED)
            capture = self._open()  # from its first frame on
        fps = capture.get(cv2.CAP_PROP_FPS)
        if not _FPS_RANGE[0] <= fps <= _FPS_RANGE[1]:
            fps = _DEFAULT_FPS
        self._pace = Pace(1.0 / fps, held=self.live)
        self._capture = capture
        self._read_since_start = 0
        self._said = False

    def _open(self) -> cv2.VideoCapture:
        capture = open_capture(str(self._path))
        if capture is None:
            raise SourceError("no video that FFmpeg can read", where=self._path)
        return capture

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`."""
        return self.picture(into) if self.pass_over() else None

    def pass_over(self) -> bool:
        """See `Passing.pass_over`. The frame is decoded, for later ones build upon it, but not made BGR."""
        begun = time.perf_counter_ns()
        if not self._grab():
            return False
        self._decoding_ns = time.perf_counter_ns() - begun
        self._read_since_start += 1
        assert self._capture is not None
        self._pace.wait(int(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6))
        return True

    def picture(self, into: UInt8Array | None) -> Reading | None:
        """See `Passing.picture`."""
        assert self._capture is not None
        while True:
            begun = time.perf_counter_ns()
            pixels = retrieve(self._capture, into)
            if pixels is not None:
                media_ns = None if self.live else self._pace.elapsed_ns
                return Reading(pixels, self._decoding_ns + time.perf_counter_ns() - begun, media_ns)
            self._read_since_start -= 1
            self._passed_over(1)
            if not self.pass_over():
                return None

    def _grab(self) -> bool:
        """The next frame is decoded; False at the end. Raises `SourceError` where there was none before it."""
        assert self._capture is not None
        if not self._decoded():
            if self._read_since_start == 0:
                codec = (
                    (int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
                )
                raise SourceError(
                    "not one frame could be decoded", where=self._path, expected="a codec that OpenCV was built with",
                    found=repr(codec), fix="convert it to H.264, say",
                )  # fmt: skip
            if not self._options.loop:
                return False
            self._read_since_start = 0
            # seeking to the first frame, a key frame, is cheaper than opening; not every container can be sought in
            if not (self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0) and self._decoded()):
                self._capture.release()
                self._capture = open_capture(str(self._path))
                if self._capture is None or not self._decoded():
                    raise SourceError("cannot be read again from its start", where=self._path)
        return True

    def _decoded(self) -> bool:
        """Comes to the next frame that can be decoded; False at the end."""
        assert self._capture is not None
        for broken in range(MAX_BROKEN + 1):
            if self._capture.grab():
                if broken:
                    self._passed_over(broken)
                return True
        return False

    def _passed_over(self, count: int) -> None:
        self._undecodable += count
        if not self._said:
            self._said = True
            log.warning("%s: a frame cannot be decoded; it and others like it are passed over and counted", self._path)

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
