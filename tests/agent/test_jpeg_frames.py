"""Frames that a camera gives as JPEG: handed on as they are, decoded by who looks, and each one accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from camera import CameraServer, Pusher, picture_of
from real import wait_for
from test_motion import Camera, with_a_square
from test_passing import Steady
from test_pipeline import Run, detector
from test_snapshots import Taken, found, frame, happened
from test_sources import Watched, stream

from vedette.cli.check import _try_camera
from vedette.config import PipelineConfig
from vedette.contract.bgr import in_bgr
from vedette.contract.errors import SourceLostError, UndecodableError
from vedette.contract.jpeg import decode, read_jpeg
from vedette.contract.types import Frame, Jpeg, Picture, UInt8Array
from vedette.flow.motion import MotionGate, MotionOptions, shrink
from vedette.flow.pipeline import UNFIT_IN_A_ROW
from vedette.flow.regions import RegionOptions, Regions
from vedette.messages.reporter import NoAudience
from vedette.sources import Outcome, Source
from vedette.sources import stream as stream_module
from vedette.sources.base import Flawed, Reading


@pytest.fixture
def camera() -> Iterator[CameraServer]:
    with CameraServer() as server:
        yield server


def jpeg_of(bgr: UInt8Array) -> Jpeg:
    ok, data = cv2.imencode(".jpg", bgr)
    assert ok
    return read_jpeg(np.asarray(data.reshape(-1), np.uint8))


def broken(jpeg: Jpeg, at: int = 0) -> Jpeg:
    """Its header says a size that nobody can make of what follows, and which ends ``at`` bytes before that."""
    return Jpeg(jpeg.data[: jpeg.scan - 14 - at], jpeg.height, jpeg.width, jpeg.scan)


@contextmanager
def opened(camera: CameraServer, *, first: bytes = picture_of(128)) -> Iterator[Source]:
    """An HTTP camera whose first pictures have come."""
    source = stream(camera)
    camera.greeting = [first] * 3
    with closing(source):
        source.open()
        yield source


def greys(source: Source, count: int) -> list[int]:
    """Of the next frames."""
    seen = []
    for _ in range(count):
        reading = source.read(None)
        assert reading is not None
        seen.append(round(float(in_bgr(reading.pixels).mean())))
    return seen


def test_frames_of_an_http_camera_are_as_it_sent_them(camera: CameraServer) -> None:
    sent = picture_of(77, 240, 320)
    with opened(camera, first=sent) as source:
        for _ in range(3):
            reading = source.read(None)
            assert reading is not None and isinstance(reading.pixels, Jpeg)
            assert reading.pixels.data.tobytes() == sent and not reading.pixels.decoded
        camera.send(picture_of(99, 120, 160))
        reading = source.read(None)
        assert reading is not None and reading.pixels.shape == (120, 160, 3), "a size of its own"
        assert abs(float(in_bgr(reading.pixels).mean()) - 99) < 2


def test_what_is_passed_over_is_never_decoded_and_the_next_is_the_next(camera: CameraServer) -> None:
    with opened(camera) as source:
        assert greys(source, 3) == [128] * 3
        for grey in (10, 50, 90, 130):
            camera.send(picture_of(grey))
        assert isinstance(source, stream_module.StreamSource)
        assert source.pass_over() and source.pass_over()
        assert greys(source, 2) == [90, 130]


def test_what_is_no_jpeg_is_passed_over_and_counted(camera: CameraServer) -> None:
    with opened(camera) as source:
        assert isinstance(source, Flawed)
        greys(source, 3)
        good = picture_of(200)
        for part in (b"<html>busy</html>", good[:40], b"\xff\xd8\xff\xd9", good):
            camera.send(part)
        assert greys(source, 1) == [200]
        assert source.undecodable == 3


def test_a_camera_that_sends_nothing_else_is_lost(camera: CameraServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_BROKEN", 4)
    with opened(camera) as source:
        greys(source, 3)
        for _ in range(10):
            camera.send(b"<html>busy</html>")
        with pytest.raises(SourceLostError, match="could not be decoded"):
            source.read(None)


def test_a_grabber_counts_what_could_not_be_decoded_among_what_came(camera: CameraServer) -> None:
    camera.greeting = [picture_of(128)] * 3
    with Watched(stream(camera)) as watched:
        watched.frame()
        wait_for("three", lambda: watched.grabber.status().frames == 3)
        camera.send(b"no picture")
        camera.send(picture_of(20))
        wait_for("five", lambda: watched.grabber.status().frames == 5)
        assert watched.grabber.passed("undecodable") == 1 and watched.outcome() is None


@pytest.mark.parametrize("cut", [2, 300])
def test_a_stream_whose_jpeg_cannot_be_decoded_alone_is_ffmpegs(camera: CameraServer, cut: int) -> None:
    """Some cameras leave out the end of each picture; FFmpeg shows it all the same."""
    rng = np.random.default_rng(5)
    ok, data = cv2.imencode(".jpg", np.asarray(cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (320, 240))))
    assert ok
    with pytest.raises(UndecodableError):
        decode(read_jpeg(data.reshape(-1)[:-cut].copy()), 8)
    with opened(camera, first=data.tobytes()[:-cut]) as source:
        for _ in range(2):
            reading = source.read(None)
            assert reading is not None and isinstance(reading.pixels, np.ndarray) and reading.pixels.any()
        source.close()
        source.open()
        reading = source.read(None)
        assert reading is not None and isinstance(reading.pixels, np.ndarray), "as was found before"
    assert len(camera.requests) == 3, "opened once more to find out, and not again"


class Compressed(Steady):
    """A camera of the given frames, again and again."""

    def __init__(self, pictures: Sequence[Jpeg], frames: int, interval_s: float = 0.01) -> None:
        super().__init__(interval_s, frames)
        self._pictures = pictures

    def picture(self, into: UInt8Array | None) -> Reading | None:
        reading = super().picture(into)
        assert reading is not None
        jpeg = self._pictures[self.pictures % len(self._pictures)]
        return Reading(Jpeg(jpeg.data, jpeg.height, jpeg.width, jpeg.scan), 0)


PLAIN = jpeg_of(np.full((240, 320, 3), 90, np.uint8))


def test_a_pipeline_counts_what_it_cannot_decode_and_its_account_closes(caplog: pytest.LogCaptureFixture) -> None:
    source = Compressed([PLAIN, broken(PLAIN), broken(PLAIN, 1), broken(PLAIN, 2)], 60)
    run = Run(detector([0.9], [0]), [], source=source).to_the_end()
    status, dropped = run.grabber.status(), run.stats.dropped()
    heard = run.messages()
    messages = len(heard)
    assert messages > 0 and dropped["undecodable"] > 0 and set(dropped) == {"undecodable"}
    assert messages + dropped["undecodable"] + status.stale == status.frames == 60
    said = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert len(said) == 1 and "a JPEG that cannot be decoded" in said[0]
    assert heard[0]["frame"]["width"] == 320


def test_a_source_of_which_nothing_can_be_decoded_is_said_to_be_wrong() -> None:
    run = Run(detector([0.9], [0]), [], source=Compressed([broken(PLAIN)], 60))
    with run:
        wait_for("ten", lambda: run.pipeline.unfit != "")
        assert "a JPEG that cannot be decoded" in run.pipeline.unfit


def test_a_camera_whose_first_picture_is_broken_passes_a_check_and_one_of_nothing_else_does_not() -> None:
    config = PipelineConfig(source="v4l2:///dev/video0", model="x")
    source = Compressed([PLAIN, broken(PLAIN), broken(PLAIN)], 60)  # begins with the second of these
    assert _try_camera("door", config, source) == "v4l2:///dev/video0 320x240"
    assert source.pictures == 3
    with pytest.raises(UndecodableError):
        _try_camera("door", config, Compressed([broken(PLAIN)], 60))


def test_a_gate_that_cannot_decode_a_frame_lets_the_pipeline_count_it() -> None:
    gate = MotionGate(MotionOptions())
    run = Run(detector([0.9], [0]), [], source=Compressed([PLAIN, broken(PLAIN)], 60), gate=gate).to_the_end()
    status, dropped = run.grabber.status(), run.stats.dropped()
    assert dropped["undecodable"] > 0
    assert len(run.messages()) + sum(dropped.values()) + status.stale == status.frames == 60


class Still:
    """A gate whose camera sees nothing move."""

    def skip(self, pixels: Picture, now_ns: int, *, busy: bool = False) -> bool:
        shrink(pixels)
        return True


def test_a_still_scene_whose_camera_breaks_some_frames_is_no_source_of_which_nothing_can_be_used() -> None:
    run = Run(
        detector([0.9], [0]), [], source=Compressed([PLAIN, broken(PLAIN)], 100, 0.005), gate=Still()
    ).to_the_end()
    dropped = run.stats.dropped()
    assert dropped["undecodable"] >= UNFIT_IN_A_ROW <= dropped["no_motion"]
    assert run.pipeline.unfit == ""


def test_regions_are_parts_of_the_whole_picture() -> None:
    regions = Regions(RegionOptions(crop=(0.25, 0.25, 0.75, 0.75)))
    run = Run(detector([0.9], [0]), [], source=Compressed([PLAIN], 20), regions=regions).to_the_end()
    assert {(m["frame"]["width"], m["frame"]["height"]) for m in run.messages()} == {(320, 240)}


def test_what_is_blank_is_black_for_whoever_is_shown_the_frame_and_for_no_other_pipeline() -> None:
    seen: list[Any] = []

    class Looking(NoAudience):
        looks = True

        def seen(self, frame: Frame, result: Any, followed: Any) -> None:
            seen.append(frame.pixels)

    jpeg = jpeg_of(np.full((240, 320, 3), 90, np.uint8))
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    regions = Regions(RegionOptions(mask=(left,), blank=True))

    class Kept(Compressed):
        def picture(self, into: UInt8Array | None) -> Reading | None:
            super().picture(into)
            return Reading(jpeg, 0)

    Run(detector([0.9], [0]), [], source=Kept([jpeg], 5), regions=regions, audience=Looking()).to_the_end()
    assert seen
    for pixels in seen:
        assert not in_bgr(pixels)[:, :159].any() and (in_bgr(pixels)[:, 161:] > 80).all()
    assert (in_bgr(jpeg) > 80).all()


class Decoded:
    """How often OpenCV was asked to, and with which flags."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flags: list[int] = []
        imdecode = cv2.imdecode

        def counted(data: Any, flags: int) -> Any:
            self.flags.append(flags & ~cv2.IMREAD_IGNORE_ORIENTATION)
            return imdecode(data, flags)

        monkeypatch.setattr(cv2, "imdecode", counted)


def test_gate_and_network_share_what_was_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = Decoded(monkeypatch)
    jpeg = jpeg_of(np.full((720, 1280, 3), 90, np.uint8))
    gate = MotionGate(MotionOptions(), (300, 300))
    gate.skip(jpeg, 10**9)
    assert decoded.flags == [cv2.IMREAD_REDUCED_COLOR_2]
    assert decode(jpeg, 2).shape == (360, 640, 3)
    assert len(decoded.flags) == 1


def test_a_gate_alone_has_it_decoded_as_small_as_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = Decoded(monkeypatch)
    gate = MotionGate(MotionOptions())
    gate.skip(jpeg_of(np.full((720, 1280, 3), 90, np.uint8)), 10**9)
    assert decoded.flags == [cv2.IMREAD_REDUCED_COLOR_4]


def test_what_is_passed_by_the_gate_unseen_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = MotionGate(MotionOptions(hold_s=0.0))
    now_ns = 10**9
    for _ in range(30):
        gate.skip(jpeg_of(np.full((240, 320, 3), 90, np.uint8)), now_ns)
        now_ns += 10**8
    decoded = Decoded(monkeypatch)
    for step in range(1, 10):
        assert gate.skip(jpeg_of(np.full((240, 320, 3), 90, np.uint8)), now_ns - 10**8 + step * 10**7)
    assert not decoded.flags


def test_the_gate_sees_of_a_jpeg_what_it_sees_of_the_picture() -> None:
    rng = np.random.default_rng(7)
    bgr = np.asarray(cv2.resize(rng.integers(0, 256, (9, 16, 3)).astype(np.uint8), (1280, 720)), np.uint8)
    of_jpeg, of_bgr = shrink(jpeg_of(bgr)), shrink(bgr)
    assert of_jpeg.shape == of_bgr.shape
    assert np.abs(of_jpeg - of_bgr).mean() < 1


def test_a_still_scene_stays_still_where_another_pipeline_has_some_of_its_frames_decoded_in_full() -> None:
    """A picture with sharp edges, of which the gate sees something else by how it was made small."""
    sharp = np.random.default_rng(3).integers(0, 256, (360, 640, 3)).astype(np.uint8)
    gate = MotionGate(MotionOptions(hold_s=0.0, max_skip_s=3600.0))
    skipped = []
    for number in range(40):
        jpeg = jpeg_of(sharp)
        if number % 3 == 2:
            decode(jpeg)
        skipped.append(gate.skip(jpeg, 10**9 * (number + 1)))
    assert skipped == [False, *[True] * 39]


def test_a_gate_finds_the_same_motion_in_jpeg() -> None:
    class Coded(MotionGate):
        def skip(self, pixels: Any, now_ns: int, *, busy: bool = False) -> bool:
            return super().skip(jpeg_of(pixels), now_ns, busy=busy)

    camera = Camera()
    camera.gate = Coded(MotionOptions())
    camera.film(60, lambda k: with_a_square(100))
    assert all(camera.film(10, lambda k: with_a_square(100)))
    assert not any(camera.film(5, lambda k: with_a_square(120 + 20 * k)))


def test_a_snapshot_is_the_whole_picture_and_decoded_on_a_thread_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Frame(7, 100 * 10**9, 0, jpeg_of(np.full((240, 320, 3), 90, np.uint8)))
    decode(seen.pixels, 8)  # type: ignore[arg-type]
    with Taken(tmp_path) as taken:
        decoded = Decoded(monkeypatch)
        taken.snapshots.seen(seen, found(), happened())
        wait_for("the picture", lambda: taken.snapshots.counts().get("kept") == 1)
    assert decoded.flags == [cv2.IMREAD_COLOR]
    [file] = tmp_path.rglob("*.jpg")
    assert cv2.imread(str(file)).shape == (240, 320, 3)


def test_a_snapshot_that_cannot_be_decoded_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Taken(tmp_path) as taken:
        taken.snapshots.seen(Frame(7, 100 * 10**9, 0, broken(PLAIN)), found(), happened())
        wait_for("the count", lambda: taken.snapshots.counts().get("undecodable") == 1)
        taken.snapshots.seen(frame(200.0), found(), happened())
        wait_for("the next", lambda: taken.snapshots.counts().get("kept") == 1)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_camera_that_moves_again_is_no_longer_frozen(camera: CameraServer) -> None:
    with Pusher(camera) as pusher, Watched(stream(camera), frozen_timeout_s=0.3) as watched:
        assert isinstance(watched.frame().pixels, Jpeg)
        pusher.frozen = True
        wait_for("the frost", lambda: watched.outcome() is Outcome.FROZEN)
        pusher.frozen = False
        wait_for("the thaw", lambda: watched.outcome() is None)
