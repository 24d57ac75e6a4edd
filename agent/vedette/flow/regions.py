"""Which parts of a frame a detector is shown, and how what it finds there comes together in the frame.

A crop leaves the rest of the frame out. Tiles show a network of 300 pixels a large frame in pieces, so that it sees what
would vanish in the whole, after Akyon et al., "Slicing Aided Hyper Inference and Fine-tuning for Small Object Detection"
(ICIP 2022, arXiv 2202.06934). An object that several views show is one object in the frame. A mask leaves out what
stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import cv2
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from vedette.contract.errors import PictureError
from vedette.contract.types import Detections, Float32Array, UInt8Array
from vedette.follow.zones import Anchor, Fraction, Point, ZoneOptions, Zones, check_polygon

MIN_CROP: Final = 0.01  # of the frame's width and height
MIN_VIEW: Final = 32  # pixels a side; a detector's coarsest cells are about that large
MAX_VIEWS: Final = 32
MAX_CANDIDATES: Final = 1000  # boxes of all views together that are compared with one another: the best
MAX_FOUND: Final = 300
SAME: Final = 0.5  # the IoU from which two boxes are one object's, PASCAL VOC's and SAHI's; see `merge`
PART: Final = 0.7  # how much of a box that a border cuts lies inside another for being a piece of it
COARSER: Final = 1.5  # times the area, for a view to be coarser than another
BESIDE: Final = 0.1  # the IoU of a box of a coarser view with the finer one's
SHOWN: Final = 0.99  # how much of a box a view shows for showing all of it
TOUCHES: Final = 0.02  # of a view's side: how near at its border a box counts as cut by it

_Polygon: TypeAlias = Annotated[tuple[Point, ...], Meta(max_length=256)]
_Count: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_VIEWS)]
Bools: TypeAlias = NDArray[np.bool_]


class RegionOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.region]. Fractions are of the frame's width and height, from its upper left corner."""

    crop: tuple[Fraction, Fraction, Fraction, Fraction] = (0.0, 0.0, 1.0, 1.0)
    """x_min, y_min, x_max, y_max of the part that is looked at."""
    tiles: tuple[_Count, _Count] = (1, 1)
    """Columns and rows that the crop is cut into."""
    overlap: Annotated[float, Meta(ge=0.0, le=0.75)] = 0.2
    """How much of its width and height a tile shares with its neighbour. An object that is smaller than this share is
    whole in one of them."""
    whole: bool = True
    """Beside the tiles, look at all of the crop: it shows what is larger than a tile."""
    mask: Annotated[tuple[_Polygon, ...], Meta(max_length=64)] = ()
    """Polygons of the frame. What stands in one of them is left out."""
    mask_point: Anchor = "bottom"
    """The point of a box that stands: `bottom` (middle of the lower edge) or `centre`."""
    blank: bool = False
    """Paint the mask black in every frame before anything looks at it: for what must not be watched at all. A snapshot
    then shows black, too. Without it the network sees those pixels, and finds what only partly lies in the mask better."""

    def __post_init__(self) -> None:
        x_min, y_min, x_max, y_max = self.crop
        if x_max - x_min < MIN_CROP or y_max - y_min < MIN_CROP:
            raise ValueError(
                f"crop: expected x_min, y_min, x_max, y_max with each max at least {MIN_CROP:g} above its min, "
                f"found {list(self.crop)}"
            )
        columns, rows = self.tiles
        if columns * rows + self.whole > MAX_VIEWS:
            raise ValueError(f"tiles: expected at most {MAX_VIEWS} views of a frame, found {columns} x {rows} tiles")
        for polygon in self.mask:
            check_polygon("mask", polygon)
        if self.blank and not self.mask:
            raise ValueError("blank: expected a mask beside it, found none")


class Regions:
    """The views of one camera's frames. `views` and `to_frame` may be called by a thread each."""

    def __init__(self, options: RegionOptions) -> None:
        self._options = options
        self._zones = Zones(ZoneOptions(polygon=polygon, point=options.mask_point) for polygon in options.mask)
        columns, rows = options.tiles
        self._tiled = columns * rows > 1
        self.count: Final = columns * rows + (self._tiled and options.whole)
        """How many views of every frame."""

    def views(self, pixels: UInt8Array) -> Sequence[UInt8Array]:
        """``count`` views into a frame (height, width, 3), none a copy: tiles by rows, then the whole.

        Raises `PictureError` where a view would be too small.
        """
        height, width = pixels.shape[:2]
        return [pixels[y_min:y_max, x_min:x_max] for x_min, y_min, x_max, y_max in self.places(width, height)]

    def blanked(self, pixels: UInt8Array) -> UInt8Array:
        """The frame as it may be shown: itself, or with ``blank`` a copy whose mask is black, for others look at it, too."""
        if self._options.blank:
            height, width = pixels.shape[:2]
            pixels = pixels.copy()
            for polygon in self._options.mask:  # one by one: where two of one call overlap, fillPoly paints neither
                cv2.fillPoly(pixels, [np.rint(np.array(polygon) * (width, height)).astype(np.int32)], (0, 0, 0))
        return pixels

    def to_frame(self, found: Sequence[Detections], width: int, height: int) -> Detections:
        """What was found in each view of a frame of that size, boxes as fractions of the view -> what is in the frame.

        Boxes as fractions of the frame, each object once, best score first, at most `MAX_FOUND`, without what is masked.
        """
        views = (np.array(self.places(width, height)) / (width, height, width, height)).astype(np.float32)
        counts = [len(one) for one in found]
        view_of = np.repeat(np.arange(len(views)), counts)
        corners, sizes = views[view_of, :2], views[view_of, 2:] - views[view_of, :2]
        boxes = np.concatenate([one.boxes for one in found]) * np.tile(sizes, 2) + np.tile(corners, 2)
        together = Detections(
            np.clip(boxes, 0.0, 1.0), np.concatenate([one.scores for one in found]),
            np.concatenate([one.class_ids for one in found]),
        )  # fmt: skip
        if self._tiled:
            together = merge(together, view_of, views)
        if len(self._zones):
            together = together.take(np.flatnonzero(~self._zones.inside(together.boxes).any(axis=1)))
        return together.take(np.arange(min(len(together), MAX_FOUND)))

    def places(self, width: int, height: int) -> list[tuple[int, int, int, int]]:
        """x_min, y_min, x_max, y_max of each view, pixels. Raises `PictureError` where one would be too small."""
        x_min, y_min, x_max, y_max = self._options.crop
        columns, rows = self._options.tiles
        across = _spans(round(x_min * width), round(x_max * width), columns, self._options.overlap)
        down = _spans(round(y_min * height), round(y_max * height), rows, self._options.overlap)
        places = [(left, top, right, bottom) for top, bottom in down for left, right in across]
        if self._tiled and self._options.whole:
            places.append((across[0][0], down[0][0], across[-1][1], down[-1][1]))
        smallest = min(min(right - left, bottom - top) for left, top, right, bottom in places)
        if smallest < MIN_VIEW:
            raise PictureError(
                "a view too small", where=f"a frame of {width}x{height}", expected=f"{MIN_VIEW} pixels a side",
                found=f"{smallest}", fix="give fewer tiles or a larger crop",
            )  # fmt: skip
        return places


def merge(found: Detections, view_of: NDArray[np.intp], views: Float32Array) -> Detections:
    """Boxes of several views -> each object once, best score first.

    ``found``: boxes in the frame, each within its view; ``view_of``: (n,) the view each comes from; ``views``: (v, 4).
    Any coordinates will do, the same ones for both.

    Two boxes of one class from two views are one object where they agree on what both views show: their IoU, each cut
    off at the other's view, is at least `SAME`. For objects wholly inside both that is the plain IoU; for an object on
    the border between two tiles it compares the two halves of it where they overlap, which the metrics of SAHI's greedy
    non-maximum merging (IoU, or the intersection over the smaller box, of whole boxes) cannot tell from neighbours.
    What one view tells apart stays apart: an object has at most one box of each view. The best score leads; its box is
    the object's, but a side that a border cuts goes as far as the object's boxes beyond that border do, so that no side
    lies where no box has one.

    Before that goes what another view knows better (see `_known_better`). Nothing depends on the order of boxes or views.
    """
    x_min, y_min, x_max, y_max = found.boxes.T
    area = (x_max - x_min) * (y_max - y_min)
    order = np.lexsort((*views[view_of].T, y_max, x_max, y_min, x_min, found.class_ids, -area, -found.scores))
    order = order[:MAX_CANDIDATES]
    found, view_of = found.take(order), view_of[order]
    cut = _cut_sides(found.boxes, views, view_of)
    same, worse = _relations(found, view_of, views, cut)
    gone = _known_better(worse)
    boxes = found.boxes.copy()
    for leader in np.flatnonzero(same.any(axis=1)).tolist():
        if gone[leader]:
            continue
        for member, through in _members(leader, same, view_of, gone):
            gone[member] = True
            _extend(boxes[leader], found.boxes[member], cut[through], views[view_of[through]])
    return Detections(boxes, found.scores, found.class_ids).take(np.flatnonzero(~gone))


def _known_better(worse: Bools) -> Bools:
    """(n,) which boxes go because another one, that stays, is better: the last first."""
    gone = np.zeros(len(worse), np.bool_)
    for one in np.flatnonzero(worse.any(axis=1))[::-1]:
        gone[one] = (worse[one] & ~gone).any()
    return gone


def _members(leader: int, same: Bools, view_of: NDArray[np.intp], gone: Bools) -> list[tuple[int, int]]:
    """The other boxes of the leader's object, the best and nearest first, each with the one through which it is known."""
    taken = {int(view_of[leader])}
    members: list[tuple[int, int]] = []
    queue = [leader]
    while queue:
        through = queue.pop(0)
        for other in np.flatnonzero(same[through] & ~gone).tolist():
            if view_of[other] not in taken:
                taken.add(int(view_of[other]))
                members.append((other, through))
                queue.append(other)
    return members


def _extend(box: Float32Array, other: Float32Array, cut: Bools, view: Float32Array) -> None:
    """Moves the sides of ``box`` that the border of ``view`` cuts to where ``other`` ends beyond it."""
    for side in np.flatnonzero(cut).tolist():
        further = min if side < 2 else max
        if further(other[side], view[side]) == other[side]:
            box[side] = further(box[side], other[side])


def _cut_sides(boxes: Float32Array, views: Float32Array, view_of: NDArray[np.intp]) -> Bools:
    """(n, 4) which sides lie at a border of their view beyond which another view goes on."""
    own = views[view_of]
    outer = np.concatenate((views[:, :2].min(axis=0), views[:, 2:].max(axis=0)))
    near = np.abs(boxes - own) <= TOUCHES * np.tile(own[:, 2:] - own[:, :2], 2)
    return np.asarray(near & (own != outer), np.bool_)


def _relations(found: Detections, view_of: NDArray[np.intp], views: Float32Array, cut: Bools) -> tuple[Bools, Bools]:
    """(n, n) which boxes are the same object's; and which box ``[i, j]`` is a worse one of what j is.

    Worse is a box that a border cuts and j covers and goes on beyond; and one of a coarser view that j's view shows all
    of: a network errs by so many of its own pixels, so what is small in a large view lies beside the object. There any
    overlap of `BESIDE` counts.
    """
    boxes = found.boxes
    own = views[view_of]
    inter = _common(boxes, boxes)
    area = np.diagonal(inter)[:, None]
    shown = _common(boxes, views)[:, view_of]  # [i, j]: how much of box i the view of j shows
    comparable = (view_of[:, None] != view_of) & (found.class_ids[:, None] == found.class_ids) & (inter > 0)
    same = comparable & (inter >= SAME * (shown + shown.T - inter))
    beyond = np.zeros_like(same)  # [i, j]: box j goes on beyond a border that cuts box i
    for side in range(4):
        further = np.less if side < 2 else np.greater
        beyond |= cut[:, None, side] & further(boxes[None, :, side], own[:, None, side])
    piece = beyond & ~same & (inter >= PART * area)
    view_area = np.diagonal(_common(own, own))
    coarser = (view_area[:, None] > COARSER * view_area) & (shown >= SHOWN * area)
    beside = coarser & (inter >= BESIDE * (area + area.T - inter))
    return same & ~beside & ~beside.T, comparable & (piece | beside)


def _common(a: Float32Array, b: Float32Array) -> Float32Array:
    """(n, m) area that boxes (n, 4) and (m, 4) share."""
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    return np.asarray(np.maximum(width, 0) * np.maximum(height, 0), np.float32)


def _spans(low: int, high: int, count: int, overlap: float) -> list[tuple[int, int]]:
    """``count`` stretches of one length from ``low`` to ``high``, each sharing ``overlap`` of it with the next."""
    length = min(high - low, int(np.ceil((high - low) / (count - (count - 1) * overlap))))
    starts = [low + round(index * (high - low - length) / max(1, count - 1)) for index in range(count)]
    return [(start, start + length) for start in starts]
