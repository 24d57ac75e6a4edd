"""Mixed precision: int8, but for the layers that lose most, which stay float32 until a bound holds.

Which lose most is measured, layer by layer: the network is quantised with that one layer in int8 and all else in
float32, and the noise at its outputs is what int8 in that layer costs. A layer's own error would not tell: a later
layer may drown it or magnify it. The search then keeps the worst k of that order in float32, doubling k until the bound
holds and bisecting back: some 2 log2(k) trials. Leaving out layers by their measured error is the way of TensorFlow's
quantisation debugger, https://ai.google.dev/edge/litert/models/quantization_debugger.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vedette.contract.errors import FaultError
from vedette.contract.types import Float32Array

from ..load import Network
from ..recipe.quantisation import Quantise
from . import edge_quantizer, tf_converter
from .graph import GraphOp, read_graph
from .ranges import Range, clip, observe
from .samples import Sample, Samples
from .trace import run_outputs, worst_output_sqnr_db

RANKING_SAMPLES: Final = 8  # of the calibration samples; the order of layers settles with few
BOUND_SAMPLES: Final = 32  # of them for the bound on SQNR


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What int8 in one layer alone costs."""

    op: GraphOp
    """Of the float flatbuffer."""
    sqnr_db: float
    """Signal-to-quantisation-noise ratio of the worst output; infinite where the op has no int8 kernel or loses
    nothing, minus infinity where the runtime will not load it in int8."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A network in mixed precision, and how it came to be."""

    flatbuffer: bytes
    float_layers: tuple[Sensitivity, ...]
    """Kept in float32 for their error, worst first. Ops without an int8 kernel are float32 besides."""
    ranking: tuple[Sensitivity, ...]
    """Every op, worst first."""
    trials: tuple[tuple[int, bool], ...]
    """How many layers were kept in float32, and whether the bound held, in the order of trying."""
    sqnr_db: float
    """Of the worst output, over up to `BOUND_SAMPLES` calibration samples."""


def mixed(
    network: Network,
    options: Quantise,
    samples: Samples,
    *,
    float32: bytes | None = None,
    holds: Callable[[bytes], bool] | None = None,
    on_sample: Callable[[], None] = lambda: None,
) -> Mixed:
    """The int8 network with the fewest layers in float32 for which the bound was seen to hold.

    ``holds``: judges a candidate flatbuffer, such as by its accuracy; without it the bound is ``options.least_sqnr_db``.
    Raises `FaultError` where it holds with none of up to ``options.most_float_layers``, and whatever ``holds`` and
    ``samples`` raise; `ModelError` where a layer puts out what is no finite number.
    """
    if float32 is None:
        float32 = network.flatbuffer if network.flatbuffer is not None else tf_converter.float32(network)
    observed = observe(float32, samples, on_sample=on_sample)
    percentile = options.clip_percentile
    ranges = observed.ranges if percentile is None else clip(float32, samples, observed, percentile)
    shown = list(itertools.islice(samples(), BOUND_SAMPLES))
    reference = run_outputs(float32, shown)
    made: dict[int, tuple[bytes, float]] = {}
    trials: list[tuple[int, bool]] = []
    ranking: list[Sensitivity] = []

    def attempt(count: int) -> bool:
        flatbuffer = edge_quantizer.integer(
            float32, ranges, input_dtype=options.input_dtype, output_dtype=options.output_dtype,
            keep_float=[layer.op for layer in ranking[:count]],
        )  # fmt: skip
        sqnr = reached_db(reference, flatbuffer, shown)
        made[count] = (flatbuffer, sqnr)
        runs = sqnr > float("-inf")
        trials.append((count, runs and (holds(flatbuffer) if holds is not None else sqnr >= options.least_sqnr_db)))
        return trials[-1][1]

    best = 0
    if not attempt(0):
        ranking += sensitivities(float32, ranges, shown[:RANKING_SAMPLES])
        lossy = sum(layer.sqnr_db < float("inf") for layer in ranking)
        found = _fewest(attempt, min(options.most_float_layers, lossy))
        if found is None:
            figures = ", ".join(f"{made[count][1]:.1f} dB with {count} float layers" for count, _ in trials)
            wanted = (
                "[gate] min_agreement on what it was calibrated with"
                if holds is not None
                else f"{options.least_sqnr_db:g} dB at every output"
            )
            raise FaultError(
                "no mixed network holds the bound", expected=wanted, found=figures,
                fix='raise max_float_layers, or lower the bound, or take precision = "float16" (--quantise)',
            )  # fmt: skip
        best = found
    flatbuffer, sqnr = made[best]
    return Mixed(flatbuffer, tuple(ranking[:best]), tuple(ranking), tuple(trials), sqnr)


def sensitivities(float32: bytes, ranges: Mapping[str, Range], samples: Sequence[Sample]) -> list[Sensitivity]:
    """What int8 in each op alone costs at the outputs, worst first; ties in the order of execution.

    One conversion an op, some 0.1 s each. Raises `FaultError`.
    """
    shown = list(samples)
    reference = run_outputs(float32, shown)
    measured = []
    for op in read_graph(float32).ops:
        alone = edge_quantizer.integer(float32, ranges, input_dtype="float32", output_dtype="float32", only=op)
        measured.append(Sensitivity(op, reached_db(reference, alone, shown)))
    return sorted(measured, key=lambda layer: (layer.sqnr_db, layer.op.index))


def reached_db(reference: list[list[Float32Array]], flatbuffer: bytes, samples: list[Sample]) -> float:
    """Of the worst output; minus infinity where the runtime will not run it."""
    try:
        return worst_output_sqnr_db(reference, run_outputs(flatbuffer, samples))
    except FaultError:  # XNNPACK refuses scales that lie too far apart
        return float("-inf")


def _fewest(attempt: Callable[[int], bool], most: int) -> int | None:
    """The smallest count seen to do, where none does not: doubled until one does, then halved back."""
    failed, count = 0, 1
    while count <= most and not attempt(count):
        failed = count
        if count == most:
            return None
        count = min(2 * count, most)
    if count > most:
        return None
    while count - failed > 1:
        middle = (failed + count) // 2
        if attempt(middle):
            count = middle
        else:
            failed = middle
    return count
