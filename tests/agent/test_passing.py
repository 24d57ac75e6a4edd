"""Frames that nobody will look at: let go without a picture, counted, and never the one that is wanted."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from real import CLIP, wait_for
from test_pipeline import Run, SmallEngine, detector, picture

from vedette import clock
from vedette.contract.types import Frame, UInt8Array
from vedette.flow.feed import FrameFeed
from vedette.flow.pipeline import BUFFERS, PATIENCE
from vedette.sources import Grabber, Slot, SourceOptions, Tap, base, make_source
from vedette.sources.base import ARRIVALS, Passing, Reading, _Tempo
from vedette.sources.pace import Pace


class Steady:
    """A camera whose frames come evenly."""

    live = True

    def __init__(self, interval_s: float, frames: int = 1_000_000) -> None:
        self.endless = frames == 1_000_000
        self.left = frames
        self.pictures = 0
        self.passed = 0
        self._pace = Pace(interval_s)
        self._came = False  # a frame, and no picture of it was asked for

    def open(self) -> None:
        """Nothing to open."""

    def step(self, frames: int) -> None:
        """Until so many more have come."""
        until = self.left - frames
        wait_for("frames", lambda: self.left <= until)

    def _next(self) -> bool:
        self._pace.wait()
        self.left -= 1
        return self.left >= 0

    def read(self, into: UInt8Array | None) -> Reading | None:
        return self.picture(into) if self.pass_over() else None

    def pass_over(self) -> bool:
        self.passed += self._came  # the one before, for nobody asked for its picture
        self._came = self._next()
        return self._came

    def picture(self, into: UInt8Array | None) -> Reading | None:
        self._came = False
        self.pictures += 1
        return Reading(picture(), 0)

    def close(self) -> None:
        """The last frame, too, counts."""
        self.passed += self._came
        self._came = False


def grabber_of(source: Steady) -> Tap:
    return Grabber(source, name="test", stall_timeout_s=60, frozen_timeout_s=0).tap(lambda *_: None)


def test_until_a_frame_is_wanted_others_are_let_go_and_counted() -> None:
    source = Steady(0.002)
    grabber = grabber_of(source)
    grabber.start()
    try:
        wait_for("a tempo", lambda: grabber.status().frames > 2 * ARRIVALS)
        assert source.passed == 0, "nobody has said when"
        wanted_ns = clock.now_ns() + 500_000_000
        grabber.not_before("rate_cap", wanted_ns)
        grabber.not_before("slowed", wanted_ns - 400_000_000)
        wait_for("that time", lambda: clock.now_ns() > wanted_ns)
        grabber.slot.get(1)
        assert grabber.slot.get(1) is not None, "from then on there are pictures"
    finally:
        grabber.stop()
    assert grabber.passed("rate_cap") == source.passed > 20 and grabber.passed("slowed") == 0
    status = grabber.status()
    assert status.frames == source.pictures + source.passed


def test_a_camera_is_looked_at_now_and_then_however_late_a_frame_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LOOK_NS", 50_000_000)
    source = Steady(0.002)
    grabber = grabber_of(source)
    grabber.not_before("rate_cap", clock.now_ns() + 3_600_000_000_000)
    grabber.start()
    try:
        wait_for("frames passed over", lambda: source.passed > 0)
        seen = source.pictures
        wait_for("pictures all the same", lambda: source.pictures > seen + 3)
    finally:
        grabber.stop()
    assert grabber.passed("rate_cap") == source.passed


def test_when_the_next_frame_comes_is_told_from_the_last_ones() -> None:
    tempo = _Tempo()
    for now in range(ARRIVALS):
        tempo.came(1000 + now)
        assert tempo.likely_ns is None and tempo.expected_ns is None, "too few have come"
    tempo.came(1000 + ARRIVALS)
    assert tempo.likely_ns == tempo.expected_ns == 1000 + ARRIVALS + 1
    now = 1000 + ARRIVALS
    for wait in (50, 40, 30, 20):  # of 32, three may be later than is likely
        now += wait
        tempo.came(now)
    assert (tempo.likely_ns, tempo.expected_ns) == (now + 20, now + 1)


def test_a_camera_whose_frames_come_in_bursts_is_not_relied_upon() -> None:
    source = Steady(0.001)
    grabber = grabber_of(source)
    wait, waits = source._pace.wait, itertools.cycle([0.06, 0.0, 0.0, 0.0, 0.0])
    source._pace.wait = lambda: (wait(), time.sleep(next(waits)))[0]  # type: ignore[method-assign]
    grabber.start()
    try:
        wait_for("a tempo", lambda: grabber.status().frames > 2 * ARRIVALS)
        until_ns = clock.now_ns() + 50_000_000  # sooner than the next burst may be there
        grabber.busy_until(until_ns)
        wait_for("that time", lambda: clock.now_ns() > until_ns)
        assert source.passed == 0
    finally:
        grabber.stop()


def test_above_the_rate_that_is_asked_for_no_pictures_are_made_and_the_account_closes() -> None:
    source = Steady(0.002, 400)
    run = Run(detector([0.9], [0]), [], source=source, max_fps=10.0).to_the_end()
    messages = len(run.messages())
    assert source.passed > 0 and source.pictures < 300
    dropped = run.stats.dropped()
    assert messages + dropped["rate_cap"] + run.grabber.status().stale == run.grabber.status().frames == 400


def test_what_is_wanted_of_an_idle_capped_pipeline_is_what_it_gets() -> None:
    source = Steady(0.01)
    run = Run(detector([0.9], [0]), [], source=source, max_fps=2.0)
    with run:
        wait_for("frames let go", lambda: source.passed > 20)
        for _ in range(10):
            frames = run.grabber.status().frames
            run.pipeline.count_passed()
            dropped = run.stats.dropped()
            wanted = frames - dropped["rate_cap"]
            assert wanted <= run.stats.results + run.grabber.slot.stale + 4, "what is on its way, and no more"
            source.step(3)


def test_what_the_governor_caps_is_let_go_and_a_higher_cap_is_heard_at_once() -> None:
    source = Steady(0.002)
    run = Run(detector([0.9], [0]), [], source=source)
    feed = run.pipeline.feed
    assert isinstance(feed, FrameFeed)
    with run:
        feed.limit(5.0)
        wait_for("frames let go", lambda: source.passed > 50)
        assert feed.slowed >= source.passed - 1 > 0
        passed, pictures = source.passed, source.pictures
        for _ in range(50):
            feed.limit(5.0)  # as the governor does, again and again
            source.step(4)
        assert source.passed - passed > 2 * (source.pictures - pictures), "the same cap is no news"
        feed.limit(0.0)
        pictures = source.pictures
        wait_for("pictures", lambda: source.pictures > pictures + 20)
    assert run.stats.dropped().keys() <= {"stopped"}, "that was on its way at the end"


def test_of_a_video_those_after_the_one_passed_over_are_what_they_were() -> None:
    options = SourceOptions(url=str(CLIP), pace="native")
    whole, passing = make_source(options), make_source(options)
    assert isinstance(passing, Passing)
    for source in (whole, passing):
        source.open()
    try:
        for number in range(6):
            expected = whole.read(None)
            assert expected is not None
            if number % 2:
                assert passing.pass_over()
            else:
                given = passing.read(None)
                assert given is not None and np.array_equal(given.pixels, expected.pixels)
    finally:
        whole.close()
        passing.close()


def frame(seq: int) -> Frame:
    return Frame(seq, clock.now_ns(), 0, picture())


def test_while_nobody_takes_frames_those_that_others_replace_are_let_go_and_counted_as_stale() -> None:
    source = Steady(0.002)
    grabber = grabber_of(source)
    grabber.start()
    try:
        wait_for("a tempo", lambda: grabber.status().frames > 2 * ARRIVALS)
        assert source.passed == 0, "nobody has said that they are busy"
        until_ns = clock.now_ns() + 500_000_000
        grabber.busy_until(until_ns)
        wait_for("frames let go", lambda: source.passed > 20)
        wait_for("that time", lambda: clock.now_ns() > until_ns)
        passed, pictures = source.passed, source.pictures
        wait_for("pictures of all again", lambda: source.pictures > pictures + 20)
        assert source.passed <= passed + 1, "the one that was on its way"
    finally:
        grabber.stop()
    status = grabber.status()
    assert status.frames == source.pictures + source.passed
    left = status.frames - status.stale
    assert left in (1, 2), "the one in the slot, and one that found it closed"
    assert grabber.passed("stale") == 0


def test_a_pipeline_that_is_behind_has_no_pictures_made_that_it_would_never_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(SmallEngine):
        def invoke(self, *tensors: Any, deadline_s: float | None = None) -> None:
            time.sleep(0.04)
            super().invoke(*tensors, deadline_s=deadline_s)

    quick = detector([0.9], [0])
    quick.__class__ = Slow
    source = Steady(0.002, 600)
    run = Run(quick, [], source=source)
    take, patience_ns = run.pipeline.feed.take, []

    def taking(timeout_s: float, patience: int = 0) -> Any:
        patience_ns.append(patience)
        return take(timeout_s, patience)

    monkeypatch.setattr(run.pipeline.feed, "take", taking)
    run.to_the_end()
    assert patience_ns[0] == 0, "no inference as yet"
    assert all(patience >= PATIENCE * 40e6 for patience in patience_ns[BUFFERS:])
    assert source.passed > 30 and run.stats.dropped() == {}
    assert len(run.messages()) + run.grabber.status().stale == run.grabber.status().frames == 600


LONG_NS = 60_000_000_000


class Soon:
    """Whether what is done in it took less than half of `LONG_NS`: nobody waited for the time to be up."""

    def __enter__(self) -> None:
        self._until_ns = clock.now_ns() + LONG_NS // 2

    def __exit__(self, *_: object) -> None:
        assert clock.now_ns() < self._until_ns, "somebody waited for what would not come"


def test_a_newer_frame_is_waited_for_only_where_one_waits_already() -> None:
    slot = Slot()
    with Soon():
        slot.await_newer(clock.now_ns(), clock.now_ns() + LONG_NS)  # nothing is there: `get` waits for it
    slot.put(frame(1), wait=False)
    slot.await_newer(0, clock.now_ns() - 1)
    for happens in (lambda: slot.put(frame(2), wait=False), slot.close):
        with Soon():
            waits = threading.Thread(target=slot.await_newer, args=(0, clock.now_ns() + LONG_NS))
            waits.start()
            waits.join(0.05)
            assert waits.is_alive()
            happens()
            waits.join()
    newest = slot.get(0)
    assert newest is not None and newest.seq == 2


def test_a_newer_frame_is_waited_for_no_longer_than_the_one_that_is_there_is_old() -> None:
    slot = Slot()
    slot.put(frame(1), wait=False)
    with Soon():
        slot.await_newer(clock.now_ns() + LONG_NS, clock.now_ns() + LONG_NS)
    slot.put(replace(frame(2), captured_ns=clock.now_ns() - 2 * LONG_NS), wait=False)
    waits = threading.Thread(target=slot.await_newer, args=(clock.now_ns() + LONG_NS, clock.now_ns() + LONG_NS))
    waits.start()
    waits.join(0.05)
    assert waits.is_alive()
    slot.close()
    waits.join()


def test_a_frame_that_is_expected_in_time_is_waited_for() -> None:
    source = Steady(0.05)
    grabber = grabber_of(source)
    feed = FrameFeed(grabber)
    grabber.start()
    try:
        wait_for("a tempo", lambda: grabber.status().frames > ARRIVALS + 1)
        taken = feed.take(1)
        assert taken is not None
        wait_for("another frame", lambda: grabber.status().frames > taken.seq)
        waits = grabber.status().frames
        time.sleep(0.03)  # more than half of the way to the next
        with Soon():
            patient = feed.take(1, LONG_NS)
        assert patient is not None and patient.seq > waits
    finally:
        grabber.stop()


@pytest.mark.parametrize("expected_s", [None, 3600.0, -3600.0])
def test_one_that_is_not_expected_in_time_is_not(expected_s: float | None) -> None:
    grabber = grabber_of(Steady(3600.0))
    grabber.slot.put(frame(1), wait=False)
    grabber._grabber.expected_ns = None if expected_s is None else clock.now_ns() + int(expected_s * 1e9)
    with Soon():
        waits = FrameFeed(grabber).take(1, LONG_NS)
    assert waits is not None and waits.seq == 1


def test_a_feed_is_not_closed_while_its_last_frame_waits() -> None:
    grabber = grabber_of(Steady(0.0, 1))
    feed = FrameFeed(grabber)
    grabber.start()
    try:
        wait_for("the end", lambda: grabber.slot.closed)
        assert not feed.closed
        assert feed.take(0) is not None
        assert feed.closed
    finally:
        grabber.stop()


def short_video(folder: Path) -> Path:
    """Three frames, each of another grey."""
    path = folder / "short.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 200.0, (96, 64))
    for grey in (40, 120, 200):
        writer.write(np.full((64, 96, 3), grey, np.uint8))
    writer.release()
    return path


def test_the_end_of_a_video_is_one_when_it_is_passed_over(tmp_path: Path) -> None:
    source = make_source(SourceOptions(url=str(short_video(tmp_path)), pace="native"))
    assert isinstance(source, Passing)
    source.open()
    began = time.monotonic()
    assert [source.pass_over() for _ in range(4)] == [True, True, True, False]
    assert time.monotonic() - began >= 2 / 200, "at the video's own pace"
    source.close()


def test_a_video_that_loops_goes_on_from_its_beginning_when_its_end_is_passed_over(tmp_path: Path) -> None:
    source = make_source(SourceOptions(url=str(short_video(tmp_path)), pace="native", loop=True))
    assert isinstance(source, Passing)
    source.open()
    first = source.read(None)
    assert first is not None and all(source.pass_over() for _ in range(5))
    again = source.read(None)
    assert again is not None and np.array_equal(again.pixels, first.pixels)
    source.close()


def slowly(engine: SmallEngine, seconds: float) -> SmallEngine:
    """Each inference takes so long."""
    invoke = engine.invoke

    def slow(*arguments: Any, **options: Any) -> None:
        time.sleep(seconds)
        invoke(*arguments, **options)

    engine.invoke = slow  # type: ignore[method-assign]
    return engine


def test_a_cameras_frame_is_taken_as_late_as_the_first_inferences_say() -> None:
    run = Run(slowly(detector([0.9], [0]), 0.2), [], source=Steady(0.005))
    with run:
        wait_for("six messages", lambda: run.stats.results >= 6)
    latencies = [message["latency_ms"] for message in run.messages()[3:6]]
    # the first two were taken when nothing was known
    assert statistics.median(each["queue"] / each["infer"] for each in latencies) < 0.25


def test_a_cameras_frame_is_not_taken_for_an_inference_that_has_not_begun() -> None:
    run = Run(slowly(detector([0.9], [0]), 0.2), [], source=Steady(0.005))
    submit = run.pipeline.seat.submit

    def late(*work: Any) -> None:
        threading.Timer(0.03, submit, work).start()

    run.pipeline.seat.submit = late  # type: ignore[method-assign]
    with run:
        wait_for("eight messages", lambda: run.stats.results >= 8)
    latencies = [message["latency_ms"] for message in run.messages()[3:8]]
    # taken while the one before waits to begin, it would wait for that one, too: for more than an inference
    assert statistics.median(each["queue"] / each["infer"] for each in latencies) < 0.6
