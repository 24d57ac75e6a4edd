"""IoU and NMS against loops over numbers, and against OpenCV's."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vedette.contract.boxes import areas, iou, nms

corners = hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=st.floats(-0.5, 1.5, width=32))


def naive_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    union = sum(max(c[2] - c[0], 0.0) * max(c[3] - c[1], 0.0) for c in (a, b)) - inter
    return inter / union if union > 0 else 0.0


def naive_nms(boxes: list[list[float]], scores: list[float], ids: list[int], threshold: float) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept: list[int] = []
    for i in order:
        if all(ids[i] != ids[k] or naive_iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


@given(corners, corners)
def test_iou_of_every_pair(a: np.ndarray, b: np.ndarray) -> None:
    found = iou(a, b)
    assert found.shape == (len(a), len(b))
    assert found.dtype == np.float32
    for i, one in enumerate(a.tolist()):
        for j, other in enumerate(b.tolist()):
            wanted = naive_iou(one, other)
            # boxes a millionth wide have no digits left in float32
            smallest = min(areas(a[i : i + 1])[0], areas(b[j : j + 1])[0])
            if smallest > 1e-4 or wanted == 0:
                assert found[i, j] == pytest.approx(wanted, abs=1e-3)


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0], [2, 2, 0, 0]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1 / 7, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], rtol=1e-6)
    assert areas(a).tolist() == [4, 0, 0]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = rng.uniform(0, 0.6, (count, 2))
    boxes = np.hstack([low, low + rng.uniform(0.05, 0.4, (count, 2))]).astype(np.float32)
    scores = rng.permutation(np.linspace(0.05, 0.95, count)).astype(np.float32)
    return boxes, scores, rng.integers(0, draw(st.integers(1, 4)), count).astype(np.int32)


def assume_clear(boxes: np.ndarray, threshold: float) -> None:
    """No overlap that float32 and float64 may judge differently."""
    overlaps = [naive_iou(a, b) for a, b in itertools.combinations(boxes.tolist(), 2)]
    assume(all(overlap in (0.0, 1.0) or abs(overlap - threshold) > 1e-5 for overlap in overlaps))


@given(scenes(), st.sampled_from([0.0, 0.31415, 0.5772, 1.0]))
def test_nms_keeps_what_loops_keep(scene: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: float) -> None:
    boxes, scores, ids = scene
    assume_clear(boxes, threshold)
    kept = nms(boxes, scores, ids, iou_threshold=threshold, limit=1000)
    assert kept.tolist() == naive_nms(boxes.tolist(), scores.tolist(), ids.tolist(), threshold)


@given(scenes(), st.sampled_from([0.31415, 0.5772]))
def test_nms_keeps_what_opencv_keeps_in_each_class(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: float
) -> None:
    boxes, scores, ids = scene
    assume_clear(boxes, threshold)
    kept = nms(boxes, scores, ids, iou_threshold=threshold, limit=1000)
    for class_id in set(ids.tolist()):
        own = np.flatnonzero(ids == class_id)
        # OpenCV takes x, y, width, height
        sides = np.hstack([boxes[own, :2], boxes[own, 2:] - boxes[own, :2]]).astype(np.float64)
        theirs = cv2.dnn.NMSBoxes(sides.tolist(), scores[own].tolist(), 0.0, threshold)
        assert [i for i in kept.tolist() if ids[i] == class_id] == own[np.asarray(theirs)].tolist()


@given(scenes(), st.sampled_from([0.31415, 0.5772]), st.integers(1, 20))
def test_few_boxes_and_many_are_chosen_alike(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: float, limit: int
) -> None:
    boxes, scores, ids = scene
    few = nms(boxes, scores, ids, iou_threshold=threshold, limit=limit).tolist()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vedette.contract.boxes.FEW", 0)
        assert nms(boxes, scores, ids, iou_threshold=threshold, limit=limit).tolist() == few


@given(scenes(), st.integers(1, 10))
def test_a_limit_keeps_the_best(scene: tuple[np.ndarray, np.ndarray, np.ndarray], limit: int) -> None:
    boxes, scores, ids = scene
    everything = nms(boxes, scores, ids, iou_threshold=0.5, limit=1000)
    assert nms(boxes, scores, ids, iou_threshold=0.5, limit=limit).tolist() == everything.tolist()[:limit]


def test_equal_scores_keep_their_order() -> None:
    boxes = np.array([[i, 0, i + 0.5, 1] for i in range(5)], np.float32)
    kept = nms(boxes, np.full(5, 0.5, np.float32), np.zeros(5, np.int32), iou_threshold=0.5, limit=9)
    assert kept.tolist() == [0, 1, 2, 3, 4]


def test_an_overlap_right_on_the_threshold_is_kept() -> None:
    # intersection 1, union 2: IoU is exactly a half
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 2]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert nms(boxes, scores, np.zeros(2, np.int32), iou_threshold=0.5, limit=9).tolist() == [0, 1]
    assert nms(boxes, scores, np.zeros(2, np.int32), iou_threshold=0.499, limit=9).tolist() == [0]
