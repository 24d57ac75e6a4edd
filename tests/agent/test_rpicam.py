"""``rpicam://`` with a script on the PATH that stands in for the hardware and its program: no Raspberry Pi is here."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real import DEADLINE_S, no_descriptors, wait_for

from vedette.contract.bgr import in_bgr
from vedette.contract.errors import SourceError, SourceLostError, SourceStalledError, VedetteError
from vedette.contract.types import Planes, UInt8Array
from vedette.sources import Grabber, Outcome, Source, SourceOptions, make_source
from vedette.sources.base import Passing

STAND_IN = Path(__file__).with_name("rpicam_stand_in.py")


class Hardware:
    """The stand-in on the PATH, and what it was asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self.log = folder / "log"
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder), prepend=None)

    def behaves(self, *, program: str = "rpicam-vid", **plan: Any) -> None:
        path = self._folder / program
        path.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
        path.chmod(0o755)
        sleep = self._folder / "sleep"
        if not sleep.exists():
            sleep.symlink_to(str(shutil.which("sleep", path="/usr/bin:/bin")))
        self._monkeypatch.setenv("RPICAM", json.dumps({**plan, "log": str(self.log)}))

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hardware:
    return Hardware(tmp_path / "bin", monkeypatch)


@pytest.fixture
def opened() -> Iterator[Callable[..., Source]]:
    """Opens sources and closes them at the end."""
    sources: list[Source] = []

    def open_one(query: str = "width=100&height=36", **options: Any) -> Source:
        source = make_source(SourceOptions(f"rpicam://0?{query}", **{"read_timeout_s": DEADLINE_S, **options}))
        sources.append(source)
        source.open()
        return source

    yield open_one
    for source in sources:
        source.close()
        source.close()


def frame_of(source: Source) -> UInt8Array:
    reading = source.read(None)
    assert reading is not None and reading.capture_ns > 0
    return in_bgr(reading.pixels)


def bgr(luma: int, blue: int, red: int) -> list[float]:
    """JFIF 1.02: full range, BT.601."""
    return [
        luma + 1.772 * (blue - 128),
        luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        luma + 1.402 * (red - 128),
    ]


def is_frame(pixels: UInt8Array, number: int) -> bool:
    """Whether all of it is that frame of the stand-in's, and none of it padding."""
    height, width = pixels.shape[:2]
    expected = np.empty((height, width, 3))
    expected[:, : width // 4 * 2] = bgr(40 + number, 100, 160)
    expected[:, width // 4 * 2 :] = bgr(40 + number, 128, 128)
    return bool((np.abs(pixels - np.clip(expected, 0, 255)) <= 3).all())


def alive(pid: int) -> list[int]:
    """The processes of that group that run; zombies do not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if int(group) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("align", [2, 16, 32, 64, 128])
@pytest.mark.parametrize("size", [(100, 36), (640, 480), (704, 576)])
def test_frames_come_whole_whatever_the_rows_are_padded_to(
    hardware: Hardware, opened: Callable[..., Source], align: int, size: tuple[int, int]
) -> None:
    hardware.behaves(align=align)
    source = opened(f"width={size[0]}&height={size[1]}")
    for number in range(3):
        pixels = frame_of(source)
        assert pixels.shape == (size[1], size[0], 3) and pixels.dtype == np.uint8
        assert is_frame(pixels, number), (number, pixels[0, 0], pixels[-1, -1])


def test_a_frame_stays_as_it_is_while_somebody_holds_it(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves()
    source = opened()
    held = [source.read(None) for _ in range(8)]
    for number, reading in enumerate(held):
        assert reading is not None and is_frame(in_bgr(reading.pixels), number)


def test_memory_that_nobody_holds_is_used_again(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves()
    source = opened()
    places = set()
    for _ in range(20):
        reading = source.read(None)
        assert reading is not None and isinstance(reading.pixels, Planes)
        places.add(reading.pixels.luma.__array_interface__["data"][0])
    assert len(places) <= 3


def test_a_frame_that_is_passed_over_is_read_and_gone(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves()
    source = opened()
    assert isinstance(source, Passing)
    assert source.pass_over(), "the rows' length is found by it, too"
    assert is_frame(frame_of(source), 1)
    assert source.pass_over() and source.pass_over()
    assert is_frame(frame_of(source), 4)


def test_what_the_program_is_asked_for(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves()
    frame_of(opened("", width=320, height=240, fps=12.5))
    arguments = hardware.calls[0]["arguments"]
    pts = arguments.pop()
    assert arguments == [
        "--codec", "yuv420", "--nopreview", "-t", "0", "-o", "-", "--flush", "--camera", "0", "--width", "320", "--height",
        "240", "--framerate", "12.5", "--save-pts",
    ]  # fmt: skip
    assert pts.startswith("/dev/fd/")


@pytest.mark.parametrize(("query", "fps"), [("", 30_000 / 1001), ("fps=29.97002997002997", 0.0)])
def test_a_rate_may_have_as_many_places_as_a_float(
    hardware: Hardware, opened: Callable[..., Source], query: str, fps: float
) -> None:
    hardware.behaves()
    frame_of(opened(query, fps=fps))
    arguments = hardware.calls[0]["arguments"]
    assert arguments[arguments.index("--framerate") + 1] == "29.97"


def test_the_older_name_of_the_program(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves(program="libcamera-vid")
    assert is_frame(frame_of(opened()), 0)
    assert hardware.calls[0]["program"].endswith("libcamera-vid")


def test_no_program(hardware: Hardware) -> None:
    source = make_source(SourceOptions("rpicam://0"))
    with pytest.raises(SourceError, match=r"apt install rpicam-apps"):
        source.open()
    source.close()


def test_a_program_that_cannot_be_run(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves()
    program = Path(os.environ["PATH"]) / "rpicam-vid"
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(SourceLostError, match="cannot be started"):
        opened()


def test_a_camera_that_is_refused_says_why(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves(refuses="no cameras available")
    source = opened()
    with pytest.raises(SourceLostError) as caught:
        source.read(None)
    assert str(caught.value) == (
        "rpicam://0: rpicam-vid ended with exit code 255: found ERROR: *** no cameras available ***"
    )


def test_a_program_that_dies_is_lost_with_its_last_words(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves(frames=3, code=3, last_words="ERROR: *** failed to queue\x1b[1m ***")
    source = opened()
    assert [is_frame(frame_of(source), number) for number in range(3)] == [True] * 3
    with pytest.raises(SourceLostError, match=r"ended with exit code 3: found ERROR: .* failed to queue") as caught:
        source.read(None)
    assert str(caught.value).isprintable()


def test_a_program_that_hangs_is_stalled_and_ended_with_all_that_it_started(
    hardware: Hardware, opened: Callable[..., Source]
) -> None:
    hardware.behaves(frames=2, hangs=True, deaf=True)
    source = opened(read_timeout_s=0.5)
    frame_of(source), frame_of(source)
    with pytest.raises(SourceStalledError, match="no frame in time"):
        source.read(None)
    pid = hardware.calls[0]["pid"]
    assert len(alive(pid)) == 2, "the program and its child"
    source.close()
    assert alive(pid) == []


def test_closing_in_the_midst_of_a_frame_ends_the_program(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves(pause_s=0)
    source = opened("width=1920&height=1080")  # more than a pipe holds: it is always writing
    frame_of(source)
    source.close()
    assert alive(hardware.calls[0]["pid"]) == []


def test_without_a_descriptor_to_wait_with_the_program_ends_all_the_same(
    hardware: Hardware, opened: Callable[..., Source]
) -> None:
    hardware.behaves(deaf=True)
    source = opened()
    frame_of(source)
    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        source.close()
    # nobody could wait for it
    wait_for("the end of the program", lambda: alive(hardware.calls[0]["pid"]) == [])


def test_a_stride_that_is_given_needs_no_timestamps(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves(align=128, lines=False)
    source = opened("width=100&height=36&stride=128")
    assert [is_frame(frame_of(source), number) for number in range(5)] == [True] * 5


@pytest.mark.parametrize("stride", [100, 192])
def test_a_stride_that_is_not_so_is_found_out(hardware: Hardware, opened: Callable[..., Source], stride: int) -> None:
    hardware.behaves(align=128, pause_s=0.001)
    source = opened(f"width=100&height=36&stride={stride}")
    with pytest.raises(SourceError, match="leave stride out"):
        for _ in range(200):
            frame_of(source)


def test_a_program_without_timestamps_needs_a_stride(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves(lines=False, pause_s=0)
    source = opened()
    with pytest.raises(SourceError, match="give stride"):
        source.read(None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rpicam://", "no number"),
        ("rpicam://front", "front"),
        ("rpicam://0?width=640", "half a size"),
        ("rpicam://0?width=641&height=480", "even width"),
        ("rpicam://0?width=640&height=4", "640x4"),
        ("rpicam://0?width=16000&height=16000", "16000x16000"),
        ("rpicam://0?width=640&height=480&stride=600", "from 640 on"),
        ("rpicam://0?witdh=640", "unknown key"),
        ("rpicam://0?width=640&width=640&height=480", "twice"),
        ("rpicam://0?width=99999&height=480", "up to 16384"),
        ("rpicam://0?width=-1&height=480", "'-1'"),
        ("rpicam://0?fps=fast", "'fast'"),
        ("rpicam://0?fps=1001", "up to 1000"),
        ("rpicam://0?fourcc=MJPG", "unknown key"),
    ],
)
def test_a_url_that_cannot_be(url: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        make_source(SourceOptions(url))
    assert said in str(caught.value) and url in str(caught.value)


def test_a_grabber_loses_the_camera_and_finds_it_again(hardware: Hardware) -> None:
    hardware.behaves(frames=4, code=1, last_words="ERROR: *** camera unplugged ***")
    said: list[tuple[Outcome | None, str]] = []
    source = make_source(SourceOptions("rpicam://0?width=100&height=36"))
    reader = Grabber(source, name="test", stall_timeout_s=60.0, frozen_timeout_s=0.0)
    grabber = reader.tap(lambda outcome, why: said.append((outcome, why)))
    grabber.start()
    try:
        wait_for("the loss", lambda: grabber.status().outcome is Outcome.LOST)
        assert "camera unplugged" in said[-1][1]
        hardware.behaves()
        wait_for("frames", lambda: grabber.status().outcome is None and grabber.status().reopened)
        wait_for("more frames", lambda: grabber.status().frames > 20)
    finally:
        grabber.stop()
    wait_for("the program's end", lambda: not any(alive(call["pid"]) for call in hardware.calls))


@pytest.mark.parametrize("planes", [False, True])
def test_who_takes_the_frames_says_whether_as_planes(hardware: Hardware, planes: bool) -> None:
    hardware.behaves()
    source = make_source(SourceOptions("rpicam://0?width=100&height=36"))
    reader = Grabber(source, name="test", stall_timeout_s=60.0, frozen_timeout_s=60.0, planes=planes)
    grabber = reader.tap(lambda *_: None)
    grabber.start()
    try:
        for _ in range(10):
            frame = grabber.slot.get(DEADLINE_S)
            assert frame is not None and (frame.width, frame.height) == (100, 36)
            assert isinstance(frame.pixels, Planes) is planes
            assert is_frame(in_bgr(frame.pixels), frame.seq - 1)
    finally:
        grabber.stop()


def test_an_error_is_one_line_that_says_where(hardware: Hardware, opened: Callable[..., Source]) -> None:
    hardware.behaves(refuses="no cameras available")
    with pytest.raises(VedetteError) as caught:
        opened().read(None)
    assert str(caught.value).startswith("rpicam://0: ") and "\n" not in str(caught.value)
