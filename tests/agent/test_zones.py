"""Polygons that hold points, and lines that paths cross."""

from __future__ import annotations

from itertools import pairwise

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vedette.follow.zones import WireOptions, Wires, ZoneOptions, Zones

SQUARE = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8))
ARROW = ((0.1, 0.1), (0.9, 0.5), (0.1, 0.9), (0.4, 0.5))  # concave


def at(*points: tuple[float, float]) -> np.ndarray:
    """Boxes whose bottom centre is there."""
    rows = np.array(points, np.float32).reshape(-1, 2)
    return np.concatenate((rows - np.float32([0.05, 0.1]), rows + np.float32([0.05, 0.0])), axis=1).astype(np.float32)


def inside(polygon: tuple[tuple[float, float], ...], *points: tuple[float, float]) -> list[bool]:
    return Zones([ZoneOptions(polygon=polygon)]).inside(at(*points))[:, 0].tolist()


def test_inside_and_outside() -> None:
    assert inside(SQUARE, (0.5, 0.5), (0.1, 0.5), (0.9, 0.5), (0.5, 0.1), (0.5, 0.9)) == [True] + [False] * 4
    assert inside(ARROW, (0.5, 0.5), (0.2, 0.5), (0.2, 0.2), (0.2, 0.8)) == [True, False, True, True]
    assert inside(tuple(reversed(ARROW)), (0.5, 0.5), (0.2, 0.5)) == [True, False], "the direction means nothing"


def test_which_point_of_the_box() -> None:
    box = np.array([[0.4, 0.0, 0.6, 0.5]], np.float32)  # centre at 0.25, feet at 0.5
    low, high = ((0.0, 0.4), (1.0, 0.4), (1.0, 1.0), (0.0, 1.0)), ((0.0, 0.0), (1.0, 0.0), (1.0, 0.4), (0.0, 0.4))
    zones = [ZoneOptions(polygon=polygon, point=point) for polygon in (low, high) for point in ("bottom", "centre")]  # type: ignore[arg-type]
    assert Zones(zones).inside(box).tolist() == [[True, False, False, True]]


def test_shapes() -> None:
    assert Zones([]).inside(at((0.5, 0.5))).shape == (1, 0)
    assert Zones([ZoneOptions(polygon=SQUARE)]).inside(at()).shape == (0, 1)
    assert Wires([]).crossed(at((0.5, 0.5)), at((0.5, 0.5))).shape == (1, 0)


def test_whoever_the_frames_edge_cuts_off_is_in_the_zone_that_reaches_it() -> None:
    whole = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    assert inside(whole, (0.5, 0.0), (0.5, 1.0), (0.5, 1.003), (0.0, 0.5), (1.0, 0.5)) == [True] * 5
    assert inside(SQUARE, (0.5, 1.0), (0.5, 1.003)) == [False] * 2


UNIT = st.floats(0, 1)
POINTS = st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=20)


@given(st.integers(0, 2**32 - 1), st.integers(3, 12), POINTS)
def test_it_agrees_with_opencv_away_from_the_edges(seed: int, corners: int, points: list[tuple[float, float]]) -> None:
    rng = np.random.default_rng(seed)
    # a star around the middle: corners at rising angles never make edges cross
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    assume(np.diff(np.append(angles, angles[0] + 2 * np.pi)).max() < 3.0 and np.diff(angles).min() > 0.01)
    radii = rng.uniform(0.1, 0.5, corners)
    star = np.stack((0.5 + radii * np.cos(angles), 0.5 + radii * np.sin(angles)), axis=1)
    found = Zones([ZoneOptions(polygon=tuple(map(tuple, star.tolist())))]).inside(at(*points))[:, 0]
    for point, is_inside in zip(points, found, strict=True):
        distance = cv2.pointPolygonTest(star.astype(np.float32), point, True)
        if abs(distance) > 1e-4:
            assert is_inside == (distance > 0)


@given(POINTS)
def test_two_zones_side_by_side_share_no_point_and_leave_none_out(points: list[tuple[float, float]]) -> None:
    left, right = ((0.0, 0.0), (0.6, 0.0), (0.3, 1.0), (0.0, 1.0)), ((0.6, 0.0), (1.0, 0.0), (1.0, 1.0), (0.3, 1.0))
    boxes = at(*[(0.001 + 0.99 * x, 0.001 + 0.99 * y) for x, y in points])
    found = Zones([ZoneOptions(polygon=left), ZoneOptions(polygon=right)]).inside(boxes)
    assert (found.sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("polygon", "why"),
    [
        ((), "at least 3 corners, found 0"),
        (((0.1, 0.1), (0.9, 0.9)), "at least 3 corners, found 2"),
        (((0.1, 0.1), (0.9, 0.9), (0.9, 0.1), (0.1, 0.9)), "do not cross or touch, found those from corners 1 and 3"),
        (((0.1, 0.1), (0.5, 0.5), (0.9, 0.9)), "do not cross or touch"),
        (((0.1, 0.1), (0.9, 0.1), (0.5, 0.1), (0.5, 0.9)), "do not cross or touch"),
        (((0.1, 0.1), (0.9, 0.1), (0.9, 0.1), (0.5, 0.9)), "do not cross or touch"),
        ((*SQUARE, SQUARE[0]), "no corner twice"),
        (((0.1, 0.1), (0.1001, 0.1), (0.1001, 0.1001)), "an area of at least"),
    ],
)
def test_a_polygon_that_has_no_inside(polygon: tuple[tuple[float, float], ...], why: str) -> None:
    with pytest.raises(ValueError, match=f"^polygon: expected .*{why}"):
        ZoneOptions(polygon=polygon)


@pytest.mark.parametrize("corner", [[1.1, 0.5], [-0.1, 0.5], [0.5, float("nan")], [0.5], ["a", 0.5]])
def test_coordinates_are_fractions_of_the_frame(corner: list[object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.polygon\[0\]"):
        msgspec.convert({"polygon": [corner, [0.9, 0.1], [0.5, 0.9]]}, ZoneOptions)


def crossed(line: tuple[tuple[float, float], tuple[float, float]], *path: tuple[float, float]) -> list[int]:
    wires = Wires([WireOptions(line=line)])
    return [int(wires.crossed(at(a), at(b))[0, 0]) for a, b in pairwise(path)]


UPWARDS = ((0.5, 0.9), (0.5, 0.1))  # whoever looks along it has the picture's right on the right


def test_both_directions() -> None:
    assert crossed(UPWARDS, (0.4, 0.5), (0.6, 0.5), (0.4, 0.4)) == [1, -1]
    assert crossed((UPWARDS[1], UPWARDS[0]), (0.4, 0.5), (0.6, 0.5), (0.4, 0.4)) == [-1, 1]


def test_past_its_ends_or_along_it_is_no_crossing() -> None:
    assert crossed(UPWARDS, (0.4, 0.05), (0.6, 0.05)) == [0]
    assert crossed(UPWARDS, (0.4, 0.95), (0.6, 0.95)) == [0]
    assert crossed(UPWARDS, (0.4, 0.2), (0.4, 0.8)) == [0]
    assert crossed(UPWARDS, (0.4, 0.5), (0.4, 0.5)) == [0]


@pytest.mark.parametrize("y", [0.1, 0.9])
def test_past_its_very_end_is_a_crossing_in_either_direction(y: float) -> None:
    line = ((0.5, float(np.float32(0.9))), (0.5, float(np.float32(0.1))))
    assert crossed(line, (0.4, y), (0.6, y), (0.4, y)) == [1, -1]
    assert crossed((line[1], line[0]), (0.4, y), (0.6, y), (0.4, y)) == [-1, 1]


def test_a_wire_to_the_frames_edge_is_crossed_by_whoever_that_cuts_off() -> None:
    for y in (1.0, 1.003):
        assert crossed(((0.5, 1.0), (0.5, 0.0)), (0.4, y), (0.6, y), (0.4, y)) == [1, -1]


def test_standing_on_it_for_a_while_counts_once() -> None:
    assert sum(crossed(UPWARDS, (0.4, 0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 0.6), (0.6, 0.6))) == 1
    assert sum(crossed(UPWARDS, (0.4, 0.5), (0.5, 0.5), (0.5, 0.6), (0.4, 0.6))) == 0


@given(st.lists(st.tuples(UNIT, st.floats(0.2, 0.8)), min_size=2, max_size=20))
def test_the_sum_of_crossings_is_the_side_one_ends_on(path: list[tuple[float, float]]) -> None:
    line = ((0.5, 1.0), (0.5, 0.0))
    boxes = at(*path)
    x = (boxes[:, 0].astype(np.float64) + boxes[:, 2]) / 2
    assert sum(crossed(line, *path)) == int(x[-1] >= 0.5) - int(x[0] >= 0.5)


def test_all_wires_at_once() -> None:
    wires = Wires(
        [
            WireOptions(line=UPWARDS),
            WireOptions(line=UPWARDS, point="centre"),
            WireOptions(line=((0.0, 0.1), (1.0, 0.1))),
        ]
    )
    # the second box's feet pass below the wire's upper end, and its centre above it
    found = wires.crossed(at((0.4, 0.5), (0.4, 0.05)), at((0.6, 0.5), (0.6, 0.2)))
    assert found.dtype == np.int8
    assert found.tolist() == [[1, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("given_options", "why"),
    [
        ({"line": ((0.5, 0.5), (0.5, 0.5))}, "line: expected two ends at least"),
        ({"line": UPWARDS, "rightward": "a", "leftward": "a"}, "leftward: expected another name"),
    ],
)
def test_a_wire_that_is_none(given_options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        WireOptions(**given_options)  # type: ignore[arg-type]
