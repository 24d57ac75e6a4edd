"""Network cameras: ``rtsp://`` (over TCP unless told otherwise) and ``http://`` with MJPEG."""

from __future__ import annotations

import time

import cv2

from vedette.contract.errors import SourceLostError, SourceStalledError
from vedette.contract.types import UInt8Array

from .base import Reading
from .capture import open_capture, retrieve
from .registry import SourceOptions, masked_url


class StreamSource:
    """See `vedette.sources.base.Source`. Live: the camera goes on without us."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._capture: cv2.VideoCapture | None = None

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A camera's end is a loss."""
        return True

    def open(self) -> None:
        """Raises `SourceLostError`: a camera that is not there may be there later."""
        options = self._options
        # without buffering FFmpeg hands out each frame as it arrives, not a second later
        ffmpeg = "fflags;nobuffer|flags;low_delay"
        if options.url.lower().startswith("rtsp"):
            ffmpeg += f"|rtsp_transport;{options.rtsp_transport}"
        self._capture = open_capture(
            options.url,
            ffmpeg_options=ffmpeg,
            open_timeout_s=options.open_timeout_s,
            read_timeout_s=options.read_timeout_s,
        )
        if self._capture is None:
            raise SourceLostError("cannot be opened", where=masked_url(options.url), found="no stream there")

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`."""
        assert self._capture is not None
        waited = time.monotonic()
        if not self._capture.grab():
            where = masked_url(self._options.url)
            if time.monotonic() - waited >= self._options.read_timeout_s * 0.9:
                raise SourceStalledError(f"no frame for {self._options.read_timeout_s:g} s", where=where)
            raise SourceLostError("the stream broke off", where=where)
        begun = time.perf_counter_ns()
        pixels = retrieve(self._capture, into)
        if pixels is None:
            raise SourceLostError("a frame could not be decoded", where=masked_url(self._options.url))
        return Reading(pixels, time.perf_counter_ns() - begun)

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
