"""Sources against real files, a real HTTP server and a real RTSP server; every way they can end has its own name."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from camera import CameraServer, Pusher
from real import CLIP, DEADLINE_S, wait_for, write_pictures

from vedette.contract.bgr import in_bgr
from vedette.contract.errors import PictureError, SourceError, SourceLostError
from vedette.contract.types import Frame, Jpeg, UInt8Array
from vedette.demo.broker import LOOPBACK, free_port
from vedette.sources import Grabber, Outcome, Slot, Source, SourceOptions, make_source, masked_url
from vedette.sources.base import Passing
from vedette.sources.buffers import Buffers
from vedette.sources.pace import Pace

FRAMES = 12
FPS = 20.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 frames, each of its own grey: 10, 30, 50 ..."""
    path = tmp_path_factory.mktemp("clip") / "grey.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (96, 64))
    assert writer.isOpened()
    for number in range(FRAMES):
        writer.write(np.full((64, 96, 3), 10 + 20 * number, np.uint8))
    writer.release()
    return path


def number_of(pixels: UInt8Array) -> int:
    """Which frame of the clip this is, from 0."""
    return round((float(pixels.mean()) - 10) / 20)


def read_all(source: Source, most: int = 1000) -> list[UInt8Array]:
    frames = []
    while len(frames) < most and (reading := source.read(None)) is not None:
        frames.append(reading.pixels)
    return frames


class Watched:
    """A grabber, what it said, and the frames that a consumer took."""

    def __init__(self, source: Source, *, stall_timeout_s: float = 60.0, frozen_timeout_s: float = 0.0) -> None:
        self.said: list[Outcome | None] = []
        reader = Grabber(source, name="test", stall_timeout_s=stall_timeout_s, frozen_timeout_s=frozen_timeout_s)
        self.grabber = reader.tap(lambda outcome, why: self.said.append(outcome))

    def __enter__(self) -> Watched:
        self.grabber.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.grabber.stop()

    def frame(self, timeout_s: float = DEADLINE_S) -> Frame:
        frame = self.grabber.slot.get(timeout_s)
        assert frame is not None, self.grabber.status()
        return frame

    def all_frames(self) -> list[Frame]:
        frames = []
        while (frame := self.grabber.slot.get(DEADLINE_S)) is not None:
            frames.append(frame)
        return frames

    def outcome(self) -> Outcome | None:
        return self.grabber.status().outcome


def test_a_video_flat_out_gives_every_frame_once_and_ends(clip: Path) -> None:
    with Watched(make_source(SourceOptions(str(clip), pace="max"))) as watched:
        frames = watched.all_frames()
        assert [number_of(f.pixels) for f in frames] == list(range(FRAMES))
        assert [f.seq for f in frames] == list(range(1, FRAMES + 1))
        assert all(f.pixels.shape == (64, 96, 3) and f.pixels.dtype == np.uint8 for f in frames)
        assert all(a.captured_ns <= b.captured_ns for a, b in itertools.pairwise(frames))
        assert all(f.capture_ns > 0 for f in frames)
        status = watched.grabber.status()
        assert (status.outcome, status.frames, status.stale) == (Outcome.END, FRAMES, 0)
        assert watched.said == [Outcome.END]


def test_a_video_at_its_own_pace_is_held_to_it(clip: Path) -> None:
    source = make_source(SourceOptions(str(clip)))
    source.open()
    begun = time.monotonic()
    assert [number_of(p) for p in read_all(source)] == list(range(FRAMES))
    assert time.monotonic() - begun >= (FRAMES - 1) / FPS * 0.99, "never faster than its frame rate"
    source.close()


@pytest.mark.parametrize("pace", ["native", "max"])
def test_a_looping_video_begins_again(clip: Path, pace: Any) -> None:
    source = make_source(SourceOptions(str(clip), loop=True, pace=pace))
    source.open()
    rounds = 2
    assert [number_of(p) for p in read_all(source, FRAMES * rounds)] == [*range(FRAMES)] * rounds
    source.close()
    source.close()


def test_a_file_url_is_a_file(clip: Path) -> None:
    source = make_source(SourceOptions(clip.as_uri(), pace="max"))
    source.open()
    assert len(read_all(source)) == FRAMES
    source.close()


def test_the_shipped_clip_can_be_read() -> None:
    source = make_source(SourceOptions(str(CLIP), pace="max"))
    source.open()
    assert len(read_all(source)) > 50
    source.close()


def test_a_folder_of_pictures_in_the_order_of_their_names_and_a_corrupt_one_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (3, 1, 2, 10):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.full((20, 30, 3), number, np.uint8))
    (tmp_path / "02.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    (tmp_path / "notes.txt").write_text("no picture")
    source = make_source(SourceOptions(str(tmp_path), pace="max", loop=True))
    source.open()
    assert [int(p[0, 0, 0]) for p in read_all(source, 6)] == [1, 3, 10] * 2
    assert caplog.text.count("02.png") == 1, "not in every round"
    source.close()


def test_a_folder_loops_and_its_pictures_may_differ_in_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.jpg"), np.zeros((40, 50, 3), np.uint8))
    with Watched(make_source(SourceOptions(f"images://{tmp_path}", loop=True, pace="max"))) as watched:
        assert [watched.frame().pixels.shape[:2] for _ in range(4)] == [(20, 30), (40, 50)] * 2


def test_a_folder_at_a_rate_is_held_to_it(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", 4)
    source = make_source(SourceOptions(str(tmp_path / "p"), fps=20.0))
    source.open()
    begun = time.monotonic()
    assert len(read_all(source)) == 4
    assert time.monotonic() - begun >= 3 / 20 * 0.99
    source.close()


def test_a_slow_folder_is_no_stalled_camera(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", 2)
    source = make_source(SourceOptions(str(tmp_path / "p"), fps=1.0, loop=True))
    with Watched(source, stall_timeout_s=0.001) as watched:
        watched.frame()
        assert watched.outcome() is None
        watched.frame()
        assert watched.outcome() is None


def test_a_looping_folder_without_one_good_picture_does_not_spin(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"rubbish")
    source = make_source(SourceOptions(str(tmp_path), loop=True, pace="max"))
    source.open()
    with pytest.raises(SourceError, match="not one picture"):
        source.read(None)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("{}/none.mp4", "no such file"),
        ("file://{}/none.mp4", "no such file"),
        ("images://{}/none", "no such folder"),
        ("{}/empty", "no pictures"),
        ("{}/" + "n" * 300, "cannot be opened: found File name too long"),
        ("images://{}/" + "n" * 300, "cannot be opened: found File name too long"),
        ("{}/pipe", "neither a file nor a folder"),
        ("{}/text.mp4", "no video"),
        ("{}/cut.mp4", "no video"),
    ],
)
def test_what_can_never_be_opened_is_said_at_the_start(tmp_path: Path, clip: Path, url: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:200])
    grabber = Watched(make_source(SourceOptions(url.format(tmp_path)))).grabber
    with pytest.raises(SourceError, match=problem) as caught:
        grabber.start()
    assert str(tmp_path) in str(caught.value)


def test_a_video_whose_name_is_no_utf8_is_refused_before_opencv_dies_of_it(tmp_path: Path, clip: Path) -> None:
    named = shutil.copy(clip, tmp_path / os.fsdecode(b"\xff.mp4"))
    with pytest.raises(PictureError, match="a video's name is no UTF-8; give it another name"):
        make_source(SourceOptions(str(named))).open()


@pytest.mark.parametrize(("url", "device"), [("0", "0"), ("/dev/video12", "12")])
def test_a_cameras_number_or_device_is_told_its_url(url: str, device: str) -> None:
    with pytest.raises(SourceError, match=f'a camera\'s device is no file: .*; give "v4l2:///dev/video{device}"'):
        make_source(SourceOptions(url))


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "v4l2://video0", "rtsp://", "http:///path", "rtsp://host:99999/x", "http://[::1/x", "rtsp://a..b/x",
     "rtsp://" + "a" * 64 + ".example/x", "http://a\nb/x", "http://a/\0x"],
)  # fmt: skip
def test_a_url_that_nobody_reads_is_refused(url: str) -> None:
    with pytest.raises(SourceError):
        make_source(SourceOptions(url))


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("rtsp://cam.local/live", "rtsp://cam.local/live"),
        (f"rtsp://admin:{SECRET}@cam.local:554/live", "rtsp://***@cam.local:554/live"),
        (f"rtsp://admin:{SECRET}@{SECRET}@cam/live", "rtsp://***@cam/live"),
        (f"rtsp://admin:x/{SECRET}@cam/live", "rtsp://***@cam/live"),
        (f"rtsp://admin:x?{SECRET}@cam/live", "rtsp://***"),
        (f"rtsp://admin:x {SECRET}@cam/live", "rtsp://***@cam/live"),
        (f"http://cam/video.cgi?user=admin&pwd={SECRET}", "http://cam/video.cgi?***"),
        (f"http://cam/video.cgi?user=a@b&pwd={SECRET}", "http://***"),
        (f"http://cam/v#{SECRET}", "http://cam/v#***"),
        ("v4l2:///dev/video0?width=640&height=480", "v4l2:///dev/video0?width=640&height=480"),
        ("/a/folder", "/a/folder"),
        ("/a@b/c?d.mp4", "/a@b/c?d.mp4"),
    ],
)
def test_credentials_are_masked(url: str, masked: str) -> None:
    assert masked_url(url) == masked
    assert SECRET not in masked_url(url)


@pytest.mark.parametrize(
    "url", [f"rtsp://admin:{SECRET}/{SECRET}@cam/live", f"ftp://admin:{SECRET}@h/", f"http://admin:{SECRET}@:80/"]
)
def test_errors_about_a_url_do_not_repeat_its_password(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        make_source(SourceOptions(url))
    assert SECRET not in str(caught.value)


@pytest.fixture
def camera() -> Iterator[CameraServer]:
    with CameraServer() as server:
        yield server


def stream(camera: CameraServer, read_timeout_s: float = 30.0, url: str = "") -> Source:
    return make_source(SourceOptions(url or camera.url, open_timeout_s=5.0, read_timeout_s=read_timeout_s))


def test_frames_of_an_http_camera_arrive(camera: CameraServer) -> None:
    with Pusher(camera), Watched(stream(camera)) as watched:
        seqs = [watched.frame().seq for _ in range(10)]
        assert seqs == sorted(set(seqs))
        assert watched.outcome() is None
        status = watched.grabber.status()
        assert (status.why, status.reopened) == ("", 0)


def test_frames_of_an_http_camera_are_passed_over_and_a_loss_is_one_all_the_same(camera: CameraServer) -> None:
    source = stream(camera)
    assert isinstance(source, Passing)
    with Pusher(camera):
        source.open()
        assert source.read(None) is not None
        assert all(source.pass_over() for _ in range(5))
        assert source.read(None) is not None
        camera.hang_up()
        with pytest.raises(SourceLostError):
            while source.pass_over():
                continue
    source.close()


def test_a_camera_that_hangs_up_is_lost_and_opened_again(camera: CameraServer) -> None:
    with Pusher(camera), Watched(stream(camera)) as watched:
        watched.frame()
        camera.hang_up()
        wait_for("the loss", lambda: watched.outcome() is Outcome.LOST)
        camera.answer_again()
        wait_for("the frames to come back", lambda: watched.outcome() is None)
        before = watched.grabber.status()
        assert before.reopened >= 1
        wait_for("more frames", lambda: watched.grabber.status().frames > before.frames)
        assert watched.said[-2:] == [Outcome.LOST, None]


def test_a_camera_that_is_away_at_the_start_is_tried_again_and_again() -> None:
    port = free_port()
    source = make_source(SourceOptions(f"http://{LOOPBACK}:{port}/video", open_timeout_s=2.0))
    with Watched(source) as watched:
        wait_for("the loss", lambda: watched.outcome() is Outcome.LOST)
        with CameraServer(port) as camera, Pusher(camera):
            watched.frame()
            wait_for("the outcome to clear", lambda: watched.outcome() is None)
            assert watched.grabber.status().reopened == 0, "it was never open before"
            assert watched.said == [Outcome.LOST, None]


def test_a_camera_that_refuses_is_lost_not_ended(camera: CameraServer) -> None:
    camera.status = 404
    with Watched(stream(camera)) as watched:
        wait_for("the loss", lambda: watched.outcome() is Outcome.LOST)
        wait_for("another try", lambda: len(camera.requests) >= 2)
        assert watched.said == [Outcome.LOST], "one and the same news is said once"


def test_a_camera_that_stalls_is_noticed_although_its_reader_hangs(camera: CameraServer) -> None:
    with Pusher(camera) as pusher, Watched(stream(camera), stall_timeout_s=0.5) as watched:
        watched.frame()
        wait_for("frames to flow", lambda: watched.outcome() is None)
        pusher.stalled = True
        wait_for("the stall", lambda: watched.outcome() is Outcome.STALLED)
        assert "no frame for" in watched.grabber.status().why
        pusher.stalled = False
        wait_for("the stall to pass", lambda: watched.outcome() is None)


def test_a_stalled_read_comes_back_and_the_camera_is_opened_again(camera: CameraServer) -> None:
    with Pusher(camera) as pusher, Watched(stream(camera, read_timeout_s=1.0), stall_timeout_s=1.0) as watched:
        watched.frame()
        pusher.stalled = True
        wait_for("the reader to give up", lambda: Outcome.STALLED in watched.said, 60)
        pusher.stalled = False
        wait_for("the frames to come back", lambda: watched.outcome() is None and watched.grabber.status().reopened, 60)


def test_the_same_picture_again_and_again_is_frozen(camera: CameraServer) -> None:
    with Pusher(camera) as pusher, Watched(stream(camera), frozen_timeout_s=0.3) as watched:
        watched.frame()
        assert watched.outcome() is None
        pusher.frozen = True
        wait_for("the frost", lambda: watched.outcome() is Outcome.FROZEN)
        opened = watched.grabber.status().reopened
        wait_for("another try", lambda: watched.grabber.status().reopened >= opened + 2)
        assert watched.said[-1] is Outcome.FROZEN, "opening it again shows the same picture: nothing is back"
        assert watched.grabber.passed("frozen") >= 2, "what was seen of it last is counted"
        pusher.frozen = False
        wait_for("the picture to move", lambda: watched.outcome() is None)


def test_pictures_may_stand_still_where_nobody_asked(camera: CameraServer) -> None:
    with Pusher(camera) as pusher, Watched(stream(camera)) as watched:
        pusher.frozen = True
        first = watched.frame().seq
        wait_for("thirty frames", lambda: watched.grabber.status().frames > first + 30)
        assert watched.outcome() is None


def test_a_slow_consumer_gets_the_newest_frame_and_what_it_missed_is_counted(camera: CameraServer) -> None:
    with Pusher(camera), Watched(stream(camera)) as watched:
        taken = [watched.frame().seq]
        for _ in range(5):
            due = watched.grabber.status().frames + 10
            wait_for("ten frames to pass", lambda due=due: watched.grabber.status().frames >= due)
            taken.append(watched.frame().seq)
            assert taken[-1] >= due, "no lag builds up: what is taken is newer than all that passed"
    status = watched.grabber.status()
    left = 1 if status.frames > taken[-1] else 0
    assert status.stale >= taken[-1] - len(taken)
    assert status.stale + len(taken) + left >= status.frames - 1


def test_credentials_reach_the_camera_and_nobody_else(camera: CameraServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    camera.asks_password = True
    url = camera.url.replace("://", f"://admin:{SECRET}@")
    with Pusher(camera), Watched(stream(camera, url=url)) as watched:
        watched.frame()
        camera.hang_up()
        wait_for("the loss", lambda: watched.outcome() is Outcome.LOST)
        why = watched.grabber.status().why
    assert any(a.startswith("Basic ") for a in camera.requests)
    assert SECRET not in why + caplog.text


def test_a_scheme_may_be_written_in_capitals(camera: CameraServer) -> None:
    with Pusher(camera), Watched(stream(camera, url=camera.url.replace("http", "HTTP"))) as watched:
        watched.frame()


def test_a_lost_streams_error_masks_its_url() -> None:
    source = make_source(SourceOptions(f"http://admin:{SECRET}@{LOOPBACK}:{free_port()}/x", open_timeout_s=1.0))
    with pytest.raises(SourceLostError) as caught:
        source.open()
    assert SECRET not in str(caught.value) and LOOPBACK in str(caught.value)


@pytest.mark.parametrize(
    ("url", "asked", "said"),
    [
        (
            "rtsp://a:b@cam/live",
            {"width": 640, "height": 360},
            r"\*\*\*@cam/live: width is asked .*; set it in the camera",
        ),
        (
            "exec:ffmpeg -i x",
            {"height": 360},
            "height is asked of cameras of this device alone; have the program do it",
        ),
        ("http://cam/video", {"fourcc": "MJPG"}, "fourcc is asked"),
        ("clip.mp4", {"stride": 64}, "stride is asked of cameras of this device alone; take it out"),
        ("rtsp://cam/live", {"fps": 5.0}, "fps means nothing .*; set it in the camera; max_fps of the pipeline"),
        ("EXEC:ffmpeg -i x", {"fps": 5.0}, "fps means nothing .* -vf fps=5"),
    ],
)
def test_what_is_asked_of_whom_nobody_asks_is_refused(url: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        make_source(SourceOptions(url, **asked))
    assert "a:b" not in str(caught.value)


def test_a_frame_that_is_held_is_never_written_to_again(clip: Path) -> None:
    with Watched(make_source(SourceOptions(str(clip), loop=True, pace="max"))) as watched:
        held = [watched.frame() for _ in range(FRAMES)]
        view = watched.frame().pixels[10:20, 10:20]  # of the first frame again
        for _ in range(3 * FRAMES):
            watched.frame()
        assert [number_of(f.pixels) for f in held] == list(range(FRAMES))
        assert number_of(view) == 0


def test_buffers_are_used_again_once_nobody_holds_them() -> None:
    buffers = Buffers(most=2)
    first = np.zeros((4, 4, 3), np.uint8)
    where = first.ctypes.data
    buffers.keep(first)
    assert buffers.free() is None, "held here"
    del first
    again = buffers.free()
    assert again is not None and again.ctypes.data == where
    buffers.keep(again)
    view = again[1:]
    del again
    assert buffers.free() is None, "a view holds it too"
    del view
    assert buffers.free() is not None


def frame(seq: int) -> Frame:
    return Frame(seq, 0, 0, np.zeros((8, 8, 3), np.uint8))


def test_a_slot_that_waits_loses_nothing() -> None:
    slot = Slot()
    writer = threading.Thread(target=lambda: [slot.put(frame(n), wait=True) for n in range(50)])
    writer.start()
    got = [taken.seq for _ in range(50) if (taken := slot.get(DEADLINE_S)) is not None]
    writer.join(10)
    assert got == list(range(50)) and slot.stale == 0


def test_a_closed_slot_gives_its_last_frame_and_then_none() -> None:
    slot = Slot()
    assert slot.put(frame(1), wait=False) and slot.put(frame(2), wait=False)
    slot.close()
    assert not slot.put(frame(3), wait=True)
    last = slot.get(0)
    assert last is not None and last.seq == 2
    assert slot.get(60) is None
    assert (slot.closed, slot.stale) == (True, 1)


def test_closing_a_slot_frees_whoever_waits() -> None:
    slot = Slot()
    slot.put(frame(1), wait=False)
    writer = threading.Thread(target=lambda: slot.put(frame(2), wait=True))
    writer.start()
    slot.close()
    writer.join(20)
    assert not writer.is_alive()


def test_a_late_reader_does_not_hurry_after_its_lost_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10_000_000_000]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += int(seconds * 1e9)

    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    pace = Pace(0.1)
    for _ in range(3):
        pace.wait()
    now[0] += 5_000_000_000
    for _ in range(3):
        pace.wait()
    assert slept == [0.1, 0.1, 0.1, 0.1]


RTSP_SERVER = r"""
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/live", factory)
once = GstRtspServer.RTSPMediaFactory()
once.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=1000000 ! rtph264pay name=pay0 pt=96 )"
)
server.get_mount_points().add_factory("/once", once)
jpeg = GstRtspServer.RTSPMediaFactory()
jpeg.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 "
    "! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)
server.get_mount_points().add_factory("/jpeg", jpeg)
auth = GstRtspServer.RTSPAuth()
token = GstRtspServer.RTSPToken()
token.set_string("media.factory.role", "user")
auth.add_basic(GstRtspServer.RTSPAuth.make_basic("admin", sys.argv[2]), token)
server.set_auth(auth)
permissions = GstRtspServer.RTSPPermissions()
permissions.add_permission_for_role("user", "media.factory.access", True)
permissions.add_permission_for_role("user", "media.factory.construct", True)
factory.set_permissions(permissions)
once.set_permissions(permissions)
jpeg.set_permissions(permissions)
assert server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


def system_python_has_rtsp() -> bool:
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer;"
        "Gst.init(None); assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')"
    )
    try:
        return subprocess.run(["/usr/bin/python3", "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class RtspServer:
    """Debian's gst-rtsp-server in a process of its own, with a password."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __enter__(self) -> RtspServer:
        self._process = subprocess.Popen(
            ["/usr/bin/python3", "-c", RTSP_SERVER, str(self.port), SECRET], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def rtsp() -> None:
    if not system_python_has_rtsp():
        pytest.skip("no gst-rtsp-server for /usr/bin/python3: rtsp:// cameras stay untested")


def test_an_rtsp_camera_is_read_lost_and_opened_again(rtsp: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    port = free_port()
    options = SourceOptions(f"rtsp://admin:{SECRET}@{LOOPBACK}:{port}/live", open_timeout_s=10.0, read_timeout_s=5.0)
    with Watched(make_source(options)) as watched:
        with RtspServer(port):
            shapes = {watched.frame(60).pixels.shape for _ in range(10)}
            assert shapes == {(240, 320, 3)}
        wait_for("the loss", lambda: watched.outcome() in (Outcome.LOST, Outcome.STALLED), 60)
        with RtspServer(port):
            wait_for("the frames to come back", lambda: watched.outcome() is None, 60)
            assert watched.frame(60).pixels.any()
            assert watched.grabber.status().reopened >= 1
        wait_for("the second loss", lambda: watched.outcome() in (Outcome.LOST, Outcome.STALLED), 60)
        why = watched.grabber.status().why
    assert SECRET not in why + caplog.text


def test_an_rtsp_camera_shows_its_first_key_frame(rtsp: None) -> None:
    port = free_port()
    url = f"rtsp://admin:{SECRET}@{LOOPBACK}:{port}/once"
    source = make_source(SourceOptions(url, open_timeout_s=10.0, read_timeout_s=5.0))
    with RtspServer(port), closing(source):
        source.open()
        first, second = source.read(None), source.read(None)
        assert first is not None and second is not None
        assert first.pixels.shape == (240, 320, 3)
        assert (first.pixels != second.pixels).any(), "the frame that was grabbed ahead is given once"


def test_an_rtsp_camera_of_jpeg_is_decoded_by_who_looks(rtsp: None) -> None:
    port = free_port()
    url = f"rtsp://admin:{SECRET}@{LOOPBACK}:{port}/jpeg"
    with RtspServer(port), Watched(make_source(SourceOptions(url, open_timeout_s=10.0, read_timeout_s=5.0))) as watched:
        seen = [watched.frame(60).pixels for _ in range(5)]
        assert all(isinstance(pixels, Jpeg) and pixels.shape == (240, 320, 3) for pixels in seen)
        balls = [np.argwhere(in_bgr(pixels)[:, :, 0] > 128).mean(0) for pixels in seen]
        assert len({tuple(ball) for ball in balls}) == 5, "it moves"


@pytest.mark.parametrize(
    ("who", "path", "said"),
    [
        ("", "live", "401 Unauthorized; put the camera's user name and password into the URL"),
        ("admin:wrong@", "live", "401 Unauthorized; look at the user name, the password and the path"),
        (f"admin:{SECRET}@", "nowhere", "404 Not Found; look up the path"),
    ],
)
def test_why_a_real_rtsp_server_has_no_stream_is_said(rtsp: None, who: str, path: str, said: str) -> None:
    port = free_port()
    with RtspServer(port):
        source = make_source(SourceOptions(f"rtsp://{who}{LOOPBACK}:{port}/{path}", open_timeout_s=10.0))
        with pytest.raises(SourceLostError) as caught:
            source.open()
    assert f"cannot be opened: found {said}" in str(caught.value) and SECRET not in str(caught.value)


def test_ffmpegs_options_do_not_leak_from_one_capture_into_the_next(camera: CameraServer) -> None:
    program = (
        "import os, sys; from vedette.sources import SourceOptions, make_source\n"
        "s = make_source(SourceOptions(sys.argv[1], pace='max')); s.open(); s.close()\n"
        "assert 'OPENCV_FFMPEG_CAPTURE_OPTIONS' not in os.environ\n"
    )
    child = subprocess.run([sys.executable, "-c", program, str(CLIP)], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
