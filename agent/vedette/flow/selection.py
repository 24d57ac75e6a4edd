"""Which samples and results are wanted: how many a second, which labels, and from which score on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vedette.contract.types import Float32Array, Int32Array, Result, Scored, Segments


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """One threshold a class, above 1 for never.

    ``thresholds``: (labels,) float32.
    """

    thresholds: Float32Array
    _each: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_each", self.thresholds.tolist())

    def index(self, result: Scored) -> list[int]:
        """The positions of those that pass, ascending."""
        each = self._each
        rows = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
        return [i for i, (class_id, score) in enumerate(rows) if score >= each[class_id]]

    def __call__(self, result: Scored) -> Scored:
        """Those that pass, in their order."""
        return result.take(np.array(self.index(result), np.intp))

    def select(self, result: Result, ids: Int32Array | None = None) -> tuple[Result, Int32Array | None]:
        """What of any result is reported, and the ids (n,) of those. Of a segmentation, whose shares are no scores, every
        label that is reported at all; key points, anomalies and values as they are.
        """
        if isinstance(result, Scored):
            index = self.index(result)
            if len(index) == len(result):
                return result, ids
            return result.take(np.array(index, np.intp)), None if ids is None else ids[index]
        if isinstance(result, Segments):
            return result.take(np.flatnonzero(self.thresholds[result.class_ids] <= 1.0)), ids
        return result, ids

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


class RateCap:
    """Lets at most so many a second pass, evenly: never two at once for having waited. Owned by one thread."""

    def __init__(self, max_hz: float) -> None:
        """``max_hz``: 0 for no cap."""
        self.change(max_hz)
        self._due_ns = 0

    def change(self, max_hz: float) -> None:
        """Another cap from now on. Any thread may call it."""
        self._interval_ns = int(1e9 / max_hz) if max_hz else 0

    @property
    def due_ns(self) -> int:
        """Before then nothing passes; 0 where there is no cap."""
        return self._due_ns if self._interval_ns else 0

    def due(self, now_ns: int) -> bool:
        """Whether what comes at this time passes."""
        interval_ns = self._interval_ns
        late_ns = now_ns - self._due_ns
        if -interval_ns <= late_ns < 0:  # further off than an interval, it was due under a lower cap
            return False
        # counted on from when it was due, so that the average is kept; from now on where there was a pause
        self._due_ns = (self._due_ns if 0 <= late_ns < interval_ns else now_ns) + interval_ns
        return True
