"""Cameras that the kernel shows as ``/dev/video*``: USB cameras, capture cards, Video4Linux in general.

OpenCV reads them through two buffers: the driver fills one while the other is decoded. With one, a camera would lose
the frame that comes meanwhile, and run at half its rate; with more, a reader that falls behind would be handed frames
that have waited. The grabber reads without a pause, so what it hands on is the newest.

What a camera gives as JPEG is not decoded by OpenCV, but by whoever looks at it; but of a camera that leaves out the end of
each, which OpenCV shows all the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import struct
import time
from pathlib import Path
from typing import Final

import cv2

from vedette.contract.errors import SourceError, SourceLostError, SourceStalledError, UndecodableError
from vedette.contract.jpeg import decode
from vedette.contract.types import Jpeg, UInt8Array

from .base import Reading
from .camera import CameraMode, read_camera_url
from .capture import retrieve
from .jpeg_frames import jpeg_frame, raw_frame
from .registry import SourceOptions

log = logging.getLogger(__name__)

KEYS: Final = ("width", "height", "fps", "fourcc")
BUFFERS: Final = 2
JPEG: Final = ("MJPG", "JPEG")  # formats of which each frame is one
DOUBTED: Final = 3  # the first frames as JPEG, of which one at least is to be decoded
MAX_BROKEN: Final = 5  # frames in a row that cannot be decoded; a USB camera's first one often cannot
# how long the kernel may take to remove a camera that was unplugged. One that is closed just then can end in a NULL pointer
# there (Linux 6.1: media_device_unregister_entity looks for its device before it locks it): the thread never returns from
# close(2), and USB is dead until the next start
REMOVAL_S: Final = 0.5
MAX_AGE_NS: Final = 10_000_000_000  # a driver's stamp older than this, or in the future, is of another clock

# OpenCV begins to stream when it is first asked to wait, and takes two frames itself before it does; whole seconds for each
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")

# linux/videodev2.h; the numbers are those of every architecture but alpha, mips, powerpc and sparc
_QUERYCAP: Final = 0x80685600  # struct v4l2_capability, 104 bytes
_REQBUFS: Final = 0xC0145608  # struct v4l2_requestbuffers, 20 bytes
_BUF_TYPE_VIDEO_CAPTURE: Final = 1
_MEMORY_MMAP: Final = 1
_CAP_VIDEO_CAPTURE: Final = 0x00000001
_CAP_STREAMING: Final = 0x04000000
_CAP_DEVICE_CAPS: Final = 0x80000000


class V4l2Source:
    """See `vedette.sources.base.Source`. Live: the camera goes on without us."""

    def __init__(self, options: SourceOptions) -> None:
        """``v4l2:///dev/video0?width=1280&height=720&fps=30&fourcc=MJPG``. Raises `SourceError` for a malformed URL."""
        place, self._mode = read_camera_url(options, allowed=KEYS)
        if not place.startswith("/"):
            raise SourceError(
                "malformed URL", where=options.url, expected="v4l2:///dev/video0 or another absolute path",
                found=place or "no path",
            )  # fmt: skip
        self._device = Path(place)
        self._read_timeout_s = options.read_timeout_s
        self._capture: cv2.VideoCapture | None = None
        self._jpeg = False
        self._no_jpeg = False  # but what OpenCV has to decode
        self._doubted = 0  # how many more of the first frames may turn out not to be decoded
        self._begun = False  # to stream
        self._waits = False  # a frame that has come, and was not taken
        self._waited_ns = 0  # for the last frame, since the driver's stamp
        self._broken = 0  # in a row
        self._undecodable = 0
        self._difference = ""

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
        """Raises `SourceLostError` where the device is missing or busy, `SourceError` where it can never be read.

        A camera that gives another size, rate or format than it was asked for is used as it is: the difference is one
        warning, for a sentry that sees less sharply is better than a blind one.
        """
        _check(self._device)
        capture = cv2.VideoCapture(str(self._device), cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise _why_not(self._device)
        mode = self._mode
        # the format first: which sizes there are depends on it, and which rates on both
        if mode.fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*mode.fourcc))
        if mode.width:
            # OpenCV passes a size on once it has both sides
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, mode.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, mode.height)
        if mode.fps:
            capture.set(cv2.CAP_PROP_FPS, mode.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, BUFFERS)
        self._capture = capture
        self._begun = self._waits = False
        self._broken = 0
        obtained = _obtained(capture)
        self._jpeg = not self._no_jpeg and obtained.fourcc in JPEG and capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        self._doubted = DOUBTED
        difference = _difference(mode, obtained)
        if difference and difference != self._difference:
            log.warning("%s: %s", self._device, difference)
        self._difference = difference

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`. ``capture_ns`` counts from the driver's own stamp, where it gives one."""
        self.pass_over()
        return self.picture(into)

    def pass_over(self) -> bool:
        """See `Passing.pass_over`. What is no JPEG is made BGR all the same: OpenCV waits for no frame before it has been
        asked for the one that came."""
        assert self._capture is not None
        if self._waits:
            raw_frame(self._capture)
        self._waits = self._await_frame(self._capture)
        if not self._waits:
            raise SourceStalledError(f"no frame for {self._read_timeout_s:g} s", where=self._device)
        self._waited_ns = _since_stamp_ns(self._capture)
        return True

    def _await_frame(self, capture: cv2.VideoCapture) -> bool:
        """Whether one came in time."""
        until_ns = time.monotonic_ns() + int(self._read_timeout_s * 1e9)
        if not self._begun:
            self._begun = True
            # too late for `OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT`, or something is wrong: what follows says which
            with contextlib.suppress(cv2.error):
                return cv2.VideoCapture.waitAny([capture], int(self._read_timeout_s * 1e9))[0]
        try:
            return cv2.VideoCapture.waitAny([capture], max(1, until_ns - time.monotonic_ns()))[0]
        except cv2.error:
            # poll(2) says POLLERR or POLLHUP
            try:
                _check(self._device)
            except (SourceError, SourceLostError):
                time.sleep(REMOVAL_S)
                raise SourceLostError("broke off", where=self._device, found="the device is gone") from None
            raise SourceLostError(
                "does not stream", where=self._device, found="an error of its driver",
                fix="journalctl -k may say which; where cameras share a USB bus, ask for MJPG, a smaller size or fps",
            ) from None  # fmt: skip

    def picture(self, into: UInt8Array | None) -> Reading | None:
        """See `Passing.picture`. One that cannot be decoded is passed over, and counted."""
        assert self._capture is not None
        while True:
            begun = time.perf_counter_ns()
            self._waits = False
            pixels = self._jpeg_of(self._capture) if self._jpeg else retrieve(self._capture, into)
            if pixels is not None:
                self._broken = 0
                return Reading(pixels, self._waited_ns + time.perf_counter_ns() - begun)
            self._broken += 1
            self._undecodable += 1
            if self._broken == 1:
                log.warning("%s: a frame could not be decoded, and is passed over", self._device)
            if self._broken > MAX_BROKEN:
                raise SourceLostError(
                    "frames could not be decoded", where=self._device, found=f"{self._broken} in a row"
                )
            self.pass_over()

    def _jpeg_of(self, capture: cv2.VideoCapture) -> Jpeg | None:
        """The frame as it came; None where it is none, or one of the first and cannot be decoded."""
        jpeg = jpeg_frame(capture)
        if jpeg is None or not self._doubted:
            return jpeg
        try:
            decode(jpeg, 8)
        except UndecodableError:
            self._doubted -= 1
            if not self._doubted:
                log.warning(
                    "%s: %d frames cannot be decoded alone: OpenCV decodes each as it comes", self._device, DOUBTED
                )
                self._no_jpeg = True
                self._jpeg = not capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
            return None
        self._doubted = 0
        return jpeg

    def close(self) -> None:
        """See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def _since_stamp_ns(capture: cv2.VideoCapture) -> int:
    """How long ago the driver stamped the frame: CLOCK_MONOTONIC, milliseconds; 0 where it does not say."""
    age_ns = time.monotonic_ns() - int(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
    return age_ns if 0 < age_ns < MAX_AGE_NS else 0


def _check(device: Path) -> None:
    """Raises where this cannot be a camera that may be read; OpenCV says only that it is not open."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _open_error(device, error) from None
    try:
        capability = bytearray(104)
        fcntl.ioctl(descriptor, _QUERYCAP, capability)
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise SourceLostError("no such camera", where=device, found="it is being unplugged") from None
        raise SourceError("no camera", where=device, expected="a Video4Linux device", found="something else") from None
    finally:
        os.close(descriptor)
    card = bytes(capability[16:48]).split(b"\0")[0].decode(errors="replace")
    capabilities, of_node = struct.unpack("=II", capability[84:92])
    if capabilities & _CAP_DEVICE_CAPS:
        capabilities = of_node
    if not capabilities & _CAP_VIDEO_CAPTURE or not capabilities & _CAP_STREAMING:
        raise SourceError(
            "no camera", where=device, expected="a device that captures video", found=f"another node of {card!r}",
            fix="ls -l /dev/v4l/by-id names the cameras; for a CSI camera of a Raspberry Pi take rpicam://0",
        )  # fmt: skip


def _open_error(device: Path, error: OSError) -> SourceError | SourceLostError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return SourceLostError(
            "no such camera", where=device, fix="plug it in; ls -l /dev/v4l/by-id names those that are there"
        )
    if error.errno == errno.EBUSY:
        return _busy(device)
    if error.errno == errno.EACCES:
        try:
            group = grp.getgrgid(device.stat().st_gid).gr_name
            user = pwd.getpwuid(os.geteuid()).pw_name
        except (OSError, KeyError):
            group, user = "video", "USER"
        return SourceError(
            "permission denied", where=device,
            fix=f"add the user to the group {group}: sudo usermod -aG {group} {user}, then log in again",
        )  # fmt: skip
    if error.errno == errno.EPERM:
        return SourceError(
            "not permitted", where=device, fix="allow it in the service's unit: DeviceAllow=char-video4linux rw"
        )
    return SourceError("cannot be opened", where=device, found=error.strerror or str(error))


def _busy(device: Path) -> SourceLostError:
    return SourceLostError("busy: another program reads it", where=device, fix=f"fuser -v {device} names that program")


def _why_not(device: Path) -> SourceError | SourceLostError:
    """Why OpenCV could not open a device that is a camera: somebody else has its buffers, or it speaks no known format."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return _open_error(device, error)
    try:
        fcntl.ioctl(descriptor, _REQBUFS, bytearray(struct.pack("=5I", 1, _BUF_TYPE_VIDEO_CAPTURE, _MEMORY_MMAP, 0, 0)))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return _busy(device)
        return SourceLostError("cannot be opened", where=device, found=error.strerror or str(error))
    finally:
        os.close(descriptor)
    return SourceLostError("cannot be opened", where=device, found="no pixel format that OpenCV reads, or no signal")


def _obtained(capture: cv2.VideoCapture) -> CameraMode:
    """What the driver says after everything was asked for."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    return CameraMode(
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        fps=max(0.0, capture.get(cv2.CAP_PROP_FPS)),
        fourcc=code.to_bytes(4, "little").decode("latin-1"),
    )


def _difference(asked: CameraMode, obtained: CameraMode) -> str:
    """One line, or "" where the camera does what it was asked for. A driver that knows no rate says 0."""
    wanted, given = [], []
    if asked.width and (asked.width, asked.height) != (obtained.width, obtained.height):
        wanted.append(f"{asked.width}x{asked.height}")
        given.append(f"{obtained.width}x{obtained.height}")
    if asked.fps and obtained.fps and abs(asked.fps - obtained.fps) > 0.01 * asked.fps:
        wanted.append(f"{asked.fps:g} fps")
        given.append(f"{obtained.fps:g} fps")
    if asked.fourcc and asked.fourcc != obtained.fourcc:
        wanted.append(asked.fourcc)
        given.append(obtained.fourcc)
    if not wanted:
        return ""
    line = f"asked for {', '.join(wanted)}, the camera gives {', '.join(given)}"
    return f"{line}; v4l2-ctl --list-formats-ext lists what it has"
