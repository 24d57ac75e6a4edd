"""Whether results agree with those of golden vectors: results are judged, not bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .boxes import iou
from .golden import Golden
from .manifest import Tolerance
from .types import Anomaly, Classes, Detections, Result, Values

CONFIDENT: Final = 0.5  # reference results below this score are not judged
MATCH_IOU: Final = 0.5
MATCH_SCORE: Final = 0.1
NEAR: Final = 0.05  # of an anomaly's threshold: a reference score so near to it is not judged by its side
MATCH_VALUE: Final = 0.1  # of a value's scale


@dataclass(frozen=True, slots=True)
class Verdict:
    """How well results agree with the reference, over all golden inputs.

    ``judged``: what counts: detections and best classes with a reference score of at least 0.5; anomalies whose reference
    score is not within 5 % of the threshold; every value. ``agreement``: the share of them found again (1.0 when there are
    none): a detection of the same label and place with a score within 0.1, the same class, the same side of the
    threshold, a value within a tenth of its scale. ``mean_score_error``: the mean absolute difference of the scores of
    what was found; of an anomaly's score as a fraction of the reference or the threshold, whichever is larger; of a value
    as a fraction of its scale.
    """

    judged: int
    agreement: float
    mean_score_error: float

    def holds(self, tolerance: Tolerance) -> bool:
        """Whether the manifest's bound for this engine class is kept."""
        return self.agreement >= tolerance.min_agreement and self.mean_score_error <= tolerance.max_mean_score_error


def judge(golden: Golden, results: Sequence[Result]) -> Verdict:
    """Compares what was found in each golden input with the reference."""
    judged = found = 0
    errors: list[float] = []
    for index, result in enumerate(results):
        reference = golden.reference(index)
        if isinstance(reference, Anomaly):
            counts, again = _judge_anomaly(reference, result, errors)
        elif isinstance(reference, Values):
            counts, again = _judge_values(reference, result, golden, errors)
        elif isinstance(reference, Classes):
            counts, again = _judge_classes(reference, result, errors)
        elif isinstance(reference, Detections):
            counts, again = _judge_detections(reference, result, errors)
        else:
            raise TypeError(f"golden vectors of {type(reference).__name__} are not judged")
        judged += counts
        found += again
    return Verdict(judged, found / judged if judged else 1.0, float(np.mean(errors)) if errors else 0.0)


def _judge_detections(reference: Detections, result: Result, errors: list[float]) -> tuple[int, int]:
    """How many are judged, and how many of them are found again; here and in the others, ``errors`` grows."""
    confident = reference.take(reference.scores >= CONFIDENT)
    found = 0
    if isinstance(result, Detections):
        for i, j in enumerate(match(confident, result)):
            if j >= 0:
                error = abs(float(confident.scores[i]) - float(result.scores[j]))
                errors.append(error)
                found += error <= MATCH_SCORE
    return len(confident), found


def _judge_classes(reference: Classes, result: Result, errors: list[float]) -> tuple[int, int]:
    if not len(reference) or reference.scores[0] < CONFIDENT:
        return 0, 0
    if not isinstance(result, Classes) or not len(result):
        return 1, 0
    errors.append(abs(float(reference.scores[0]) - float(result.scores[0])))
    return 1, int(reference.class_ids[0] == result.class_ids[0])


def _judge_anomaly(reference: Anomaly, result: Result, errors: list[float]) -> tuple[int, int]:
    clear = abs(reference.score - reference.threshold) > NEAR * reference.threshold
    if not isinstance(result, Anomaly):
        return 1, 0
    errors.append(abs(result.score - reference.score) / max(reference.score, reference.threshold))
    return int(clear), int(clear and result.anomalous == reference.anomalous)


def _judge_values(reference: Values, result: Result, golden: Golden, errors: list[float]) -> tuple[int, int]:
    count = len(reference.values)
    if not isinstance(result, Values) or len(result.values) != count or golden.value_scale is None:
        return count, 0
    off = np.abs(result.values.astype(np.float64) - reference.values) / golden.value_scale
    errors.extend(off.tolist())
    return count, int((off <= MATCH_VALUE).sum())


def match(reference: Detections, found: Detections, *, min_iou: float = MATCH_IOU) -> list[int]:
    """For each reference detection, the position of its partner in ``found``, or -1.

    Partners have one label and overlap by at least ``min_iou``; each of ``found`` is taken once, best overlaps first.
    """
    partners = [-1] * len(reference)
    if not len(reference) or not len(found):
        return partners
    overlap = iou(reference.boxes, found.boxes)
    overlap[reference.class_ids[:, None] != found.class_ids[None, :]] = 0.0
    while True:
        best = int(np.argmax(overlap))
        i, j = divmod(best, overlap.shape[1])
        if overlap[i, j] < min_iou:
            return partners
        partners[i] = j
        overlap[i, :] = 0.0
        overlap[:, j] = 0.0
