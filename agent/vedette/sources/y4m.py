"""``exec:COMMAND`` for a network that takes pictures: a program that writes YUV4MPEG2 on its standard output.

That is how a decoder in hardware is used, or a camera that only its maker's program reads: ffmpeg (``-f yuv4mpegpipe``),
GStreamer (``y4menc``) and others write it. A line says what the stream is (y4m(5) of mjpegtools)::

    YUV4MPEG2 W640 H360 F5:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL

and ``FRAME`` and a line's end stand before each frame's planes, Y, Cb and Cr, 8 bits each. Frames are taken as planes: a
network's input is made of them directly.
"""

from __future__ import annotations

import os
import re
import select
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from vedette.contract.errors import SourceError, SourceLostError, SourceStalledError
from vedette.contract.image import MAX_PIXELS, MIN_SIDE
from vedette.contract.types import Planes, UInt8Array

from .base import Reading
from .buffers import Buffers
from .registry import SourceOptions
from .running import Complaints, RunningProgram, parse_command

MAGIC: Final = b"YUV4MPEG2"
MAX_LINE: Final = 1024  # bytes of a header
_FRAME: Final = b"FRAME\n"
_HINT: Final = "ffmpeg writes what is wanted with: -pix_fmt yuv420p -f yuv4mpegpipe -"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a stream's header says. ``grey``: there is no colour."""

    width: int
    height: int
    full_range: bool
    grey: bool

    @property
    def size_bytes(self) -> int:
        """Of a frame, without its line."""
        pixels = self.width * self.height
        return pixels if self.grey else pixels * 3 // 2

    def planes(self, raw: UInt8Array) -> Planes:
        """``raw``: (size_bytes,) uint8. Views of it."""
        width, height = self.width, self.height
        luma = raw[: width * height].reshape(height, width)
        if self.grey:
            none = np.broadcast_to(np.uint8(128), (height // 2, width // 2))
            return Planes(luma, none, none, self.full_range)
        blue, red = raw[width * height :].reshape(2, height // 2, width // 2)
        return Planes(luma, blue, red, self.full_range)


def read_header(line: bytes, where: str) -> Layout:
    """``line``: without its end. Raises `SourceError` for what is no YUV4MPEG2, or of a kind that is not read."""
    magic, *fields = line.decode("latin-1").split(" ")
    if magic != MAGIC.decode():
        raise SourceError("no YUV4MPEG2", where=where, found=repr(line[:32].decode("latin-1")), fix=_HINT)
    said = {field[:1]: field[1:] for field in fields if field and field[0] != "X"}
    extra = [field[1:] for field in fields if field.startswith("X")]
    sides = [said.get(side, "") for side in "WH"]
    if not all(re.fullmatch(r"[0-9]{1,5}", side) for side in sides):
        raise SourceError("a YUV4MPEG2 stream without a size", where=where, found=repr(line.decode("latin-1")))
    width, height = map(int, sides)
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS or width % 2 or height % 2:
        raise SourceError(
            "a size that cannot be", where=where, found=f"{width}x{height}",
            expected=f"even sides, {MIN_SIDE}x{MIN_SIDE} pixels to {MAX_PIXELS // 1_000_000} megapixels",
            fix="have the program scale it, as ffmpeg does with -vf scale=640:360",
        )  # fmt: skip
    kind = said.get("C", "420jpeg")
    if kind not in ("420", "420jpeg", "420mpeg2", "420paldv", "mono"):
        raise SourceError(
            "a pixel format that is not read", where=where, expected="4:2:0 or mono, of 8 bits", found=kind, fix=_HINT
        )
    if said.get("I", "p") not in ("p", "?"):
        raise SourceError(
            "interlaced video", where=where, expected="progressive video", found=f"I{said['I']}",
            fix="have the program deinterlace it, as ffmpeg does with -vf yadif",
        )  # fmt: skip
    return Layout(width, height, "COLORRANGE=FULL" in extra, kind == "mono")


class FrameProgramSource:
    """See `vedette.sources.base.Source`. Live: the program's frames come when they come."""

    def __init__(self, options: SourceOptions) -> None:
        """Raises `SourceError` for a command that is none."""
        self._command = parse_command(options.url.partition(":")[2])
        self._options = options
        self._complaints = Complaints(self._command[0])
        self._program: RunningProgram | None = None
        self._poll = select.poll()
        self._layout: Layout | None = None
        self._buffers = Buffers()
        self._raw = np.empty(0, np.uint8)
        self._came_ns = 0  # when the last frame began to come
        self._wait_s = 0.0  # for the next one, or before it for the header

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A program that ends is a loss."""
        return True

    def open(self) -> None:
        """Raises `SourceError` where there is no such program."""
        self._layout = None
        self._program = RunningProgram(self._command, self._complaints)
        self._poll = select.poll()
        for descriptor in (self._program.out, self._program.err):
            self._poll.register(descriptor, select.POLLIN)

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`. ``capture_ns`` counts from the frame's first byte."""
        self.pass_over()
        return self.picture(into)

    def picture(self, into: UInt8Array | None) -> Reading | None:
        """See `Passing.picture`. Planes, of which nothing is copied."""
        assert self._layout is not None
        return Reading(self._layout.planes(self._raw), time.perf_counter_ns() - self._came_ns)

    def pass_over(self) -> bool:
        """See `Passing.pass_over`. The planes are read into memory that nobody holds."""
        self._wait_s = self._options.read_timeout_s
        if self._layout is None:
            self._wait_s = max(self._wait_s, self._options.open_timeout_s)
            self._layout = read_header(self._line(b"", time.monotonic() + self._wait_s), self._command[0])
        deadline_s = time.monotonic() + self._wait_s
        head = np.empty(len(_FRAME), np.uint8)
        self._fill(head, deadline_s, first=True)
        if (begun := head.tobytes()) != _FRAME:
            if not begun.startswith(b"FRAME "):
                raise SourceLostError(
                    "the stream is out of step",
                    where=self._command[0],
                    expected="FRAME",
                    found=repr(begun.decode("latin-1")),
                )
            self._line(begun, deadline_s)
        self._fill(self._memory(self._layout.size_bytes), deadline_s)
        return True

    def close(self) -> None:
        """See `Source.close`. Ends the program and whatever it has started."""
        program, self._program = self._program, None
        if program is not None:
            program.close()

    def _memory(self, size_bytes: int) -> UInt8Array:
        """For the next frame, from now on ``self._raw``."""
        self._raw = np.empty(0, np.uint8)  # the last one, which may be free
        self._raw = self._buffers.sized(size_bytes)
        return self._raw

    def _line(self, begun: bytes, deadline_s: float) -> bytes:
        """Up to its end, byte by byte, for a frame follows. Raises as `_fill` does, and `SourceError` for none."""
        line, byte = bytearray(begun), np.empty(1, np.uint8)
        while not line.endswith(b"\n"):
            if len(line) >= MAX_LINE:
                raise SourceError(
                    "no YUV4MPEG2", where=self._command[0], fix=_HINT,
                    found=f"{MAX_LINE} bytes without a line's end, that begin with {line[:16].decode('latin-1')!r}",
                )  # fmt: skip
            self._fill(byte, deadline_s)
            line += byte.tobytes()
        return bytes(line[:-1])

    def _fill(self, buffer: UInt8Array, deadline_s: float, *, first: bool = False) -> None:
        """Reads until the buffer, (n,) uint8, is full. ``first``: it begins a frame.

        Raises `SourceStalledError` at the deadline, of time.monotonic, `SourceLostError` when the program has ended.
        """
        program = self._program
        assert program is not None
        done = 0
        view = buffer.data
        while done < len(view):
            left_ms = (deadline_s - time.monotonic()) * 1000
            ready = {descriptor for descriptor, _ in self._poll.poll(max(0.0, left_ms))}
            if not ready or left_ms < 0:
                raise SourceStalledError(
                    "no frame in time", where=self._command[0],
                    found=f"none that is whole for {self._wait_s:g} s" + program.last_words,
                    fix="raise stall_timeout_s where a frame takes longer",
                )  # fmt: skip
            if (err := program.err) in ready:
                program.hear_complaints()
                if program.err < 0:
                    self._poll.unregister(err)
            if program.out not in ready:
                continue
            count = os.readv(program.out, [view[done:]])
            if count == 0:
                raise SourceLostError("the program ended", where=self._command[0], found=program.end())
            if first and not done:
                self._came_ns = time.perf_counter_ns()
            done += count
