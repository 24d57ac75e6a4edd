"""What an SSD's student learns: the losses, and a teacher's answers on another grid."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from vedette.contract.decode import make_decoder
from vedette.contract.decode.ssd import anchor_boxes
from vedette.contract.manifest import SsdAnchors, SsdOutput
from vedette.contract.types import Detections, TensorSpec
from vedette_converter.distil.grid import Regrid
from vedette_converter.distil.ssd import SeenObjects, SsdDistillation
from vedette_converter.zoo.ssdlite import feature_maps

Answers = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def answers(seed: int, anchors: int = 40, classes: int = 3) -> Answers:
    """Mostly background, three anchors that see something."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-6, 1, (2, anchors, classes)).astype(np.float32)
    logits[:, [3, 7, 20], 1] = 2.0
    return rng.normal(0, 1, (2, anchors, 4)).astype(np.float32), logits


def test_a_student_that_answers_alike_has_no_loss_and_no_slope(tf: Any) -> None:
    taught = answers(1)
    boxes, logits = tf.Variable(taught[0]), tf.Variable(taught[1])
    with tf.GradientTape() as tape:
        loss = SsdDistillation()(taught, (boxes, logits))
    assert abs(float(loss)) < 1e-5
    for gradient in tape.gradient(loss, [boxes, logits]):
        assert float(tf.reduce_max(tf.abs(gradient))) < 1e-5


def test_the_logits_slope_is_the_difference_of_the_probabilities(tf: Any) -> None:
    taught, other = answers(1), answers(2)
    logits = tf.Variable(other[1])
    with tf.GradientTape() as tape:
        loss = SsdDistillation()(taught, (taught[0], logits))
    sigmoid = [1 / (1 + np.exp(-some)) for some in (taught[1], other[1])]
    seen = sigmoid[0][..., 1:].max(axis=-1)
    expected = (sigmoid[1] - sigmoid[0]) / seen[seen >= 0.3].sum()
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, atol=1e-5)


def test_boxes_are_learned_where_the_teacher_sees_something_alone(tf: Any) -> None:
    taught = answers(1)
    boxes = tf.Variable(taught[0] + 0.5)
    with tf.GradientTape() as tape:
        _, loss = SsdDistillation().parts(taught, (boxes, taught[1]))
    slope = np.abs(np.asarray(tape.gradient(loss, boxes))).sum(axis=-1)
    assert set(np.flatnonzero(slope[0] > 0)) == {3, 7, 20}
    # four coordinates that are off by a half, 0.5 * 0.5 ** 2 each, weighted by shares that add up to one
    assert float(loss) == pytest.approx(4 * 0.125, rel=1e-4)


def test_background_alone_is_no_reason_to_learn_a_box(tf: Any) -> None:
    boxes, logits = answers(1)
    logits[..., 1:] = -8.0
    logits[..., 0] = 8.0
    _, with_background = SsdDistillation().parts((boxes, logits), (boxes + 1, logits))
    _, without = SsdDistillation(background=False).parts((boxes, logits), (boxes + 1, logits))
    assert float(with_background) == 0.0 and float(without) > 0.4


def test_seen_objects_have_a_slope_where_the_loss_has_none(tf: Any) -> None:
    taught = answers(1)
    boxes, logits = tf.Variable(taught[0]), tf.Variable(taught[1])
    with tf.GradientTape() as tape:
        told = SeenObjects()(taught, (boxes, logits))
    slopes = tape.gradient(told, [boxes, logits])
    assert set(np.flatnonzero(np.abs(np.asarray(slopes[1])[0]).sum(axis=-1) > 0)) == {3, 7, 20}
    assert float(tf.reduce_sum(tf.abs(slopes[0]))) > 0


# --- another grid -----------------------------------------------------------------------------------------------------


def spec(height: int, width: int) -> SsdOutput:
    return SsdOutput(anchors=SsdAnchors(feature_maps=feature_maps(height, width)), score_threshold=0.5)


def encoded(output: SsdOutput, boxes: np.ndarray[Any, Any]) -> Answers:
    """Answers of a teacher that sees each box (x0, y0, x1, y1) with its best anchor, and with nothing else."""
    from vedette.contract.boxes import iou

    anchors = anchor_boxes(output.anchors)
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)
    best = iou(boxes.astype(np.float32), corners[:, [1, 0, 3, 2]].astype(np.float32)).argmax(axis=1)
    encodings = np.zeros((len(anchors), 4), np.float32)
    logits = np.full((len(anchors), 2), -8, np.float32)
    centre = np.stack([boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]], axis=1) / 2
    sides = np.stack([boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    chosen = anchors[best]
    moved = np.concatenate([(centre - chosen[:, :2]) / chosen[:, 2:], np.log(sides / chosen[:, 2:])], axis=1)
    encodings[best] = moved * output.box_scale
    logits[best, 1] = 3.0
    return encodings, logits


@pytest.mark.parametrize("size", [(300, 300), (224, 300), (160, 160), (320, 416), (64, 300)])
def test_every_object_keeps_its_box_and_score_on_another_grid(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 0.7, (12, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, (12, 2))], axis=1)
    teacher, student = spec(300, 300), spec(*size)
    regrid = Regrid(teacher.anchors, student.anchors, teacher.box_scale)
    moved = regrid(*encoded(teacher, boxes))
    assert regrid(*moved)[0].shape == moved[0].shape if size == (300, 300) else True
    tensors = [TensorSpec("boxes", (1, *moved[0].shape), np.dtype(np.float32)),
               TensorSpec("scores", (1, *moved[1].shape), np.dtype(np.float32))]  # fmt: skip
    found = make_decoder(student, tensors, 1)([moved[0][None], moved[1][None]])
    assert isinstance(found, Detections)
    first = [TensorSpec(t.name, (1, *a.shape), t.dtype) for t, a in zip(tensors, encoded(teacher, boxes), strict=True)]
    seen = make_decoder(teacher, first, 1)([a[None] for a in encoded(teacher, boxes)])
    assert isinstance(seen, Detections) and len(seen) >= 10  # two of the boxes may share an anchor
    assert len(found) == len(seen)
    for box in seen.boxes:
        assert np.abs(found.boxes - box).max(axis=1).min() < 1e-4
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-3.0)), rtol=1e-4)


def test_the_surest_of_several_cells_answers() -> None:
    teacher = SsdAnchors(feature_maps=((4, 4), (1, 1)), reduce_boxes_in_lowest_layer=True)
    student = msgspec.structs.replace(teacher, feature_maps=((2, 2), (1, 1)))
    logits = np.full((4 * 4 * 3 + 6, 2), -5, np.float32)
    logits[(1 * 4 + 1) * 3, 1] = 4.0  # cell (1, 1), its first shape: in the student's cell (0, 0)
    logits[(0 * 4 + 1) * 3, 1] = 1.0
    _, found = Regrid(teacher, student, (10, 10, 5, 5))(np.zeros((54, 4), np.float32), logits)
    assert found.shape == (2 * 2 * 3 + 6, 2)
    assert found[0, 1] == 4.0 and (found[1:, 1] == -5).all()
