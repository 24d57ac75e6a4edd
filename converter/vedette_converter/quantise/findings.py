"""Whether calibration samples look like what the network will be fed. Findings are for a person to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from vedette.contract.manifest import ImageInput
from vedette.contract.types import Float32Array, TensorSpec

from .samples import Sample, tensors

FEWEST: Final = 32  # samples; below, the extremes of a layer are luck
LEAST_SHARE: Final = 0.5  # of the range that the input can have, that the samples together should reach
LEAST_SPREAD: Final = 1e-3  # of that range: a sample whose values are closer together shows nothing
MOST_DULL: Final = 0.1  # share of samples that may show nothing
_SLACK: Final = 1e-4  # of the range; rounding

Limits = tuple[float, float]
"""The lowest and the highest value that an input tensor can have."""


def limits_of(spec: ImageInput) -> Limits:
    """Of a picture's input tensor: ``(pixel - mean) / std`` for pixels of 0 and 255, over the channels."""
    count = max(len(spec.mean), len(spec.std))
    means = spec.mean * count if len(spec.mean) == 1 else spec.mean
    stds = spec.std * count if len(spec.std) == 1 else spec.std
    ends = [(pixel - mean) / std for mean, std in zip(means, stds, strict=False) for pixel in (0.0, 255.0)]
    return min(ends), max(ends)


def calibration_findings(samples: Iterable[Sample], limits: Sequence[Limits | None] = ()) -> list[str]:
    """One line for each thing that looks wrong, none where nothing does. One pass; what ``samples`` raises is raised.

    ``limits``: of each input; none are checked for an input without.
    """
    seen: list[_Input] = []
    count = 0
    for sample in samples:
        count += 1
        given = tensors(sample)
        if not seen:
            seen = [_Input(limits[n] if n < len(limits) else None) for n in range(len(given))]
        for one, tensor in zip(seen, given, strict=True):
            one.add(tensor)
    if count == 0:
        return ["no calibration samples"]
    findings = []
    if count < FEWEST:
        findings.append(f"{count} calibration samples are few: activations' ranges need {FEWEST} or more")
    for number, one in enumerate(seen):
        where = f"input {number}: " if len(seen) > 1 else ""
        findings += [where + finding for finding in one.findings(count)]
    return findings


class Peaks:
    """The largest values of a float network's outputs, part by part along the shortest axis behind the batch: of a YOLO's
    candidates those of the box's sides, and of each class's score.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._axes = [_parted(spec.shape) for spec in specs]
        self._peaks = [
            np.zeros(0 if axis is None else spec.shape[axis]) for spec, axis in zip(specs, self._axes, strict=True)
        ]

    def add(self, outputs: Sequence[Float32Array]) -> None:
        """What the network says of one more sample."""
        for axis, peaks, output in zip(self._axes, self._peaks, outputs, strict=True):
            if axis is not None:
                others = tuple(n for n in range(output.ndim) if n != axis)
                np.maximum(peaks, np.abs(output).max(axis=others), out=peaks)

    def findings(self, quantised: Sequence[TensorSpec]) -> list[str]:
        """One line for each output of which some parts are no larger than its steps, though others are."""
        found = []
        for axis, peaks, spec in zip(self._axes, self._peaks, quantised, strict=True):
            lost = int((peaks <= spec.scale).sum()) if spec.quantised else 0
            if 0 < lost < len(peaks):
                found.append(
                    f"output {spec.name}: {lost} of the {len(peaks)} along axis {axis} never exceed its step of "
                    f"{spec.scale:.2g}, which the others set, so nothing is left of them: try --quantise float16, or a "
                    "recipe that reads them before they are joined ([source] outputs)"
                )
        return found


def _parted(shape: Sequence[int]) -> int | None:
    axes = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    return min(axes, key=shape.__getitem__) if len(axes) > 1 else None


class _Input:
    """What was seen of one input."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits
        self._low, self._high = float("inf"), float("-inf")
        self._not_finite = self._dull = self._beyond = 0
        self._distinct: set[int] = set()

    def add(self, tensor: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        self._distinct.add(hash(tensor.tobytes()))
        finite = tensor[np.isfinite(tensor)]
        self._not_finite += finite.size < tensor.size
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
        self._low, self._high = min(self._low, low), max(self._high, high)
        width = self._limits[1] - self._limits[0] if self._limits else max(abs(low), abs(high))
        self._dull += high - low <= LEAST_SPREAD * width
        if self._limits:
            self._beyond += low < self._limits[0] - _SLACK * width or high > self._limits[1] + _SLACK * width

    def findings(self, count: int) -> list[str]:
        found = []
        if self._not_finite:
            found.append(f"{self._not_finite} of {count} calibration samples have values that are NaN or infinite")
        if self._dull > MOST_DULL * count:
            found.append(f"{self._dull} of {count} calibration samples are constant: they show the network nothing")
        if count > 1 and len(self._distinct) == 1:
            found.append(f"all {count} calibration samples are the same")
        elif count > 1 and len(self._distinct) <= count // 2:
            found.append(f"of {count} calibration samples only {len(self._distinct)} differ")
        if self._limits is None or self._low > self._high:
            return found
        low, high = self._limits
        if self._beyond:
            found.append(
                f"{self._beyond} of {count} calibration samples have values outside {low:g} to {high:g}, which is all that "
                f"the input can have: {self._low:g} to {self._high:g}; is the normalisation another one?"
            )
        share = (self._high - self._low) / (high - low)
        if share < LEAST_SHARE:
            found.append(
                f"the calibration samples reach {self._low:g} to {self._high:g}, {share:.0%} of the input's "
                f"{low:g} to {high:g}: activations of other inputs would saturate"
            )
        return found
