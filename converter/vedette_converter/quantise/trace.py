"""Running a flatbuffer with every tensor in between kept, to look at."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from vedette.contract.errors import FaultError, UserError
from vedette.contract.types import Float32Array, Tensor
from vedette.engine import load_runtime
from vedette.engine.native_log import captured_stderr
from vedette.engine.refusal import lacking

from .samples import Sample, tensors


class Trace:
    """One interpreter, one thread."""

    def __init__(self, flatbuffer: bytes, *, keep: bool = True, delegate: bool = False) -> None:
        """``keep``: the tensors in between too.

        ``delegate``: XNNPACK, five times as fast for float; else TFLite's own kernels, which let a NaN through where
        XNNPACK's clamping may swallow it. Raises `FaultError`.
        """
        kernels = load_runtime("litert").module.OpResolverType
        try:
            self._interpreter = _loaded(
                flatbuffer, keep, kernels.AUTO if delegate else kernels.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            )
        except FaultError as error:
            if delegate or not lacking(error.found):
                raise
            self._interpreter = _loaded(flatbuffer, keep, kernels.AUTO)  # XNNPACK has some of MediaPipe's own
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self._details = {int(d["index"]): d for d in self._interpreter.get_tensor_details()}

    def run(self, sample: Sample) -> None:
        """Once; integer inputs are quantised as they state. Raises `FaultError`."""
        given = tensors(sample)
        if [t.shape for t in given] != [tuple(d["shape"]) for d in self._inputs]:
            raise UserError(
                "a calibration sample does not fit the network",
                expected=[[int(n) for n in d["shape"]] for d in self._inputs],
                found=[list(t.shape) for t in given],
            )
        try:
            for detail, tensor in zip(self._inputs, given, strict=True):
                self._interpreter.set_tensor(detail["index"], _quantised(detail, tensor))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise FaultError("the network does not run", found=" ".join(str(error).split())) from None

    def raw(self, index: int) -> Tensor:
        """A tensor's own values after `run`, a copy."""
        return np.asarray(self._interpreter.get_tensor(index))

    def real(self, index: int) -> Float32Array:
        """A tensor's values after `run` as the reals they stand for, float32."""
        raw = self.raw(index)
        scale, zero_point = self.quantisation(index)
        if scale == 0.0:
            return raw.astype(np.float32, copy=False)
        return (raw.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)

    def quantisation(self, index: int) -> tuple[float, int]:
        """Scale and zero point; scale 0.0 where the tensor is none of integers."""
        return _quantisation(self._details[index])

    def outputs(self) -> list[Float32Array]:
        """The network's outputs as reals."""
        return [self.real(int(d["index"])) for d in self._outputs]


def _loaded(flatbuffer: bytes, keep: bool, resolver: Any) -> Any:
    native: list[str] = []
    try:
        with captured_stderr() as native, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of the memory that keeping takes
            interpreter = load_runtime("litert").module.Interpreter(
                model_content=flatbuffer, num_threads=1, experimental_preserve_all_tensors=keep,
                experimental_op_resolver_type=resolver,
            )  # fmt: skip
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        said = " ".join(" ".join([str(error), *native]).split())
        raise FaultError("the network does not load", found=said) from None
    return interpreter


def run_outputs(flatbuffer: bytes, samples: list[Sample]) -> list[list[Float32Array]]:
    """The outputs as reals, by sample, on the kernels that a device would use."""
    trace = Trace(flatbuffer, keep=False, delegate=True)
    made = []
    for sample in samples:
        trace.run(sample)
        made.append(trace.outputs())
    return made


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10 of the powers' ratio; infinite where there is no noise, minus infinity where noise is no number."""
    if not np.isfinite(noise):
        return float("-inf")
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0.0 else float("-inf")


def worst_output_sqnr_db(reference: list[list[Float32Array]], other: list[list[Float32Array]]) -> float:
    """Signal-to-quantisation-noise ratio of the worst output, each over all samples together, in dB."""
    worst = float("inf")
    for number in range(len(reference[0])):
        signal = noise = 0.0
        for before, after in zip(reference, other, strict=True):
            wanted = before[number].astype(np.float64)
            signal += float(np.square(wanted).sum())
            noise += float(np.square(wanted - after[number]).sum())
        worst = min(worst, sqnr_db(signal, noise))
    return worst


def _quantisation(detail: dict[str, Any]) -> tuple[float, int]:
    scales = detail["quantization_parameters"]["scales"]
    if len(scales) != 1 or not np.issubdtype(detail["dtype"], np.integer):
        return 0.0, 0
    return float(scales[0]), int(detail["quantization_parameters"]["zero_points"][0])


def _quantised(detail: dict[str, Any], tensor: Float32Array) -> Tensor:
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = _quantisation(detail)
    if scale == 0.0:
        return tensor.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    raw = np.round(tensor / np.float32(scale)) + zero_point
    return np.asarray(np.clip(raw, limits.min, limits.max).astype(dtype))
