"""The ranges of a float network's activations over calibration samples, and whether they are finite at all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from vedette.contract.errors import ModelError, UserError
from vedette.contract.types import Float32Array

from .graph import Graph, GraphOp, GraphTensor, read_graph
from .samples import Samples
from .trace import Trace

# what leads to an output and only moves values or maps each by a fixed curve: clipping before it clips the result
_PASSES_ON: Final = frozenset(
    [
        "RESHAPE",
        "TRANSPOSE",
        "SQUEEZE",
        "EXPAND_DIMS",
        "CONCATENATION",
        "SPLIT",
        "SPLIT_V",
        "SLICE",
        "STRIDED_SLICE",
        "PACK",
        "UNPACK",
        "GATHER",
        "LOGISTIC",
        "SOFTMAX",
    ]
)
_BODIES: Final = frozenset({"WHILE", "IF"})
_CAREFUL: Final = 4  # samples on the kernels that hide no NaN


@dataclass(frozen=True, slots=True)
class Range:
    """Of one tensor's values, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What calibration saw."""

    ranges: dict[str, Range]
    """By the names of the float flatbuffer's tensors; float tensors that are no constants."""
    samples: int


def refuse_nan_constants(graph: Graph) -> None:
    """Raises `ModelError` naming the first layer with a weight that is no number."""
    for op in graph.ops:
        for tensor in op.inputs:
            if tensor.constant is not None and np.isnan(tensor.constant).any():
                raise ModelError(
                    f"layer {op.layer} ({op.name}) has weights that are no numbers",
                    found=f"{int(np.isnan(tensor.constant).sum())} NaN in {tensor.name}",
                    fix="train it anew, or load the weights from before they diverged",
                )


def refuse_loops(graph: Graph, precision: str) -> None:
    """Raises `ModelError` naming the first loop or branch: what is computed within has no range that could be seen."""
    for op in graph.ops:
        if op.name in _BODIES:
            raise ModelError(
                f"layer {op.layer} ({op.name}) has a body of its own, in which no range can be observed",
                expected=f"none in {precision}",
                fix='give a recurrent Keras layer unroll=True, or take precision = "dynamic" or "float16" (--quantise)',
            )  # fmt: skip


def observe(
    flatbuffer: bytes, samples: Samples, *, limit: int | None = None, on_sample: Callable[[], None] = lambda: None
) -> Observed:
    """The extremes of every activation over the first ``limit`` samples, or all.

    Raises `ModelError` naming the first layer, in the order of execution, that puts out NaN or infinity.
    """
    graph = read_graph(flatbuffer)
    trace = Trace(flatbuffer)
    watched = _activations(graph)
    found: dict[str, Range] = {}
    count = 0
    for count, sample in enumerate(itertools.islice(samples(), limit), 1):
        if count == _CAREFUL + 1:
            trace = Trace(flatbuffer, delegate=True)
            watched = _read(graph, watched)
        trace.run(sample)
        for tensor, op in watched:
            values = trace.raw(tensor.index)
            low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
            if not (math.isfinite(low) and math.isfinite(high)):
                _refuse(op, values, count)
            before = found.get(tensor.name)
            found[tensor.name] = Range(min(low, before.low), max(high, before.high)) if before else Range(low, high)
        on_sample()
    if not count:
        raise ModelError("no calibration samples", expected="at least one")
    return Observed(found, count)


def clip(flatbuffer: bytes, samples: Samples, observed: Observed, percentile: float) -> dict[str, Range]:
    """Ranges that leave out each tensor's rarest values: at most 100 - ``percentile`` percent at either end.

    Exact, by rank, over the values of all samples together. The network's inputs and outputs, and what only passes
    values on to an output, keep their extremes: what is rare there is the result. One more pass over the samples.
    """
    graph = read_graph(flatbuffer)
    keep = _results(graph)
    trace = Trace(flatbuffer, delegate=True)
    tails: dict[str, _Tails] = {}
    watched = _read(graph, _activations(graph))
    for tensor, op in watched:
        if op is None or tensor.name in keep:
            continue
        values = math.prod(tensor.shape) * observed.samples
        beyond = int((100.0 - percentile) / 100.0 * values)
        if beyond:
            tails[tensor.name] = _Tails(beyond + 1)
    for sample in itertools.islice(samples(), observed.samples):
        trace.run(sample)
        for tensor, _ in watched:
            if tensor.name in tails:
                tails[tensor.name].add(trace.raw(tensor.index).ravel())
    return {**observed.ranges, **{name: ends.range() for name, ends in tails.items()}}


class _Tails:
    """The ``keep`` smallest and largest of all values added."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._low = np.empty(0, np.float32)
        self._high = np.empty(0, np.float32)

    def add(self, values: Float32Array) -> None:
        keep = self._keep
        low = np.concatenate([self._low, values])
        high = np.concatenate([self._high, values])
        self._low = np.partition(low, keep - 1)[:keep] if low.size > keep else low
        self._high = np.partition(high, -keep)[-keep:] if high.size > keep else high

    def range(self) -> Range:
        return Range(float(self._low.max()), float(self._high.min()))


_Made = tuple[GraphTensor, GraphOp | None]


def _activations(graph: Graph) -> list[_Made]:
    """Float tensors that are no constants, in the order in which they come to be, with the op that makes each.

    Without what a loop or a branch puts out: the runtime gives what nobody reads of it no memory.
    """
    made: list[_Made] = [(tensor, None) for tensor in graph.inputs]
    made += [(tensor, op) for op in graph.ops for tensor in op.outputs]
    return [(t, op) for t, op in made if t.dtype == "float32" and (op is None or op.name not in _BODIES)]


def _read(graph: Graph, made: list[_Made]) -> list[_Made]:
    """Those that an op or the caller reads: XNNPACK gives the others no memory."""
    read = {tensor.name for op in graph.ops for tensor in op.inputs} | {tensor.name for tensor in graph.outputs}
    return [(tensor, op) for tensor, op in made if tensor.name in read]


def _results(graph: Graph) -> set[str]:
    names = {tensor.name for tensor in graph.outputs}
    for op in reversed(graph.ops):
        if op.name in _PASSES_ON and any(tensor.name in names for tensor in op.outputs):
            names |= {tensor.name for tensor in op.inputs}
    return names


def _refuse(op: GraphOp | None, values: Float32Array, sample: int) -> None:
    bad = int((~np.isfinite(values)).sum())
    found = f"{bad} of {values.size} values NaN or infinite in sample {sample}"
    if op is None:
        raise UserError("a calibration sample is not finite", found=found)
    raise ModelError(
        f"layer {op.layer} ({op.name}) puts out what is no finite number", found=found,
        fix="look at this layer's weights and at what it is fed",
    )  # fmt: skip
