"""What happens before a camera: events and counts, without flicker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.types import Detections
from vedette.follow.events import LOOKS, SCENE_KINDS, Event, Scene, SceneChange, SceneKind, SceneOptions, SceneState
from vedette.follow.following import FollowedScene
from vedette.follow.track import Tracked, Tracker, TrackOptions, Tracks
from vedette.follow.zones import WireOptions, ZoneOptions

LABELS = ("person", "dog", "car")
YARD = ZoneOptions(polygon=((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
GATE = WireOptions(line=((0.5, 1.0), (0.5, 0.0)))
START_NS = 7_000_000_000
INSTANT = SceneOptions(min_duration_s=0.0, debounce_s=0.0)


def boxes_at(actors: list[tuple[float, float]]) -> np.ndarray:
    """(n, 4) by the x of their centre, and their size."""
    rows = [(x - size / 2, 0.5 - size / 2, x + size / 2, 0.5 + size / 2) for x, size in actors]
    return np.array(rows, np.float32).reshape(-1, 4)


class Stage:
    """A scene whose actors are moved by hand, ten frames a second."""

    def __init__(self, options: SceneOptions = INSTANT, zones: Any = None, wires: Any = None) -> None:
        zones, wires = {"yard": YARD} if zones is None else zones, {"gate": GATE} if wires is None else wires
        self.scene = Scene(options, LABELS, zones, wires)
        self.now_ns = START_NS
        self.began: dict[int, tuple[int, float]] = {}
        self.last: dict[int, tuple[float, float, int, int, float]] = {}
        self.events: list[Event] = []
        self.states: list[SceneState] = []

    def show(
        self, *actors: tuple[int, float], class_id: int = 0, score: float = 0.9, size: float = 0.1, frames: int = 1
    ) -> SceneChange:
        """Tracks by id with the x of their centre. Those that were there and are not named any more are unseen."""
        for _ in range(frames):
            self.now_ns += 100_000_000
            for track, x in actors:
                self.began.setdefault(track, (self.now_ns, x))
                self.last[track] = (x, size, class_id, self.now_ns, score)
            change = self._update(())
        return change

    def lose(self, *tracks: int) -> SceneChange:
        """The tracker gives them up."""
        self.now_ns += 100_000_000
        return self._update(tracks)

    def _update(self, gone: tuple[int, ...]) -> SceneChange:
        ended = self._tracks(gone)
        for track in gone:
            del self.last[track]
        tracked = Tracked(np.empty(0, np.int32), self._tracks(sorted(self.last)), np.empty(0, np.int32), ended)
        change = self.scene.update(tracked, self.now_ns)
        self._note(change)
        return change

    def end(self) -> SceneChange:
        change = self.scene.end()
        self._note(change)
        return change

    def _note(self, change: SceneChange) -> None:
        self.events += change.events
        if change.state is not None:
            self.states.append(change.state)

    def _tracks(self, ids: Any) -> Tracks:
        rows = [self.last[track] for track in ids]
        return Tracks(
            ids=np.array(ids, np.int32),
            class_ids=np.array([row[2] for row in rows], np.int32),
            boxes=boxes_at([(x, size) for x, size, *_ in rows]),
            firsts=boxes_at([(self.began[track][1], row[1]) for track, row in zip(ids, rows, strict=True)]),
            velocities=np.zeros((len(rows), 2), np.float32),
            scores=np.array([row[4] for row in rows], np.float32),
            began_ns=np.array([self.began[track][0] for track in ids], np.int64),
            seen_ns=np.array([row[3] for row in rows], np.int64),
            seen=np.array([row[3] == self.now_ns for row in rows], np.bool_),
        )

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def seconds(self, event: Event) -> float:
        """When it happened, since the start."""
        return round((event.at_ns - START_NS) / 1e9, 3)


def test_a_walk_through_the_gate_into_the_yard_and_away() -> None:
    stage = Stage()
    for x in (0.3, 0.4, 0.6, 0.7, 0.4):
        stage.show((1, x))
    stage.lose(1)
    assert stage.kinds == [
        "track_began", "zone_entered", "wire_crossed", "zone_left", "wire_crossed", "track_ended",
    ]  # fmt: skip
    began, entered, into, left, out, ended = stage.events
    assert [stage.seconds(event) for event in stage.events] == [0.1, 0.3, 0.3, 0.5, 0.5, 0.5]
    assert {(event.track, event.label) for event in stage.events} == {(1, "person")}
    assert (entered.zone, left.zone, left.dwell_s) == ("yard", "yard", pytest.approx(0.2))
    assert (into.wire, into.direction, out.direction) == ("gate", "in", "out")
    assert ended.duration_s == pytest.approx(0.4)
    assert ended.path is not None and ended.path.length == pytest.approx(0.1 + 0.2 + 0.1 + 0.3, abs=1e-5)
    assert ended.path.first == pytest.approx((0.3, 0.5)) and ended.path.last == pytest.approx((0.4, 0.5))
    assert began.path is None and began.zone is None and began.dwell_s is None
    assert stage.states[-1] == SceneState({"person": 0}, {"yard": {"person": 0}})


def test_the_state_is_told_at_first_and_then_when_it_changes() -> None:
    stage = Stage(SceneOptions(labels=("person", "dog"), min_duration_s=0.0, debounce_s=0.0))
    assert stage.show().state == SceneState({"person": 0, "dog": 0}, {"yard": {"person": 0, "dog": 0}})
    assert stage.show(frames=3).state is None
    assert stage.show((1, 0.2), (2, 0.7)).state == SceneState(
        {"person": 2, "dog": 0}, {"yard": {"person": 1, "dog": 0}}
    )
    assert stage.show((1, 0.25), (2, 0.75)).state is None
    assert stage.show((1, 0.25)).state is None, "unseen is not gone"
    assert stage.end().state == SceneState({"person": 0, "dog": 0}, {"yard": {"person": 0, "dog": 0}})


def test_who_is_not_seen_is_left_out_of_the_counts_before_the_track_ends() -> None:
    """Somebody lost and found again as another track would count twice."""
    stage = Stage(SceneOptions(min_duration_s=0.0, debounce_s=0.0, unseen_s=0.5))
    stage.show((1, 0.7))
    stage.show(frames=5)
    assert stage.states[-1] == SceneState({"person": 1}, {"yard": {"person": 1}})
    stage.show((2, 0.72))
    assert stage.states[-1] == SceneState({"person": 1}, {"yard": {"person": 1}})
    assert stage.kinds == ["track_began", "zone_entered"] * 2
    stage.show((1, 0.7), (2, 0.8))
    assert stage.states[-1] == SceneState({"person": 2}, {"yard": {"person": 2}})
    stage.show((1, 0.7), frames=8)
    stage.lose(2)
    assert stage.states[-1] == SceneState({"person": 1}, {"yard": {"person": 1}})
    assert stage.kinds[-2:] == ["zone_left", "track_ended"]
    stage.end()
    assert stage.scene.end() == SceneChange((), None)


def test_a_few_frames_without_a_track_leave_it_in_the_counts_however_long_they_took() -> None:
    stage = Stage(SceneOptions(min_duration_s=0.0, debounce_s=0.0, unseen_s=0.0))
    stage.show((1, 0.7))
    for _ in range(LOOKS):
        stage.now_ns += 10_000_000_000
        stage.show()
    assert stage.states[-1].counts == {"person": 1}
    stage.show()
    assert stage.states[-1].counts == {"person": 0}


def test_a_track_counts_after_it_has_lasted() -> None:
    stage = Stage(SceneOptions(min_duration_s=1.0))
    stage.show((1, 0.2), frames=10)
    assert stage.events == []
    stage.show((1, 0.2))
    assert stage.kinds == ["track_began"]
    assert stage.seconds(stage.events[0]) == 0.1, "it began when it was first seen"
    stage.show((2, 0.2))
    stage.lose(2)
    assert stage.kinds == ["track_began"], "who was there for a moment is not told of"


@pytest.mark.parametrize(("options", "poor", "good"), [
    ({"min_score": 0.8}, {"score": 0.7}, {"score": 0.85}),
    ({"min_size": 0.04}, {"size": 0.1}, {"size": 0.25}),
    ({"labels": ("dog",)}, {"class_id": 0}, None),
])  # fmt: skip
def test_what_counts(options: dict[str, Any], poor: dict[str, Any], good: dict[str, Any] | None) -> None:
    stage = Stage(SceneOptions(min_duration_s=0.0, debounce_s=0.0, **options))
    stage.show((1, 0.7), frames=5, **poor)
    assert stage.events == []
    if good is not None:
        stage.show((1, 0.7), **good)
        stage.show((1, 0.7), frames=5, **poor)
        assert stage.kinds == ["track_began", "zone_entered"], "once is enough"


def test_trembling_on_a_zone_s_edge_is_one_visit() -> None:
    stage = Stage(SceneOptions(min_duration_s=0.3, debounce_s=0.5))
    stage.show((1, 0.3), frames=5)
    for _ in range(20):
        stage.show((1, 0.49))
        stage.show((1, 0.51), frames=2)
    assert stage.kinds == ["track_began"], "never inside for long enough"
    stage.show((1, 0.6), frames=5)
    for _ in range(20):
        stage.show((1, 0.49), frames=4)
        stage.show((1, 0.51))
    assert [kind for kind in stage.kinds if kind.startswith("zone")] == ["zone_entered"]
    out_ns = stage.now_ns + 100_000_000
    stage.show((1, 0.3), frames=7)
    entered, left = (event for event in stage.events if event.kind.startswith("zone"))
    assert left.at_ns == out_ns, "when it was outside first"
    assert left.dwell_s == pytest.approx((out_ns - entered.at_ns) / 1e9)


def test_trembling_on_a_wire_is_no_crossing_and_one_that_lasts_is_one() -> None:
    stage = Stage(SceneOptions(min_duration_s=0.0, debounce_s=0.5), zones={})
    stage.show((1, 0.4))
    for _ in range(10):
        stage.show((1, 0.51))
        stage.show((1, 0.49))
    assert "wire_crossed" not in stage.kinds
    stage.show((1, 0.6))
    crossed_s = round((stage.now_ns - START_NS) / 1e9, 3)
    stage.show((1, 0.6), frames=5)
    assert stage.kinds.count("wire_crossed") == 1
    assert stage.events[-1].direction == "in" and stage.seconds(stage.events[-1]) == crossed_s


def test_a_crossing_before_the_track_counted_is_told_when_it_does() -> None:
    stage = Stage(SceneOptions(min_duration_s=1.0, debounce_s=0.0), zones={})
    stage.show((1, 0.4))
    stage.show((1, 0.6), frames=11)
    assert stage.kinds == ["track_began", "wire_crossed"]
    assert stage.seconds(stage.events[1]) == 0.2


def test_a_crossing_that_was_not_certain_yet_is_told_when_the_track_ends() -> None:
    stage = Stage(SceneOptions(min_duration_s=0.0, debounce_s=60.0), zones={})
    stage.show((1, 0.4))
    stage.show((1, 0.6))
    stage.lose(1)
    assert stage.kinds == ["track_began", "wire_crossed", "track_ended"]


def test_where_a_track_is_predicted_to_be_is_no_event() -> None:
    stage = Stage(zones={"yard": YARD})
    stage.show((1, 0.4))
    # the tracker carries it on over the wire, unseen
    stage.last[1] = (0.7, *stage.last[1][1:])
    stage.show(frames=3)
    assert stage.kinds == ["track_began"]


def test_zones_and_wires_look_at_their_labels() -> None:
    zone = ZoneOptions(polygon=YARD.polygon, labels=("dog",))
    wire = WireOptions(line=GATE.line, labels=("dog",), rightward="to_the_yard", leftward="home")
    stage = Stage(zones={"kennel": zone}, wires={"flap": wire})
    stage.show((1, 0.4), class_id=0)
    stage.show((1, 0.6), class_id=0)
    assert stage.kinds == ["track_began"]
    stage.show((2, 0.4), class_id=1)
    stage.show((2, 0.6), class_id=1)
    assert stage.kinds == ["track_began", "track_began", "zone_entered", "wire_crossed"]
    assert stage.events[-1].direction == "to_the_yard"
    assert stage.states[0].zones == {"kennel": {"dog": 0}}


def test_only_what_is_asked_for_is_reported_and_the_counts_hold() -> None:
    stage = Stage(SceneOptions(min_duration_s=0.0, debounce_s=0.0, report=("zone_left",)))
    stage.show((1, 0.6))
    stage.show((1, 0.3))
    assert stage.kinds == ["zone_left"]
    assert stage.states[-1].counts == {"person": 1}


def test_the_end_closes_what_is_open() -> None:
    stage = Stage()
    stage.show((1, 0.7), (2, 0.2))
    change = stage.end()
    assert [event.kind for event in change.events] == ["zone_left", "track_ended", "track_ended"]
    assert stage.end() == SceneChange((), None)


@pytest.mark.parametrize(
    "table",
    [{"min_score": 1.1}, {"min_duration_s": -1}, {"debounce_s": float("nan")}, {"report": ["x"]}, {"lables": []}],
)
def test_options_that_cannot_be(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, SceneOptions)


ACTORS = ((0.45, 0.1, 0), (0.2, 0.2, 1), (0.8, 0.15, 0))
"""x, size and class to begin with."""
MOVES = st.tuples(
    *[st.tuples(st.sampled_from([0.0, 0.01, -0.02, 0.06, -0.08]), st.sampled_from([0.9, 0.7, 0.3, 0.0]))] * 3
)
FILMS = st.lists(st.tuples(MOVES, st.integers(1, 900_000_000), st.integers(0, 9)), max_size=40)


def play(film: list[Any], tracker: Tracker) -> Iterator[tuple[Tracked, int]]:
    """Each actor's steps and scores, 0 for unseen; the time to the next frame; and whether nobody looks in between (0)."""
    places = [x for x, _, _ in ACTORS]
    now_ns = START_NS
    for moves, step_ns, hold in film:
        now_ns += step_ns
        if not hold:
            tracker.hold(now_ns)
        places = [place + step for place, (step, _) in zip(places, moves, strict=True)]
        seen = [
            (x, size, score, kind)
            for x, (_, score), (_, size, kind) in zip(places, moves, ACTORS, strict=True)
            if score
        ]
        boxes = np.array([(x, 0.5, x + size, 0.5 + size) for x, size, _, _ in seen], np.float32).reshape(-1, 4)
        scores, kinds = np.array([row[2] for row in seen], np.float32), np.array([row[3] for row in seen], np.int32)
        yield tracker.update(Detections(boxes, scores, kinds), now_ns), now_ns


OPTIONS = st.builds(
    SceneOptions,
    labels=st.sampled_from([(), ("person",), ("dog", "car")]),
    min_score=st.sampled_from([0.0, 0.6]),
    min_size=st.sampled_from([0.0, 0.02]),
    min_duration_s=st.sampled_from([0.0, 0.5, 2.0]),
    debounce_s=st.sampled_from([0.0, 0.5, 2.0]),
    unseen_s=st.sampled_from([0.0, 0.5, 60.0]),
    report=st.just(SCENE_KINDS),
)
ZONES = {"yard": YARD, "left": ZoneOptions(polygon=((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)), point="centre")}


@given(FILMS, OPTIONS)
def test_whatever_comes_every_end_follows_its_beginning_and_the_counts_are_those_that_are_open_and_were_seen_lately(
    film: list[Any], options: SceneOptions
) -> None:
    tracker = Tracker(TrackOptions(min_hits=1, keep_s=1.5))
    scene = Scene(options, LABELS, ZONES, {"gate": GATE})
    now_ns = START_NS
    open_tracks: dict[int, str] = {}
    open_zones: dict[tuple[int, str], str] = {}
    over: set[int] = set()
    misses: dict[int, int] = {}
    lately: set[int] = set()
    told: SceneState | None = None

    def check(change: SceneChange) -> None:
        nonlocal told
        for event in change.events:
            track, label = event.track, event.label
            assert track is not None and label is not None and track not in over
            assert START_NS < event.at_ns <= now_ns
            assert not options.labels or label in options.labels
            match event.kind:
                case "track_began":
                    assert track not in open_tracks
                    open_tracks[track] = label
                case "track_ended":
                    assert open_tracks.pop(track) == label
                    assert not any(key[0] == track for key in open_zones)
                    assert event.duration_s is not None and event.duration_s >= options.min_duration_s
                    over.add(track)
                case "zone_entered":
                    assert track in open_tracks and event.zone is not None and (track, event.zone) not in open_zones
                    open_zones[track, event.zone] = label
                case "zone_left":
                    assert event.zone is not None and open_zones.pop((track, event.zone)) == label
                    assert event.dwell_s is not None and event.dwell_s >= 0
                case _:
                    assert track in open_tracks and event.direction in ("in", "out")
        if change.state is not None:
            assert change.state != told
            told = change.state
        assert told is not None, "the first has one"
        for counts, labels in (
            (told.counts, [label for track, label in open_tracks.items() if track in lately]),
            *(
                (
                    told.zones[name],
                    [label for (track, zone), label in open_zones.items() if zone == name and track in lately],
                )
                for name in ZONES
            ),
        ):
            assert {label: n for label, n in counts.items() if n} == {
                label: labels.count(label) for label in set(labels)
            }

    for tracked, now_ns in play(film, tracker):
        live = tracked.live
        lately = set()
        for track, seen, seen_ns in zip(live.ids.tolist(), live.seen.tolist(), live.seen_ns.tolist(), strict=True):
            misses[track] = 0 if seen else misses.get(track, 0) + 1
            if misses[track] <= LOOKS or now_ns - seen_ns <= options.unseen_s * 1e9:
                lately.add(track)
        check(scene.update(tracked, now_ns))
    if film:
        check(scene.end())
        assert not open_tracks and not open_zones
        assert scene.end() == SceneChange((), None)


@pytest.mark.parametrize("min_hits", [1, 2, 3])
def test_what_is_crossed_before_it_is_a_track_counts_too(min_hits: int) -> None:
    tracker = Tracker(TrackOptions(min_hits=min_hits))
    scene = Scene(INSTANT, LABELS, {}, {"gate": GATE})
    events: list[Event] = []
    for frame in range(8):  # who stands behind goes first, so that rows move up; the other one drives through the gate
        stays = boxes_at([(0.9, 0.1)] * (frame < 2))
        found = np.concatenate((stays, boxes_at([(0.42 + 0.1 * frame, 0.3)] * (frame < 5))))
        now_ns = START_NS + frame * 10**9
        ids = np.array([0] * len(stays) + [2] * (len(found) - len(stays)), np.int32)
        tracked = tracker.update(Detections(found, np.full(len(found), 0.9, np.float32), ids), now_ns)
        events += scene.update(tracked, now_ns).events
    events += scene.end().events
    assert [event.direction for event in events if event.kind == "wire_crossed" and event.label == "car"] == ["in"]
    [car] = [event for event in events if event.kind == "track_ended" and event.label == "car"]
    assert car.path is not None and car.path.first == pytest.approx((0.42, 0.5))
    assert car.path.length == pytest.approx(car.path.last[0] - 0.42, abs=0.02)


def test_whoever_stands_still_while_nobody_looks_has_been_there() -> None:
    tracker = Tracker(TrackOptions())
    scene = Scene(INSTANT, LABELS, {"yard": YARD}, {})
    stands = Detections(boxes_at([(0.7, 0.3)]), np.array([0.9], np.float32), np.zeros(1, np.int32))
    events: list[Event] = []
    for frame in range(3):
        events += scene.update(tracker.update(stands, START_NS + frame * 10**8), START_NS + frame * 10**8).events
    held_ns = START_NS + 60 * 10**9
    tracker.hold(held_ns)
    for frame in range(1, 40):
        now_ns = held_ns + frame * 10**8
        events += scene.update(tracker.update(Detections.none(), now_ns), now_ns).events
    left, ended = events[-2:]
    assert (left.kind, left.at_ns, left.dwell_s) == ("zone_left", held_ns, pytest.approx(59.9))
    assert (ended.kind, ended.at_ns, ended.duration_s) == ("track_ended", held_ns, 60.0)


def test_whoever_stands_still_while_nobody_looks_is_there_until_the_end() -> None:
    follows = FollowedScene(Tracker(TrackOptions()), Scene(INSTANT, LABELS, {"yard": YARD}, {}))
    stands = Detections(boxes_at([(0.7, 0.3)]), np.array([0.9], np.float32), np.zeros(1, np.int32))
    for frame in range(3):
        follows(stands, START_NS + frame * 10**8)
    held_ns = START_NS + 8 * 10**9
    follows.hold(held_ns)
    left, ended = follows.end(held_ns).events
    assert (left.kind, left.at_ns, left.dwell_s) == ("zone_left", held_ns, pytest.approx(7.9))
    assert (ended.kind, ended.at_ns, ended.duration_s) == ("track_ended", held_ns, 8.0)


KINDS = st.lists(st.sampled_from(SCENE_KINDS), unique=True)


@given(KINDS, FILMS)
def test_what_is_left_out_of_the_report_changes_nothing_else(report: list[SceneKind], film: list[Any]) -> None:
    changes = []
    for kinds in (SCENE_KINDS, tuple(report)):
        tracker = Tracker(TrackOptions(min_hits=1))
        scene = Scene(SceneOptions(min_duration_s=0.0, report=kinds), LABELS, ZONES, {"gate": GATE})
        seen = []
        for tracked, now_ns in play(film, tracker):
            change = scene.update(tracked, now_ns)
            seen.append((tuple(event for event in change.events if event.kind in report), change.state))
        changes.append(seen)
    assert changes[0] == changes[1]


def test_what_something_is_called_may_change_until_it_counts() -> None:
    stage = Stage(SceneOptions(min_duration_s=0.5, debounce_s=0.0))
    stage.show((1, 0.7), class_id=1, frames=3)
    stage.show((1, 0.7), class_id=2, frames=5)
    stage.show((1, 0.7), class_id=1, frames=5)
    stage.end()
    assert [(event.kind, event.label) for event in stage.events] == [
        ("track_began", "car"), ("zone_entered", "car"), ("zone_left", "car"), ("track_ended", "car"),
    ]  # fmt: skip
    assert stage.states[-2].counts == {"car": 1} and stage.states[-1].counts == {"car": 0}


def test_what_follows_no_label_any_more_goes_on_where_it_counts() -> None:
    stage = Stage(SceneOptions(labels=("car",), min_duration_s=0.0, debounce_s=0.0))
    stage.show((1, 0.7), class_id=2, frames=2)
    stage.show((1, 0.3), class_id=1)
    assert {"zone_left", "wire_crossed"} <= {event.kind for event in stage.events}
    assert {event.label for event in stage.events} == {"car"}
