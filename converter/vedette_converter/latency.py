"""Engines timed by turns: what the machine does meanwhile hits all alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vedette.contract.types import Tensor
from vedette.engine import Engine

WARM_UP = 3  # runs of each that are not counted: caches, lazy allocations


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one engine: milliseconds for one inference, preprocessing and decoding not counted."""

    p25_ms: float
    p50_ms: float
    p75_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Both by turns, on one machine."""

    before: Timing
    after: Timing
    rounds: int
    runtime: str
    threads: int
    machine: str

    @property
    def ratio(self) -> float:
        """Median after by median before; below 1 is faster."""
        return self.after.p50_ms / self.before.p50_ms


def time_both(before: Engine, after: Engine, samples: tuple[Tensor, Tensor], rounds: int) -> Latency:
    """``samples``: an input for each engine, batch included. Raises `EngineFaultError`."""
    first, second = time_all([before, after], samples, rounds)
    description = after.description
    return Latency(first, second, rounds, description.runtime, description.threads, machine())


def time_all(engines: Sequence[Engine], samples: Sequence[Tensor], rounds: int) -> list[Timing]:
    """Each round times one inference of every engine; ``samples``: an input for each, batch included."""
    taken: list[list[float]] = [[] for _ in engines]
    buffers = [engine.allocate() for engine in engines]
    for (inputs, _), sample in zip(buffers, samples, strict=True):
        np.copyto(inputs[0], sample)
    for turn in range(WARM_UP + rounds):
        for engine, (inputs, outputs), times in zip(engines, buffers, taken, strict=True):
            start = time.perf_counter_ns()
            engine.invoke(inputs, outputs)
            if turn >= WARM_UP:
                times.append((time.perf_counter_ns() - start) / 1e6)
    return [_timing(times) for times in taken]


def _timing(times_ms: Sequence[float]) -> Timing:
    return Timing(*(float(value) for value in np.percentile(times_ms, [25, 50, 75, 90, 99])))


def machine() -> str:
    """CPU and cores, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return (
        f"{names[0] if names else platform.processor() or 'unknown CPU'}, {os.cpu_count()} cores, {platform.machine()}"
    )
