"""CSI cameras of a Raspberry Pi through ``rpicam-vid``, raw frames on a pipe: no Python package that could clash.

``rpicam-vid --codec yuv420`` writes each frame as the hardware left it: planes Y, U and V, each row padded to an
alignment that differs between boards (64 bytes on a Pi 4, raspberrypi/linux pull request 4419; 128 on a Pi 5,
raspberrypi/picamera2 issue 1182: 704 pixels come in rows of 768), and nothing in the stream says where a frame ends. So
it is asked for its timestamps on a second pipe (``--save-pts``, ``--flush``): a line comes after each frame was written
whole. What came on the first pipe until then is one frame, and its size gives the bytes a row. A source whose ``stride``
is given believes that, and checks it against the lines.

``yuv420`` comes in the JPEG colour space (full range, ITU-R BT.601), as rpicam-apps asks libcamera for it.
"""

from __future__ import annotations

import logging
import shutil
import time
from typing import Final

import numpy as np

from vedette.contract.errors import SourceError
from vedette.contract.types import Planes, UInt8Array

from .base import Reading
from .buffers import Buffers
from .camera import camera_number, read_camera_url
from .child import CameraChild
from .registry import SourceOptions

log = logging.getLogger(__name__)

PROGRAMS: Final = ("rpicam-vid", "libcamera-vid")  # its name since Raspberry Pi OS bookworm, and before
KEYS: Final = ("width", "height", "fps", "stride")
DEFAULT_SIZE: Final = (640, 480)  # pixels
ALIGNMENT: Final = 16  # bytes; a Pi 5's smallest, so every row that is not of the bare width is a multiple of it
MAX_PADDING: Final = 512  # bytes a row
LEARNING: Final = 8  # frames after which nothing more is to be learned


class RpicamSource:
    """See `vedette.sources.base.Source`. Live: the camera goes on without us."""

    def __init__(self, options: SourceOptions) -> None:
        """``rpicam://0?width=1280&height=720&fps=30``. Raises `SourceError` for a malformed URL."""
        place, mode = read_camera_url(options, allowed=KEYS)
        self._number = camera_number(place, options.url)
        self._where = f"rpicam://{self._number}"
        self._width, self._height = (mode.width, mode.height) if mode.width else DEFAULT_SIZE
        if self._width % 2 or self._height % 2:
            raise SourceError(
                "a size that cannot be", where=options.url, expected="an even width and height",
                found=f"{self._width}x{self._height}",
            )  # fmt: skip
        if mode.stride and (mode.stride < self._width or mode.stride % 2):
            raise SourceError(
                "stride", where=options.url, expected=f"an even number of bytes from {self._width} on",
                found=str(mode.stride),
            )  # fmt: skip
        self._mode = mode
        self._options = options
        self._child: CameraChild | None = None
        self._layout: _Layout | None = None
        self._buffers = Buffers()
        self._raw = np.empty(0, np.uint8)
        self._frames = 0
        self._said = 0  # the row that was last logged

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A camera's end is a loss."""
        return True

    def open(self) -> None:
        """Starts the program. Raises `SourceError` where there is none."""
        program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
        if program is None:
            raise SourceError(
                "no rpicam-vid on the PATH", where=self._where, found="no libcamera-vid either",
                fix="sudo apt install rpicam-apps (on a desktop's Raspberry Pi OS it is there)",
            )  # fmt: skip
        self._child = CameraChild(program, self._arguments(), self._where)
        self._layout = None
        self._frames = 0

    def _arguments(self) -> list[str]:
        arguments = ["--codec", "yuv420", "--nopreview", "-t", "0", "-o", "-", "--flush"]
        arguments += ["--camera", str(self._number), "--width", str(self._width), "--height", str(self._height)]
        return [*arguments, *(("--framerate", f"{self._mode.fps:g}") if self._mode.fps else ())]

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`. ``capture_ns`` counts from the moment when the frame had come whole."""
        self.pass_over()
        return self.picture(into)

    def picture(self, into: UInt8Array | None) -> Reading | None:
        """See `Passing.picture`. Planes, of which nothing is copied."""
        assert self._layout is not None
        begun = time.perf_counter_ns()
        planes = self._layout(self._raw)
        return Reading(planes, time.perf_counter_ns() - begun)

    def pass_over(self) -> bool:
        """See `Passing.pass_over`. The planes are read into memory that nobody holds."""
        assert self._child is not None
        if self._layout is None:
            deadline_s = time.monotonic() + max(self._options.open_timeout_s, self._options.read_timeout_s)
            stride = self._mode.stride or self._learn_stride(self._child, deadline_s)
            self._layout = _Layout(self._width, self._height, stride)
        else:
            deadline_s = time.monotonic() + self._options.read_timeout_s
        self._child.fill(self._memory(self._layout.size_bytes), deadline_s)
        self._frames += 1
        self._check_size(self._child, self._layout)
        return True

    def _memory(self, size_bytes: int) -> UInt8Array:
        """For the next frame, from now on ``self._raw``."""
        self._raw = np.empty(0, np.uint8)  # the last one, which may be free
        self._raw = self._buffers.sized(size_bytes)
        return self._raw

    def close(self) -> None:
        """See `Source.close`. Ends the program and whatever it has started."""
        if self._child is not None:
            child, self._child = self._child, None
            child.close()

    def _learn_stride(self, child: CameraChild, deadline_s: float) -> int:
        """Bytes a row, from what has come when the program says that so many frames were written.

        The next frame may have begun by then, so a number is believed only where it makes a row that can be.
        """
        most = LEARNING * _size_bytes(self._width + MAX_PADDING, self._height)
        for _ in range(LEARNING):
            written = child.gather(child.written_frames + 1, most, deadline_s)
            size, rest = divmod(written, child.written_frames)
            stride, more = divmod(size * 2, self._height * 3)
            fits = stride == self._width or (stride > self._width and stride % ALIGNMENT == 0)
            if not rest and not more and fits and stride <= self._width + MAX_PADDING:
                if stride != self._said:
                    log.info("%s: rows of %d bytes for %d pixels", self._where, stride, self._width)
                self._said = stride
                return stride
        raise SourceError(
            "nobody can say how long a row is", where=self._where, found=f"{written} bytes in {child.written_frames} frames",
            fix="take a width that is a multiple of 128, and give it as stride, too",
        )  # fmt: skip

    def _check_size(self, child: CameraChild, frame: _Layout) -> None:
        """Frames of another size than thought drift away from what the program says it has written."""
        if not child.written_frames:
            return  # a program that says nothing; its stride was given
        ahead = child.waiting_bytes() // frame.size_bytes
        if not self._frames - 2 <= child.written_frames <= self._frames + ahead + 2:
            raise SourceError(
                "stride", where=self._where, expected=f"frames of {frame.size_bytes} bytes, {frame.stride} a row",
                found=f"{child.written_frames} frames written where {self._frames} were read",
                fix="leave stride out: it is found by itself",
            )  # fmt: skip


class _Layout:
    """Where the planes lie in a frame's bytes."""

    def __init__(self, width: int, height: int, stride: int) -> None:
        """``stride``: bytes a row of Y; rows of Cb and Cr are half as long. All even."""
        self.stride = stride
        self.size_bytes = _size_bytes(stride, height)
        self._width = width
        self._height = height

    def __call__(self, raw: UInt8Array) -> Planes:
        """``raw``: (size_bytes,) uint8. Views of it."""
        width, height = self._width, self._height
        luma_bytes = self.stride * height
        blue, red = raw[luma_bytes:].reshape(2, height // 2, self.stride // 2)[:, :, : width // 2]
        return Planes(raw[:luma_bytes].reshape(height, self.stride)[:, :width], blue, red)


def _size_bytes(stride: int, height: int) -> int:
    return stride * height * 3 // 2
