"""What holds of a sensor: classes and anomalies with hysteresis."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.types import Anomaly, Classes, Values
from vedette.follow.events import Event
from vedette.follow.steady import AnomalyState, SensorState, Steady, SteadyChange, SteadyOptions

LABELS = ("still", "walk", "run")
SECOND = 1_000_000_000
THRESHOLD = 0.5


class Signal:
    """Windows, one a second; the first ends at 1 s."""

    def __init__(self, options: SteadyOptions | None = None) -> None:
        self.steady = Steady(options or SteadyOptions(), LABELS)
        self.now_ns = 0
        self.events: list[Event] = []
        self.states: list[SensorState] = []

    def classes(self, *scores: dict[int, float]) -> None:
        """A window each: class id -> score."""
        for window in scores:
            order = sorted(window, key=window.__getitem__, reverse=True)
            found = np.array([window[i] for i in order], np.float32)
            self._note(Classes(found, np.array(order, np.int32)))

    def anomaly(self, *scores: float) -> None:
        """A window each."""
        for score in scores:
            self._note(Anomaly(score, THRESHOLD, np.zeros(1, np.float32)))

    def _note(self, result: Any) -> None:
        self.now_ns += SECOND
        self.keep(self.steady.update(result, self.now_ns))

    def keep(self, change: SteadyChange) -> None:
        self.events += change.events
        if change.state is not None:
            self.states.append(change.state)

    def told(self) -> list[tuple[str, float]]:
        """Kind and second of each event."""
        return [(event.kind, event.at_ns / 1e9) for event in self.events]


WALK, STILL, UNSURE = {1: 0.9, 0: 0.1}, {0: 0.8, 1: 0.2}, {1: 0.5, 0: 0.45}


def test_a_class_is_taken_over_after_enough_windows_in_a_row() -> None:
    signal = Signal()
    signal.classes(WALK, WALK, STILL, WALK, WALK)
    assert signal.events == []
    signal.classes(WALK)
    [event] = signal.events
    assert (event.kind, event.label, event.previous, event.at_ns) == ("class_changed", "walk", None, 4 * SECOND)
    assert event.score == pytest.approx(0.9) and event.duration_s is None
    signal.classes(STILL, STILL, WALK, STILL, STILL, STILL)
    event = signal.events[-1]
    assert (event.label, event.previous, event.at_ns, event.duration_s) == ("still", "walk", 10 * SECOND, 6.0)
    assert len(signal.events) == 2


def test_k_of_n() -> None:
    signal = Signal(SteadyOptions(enter=3, of=5, leave=10))
    signal.classes(WALK, STILL, WALK, STILL, WALK)
    assert signal.told() == [("class_changed", 1.0)]


def test_between_the_two_scores_nothing_changes() -> None:
    signal = Signal()
    signal.classes(WALK, WALK, WALK)
    signal.classes(*[UNSURE] * 20)
    assert len(signal.events) == 1
    assert signal.states[-1].label == "walk"


def test_a_class_is_left_when_nothing_takes_its_place() -> None:
    signal = Signal(SteadyOptions(leave=2))
    signal.classes(WALK, WALK, WALK, {1: 0.39}, WALK, {1: 0.39}, {})
    event = signal.events[-1]
    assert (event.label, event.previous, event.at_ns, event.duration_s) == (None, "walk", 6 * SECOND, 5.0)
    assert signal.states[-1] == SensorState(label=None, since_ns=6 * SECOND)


def test_an_anomaly_begins_and_ends_and_has_a_peak() -> None:
    signal = Signal(SteadyOptions(on_factor=1.2, off_factor=0.8, enter=2, leave=3))
    signal.anomaly(0.55, 0.55, 0.55, 0.61, 0.3, 0.7, 0.65)
    [began] = signal.events
    assert (began.kind, began.at_ns, began.score, began.peak) == ("anomaly_began", 6 * SECOND, 0.65, 0.7)
    signal.anomaly(0.9, 0.3, 0.3, 0.45, 0.3, 0.3, 0.3)
    ended = signal.events[-1]
    assert (ended.kind, ended.at_ns, ended.peak, ended.duration_s) == ("anomaly_ended", 12 * SECOND, 0.9, 6.0)
    assert signal.states[-1].anomaly == AnomalyState(False, 12 * SECOND, 0.3, THRESHOLD)
    signal.anomaly(0.8, 0.8)
    assert signal.events[-1].peak == 0.8, "of this one"


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_network_that_gives_no_number_is_not_well(score: float) -> None:
    signal = Signal()
    signal.anomaly(score, score, score)
    [event] = signal.events
    assert (event.kind, event.score, event.peak) == ("anomaly_began", None, None)
    assert signal.states[-1].anomaly == AnomalyState(True, SECOND, None, THRESHOLD)
    signal.anomaly(*[score] * 5)
    assert len(signal.events) == 1


def test_values_are_told_of_now_and_then() -> None:
    signal = Signal(SteadyOptions(every_s=5.0))
    for k in range(11):
        signal._note(Values(np.array([k, float("nan"), 1 / 3], np.float32)))
    assert [state.values for state in signal.states] == [
        {"still": float(k), "walk": None, "run": 0.3333} for k in (0, 5, 10)
    ]


def test_a_state_that_is_the_same_is_not_told_again_and_an_event_is_told_at_once() -> None:
    signal = Signal(SteadyOptions(every_s=5.0))
    signal.anomaly(*[0.1] * 20)
    assert len(signal.states) == 1
    signal.anomaly(0.2)
    assert len(signal.states) == 2, "another score, long after the last"
    signal.anomaly(0.9, 0.9, 0.9)
    assert [state.anomaly.active for state in signal.states if state.anomaly] == [False, False, True]


def test_the_end_closes_what_holds() -> None:
    signal = Signal()
    signal.anomaly(0.9, 0.9, 0.9)
    signal.keep(signal.steady.end(9 * SECOND))
    assert signal.told() == [("anomaly_began", 1.0), ("anomaly_ended", 9.0)]
    assert signal.states[-1].anomaly is not None and not signal.states[-1].anomaly.active
    signal = Signal()
    signal.classes(WALK, WALK, WALK)
    signal.keep(signal.steady.end(9 * SECOND))
    assert (signal.events[-1].label, signal.events[-1].previous) == (None, "walk")
    assert signal.steady.end(10 * SECOND) == SteadyChange((), None)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"enter": 4, "of": 3}, "of: expected 0, or at least enter = 4, found 3"),
        ({"on_score": 0.3}, "off_score: expected at most on_score = 0.3, found 0.4"),
        ({"off_factor": 2.0}, "off_factor: expected at most on_factor = 1.0, found 2.0"),
        ({"enter": 0}, "Expected `int` >= 1"),
        ({"on_factor": 0.0}, "Expected `float` > 0.0"),
    ],
)
def test_options_that_cannot_be(table: dict[str, Any], why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert(table, SteadyOptions)


COUNTS = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))


@given(COUNTS, st.lists(st.sampled_from([0.1, 0.39, 0.45, 0.55, 0.9, float("nan")]), max_size=60))
def test_whatever_comes_beginnings_and_ends_take_turns(counts: tuple[int, int, int], scores: list[float]) -> None:
    enter, more, leave = counts
    signal = Signal(SteadyOptions(enter=enter, of=enter + more, leave=leave, every_s=0.0))
    signal.anomaly(*scores)
    if scores:
        signal.keep(signal.steady.end(signal.now_ns + SECOND))
    kinds = [event.kind for event in signal.events]
    assert kinds == ["anomaly_began", "anomaly_ended"] * (len(kinds) // 2)
    times = [event.at_ns for event in signal.events]
    assert times == sorted(times)
    for began, ended in zip(signal.events[::2], signal.events[1::2], strict=True):
        assert ended.duration_s == (ended.at_ns - began.at_ns) / 1e9


@given(COUNTS, st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.2, 0.5, 0.7])), max_size=60))
def test_whatever_comes_each_change_is_from_what_held(
    counts: tuple[int, int, int], tops: list[tuple[int, float]]
) -> None:
    enter, more, leave = counts
    signal = Signal(SteadyOptions(enter=enter, of=enter + more, leave=leave, every_s=0.0))
    for top, score in tops:
        held = signal.states[-1].label if signal.states else None
        before = len(signal.events)
        signal.classes({top: score})
        for event in signal.events[before:]:
            assert event.previous == held and event.label != held
            held = event.label
        assert signal.states[-1].label == held
    times = [event.at_ns for event in signal.events]
    assert times == sorted(times)
