"""Times of which no window can come: in another unit than seconds (an Arduino's ``millis()`` is a habit), out of order, or
really too far apart."""

from __future__ import annotations

import math
from typing import Final

UNITS: Final = (("milliseconds", 1_000), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000))
DOUBT_FROM: Final = 3  # steps between readings, of which this share must be gaps before their unit is doubted
DOUBT_SHARE: Final = 0.9
NEAR: Final = 5.0  # times more or less than the model's step: a sensor may be quicker or slower than the model


def doubted_order(readings: int, not_later: int) -> tuple[str, str] | None:
    """The same where many readings are not later than the one before: without any order it is every second one."""
    if readings <= DOUBT_FROM or not_later <= readings // 3:
        return None
    asked = f"{not_later} of {readings} readings are not later than the one before"
    return asked, "t must rise from reading to reading, and be finer than they are apart"


def doubted_step(step_s: float, wanted_s: float) -> tuple[str, str]:
    """What to ask and what to do where nearly every step is a gap, such as ``step_s`` is: the unit, or too few readings."""
    return doubted_unit(step_s, wanted_s) or (
        f"readings are {step_s:.6g} s apart, the model wants {wanted_s:.6g} s",
        "take a model of their rate, or more readings",
    )


def doubted_unit(step_s: float, wanted_s: float) -> tuple[str, str] | None:
    """What to ask and what to do where readings ``step_s`` apart would be about ``wanted_s`` apart in a smaller unit."""
    if not 0 < wanted_s < step_s < math.inf:
        return None
    for name, parts in UNITS:
        if max(step_s / parts / wanted_s, wanted_s * parts / step_s) <= NEAR:
            asked = f"readings are {step_s:.6g} s apart by their t, the model wants {wanted_s:.6g} s: is t in {name}?"
            return asked, f"write t in seconds: divide it by {parts}"
    return None
