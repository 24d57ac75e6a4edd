"""Heads that others train: decoded boxes beside their scores, and an SSD's square priors. Both against plain loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vedette.contract.decode import make_decoder
from vedette.contract.decode.ssd import prior_boxes
from vedette.contract.errors import ModelError
from vedette.contract.manifest import BoxesOutput, SsdOutput, SsdPriors
from vedette.contract.types import Detections, TensorSpec

F32 = np.dtype(np.float32)
WIDTH, HEIGHT = 64, 48
PICTURE = [TensorSpec("in", (1, HEIGHT, WIDTH, 3), F32)]
CORNERS = ("x_min", "y_min", "x_max", "y_max")
CENTER = ("x", "y", "width", "height")


def decode(boxes: np.ndarray, scores: np.ndarray, output: BoxesOutput, *tensors: TensorSpec) -> Detections:
    specs = tensors or (TensorSpec("b", boxes.shape, boxes.dtype), TensorSpec("s", scores.shape, scores.dtype))
    classes = scores.shape[2 if output.layout == "rows" else 1] - (output.background != "none")
    found = make_decoder(output, specs, classes, inputs=PICTURE)([boxes, scores])
    assert isinstance(found, Detections)
    return found


def overlap(a: list[float], b: list[float]) -> float:
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def slowly(boxes: np.ndarray, scores: np.ndarray, output: BoxesOutput) -> list[tuple[float, int, list[float]]]:
    """One candidate after the other, in doubles: score, class, corners; before suppression."""
    found = []
    for numbers, said in zip(boxes[0].tolist(), scores[0].tolist(), strict=True):
        if output.activation == "softmax":
            total = math.fsum(math.exp(value) for value in said)
            said = [math.exp(value) / total for value in said]
        elif output.activation == "sigmoid":
            said = [1 / (1 + math.exp(-value)) for value in said]
        said = said[output.background == "first" : len(said) - (output.background == "last")]
        best = max(range(len(said)), key=said.__getitem__)
        box = dict(zip(output.box, numbers, strict=True))
        if "width" in box:
            left, top = box["x"] - box["width"] / 2, box["y"] - box["height"] / 2
            corners = [left, top, left + box["width"], top + box["height"]]
        else:
            corners = [box[name] for name in CORNERS]
        if output.units == "pixels":
            corners = [value / side for value, side in zip(corners, (WIDTH, HEIGHT, WIDTH, HEIGHT), strict=True)]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            found.append((min(max(said[best], 0.0), 1.0), best, corners))
    return found


@given(
    seed=st.integers(0, 2**32),
    box=st.permutations(CORNERS) | st.permutations(CENTER),
    units=st.sampled_from(["fractions", "pixels"]),
    activation=st.sampled_from(["none", "sigmoid", "softmax"]),
    background=st.sampled_from(["none", "first", "last"]),
    threshold=st.sampled_from([0.0, 0.3, 0.6]),
    nms_iou=st.sampled_from([0.3, 1.0]),
    columns=st.booleans(),
)
def test_what_is_found_is_what_a_plain_loop_finds(
    seed: int,
    box: list[Any],
    units: Any,
    activation: Any,
    background: Any,
    threshold: float,
    nms_iou: float,
    columns: bool,
) -> None:
    rng = np.random.default_rng(seed)
    scale = np.array([{"x": WIDTH, "w": WIDTH}.get(name[0], HEIGHT) for name in box]) if units == "pixels" else 1
    boxes = (rng.uniform(0, 1, (1, 25, 4)) * scale).astype(np.float32)
    low, high = (0, 1) if activation == "none" else (-3, 3)
    scores = rng.uniform(low, high, (1, 25, 4)).astype(np.float32)
    output = BoxesOutput(
        box=tuple(box), units=units, activation=activation, background=background, score_threshold=threshold,
        nms_iou=nms_iou, max_detections=10,
    )  # fmt: skip
    candidates = sorted(slowly(boxes, scores, output), key=lambda item: -item[0])
    # what float32 and float64 may judge differently proves nothing
    assume(all(a[0] - b[0] > 1e-6 for a, b in itertools.pairwise(candidates)))
    assume(all(abs(item[0] - threshold) > 1e-6 for item in candidates))
    overlaps = [overlap(a[2], b[2]) for a, b in itertools.combinations(candidates, 2) if a[1] == b[1]]
    assume(all(abs(value - nms_iou) > 1e-5 for value in overlaps))
    wanted: list[tuple[float, int, list[float]]] = []
    for score, class_id, corners in candidates:
        rivals = [other for _, other_id, other in wanted if other_id == class_id]
        if score >= threshold and all(overlap(corners, other) <= nms_iou for other in rivals):
            wanted.append((score, class_id, corners))
    wanted = wanted[:10]
    if columns:
        output = msgspec.structs.replace(output, layout="columns")
        boxes, scores = (np.ascontiguousarray(tensor.transpose(0, 2, 1)) for tensor in (boxes, scores))
    found = decode(boxes, scores, output)
    assert found.boxes.dtype == found.scores.dtype == np.float32 and found.class_ids.dtype == np.int32
    np.testing.assert_allclose(found.scores, [score for score, _, _ in wanted], atol=1e-6)
    assert found.class_ids.tolist() == [class_id for _, class_id, _ in wanted]
    np.testing.assert_allclose(found.boxes.tolist(), [corners for _, _, corners in wanted], atol=1e-5)


@given(st.integers(0, 2**32), st.sampled_from(["none", "sigmoid", "softmax"]))
def test_quantised_tensors_are_what_their_real_numbers_are(seed: int, activation: Any) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = (rng.integers(-128, 128, (1, 30, n)).astype(np.int8) for n in (4, 3))
    specs = TensorSpec("b", (1, 30, 4), boxes.dtype, 1 / 255, -128), TensorSpec("s", (1, 30, 3), scores.dtype, 0.05, 3)
    output = BoxesOutput(activation=activation, background="first", score_threshold=0.2)
    quantised = decode(boxes, scores, output, *specs)
    real = decode(specs[0].to_real(boxes), specs[1].to_real(scores), output)
    np.testing.assert_array_equal(quantised.boxes, real.boxes)
    np.testing.assert_array_equal(quantised.scores, real.scores)
    np.testing.assert_array_equal(quantised.class_ids, real.class_ids)


BROKEN = st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


@given(
    hnp.arrays(np.float32, (1, 12, 4), elements=BROKEN), hnp.arrays(np.float32, (1, 12, 3), elements=BROKEN),
    st.sampled_from(["none", "sigmoid", "softmax"]), st.sampled_from([CORNERS, CENTER]),
)  # fmt: skip
def test_a_broken_network_gives_boxes_or_nothing(
    boxes: np.ndarray, scores: np.ndarray, activation: Any, box: Any
) -> None:
    found = decode(boxes, scores, BoxesOutput(activation=activation, box=box, score_threshold=0.0))
    assert np.isfinite(found.boxes).all() and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "words"),
    [
        ((1, 80, 5), (1, 80, 2), {}, r"output\.boxes: tensor b: expected shape \[1, any, 4\]"),
        ((1, 80, 4), (1, 79, 2), {}, r"output\.scores: tensor s: expected shape \[1, 80, any\]"),
        (
            (1, 80, 4),
            (1, 80, 1),
            {"background": "last"},
            r"output\.scores: tensor s: expected at least one class, found 1",
        ),
        ((1, 4, 80), (1, 80, 2), {"layout": "columns"}, r"output\.scores: tensor s: expected shape \[1, any, 80\]"),
        ((1, 80, 4), (1, 80, 2), {"scores": 2}, r"output\.scores: expected an output tensor from 0 to 1"),
        (
            (1, 80, 4),
            (1, 80, 3),
            {},
            """expected 3 labels, one a class, found 2; .*, or .*: background = "first" or "last\"""",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(boxes: Any, scores: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        make_decoder(BoxesOutput(**options), [TensorSpec("b", boxes, F32), TensorSpec("s", scores, F32)], 2)


def test_a_box_has_all_its_sides() -> None:
    with pytest.raises(ValueError, match="box: expected x_min, y_min, x_max and y_max, or x, y, width and height"):
        BoxesOutput(box=("x", "y", "x_max", "y_max"))


# --- priors ---

PRIORS = SsdPriors(strides=(8, 32), sizes=((10.0, 16.0), (40.0, 70.0, 90.0)))


def slow_priors(spec: SsdPriors) -> list[list[float]]:
    """As the networks' own repositories make them, one by one."""
    made = []
    for stride, sizes in zip(spec.strides, spec.sizes, strict=True):
        for row in range(math.ceil(HEIGHT / stride)):
            for column in range(math.ceil(WIDTH / stride)):
                for size in sizes:
                    x, y = (column + 0.5) / (WIDTH / stride), (row + 0.5) / (HEIGHT / stride)
                    made.append([y, x, size / HEIGHT, size / WIDTH])
    return [[min(value, 1.0) for value in box] if spec.clip else box for box in made]


@pytest.mark.parametrize("clip", [False, True])
def test_priors_lie_where_a_loop_puts_them(clip: bool) -> None:
    spec = SsdPriors(strides=PRIORS.strides, sizes=PRIORS.sizes, clip=clip)
    made = prior_boxes(spec, WIDTH, HEIGHT)
    assert len(made) == 6 * 8 * 2 + 2 * 2 * 3, "a map of 48 by 32 has two rows, the second half beyond the edge"
    np.testing.assert_allclose(made, slow_priors(spec), rtol=1e-6)


def test_priors_of_ultraface_share_the_sides_evenly() -> None:
    """Its own ``fd_config.py`` divides the sides by the maps' numbers of cells: 240 / 4 = 60, not 64."""
    spec = SsdPriors(strides=(32, 64), sizes=((64.0,), (128.0,)), even=True)
    expected = [
        [(row + 0.5) / rows, (column + 0.5) / columns, size / 240, size / 320]
        for rows, columns, size in ((8, 10, 64), (4, 5, 128))
        for row in range(rows)
        for column in range(columns)
    ]
    np.testing.assert_allclose(prior_boxes(spec, 320, 240), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("threshold", [0.5, 0.99])
def test_encodings_in_either_order_are_the_same_boxes(dtype: str, threshold: float) -> None:
    """Those of few candidates, which are looked at one by one, and those of many."""
    rng = np.random.default_rng(3)
    count = len(slow_priors(PRIORS))
    raw, scores = rng.integers(-60, 60, (1, count, 4)), rng.integers(-128, 128, (1, count, 2))
    kinds: dict[str, Any] = {"scale": 0.1, "zero_point": 0} if dtype == "int8" else {}
    raw, scores = ((numbers if kinds else numbers / 10).astype(dtype) for numbers in (raw, scores))
    specs = [TensorSpec("b", raw.shape, raw.dtype, **kinds), TensorSpec("s", scores.shape, scores.dtype, **kinds)]
    found = []
    for order, tensor in (("yxhw", raw), ("xywh", np.ascontiguousarray(raw[:, :, [1, 0, 3, 2]]))):
        output = SsdOutput(
            priors=PRIORS, order=order, score_threshold=threshold, nms_iou=1.0, max_detections=1000,
            box_scale=(10.0, 12.0, 25.0, 30.0),
        )  # fmt: skip
        found.append(make_decoder(output, specs, 1, inputs=PICTURE)([tensor, scores]))
    first, second = found
    assert isinstance(first, Detections) and isinstance(second, Detections) and len(first) > 10
    np.testing.assert_array_equal(first.boxes, second.boxes)
    real = specs[0].to_real(raw)[0] / [10.0, 12.0, 25.0, 30.0]
    y, x, height, width = np.array(slow_priors(PRIORS)).T
    center = np.stack([real[:, 1] * width + x, real[:, 0] * height + y], axis=1)
    half = np.stack([np.exp(real[:, 3]) * width, np.exp(real[:, 2]) * height], axis=1) / 2
    best = int(np.argmax(scores[0, :, 1]))
    np.testing.assert_allclose(first.boxes[0], [*(center - half)[best], *(center + half)[best]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("threshold", [0.5, 0.99])
def test_sides_that_are_no_logarithms_before_key_points_are_blazefaces(dtype: str, threshold: float) -> None:
    """MediaPipe's ``TensorsToDetectionsCalculator`` without ``apply_exponential_on_box_size``, its anchors' sides 1."""
    rng = np.random.default_rng(4)
    priors = SsdPriors(strides=(8, 16), sizes=((48.0, 48.0), (48.0,)))
    picture = [TensorSpec("in", (1, 48, 48, 3), F32)]
    cells = [((row + 0.5) / n, (column + 0.5) / n) for n in (6, 3) for row in range(n) for column in range(n)]
    anchors = [center for center in cells[:36] for _ in range(2)] + cells[36:]
    raw = rng.integers(-20, 100, (1, len(anchors), 4 + 2 * 6))
    scores = rng.integers(-128, 128, (1, len(anchors), 1))
    kinds: dict[str, Any] = {"scale": 0.1, "zero_point": 0} if dtype == "int8" else {}
    raw, scores = ((numbers if kinds else numbers / 10).astype(dtype) for numbers in (raw, scores))
    specs = [TensorSpec("b", raw.shape, raw.dtype, **kinds), TensorSpec("s", scores.shape, scores.dtype, **kinds)]
    output = SsdOutput(
        priors=priors, order="xywh", sides="linear", key_points=6, background=False, box_scale=(48.0,) * 4,
        score_threshold=threshold, nms_iou=1.0, max_detections=1000,
    )  # fmt: skip
    found = make_decoder(output, specs, 1, inputs=picture)([raw, scores])
    assert isinstance(found, Detections)
    expected = []
    for (y, x), numbers, logit in zip(
        anchors, specs[0].to_real(raw)[0].tolist(), specs[1].to_real(scores)[0, :, 0], strict=True
    ):
        dx, dy, width, height = (number / 48 for number in numbers[:4])
        score = 1 / (1 + math.exp(-logit))
        if score >= threshold and width > 0 and height > 0:
            corners = [x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2]
            expected.append((score, corners))
    assert len(expected) > 10 and len(found) == len(expected) < (scores > 0).sum(), "without those that have no sides"
    expected.sort(key=lambda one: -one[0])
    np.testing.assert_allclose(found.scores, [score for score, _ in expected], rtol=1e-5)
    order = np.lexsort([*found.boxes.T, -found.scores.round(4)])
    wanted = np.array([corners for _, corners in expected])
    again = np.lexsort([*wanted.T, -np.round([score for score, _ in expected], 4)])
    np.testing.assert_allclose(found.boxes[order], wanted[again], rtol=1e-4, atol=1e-5)


def test_priors_that_do_not_fit_are_refused() -> None:
    boxes, scores = TensorSpec("b", (1, 100, 4), F32), TensorSpec("s", (1, 100, 2), F32)
    with pytest.raises(ModelError, match=r"tensor b: expected shape \[1, 108, 4\], found \[1, 100, 4\]"):
        make_decoder(SsdOutput(priors=PRIORS), [boxes, scores], 1, inputs=PICTURE)
    vast = [TensorSpec("in", (1, 8192, 8192, 3), F32)]
    with pytest.raises(ModelError, match=r"output\.priors: expected at most 1000000 anchors, found 67108864"):
        make_decoder(SsdOutput(priors=SsdPriors(strides=(1,), sizes=((9.0,),))), [boxes, scores], 1, inputs=vast)
    with pytest.raises(ValueError, match="sizes: expected one list a stride, 2, found 1"):
        SsdPriors(strides=(8, 16), sizes=((9.0,),))
    with pytest.raises(ValueError, match="sizes: expected numbers above 0"):
        SsdPriors(strides=(8,), sizes=((-1.0,),))
    for both in ({}, {"priors": PRIORS, "anchors": {"feature_maps": [[1, 1]]}}):
        with pytest.raises(
            ValueError, match=f"anchors: expected them or priors, found {'both' if both else 'neither'}"
        ):
            SsdOutput(**both)
