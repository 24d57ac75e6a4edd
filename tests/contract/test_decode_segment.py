"""Summaries of segmentations against a plain loop over every cell, and of a real network's mask against the mask."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import DATA
from vedette.contract.decode import SegmentDecoder, make_decoder
from vedette.contract.errors import ModelError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import ImageInput, SegmentOutput
from vedette.contract.types import Segments, TensorSpec
from vedette.engine import TfliteEngine, load_runtime
from vedette.models.model import Model, PlainModel, read_model, to_frame

F32 = np.dtype(np.float32)
PICTURES = DATA.parents[2] / "models" / "golden"
SELFIE = DATA / "selfie_segmentation.tflite"


def decode(raw: np.ndarray, seen: tuple[float, float, float, float] = (0, 0, 1, 1), **options: Any) -> Segments:
    decoder = make_decoder(SegmentOutput(**options), [TensorSpec("scores", raw.shape, raw.dtype)], raw.shape[3])
    assert isinstance(decoder, SegmentDecoder)
    return decoder([raw], seen=seen)


def slowly(
    raw: np.ndarray, spec: SegmentOutput, seen: tuple[float, float, float, float]
) -> dict[int, tuple[float, list[float], list[float]]]:
    """Class -> share, box, centroid."""
    _, rows, columns, classes = raw.shape
    cells: dict[int, list[tuple[int, int]]] = {}
    total = 0
    for r in range(rows):
        for c in range(columns):
            if not (seen[0] <= (c + 0.5) / columns < seen[2] and seen[1] <= (r + 0.5) / rows < seen[3]):
                continue
            total += 1
            values = [float(v) for v in raw[0, r, c]]
            if spec.activation == "softmax":
                whole = math.fsum(math.exp(v - max(values)) for v in values)
                values = [math.exp(v - max(values)) / whole for v in values]
            elif spec.activation == "sigmoid":
                values = [1 / (1 + math.exp(-v)) for v in values]
            best = max(range(classes), key=lambda k: values[k])
            if values[best] >= spec.score_threshold:
                cells.setdefault(best, []).append((r, c))
    found = {}
    for k, places in cells.items():
        share = len(places) / total
        if share >= spec.min_share and not (spec.background and k == 0):
            ys, xs = [r for r, _ in places], [c for _, c in places]
            box = [min(xs) / columns, min(ys) / rows, (max(xs) + 1) / columns, (max(ys) + 1) / rows]
            found[k] = (share, box, [(np.mean(xs) + 0.5) / columns, (np.mean(ys) + 0.5) / rows])
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, SegmentOutput, tuple[float, float, float, float]]:
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    classes = draw(st.integers(1, 4))
    spec = SegmentOutput(
        activation=draw(st.sampled_from(["none", "sigmoid"] if classes == 1 else ["none", "sigmoid", "softmax"])),
        score_threshold=draw(st.sampled_from([0.0, 0.3, 0.5, 0.7])),
        background=draw(st.booleans()) if classes > 1 else False,
        min_share=draw(st.sampled_from([0.0, 0.001, 0.2])),
    )
    low, high = (0, 1) if spec.activation == "none" else (-3, 3)
    raw = np.random.default_rng(draw(st.integers(0, 2**32))).uniform(low, high, (1, rows, columns, classes))
    seen = draw(st.sampled_from([(0.0, 0.0, 1.0, 1.0), (0.0, 0.26, 1.0, 0.74), (0.33, 0.0, 0.66, 1.0)]))
    return raw.astype(np.float32), spec, seen


@given(cases())
def test_shares_boxes_and_centroids_are_what_a_plain_loop_counts(case: Any) -> None:
    raw, spec, seen = case
    found = decode(raw, seen, **{name: getattr(spec, name) for name in spec.__struct_fields__})
    expected = slowly(raw, spec, seen)
    assert sorted(found.class_ids.tolist()) == sorted(expected)
    assert found.shares.tolist() == sorted(found.shares.tolist(), reverse=True)
    for class_id, share, box, centroid in zip(found.class_ids, found.shares, found.boxes, found.centroids, strict=True):
        wanted = expected[int(class_id)]
        np.testing.assert_allclose(share, wanted[0], rtol=1e-6)
        np.testing.assert_allclose(box, wanted[1], rtol=1e-6)
        np.testing.assert_allclose(centroid, wanted[2], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_classes_that_the_network_chose_are_summed_up_as_scores_are(dtype: Any) -> None:
    chosen = np.random.default_rng(7).integers(0, 4, (1, 9, 7))
    seen = (0.0, 0.26, 1.0, 0.74)
    scores = (chosen[..., None] == np.arange(4)).astype(np.float32)
    expected = decode(scores, seen, background=True)
    decoder = make_decoder(SegmentOutput(background=True), [TensorSpec("ArgMax", chosen.shape, np.dtype(dtype))], 4)
    assert isinstance(decoder, SegmentDecoder)
    found = decoder([chosen.astype(dtype)], seen=seen)
    for name in ("class_ids", "shares", "boxes", "centroids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert decoder.unlabelled == ()
    fewer = make_decoder(SegmentOutput(), [TensorSpec("ArgMax", chosen.shape, np.dtype(dtype))], 2)
    assert isinstance(fewer, SegmentDecoder)
    assert sorted(fewer([chosen.astype(dtype)]).class_ids.tolist()) == [0, 1] and fewer.unlabelled == (2, 3)
    assert sum(fewer([chosen.astype(dtype)]).shares.tolist()) < 0.9, "cells of other classes are cells all the same"


def test_cells_without_a_number_belong_to_no_class() -> None:
    raw = np.full((1, 4, 4, 2), np.nan, np.float32)
    for activation in ("none", "sigmoid", "softmax"):
        assert len(decode(raw, activation=activation, score_threshold=0.0)) == 0
    raw[0, 0, 0] = [0.9, 0.1]
    assert decode(raw).shares.tolist() == [1 / 16]


def test_nothing_is_seen_of_a_picture_narrower_than_a_cell() -> None:
    assert len(decode(np.ones((1, 4, 4, 1), np.float32), (0.4, 0.0, 0.45, 1.0))) == 0


@pytest.mark.parametrize(
    ("shape", "labels", "options", "words"),
    [
        ((1, 4, 4), 1, {}, "shape"),
        ((1, 4, 4, 1), 1, {"activation": "softmax"}, "one class alone"),
        ((1, 4, 4, 1), 1, {"background": True}, "one class alone"),
        ((1, 4, 4, 3), 2, {}, "expected 3 labels, one a class"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(shape: Any, labels: int, options: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        make_decoder(SegmentOutput(**options), [TensorSpec("a", shape, F32)], labels)


def test_classes_that_were_chosen_have_no_scores_left_to_be_made() -> None:
    with pytest.raises(ModelError, match='and no scores: expected activation "none", found softmax'):
        make_decoder(SegmentOutput(activation="softmax"), [TensorSpec("a", (1, 4, 4), np.dtype(np.int64))], 3)


# --- MediaPipe's selfie segmentation ---


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center-crop"])
def test_a_real_mask_is_summed_up_on_the_frame(resize: Any, tmp_path: Any) -> None:
    (tmp_path / "labels.txt").write_text("person\n")
    picture = cv2.imread(str(PICTURES / "astronaut.jpg"))[:300, 40:500]
    # the whole way of the agent: preprocess, engine, decode, back to the frame
    spec = ImageInput(height=256, width=256, resize=resize, std=(255.0,))
    plain = PlainModel(SegmentOutput(), spec, tmp_path / "labels.txt")
    runtime = load_runtime("auto")
    if runtime.name == "tflite-runtime":
        pytest.skip("tflite-runtime lacks this network's operation Convolution2DTransposeBias, which LiteRT has")
    engine = TfliteEngine(SELFIE, runtime)
    try:
        model = Model(read_model(str(SELFIE), plain), engine)
        found = model(picture)
        # the same mask, brought to the frame by OpenCV, counted there
        inputs, outputs = engine.allocate()
        placement = ImagePreprocessor(spec, engine.inputs[0])(picture, inputs[0])
        engine.invoke(inputs, outputs)
    finally:
        engine.close()
    mask = outputs[0].reshape(256, 256)
    left, top, right, bottom = (round(v * 256) for v in placement.seen)
    width = round((right - left) / 256 * placement.scale_x * 460)
    height = round((bottom - top) / 256 * placement.scale_y * 300)
    person = cv2.resize(mask[top:bottom, left:right], (width, height), interpolation=cv2.INTER_NEAREST) >= 0.5
    # where the seen part lies in the frame: in the middle of it
    x, y = (460 - width) / 2, (300 - height) / 2
    ys, xs = np.nonzero(person)
    assert isinstance(found, Segments) and found.class_ids.tolist() == [0]
    assert 0.25 < found.shares[0] < 0.6
    np.testing.assert_allclose(found.shares[0], person.mean(), atol=0.005)
    np.testing.assert_allclose(found.centroids[0] * [460, 300], [x + xs.mean() + 0.5, y + ys.mean() + 0.5], atol=2)
    box = [x + xs.min(), y + ys.min(), x + xs.max() + 1, y + ys.max() + 1]
    np.testing.assert_allclose(found.boxes[0] * [460, 300, 460, 300], box, atol=3)
    # and the person is where the eye sees her: the top of her head, and more of her on the left
    assert 0.0 <= found.boxes[0, 1] < 0.09 and 0.3 < found.centroids[0, 0] < 0.45


def test_places_go_back_to_the_frame() -> None:
    preprocess = ImagePreprocessor(
        ImageInput(height=64, width=64, resize="letterbox"), TensorSpec("i", (1, 64, 64, 3), F32)
    )
    placement = preprocess(np.zeros((100, 200, 3), np.uint8), np.zeros((1, 64, 64, 3), np.float32))
    assert placement.seen == (0.0, 0.25, 1.0, 0.75)
    segments = Segments(np.zeros(1, np.int32), np.ones(1, np.float32), np.array([[0.5, 0.25, 1, 0.5]], np.float32),
                        np.array([[0.75, 0.375]], np.float32))  # fmt: skip
    found = to_frame(segments, placement)
    assert isinstance(found, Segments)
    np.testing.assert_allclose(found.boxes, [[0.5, 0, 1, 0.5]])
    np.testing.assert_allclose(found.centroids, [[0.75, 0.25]])
