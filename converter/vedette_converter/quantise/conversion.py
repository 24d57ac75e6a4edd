"""A network and a recipe's options -> the flatbuffer that they ask for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

from vedette.contract.errors import FaultError, ModelError, UserError
from vedette.contract.types import Float32Array

from ..load import Network
from ..recipe.quantisation import Quantise
from . import edge_quantizer, tf_converter
from .graph import read_graph
from .mixed import RANKING_SAMPLES, mixed, reached_db
from .pack import compact
from .proof import prove
from .ranges import Range, clip, observe, refuse_loops, refuse_nan_constants
from .rewrite import for_integers
from .samples import Samples
from .trace import run_outputs

FEW: Final = 4  # samples that show whether a float network's outputs are finite
CLEARLY_DB: Final = 6.0  # half the noise's amplitude; less is as likely to turn on other samples
_EDGES: Final = frozenset({"QUANTIZE", "DEQUANTIZE"})
_NAMED: Final = 5  # ops in a message, at most


def convert(
    network: Network,
    options: Quantise,
    samples: Samples | None = None,
    *,
    float32: bytes | None = None,
    holds: Callable[[bytes], bool] | None = None,
    on_sample: Callable[[], None] = lambda: None,
) -> bytes:
    """The network in ``options.precision``, proved to load and run with every runtime installed here.

    ``samples``: needed where ``options.calibrated``; gone over twice or more. ``float32``: the network's float
    flatbuffer, where it was made already. ``holds``: for ``mixed``, see there. ``on_sample``: called once a sample.

    Raises `ModelError` where weights or, over the samples, a layer's outputs are not finite, naming the layer, and where
    an op has no kernel of this precision or, calibrated, is a loop; `FaultError` where the flatbuffer does not run; what
    ``samples`` raises.
    """
    written = for_integers(network) if options.calibrated else None
    if written is not None:
        network, float32 = written, None
    original = float32 if float32 is not None else to_float32(network)
    graph = read_graph(original)
    refuse_nan_constants(graph)
    if options.calibrated:
        refuse_loops(graph, options.precision)
    if options.precision == "mixed":
        made = mixed(network, options, _given(samples), float32=original, holds=holds, on_sample=on_sample).flatbuffer
        prove(made, "the mixed network")
        return made
    if options.calibrated:
        made = _integer(network, options, original, _given(samples), on_sample)
        _refuse_float_ops(made, options.precision)
    else:
        if samples is not None:
            observe(original, samples, limit=FEW)
        made = _float(network, options.precision, original)
    if options.precision != "float32":  # which stays as it came
        made = compact(made)
    try:
        prove(made, f"the {options.precision} network")
    except FaultError as error:
        if options.clip_percentile is None:
            raise
        # XNNPACK has no room for a weight that is large against a range that was clipped small
        raise UserError(error.problem, found=error.found, fix='raise percentile, or ranges = "minmax"') from None
    return made


def to_float32(network: Network) -> bytes:
    """The float original as a flatbuffer; as it came, where it came as one. Raises `FaultError`."""
    return network.flatbuffer if network.flatbuffer is not None else tf_converter.float32(network)


def to_int8(
    network: Network,
    samples: Iterable[Float32Array],
    *,
    input_dtype: Literal["int8", "uint8"] = "int8",
    output_dtype: Literal["int8", "uint8"] = "int8",
) -> bytes:
    """Every op in int8 by TensorFlow's converter, or no flatbuffer; neither looked at nor proved: `convert` does both.

    Raises `ModelError` where an op has no int8 kernel, and whatever ``samples`` raises.
    """
    return tf_converter.integer(
        network, lambda: iter(samples), input_dtype=input_dtype, output_dtype=output_dtype
    )  # fmt: skip


def _given(samples: Samples | None) -> Samples:
    if samples is None:
        raise ValueError("this precision needs calibration samples")
    return samples


def _float(network: Network, precision: str, original: bytes) -> bytes:
    if precision == "float32":
        return original
    if network.flatbuffer is not None:
        return edge_quantizer.float16(original) if precision == "float16" else edge_quantizer.dynamic(original)
    return tf_converter.float16(network) if precision == "float16" else tf_converter.dynamic(network)


def _integer(
    network: Network, options: Quantise, original: bytes, samples: Samples, on_sample: Callable[[], None]
) -> bytes:
    observed = observe(original, samples, on_sample=on_sample)
    percentile = options.clip_percentile
    if network.flatbuffer is not None or percentile is not None:
        ranges = observed.ranges if percentile is None else clip(original, samples, observed, percentile)
        return _by_ranges(options, original, ranges)
    made = other = refusal = None
    try:
        made = tf_converter.integer(
            network, samples, precision="int8" if options.precision == "int8" else "int16x8",
            input_dtype=options.input_dtype, output_dtype=options.output_dtype,
        )  # fmt: skip
    except (FaultError, ModelError) as error:  # each has kernels that it does not know of, and the other does
        refusal = error
    try:
        other = _by_ranges(options, original, observed.ranges)
    except FaultError as error:
        refusal = refusal or error
    if made is not None and other is not None:
        return _better(original, samples, made, other)
    if (only := made or other) is None:
        assert refusal is not None
        raise refusal
    return only


def _better(original: bytes, samples: Samples, made: bytes, other: bytes) -> bytes:
    """``made``, unless it has ops in float and ``other`` has none, or its noise is `CLEARLY_DB` above ``other``'s.

    Of the same unrolled LSTM TensorFlow leaves a SPLIT in float one time and none the next, and in int16 its cell is far
    noisier than the other's.
    """
    left, other_left = _left_in_float(made), _left_in_float(other)
    if left or other_left:
        return other if not other_left else made
    shown = list(itertools.islice(samples(), RANKING_SAMPLES))
    reference = run_outputs(original, shown)
    gained_db = reached_db(reference, other, shown) - reached_db(reference, made, shown)
    return other if gained_db >= CLEARLY_DB else made


def _by_ranges(options: Quantise, original: bytes, ranges: Mapping[str, Range]) -> bytes:
    return edge_quantizer.integer(
        original, ranges, activations="int8" if options.precision == "int8" else "int16",
        input_dtype=options.input_dtype, output_dtype=options.output_dtype,
    )  # fmt: skip


def _left_in_float(flatbuffer: bytes) -> list[str]:
    """``OP at layer NAME``: both converters silently leave in float what they have no integer kernel for."""
    return [
        f"{op.name} at layer {op.layer}"
        for op in read_graph(flatbuffer).ops
        if op.name not in _EDGES and any(tensor.dtype.startswith("float") for tensor in (*op.inputs, *op.outputs))
    ]


def _refuse_float_ops(flatbuffer: bytes, precision: str) -> None:
    left = _left_in_float(flatbuffer)
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        raise ModelError(
            f"ops without an {precision} kernel would stay in float32", found=", ".join(left[:_NAMED]) + more,
            fix='precision = "mixed" (--quantise) allows that',
        )  # fmt: skip
