"""A float network's sure detections as the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette.contract.manifest import Dataset
from vedette.contract.types import Detections
from vedette_converter.reference import compare, kept

DATA = Dataset(name="frames", count=2, sha256="0" * 64)
FRAMES = [np.zeros((100, 200, 3), np.uint8)] * 2


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


class Answers:
    """Stands for a detector: frame by frame, what it was given."""

    def __init__(self, *found: Detections) -> None:
        self._found = list(found)

    def __call__(self, pixels: Any) -> Detections:
        return self._found.pop(0)


def judge(reference: Any, other: Any, class_ids: list[int]) -> Any:
    (found,) = compare(reference, [other], FRAMES, class_ids, DATA)
    return found


def test_kept_classes_are_numbered_anew() -> None:
    found = kept(detections((0, 0, 1, 1, 0.9, 7), (0, 0, 1, 1, 0.8, 2), (0, 0, 1, 1, 0.7, 5)), [5, 7])
    assert found.class_ids.tolist() == [1, 0] and found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(kept(detections(), [5])) == 0


def test_the_same_detections_are_perfect() -> None:
    rows = (0.1, 0.1, 0.3, 0.5, 0.9, 3), (0.5, 0.2, 0.7, 0.9, 0.6, 3)
    same = [(*row[:5], 0) for row in rows]
    found = judge(Answers(detections(*rows), detections()), Answers(detections(*same), detections()), [3])
    assert (found.objects, found.frames) == (2, 2) and (found.ap50, found.map) == pytest.approx((1.0, 1.0))


def test_what_the_reference_doubts_is_no_object_and_what_stands_first_in_its_place_costs() -> None:
    truth = detections((0.1, 0.1, 0.3, 0.5, 0.9, 0), (0.5, 0.2, 0.7, 0.9, 0.49, 0))
    last = detections((0.1, 0.1, 0.3, 0.5, 0.9, 0), (0.5, 0.2, 0.7, 0.9, 0.4, 0))
    first = detections((0.1, 0.1, 0.3, 0.5, 0.3, 0), (0.5, 0.2, 0.7, 0.9, 0.4, 0))
    assert judge(Answers(truth, detections()), Answers(last, detections()), [0]).ap50 == pytest.approx(1.0)
    assert judge(Answers(truth, detections()), Answers(first, detections()), [0]).ap50 == pytest.approx(0.5)


def test_a_box_that_is_off_counts_at_a_half_and_not_at_more() -> None:
    truth = detections((0.1, 0.1, 0.3, 0.5, 0.9, 0))
    shifted = detections((0.14, 0.1, 0.34, 0.5, 0.9, 0))  # IoU 2 / 3
    found = judge(Answers(truth, detections()), Answers(shifted, detections()), [0])
    assert found.ap50 == pytest.approx(1.0) and found.map == pytest.approx(0.4)


def test_ap_is_the_mean_over_the_classes_that_are_there() -> None:
    truth = detections((0.1, 0.1, 0.3, 0.5, 0.9, 4), (0.5, 0.2, 0.7, 0.9, 0.9, 6))
    one = detections((0.1, 0.1, 0.3, 0.5, 0.9, 0))
    assert judge(Answers(truth, detections()), Answers(one, detections()), [4, 6]).ap50 == pytest.approx(0.5)
    assert judge(Answers(truth, detections()), Answers(one, detections()), [4, 9]).ap50 == pytest.approx(1.0)
