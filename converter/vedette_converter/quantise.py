"""Network -> TFLite flatbuffers, float32 and full int8, each loaded and run before it is believed.

TFLite's quantisation spec: https://ai.google.dev/edge/litert/models/quantization_spec (weights symmetric per channel,
activations asymmetric per tensor, ranges from calibration).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from vedette.contract.errors import FaultError, ModelError, PictureError
from vedette.contract.types import Float32Array
from vedette.engine import Runtime, TfliteEngine, probe

from .load import Network
from .tensorflow import captured_native_output, load_tensorflow

MAX_FLOAT_ERROR: Final = 1e-3  # of the largest output; float kernels differ by their order of adding, some 1e-5


def to_float32(network: Network) -> bytes:
    """The float original as a flatbuffer. Raises `FaultError` where TensorFlow cannot convert it."""
    return _convert(_converter(network))


def to_int8(
    network: Network,
    samples: Iterable[Float32Array],
    *,
    input_dtype: Literal["int8", "uint8"] = "int8",
    output_dtype: Literal["int8", "uint8"] = "int8",
) -> bytes:
    """Every op in int8, or no flatbuffer. ``samples``: float32 inputs of the network's shape, for the ranges.

    Raises `FaultError` where an op has no int8 kernel, and whatever ``samples`` raises.
    """
    tf = load_tensorflow()
    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = getattr(tf, input_dtype)
    converter.inference_output_type = getattr(tf, output_dtype)
    raised: list[PictureError] = []

    def representative() -> Iterator[list[Float32Array]]:
        try:
            for sample in samples:
                yield [sample]
        except PictureError as error:  # the converter would wrap it in a RuntimeError of its own
            raised.append(error)
            raise

    converter.representative_dataset = representative
    try:
        return _convert(converter)
    except FaultError:
        if raised:
            raise raised[0] from None
        raise


def _converter(network: Network) -> Any:
    with _quiet_absl():  # it warns of a missing trackable object, which only networks with variables have
        return load_tensorflow().lite.TFLiteConverter.from_concrete_functions([network.function])


def _convert(converter: Any) -> bytes:
    native: list[str] = []
    try:
        with captured_native_output() as native, warnings.catch_warnings(), _quiet_absl():
            warnings.simplefilter("ignore")  # its own deprecations; what matters is the flatbuffer, which is run below
            return bytes(converter.convert())
    except Exception as error:  # noqa: BLE001 - it raises classes of its own, ValueError, RuntimeError and more
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        native_errors = [line for line in native if "rror" in line][-1:]
        found = " | ".join([lines[0][:500], *native_errors])
        raise FaultError("TensorFlow cannot convert the network", found=found) from None


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    import logging

    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def load_proven(path: Path, runtime: Runtime, *, threads: int = 1) -> TfliteEngine:
    """Loads a flatbuffer that was just made, after a child process loaded and ran it. Raises `FaultError`."""
    try:
        probe(path, runtime.name)
        return TfliteEngine(path, runtime, threads=threads)
    except ModelError as error:
        raise FaultError("the converted network does not run", where=path.name, found=error.line()) from None


def expect_same(engine: TfliteEngine, network: Network, sample: Float32Array) -> float:
    """The largest difference between a float flatbuffer's outputs and TensorFlow's, as a share of the largest output.

    Raises `FaultError` above `MAX_FLOAT_ERROR`, or where the outputs come in another order or shape.
    """
    inputs, outputs = engine.allocate()
    np.copyto(inputs[0], sample)
    engine.invoke(inputs, outputs)
    worst = 0.0
    for number, (expected, found) in enumerate(zip(network.run(sample), outputs, strict=True)):
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
