"""Golden vectors of windows: what a device proves to itself that it cuts, normalises, runs and decodes as was measured."""

from __future__ import annotations

from typing import Final

import numpy as np

from vedette.contract import golden
from vedette.contract.errors import UserError
from vedette.contract.golden import Golden
from vedette.contract.manifest import AnomalyOutput, ClassifyOutput, RegressOutput, SeriesInput
from vedette.contract.types import Anomaly, Classes, Float32Array, Int64Array, Result, Tensor, Values
from vedette.contract.verdict import NEAR
from vedette.contract.window import cut_windows

from ..package import CLEAR, LEAST_INPUTS
from ..recipe import Recipe
from ..subject import Subject
from .recordings import read
from .windows import Windows

TRIED: Final = 4096  # windows, at most
ODD: Final = LEAST_INPUTS // 2  # anomalies, at most: normal windows are to be proved, too


def make(
    before: Subject, after: Subject, windows: Windows, spec: SeriesInput, recipe: Recipe,
    output: ClassifyOutput | AnomalyOutput | RegressOutput,
) -> Golden:  # fmt: skip
    """`LEAST_INPUTS` windows drawn by chance that the float network is sure of, inputs as ``after`` takes them.

    Raises `UserError` where it is sure of none.
    """
    inputs: list[Tensor] = []
    results: list[Result] = []
    outputs: list[list[Tensor]] = []
    odd = 0
    for number in np.random.default_rng(0).permutation(len(windows))[:TRIED]:
        found = before(windows.values[number])
        if not _sure(found):
            continue
        if isinstance(found, Anomaly) and found.anomalous:
            if odd == ODD:
                continue
            odd += 1
        results.append(found)
        inputs.append(after.preprocess(windows.values[number]))
        after.on_tensor()
        if len(outputs) < recipe.golden.raw:
            outputs.append(after.raw())
        if len(inputs) == LEAST_INPUTS:
            break
    if not inputs:
        raise UserError(
            "the golden windows prove nothing", expected="windows of which the float network is sure",
            found=f"none of {min(TRIED, len(windows))}", fix="give recordings like those the network was trained on",
        )  # fmt: skip
    recording, times_ns, first = _recording(windows, spec, recipe)
    stacked = [np.stack(tensors) for tensors in zip(*outputs, strict=True)]
    return golden.from_windows(
        np.stack(inputs), results, stacked, recording, times_ns, after.preprocess(first),
        value_scale=_scale(windows, results, output),
    )  # fmt: skip


def _sure(found: Result) -> bool:
    if isinstance(found, Classes):
        return len(found) > 0 and float(found.scores[0]) >= CLEAR
    if isinstance(found, Anomaly):
        return abs(found.score - found.threshold) > 2 * NEAR * found.threshold
    return True


def _scale(windows: Windows, results: list[Result], output: object) -> Float32Array | None:
    """Of each value: its deviation over the golden windows, as the float network estimates it."""
    if not isinstance(output, RegressOutput):
        return None
    values = np.array([found.values for found in results if isinstance(found, Values)], np.float32)
    return np.asarray(np.maximum(values.std(axis=0), np.float32(1e-6)), np.float32)


def _recording(windows: Windows, spec: SeriesInput, recipe: Recipe) -> tuple[Float32Array, Int64Array, Float32Array]:
    """The beginning of a recording, its times, and the first window in it."""
    path = windows.recordings[windows.recording[0]].path
    found = read(path, [channel.name for channel in spec.channels], recipe.series.time)
    times_ns = found.times_ns
    if times_ns is None:
        period_ns = 1e9 / (spec.rate_hz or 1.0)
        times_ns = np.rint(np.arange(len(found.values)) * period_ns).astype(np.int64)
    count = spec.length
    while True:
        part = slice(0, min(count, len(found.values)))
        cut = cut_windows(spec, found.values[part], times_ns[part])
        if len(cut):
            return found.values[part], times_ns[part], np.asarray(cut[0], np.float32)
        count += max(1, count // 4)
