"""When the link connects again: by times alone, without a broker."""

from __future__ import annotations

from typing import Final

import pytest

from vedette.mqtt.retry import BACKOFF_MAX_S, BACKOFF_MIN_S, BRIEF_S, BRIEF_TIMES, LASTS, RESET_S, RESET_TIMES, Retry

S: Final = 10**9


class Hours:
    """A link's life, without waiting."""

    def __init__(self) -> None:
        self.retry = Retry("vedette-dev-1")
        self.now_ns = 0

    def live(self, seconds: float, *, closed: bool = True, taken_over: bool = False) -> None:
        self.retry.connected(self.now_ns)
        self.now_ns += int(seconds * S)
        self.retry.lasts(self.now_ns - 1)
        self.retry.broke(self.now_ns, closed=closed, taken_over=taken_over)

    def pause(self) -> float:
        seconds = self.retry.pause_s()
        self.now_ns += int(seconds * S)
        return seconds


def test_a_broker_that_is_away_is_asked_less_and_less_often() -> None:
    hours = Hours()
    for step_s in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
        hours.retry.failed()
        assert step_s / 2 <= hours.pause() <= step_s
    hours.live(0.1)
    assert hours.pause() <= BACKOFF_MIN_S


def test_connections_that_are_closed_soon_after_each_connect_make_it_give_way() -> None:
    hours = Hours()
    for _ in range(BRIEF_TIMES - 1):
        hours.live(BRIEF_S / 8)
        assert not hours.retry.why and hours.pause() <= BACKOFF_MIN_S
    pauses = []
    for _ in range(12):
        hours.live(BRIEF_S / 8)
        assert "vedette-dev-1" in hours.retry.why
        pauses.append(hours.pause())
    assert all(BACKOFF_MAX_S / 2 <= pause <= BACKOFF_MAX_S for pause in pauses[-4:])
    assert sum(pauses) > BACKOFF_MAX_S


def test_it_is_over_once_a_connection_outlasts_the_others_pause() -> None:
    hours = Hours()
    for _ in range(BRIEF_TIMES + 2):
        hours.live(0.3)
        hours.pause()
    hours.live(4.0)  # what the other's pause leaves
    assert hours.retry.why
    step_s = hours.pause()
    hours.retry.connected(hours.now_ns)
    assert not hours.retry.lasts(hours.now_ns + int(step_s * S))
    assert hours.retry.lasts(hours.now_ns + int(2 * LASTS * step_s * S) + 1)
    assert not hours.retry.why
    assert not hours.retry.lasts(hours.now_ns + 1000 * S), "which is news once"
    hours.now_ns += 1000 * S
    hours.retry.broke(hours.now_ns, closed=True, taken_over=False)
    assert hours.pause() <= BACKOFF_MIN_S


@pytest.mark.parametrize("between", ["away", "reset", "long"])
def test_restarts_resets_and_long_lives_are_no_sign_of_another_client(between: str) -> None:
    hours = Hours()
    for _ in range(20):
        hours.live({"long": BRIEF_S + 1, "reset": 2 * RESET_S}.get(between, 0.3), closed=between != "reset")
        pause = hours.pause()
        assert not hours.retry.why and pause <= BACKOFF_MIN_S
        if between == "away":
            hours.retry.failed()
            hours.pause()


def test_connections_that_are_reset_as_soon_as_they_are_made_are_tried_less_and_less_often() -> None:
    hours = Hours()
    for _ in range(RESET_TIMES - 1):
        hours.live(RESET_S / 2, closed=False)
        pause = hours.pause()
        assert pause <= BACKOFF_MIN_S
    for _ in range(10):
        hours.live(RESET_S / 2, closed=False)
        pause = hours.pause()
    assert pause >= BACKOFF_MAX_S / 2 and not hours.retry.why
    hours.live(2 * RESET_S, closed=False)
    assert hours.pause() <= BACKOFF_MIN_S, "it was of use for a while"


def test_the_brokers_own_word_is_enough() -> None:
    hours = Hours()
    hours.live(1000.0, taken_over=True)
    assert "Session taken over" in hours.retry.why and "vedette-dev-1" in hours.retry.why
