"""Whether XNNPACK takes int8 networks here: that makes them several times faster."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .runtime import Runtime
from .tflite import Kernels, TfliteEngine

RUNS: Final = 40


@dataclass(frozen=True, slots=True)
class Int8Speed:
    """``delegated``: whether the runtime handed nodes to XNNPACK; None where it does not say. Times: the median of one
    inference, by default and with TFLite's own kernels alone."""

    delegated: bool | None
    default_ms: float
    builtin_ms: float


def int8_speed(path: Path, runtime: Runtime) -> Int8Speed:
    """``path``: an int8 network, of some milliseconds at most. Raises `ModelError` or `EngineFaultError`."""
    kinds: tuple[Kernels, ...] = ("default", "builtin")
    engines = {kind: TfliteEngine(path, runtime, kernels=kind) for kind in kinds}
    buffers = {kind: engine.allocate() for kind, engine in engines.items()}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(RUNS):
        for kind, engine in engines.items():  # in turns: what else the machine does meets both
            begun = time.perf_counter()
            engine.invoke(*buffers[kind])
            times[kind].append((time.perf_counter() - begun) * 1e3)
    delegated = engines["default"].delegated
    for engine in engines.values():
        engine.close()
    default, builtin = (statistics.median(times[kind]) for kind in kinds)
    return Int8Speed(delegated, default, builtin)
