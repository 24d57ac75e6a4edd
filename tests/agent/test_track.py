"""Identities over time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.types import Detections
from vedette.follow.track import KEEP_LOOKS, MAX_TRACKS, Tracked, Tracker, TrackOptions

FRAME_NS = 100_000_000  # ten a second
START_NS = 5_000_000_000


def seen(*objects: tuple[float, float, float], size: float = 0.1, class_id: int = 0) -> Detections:
    """Detections of squares: x and y of the centre, score."""
    rows = np.array(objects, np.float32).reshape(-1, 3)
    half = np.float32(size / 2)
    boxes = np.concatenate((rows[:, :2] - half, rows[:, :2] + half), axis=1)
    return Detections(boxes, rows[:, 2].copy(), np.full(len(rows), class_id, np.int32))


def both(a: Detections, b: Detections) -> Detections:
    """All of both."""
    return Detections(
        np.concatenate((a.boxes, b.boxes)),
        np.concatenate((a.scores, b.scores)),
        np.concatenate((a.class_ids, b.class_ids)),
    )


class Film:
    """A tracker and the clock of its frames."""

    def __init__(self, tracker: Tracker | None = None, step_ns: int = FRAME_NS) -> None:
        self.tracker = tracker or Tracker(TrackOptions())
        self.step_ns = step_ns
        self.now_ns = START_NS

    def show(self, found: Detections, step_ns: int | None = None) -> Tracked:
        self.now_ns += self.step_ns if step_ns is None else step_ns
        return self.tracker.update(found, self.now_ns)


def test_an_object_is_a_track_from_its_second_frame_on() -> None:
    film = Film()
    first, second, third = (film.show(seen((0.5, 0.5, 0.9))) for _ in range(3))
    assert (first.ids.tolist(), first.began.tolist(), len(first.live)) == ([0], [], 0)
    assert (second.ids.tolist(), second.began.tolist()) == ([1], [1])
    assert (third.ids.tolist(), third.began.tolist()) == ([1], [])
    assert third.live.began_ns.tolist() == [START_NS + FRAME_NS]
    assert third.live.seen_ns.tolist() == [film.now_ns]
    np.testing.assert_allclose(third.live.boxes, [[0.45, 0.45, 0.55, 0.55]], atol=1e-3)
    assert [array.dtype.name for array in (third.ids, third.live.boxes, third.live.velocities, third.live.scores)] == [
        "int32", "float32", "float32", "float32",
    ]  # fmt: skip


def test_the_score_of_a_track_is_its_best_from_the_first_detection_on() -> None:
    film = Film()
    scores = [film.show(seen((0.5, 0.5, score))).live.scores.tolist() for score in (0.8, 0.3, 0.4, 0.9, 0.3)]
    assert scores == [[], *([np.float32(best)] for best in (0.8, 0.8, 0.9, 0.9))]


def test_one_that_appears_once_is_none() -> None:
    film = Film()
    film.show(seen((0.5, 0.5, 0.9)))
    film.show(seen())
    film.show(seen())
    assert film.show(seen((0.5, 0.5, 0.9))).ids.tolist() == [0]


def test_one_that_a_single_frame_missed_is_a_track_all_the_same() -> None:
    film = Film()
    film.show(seen((0.5, 0.5, 0.9)))
    film.show(seen())
    assert film.show(seen((0.5, 0.5, 0.9))).ids.tolist() == [1]


def test_a_poor_detection_goes_on_with_a_track_that_was_missed_before() -> None:
    film = Film()
    for _ in range(3):
        film.show(seen((0.5, 0.5, 0.9)))
    film.show(seen())
    assert film.show(seen((0.5, 0.5, 0.3))).ids.tolist() == [1], "hidden, then half hidden"


@pytest.mark.parametrize("step_ns", [10_000_000, FRAME_NS, 400_000_000])
def test_the_velocity_is_a_second_s_whatever_the_frame_rate(step_ns: int) -> None:
    film = Film(step_ns=step_ns)
    speed = 0.15
    for k in range(4_000_000_000 // step_ns):
        tracked = film.show(seen((0.1 + speed * k * step_ns / 1e9, 0.5, 0.9)))
    assert tracked.ids.tolist() == [1]
    np.testing.assert_allclose(tracked.live.velocities, [[speed, 0.0]], atol=0.02)


def test_frames_that_come_unevenly_do_no_harm() -> None:
    film = Film()
    for step_ns in itertools.islice(itertools.cycle((30_000_000, 250_000_000, 60_000_000, 400_000_000)), 20):
        position = 0.1 + 0.15 * (film.now_ns + step_ns - START_NS) / 1e9
        ids = film.show(seen((position, 0.5, 0.9)), step_ns).ids.tolist()
    assert ids == [1]


def test_two_that_cross_keep_their_identities() -> None:
    film = Film()
    for k in range(60):
        x = 0.1 + 0.8 * k / 59
        tracked = film.show(seen((x, 0.5, 0.9), (1 - x, 0.53, 0.8)))
    assert tracked.ids.tolist() == [1, 2]


@pytest.mark.parametrize("left", [0.55, 0.7])
def test_somebody_whose_legs_are_hidden_at_once_is_the_same(left: float) -> None:
    film, whole, cut = Film(), [0.45, 0.4, 0.55, 0.7], [0.45, 0.4, 0.55, 0.4 + 0.3 * left]
    scores, classes = np.array([0.9], np.float32), np.zeros(1, np.int32)
    boxes = [*[whole] * 20, *[cut] * 20, *[whole] * 20]
    ids = [film.show(Detections(np.array([box], np.float32), scores, classes)).ids.tolist() for box in boxes]
    assert ids[1:] == [[1]] * 59


def test_an_object_hidden_for_a_while_is_the_same_again() -> None:
    film = Film()
    for k in range(20):
        film.show(seen((0.1 + 0.01 * k, 0.5, 0.9)))
    for _ in range(8):
        tracked = film.show(seen())
        assert tracked.live.ids.tolist() == [1] and not len(tracked.ended)
    assert film.show(seen((0.1 + 0.01 * 28, 0.5, 0.9))).ids.tolist() == [1]


def test_a_poor_detection_goes_on_with_a_track_and_begins_none() -> None:
    film = Film()
    for _ in range(3):
        film.show(seen((0.3, 0.3, 0.9)))
    for _ in range(40):
        tracked = film.show(seen((0.3, 0.3, 0.3), (0.7, 0.7, 0.3)))
    assert tracked.ids.tolist() == [1, 0]
    assert tracked.live.ids.tolist() == [1]
    assert film.show(seen((0.3, 0.3, 0.19))).ids.tolist() == [0], "below low_score"


def test_who_stands_still_and_is_hardly_seen_now_and_then_stays_the_same() -> None:
    film = Film()
    for _ in range(3):
        film.show(seen((0.3, 0.3, 0.9)))
    for _ in range(8):
        for _ in range(8):
            tracked = film.show(seen())
            assert tracked.live.ids.tolist() == [1] and not len(tracked.ended)
        assert film.show(seen((0.33, 0.3, 0.3))).ids.tolist() == [0], "beside it, and poor"
        assert film.show(seen((0.3, 0.3, 0.3))).ids.tolist() == [1]
    assert film.show(seen((0.3, 0.3, 0.9))).ids.tolist() == [1]


def test_what_moves_further_than_its_size_between_two_frames_is_found_again() -> None:
    film = Film(step_ns=500_000_000)
    ids = [film.show(seen((0.1 + 0.103 * k, 0.5, 0.9))).ids.tolist() for k in range(7)]
    assert ids[1:] == [[1]] * 6


def test_a_track_ends_when_unseen_for_too_long() -> None:
    film = Film(Tracker(TrackOptions(keep_s=1.0)))
    film.show(seen((0.5, 0.5, 0.9)))
    film.show(seen((0.5, 0.5, 0.9)))
    last_ns = film.now_ns
    unseen = [film.show(seen()) for _ in range(11)]
    assert [len(tracked.ended) for tracked in unseen] == [0] * 10 + [1]
    assert unseen[-1].ended.ids.tolist() == [1]
    assert unseen[-1].ended.seen_ns.tolist() == [last_ns]
    assert not len(unseen[-1].live)


def test_slow_frames_do_not_end_a_track_before_it_was_missed_a_few_times() -> None:
    film = Film(Tracker(TrackOptions(keep_s=1.0)), step_ns=3_000_000_000)
    for _ in range(3):
        film.show(seen((0.5, 0.5, 0.9)))
    assert [len(film.show(seen()).ended) for _ in range(KEEP_LOOKS + 1)] == [0] * KEEP_LOOKS + [1]


def test_a_track_that_left_the_frame_ends_at_once() -> None:
    film = Film()
    for k in range(10):
        film.show(seen((0.75 + 0.025 * k, 0.5, 0.9)))
    ended = [len(film.show(seen()).ended) for _ in range(10)]
    assert sum(ended[:6]) == 1


def test_time_in_which_nobody_looked_ages_no_track() -> None:
    film = Film(Tracker(TrackOptions(keep_s=1.0)))
    for k in range(10):
        film.show(seen((0.3 + 0.01 * k, 0.5, 0.9)))
    before = film.show(seen((0.4, 0.5, 0.9))).live
    film.now_ns += 3_600_000_000_000
    film.tracker.hold(film.now_ns)
    tracked = film.show(seen((0.41, 0.5, 0.9)))
    assert tracked.ids.tolist() == [1]
    np.testing.assert_allclose(tracked.live.velocities, before.velocities, atol=0.03)
    assert tracked.live.began_ns.tolist() == before.began_ns.tolist()


def test_who_had_gone_when_nobody_looked_any_more_does_not_stay() -> None:
    film = Film(Tracker(TrackOptions(keep_s=3.0)))
    for _ in range(5):
        film.show(seen((0.3, 0.3, 0.9), (0.7, 0.7, 0.9)))
    for _ in range(KEEP_LOOKS):
        film.show(seen((0.3, 0.3, 0.9)))
    film.now_ns += 60_000_000_000
    film.tracker.hold(film.now_ns)
    tracked = film.show(seen((0.3, 0.3, 0.9)))
    assert (tracked.live.ids.tolist(), tracked.ended.ids.tolist()) == ([1], [2])


def test_hold_before_the_first_frame_and_back_in_time_means_nothing() -> None:
    film = Film()
    film.tracker.hold(START_NS)
    film.show(seen((0.5, 0.5, 0.9)))
    film.tracker.hold(1)
    assert film.show(seen((0.5, 0.5, 0.9))).ids.tolist() == [1]


def test_classes_are_not_mixed() -> None:
    film = Film()
    for _ in range(3):
        film.show(seen((0.5, 0.5, 0.9)))
    tracked = film.show(seen((0.52, 0.5, 0.9), class_id=1))
    assert tracked.ids.tolist() == [0]
    for _ in range(20):
        tracked = film.show(both(seen((0.5, 0.5, 0.6)), seen((0.51, 0.5, 0.9), class_id=1)))
    assert tracked.ids.tolist() == [1, 2]
    assert tracked.live.class_ids.tolist() == [0, 1]


def named(*scores: float, x: float = 0.3) -> Detections:
    """One thing, what it scores as of each class; 0 for a class that does not show."""
    boxes = [seen((x, 0.5, score), class_id=class_id) for class_id, score in enumerate(scores) if score]
    return both(*boxes) if len(boxes) == 2 else boxes[0]


def test_what_has_two_names_at_once_is_one_track_of_the_better_one() -> None:
    film = Film()
    scores = ((0.7,), (0.5, 0.8), (0.5, 0.95), (0.6, 0.4), (0.3, 0.8))
    shown = [film.show(named(*both_scores)) for both_scores in scores]
    assert [tracked.ids.tolist() for tracked in shown] == [[0], [1, 0], [0, 1], [1, 0], [0, 1]], "of the sum so far"
    assert shown[-1].live.class_ids.tolist() == [1]


def test_a_track_goes_on_by_another_name_that_it_had_before() -> None:
    film = Film()
    names = ((0.0, 0.6), (0.4, 0.7), (0.8, 0.0), (0.9, 0.0), (0.9, 0.0), (0.0, 0.3), (0.8, 0.0), (0.9, 0.0))
    shown = [film.show(named(*scores, x=0.2 + 0.04 * k)) for k, scores in enumerate(names)]
    assert [max(tracked.ids) for tracked in shown] == [0, *[1] * 7]
    assert [tracked.live.ids.tolist() for tracked in shown[1:]] == [[1]] * 7


def test_a_track_goes_on_where_each_picture_has_another_name_for_it() -> None:
    film = Film()
    names = (0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0)
    shown = [film.show(seen((0.3 + 0.005 * k, 0.5, 0.8), class_id=name)) for k, name in enumerate(names)]
    assert [tracked.ids.tolist() for tracked in shown] == [[0], *[[1]] * 11]
    assert [tracked.live.ids.tolist() for tracked in shown] == [[], *[[1]] * 11]


def test_what_was_not_there_a_moment_ago_is_no_other_name_for_what_was() -> None:
    film = Film()
    for _ in range(5):
        film.show(seen((0.5, 0.5, 0.9)))
    for _ in range(3):
        film.show(seen())
    assert film.show(seen((0.5, 0.5, 0.9), class_id=1)).ids.tolist() == [0]
    assert film.show(seen((0.5, 0.5, 0.9), class_id=1)).ids.tolist() == [2]


def test_the_class_of_a_track_is_settled_after_a_second() -> None:
    film = Film()
    for _ in range(12):
        film.show(named(0.9, 0.5))
    for _ in range(50):
        tracked = film.show(named(0.25, 0.9))
    assert (tracked.ids.tolist(), tracked.live.class_ids.tolist()) == ([0, 1], [0])
    assert film.show(named(0.55, 0.9)).ids.tolist() == [1, 0]


def test_who_has_left_a_seat_does_not_stay_by_the_seat_s_name() -> None:
    film = Film()
    for _ in range(20):
        film.show(named(0.9, 0.25))
    ended = [(second, film.show(named(0.0, 0.8)).ended.ids.tolist()) for second in np.arange(0.1, 15.0, 0.1)]
    assert [round(second) for second, ids in ended if ids] == [12], "ten seconds by another name, and keep_s"
    tracked = film.show(named(0.0, 0.8))
    assert (tracked.ids.tolist(), tracked.live.class_ids.tolist()) == ([2], [1])


def test_thresholds_are_those_of_each_class() -> None:
    film = Film(Tracker(TrackOptions(low_score=0.1), np.array([0.8, 0.3, 2.0], np.float32)))
    for _ in range(3):
        found = both(both(seen((0.2, 0.2, 0.7)), seen((0.5, 0.5, 0.4), class_id=1)), seen((0.8, 0.8, 1.0), class_id=2))
        ids = film.show(found).ids.tolist()
    assert ids == [0, 1, 0]
    film.tracker.retune(0.5)
    for _ in range(3):
        ids = film.show(found).ids.tolist()
    assert ids == [2, 1, 3]


def test_busy_is_who_moves() -> None:
    still, moving = Film(), Film()
    for k in range(10):
        still.show(seen((0.5, 0.5, 0.9)))
        moving.show(seen((0.1 + 0.02 * k, 0.5, 0.9)))
    assert (still.tracker.busy, moving.tracker.busy) == (False, True)
    moving.show(seen())
    assert not moving.tracker.busy


def test_the_end_gives_all_tracks_up_and_ids_go_on() -> None:
    film = Film()
    for _ in range(2):
        film.show(seen((0.2, 0.2, 0.9), (0.8, 0.8, 0.9)))
    assert film.tracker.end().ids.tolist() == [1, 2]
    for _ in range(2):
        tracked = film.show(seen((0.2, 0.2, 0.9)))
    assert tracked.ids.tolist() == [3]


def test_a_detector_gone_wild_does_not_take_the_memory() -> None:
    film = Film(Tracker(TrackOptions(min_hits=1)))
    rng = np.random.default_rng(0)
    for _ in range(6):
        places = np.concatenate((rng.random((400, 2)), np.full((400, 1), 0.9)), axis=1)
        tracked = film.show(seen(*map(tuple, places), size=0.001))
    assert len(tracked.live) <= MAX_TRACKS


BOXES = st.lists(
    st.tuples(
        st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.floats(0, 0.5, width=32), st.floats(0, 0.5, width=32),
        st.floats(0, 1, width=32), st.integers(0, 2),
    ),
    max_size=6,
)  # fmt: skip
FILMS = st.lists(st.tuples(BOXES, st.integers(-(10**9), 5 * 10**9), st.booleans()), max_size=12)


def play(frames: list[tuple[list[tuple[float, ...]], int, bool]]) -> list[Tracked]:
    tracker = Tracker(TrackOptions(min_hits=1, keep_s=3.0))
    now_ns = START_NS
    shown = []
    for boxes, step_ns, hold in frames:
        now_ns += step_ns
        if hold:
            tracker.hold(now_ns)
        rows = np.array([box[:5] for box in boxes], np.float32).reshape(-1, 5)
        corners = np.concatenate((rows[:, :2], rows[:, :2] + rows[:, 2:4]), axis=1)
        shown.append(
            tracker.update(Detections(corners, rows[:, 4], np.array([box[5] for box in boxes], np.int32)), now_ns)
        )
    return shown


@given(FILMS)
def test_whatever_comes_ids_are_used_once_and_tracks_begin_and_end_once(frames: list) -> None:  # type: ignore[type-arg]
    live: set[int] = set()
    last = 0
    for tracked in play(frames):
        given_ids = [i for i in tracked.ids.tolist() if i]
        assert len(set(given_ids)) == len(given_ids)
        began, ended = tracked.began.tolist(), tracked.ended.ids.tolist()
        assert began == list(range(last + 1, last + 1 + len(began)))
        last += len(began)
        live |= set(began)
        assert set(ended) <= live
        live -= set(ended)
        assert set(tracked.live.ids.tolist()) == live
        assert set(given_ids) <= live
        assert np.isfinite(tracked.live.boxes).all() and np.isfinite(tracked.live.velocities).all()


@given(FILMS)
def test_the_same_film_gives_the_same_tracks(frames: list) -> None:  # type: ignore[type-arg]
    for a, b in zip(play(frames), play(frames), strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        np.testing.assert_array_equal(a.live.boxes, b.live.boxes)
