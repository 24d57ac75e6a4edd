"""Readings of a made-up accelerometer, for tests of windows: still, walking or running, at 50 Hz.

The networks ``tests/contract/data/series-*.tflite`` know these signals (``make_series_models.py``).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vedette.contract.manifest import AnomalyOutput, Channel, ClassifyOutput, OutputSpec, RegressOutput, SeriesInput

CHANNELS: Final = ("x", "y", "z")
CLASSES: Final = ("still", "walk", "run")
LENGTH: Final = 24
RATE_HZ: Final = 50.0
MEAN: Final = (0.0, 9.81, 0.0)
STD: Final = (2.0, 3.0, 2.0)
HERTZ: Final = (0.0, 2.0, 5.0)
AMPLITUDE: Final = (0.05, 2.0, 6.0)  # m/s2
THRESHOLD: Final = 0.1  # of the autoencoder, which knows walking alone

OUTPUTS: Final[dict[str, OutputSpec]] = {
    "classify": ClassifyOutput(),
    "anomaly": AnomalyOutput(threshold=THRESHOLD),
    "regress": RegressOutput(
        quantities=(Channel(name="level", unit="m/s2"), Channel(name="slope", unit="m/s3")),
        scale=(1.0, 10.0),
        offset=(9.81, 0.0),
    ),
}
LABELS: Final = {"classify": CLASSES, "anomaly": CHANNELS, "regress": ("level", "slope")}


def series_input(**changes: Any) -> SeriesInput:
    """What the networks take."""
    channels = tuple(Channel(name=name, unit="m/s2") for name in CHANNELS)
    fields = {"length": LENGTH, "stride": LENGTH // 2, "rate_hz": RATE_HZ, "mean": MEAN, "std": STD}
    return SeriesInput(channels=channels, **{**fields, **changes})


def signal(kind: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) float32 in m/s2: one stretch of an activity, a number of `CLASSES`."""
    at_s = np.arange(count) / RATE_HZ
    phase = rng.uniform(0, 2 * np.pi)
    turn = 2 * np.pi * HERTZ[kind] * at_s + phase
    size = AMPLITUDE[kind] * rng.uniform(0.7, 1.3)
    values = np.stack([np.sin(turn), np.sin(turn + 1.0), 0.5 * np.cos(turn)], axis=1) * size + MEAN
    return (values + rng.normal(0.0, 0.05, values.shape)).astype(np.float32)


def windows(count: int, seed: int, kinds: tuple[int, ...] = (0, 1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """(count, 24, 3) float32 in m/s2, and (count,) which of `CLASSES` each is, by turns."""
    rng = np.random.default_rng(seed)
    ids = np.array([kinds[i % len(kinds)] for i in range(count)], np.int32)
    return np.stack([signal(kind, LENGTH, rng) for kind in ids]), ids


def normalised(values: np.ndarray) -> np.ndarray:
    """float32, as the float networks take them."""
    return ((values.astype(np.float64) - MEAN) / STD).astype(np.float32)


def quantities(values: np.ndarray) -> np.ndarray:
    """(..., 2) float64 of windows (..., 24, 3): the mean of y in m/s2, the mean slope of x in m/s3."""
    level = values[..., 1].mean(axis=-1)
    weights = np.arange(LENGTH) - (LENGTH - 1) / 2
    slope = (values[..., 0] * weights).sum(axis=-1) / (weights**2).sum() * RATE_HZ
    return np.stack([level, slope], axis=-1)
