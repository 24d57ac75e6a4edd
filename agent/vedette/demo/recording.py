"""The readings of a recording, to be drawn beside what was delivered of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vedette.contract.types import Float32Array, Int64Array
from vedette.sources import SensorOptions, make_sensor_source

MAX_READINGS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Recording:
    """``times_us``: (n,) int64, ascending; ``values``: (n, channels) float32."""

    times_us: Int64Array
    values: Float32Array

    @property
    def seconds(self) -> float:
        """From the first reading to the last."""
        return float(self.times_us[-1] - self.times_us[0]) / 1e6


def read_whole(options: SensorOptions) -> Recording | None:
    """All readings, as the agent's own source gives them; None where they have no times, go back in time, or are too many.

    ``options``: with pace ``max`` and without ``loop``. Raises `SourceError`.
    """
    source = make_sensor_source(options)
    parts = []
    count = 0
    source.open()
    try:
        while count <= MAX_READINGS and (readings := source.read(0.0)) is not None:
            if len(readings):
                parts.append(readings)
                count += len(readings)
    finally:
        source.close()
    if not all(part.timed for part in parts) or count > MAX_READINGS:
        return None
    times_us = np.concatenate([part.times_ns for part in parts]) // 1000
    return (
        None if (np.diff(times_us) < 0).any() else Recording(times_us, np.concatenate([part.values for part in parts]))
    )
