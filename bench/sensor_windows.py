"""What it costs to make windows of readings, and input tensors of windows: CPU time, one thread, nothing else."""

from __future__ import annotations

import statistics
import time

import numpy as np
from _results import Results

from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.types import Readings, TensorSpec
from vedette.contract.window import SeriesPreprocessor, WindowBuilder

READINGS = 100_000
PER_SECOND = 10_000
ROUNDS = 5
CHANNELS = 6


def spec(rate_hz: float | None) -> SeriesInput:
    """Windows of 128 readings of six channels, half overlapping."""
    channels = tuple(Channel(name=f"c{number}") for number in range(CHANNELS))
    return SeriesInput(channels=channels, length=128, stride=64, rate_hz=rate_hz, mean=(1.0,), std=(2.0,))


def measure(results: Results) -> None:
    """Adds its rows."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(READINGS, CHANNELS)).astype(np.float32)
    jitter = rng.normal(0, 1e4, READINGS)
    times_ns = (np.arange(READINGS) * (1e9 / PER_SECOND) + jitter).astype(np.int64)
    for rate_hz, words in ((None, "as they come"), (float(PER_SECOND), "resampled"), (50.0, "resampled to 50 Hz")):
        for batch in (1, 10, 100):
            batches = [
                Readings(values[i : i + batch], times_ns[i : i + batch], 0, True) for i in range(0, READINGS, batch)
            ]
            shares = []
            for _ in range(ROUNDS):
                builder = WindowBuilder(spec(rate_hz))
                begun = time.process_time()
                for readings in batches:
                    builder.push(readings)
                shares.append((time.process_time() - begun) * 100 * PER_SECOND / READINGS)
            share = statistics.median(shares)
            results.row(
                what=f"10,000 readings a second of 6 channels into windows, {words}, batches of {batch}", value=share,
                unit="% core", n=ROUNDS, target="<= 5", holds=share <= 5, spread=[min(shares), max(shares)],
            )  # fmt: skip
    for dtype, scale in (("float32", 0.0), ("int8", 0.05)):
        tensor = TensorSpec("in", (1, 128, CHANNELS), np.dtype(dtype), scale)
        preprocess, out = SeriesPreprocessor(spec(None), tensor), tensor.allocate()
        spans = []
        for _ in range(ROUNDS):
            begun = time.process_time()
            for _ in range(2000):
                preprocess(values[:128], out)
            spans.append((time.process_time() - begun) / 2000 * 1e6)
        results.row(
            what=f"a window of 128 x 6 into an {dtype} tensor", value=statistics.median(spans), unit="us", n=ROUNDS,
            spread=[min(spans), max(spans)],
        )  # fmt: skip
