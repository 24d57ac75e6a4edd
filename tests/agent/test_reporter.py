"""What becomes of results: filtered, followed, capped, and appended to the right stream."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette import clock
from vedette.contract.types import Anomaly, Classes, Detections, Frame, Result, Values, Window
from vedette.flow.selection import RateCap, make_filter
from vedette.flow.stats import PipelineStats
from vedette.follow.events import Scene, SceneOptions
from vedette.follow.following import Followed, FollowedScene, FollowedSignal, Following, State, Unfollowed
from vedette.follow.steady import Steady, SteadyOptions
from vedette.follow.track import Tracker, TrackOptions
from vedette.follow.zones import ZoneOptions
from vedette.messages.bodies import BodyWriter
from vedette.messages.reporter import DETECTIONS, EVENTS, Reporter
from vedette.mqtt.results import EngineRef, ModelRef
from vedette.outbox import MemoryOutbox

LABELS = ("cat", "dog")
LATENCY = {"capture": 0.0, "queue": 0.0, "preprocess": 0.0, "infer": 1.0, "decode": 0.0, "total": 1.0}
PIXELS = np.zeros((24, 32, 3), np.uint8)
SECOND = 1_000_000_000


class Heard:
    """An audience that keeps what it hears."""

    looks = True

    def __init__(self) -> None:
        self.states: list[State] = []
        self.frames: list[tuple[Frame, Result, Followed]] = []

    def state(self, state: State, captured_ns: int) -> None:
        self.states.append(state)

    def seen(self, frame: Frame, result: Result, followed: Followed) -> None:
        self.frames.append((frame, result, followed))


class Desk:
    """A reporter, its outbox and its audience; times in seconds from the first sample."""

    def __init__(
        self,
        following: Following | None = None,
        *,
        threshold: float = 0.5,
        detections: bool = True,
        max_detections_hz: float = 0.0,
        publish_empty: bool = True,
    ) -> None:
        self.outbox = MemoryOutbox(1, max_messages=10_000, max_bytes=10**9)
        self.stats = PipelineStats(clock.now_ns())
        self.heard = Heard()
        self.begun_ns = clock.now_ns()
        self.seq = 0
        model = ModelRef("m", "1", "0" * 64)
        self.reporter = Reporter(
            "p", BodyWriter(LABELS, model, EngineRef("r", "d")), model, make_filter(LABELS, [], threshold, {}),
            following or Unfollowed(), self.outbox, self.stats, self.heard, detections=detections,
            max_detections_hz=max_detections_hz, publish_empty=publish_empty, clock_state=lambda: "synced",
        )  # fmt: skip

    def frame(self, at_s: float, result: Result) -> None:
        self.seq += 1
        self.reporter(Frame(self.seq, self.begun_ns + int(at_s * SECOND), 0, PIXELS), result, LATENCY)

    def window(self, at_s: float, result: Result) -> None:
        self.seq += 1
        window = Window(self.seq, self.begun_ns + int(at_s * SECOND), 5_000, 9_000, np.zeros((5, 2), np.float32))
        self.reporter(window, result, LATENCY)

    def messages(self) -> dict[str, list[Any]]:
        """By topic."""
        found: dict[str, list[Any]] = {DETECTIONS: [], EVENTS: []}
        for entry in self.outbox.batch(10_000, 0):
            found[entry.key.stream.topic].append(msgspec.json.decode(entry.body))
        return found


def box(x: float, score: float = 0.9, class_id: int = 0) -> Detections:
    """One object whose left edge is at ``x``."""
    return Detections(
        np.array([[x, 0.2, x + 0.1, 0.6]], np.float32), np.array([score], np.float32), np.array([class_id], np.int32)
    )


def scene(**options: Any) -> FollowedScene:
    thresholds = make_filter(LABELS, [], 0.5, {}).thresholds
    zones = {"yard": ZoneOptions(polygon=((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))}
    return FollowedScene(
        Tracker(TrackOptions(), thresholds), Scene(SceneOptions(min_duration_s=0.2, debounce_s=0.2), LABELS, zones, {})
    )


def test_a_walk_through_a_zone_is_a_handful_of_events_with_one_track() -> None:
    desk = Desk(scene(), detections=False)
    for step in range(40):  # 4 s, from left to right
        desk.frame(step / 10, box(0.1 + step * 0.02))
    desk.reporter.end(desk.begun_ns + 4 * SECOND)
    messages = desk.messages()
    assert messages[DETECTIONS] == []
    assert [m["kind"] for m in messages[EVENTS]] == ["track_began", "zone_entered", "zone_left", "track_ended"]
    assert {m["track"] for m in messages[EVENTS]} == {1}
    assert messages[EVENTS][1]["zone"] == "yard"
    counts = [(s.counts, s.zones["yard"]) for s in desk.heard.states if hasattr(s, "counts")]
    assert counts == [({}, {}), ({"cat": 1}, {}), ({"cat": 1}, {"cat": 1}), ({"cat": 0}, {"cat": 0})]


def test_poor_detections_keep_a_track_and_are_not_reported() -> None:
    desk = Desk(scene())
    for step in range(20):
        desk.frame(step / 10, box(0.3, 0.9 if step < 5 or step > 14 else 0.3))
    messages = desk.messages()
    found = [m["objects"] for m in messages[DETECTIONS]]
    assert [len(objects) for objects in found] == [1] * 5 + [0] * 10 + [1] * 5
    assert found[4][0]["track"] == found[-1][0]["track"] == 1, "the same object after a second of poor scores"
    assert [m["kind"] for m in messages[EVENTS]] == ["track_began"]


def test_what_nobody_looked_at_does_not_end_a_track() -> None:
    desk = Desk(scene())
    for step in range(10):
        desk.frame(step / 10, box(0.3))
    desk.reporter.hold(desk.begun_ns + 60 * SECOND)
    for step in range(3):
        desk.frame(60 + step / 10, box(0.3))
    assert [m["kind"] for m in desk.messages()[EVENTS]] == ["track_began"]


def test_another_threshold_holds_from_the_next_frame_on() -> None:
    desk = Desk(scene())
    desk.frame(0.0, box(0.3, 0.6))
    desk.reporter.label_filter = make_filter(LABELS, [], 0.7, {})
    desk.frame(0.1, box(0.3, 0.6))
    desk.frame(0.2, box(0.3, 0.8))
    assert [len(m["objects"]) for m in desk.messages()[DETECTIONS]] == [1, 0, 1]


def test_detections_are_capped_by_time_of_capture_and_counted() -> None:
    desk = Desk(max_detections_hz=2.0)
    for step in range(20):
        desk.frame(step / 10, box(0.3))
    assert len(desk.messages()[DETECTIONS]) == 4
    assert desk.stats.dropped() == {"detections_cap": 16}
    assert desk.outbox.ledger()[0].last == 4, "a seq is given after the cap"
    assert len(desk.heard.frames) == 20, "the audience sees every frame"


def test_frames_without_a_finding_are_left_out_where_so_configured() -> None:
    desk = Desk(publish_empty=False)
    desk.frame(0.0, box(0.3, 0.1))
    desk.frame(0.1, box(0.3, 0.9))
    desk.window(0.2, Values(np.array([1.0, 2.0], np.float32)))
    assert [sorted({"objects", "values"} & set(m)) for m in desk.messages()[DETECTIONS]] == [["objects"], ["values"]]


def test_an_anomaly_begins_and_ends_once() -> None:
    desk = Desk(FollowedSignal(Steady(SteadyOptions(enter=2, of=2, leave=2), LABELS)))
    scores = [0.1, 2.0, 0.1, 2.0, 3.0, 2.5, 0.9, 0.1, 0.1, 0.1]
    for second, score in enumerate(scores):
        desk.window(second, Anomaly(score, 1.0, np.array([score, 0.0], np.float32)))
    messages = desk.messages()
    assert [m["anomaly"]["anomalous"] for m in messages[DETECTIONS]] == [s > 1.0 for s in scores]
    assert messages[DETECTIONS][0]["window"] == {"seq": 1, "samples": 5, "first_us": 5, "last_us": 9}
    assert "frame" not in messages[DETECTIONS][0]
    assert [m["kind"] for m in messages[EVENTS]] == ["anomaly_began", "anomaly_ended"]
    assert messages[EVENTS][1]["peak"] == 3.0


def test_a_class_is_taken_over_when_it_holds() -> None:
    desk = Desk(FollowedSignal(Steady(SteadyOptions(enter=3, of=3, leave=3), LABELS)), threshold=0.0)
    for second, class_id in enumerate([0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1]):
        desk.window(second, Classes(np.array([0.9, 0.1], np.float32), np.array([class_id, 1 - class_id], np.int32)))
    events = desk.messages()[EVENTS]
    first, last = events[0], events[-1]
    assert (first["kind"], first["previous"], first["label"]) == ("class_changed", None, "cat")
    assert last["label"] == "dog"
    assert sum(m["label"] == "cat" for m in events) == 1, "one window of another class is no change"


def test_events_are_dated_by_the_frame_that_made_them_certain() -> None:
    desk = Desk(scene())
    for step in range(10):
        desk.frame(step / 10, box(0.3))
    desk.outbox.mark_replay()
    [event] = [e for e in desk.outbox.batch(100, 0) if e.key.stream.topic == EVENTS]
    body = msgspec.json.decode(event.body)
    assert body["ago_s"] == pytest.approx(0.2, abs=0.11)
    assert (event.captured_ns - desk.begun_ns) / 1e9 - body["ago_s"] == pytest.approx(0.0, abs=0.01)


@given(
    max_hz=st.floats(0.1, 100.0),
    gaps_ms=st.lists(st.integers(0, 5000), min_size=1, max_size=200),
    begun_s=st.integers(0, 10**6),
)
def test_a_cap_holds_over_every_stretch_of_time(max_hz: float, gaps_ms: list[int], begun_s: int) -> None:
    cap = RateCap(max_hz)
    now = begun_s * SECOND
    passed = []
    for gap_ms in gaps_ms:
        now += gap_ms * 1_000_000
        if cap.due(now):
            passed.append(now)
    for i, first in enumerate(passed):
        for j, last in enumerate(passed[i:], start=1):
            # over any stretch: one at its beginning, and one more than the rate allows, for one may be late
            assert j <= (last - first) / 1e9 * max_hz + 2.001
    assert passed[0] == begun_s * SECOND + gaps_ms[0] * 1_000_000, "the first passes"


def test_no_cap_lets_everything_pass() -> None:
    cap = RateCap(0.0)
    assert all(cap.due(now) for now in (0, 0, 1, 1))
