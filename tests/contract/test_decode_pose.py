"""Key points against plain loops, and real networks against one another and against a mirror."""

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
from vedette.contract.manifest import HeatmapOutput, PoseOutput
from vedette.contract.types import Poses, Tensor, TensorSpec

F32 = np.dtype(np.float32)
MOVENET_TAIL = ("y_min", "x_min", "y_max", "x_max", "score")


def decode(spec: PoseOutput | HeatmapOutput, outputs: list[Tensor], labels: int, side: int = 64) -> Poses:
    tensors = [TensorSpec(f"out{n}", tensor.shape, tensor.dtype) for n, tensor in enumerate(outputs)]
    result = make_decoder(spec, tensors, labels, inputs=[TensorSpec("in", (1, side, side, 3), F32)])(outputs)
    assert isinstance(result, Poses)
    return result


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(DATA / "heads.npz") as arrays:
        return dict(arrays)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


# --- Numbers ---


@given(
    st.integers(1, 5), st.integers(1, 6), st.permutations(["x", "y", "score", "z", "-"]),
    st.permutations([*MOVENET_TAIL, "-"]), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.3, 0.8]),
    st.integers(0, 2**32),
)  # fmt: skip
def test_points_and_tail_are_where_the_manifest_says(
    bodies: int, points: int, point: list[Any], tail: list[Any], pixels: bool, logits: bool, threshold: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1, 2, (1, bodies, points * len(point) + len(tail))).astype(np.float32)
    activation: Any = "sigmoid" if logits else "none"
    spec = PoseOutput(
        point=tuple(point), tail=tuple(tail), units="pixels" if pixels else "fractions", point_activation=activation,
        score_activation=activation, score_threshold=threshold,
    )  # fmt: skip
    found = decode(spec, [rows], points)

    def score(value: float) -> float:
        return sigmoid(value) if logits else min(1.0, max(0.0, value))

    expected = []
    for row in rows[0].tolist():
        unit = 64 if pixels else 1
        body = [
            [row[p * len(point) + point.index("x")] / unit, row[p * len(point) + point.index("y")] / unit,
             score(row[p * len(point) + point.index("score")])]
            for p in range(points)
        ]  # fmt: skip
        end = row[points * len(point) :]
        box = [end[tail.index(side)] / unit for side in ("x_min", "y_min", "x_max", "y_max")]
        expected.append((score(end[tail.index("score")]), body, box))
    expected = [item for item in sorted(expected, key=lambda item: -item[0]) if item[0] >= threshold]
    assert len(found) == len(expected) and found.boxes is not None
    np.testing.assert_allclose(found.scores, [item[0] for item in expected], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        found.keypoints, np.reshape([i[1] for i in expected], (-1, points, 3)), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(found.boxes, np.reshape([item[2] for item in expected], (-1, 4)), rtol=1e-5, atol=1e-7)


def test_a_body_is_as_sure_as_its_points_are_on_average() -> None:
    row = np.array([[[[0.1, 0.2, 0.4], [0.3, 0.4, 0.8]]]], np.float32)
    found = decode(PoseOutput(), [row], 2)
    np.testing.assert_allclose(found.scores, [0.6])
    np.testing.assert_allclose(found.keypoints, [[[0.2, 0.1, 0.4], [0.4, 0.3, 0.8]]])
    assert found.boxes is None
    assert len(decode(PoseOutput(score_threshold=0.61), [row], 2)) == 0


def test_points_without_scores_have_the_bodys() -> None:
    outputs: list[Tensor] = [np.array([[32, 16, 5, 48, 64, 5]], np.float32), np.array([[2.0]], np.float32)]
    spec = PoseOutput(point=("x", "y", "z"), units="pixels", score=1, score_activation="sigmoid")
    found = decode(spec, outputs, 2)
    np.testing.assert_allclose(found.scores, [sigmoid(2)], rtol=1e-6)
    np.testing.assert_allclose(found.keypoints, [[[0.5, 0.25, sigmoid(2)], [0.75, 1, sigmoid(2)]]], rtol=1e-6)


def test_the_surest_bodies_are_kept() -> None:
    rows = np.zeros((1, 6, 3), np.float32)
    rows[0, :, 2] = [0.5, 0.9, 0.7, 0.9, 0.1, 0.6]
    rows[0, :, 0] = np.arange(6)
    found = decode(PoseOutput(max_poses=3), [rows], 1)
    assert found.keypoints[:, 0, 1].tolist() == [1, 3, 2]


@given(hnp.arrays(np.float32, (1, 3, 11), elements=st.floats(width=32) | st.sampled_from([np.nan, np.inf])))
def test_a_broken_network_gives_places_or_nothing(rows: np.ndarray) -> None:
    found = decode(PoseOutput(tail=MOVENET_TAIL, score_threshold=0.0), [rows], 2)
    assert found.boxes is not None
    assert np.isfinite(found.keypoints).all() and np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()


@pytest.mark.parametrize(
    ("shape", "labels", "options", "words"),
    [
        ((1, 1, 17, 3), 16, {}, "48 numbers a body: 16 points of 3"),
        ((1, 6, 56), 17, {}, "51 numbers a body"),
        ((2, 6, 56), 17, {"tail": MOVENET_TAIL}, "numbers a body"),
        ((1, 51), 17, {"score": 2}, "output.score"),
        ((1, 51), 17, {"keypoints": 7}, "output.keypoints"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(shape: Any, labels: int, options: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        make_decoder(PoseOutput(**options), [TensorSpec("a", shape, F32), TensorSpec("b", (1, 2), F32)], labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"point": ("x", "score")}, "point: expected x and y"),
        ({"point": ("x", "y", "x")}, "point: expected each but"),
        ({"point": ("x", "y")}, "score: expected one"),
        ({"tail": ("x_min", "score")}, "tail: expected all four"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PoseOutput(**options)


# --- Heatmaps ---


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.sampled_from(["corners", "centers"]),
    st.sampled_from([0.0, 0.5]), st.integers(0, 2**32),
)  # fmt: skip
def test_points_are_the_highest_cells(
    rows: int, columns: int, points: int, refined: bool, cells: Any, threshold: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 3, (1, rows, columns, points)).astype(np.float32)
    offsets = rng.uniform(-9, 9, (1, rows, columns, 2 * points)).astype(np.float32)
    spec = HeatmapOutput(offsets=1 if refined else -1, cells=cells, score_threshold=threshold)
    found = decode(spec, [maps, offsets], points)
    expected = []
    for p in range(points):
        best = max((float(maps[0, r, c, p]), r, c) for r in range(rows) for c in range(columns))
        value, row, column = best
        if cells == "corners":
            y, x = row * 63 / max(1, rows - 1) / 64, column * 63 / max(1, columns - 1) / 64
        else:
            y, x = (row + 0.5) / rows, (column + 0.5) / columns
        if refined:
            y, x = y + offsets[0, row, column, p] / 64, x + offsets[0, row, column, p + points] / 64
        expected.append([x, y, sigmoid(value)])
    score = sum(item[2] for item in expected) / points
    if score < threshold:
        assert len(found) == 0
    else:
        np.testing.assert_allclose(found.keypoints[0], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.scores, [score], rtol=1e-4)


def test_a_map_without_a_number_is_no_body() -> None:
    maps = np.full((1, 4, 4, 2), np.nan, np.float32)
    assert len(decode(HeatmapOutput(score_threshold=0.0), [maps], 2)) == 0


def test_maps_and_offsets_that_do_not_fit_are_refused() -> None:
    for shape, options, words in (
        ((1, 4, 4), {}, "shape"),
        ((1, 4, 4, 2), {"offsets": 0}, r"shape \[1, 4, 4, 4\]"),
        ((1, 4, 4, 3), {}, "expected 3 labels, one a key point"),
    ):
        inputs = [TensorSpec("in", (1, 64, 64, 3), F32)]
        with pytest.raises(ModelError, match=words):
            make_decoder(HeatmapOutput(**options), [TensorSpec("a", shape, F32)], 2, inputs=inputs)


# --- Real networks, which were trained apart, on one picture ---


def test_four_networks_find_the_same_face(recorded: dict[str, np.ndarray]) -> None:
    posenet = decode(
        HeatmapOutput(offsets=1, cells="corners"), [recorded["posenet_heatmaps"], recorded["posenet_offsets"]], 17, 385
    )
    movenet = decode(PoseOutput(), [recorded["movenet"]], 17)
    blazepose = decode(
        PoseOutput(point=("x", "y", "z", "score", "-"), units="pixels", point_activation="sigmoid", score=1),
        [recorded["blazepose"], recorded["blazepose_sure"]], 39, 256,
    )  # fmt: skip
    assert len(posenet) == len(movenet) == len(blazepose) == 1
    # nose, left and right eye: COCO's first three points, and BlazePose's 0, 2 and 5
    faces = [posenet.keypoints[0, :3], movenet.keypoints[0, :3], blazepose.keypoints[0, [0, 2, 5]]]
    # where they are in scikit-image's astronaut, read off the picture: x, y in pixels of 512
    truth = np.array([[222, 124], [248, 102], [202, 100]]) / 512
    # BlazePose wants a body cut out and upright; the whole picture blurs it
    for face, tolerance in zip(faces, (0.02, 0.02, 0.04), strict=True):
        np.testing.assert_allclose(face[:, :2], truth, atol=tolerance)
        assert (face[:, 2] > 0.3).all()
    np.testing.assert_allclose(faces[0][:, :2], faces[1][:, :2], atol=0.02)


def test_a_reflection_is_a_second_body(recorded: dict[str, np.ndarray]) -> None:
    found = decode(PoseOutput(tail=MOVENET_TAIL), [recorded["multipose"]], 17)
    assert len(found) == 2 and found.boxes is not None
    left, right = np.argsort(found.keypoints[:, 0, 0])
    assert found.keypoints[left, 0, 0] < 0.5 < found.keypoints[right, 0, 0]
    # what is left on one is right on the other
    swapped = [0, 2, 1, 4, 3]
    face, reflection = found.keypoints[left, :5, :2], found.keypoints[right, swapped, :2]
    np.testing.assert_allclose(face[:, 0], 1 - reflection[:, 0], atol=0.02)
    np.testing.assert_allclose(face[:, 1], reflection[:, 1], atol=0.02)
    for body in (left, right):
        box = found.boxes[body]
        assert (found.keypoints[body, :5, :2] > box[:2]).all() and (found.keypoints[body, :5, :2] < box[2:]).all()
