"""Bundles of the networks ``tests/contract/data/series-*.tflite``, with golden vectors by the float ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from signals import LABELS, LENGTH, OUTPUTS, RATE_HZ, normalised, series_input, signal, windows
from tiny import DATA, make_manifest
from vedette.contract import bundle, golden
from vedette.contract.decode import make_decoder
from vedette.contract.golden import Golden
from vedette.contract.manifest import Manifest, Tolerance, task_of
from vedette.contract.types import Result, Tensor
from vedette.contract.window import cut_windows
from vedette.engine import TfliteEngine, load_runtime

COUNT = 32


def network(name: str, kind: str) -> Path:
    """``name``: of `signals.OUTPUTS`; ``kind``: float32 or int8."""
    return DATA / f"series-{name}-{kind}.tflite"


def as_tensor(values: Tensor, engine: TfliteEngine) -> Tensor:
    """Windows (..., 24, 3) as the network takes them, worked out here."""
    tensor = engine.inputs[0]
    real = normalised(values)
    if tensor.dtype == np.float32:
        return real
    return np.clip(np.round(real.astype(np.float64) / tensor.scale) + tensor.zero_point, -128, 127).astype(np.int8)


def results(name: str, engine: TfliteEngine, inputs: Tensor) -> list[Result]:
    """What a network makes of inputs already preprocessed."""
    decoder = make_decoder(
        OUTPUTS[name], engine.outputs, len(LABELS[name]), inputs=engine.inputs, input_spec=series_input()
    )
    tensors, outputs = engine.allocate()
    found = []
    for sample in inputs:
        tensors[0][0] = sample
        engine.invoke(tensors, outputs)
        found.append(decoder(outputs, tensors))
    return found


@cache
def recording(seed: int = 3) -> tuple[Tensor, Tensor]:
    """60 readings of walking at about 45 Hz, and their times."""
    rng = np.random.default_rng(seed)
    times_ns = 10**15 + np.cumsum(rng.integers(15_000_000, 30_000_000, 60))
    return signal(1, 60, rng), times_ns


def golden_for(name: str, kind: str, runtime: str = "auto") -> Golden:
    """By the float network."""
    values, _ = windows(COUNT, 11, kinds=(1, 2) if name == "anomaly" else (0, 1, 2))
    float_engine = TfliteEngine(network(name, "float32"), load_runtime(runtime))
    engine = TfliteEngine(network(name, kind), load_runtime(runtime))
    reference = results(name, float_engine, as_tensor(values, float_engine))
    readings, times_ns = recording()
    first = cut_windows(series_input(), readings, times_ns)[0]
    scale = np.array([0.3, 4.0], np.float32) if name == "regress" else None
    return golden.from_windows(
        as_tensor(values, engine), reference, [], readings, times_ns, as_tensor(first, engine), value_scale=scale
    )


def manifest_for(name: str, kind: str, members: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    """A manifest with a bound for every kind of kernels."""
    tolerances = {
        kernels: Tolerance(min_agreement=0.9, max_mean_score_error=0.1)
        for kernels in ("xnnpack", "builtin", "reference")
    }
    fields: dict[str, Any] = {
        "name": f"series-{name}", "task": task_of(OUTPUTS[name]), "input": series_input(), "output": OUTPUTS[name],
        "tolerances": tolerances, "precision": "int8" if kind == "int8" else "float32",
    }  # fmt: skip
    return make_manifest(network(name, kind).read_bytes(), members or {}, **{**fields, **changes})


def write(folder: Path, name: str, kind: str = "int8", **changes: Any) -> Path:
    """A bundle in a folder."""
    members = {
        "labels.txt": "".join(f"{label}\n" for label in LABELS[name]).encode(),
        "golden.npz": golden.encode(golden_for(name, kind)),
    }
    path = folder / f"series-{name}.tflite"
    bundle.write_bundle(path, network(name, kind).read_bytes(), manifest_for(name, kind, members, **changes), members)
    return path


def write_csv(path: Path, seconds: float = 2.0, kind: int = 1, seed: int = 4) -> Path:
    """A recording of one activity, with a header and times, z before x."""
    count = int(seconds * RATE_HZ)
    values = signal(kind, count, np.random.default_rng(seed))
    rows = [f"{i / RATE_HZ:.3f},{z},{x},{y}" for i, (x, y, z) in enumerate(values.tolist())]
    path.write_text("\n".join(["t,z,x,y", *rows]) + "\n")
    assert count >= LENGTH
    return path
