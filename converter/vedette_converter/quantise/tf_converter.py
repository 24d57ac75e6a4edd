"""TensorFlow's own TFLite converter, for networks that came with a TensorFlow graph."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from vedette.contract.errors import FaultError, ModelError, VedetteError
from vedette.contract.types import Float32Array

from ..load import Network
from ..tensorflow import captured_native_output, load_tensorflow
from .samples import Sample, tensors

Dtype = Literal["int8", "uint8", "int16", "float32"]
# tf.lite.OpsSet, by the precision
_OPS: Final = {
    "int8": "TFLITE_BUILTINS_INT8",
    "int16x8": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
}


def float32(network: Network) -> bytes:
    """The float original as a flatbuffer. Raises `FaultError` where TensorFlow cannot convert it."""
    return _convert(_converter(network))


def float16(network: Network) -> bytes:
    """Weights in float16, arithmetic in float32."""
    converter = _converter(network)
    tf = load_tensorflow()
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return _convert(converter)


def dynamic(network: Network) -> bytes:
    """Weights of layers with 1024 and more of them in int8, activations in float32, quantised on the fly."""
    converter = _converter(network)
    converter.optimizations = [load_tensorflow().lite.Optimize.DEFAULT]
    return _convert(converter)


def integer(
    network: Network,
    samples: Callable[[], Iterator[Sample]],
    *,
    precision: Literal["int8", "int16x8"] = "int8",
    input_dtype: Dtype = "int8",
    output_dtype: Dtype = "int8",
) -> bytes:
    """Every op in integers, or no flatbuffer. Ranges are the extremes over ``samples``.

    Raises `ModelError` where an op has no such kernel, and whatever ``samples`` raises.
    """
    tf = load_tensorflow()
    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, _OPS[precision])]
    converter.inference_input_type = getattr(tf, input_dtype)
    converter.inference_output_type = getattr(tf, output_dtype)
    raised: list[VedetteError] = []

    def representative() -> Iterator[list[Float32Array]]:
        try:
            for sample in samples():
                yield list(tensors(sample))
        except VedetteError as error:  # the converter would wrap it in a RuntimeError of its own
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
        ops = _ops_without_kernel(str(error), native)
        if ops:
            raise ModelError(
                "the network has ops that TFLite has not",
                found="no TFLite kernel of this precision for " + ", ".join(ops),
                fix="put other ops in their place, or leave them out",
            ) from None
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        native_errors = [line for line in native if "rror" in line][-1:]
        found = " | ".join([lines[0][:500], *native_errors])
        raise FaultError("TensorFlow cannot convert the network", found=found) from None


_NO_KERNEL: Final = re.compile(
    r"'(?P<op>tfl?\.\w+)' op (is neither a custom op nor a flex op|.*not supported|.*requires)"
)
_QUOTED: Final = re.compile(r'"(?P<place>[^"]+)"')


def _ops_without_kernel(message: str, native: list[str]) -> list[str]:
    """``op at layer NAME`` from MLIR's diagnostics, ``loc(fused["Erfinv:", callsite("model/layer/Erfinv"(...``."""
    found: dict[str, list[str]] = {}
    for line in (*native, *message.splitlines()):  # the locations stand in the native lines alone
        match = _NO_KERNEL.search(line)
        if match is None:
            continue
        places = [m["place"] for m in _QUOTED.finditer(line[: match.start()])]
        layers = [place for place in places if not place.endswith((":", ".py"))]
        known = found.setdefault(match["op"], [])
        if layers and layers[0] not in known:
            known.append(layers[0])
    return [f"{op} at layer {', '.join(layers)}" if layers else op for op, layers in found.items()]


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
