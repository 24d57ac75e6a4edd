"""What quantisation costs, layer by layer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .graph import read_graph
from .samples import Samples
from .trace import Trace, sqnr_db


@dataclass(frozen=True, slots=True)
class LayerError:
    """One op of the float network, and its first output tensor in either network.

    The errors are accumulated ones: both networks are fed the same samples, so what earlier layers lost is in them.
    What int8 in one layer alone costs at the outputs is `mixed.sensitivities`.
    """

    index: int
    """In the float flatbuffer's order of execution, from 0."""
    op: str
    """Such as CONV_2D."""
    tensor: str
    """The output tensor's name, the same in both flatbuffers."""
    dtype: str
    """Of that tensor in the quantised flatbuffer: int8, int16, float32 ..."""
    sqnr_db: float
    """Signal-to-quantisation-noise ratio, 10 log10(sum f^2 / sum (f - q)^2), over all values of all samples."""
    rmse_by_scale: float | None
    """sqrt(mean (f - q)^2) / scale, the mean over all values of all samples: 1 / sqrt(12) = 0.289 is what rounding alone
    makes of evenly spread values. As TensorFlow's quantisation debugger defines it. None where the tensor is float."""
    macs: int
    """Multiply-accumulates of one inference, counted from the shapes. 0 for ops that are no matrix products."""
    mac_share: float
    """Of the network's multiply-accumulates, 0..1. Not a share of the time: the runtimes' Python packages profile no
    single ops, and a depthwise convolution takes longer a multiply-accumulate than a dense one."""


def layer_errors(float32: bytes, quantised: bytes, samples: Samples, *, limit: int | None = None) -> list[LayerError]:
    """Of every op whose output tensor is in both flatbuffers by the same name, in the order of execution.

    ``float32``: the flatbuffer that ``quantised`` was made of, or TensorFlow's float conversion of the same network.
    ``limit``: of the samples; None for all. TFLite's own kernels, every tensor kept. Raises `FaultError` where one of
    the two does not run, and what ``samples`` raises.
    """
    graph = read_graph(float32)
    other_graph = read_graph(quantised)
    others = {tensor.name: tensor for op in other_graph.ops for tensor in op.outputs}
    for one, other in zip(graph.outputs, other_graph.outputs, strict=True):
        others.setdefault(one.name, other)  # where the converter renamed an output, its place tells
    before, after = Trace(float32), Trace(quantised)
    pairs = [
        (op, op.outputs[0], others[op.outputs[0].name])
        for op in graph.ops
        if op.outputs and op.outputs[0].dtype == "float32" and op.outputs[0].name in others
    ]
    signal = np.zeros(len(pairs))
    noise = np.zeros(len(pairs))
    count = np.zeros(len(pairs))
    for sample in itertools.islice(samples(), limit):
        before.run(sample)
        after.run(sample)
        for place, (_, tensor, other) in enumerate(pairs):
            wanted = before.real(tensor.index).astype(np.float64)
            signal[place] += float(np.square(wanted).sum())
            noise[place] += float(np.square(wanted - after.real(other.index)).sum())
            count[place] += wanted.size
    total = sum(op.macs for op in graph.ops)
    errors = []
    for place, (op, tensor, other) in enumerate(pairs):
        scale, _ = after.quantisation(other.index)
        rmse = float(np.sqrt(noise[place] / max(1.0, count[place])))
        errors.append(
            LayerError(
                op.index, op.name, tensor.name, other.dtype, sqnr_db(signal[place], noise[place]),
                rmse / scale if scale else None, op.macs, op.macs / total if total else 0.0,
            )
        )  # fmt: skip
    return errors
