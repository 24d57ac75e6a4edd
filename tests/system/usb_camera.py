"""A USB camera that is a program: the kernel's own driver for such cameras (uvcvideo) meets it as it meets any other.

The kernel's module vhci-hcd is a host controller whose cables are sockets: what is at their other end answers as a USB
device by the protocol USB/IP (the kernel's Documentation/usb/usbip_protocol.rst). Here that is a camera of the USB Video
Class 1.1, with JPEG (MJPG) and YUYV in two sizes. It streams in bulk: a camera that has no frame leaves the host waiting,
which costs a slow guest nothing; most cameras are isochronous, of which who reads the camera sees nothing.

The kernel's gadget driver for cameras (usb_f_uvc) is isochronous only, and its virtual device controller (dummy_hcd) has
no isochronous transfers.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from vedette.contract.types import UInt8Array

MODULES: Final = ["uvcvideo", "vhci-hcd"]
NAME: Final = "Vedette Test Camera"
SIZES: Final = ((640, 480), (320, 240))
RATES: Final = (30, 20, 10, 5)  # frames a second
_BITS: Final = 16  # of a frame's number, of which a picture shows each as a bar

# USB/IP
_SUBMIT, _UNLINK, _SUBMITTED, _UNLINKED = 1, 2, 3, 4
_HEADER: Final = struct.Struct(">5I28s")  # command, number, device, whether to the host, endpoint
_REQUEST: Final = struct.Struct(">Iiiii8s")  # flags, length, 3 of isochronous ones, setup
_RESULT: Final = struct.Struct(">4I4xii20x")  # as the header, status, length
_CONTROLLER: Final = Path("/sys/devices/platform/vhci_hcd.0")
_PORT: Final = 0
_HIGH_SPEED: Final = 3

# Universal Serial Bus 2.0, chapter 9; USB Video Class 1.1
_SETUP: Final = struct.Struct("<BBHHH")  # type, request, value, index, length
_DEVICE, _CONFIGURATION, _STRING = 1, 2, 3
_CLASS_INTERFACE: Final = 0x24
_ENDPOINT: Final = 0x81
_TO_HOST: Final = 0x80
_GET_STATUS, _CLEAR_FEATURE, _GET_DESCRIPTOR, _SET_CONFIGURATION, _SET_INTERFACE = 0, 1, 6, 9, 11
_SET_CUR, _GET_LEN, _GET_INFO = 0x01, 0x85, 0x86
_PROBE, _COMMIT = 1, 2
_CLASS_IN, _CLASS_OUT = 0xA1, 0x21
# hint, format, frame, interval in 100 ns, 5 of compression, bytes a frame, bytes a payload, clock, framing, 3 versions
_CONTROL: Final = struct.Struct("<HBBI5HIIIBBBB")
_PAYLOAD_BYTES: Final = 16384  # at most, with its header; as much as uvcvideo asks for at once
_END_OF_HEADER, _END_OF_FRAME = 0x80, 0x02
_YUYV_GUID: Final = b"YUY2\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
_INTERVALS: Final = [10_000_000 // rate for rate in RATES]


def _descriptor(kind: int, content: bytes) -> bytes:
    return bytes([len(content) + 2, kind]) + content


def _of_class(subtype: int, content: bytes) -> bytes:
    return _descriptor(_CLASS_INTERFACE, bytes([subtype]) + content)


def _frames(subtype: int) -> bytes:
    """The sizes, and the rates of each."""
    return b"".join(
        _of_class(
            subtype,
            struct.pack("<BBHHIIII", number, 0, width, height, 1, 1, width * height * 2, _INTERVALS[0])
            + struct.pack(f"<B{len(RATES)}I", len(RATES), *_INTERVALS),
        )
        for number, (width, height) in enumerate(SIZES, 1)
    )


def _descriptors() -> dict[int, bytes]:
    """By its type, what the device is."""
    device = _descriptor(_DEVICE, struct.pack("<HBBBBHHHBBBB", 0x200, 0xEF, 2, 1, 64, 0x1D6B, 0x0102, 1, 1, 2, 0, 1))
    camera = _of_class(0x02, struct.pack("<BHBBHHHB", 1, 0x0201, 0, 0, 0, 0, 0, 0))
    to_host = _of_class(0x03, struct.pack("<BHBBB", 2, 0x0101, 0, 1, 0))
    control = _of_class(0x01, struct.pack("<HHIBB", 0x110, 13 + len(camera + to_host), 48_000_000, 1, 1))
    formats = (
        _of_class(0x06, struct.pack("<BBBBBBBB", 1, len(SIZES), 1, 1, 0, 0, 0, 0))
        + _frames(0x07)
        + _of_class(0x04, struct.pack("<BB16sBBBBBB", 2, len(SIZES), _YUYV_GUID, 16, 1, 0, 0, 0, 0))
        + _frames(0x05)
    )
    stream = _of_class(0x01, struct.pack("<BHBBBBBBBBB", 2, 15 + len(formats), _ENDPOINT, 0, 2, 0, 0, 0, 1, 0, 0))
    content = (
        _descriptor(0x0B, bytes([0, 2, 0x0E, 3, 0, 0]))  # both interfaces are one camera
        + _descriptor(0x04, bytes([0, 0, 0, 0x0E, 1, 0, 0]))
        + control + camera + to_host
        + _descriptor(0x04, bytes([1, 0, 1, 0x0E, 2, 0, 0]))
        + stream + formats
        + _descriptor(0x05, struct.pack("<BBHB", _ENDPOINT, 2, 512, 0))  # bulk
    )  # fmt: skip
    whole = _descriptor(_CONFIGURATION, struct.pack("<HBBBBB", 9 + len(content), 2, 1, 0, 0x80, 250)) + content
    return {_DEVICE: device, _CONFIGURATION: whole}


def picture(number: int, width: int, height: int) -> UInt8Array:
    """(height, width, 3) uint8 BGR: the bits of its number, 0 black and 1 white, above colours."""
    shown = np.empty((height, width, 3), np.uint8)
    bits = np.array([number >> bit & 1 for bit in range(_BITS)], np.uint8) * 255
    shown[: height // 2] = np.repeat(bits, width // _BITS)[:, None]
    shown[height // 2 :] = np.linspace(0, 255, width, dtype=np.uint8)[:, None] // np.array([1, 2, 4], np.uint8)
    return shown


def number_of(pixels: UInt8Array) -> int:
    """Which one a picture in BGR is."""
    height, width = pixels.shape[:2]
    middles = pixels[height // 4, width // _BITS // 2 :: width // _BITS, 1] > 127
    return sum(int(bit) << place for place, bit in enumerate(middles))


@dataclass
class _Mode:
    """What the host has asked for: numbers of descriptors, from 1, and 100 ns."""

    format: int = 1
    frame: int = 1
    interval: int = _INTERVALS[0]

    def packed(self) -> bytes:
        width, height = SIZES[self.frame - 1]
        return _CONTROL.pack(
            1, self.format, self.frame, self.interval, 0, 0, 0, 0, 0, width * height * 2, _PAYLOAD_BYTES, 48_000_000,
            3, 0, 0, 0,
        )  # fmt: skip

    @staticmethod
    def nearest(asked: bytes) -> _Mode:
        """That it has to what is asked for."""
        _, kind, frame, interval, *_ = _CONTROL.unpack(asked)
        return _Mode(
            kind if kind in (1, 2) else 1,
            frame if 1 <= frame <= len(SIZES) else 1,
            min(_INTERVALS, key=lambda known: abs(known - interval)),
        )


class UsbCamera:
    """Numbers its frames from 0 as it begins to stream. A thread of its own is the device.

    ``sent``: the coded frames by their numbers. ``refuses``: whether it does not begin to stream. ``left_out``: bytes at the
    end of each JPEG.
    """

    def __init__(self) -> None:
        self.sent: dict[int, bytes] = {}
        self.refuses = False
        self.left_out = 0
        self._lock = threading.Lock()
        self._left: int | None = None
        self._instead: deque[bytes] = deque()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._descriptors = _descriptors()
        self._mode = _Mode()
        self._streams = False
        self._number = 0
        self._parity = 0  # by which the host tells one frame from the next
        self._due_s = 0.0
        self._waiting: deque[tuple[int, int]] = deque()  # requests for video that were not answered: number, length
        self._payloads: deque[bytes] = deque()  # of the frame that is being sent

    @property
    def rate(self) -> float:
        """Frames a second, as the host has asked for."""
        return 1e7 / self._mode.interval

    def send(self, frames: int | None) -> None:
        """So many more and then none, or all again. As soon as this returns, all others are in ``sent``."""
        with self._lock:
            self._left = frames

    def send_instead(self, *frames: bytes) -> None:
        """Each in the place of one picture; nothing that was to be sent so before."""
        self._instead = deque(frames)

    @staticmethod
    def devices() -> list[Path]:
        """What the kernel has made of it: the device that captures, and one of what comes beside the pictures."""
        found = []
        for node in Path("/sys/class/video4linux").iterdir():
            with contextlib.suppress(OSError):  # it is being taken away
                if NAME in (node / "name").read_text() and Path("/dev", node.name).exists():
                    found.append(((node / "index").read_text(), Path("/dev", node.name)))
        return [device for _, device in sorted(found)]

    def plug(self) -> None:
        """Until the kernel has found it."""
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._streams = False
        self.sent.clear()
        self._waiting.clear()
        self._payloads.clear()
        self._thread = threading.Thread(target=self._serve, args=(ours,), name="usb-camera")
        self._thread.start()
        deadline = time.monotonic() + 20
        with theirs:
            while True:
                try:
                    (_CONTROLLER / "attach").write_text(f"{_PORT} {theirs.fileno()} 1 {_HIGH_SPEED}")
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:  # the one before is being taken away
                        raise
                time.sleep(0.01)
        self._await_devices(2)

    def _await_devices(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.devices()) != count:
            assert time.monotonic() < deadline, f"the kernel has {self.devices()}"
            time.sleep(0.01)

    def unplug(self) -> None:
        """Pulls the cable, until the kernel has noticed."""
        assert self._socket is not None and self._thread is not None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._await_devices(0)

    def _serve(self, cable: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                wait_s = max(0.0, min(0.05, self._due_s - time.monotonic())) if self._streams else None
                if select.select([cable], [], [], wait_s)[0]:
                    self._answer(cable, _received(cable, _HEADER.size))
                if self._streams and time.monotonic() >= self._due_s:
                    self._next()
                while self._payloads and self._waiting:
                    seq, length = self._waiting.popleft()
                    payload = self._payloads.popleft()
                    assert len(payload) <= length
                    cable.sendall(_RESULT.pack(_SUBMITTED, seq, 0, 0, 0, len(payload)) + payload)

    def _answer(self, cable: socket.socket, header: bytes) -> None:
        command, seq, _, to_host, endpoint, rest = _HEADER.unpack(header)
        if command == _UNLINK:
            (unlinked,) = struct.unpack(">I", rest[:4])
            before = len(self._waiting)
            self._waiting = deque(request for request in self._waiting if request[0] != unlinked)
            status = -errno.ECONNRESET if len(self._waiting) < before else 0
            cable.sendall(_RESULT.pack(_UNLINKED, seq, 0, 0, status, 0))
            return
        _, length, _, _, _, setup = _REQUEST.unpack(rest)
        if endpoint:
            self._waiting.append((seq, length))
            return
        data = b"" if to_host else _received(cable, length)
        answer = self._control(setup, data)
        if answer is None:
            cable.sendall(_RESULT.pack(_SUBMITTED, seq, 0, 0, -errno.EPIPE, 0))
        elif to_host:
            cable.sendall(_RESULT.pack(_SUBMITTED, seq, 0, 0, 0, len(answer[:length])) + answer[:length])
        else:
            cable.sendall(_RESULT.pack(_SUBMITTED, seq, 0, 0, 0, length))

    def _control(self, setup: bytes, data: bytes) -> bytes | None:
        """What the device says to a request; None where it has no such."""
        kind, request, value, index, _ = _SETUP.unpack(setup)
        high, low = value >> 8, value & 0xFF
        if kind == _CLASS_IN and index == 1 and high in (_PROBE, _COMMIT):
            if request == _GET_INFO:
                return b"\x03"
            return struct.pack("<H", _CONTROL.size) if request == _GET_LEN else self._mode.packed()
        if kind == _CLASS_OUT and index == 1 and request == _SET_CUR and len(data) == _CONTROL.size:
            self._mode = _Mode.nearest(data)
            if high == _COMMIT:
                if self.refuses:
                    return None
                self._begin()
            return b""
        if kind == _TO_HOST and request == _GET_DESCRIPTOR:
            if high == _STRING:
                return _descriptor(_STRING, ["\u0409", "Vedette", NAME][low].encode("utf-16-le"))
            return self._descriptors.get(high)
        if kind & _TO_HOST and request == _GET_STATUS:
            return b"\0\0"
        if kind == 2 and request == _CLEAR_FEATURE:  # of the endpoint: the host takes no more
            self._streams = False
            self._payloads.clear()
            return b""
        return b"" if request in (_SET_CONFIGURATION, _SET_INTERFACE) else None

    def _begin(self) -> None:
        self._streams = True
        self._number = 0
        self.sent.clear()
        self._due_s = time.monotonic()

    def _next(self) -> None:
        """The frame that is due, unless the one before is still being sent."""
        interval_s, now = self._mode.interval / 1e7, time.monotonic()
        self._due_s = self._due_s + interval_s if now - self._due_s < interval_s else now + interval_s
        number, self._number = self._number, self._number + 1
        with self._lock:
            if self._left == 0 or self._payloads:
                return
            if self._left is not None:
                self._left -= 1
            frame = self._instead.popleft() if self._instead else self._frame(number)
            self.sent[number] = frame
        self._parity ^= 1
        for begin in range(0, len(frame), _PAYLOAD_BYTES - 2):
            part = frame[begin : begin + _PAYLOAD_BYTES - 2]
            end = _END_OF_FRAME if begin + len(part) == len(frame) else 0
            self._payloads.append(bytes([2, _END_OF_HEADER | self._parity | end]) + part)

    def _frame(self, number: int) -> bytes:
        pixels = picture(number, *SIZES[self._mode.frame - 1])
        if self._mode.format == 2:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_YUY2).tobytes()
        data = cv2.imencode(".jpg", pixels)[1].tobytes()
        return data[: len(data) - self.left_out]


def _received(cable: socket.socket, count: int) -> bytes:
    """So many bytes. Raises `ConnectionError` once the cable is pulled."""
    data = b""
    while len(data) < count:
        more = cable.recv(count - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data
