"""YOLO's heads against a plain loop over every candidate, and against what the package of a real network decodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiny import DATA
from vedette.contract.decode import make_decoder
from vedette.contract.errors import ModelError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import ImageInput, YoloOutput
from vedette.contract.types import Detections, Poses, TensorSpec
from vedette.models.model import to_frame

F32 = np.dtype(np.float32)
SIDE = 64
PICTURE = [TensorSpec("in", (1, SIDE, SIDE, 3), F32)]
GRID = 8 * 8 + 4 * 4  # candidates at strides 8 and 16


def decode(raw: np.ndarray, tensor: TensorSpec | None = None, **options: Any) -> Detections:
    spec = YoloOutput(**options)
    tensor = tensor or TensorSpec("predictions", raw.shape, raw.dtype)
    numbers = raw.shape[2] if spec.layout == "rows" else raw.shape[1]
    result = make_decoder(spec, [tensor], numbers - 4 - spec.objectness, inputs=PICTURE)([raw])
    assert isinstance(result, Detections)
    return result


def activate(value: float, activation: str) -> float:
    if math.isnan(value):
        return value
    if activation == "sigmoid":
        return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
    return min(1.0, max(0.0, value))


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


def slowly(real: np.ndarray, spec: YoloOutput) -> list[tuple[float, int, list[float]]]:
    """One candidate after the other, in doubles: score, class, corners; best first, before suppression."""
    rows = real[0] if spec.layout == "rows" else real[0].T
    cells = [
        (column, row, stride)
        for stride in spec.strides for row in range(SIDE // stride) for column in range(SIDE // stride)
    ]  # fmt: skip
    found = []
    for number, row in enumerate(rows):
        values = [float(v) for v in row]
        x, y, w, h = values[:4]
        if spec.strides:
            column, line, stride = cells[number]
            x, y = (x + column) * stride, (y + line) * stride
            w, h = math.exp(min(w, 10)) * stride, math.exp(min(h, 10)) * stride
        if spec.strides or spec.units == "pixels":
            x, y, w, h = x / SIDE, y / SIDE, w / SIDE, h / SIDE
        scores = [activate(v, spec.activation) for v in values[4 + spec.objectness :]]
        best = max(range(len(scores)), key=lambda k: values[4 + spec.objectness + k])
        score = scores[best] * (activate(values[4], spec.activation) if spec.objectness else 1.0)
        found.append((score, best, [x - w / 2, y - h / 2, x + w / 2, y + h / 2]))
    return sorted(found, key=lambda item: -item[0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    options: dict[str, Any] = {
        "layout": draw(st.sampled_from(["rows", "columns"])),
        "objectness": draw(st.booleans()),
        "units": draw(st.sampled_from(["fractions", "pixels"])),
        "strides": draw(st.sampled_from([(), (8, 16)])),
        "activation": draw(st.sampled_from(["none", "sigmoid"])),
        "score_threshold": draw(st.sampled_from([0.0, 0.05, 0.25, 0.5, 0.9, 1.0])),
        "nms_iou": draw(st.sampled_from([0.0, 0.45, 1.0])),
        "max_detections": draw(st.sampled_from([1, 5, 1000])),
    }
    candidates = GRID if options["strides"] else draw(st.integers(1, 40))
    classes = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    boxes = rng.uniform(0.05, 1, (candidates, 4)) * (SIDE if options["units"] == "pixels" else 1)
    if options["strides"]:
        boxes = rng.uniform(-2, 2, (candidates, 4))
    low, high = (-6, 6) if options["activation"] == "sigmoid" else (-0.1, 1.1)
    scores = rng.uniform(low, high, (candidates, classes + options["objectness"]))
    raw = np.concatenate([boxes, scores], axis=1)[None].astype(np.float32)
    return raw if options["layout"] == "rows" else np.ascontiguousarray(raw.transpose(0, 2, 1)), options


@given(cases())
def test_what_is_found_is_what_a_plain_loop_finds(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    raw, options = case
    spec = YoloOutput(**options)
    found = decode(raw, **options)
    assert found.boxes.dtype == found.scores.dtype == np.float32 and found.class_ids.dtype == np.int32
    assert len(found) <= spec.max_detections
    expected = slowly(raw.astype(np.float64), spec)
    kept: list[tuple[float, int, list[float]]] = []
    for score, class_id, box in expected:
        near = abs(score - spec.score_threshold) < 1e-5  # rounding decides; another example will not be near
        overlaps = [overlap(box, other) for _, other_id, other in kept if other_id == class_id]
        if near or any(abs(value - spec.nms_iou) < 1e-4 for value in overlaps if spec.nms_iou > 0):
            return
        if score >= spec.score_threshold and all(value <= spec.nms_iou for value in overlaps):
            kept.append((score, class_id, box))
    kept = kept[: spec.max_detections]
    assert len(found) == len(kept)
    np.testing.assert_allclose(found.scores, [score for score, _, _ in kept], atol=1e-5)
    for score, class_id, box in kept:
        # equal scores may come in either order
        same = [i for i in range(len(found)) if abs(found.scores[i] - score) < 2e-5 and found.class_ids[i] == class_id]
        assert any(np.allclose(found.boxes[i], box, rtol=1e-4, atol=1e-4) for i in same), (score, class_id, box)


@given(st.integers(0, 2**32), st.booleans())
def test_quantised_candidates_are_what_their_real_numbers_are(seed: int, objectness: bool) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(-128, 128, (1, 30, 6 + objectness)).astype(np.int8)
    tensor = TensorSpec("predictions", raw.shape, np.dtype(np.int8), 1 / 255, -128)
    options: dict[str, Any] = {"objectness": objectness, "score_threshold": 0.3, "nms_iou": 0.5}
    quantised, real = decode(raw, tensor, **options), decode(tensor.to_real(raw), **options)
    np.testing.assert_array_equal(quantised.boxes, real.boxes)
    np.testing.assert_array_equal(quantised.scores, real.scores)
    np.testing.assert_array_equal(quantised.class_ids, real.class_ids)


@given(
    hnp.arrays(np.float32, (1, GRID, 7), elements=st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf])),
    st.sampled_from(["none", "sigmoid"]),
    st.booleans(),
)
def test_a_broken_network_gives_boxes_or_nothing(raw: np.ndarray, activation: Any, grid: bool) -> None:
    found = decode(raw, activation=activation, strides=(8, 16) if grid else (), score_threshold=0.0)
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()


def test_only_the_best_candidates_are_suppressed_at_a_threshold_of_none() -> None:
    raw = np.random.default_rng(1).uniform(0.01, 1, (1, 20_000, 6)).astype(np.float32)
    found = decode(raw, score_threshold=0.0, nms_iou=1.0, max_detections=10_000)
    scores = np.sort(raw[0, :, 4] * raw[0, :, 5])[::-1]
    np.testing.assert_allclose(found.scores, scores[:5000])


def test_a_real_yolox_is_decoded_as_its_own_package_decodes_it() -> None:
    with np.load(DATA / "heads.npz") as recorded:
        predictions, boxes, scores = recorded["yolox"], recorded["yolox_boxes"], recorded["yolox_scores"]
    spec = YoloOutput(strides=(8, 16, 32), score_threshold=0.1, nms_iou=0.45)
    decoder = make_decoder(
        spec, [TensorSpec("output", predictions.shape, F32)], 1, inputs=[TensorSpec("images", (1, 416, 416, 3), F32)]
    )
    found = decoder([predictions])
    assert isinstance(found, Detections)
    assert len(found) == len(scores) == 7  # six letters, and a shadow on the table
    np.testing.assert_allclose(found.boxes * 416, boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 80), {}, "shape"),
        ((2, 80, 6), {}, "shape"),
        ((1, 80, 5), {}, "more than 5 numbers"),
        ((1, 80, 4), {"objectness": False}, "more than 4 numbers"),
        ((1, 5, 80), {"layout": "columns"}, "more than 5 numbers"),
        ((1, 79, 6), {"strides": (8, 16)}, "80 candidates at strides"),
        ((1, 80, 6), {"strides": (7,)}, "whole cells"),
        ((1, 80, 6), {"predictions": 1}, "output tensor from 0 to 0"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(shape: tuple[int, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        make_decoder(YoloOutput(**options), [TensorSpec("p", shape, F32)], 1, inputs=PICTURE)


def test_the_wrong_number_of_labels_is_refused() -> None:
    with pytest.raises(ModelError, match="expected 2 labels, one a class, found 3"):
        make_decoder(YoloOutput(), [TensorSpec("p", (1, 80, 7), F32)], 3, inputs=PICTURE)


def test_rows_that_are_columns_are_named() -> None:
    with pytest.raises(ModelError, match='layout = "columns"'):
        make_decoder(YoloOutput(), [TensorSpec("p", (1, 6, 5), F32)], 1, inputs=PICTURE)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_what_lies_wholly_beside_the_frame_is_not_on_it(resize: Any) -> None:
    """Beyond the tensor, or on the bars above and below a frame twice as wide as high."""
    candidates = [
        (0.5, 0.5, 0.2),
        (1.3, 0.5, 0.2),
        (0.5, -0.3, 0.2),
        (1.0, 0.5, 0.2),
        (0.5, 0.1, 0.1),
        (0.5, 1.0, 0.0001),
    ]
    raw = np.array([[[x, y, side, side, 1.0, 0.9] for x, y, side in candidates]], np.float32)
    preprocess = ImagePreprocessor(ImageInput(height=SIDE, width=SIDE, resize=resize), PICTURE[0])
    placement = preprocess(np.zeros((100, 200, 3), np.uint8), PICTURE[0].allocate())
    found = to_frame(decode(raw, nms_iou=1.0), placement)
    assert isinstance(found, Detections)
    height = 1 if resize == "stretch" else 2
    expected = [[0.4, 0.5 - 0.1 * height, 0.6, 0.5 + 0.1 * height], [0.9, 0.5 - 0.1 * height, 1.0, 0.5 + 0.1 * height]]
    if resize == "stretch":
        expected += [[0.45, 0.05, 0.55, 0.15], [0.49995, 0.99995, 0.50005, 1.0]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-6)
    bodies = Poses(
        np.ones(2, np.float32),
        np.full((2, 1, 3), 0.5, np.float32),
        np.array([[0.4, 0.4, 0.6, 0.6], [1.1, 0.4, 1.2, 0.6]], np.float32),
    )
    poses = to_frame(bodies, placement)
    assert isinstance(poses, Poses) and len(poses) == 1
