"""What the status says, and when it is said anew."""

from __future__ import annotations

import pytest

from vedette import clock
from vedette.service.condition import MAX_NOTES, NOTED_S, Condition, Said


@pytest.fixture
def said() -> list[Said]:
    return []


@pytest.fixture
def condition(said: list[Said]) -> Condition:
    return Condition(said.append)


def test_a_problem_is_said_once_while_it_lasts_and_its_end_too(condition: Condition, said: list[Said]) -> None:
    condition.change("ready")
    for seconds in (5.1, 5.6, 6.1):
        condition.review({"door": f"door: source stalled: no frame for {seconds} s"}, {})
    condition.review({}, {})
    condition.review({}, {})
    assert [(s.state, s.why) for s in said] == [
        ("ready", None),
        ("alert", "door: source stalled: no frame for 5.1 s"),
        ("ready", None),
    ]


def test_what_happens_once_stands_for_a_while(
    condition: Condition, said: list[Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: now)
    condition.note("pump nan", "pump: nan, 1 so far")
    condition.review({}, {})
    now += int((NOTED_S - 1) * 1e9)
    condition.note("pump nan", "pump: nan, 2 so far")
    condition.review({}, {})
    now += int((NOTED_S - 1) * 1e9)
    condition.review({}, {})
    assert {s.state for s in said} == {"alert"}, "it happened again meanwhile"
    now += int(2e9)
    condition.review({}, {})
    assert [(s.state, s.why) for s in said] == [
        ("alert", "pump: nan, 1 so far"),
        ("alert", "pump: nan, 2 so far"),
        ("ready", None),
    ]


def test_what_goes_on_happening_is_counted_on(
    condition: Condition, said: list[Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = now = clock.now_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: now)
    for count in range(1, 42):
        condition.note("pump gap", f"pump: gap, {count} so far")
        condition.review({}, {})
        now += 1_000_000_000
    assert [s.why for s in said] == [f"pump: gap, {count} so far" for count in (1, 11, 21, 31, 41)]
    assert {s.state for s in said} == {"alert"} and {s.since_ns for s in said} == {begun}


def test_a_second_problem_is_news(condition: Condition, said: list[Said]) -> None:
    condition.review({"a": "a: lost"}, {})
    condition.note("b", "b: odd")
    condition.review({"a": "a: lost"}, {})
    assert [s.why for s in said] == ["a: lost", "a: lost; b: odd"]


def test_a_degraded_pipeline_is_named_and_does_not_flicker(condition: Condition, said: list[Said]) -> None:
    condition.change("ready")
    for share in (0.97, 0.89, 0.91, 0.94, 0.88, 0.95, 0.93):
        condition.review({}, {"door": share, "yard": 1.0})
    assert [(s.state, s.degraded) for s in said] == [("ready", ()), ("ready", ("door",)), ("ready", ())]
    assert len({s.since_ns for s in said}) == 1, "being slow is no new state"


def test_a_pipeline_that_says_nothing_stays_as_it_was(condition: Condition, said: list[Said]) -> None:
    condition.review({}, {"door": 0.5})
    condition.review({}, {})
    condition.review({"yard": "yard: lost"}, {})
    assert [s.degraded for s in said] == [("door",), ("door",)]


def test_kinds_of_notes_are_bounded(condition: Condition, said: list[Said]) -> None:
    for number in range(10 * MAX_NOTES):
        condition.note(f"k{number}", "odd")
    condition.review({}, {})
    [only] = said
    assert only.why is not None and only.why.count("odd") == MAX_NOTES


def test_a_change_is_said_whatever_the_problems_are(condition: Condition, said: list[Said]) -> None:
    condition.change("stopped", "asked to")
    assert said == [condition.said]
    assert (condition.said.state, condition.said.why) == ("stopped", "asked to")
