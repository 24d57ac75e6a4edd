"""A flatbuffer that was just made is loaded and run before anybody believes in it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from vedette.contract.errors import FaultError, MissingPackageError, ModelError
from vedette.contract.types import Float32Array
from vedette.engine import Runtime, TfliteEngine, load_runtime, probe
from vedette.engine.runtime import RUNTIMES

from ..load import Network

MAX_FLOAT_ERROR: Final = 1e-3  # of the largest output; float kernels differ by their order of adding, some 1e-5


def load_proven(path: Path, runtime: Runtime, *, threads: int = 1) -> TfliteEngine:
    """Loads a flatbuffer that was just made, after a child process loaded and ran it. Raises `FaultError`."""
    try:
        probe(path, runtime.name)
        return TfliteEngine(path, runtime, threads=threads)
    except ModelError as error:
        raise FaultError("the converted network does not run", where=path.name, found=error.line()) from None


def prove(flatbuffer: bytes, name: str = "the converted network") -> list[str]:
    """Loads it and runs it on zeros, in a child process, with each runtime that is installed; says with which.

    Raises `FaultError` naming the runtime that will not have it.
    """
    proven = []
    with tempfile.TemporaryDirectory(prefix="vedette-prove-") as folder:
        path = Path(folder) / "network.tflite"
        path.write_bytes(flatbuffer)
        for candidate in RUNTIMES:
            try:
                runtime = load_runtime(candidate)
            except MissingPackageError:
                continue
            try:
                probe(path, runtime.name)
            except ModelError as error:
                raise FaultError(f"{name} does not run with {runtime}", found=error.found or error.problem) from None
            proven.append(str(runtime))
    return proven


def expect_same(engine: TfliteEngine, network: Network, *sample: Float32Array) -> float:
    """The largest difference between a float flatbuffer's outputs and TensorFlow's, as a share of the largest output.

    ``sample``: one tensor an input. Raises `FaultError` above `MAX_FLOAT_ERROR`, or where the outputs come in another
    order or shape.
    """
    inputs, outputs = engine.allocate()
    for buffer, tensor in zip(inputs, sample, strict=True):
        np.copyto(buffer, tensor)
    engine.invoke(inputs, outputs)
    worst = 0.0
    for number, (expected, found) in enumerate(zip(network.run(*sample), outputs, strict=True)):
        if expected.shape != found.shape:
            raise FaultError(f"output {number} changed", expected=list(expected.shape), found=list(found.shape))
        error = float(np.abs(expected - found).max() / max(1e-6, np.abs(expected).max()))
        worst = max(worst, error)
    if not worst <= MAX_FLOAT_ERROR:
        raise FaultError(
            "the float flatbuffer differs from TensorFlow", expected=f"at most {MAX_FLOAT_ERROR:g} of the largest output",
            found=f"{worst:g}",
        )  # fmt: skip
    return worst
