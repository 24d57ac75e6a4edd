"""Where things are: polygons that hold points, and lines that paths cross. All in fractions of the frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from vedette.contract.types import Float32Array

Float64Array: TypeAlias = NDArray[np.float64]

MIN_AREA: Final = 1e-6  # of the frame; a thousandth of its width by a thousandth of its height
MIN_LENGTH: Final = 1e-3  # of a wire, in fractions of the frame
LAST: Final = float(np.nextafter(1.0, 0.0))  # inside a zone that reaches the frame's lower or right edge, 1.0 is not

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Point = tuple[Fraction, Fraction]
"""x, y as fractions of the frame's width and height, from its upper left corner."""
Label = Annotated[str, Meta(min_length=1, max_length=256)]
Anchor: TypeAlias = Literal["bottom", "centre"]
"""Which point of a box stands for the object: the middle of its lower edge, where it stands on the ground, or its centre."""


class ZoneOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.zones.ZONE]"""

    polygon: Annotated[tuple[Point, ...], Meta(max_length=256)]
    """Its corners, at least three, in either direction; the last is joined to the first."""
    point: Anchor = "bottom"
    """The point of the box that must be inside: `bottom` (middle of the lower edge) or `centre`."""
    labels: Annotated[tuple[Label, ...], Meta(max_length=1000)] = ()
    """Which labels it looks at; none for all that are reported."""

    def __post_init__(self) -> None:
        check_polygon("polygon", self.polygon)


class WireOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.wires.WIRE]"""

    line: tuple[Point, Point]
    """Its two ends. Seen from the first, looking at the second, it has a left and a right side."""
    point: Anchor = "bottom"
    """The point of the box whose path must cross: `bottom` (middle of the lower edge) or `centre`."""
    rightward: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "in"
    """What crossing from left to right is called."""
    leftward: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "out"
    """What crossing from right to left is called."""
    labels: Annotated[tuple[Label, ...], Meta(max_length=1000)] = ()
    """Which labels it looks at; none for all that are reported."""

    def __post_init__(self) -> None:
        (x0, y0), (x1, y1) = self.line
        if max(abs(x1 - x0), abs(y1 - y0)) < MIN_LENGTH:
            raise ValueError(
                f"line: expected two ends at least {MIN_LENGTH:g} apart, found {self.line[0]} and {self.line[1]}"
            )
        if self.rightward == self.leftward:
            raise ValueError(f"leftward: expected another name than rightward's, found {self.leftward!r}")


def check_polygon(key: str, polygon: Sequence[Point]) -> None:
    """Raises ValueError, ``KEY: expected ..., found ...``, where it has no inside or nobody could say which it is."""
    if len(polygon) < 3:
        raise ValueError(f"{key}: expected at least 3 corners, found {len(polygon)}")
    if polygon[0] == polygon[-1]:
        raise ValueError(f"{key}: expected no corner twice, found {polygon[0]} as the first and the last")
    if crossing := _self_crossing(polygon):
        first, second = crossing
        raise ValueError(
            f"{key}: expected edges that do not cross or touch, found those from corners {first + 1} and {second + 1} "
            "doing so"
        )
    if (area := abs(_area(polygon))) < MIN_AREA:
        raise ValueError(f"{key}: expected an area of at least {MIN_AREA:g} of the frame, found {area:.2g}")


def anchors(boxes: Float32Array, point: Anchor) -> Float64Array:
    """(n, 2) float64: the point of each box (n, 4) that stands for the object, in the frame: of whoever its edge cuts off
    filtered boxes reach a little beyond."""
    x = (boxes[:, 0].astype(np.float64) + boxes[:, 2]) / 2
    y = boxes[:, 3] if point == "bottom" else (boxes[:, 1].astype(np.float64) + boxes[:, 3]) / 2
    return np.asarray(np.clip(np.stack((x, y), axis=1), 0.0, 1.0), np.float64)


class Zones:
    """All zones of one camera, asked at once."""

    def __init__(self, zones: Iterable[ZoneOptions]) -> None:
        self._zones = [
            (zone.point, np.array(zone.polygon), np.roll(np.array(zone.polygon), -1, axis=0)) for zone in zones
        ]

    def __len__(self) -> int:
        return len(self._zones)

    def inside(self, boxes: Float32Array) -> NDArray[np.bool_]:
        """(n, zones) which boxes (n, 4) have their point in which zone.

        Crossing number (Shimrat, "Algorithm 112: Position of point relative to polygon", CACM 5, 1962): a ray to the right
        crosses the edges of a polygon an odd number of times from inside. An edge holds its upper end and not its lower
        one, so that neighbouring polygons share no point and leave none out.
        """
        found = np.zeros((len(boxes), len(self._zones)), np.bool_)
        if not len(boxes):
            return found
        points = {point: np.minimum(anchors(boxes, point), LAST) for point in {zone[0] for zone in self._zones}}
        for index, (point, begin, end) in enumerate(self._zones):
            x, y = points[point][:, :1], points[point][:, 1:]
            spans = (begin[:, 1] > y) != (end[:, 1] > y)
            # x < crossing's x, both sides times the edge's height: no edge that spans is flat
            height = end[:, 1] - begin[:, 1]
            side = (x - begin[:, 0]) * height - (y - begin[:, 1]) * (end[:, 0] - begin[:, 0])
            crossed = spans & np.where(height > 0, side < 0, side > 0)
            found[:, index] = crossed.sum(axis=1) % 2 == 1
        return found


class Wires:
    """All tripwires of one camera, asked at once."""

    def __init__(self, wires: Iterable[WireOptions]) -> None:
        wires = list(wires)
        self._lines: Float64Array = np.array([wire.line for wire in wires], np.float64).reshape(len(wires), 2, 2)
        self._bottom = np.array([wire.point == "bottom" for wire in wires], np.bool_)

    def __len__(self) -> int:
        return len(self._lines)

    def crossed(self, before: Float32Array, after: Float32Array) -> NDArray[np.int8]:
        """(n, wires) of boxes (n, 4) that moved straight from ``before`` to ``after``: 1 crossed from left to right, -1 from
        right to left, 0 did not.

        A point on the line counts as on its right, so that a path in two pieces that touches it crosses it once or not at
        all.
        """
        none = np.zeros((len(before), len(self._lines)), np.int8)
        if not none.size:
            return none
        paths = []
        for boxes in (before, after):
            bottom, centre = anchors(boxes, "bottom"), anchors(boxes, "centre")
            paths.append(np.where(self._bottom[None, :, None], bottom[:, None], centre[:, None]))
        start, stop = paths
        first, second = self._lines[:, 0], self._lines[:, 1]
        # y grows downwards: seen along the line, the right side is where the cross product is positive
        was, now = _cross(second - first, start - first) >= 0, _cross(second - first, stop - first) >= 0
        # and the wire's ends are on either side of the path, or one is upon it, whichever way it goes
        step = stop - start
        between = np.sign(_cross(step, first - start)) != np.sign(_cross(step, second - start))
        return np.where((was != now) & between, np.where(now, 1, -1), 0).astype(np.int8)


def _cross(a: Float64Array, b: Float64Array) -> Float64Array:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], np.float64)


def _area(polygon: Sequence[Point]) -> float:
    """Signed, by the shoelace formula."""
    pairs = zip(polygon, (*polygon[1:], polygon[0]), strict=True)
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs) / 2


def _self_crossing(polygon: Sequence[Point]) -> tuple[int, int] | None:
    """Two edges that have a point in common, though they are no neighbours; or neighbours that lie upon each other."""
    n = len(polygon)
    edges = [(polygon[i], polygon[(i + 1) % n]) for i in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            neighbours = j == i + 1 or (i == 0 and j == n - 1)
            if neighbours:
                shared, others = _shared(edges[i], edges[j])
                if _turn(others[0], shared, others[1]) == 0 and _dot(shared, *others) >= 0:
                    return i, j
            elif _touch(*edges[i], *edges[j]):
                return i, j
    return None


def _shared(a: tuple[Point, Point], b: tuple[Point, Point]) -> tuple[Point, tuple[Point, Point]]:
    """The corner that two neighbouring edges share, and their other ends."""
    return (a[1], (a[0], b[1])) if a[1] == b[0] else (a[0], (a[1], b[0]))


def _turn(a: Point, b: Point, c: Point) -> float:
    """Above 0 where a, b, c turn one way, below 0 the other, 0 on one line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _dot(origin: Point, a: Point, b: Point) -> float:
    return (a[0] - origin[0]) * (b[0] - origin[0]) + (a[1] - origin[1]) * (b[1] - origin[1])


def _touch(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments ab and cd have a point in common."""
    first, second, third, fourth = _turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)
    if (first > 0) != (second > 0) and (third > 0) != (fourth > 0) and 0 not in (first, second, third, fourth):
        return True
    return any(
        turn == 0 and min(p[0], q[0]) <= r[0] <= max(p[0], q[0]) and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])
        for turn, p, q, r in ((first, a, b, c), (second, a, b, d), (third, c, d, a), (fourth, c, d, b))
    )
