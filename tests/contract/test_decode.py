"""Decoders against arithmetic written again in plain Python, TensorFlow's own suppression, and recorded outputs."""

from __future__ import annotations

import itertools
import math
import os
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiny import DATA
from vedette.contract.decode import make_decoder
from vedette.contract.decode.ssd import anchor_boxes
from vedette.contract.errors import ModelError
from vedette.contract.manifest import ClassifyOutput, PostprocessOutput, SsdAnchors, SsdOutput
from vedette.contract.types import Classes, Detections, TensorSpec

F32 = np.dtype(np.float32)


def spec(name: str, *shape: int, dtype: str = "float32", **quantisation: Any) -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype), **quantisation)


# --- Classification ---


def classify(scores: np.ndarray, tensor: TensorSpec | None = None, **options: Any) -> Classes:
    tensor = tensor or spec("scores", *scores.shape, dtype=scores.dtype.name)
    result = make_decoder(ClassifyOutput(**options), [tensor], tensor.shape[1])([scores])
    assert isinstance(result, Classes)
    return result


vectors = hnp.arrays(np.float32, st.tuples(st.just(1), st.integers(1, 20)), elements=st.floats(-120, 120, width=32))


@given(vectors, st.sampled_from(["none", "softmax", "sigmoid"]), st.integers(1, 25), st.floats(0, 1))
def test_classes_are_the_best_scores(logits: np.ndarray, activation: Any, top_k: int, threshold: float) -> None:
    assume(activation != "softmax" or logits.size > 1)  # which is refused
    values = [float(v) for v in logits[0]]
    if activation == "softmax":
        total = math.fsum(math.exp(v - max(values)) for v in values)
        values = [math.exp(v - max(values)) / total for v in values]
    elif activation == "sigmoid":
        values = [1 / (1 + math.exp(-v)) for v in values]
    found = classify(logits, activation=activation, top_k=top_k, score_threshold=threshold)
    assert found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int32
    assert len(found) <= min(top_k, len(values))
    assert list(found.scores) == sorted(found.scores, reverse=True)
    np.testing.assert_allclose(found.scores, [values[i] for i in found.class_ids], rtol=1e-4, atol=1e-6)
    # nothing better was left out
    left = sorted(set(range(len(values))) - set(found.class_ids.tolist()))
    worst = min(found.scores) if len(found) == top_k else threshold
    assert all(values[i] <= worst + 1e-4 for i in left)
    assert (found.scores >= np.float32(threshold)).all()


def test_equal_classes_come_in_the_order_of_their_ids() -> None:
    assert classify(np.full((1, 6), 0.5, np.float32), top_k=4).class_ids.tolist() == [0, 1, 2, 3]


def test_raw_scores_are_made_real() -> None:
    tensor = spec("scores", 1, 3, dtype="int8", scale=1 / 256, zero_point=-128)
    found = classify(np.array([[-128, 127, 0]], np.int8), tensor)
    assert found.class_ids.tolist() == [1, 2, 0]
    assert found.scores.tolist() == [255 / 256, 0.5, 0.0]


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 4, 1)])
def test_a_classifier_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"output\.scores: tensor out: expected shape \[1, any\], found"):
        make_decoder(ClassifyOutput(), [spec("out", *shape)], 4)


def test_labels_must_be_as_many_as_classes() -> None:
    with pytest.raises(ModelError, match=r"expected 4 labels, one a class, found 3; .* background") as caught:
        make_decoder(ClassifyOutput(), [spec("out", 1, 4)], 3)
    assert caught.value.fix.endswith("a line ??? comes first")
    with pytest.raises(ModelError, match=r"expected 4 labels, one a class, found 2; give the labels file .* model$"):
        make_decoder(ClassifyOutput(), [spec("out", 1, 4)], 2)
    with pytest.raises(ModelError, match=r"output\.scores: expected an output tensor from 0 to 0, found 2"):
        make_decoder(ClassifyOutput(scores=2), [spec("out", 1, 4)], 4)


def test_resnet_sees_in_real_pictures_what_plain_numpy_reads(shared_data: Path) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreter_module.Interpreter(str(shared_data / "mlperf-tiny" / "pretrainedResnet_quant.tflite"))
    interpreter.allocate_tensors()
    put, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = got["quantization"]
    tensor = spec("scores", 1, 10, dtype="int8", scale=float(scale), zero_point=int(zero))
    decoder = make_decoder(ClassifyOutput(top_k=3), [tensor], 10)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    right = count = 0
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as archive:
        for entry in archive:
            if not entry.isfile() or not entry.name.endswith(".jpg") or count == 60:
                continue
            data = archive.extractfile(entry)
            assert data is not None
            bgr = cv2.imdecode(np.frombuffer(data.read(), np.uint8), cv2.IMREAD_COLOR)
            interpreter.set_tensor(put["index"], (bgr[None, :, :, ::-1].astype(np.int16) - 128).astype(np.int8))
            interpreter.invoke()
            raw = interpreter.get_tensor(got["index"])
            found = decoder([raw])
            probabilities = (raw[0].astype(np.float64) - zero) * scale
            best = sorted(range(10), key=lambda i: (-probabilities[i], i))[:3]
            assert found.class_ids.tolist() == best
            np.testing.assert_allclose(found.scores, probabilities[best], atol=1e-6)
            right += names[best[0]] == Path(entry.name).parent.name
            count += 1
            if count == 60:
                break
    assert right >= 30  # 0.757 of many; a wrong channel order or offset would be at 6


# --- SSD: anchors ---

COCO_300 = SsdAnchors(feature_maps=((19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)))


def test_the_anchors_of_a_300_pixel_coco_detector() -> None:
    anchors = anchor_boxes(COCO_300)
    assert anchors.shape == (1917, 4)  # 19 * 19 * 3 + (100 + 25 + 9 + 4 + 1) * 6
    by_hand = {
        0: (0.5 / 19, 0.5 / 19, 0.1, 0.1),
        1: (0.5 / 19, 0.5 / 19, 0.1414214, 0.2828427),  # scale 0.2, ratio 2: lower and wider by sqrt 2
        2: (0.5 / 19, 0.5 / 19, 0.2828427, 0.1414214),
        3: (0.5 / 19, 1.5 / 19, 0.1, 0.1),  # x runs first
        57: (1.5 / 19, 0.5 / 19, 0.1, 0.1),
        1082: (18.5 / 19, 18.5 / 19, 0.2828427, 0.1414214),
        1083: (0.05, 0.05, 0.35, 0.35),
        1088: (0.05, 0.05, 0.4183300, 0.4183300),  # sqrt(0.35 * 0.5)
        1911: (0.5, 0.5, 0.95, 0.95),
        1912: (0.5, 0.5, 0.6717514, 1.3435029),
        1914: (0.5, 0.5, 0.5484828, 1.6454483),  # ratio 3
        1915: (0.5, 0.5, 1.6454483, 0.5484828),
        1916: (0.5, 0.5, 0.9746794, 0.9746794),  # sqrt(0.95 * 1)
    }
    for row, wanted in by_hand.items():
        np.testing.assert_allclose(anchors[row], wanted, atol=2e-7, err_msg=f"row {row}")


def test_anchors_without_the_reduced_lowest_layer() -> None:
    anchors = anchor_boxes(SsdAnchors(feature_maps=((1, 2),), aspect_ratios=(1.0,), reduce_boxes_in_lowest_layer=False))
    # one map: its scale is min_scale, and the next one is 1
    np.testing.assert_allclose(
        anchors,
        [[0.5, x, s, s] for x in (0.25, 0.75) for s in (0.2, math.sqrt(0.2))],
        rtol=1e-6,
    )


# --- SSD: decoding ---

SMALL = SsdAnchors(feature_maps=((4, 4), (2, 2)))
ANCHORS = 4 * 4 * 3 + 2 * 2 * 6


def naive_ssd(
    boxes: np.ndarray, logits: np.ndarray, spec: SsdOutput, threshold: float
) -> list[tuple[float, int, list[float]]]:
    """Everything above the threshold, before suppression: score, class, box; float64."""
    anchors = anchor_boxes(spec.anchors).astype(np.float64)
    found = []
    for a in range(len(anchors)):
        row = [float(v) for v in logits[0, a]]
        if spec.activation == "softmax":
            total = math.fsum(math.exp(v - max(row)) for v in row)
            scores = [math.exp(v - max(row)) / total for v in row]
        elif spec.activation == "sigmoid":
            scores = [1 / (1 + math.exp(-v)) for v in row]
        else:
            scores = row
        ty, tx, th, tw = (float(v) / s for v, s in zip(boxes[0, a], spec.box_scale, strict=True))
        cy, cx, h, w = (float(v) for v in anchors[a])
        y, x = ty * h + cy, tx * w + cx
        half_h, half_w = math.exp(th) * h / 2, math.exp(tw) * w / 2
        for column in range(int(spec.background), len(row)):
            if scores[column] >= threshold:
                box = [x - half_w, y - half_h, x + half_w, y + half_h]
                found.append((scores[column], column - int(spec.background), box))
    return found


def naive_iou(a: list[float], b: list[float]) -> float:
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def ssd(boxes: np.ndarray, logits: np.ndarray, output: SsdOutput, /, **tensors: Any) -> Detections:
    b = tensors.get("boxes") or spec("boxes", *boxes.shape)
    s = tensors.get("scores") or spec("scores", *logits.shape)
    found = make_decoder(output, [b, s], logits.shape[2] - int(output.background))([boxes, logits])
    assert isinstance(found, Detections)
    return found


def heads(seed: int, classes: int = 4, anchors: int = ANCHORS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    boxes = rng.normal(0, 3, (1, anchors, 4)).astype(np.float32)
    return boxes, rng.normal(-1, 1.5, (1, anchors, classes)).astype(np.float32)


@given(st.integers(0, 10**6), st.sampled_from(["sigmoid", "softmax"]), st.booleans(), st.sampled_from([0.2, 0.4, 0.7]))
def test_ssd_finds_what_loops_find(seed: int, activation: Any, background: bool, threshold: float) -> None:
    boxes, logits = heads(seed)
    output = SsdOutput(anchors=SMALL, activation=activation, background=background, score_threshold=threshold)
    candidates = sorted(naive_ssd(boxes, logits, output, threshold - 1e-6), key=lambda c: -c[0])
    # what float32 and float64 may judge differently proves nothing: scores or overlaps within rounding of one another
    scores = [c[0] for c in candidates] + [threshold]
    assume(all(before - after > 1e-6 for before, after in itertools.pairwise(scores)))
    overlaps = [naive_iou(a[2], b[2]) for a, b in itertools.combinations(candidates, 2) if a[1] == b[1]]
    assume(all(abs(overlap - output.nms_iou) > 1e-5 for overlap in overlaps))
    wanted: list[tuple[float, int, list[float]]] = []
    for candidate in candidates:
        rivals = [k for k in wanted if k[1] == candidate[1]]
        if all(naive_iou(candidate[2], k[2]) <= output.nms_iou for k in rivals):
            wanted.append(candidate)
    wanted = wanted[: output.max_detections]
    found = ssd(boxes, logits, output)
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found.scores, [w[0] for w in wanted], atol=1e-6)
    assert found.class_ids.tolist() == [w[1] for w in wanted]
    if wanted:
        np.testing.assert_allclose(found.boxes, [w[2] for w in wanted], atol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_ssd_finds_what_tensorflow_keeps(threshold: float) -> None:
    tf = pytest.importorskip("tensorflow")
    boxes, logits = heads(7, classes=6, anchors=1917)
    output = SsdOutput(anchors=COCO_300, score_threshold=threshold, nms_iou=0.6, max_detections=50)
    anchors = tf.constant(anchor_boxes(COCO_300))
    encoded = tf.constant(boxes[0]) / [10.0, 10.0, 5.0, 5.0]
    center = encoded[:, :2] * anchors[:, 2:] + anchors[:, :2]
    half = tf.exp(encoded[:, 2:]) * anchors[:, 2:] / 2
    decoded = tf.concat([center - half, center + half], axis=1)
    kept = tf.image.combined_non_max_suppression(
        decoded[None, :, None, :], tf.sigmoid(logits)[:, :, 1:], 50, 50, 0.6, threshold, clip_boxes=False
    )
    found = ssd(boxes, logits, output)
    n = int(kept.valid_detections[0])
    assert len(found) == n > 10
    np.testing.assert_allclose(found.scores, kept.nmsed_scores[0, :n], atol=1e-6)
    np.testing.assert_array_equal(found.class_ids, kept.nmsed_classes[0, :n])
    np.testing.assert_allclose(found.boxes, kept.nmsed_boxes.numpy()[0, :n][:, [1, 0, 3, 2]], atol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_ssd_boxes_of_few_bits_are_those_of_their_real_values(dtype: str) -> None:
    limits = np.iinfo(dtype)
    raw = np.random.default_rng(3).integers(limits.min, limits.max + 1, (1, ANCHORS, 4)).astype(dtype)
    zero, scale = int(limits.min) // 2 + 100, 12.0 / (limits.max - limits.min)
    real = (raw.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    _, logits = heads(3)
    output = SsdOutput(anchors=SMALL, score_threshold=0.1, nms_iou=1.0, max_detections=3 * ANCHORS)
    found = ssd(raw, logits, output, boxes=spec("boxes", *raw.shape, dtype=dtype, scale=scale, zero_point=zero))
    wanted = ssd(real, logits, output)
    assert len(found) == len(wanted) > ANCHORS
    np.testing.assert_array_equal(found.boxes, wanted.boxes)
    np.testing.assert_array_equal(found.class_ids, wanted.class_ids)


@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8")])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.93, 0.999])
def test_few_values_are_decoded_one_by_one_as_many_are_at_once(
    dtypes: tuple[str, str], threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    zeros = [0 if dtype == "int8" else 128 for dtype in dtypes]
    boxes_spec = spec("boxes", 1, ANCHORS, 4, dtype=dtypes[0], scale=0.09, zero_point=zeros[0])
    scores_spec = spec("scores", 1, ANCHORS, 4, dtype=dtypes[1], scale=0.05, zero_point=zeros[1])
    boxes = (rng.integers(-128, 128, boxes_spec.shape) + zeros[0]).astype(dtypes[0])
    logits = (rng.integers(-128, 128, scores_spec.shape) + zeros[1]).astype(dtypes[1])
    output = SsdOutput(anchors=SMALL, score_threshold=threshold, nms_iou=0.2, max_detections=9)
    found = []
    for few in (10**6, 0):
        monkeypatch.setattr("vedette.contract.decode.ssd.FEW", few)
        found.append(ssd(boxes, logits, output, boxes=boxes_spec, scores=scores_spec))
    one_by_one, at_once = found
    np.testing.assert_array_equal(one_by_one.scores, at_once.scores)
    np.testing.assert_array_equal(one_by_one.class_ids, at_once.class_ids)
    np.testing.assert_allclose(one_by_one.boxes, at_once.boxes, rtol=1e-5, atol=1e-6)
    assert (one_by_one.scores >= np.float32(threshold)).all()
    assert bool(len(one_by_one)) == (threshold < 0.999)


def test_few_boxes_too_large_to_be_any_are_no_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes_spec = spec("boxes", 1, ANCHORS, 4, dtype="int8", scale=1e6, zero_point=0)
    scores_spec = spec("scores", 1, ANCHORS, 4, dtype="int8", scale=0.05, zero_point=0)
    boxes, logits = np.full(boxes_spec.shape, 127, np.int8), np.full(scores_spec.shape, -128, np.int8)
    logits[0, :3, 2] = 127
    boxes[0, 1] = 0
    output = SsdOutput(anchors=SMALL, score_threshold=0.5)
    for few in (10**6, 0):
        monkeypatch.setattr("vedette.contract.decode.ssd.FEW", few)
        assert len(ssd(boxes, logits, output, boxes=boxes_spec, scores=scores_spec)) == 1


# --- SSD: the threshold in raw units ---

DENSE = SsdAnchors(feature_maps=((2, 2),), aspect_ratios=(1.0,), interpolated_scale_aspect_ratio=0.0,
                   reduce_boxes_in_lowest_layer=False)  # fmt: skip
raw_tensors = st.one_of(
    hnp.arrays(np.int8, (1, 4, 3), elements=st.integers(-128, 127)),
    hnp.arrays(np.uint8, (1, 4, 3), elements=st.integers(0, 255)),
    hnp.arrays(np.int16, (1, 4, 3), elements=st.integers(-32768, 32767)),
)
NO_BOXES = np.zeros((1, 4, 4), np.float32)


def passing(raw: np.ndarray, scale: float, zero: int, threshold: float, activation: Any) -> list[tuple[int, float]]:
    """(class, score) of all that pass, in no order; with suppression that only drops what lies beyond IoU 1."""
    output = SsdOutput(
        anchors=DENSE,
        activation=activation,
        background=False,
        score_threshold=threshold,
        nms_iou=1.0,
        max_detections=99,
    )
    tensor = spec("scores", *raw.shape, dtype=raw.dtype.name, scale=scale, zero_point=zero)
    found = ssd(NO_BOXES, raw, output, scores=tensor)
    return sorted(zip(found.class_ids.tolist(), found.scores.tolist(), strict=True))


@given(raw_tensors, st.sampled_from([0.1, 1 / 256, 0.00390625, 0.0123]), st.integers(-3, 3), st.data())
def test_raw_scores_are_judged_as_if_they_had_been_made_real(
    raw: np.ndarray, scale: float, shift: int, data: st.DataObject
) -> None:
    zero = int(np.iinfo(raw.dtype).min) + 3 + shift
    # TFLite's arithmetic, number by number in float32
    reals = [
        (column, (np.float32(int(raw[0, a, column])) - np.float32(zero)) * np.float32(scale))
        for a in range(4)
        for column in range(3)
    ]
    ties = [float(real) for _, real in reals if 0 <= real <= 1]
    steps = [k * scale for k in range(int(1 / scale))]
    threshold = data.draw(st.one_of(st.floats(0, 1), *(st.sampled_from(v) for v in (ties, steps) if v)))
    scores = [(column, min(max(float(real), 0.0), 1.0)) for column, real in reals]
    wanted = sorted((column, score) for column, score in scores if score >= np.float32(threshold))
    assert passing(raw, scale, zero, threshold, "none") == wanted


@given(raw_tensors, st.sampled_from([0.02, 0.1, 0.7, 1.5]), st.integers(-40, 40), st.data())
def test_raw_logits_are_judged_by_the_score_that_is_reported(
    raw: np.ndarray, scale: float, zero: int, data: st.DataObject
) -> None:
    zero = zero + 128 if raw.dtype == np.uint8 else zero
    everything = passing(raw, scale, zero, 0.0, "sigmoid")
    assert len(everything) == 12
    exact = []
    for a in range(4):
        for column in range(3):
            real = (int(raw[0, a, column]) - zero) * scale
            exact.append((column, 1 / (1 + math.exp(-max(real, -700)))))
    for (column, score), (wanted_column, wanted) in zip(everything, sorted(exact), strict=True):
        assert column == wanted_column
        assert score == pytest.approx(wanted, abs=2e-5)
    ties = [score for _, score in everything]
    threshold = data.draw(st.one_of(st.floats(0, 1), st.sampled_from(ties)))
    assert passing(raw, scale, zero, threshold, "sigmoid") == [
        c for c in everything if np.float32(c[1]) >= np.float32(threshold)
    ]


def test_a_threshold_beyond_what_the_tensor_can_say_lets_nothing_pass() -> None:
    raw = np.full((1, 4, 3), 127, np.int8)
    # the largest logit is 1.27, so 0.78
    assert passing(raw, 0.01, 0, 0.9, "sigmoid") == []
    assert len(passing(raw, 0.01, 0, 0.78, "sigmoid")) == 12


def test_a_threshold_too_small_for_float32_is_zero() -> None:
    raw = np.zeros((1, 4, 3), np.int8)
    assert passing(raw, 0.01, 0, 1e-62, "none") == passing(raw, 0.01, 0, 0.0, "none")
    assert len(passing(raw, 0.01, 0, 1e-62, "none")) == 12


@given(st.floats(0, 1), st.sampled_from(["sigmoid", "none"]), st.integers(0, 10**6))
def test_float_logits_are_judged_by_the_score_that_is_reported(threshold: float, activation: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = (rng.normal(0, 6, (1, 4, 3)) if activation == "sigmoid" else rng.uniform(0, 1, (1, 4, 3))).astype(np.float32)
    everything = passing(raw, 0.0, 0, 0.0, activation)
    assert len(everything) == 12
    for limit in (threshold, everything[5][1]):
        assert passing(raw, 0.0, 0, limit, activation) == [
            c for c in everything if np.float32(c[1]) >= np.float32(limit)
        ]


def test_boxes_that_are_no_numbers_are_no_detections() -> None:
    boxes = np.zeros((1, 4, 4), np.float32)
    boxes[0, 0, 0] = np.nan
    boxes[0, 1, 1] = np.inf
    boxes[0, 2, 3] = 1e30  # exp() of it is bounded
    logits = np.full((1, 4, 2), 3.0, np.float32)
    logits[0, 3] = np.nan
    found = ssd(boxes, logits, SsdOutput(anchors=DENSE))
    assert len(found) == 1
    assert np.isfinite(found.boxes).all()


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_scores_are_from_0_to_1_whatever_the_network_says(activation: Any) -> None:
    raw = np.full((1, 4, 2), -np.inf, np.float32)
    raw[0, 0], raw[0, 1, 0], raw[0, 2] = 7.5, np.inf, np.nan
    found = ssd(np.zeros((1, 4, 4), np.float32), raw, SsdOutput(anchors=DENSE, activation=activation, background=False))
    assert len(found)
    assert ((found.scores > 0) & (found.scores <= 1)).all()


def test_no_detection_is_an_empty_result() -> None:
    for activation in ("sigmoid", "softmax"):
        found = ssd(np.zeros((1, 4, 4), np.float32), np.full((1, 4, 3), -9.0, np.float32),
                    SsdOutput(anchors=DENSE, activation=activation))  # type: ignore[arg-type]  # fmt: skip
        assert len(found) == 0
        assert found.boxes.shape == (0, 4)


def test_a_flood_of_candidates_is_bounded_to_the_best() -> None:
    boxes, logits = heads(3, classes=9, anchors=1917)
    output = SsdOutput(anchors=COCO_300, score_threshold=0.0, max_detections=20)
    found = ssd(boxes, logits, output)
    assert len(found) == 20
    assert found.scores[0] == pytest.approx(1 / (1 + math.exp(-float(logits[0, :, 1:].max()))), abs=1e-6)


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "says"),
    [
        ((1, 4, 5), (1, 4, 3), 2, r"output\.boxes: tensor boxes: expected shape \[1, 4, 4\], found \[1, 4, 5\]"),
        ((1, 5, 4), (1, 5, 3), 2, r"output\.boxes.*found \[1, 5, 4\]"),
        ((1, 4, 4), (1, 5, 3), 2, r"output\.scores.*expected shape \[1, 4, any\], found \[1, 5, 3\]"),
        ((1, 4, 4), (1, 4, 1), 0, r"output\.scores: expected at least one class, found 1"),
        ((1, 4, 4), (1, 4, 3), 3, "expected 2 labels, one a class, found 3"),
    ],
)
def test_heads_that_do_not_fit_are_refused(boxes: Any, scores: Any, labels: int, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make_decoder(SsdOutput(anchors=DENSE), [spec("boxes", *boxes), spec("scores", *scores)], labels)


# --- TFLite_Detection_PostProcess ---


def postprocess_specs(rows: int = 20) -> list[TensorSpec]:
    return [spec("boxes", 1, rows, 4), spec("classes", 1, rows), spec("scores", 1, rows), spec("count", 1)]


def read_by_hand(tensors: list[np.ndarray], threshold: float) -> list[tuple[float, int, list[float]]]:
    """``detection_postprocess.cc``: boxes are y_min, x_min, y_max, x_max; the first ``count`` rows hold."""
    boxes, classes, scores, count = tensors
    found = []
    for i in range(int(count[0])):
        if scores[0][i] >= threshold:
            top, left, bottom, right = (float(v) for v in boxes[0][i])
            found.append((float(scores[0][i]), int(classes[0][i]), [left, top, right, bottom]))
    return found


def assert_reads(tensors: list[np.ndarray], threshold: float) -> Detections:
    decoder = make_decoder(PostprocessOutput(score_threshold=threshold), postprocess_specs(), 90)
    found = decoder(tensors)
    assert isinstance(found, Detections)
    wanted = read_by_hand(tensors, threshold)
    assert found.scores.tolist() == [w[0] for w in wanted]
    assert found.class_ids.tolist() == [w[1] for w in wanted]
    assert found.boxes.tolist() == [w[2] for w in wanted]
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_recorded_outputs_of_a_real_detector(threshold: float) -> None:
    with np.load(DATA / "postprocess.npz") as recorded:
        arrays = {name: recorded[name] for name in recorded.files}
    best = []
    for k in range(3):
        tensors = [arrays[name][k] for name in ("boxes", "classes", "scores", "count")]
        found = assert_reads(tensors, threshold)
        best.append(int(found.class_ids[0]))
    # an astronaut, a cat and a cup: COCO's ids 1, 17 and 47, counted from 0
    assert best == [0, 16, 46]


def test_coral_detector_itself(tmp_path: Path) -> None:
    path = os.environ.get("VEDETTE_CORAL_SSD")
    if not path:
        pytest.skip("VEDETTE_CORAL_SSD names no mobilenet_ssd_v2_coco_quant_postprocess.tflite")
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreter_module.Interpreter(path)
    interpreter.allocate_tensors()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), np.uint8)
    pixels[0, 60:240, 90:200] = (200, 30, 40)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    tensors = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    assert [t.shape for t in tensors] == [s.shape for s in postprocess_specs()]
    assert len(assert_reads(tensors, 0.0)) == 20


def rows(*values: tuple[float, float]) -> list[np.ndarray]:
    """Four tensors with these (class, score) rows."""
    boxes = np.tile(np.array([0.1, 0.2, 0.3, 0.4], np.float32), (1, len(values), 1))
    classes, scores = np.array(values, np.float32).T
    return [boxes, classes[None], scores[None], np.array([len(values)], np.float32)]


def test_rows_beyond_the_count_and_classes_without_a_label_are_left_out() -> None:
    tensors = rows((0, 0.9), (3, 0.8), (-1, 0.7), (1, 0.6), (0, 0.55))
    tensors[3][0] = 4
    found = make_decoder(PostprocessOutput(), postprocess_specs(5), 3)(tensors)
    assert found.class_ids.tolist() == [0, 1]
    shifted = make_decoder(PostprocessOutput(class_offset=-1), postprocess_specs(5), 3)(tensors)
    assert shifted.class_ids.tolist() == [2, 0]
    np.testing.assert_array_equal(shifted.scores, np.array([0.8, 0.6], np.float32))


def test_the_best_are_kept_when_there_are_too_many() -> None:
    tensors = rows((9, 0.99), (0, 0.6), (1, 0.9), (2, 0.7))
    found = make_decoder(PostprocessOutput(max_detections=2), postprocess_specs(4), 3)(tensors)
    assert found.class_ids.tolist() == [1, 2]


@pytest.mark.parametrize("side", [math.nan, math.inf, -math.inf, 3e38])
def test_four_tensors_with_a_box_of_no_numbers_have_one_detection_fewer(side: float) -> None:
    tensors = rows((0, 0.9), (1, 0.8))
    tensors[0][0, 0, 3] = side
    assert make_decoder(PostprocessOutput(), postprocess_specs(2), 3)(tensors).class_ids.tolist() == [1]


@pytest.mark.parametrize("value", [math.inf, 3e38])
def test_a_softmax_of_what_overflows_is_silent(value: float) -> None:
    logits = np.array([[value, -value, 0.0]], np.float32)
    assert len(classify(logits, activation="softmax", score_threshold=0.5)) == int(value < math.inf)
    found = ssd(NO_BOXES, logits[None].repeat(4, 1), SsdOutput(anchors=DENSE, activation="softmax", background=False))
    assert (len(found) > 0) == (value < math.inf)


def test_a_score_beyond_1_is_1() -> None:
    found = make_decoder(PostprocessOutput(), postprocess_specs(3), 3)(rows((0, 7.5), (1, math.inf), (2, math.nan)))
    assert found.scores.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("count", [-1, -1e9, math.nan, -math.inf])
def test_a_count_that_cannot_be_means_none(count: float) -> None:
    tensors = rows((0, 0.9), (1, 0.8))
    tensors[3][0] = count
    assert len(make_decoder(PostprocessOutput(), postprocess_specs(2), 3)(tensors)) == 0


@pytest.mark.parametrize("count", [3, 1e9, math.inf])
def test_a_count_beyond_the_rows_means_all(count: float) -> None:
    tensors = rows((0, 0.9), (1, 0.8))
    tensors[3][0] = count
    assert len(make_decoder(PostprocessOutput(), postprocess_specs(2), 3)(tensors)) == 2


def test_four_tensors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"output\.count: expected an output tensor from 0 to 2, found 3"):
        make_decoder(PostprocessOutput(), postprocess_specs()[:3], 90)
    swapped = [postprocess_specs()[i] for i in (1, 0, 2, 3)]
    with pytest.raises(ModelError, match=r"output\.boxes"):
        make_decoder(PostprocessOutput(), swapped, 90)
