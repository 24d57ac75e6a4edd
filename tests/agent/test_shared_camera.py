"""Several pipelines on one camera: it is opened and decoded once, and each has an account of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera import CameraServer, Pusher
from real import wait_for
from test_jpeg_frames import Decoded, jpeg_of
from test_passing import Steady

from vedette import clock
from vedette.config import parse_config
from vedette.contract.errors import SourceError
from vedette.contract.types import Frame, UInt8Array
from vedette.messages.reporter import NoAudience
from vedette.outbox import MemoryOutbox
from vedette.service.compose import Cameras, make_pipeline, prepare
from vedette.service.lanes import load_models
from vedette.sources import Grabber, Outcome, SourceOptions, Tap, make_source
from vedette.sources.base import ARRIVALS, Reading


def grabber_of(source: Any) -> Grabber:
    return Grabber(source, name="test", stall_timeout_s=60, frozen_timeout_s=0)


def taps_of(grabber: Grabber, count: int) -> list[Tap]:
    return [grabber.tap(lambda *_: None) for _ in range(count)]


class Opened(Steady):
    """How often, too."""

    opened = closed = 0

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        super().close()
        self.closed += 1


def test_all_get_the_same_frames_and_each_what_it_takes_is_counted_for_it_alone() -> None:
    source = Opened(0.002)
    quick, slow = taps_of(grabber_of(source), 2)
    for tap in (quick, slow):
        tap.start()
    taken: list[Frame] = []
    while len(taken) < 50:
        frame = quick.slot.get(10)
        assert frame is not None
        taken.append(frame)
    late = slow.slot.get(10)
    assert late is not None and late.seq >= taken[-1].seq - 1
    for tap in (quick, slow):
        tap.stop()
    assert source.opened == source.closed == 1
    stale = [tap.status().stale for tap in (quick, slow)]
    assert stale[1] >= 45 and stale[0] < stale[1]
    assert abs(quick.status().frames - slow.status().frames) <= 1, "the second one began, and left, a moment later"
    for tap, got in ((quick, 50), (slow, 1)):
        left = tap.status().frames - tap.status().stale - got - tap.passed("stopped")
        assert left in (0, 1), "that waited at the end"


def test_nothing_is_copied_for_another() -> None:
    taps = taps_of(grabber_of(Steady(0.02)), 2)
    for tap in taps:
        tap.start()
    seen: list[dict[int, Frame]] = [{}, {}]
    while not (both := seen[0].keys() & seen[1].keys()):
        assert len(seen[0]) < 50, "not once the same frame"
        for tap, its in zip(taps, seen, strict=True):
            frame = tap.slot.get(10)
            assert frame is not None
            its[frame.seq] = frame
    for tap in taps:
        tap.stop()
    assert all(seen[0][seq] is seen[1][seq] for seq in both)


def test_one_that_leaves_takes_nothing_from_the_others() -> None:
    source = Opened(0.002)
    stays, goes = taps_of(grabber_of(source), 2)
    stays.start()
    goes.start()
    assert goes.slot.get(10) is not None
    goes.stop()
    frames = goes.status().frames
    assert goes.slot.closed and not stays.slot.closed
    for _ in range(20):
        assert stays.slot.get(10) is not None
    assert goes.status().frames - frames <= 1, "the one that was on its way"
    assert source.closed == 0
    stays.stop()
    goes.stop()
    assert source.closed == 1 and stays.slot.closed


class Flaky(Opened):
    """Half of what it sends cannot be decoded."""

    undecodable = 0

    def picture(self, into: UInt8Array | None) -> Reading | None:
        self.undecodable += 1
        return super().picture(into)


def test_what_cannot_be_decoded_is_no_matter_of_one_that_has_left() -> None:
    source = Flaky(0.002)
    stays, goes = taps_of(grabber_of(source), 2)
    for tap in (stays, goes):
        tap.start()
    wait_for("frames", lambda: goes.passed("undecodable") > 5)
    goes.stop()
    left = goes.passed("undecodable")
    wait_for("more", lambda: stays.passed("undecodable") > left + 20)
    goes.stop()
    assert goes.passed("undecodable") == left and goes.status().frames <= 2 * left + 1
    stays.stop()
    assert stays.passed("undecodable") == source.undecodable


def test_one_that_comes_later_counts_from_then_on() -> None:
    source = Opened(0.002)
    first, second = taps_of(grabber_of(source), 2)
    first.start()
    wait_for("frames", lambda: first.status().frames > 20)
    second.start()
    assert source.opened == 1
    frame = second.slot.get(10)
    assert frame is not None and frame.seq > 20
    assert second.status().frames < first.status().frames - 15
    for tap in (first, second):
        tap.stop()


def test_no_picture_is_made_where_nobody_wants_one_and_each_says_why() -> None:
    source = Steady(0.002)
    capped, busy = taps_of(grabber_of(source), 2)
    for tap in (capped, busy):
        tap.start()
    try:
        wait_for("a tempo", lambda: busy.status().frames > 2 * ARRIVALS)
        until_ns = clock.now_ns() + 400_000_000
        capped.not_before("rate_cap", until_ns)
        busy.busy_until(until_ns)
        stale = busy.status().stale
        wait_for("that time", lambda: clock.now_ns() > until_ns)
        assert source.passed > 20
        assert capped.passed("rate_cap") >= source.passed - 1 and busy.passed("rate_cap") == 0
        assert busy.status().stale - stale >= source.passed - 1
    finally:
        for tap in (capped, busy):
            tap.stop()


def test_one_that_wants_it_has_it_and_the_others_are_not_woken_for_it() -> None:
    source = Steady(0.002)
    capped, eager = taps_of(grabber_of(source), 2)
    for tap in (capped, eager):
        tap.start()
    try:
        capped.not_before("rate_cap", clock.now_ns() + 3_600_000_000_000)
        wait_for("frames that it does without", lambda: capped.passed("rate_cap") > 20)
        assert source.passed == 0, "there are pictures all the same"
        assert eager.passed("rate_cap") == 0 and eager.slot.get(10) is not None
        frames, stale = capped.status().frames, capped.status().stale
        assert frames - stale - capped.passed("rate_cap") in range(4)
    finally:
        for tap in (capped, eager):
            tap.stop()


def test_all_hear_that_it_is_lost_and_back() -> None:
    heard: list[list[Outcome | None]] = [[], []]
    with CameraServer() as camera:
        grabber = grabber_of(make_source(SourceOptions(camera.url, open_timeout_s=5.0, read_timeout_s=30.0)))
        taps = [grabber.tap(lambda outcome, why, said=said: said.append(outcome)) for said in heard]
        with Pusher(camera):
            for tap in taps:
                tap.start()
            wait_for("frames", lambda: all(tap.status().frames for tap in taps))
            camera.hang_up()
            wait_for("the loss", lambda: all(tap.status().outcome is Outcome.LOST for tap in taps))
            camera.answer_again()
            wait_for("the return", lambda: all(tap.status().outcome is None and tap.status().reopened for tap in taps))
        for tap in taps:
            tap.stop()
    assert all(said[-3:] in ([Outcome.LOST, None], [None, Outcome.LOST, None]) for said in heard), heard


def test_what_can_never_be_opened_is_the_first_ones_error(tmp_path: Path) -> None:
    taps = taps_of(grabber_of(make_source(SourceOptions(str(tmp_path / "no.mp4")))), 2)
    with pytest.raises(SourceError, match="no such file"):
        taps[0].start()


def pipelines_of(toml: str, tmp_path: Path) -> tuple[Cameras, Sequence[Any]]:
    config = parse_config(f'state_dir = "{tmp_path}"\n{toml}'.encode(), Path("x.toml"))
    prepared = prepare(config, Path("x.toml"))
    return Cameras(prepared), prepared


TWO = """
[pipeline.a]
model = "coco-ssdlite-mobilenet-v2"
source = "{a}"
[pipeline.b]
model = "vtest-person"
max_fps = 2.0
source = "{b}"
"""


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [
        ("v4l2:///dev/video0", "v4l2:///dev/video0", True),
        ("rtsp://camera/live", "rtsp://camera/live", True),
        ("rtsp://camera/live", "rtsp://camera/small", False),
        ("v4l2:///dev/video0", "v4l2:///dev/video1", False),
    ],
)
def test_the_same_camera_is_one(a: str, b: str, shared: bool, tmp_path: Path) -> None:
    cameras, prepared = pipelines_of(TWO.format(a=a, b=b), tmp_path)
    assert list(cameras.shared.values()) == ([["a", "b"]] if shared else [])
    taps = [cameras.tap(pipeline, lambda *_: None) for pipeline in prepared]
    assert (taps[0]._grabber is taps[1]._grabber) is shared


@pytest.mark.parametrize(("regions", "planes"), [("", True), ("a", True), ("b", True), ("ab", False)])
def test_bgr_is_made_for_all_where_nobody_takes_planes(regions: str, planes: bool, tmp_path: Path) -> None:
    table = '[pipeline.{}]\nmodel = "coco-ssdlite-mobilenet-v2"\nsource = "rpicam://0"\n'
    region = "[pipeline.{}.region]\ntiles = [2, 2]\n"
    toml = "".join((table + region * (name in regions)).format(name, name) for name in "ab")
    cameras, prepared = pipelines_of(toml, tmp_path)
    grabbers = {cameras.tap(pipeline, lambda *_: None)._grabber for pipeline in prepared}
    assert [grabber._to_bgr is None for grabber in grabbers] == [planes]


def test_a_file_that_waits_for_who_takes_it_is_not_shared(tmp_path: Path) -> None:
    table = '[pipeline.{}]\nmodel = "vtest-person"\n[pipeline.{}.source]\nurl = "{}"\npace = "{}"\n'
    for pace, shared in (("max", 0), ("native", 1)):
        toml = "".join(table.format(name, name, tmp_path / "a.mp4", pace) for name in "ab")
        assert len(pipelines_of(toml, tmp_path)[0].shared) == shared


class Jpegs(Steady):
    """A camera of JPEG, each frame a new one."""

    def picture(self, into: UInt8Array | None) -> Reading | None:
        super().picture(into)
        return Reading(jpeg_of(np.full((720, 1280, 3), self.left % 256, np.uint8)), 0)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Any], Jpegs, Decoded]]:
    """Two pipelines that run on a camera of JPEG, it, and what is decoded."""
    config = parse_config(
        f'state_dir = "{tmp_path}"\n{TWO.format(a="rtsp://camera/live", b="rtsp://camera/live")}'.encode(),
        Path("x.toml"),
    )
    source = Jpegs(0.05)
    prepared = prepare(config, Path("x.toml"))
    for pipeline in prepared:
        object.__setattr__(pipeline, "source", source)
    cameras = Cameras(prepared)
    loaded = load_models(prepared, config.engine)
    outbox = MemoryOutbox(1, max_messages=1000, max_bytes=1 << 24)
    pipelines = [
        make_pipeline(
            p,
            loaded[p.name],
            outbox,
            NoAudience(),
            clock_state=lambda: "synced",
            on_source=lambda *_: None,
            cameras=cameras,
        )
        for p in prepared
    ]
    lanes = {id(found.lane): found.lane for found in loaded.values()}.values()
    decoded = Decoded(monkeypatch)
    for lane in lanes:
        lane.start()
    for pipeline in pipelines:
        pipeline.feed.start()
        pipeline.start()
    yield pipelines, source, decoded
    for pipeline in pipelines:
        pipeline.feed.stop()
        pipeline.stop()
    for lane in lanes:
        lane.stop()
        lane.close()


def test_two_networks_look_at_one_camera_and_every_account_closes(two: tuple[list[Any], Jpegs, Decoded]) -> None:
    pipelines, _, decoded = two
    detector, small = pipelines
    wait_for("both", lambda: detector.stats.results >= 12 and small.stats.results >= 2)
    for pipeline in pipelines:
        pipeline.feed.stop()
        pipeline.stop()
        pipeline.count_passed()
        status, dropped = pipeline.feed.status(), pipeline.stats.dropped()
        assert pipeline.stats.results + status.stale + sum(dropped.values()) == status.frames
    assert small.stats.dropped()["rate_cap"] > 0
    assert len(decoded.flags) <= detector.stats.results + small.stats.results + 2
