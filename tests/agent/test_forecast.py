"""When a pipeline expects the engine to be free, and how it makes use of that."""

from __future__ import annotations

import pytest

from vedette.flow.forecast import AVERAGING, EARLY_NS, LEISURE, PATIENCE, Forecast

MS = 1_000_000


@pytest.fixture
def forecast() -> Forecast:
    """Of steps of 1, 10 and 2 ms."""
    forecast = Forecast()
    forecast.prepared(1 * MS)
    forecast.inferred(10 * MS)
    forecast.reported(2 * MS)
    return forecast


def test_a_sample_is_taken_so_that_it_is_ready_a_little_before_the_engine_is_free(forecast: Forecast) -> None:
    forecast.begins(100 * MS, 1.0)
    assert forecast.take_ns == (100 + 10 - 1) * MS - EARLY_NS
    forecast.begins_next(105 * MS, 1.0)  # it is busy until 110 ms
    assert forecast.take_ns == (110 + 10 - 1) * MS - EARLY_NS
    forecast.begins_next(200 * MS, 1.0)  # it has long been free
    assert forecast.take_ns == (200 + 10 - 1) * MS - EARLY_NS


def test_others_have_their_turns_in_between(forecast: Forecast) -> None:
    forecast.begins(0, 3.0)
    assert forecast.take_ns == (3 * 10 - 1) * MS - EARLY_NS


def test_the_first_time_is_believed_and_later_ones_move_it(forecast: Forecast) -> None:
    assert forecast.patience_ns == PATIENCE * 10 * MS
    forecast.inferred(20 * MS)
    assert forecast.patience_ns == PATIENCE * (10 + 10 * AVERAGING) * MS


def test_leisure_is_when_all_could_be_done_twice(forecast: Forecast) -> None:
    assert forecast.is_leisure(int(LEISURE * 13 * MS))
    assert not forecast.is_leisure(int(LEISURE * 13 * MS) - 1)


def test_what_is_not_known_is_no_leisure_and_no_reason_to_wait(forecast: Forecast) -> None:
    forecast.begins(100 * MS, 1.0)
    forecast.forget()
    assert not forecast.is_leisure(10**12)
    assert forecast.patience_ns == 0
    assert forecast.take_ns < 0
