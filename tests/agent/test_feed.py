"""Windows as a pipeline takes them: in their order, bounded where time goes on, waiting where it does not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

import numpy as np
import pytest
from real import DEADLINE_S, wait_for

from vedette import clock
from vedette.contract.errors import SourceLostError
from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.types import Readings, Window
from vedette.flow.feed import WINDOWS, WindowFeed, stop_all
from vedette.messages.reports import sensor
from vedette.sources import Outcome, SensorOptions, SensorSource, make_sensor_source
from vedette.sources.lines import Tally

SPEC = SeriesInput(channels=(Channel(name="x"), Channel(name="y")), length=4, stride=2)


class Scripted:
    """A sensor that gives what it is handed: batches of readings, an error to raise, or None for its end."""

    reopens_when_silent = False

    def __init__(self, steps: Sequence[Readings | Exception | None], *, live: bool, endless: bool) -> None:
        self.live = live
        self.endless = endless
        self.tally = Tally()
        self.opened = 0
        self._steps: SimpleQueue[Readings | Exception | None] = SimpleQueue()
        for step in steps:
            self._steps.put(step)

    def open(self) -> None:
        self.opened += 1

    def read(self, timeout_s: float) -> Readings | None:
        try:
            step = self._steps.get(timeout=timeout_s)
        except Empty:
            return readings(0, 0)
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        """Nothing to give back."""


def readings(first: int, count: int) -> Readings:
    """Numbered from ``first``: x counts, y is ten times as much."""
    numbers = np.arange(first, first + count, dtype=np.float32)
    times_ns = (np.arange(first, first + count) * 10_000_000).astype(np.int64)
    return Readings(np.stack((numbers, numbers * 10), axis=1), times_ns, clock.now_ns(), True)


class Fed:
    """A feed and what was said of its source."""

    def __init__(self, source: SensorSource, *, stride: int | None = None, spec: SeriesInput = SPEC) -> None:
        self.outcomes: list[Outcome | None] = []
        self.feed = WindowFeed(
            source, spec, name="pump", stride=stride, stall_timeout_s=60,
            on_change=lambda outcome, why: self.outcomes.append(outcome),
        )  # fmt: skip

    def __enter__(self) -> Fed:
        self.feed.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.stop()

    def firsts(self) -> list[int]:
        """The first reading of each window, until there are no more."""
        found = []
        while not self.feed.closed:
            window = self.feed.take(0.05)
            if window is not None:
                found.append(int(window.values[0, 0]))
        return found


def test_a_recording_is_taken_whole_however_slow_the_pipeline_is() -> None:
    count = 10 * WINDOWS * SPEC.stride
    with Fed(Scripted([readings(0, count), None], live=False, endless=False)) as fed:
        wait_for("the first windows", lambda: fed.feed.status().frames >= 1)
        assert not fed.feed.closed
        assert fed.firsts() == list(range(0, count - SPEC.length + 1, SPEC.stride))
        assert fed.feed.status().stale == 0
        assert fed.outcomes[-1] is Outcome.END


def test_a_live_sensor_drops_the_oldest_windows_and_counts_them() -> None:
    count = SPEC.length + SPEC.stride * (2 * WINDOWS - 1)
    source = Scripted([readings(0, count)], live=True, endless=True)
    with Fed(source) as fed:
        wait_for("all windows", lambda: fed.feed.status().frames == 2 * WINDOWS)
        wait_for("the oldest to go", lambda: fed.feed.status().stale == WINDOWS)
        first = fed.feed.take(DEADLINE_S)
        assert isinstance(first, Window) and int(first.values[0, 0]) == WINDOWS * SPEC.stride
        assert first.seq == WINDOWS + 1, "dropped ones are counted in seq"


@pytest.mark.parametrize("step_s", [0.0001, 1 / 3, 1800])
def test_the_rate_of_a_slow_sensor_is_told_as_exactly_as_that_of_a_quick_one(step_s: float) -> None:
    times_ns = (np.arange(9) * step_s * 1e9).astype(np.int64)
    slow = Readings(np.zeros((9, 2), np.float32), times_ns, 0, True)
    with Fed(Scripted([slow, None], live=False, endless=False)) as fed:
        fed.firsts()
        assert sensor(fed.feed).rate_hz == pytest.approx(1 / step_s, rel=1e-5)


def test_feeds_are_stopped_together() -> None:
    """The first sensor is silent until the second one is stopped."""
    reading, stopped = threading.Event(), threading.Event()
    heard: list[bool] = []

    class Silent(Scripted):
        def read(self, timeout_s: float) -> Readings | None:
            reading.set()
            heard.append(stopped.wait(DEADLINE_S / 2))
            return None

    class Other(Scripted):
        def close(self) -> None:
            stopped.set()

    feeds = [Fed(kind([], live=True, endless=True)).feed for kind in (Silent, Other)]
    for feed in feeds:
        feed.start()
    assert reading.wait(DEADLINE_S)
    stop_all(feeds, DEADLINE_S)
    assert heard == [True]


@pytest.mark.parametrize("live", [True, False])
def test_windows_that_nobody_can_take_any_more_are_counted(live: bool) -> None:
    count = SPEC.length + SPEC.stride * (2 * WINDOWS - 1)
    fed = Fed(Scripted([readings(0, count)], live=live, endless=True))
    fed.feed.start()
    wait_for("all windows", lambda: fed.feed.status().frames == 2 * WINDOWS)
    if live:
        wait_for("the oldest to go", lambda: fed.feed.status().stale == WINDOWS)
    fed.feed.stop()
    left = len(fed.firsts())
    assert left == WINDOWS
    assert left + fed.feed.status().stale + fed.feed.passed("stopped") == 2 * WINDOWS


def test_the_stride_may_be_another_than_the_models() -> None:
    with Fed(Scripted([readings(0, 10), None], live=False, endless=False), stride=1) as fed:
        assert fed.firsts() == list(range(7))


@pytest.mark.parametrize(("pace", "rate"), [("max", ""), ("native", "?rate=1000"), ("max", "?rate=1000")])
def test_a_recording_that_begins_again_begins_its_windows_anew(
    tmp_path: Path, pace: Literal["native", "max"], rate: str
) -> None:
    """However short it is: less than a clock is set back by."""
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{n},{n}\n" for n in range(7)))
    url = f"csv://{tmp_path / 'a.csv'}{rate}"
    source = make_sensor_source(SensorOptions(url, ("x", "y"), pace=pace, loop=True))
    with Fed(source) as fed:
        windows = [fed.feed.take(DEADLINE_S) for _ in range(6)]
        assert [int(window.values[0, 0]) for window in windows if isinstance(window, Window)] == [0, 2, 0, 2, 0, 2]
        counts = fed.feed.counts
        assert (counts.late, counts.gaps, counts.clock_back) == (0, 0, 0)


def test_no_window_spans_a_loss() -> None:
    # three readings, a loss, three more: six in a row, but not of one stretch
    source = Scripted(
        [readings(0, 3), SourceLostError("unplugged"), readings(3, 3), readings(6, 1)], live=True, endless=True
    )
    with Fed(source) as fed:
        window = fed.feed.take(DEADLINE_S)
        assert window is not None
        assert window.values[:, 0].tolist() == [3, 4, 5, 6]
        assert source.opened == 2
        assert fed.outcomes == [Outcome.LOST, None]
        assert fed.feed.status().reopened == 1


def test_what_went_wrong_is_news_once() -> None:
    source = Scripted([readings(0, 4), readings(2, 2)], live=True, endless=True)
    with Fed(source) as fed:
        wait_for("the late readings", lambda: fed.feed.counts.late == 2)
        source.tally.malformed["not a number"] = 3
        source.tally.problems["not a number"] = "'1;2;x'"
        assert dict(fed.feed.news()) == {
            "not a number": "not a number, 3 so far, first: '1;2;x'",
            "late": "late, 2 so far",
        }
        assert fed.feed.news() == []
        source.tally.malformed["not a number"] = 4
        assert [key for key, _ in fed.feed.news()] == ["not a number"]


def test_times_in_milliseconds_are_asked_for_once_and_counted_on() -> None:
    def odd(first: int, count: int) -> Readings:
        right = readings(first, count)
        return Readings(right.values, right.times_ns * 1000, 0, True)

    spec = SeriesInput(channels=SPEC.channels, length=4, stride=2, rate_hz=100.0)
    with Fed(Scripted([odd(0, 6)], live=True, endless=True), spec=spec) as fed:
        wait_for("the gaps", lambda: fed.feed.counts.gaps == 5)
        [(key, text)] = fed.feed.news()
        assert key == "step" and "is t in milliseconds?; write t in seconds" in text and "(5 gaps so far)" in text
        assert fed.feed.news() == []


@pytest.mark.parametrize("live", [True, False])
def test_stopping_wakes_whoever_waits(live: bool) -> None:
    fed = Fed(Scripted([], live=live, endless=live))
    taken: list[object] = []
    fed.feed.start()
    taker = threading.Thread(target=lambda: taken.append(fed.feed.take(DEADLINE_S)))
    taker.start()
    fed.feed.stop()
    taker.join(DEADLINE_S)
    assert not taker.is_alive()
    assert taken == [None]
    assert fed.feed.closed


def test_stopping_wakes_a_recording_that_waits_for_room() -> None:
    fed = Fed(Scripted([readings(0, 10 * WINDOWS * SPEC.stride)], live=False, endless=False))
    fed.feed.start()
    wait_for("the queue to fill", lambda: fed.feed.status().frames > WINDOWS)
    fed.feed.stop(DEADLINE_S)
    assert not any(thread.name == "listen-pump" and thread.is_alive() for thread in threading.enumerate())
