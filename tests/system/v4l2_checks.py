"""Checks for a guest whose kernel has made /dev/video0 with its test driver vivid: see guest_checks.py."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vedette import clock
from vedette.contract.errors import SourceError, SourceLostError, SourceStalledError, VedetteError
from vedette.sources import Grabber, Outcome, Source, SourceOptions, make_source

DEVICE = "/dev/video0"
DRIVER = Path("/sys/bus/platform/drivers/vivid")
_S_CTRL = 0xC008561C  # struct v4l2_control
_DROPPED_PERCENT = 0xF0F040  # vivid's "Percentage of Dropped Buffers"

warnings: list[str] = []


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warnings.append(record.getMessage())


@contextmanager
def opened(url: str, **options: float) -> Iterator[Source]:
    """Open, and closed at the end."""
    source = make_source(SourceOptions(url, **options))  # type: ignore[arg-type]
    try:
        source.open()
        yield source
    finally:
        source.close()


def frames(source: Source, count: int) -> list[Any]:
    """Pictures of the next ones."""
    found = []
    for _ in range(count):
        reading = source.read(None)
        assert reading is not None
        assert 0 < reading.capture_ns < 5e9, reading.capture_ns
        found.append(reading.pixels)
    return found


def refusal(kind: type[VedetteError], pattern: str, action: Callable[[], object]) -> None:
    """That an action raises so."""
    try:
        action()
    except kind as error:
        assert re.search(pattern, str(error)), str(error)
        assert type(error) is kind, type(error)
        print("   ", error)
        return
    raise AssertionError(f"no {kind.__name__}")


def open_and_close(url: str) -> None:
    """As far as a first frame."""
    with opened(url) as source:
        frames(source, 1)


def check_size_rate_and_format_as_asked() -> None:
    """What it has, it gives; and frames differ."""
    del warnings[:]
    with opened(f"v4l2://{DEVICE}?width=640&height=360&fps=25&fourcc=YUYV") as source:
        pictures = frames(source, 30)
    assert {p.shape for p in pictures} == {(360, 640, 3)}
    assert len({p.tobytes() for p in pictures}) == 30, "every frame is another one"
    assert all(40 < p.mean() < 200 and p.std() > 20 for p in pictures), "colour bars"
    assert warnings == [], warnings


def check_rate() -> None:
    """Frames come at the rate that was asked for: by the driver's stamps, not by this slow machine's work."""
    with opened(f"v4l2://{DEVICE}?width=320&height=180&fps=10") as source:
        frames(source, 2)
        begun = time.monotonic()
        frames(source, 5)
        took_s = time.monotonic() - begun
    assert took_s > 4 / 10 * 0.9, f"5 frames at 10 fps in {took_s:.2f} s"


def check_a_buffer_is_used() -> None:
    """A frame is decoded into the array that is handed in."""
    with opened(f"v4l2://{DEVICE}") as source:
        first = frames(source, 1)[0]
        before = first.tobytes()
        again = source.read(first)
        assert again is not None and again.pixels.ctypes.data == first.ctypes.data and again.pixels.tobytes() != before


def check_what_differs_is_one_warning() -> None:
    """A size, rate and format that this camera has not."""
    del warnings[:]
    source = make_source(SourceOptions(f"v4l2://{DEVICE}", width=700, height=500, fps=77.0, fourcc="MJPG"))
    for _ in range(2):
        source.open()
        assert frames(source, 1)[0].shape != (500, 700, 3)
        source.close()
    print("   ", warnings)
    assert len(warnings) == 1, "said once, though it was opened twice"
    assert re.search(
        r"^/dev/video0: asked for 700x500, 77 fps, MJPG, the camera gives \d+x\d+, [\d.]+ fps, (?!MJPG)", warnings[0]
    )


def check_stable_names() -> None:
    """A link as udev makes them in /dev/v4l/by-id."""
    link = Path("/dev/v4l/by-id/usb-Maker_Some camera-video-index0")
    link.parent.mkdir(parents=True)
    link.symlink_to("../../video0")
    open_and_close(f"v4l2://{link}".replace(" ", "%20"))


def check_what_is_no_camera() -> None:
    """Each has its own line."""
    refusal(SourceLostError, r"no such camera.*plug it in", lambda: open_and_close("v4l2:///dev/video9"))
    refusal(
        SourceError, r"/dev/null: no camera: expected a Video4Linux device", lambda: open_and_close("v4l2:///dev/null")
    )
    refusal(SourceError, r"captures video, found another node of 'vivid'", lambda: open_and_close("v4l2:///dev/video1"))


def check_busy() -> None:
    """Somebody else reads it."""
    with opened(f"v4l2://{DEVICE}") as source:
        frames(source, 1)
        refusal(
            SourceLostError, r"busy: another program reads it; fuser -v", lambda: open_and_close(f"v4l2://{DEVICE}")
        )
        frames(source, 1)


def check_permission() -> None:
    """As somebody who is not in the group; in a child, for it gives up root."""
    os.chown(DEVICE, 0, 44)
    Path(DEVICE).chmod(0o660)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            refusal(
                SourceError,
                r"permission denied; .*sudo usermod -aG video nobody",
                lambda: open_and_close(f"v4l2://{DEVICE}"),
            )
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def set_dropped(percent: int) -> None:
    """How many of its frames vivid keeps to itself."""
    with Path(DEVICE).open("rb", buffering=0) as device:
        fcntl.ioctl(device, _S_CTRL, struct.pack("=Ii", _DROPPED_PERCENT, percent))


def check_stall() -> None:
    """Open, and no frame comes."""
    with opened(f"v4l2://{DEVICE}", read_timeout_s=3.0) as source:
        frames(source, 2)
        set_dropped(100)
        try:
            refusal(SourceStalledError, r"/dev/video0: no frame for 3 s", lambda: frames(source, 20))
        finally:
            set_dropped(0)
        frames(source, 2)


def check_unplugged_and_back() -> None:
    """Through the grabber: lost, and opened again when it is there."""
    said: list[tuple[Outcome | None, str]] = []
    source = make_source(SourceOptions(f"v4l2://{DEVICE}"))
    reader = Grabber(source, name="test", stall_timeout_s=60.0, frozen_timeout_s=0.0)
    grabber = reader.tap(lambda outcome, why: said.append((outcome, why)))
    grabber.start()
    await_that(lambda: grabber.status().frames > 3)
    frame = grabber.slot.get(20)
    assert frame is not None and 0 <= clock.now_ns() - frame.captured_ns < 10e9
    (DRIVER / "unbind").write_text("vivid.0")
    await_that(lambda: grabber.status().outcome is Outcome.LOST)
    print("   ", said)
    assert said[-1][0] is Outcome.LOST and "/dev/video0" in said[-1][1]
    (DRIVER / "bind").write_text("vivid.0")
    await_that(lambda: grabber.status().outcome is None and grabber.status().reopened > 0)
    frames_then = grabber.status().frames
    await_that(lambda: grabber.status().frames > frames_then + 3)
    grabber.stop()


def await_that(condition: Callable[[], bool]) -> None:
    """At most 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def prepare() -> None:
    """Before the first check: warnings are kept."""
    logging.getLogger().addHandler(_Listener(logging.WARNING))
