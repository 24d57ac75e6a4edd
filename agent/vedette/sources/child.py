"""A program that writes frames to a pipe: its bytes, what it says of them, and its last words."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import termios
import time
import weakref
from pathlib import Path
from typing import Final

from vedette.contract.errors import SourceError, SourceLostError, SourceStalledError
from vedette.contract.types import UInt8Array

from .pipes import PIPE_BYTES, widen
from .process_group import end_group, exit_of, signal_group

STOP_S: Final = 0.5  # from asking it to end to ending it
TAIL_BYTES: Final = 4096  # of what it says, that are kept


class CameraChild:
    """A running program and three pipes: frames on its stdout, a line for each on ``--save-pts``, and its stderr.

    Owned by one thread. The program has a process group of its own, which ends with it: by `close`, or with this
    process. ``written_frames``: how many frames it says it has written.
    """

    def __init__(self, program: str, arguments: list[str], where: str) -> None:
        """Raises `SourceLostError` where it cannot be started."""
        self._name = Path(program).name
        self._where = where
        self.written_frames = 0
        self._ahead = bytearray()  # read while the frames' size was not known
        self._last_words = b""
        self._line = b""  # the beginning of one
        self._lines, writing_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [program, *arguments, "--save-pts", f"/dev/fd/{writing_end}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(writing_end,),
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            os.close(self._lines)
            raise SourceLostError(
                f"{self._name} cannot be started", where=where, found=error.strerror or str(error)
            ) from None
        finally:
            os.close(writing_end)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._frames, self._errors = self._process.stdout.fileno(), self._process.stderr.fileno()
        widen(self._frames, self._name)
        self._poll = select.poll()
        for descriptor in (self._frames, self._errors, self._lines):
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)
        self._end = weakref.finalize(self, end_group, self._process)

    def fill(self, buffer: UInt8Array, deadline_s: float) -> None:
        """Reads until the buffer, (n,) uint8, is full. ``deadline_s``: of time.monotonic.

        Raises `SourceStalledError` at the deadline, `SourceLostError` when the program has ended.
        """
        done = min(len(buffer), len(self._ahead))
        with buffer.data as view:
            view[:done] = self._ahead[:done]
            del self._ahead[:done]
            while done < len(view):
                if self._frames in self._wait(deadline_s):
                    done += self._read(view[done:])

    def gather(self, frames: int, most_bytes: int, deadline_s: float) -> int:
        """Reads ahead until the program says that so many frames were written; how many bytes have come by then.

        Raises as `fill` does, and `SourceError` where more than ``most_bytes`` come without a word.
        """
        buffer = bytearray(PIPE_BYTES)
        while True:
            # a line comes after its frame: what lies in the pipe once it was heard includes that frame
            self._drain(buffer)
            if self.written_frames >= frames:
                return len(self._ahead)
            if len(self._ahead) > most_bytes:
                raise SourceError(
                    f"{self._name} does not say when a frame is whole", where=self._where, found="nothing by --save-pts",
                    fix="give stride: how many bytes a row of pixels has",
                )  # fmt: skip
            ended = self._frames in self._wait(deadline_s) and not self.waiting_bytes()
            if ended and self.written_frames < frames:  # else what has come is whole, although it was the last
                raise self._ended()

    def waiting_bytes(self) -> int:
        """How much lies in the pipe."""
        size = array.array("i", [0])
        fcntl.ioctl(self._frames, termios.FIONREAD, size)
        return size[0]

    def close(self) -> None:
        """Ends the program and its process group. Calling it again does nothing."""
        if not self._end.alive:
            return
        signal_group(self._process, signal.SIGINT)  # rpicam-vid then lets go of the camera in good order
        try:
            exit_of(self._process, STOP_S)
        finally:  # with no descriptor left to wait with, it ends at once; so it does where this process ends meanwhile
            self._end()
            os.close(self._lines)

    def _wait(self, deadline_s: float) -> set[int]:
        """Until there is something to read: which pipes. Lines and last words are taken on the way."""
        left_ms = (deadline_s - time.monotonic()) * 1000
        ready = {descriptor for descriptor, _ in self._poll.poll(max(0.0, left_ms))}
        if not ready or left_ms < 0:
            raise SourceStalledError(f"{self._name}: no frame in time", where=self._where, found=self._said())
        if self._errors in ready:
            self._last_words = (self._last_words + self._take(self._errors))[-TAIL_BYTES:]
        if self._lines in ready:
            *whole, rest = (self._line + self._take(self._lines)).split(b"\n")
            self.written_frames += sum(not line.startswith(b"#") for line in whole)
            self._line = rest[-TAIL_BYTES:]
        return ready

    def _read(self, view: memoryview) -> int:
        try:
            count = os.readv(self._frames, [view])
        except BlockingIOError:
            return 0
        if count == 0:
            raise self._ended()
        return count

    def _drain(self, buffer: bytearray) -> None:
        """Everything that lies in the pipe now, to `_ahead`."""
        left = self.waiting_bytes()
        with memoryview(buffer) as view:
            while left > 0:
                count = self._read(view[:left])
                self._ahead += view[:count]
                left -= count

    def _take(self, descriptor: int) -> bytes:
        """What there is to read, at most some; a pipe that has ended is not looked at again."""
        try:
            text = os.read(descriptor, TAIL_BYTES)
        except BlockingIOError:
            return b""
        if not text:
            with contextlib.suppress(KeyError):
                self._poll.unregister(descriptor)
        return text

    def _said(self) -> str:
        """The last line on stderr."""
        lines = self._last_words.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _ended(self) -> SourceLostError:
        left = exit_of(self._process, STOP_S)
        while text := self._take(self._errors):
            self._last_words = (self._last_words + text)[-TAIL_BYTES:]
        if left is None:
            how = "has closed its output"
        else:
            how = f"ended with {left}" if left.startswith("exit") else f"was ended by {left}"
        return SourceLostError(f"{self._name} {how}", where=self._where, found=self._said())
