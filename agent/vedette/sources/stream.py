"""Network cameras: ``rtsp://`` (over TCP unless told otherwise) and ``http://`` with MJPEG."""

from __future__ import annotations

import time
from typing import Final

import cv2

from vedette.contract.errors import SourceLostError, SourceStalledError, UndecodableError
from vedette.contract.jpeg import decode
from vedette.contract.types import UInt8Array

from .answer import ask, why_no_stream
from .base import Reading
from .capture import open_capture, retrieve
from .interlaced import REFUSED, may_be_interlaced, no_pictures
from .jpeg_frames import jpeg_frame
from .registry import SourceOptions, masked_url

ANSWER_S: Final = 2.5
"""For a connection, and for the first byte. Linux asks a host that is silent again after 1, 3 and 7 s: two short tries find
a camera that is back sooner than a long one does."""
MAX_OLD: Final = 500  # frames that a camera's server may have kept for whoever comes
WAITED_S: Final = 0.002
MAX_BROKEN: Final = 250  # frames in a row that are no JPEG though they should be, 10 s of most streams


class StreamSource:
    """See `vedette.sources.base.Source`. Live: the camera goes on without us.

    OpenCV opens one stream at a time in the whole process: a camera that takes connections and says nothing would keep all
    others waiting. So who may be silent is first asked for any answer at all. An HTTP camera is, once it was silent: there
    are some that serve one connection and no other after it.

    A stream of JPEG is not decoded by FFmpeg, but by whoever looks at a frame; but for one whose first frame is not to be
    decoded alone (two fields of an interlaced picture, a JPEG without its end).
    """

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._capture: cv2.VideoCapture | None = None
        self._rtsp = options.url.lower().startswith("rtsp")
        self._was_silent = False
        self._ahead = False  # a frame is grabbed that nobody has asked for yet
        self._grabbed = 0  # since it was opened
        self._jpeg = False
        self._no_jpeg = False  # but what FFmpeg has to decode
        self._undecodable = 0

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A camera's end is a loss."""
        return True

    @property
    def undecodable(self) -> int:
        """See `Flawed.undecodable`."""
        return self._undecodable

    def open(self) -> None:
        """Raises `SourceLostError`: a camera that is not there may be there later, one of interlaced video may be set
        otherwise."""
        options = self._options
        self._ahead = False
        self._grabbed = 0
        if self._rtsp or self._was_silent:
            ask(options.url, min(ANSWER_S, options.open_timeout_s))
            self._was_silent = False
        # nobody wants to know the frame rate, which takes twenty frames to find out. FFmpeg may keep what it has looked at
        # (no nobuffer): it begins with a key frame, without which there is no picture until the next one, seconds later
        ffmpeg = "flags;low_delay|fpsprobesize;0"
        if self._rtsp:
            ffmpeg += f"|rtsp_transport;{options.rtsp_transport}"
        begun = time.monotonic()
        self._capture = open_capture(
            options.url,
            ffmpeg_options=ffmpeg,
            open_timeout_s=options.open_timeout_s,
            read_timeout_s=options.read_timeout_s,
        )
        if self._capture is None:
            self._was_silent = time.monotonic() - begun >= ANSWER_S
            why = why_no_stream(options.url, min(ANSWER_S, options.open_timeout_s))
            raise SourceLostError("cannot be opened", where=masked_url(options.url), found=why.found, fix=why.fix)
        if may_be_interlaced(self._capture) and no_pictures(self._capture):
            raise SourceLostError(where=masked_url(options.url), **REFUSED)
        self._jpeg = not self._no_jpeg and _is_jpeg(self._capture)
        if self._jpeg:
            self._grab()
            self._ahead = True
            if not _is_whole(self._capture):
                self._no_jpeg = True
                self.close()
                self.open()
                return
        if self._rtsp:
            self._catch_up()

    def _catch_up(self) -> None:
        """Decodes what has come while FFmpeg looked at the stream, which is up to a second old. The frame that is grabbed
        in the end is the first one that had to be waited for."""
        for _ in range(MAX_OLD):
            begun, worked = time.monotonic(), time.thread_time()
            self._grab()
            # decoding is work of this thread, waiting for the camera is none
            if time.monotonic() - begun - (time.thread_time() - worked) >= WAITED_S:
                break
        self._ahead = True

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`."""
        self.pass_over()
        return self.picture(into)

    def picture(self, into: UInt8Array | None) -> Reading | None:
        """See `Passing.picture`."""
        assert self._capture is not None
        for _ in range(MAX_BROKEN if self._jpeg else 1):
            grabbed_ns = time.perf_counter_ns()
            pixels = jpeg_frame(self._capture) if self._jpeg else retrieve(self._capture, into)
            if pixels is not None:
                return Reading(pixels, time.perf_counter_ns() - grabbed_ns)
            if self._jpeg:
                self._undecodable += 1
                self.pass_over()
        raise SourceLostError("a frame could not be decoded", where=masked_url(self._options.url))

    def pass_over(self) -> bool:
        """See `Passing.pass_over`. What is no JPEG is decoded, for later ones build upon it, but not made BGR."""
        if not self._ahead:
            self._grab()
        self._ahead = False
        return True

    def _grab(self) -> None:
        """The next frame, decoded where it is no JPEG. Raises `SourceLostError`, `SourceStalledError`."""
        assert self._capture is not None
        begun = time.monotonic()
        grabbed = self._capture.grab()
        waited_s, timeout_s = time.monotonic() - begun, self._options.read_timeout_s
        # what comes out when the time is up is what the decoder had still in it
        if waited_s >= timeout_s * (1.0 if grabbed else 0.9):
            self._was_silent = True
            raise SourceStalledError(f"no frame for {timeout_s:g} s", where=masked_url(self._options.url))
        if not grabbed:
            frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # below 0 of a stream
            if frames > 0 and self._grabbed in (0, frames):
                found = "a picture" if frames == 1 else f"a file of {frames:.0f} frames"
                raise SourceLostError(
                    "no stream", where=masked_url(self._options.url), found=found,
                    fix="give the path of the camera's stream; a file is read where it lies on this computer",
                )  # fmt: skip
            raise SourceLostError("the stream broke off", where=masked_url(self._options.url))
        self._grabbed += 1

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def _is_jpeg(capture: cv2.VideoCapture) -> bool:
    """Whether each frame is one; it is handed out as it is from then on."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    return code == cv2.VideoWriter.fourcc(*"MJPG") and bool(capture.set(cv2.CAP_PROP_FORMAT, -1))


def _is_whole(capture: cv2.VideoCapture) -> bool:
    """Whether the grabbed frame is a JPEG that is decoded to what FFmpeg says the stream shows."""
    jpeg = jpeg_frame(capture)
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if jpeg is None or (jpeg.width, jpeg.height) != (width, height):
        return False
    try:
        decode(jpeg, 8)
    except UndecodableError:
        return False
    return True
