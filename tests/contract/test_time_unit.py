"""Whether times are doubted to be seconds."""

from __future__ import annotations

import numpy as np
import pytest

from signals import series_input
from vedette.contract.time_unit import doubted_unit
from vedette.contract.types import Readings
from vedette.contract.window import WindowBuilder


@pytest.mark.parametrize(
    ("step_s", "wanted_s", "unit"),
    [
        (20.0, 0.02, "milliseconds"),
        (10.0, 0.02, "milliseconds"),
        (95.0, 0.02, "milliseconds"),
        (20_000.0, 0.02, "microseconds"),
        (2e7, 0.02, "nanoseconds"),
        (0.02, 0.02, ""),
        (0.2, 0.02, ""),
        (2.0, 0.02, ""),
        (600.0, 0.02, ""),
        (20.0, 0.0, ""),
        (0.0, 0.02, ""),
        (float("inf"), 0.02, ""),
    ],
)
def test_a_unit_is_doubted_where_another_fits(step_s: float, wanted_s: float, unit: str) -> None:
    doubt = doubted_unit(step_s, wanted_s)
    assert (doubt is None) == (unit == "")
    if doubt is not None:
        assert doubt[0].endswith(f"is t in {unit}?") and "divide it by 1" in doubt[1]


def push(times_s: list[float], *, timed: bool = True) -> WindowBuilder:
    builder = WindowBuilder(series_input())
    times_ns = np.rint(np.array(times_s) * 1e9).astype(np.int64)
    builder.push(Readings(np.zeros((len(times_s), 3), np.float32), times_ns, 0, timed))
    return builder


def test_a_builder_doubts_when_nearly_all_are_gaps() -> None:
    odd = [20.0 * k for k in range(40)]
    assert push(odd).doubt is not None and push(odd).counts.gaps == 39
    slow = push([0.5 * k for k in range(40)]).doubt
    assert slow == ("readings are 0.5 s apart, the model wants 0.02 s", "take a model of their rate, or more readings")
    whole = push([k // 5 for k in range(40)]).doubt
    assert whole is not None and whole[0] == "32 of 40 readings are not later than the one before"
    assert push([float(k * 17 % 40) for k in range(40)]).doubt is not None, "out of order"
    assert push([0.02 * (k - 1.5 * (k % 4 == 3)) for k in range(40)]).doubt is None, "a quarter is late"
    assert push(odd[:3]).doubt is None, "two steps are no habit"
    assert push([*odd[:20], *(odd[19] + 0.02 * k for k in range(1, 20))]).doubt is None, "half of them are none"
    assert push(odd, timed=False).doubt is None, "nobody says that these are times of the sensor's"
    assert push([0.02 * k for k in range(40)]).doubt is None
