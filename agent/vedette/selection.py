"""Which results of a network are reported: labels, and the least score of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .contract.types import Float32Array, Scored


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """One threshold a class, above 1 for never.

    ``thresholds``: (labels,) float32.
    """

    thresholds: Float32Array

    def index(self, result: Scored) -> NDArray[np.intp]:
        """The positions of those that pass, ascending."""
        return np.flatnonzero(result.scores >= self.thresholds[result.class_ids])

    def __call__(self, result: Scored) -> Scored:
        """Those that pass, in their order."""
        return result.take(self.index(result))

    @property
    def lowest(self) -> float:
        """The score below which nothing needs to be decoded."""
        return float(min(1.0, self.thresholds.min()))


def make_filter(
    labels: Sequence[str], chosen: Sequence[str], threshold: float, thresholds: Mapping[str, float]
) -> LabelFilter:
    """``chosen``: the labels that are reported, none for all. Names must be among ``labels``: the caller has checked."""
    values = np.full(len(labels), threshold, np.float32)
    for index, label in enumerate(labels):
        if label in thresholds:
            values[index] = thresholds[label]
        if chosen and label not in chosen:
            values[index] = 2.0
    return LabelFilter(values)
