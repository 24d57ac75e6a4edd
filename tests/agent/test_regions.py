"""Crops, tiles and masks: where views lie, and that what several of them show is one object at its true place."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from real import BUNDLE, CLIP

from vedette.contract.boxes import iou
from vedette.contract.errors import PictureError
from vedette.contract.types import Detections, Float32Array, UInt8Array
from vedette.flow.regions import MAX_CANDIDATES, MAX_FOUND, MIN_VIEW, SHOWN, RegionOptions, Regions, merge
from vedette.models.model import Model, load_model, read_model

SIZE = (1600, 1200)  # width, height of the imaginary frame


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """``x_min, y_min, x_max, y_max, score, class_id`` each, best score first."""
    ordered = sorted(rows, key=lambda row: -row[4])
    return Detections(
        np.array([row[:4] for row in ordered], np.float32).reshape(-1, 4),
        np.array([row[4] for row in ordered], np.float32), np.array([row[5] for row in ordered], np.int32),
    )  # fmt: skip


def seen(regions: Regions, objects: Detections, rng: np.random.Generator, *, least: float = 0.25) -> list[Detections]:
    """What an ideal detector finds: of each object in each view the part that the view shows, with a score of its own.

    A part below ``least`` of the object is not recognised.
    """
    found = []
    for place in regions.places(*SIZE):
        view = np.array(place, np.float32) / np.tile(np.array(SIZE, np.float32), 2)
        low = np.maximum(objects.boxes[:, :2], view[:2])
        high = np.minimum(objects.boxes[:, 2:], view[2:])
        sides = np.maximum(high - low, 0)
        whole = objects.boxes[:, 2:] - objects.boxes[:, :2]
        keep = sides.prod(axis=1) >= least * whole.prod(axis=1)
        boxes = (np.concatenate((low, high), axis=1)[keep] - np.tile(view[:2], 2)) / np.tile(view[2:] - view[:2], 2)
        scores = rng.uniform(0.3, 1.0, keep.sum()).astype(np.float32)
        order = np.argsort(-scores)
        found.append(Detections(boxes[order], scores[order], objects.class_ids[keep][order]))
    return found


def same_boxes(a: Float32Array, b: Float32Array) -> bool:
    """But for what a view may leave out of a box and count as showing all of it: no object here is wider than half."""
    return a.shape == b.shape and bool(np.allclose(a[np.lexsort(a.T)], b[np.lexsort(b.T)], atol=(1 - SHOWN) / 2))


options = st.builds(
    RegionOptions,
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    overlap=st.sampled_from([0.1, 0.2, 0.4]),
    whole=st.booleans(),
    crop=st.sampled_from([(0.0, 0.0, 1.0, 1.0), (0.1, 0.2, 0.9, 0.8)]),
)


@given(options, st.integers(200, 2000), st.integers(200, 2000))
def test_views_cover_the_crop_with_the_overlap_that_was_asked_for(
    option: RegionOptions, width: int, height: int
) -> None:
    assume(
        width * height / (option.tiles[0] * option.tiles[1]) > 10 * MIN_VIEW**2 and min(width, height) > 8 * MIN_VIEW
    )
    regions = Regions(option)
    try:
        places = regions.places(width, height)
    except PictureError:
        assume(False)
    columns, rows = option.tiles
    tiled = columns * rows > 1
    assert len(places) == regions.count == columns * rows + (tiled and option.whole)
    tiles = places[: columns * rows]
    assert len({(right - left, bottom - top) for left, top, right, bottom in tiles}) == 1, "all of one size"
    crop = tuple(round(part * side) for part, side in zip(option.crop, (width, height) * 2, strict=True))
    assert (tiles[0][0], tiles[0][1], tiles[-1][2], tiles[-1][3]) == crop
    if tiled and option.whole:
        assert places[-1] == crop
    for left, right in itertools.pairwise(tiles[:columns]):
        shared = left[2] - right[0]
        assert shared >= option.overlap * (left[2] - left[0]) - 2, "pixels are whole"


def test_views_are_no_copies_and_come_by_rows() -> None:
    pixels = np.zeros((120, 160, 3), np.uint8)
    regions = Regions(RegionOptions(tiles=(2, 2), overlap=0.0))
    views = regions.views(pixels)
    for number, view in enumerate(views[:4], start=1):
        assert view.shape == (60, 80, 3) and np.shares_memory(view, pixels)
        view[:] = number
    assert [pixels[y, x, 0] for y, x in ((0, 0), (0, 159), (119, 0), (119, 159))] == [1, 2, 3, 4]
    assert views[4].shape == pixels.shape and np.shares_memory(views[4], pixels)


def test_without_options_a_frame_is_one_view_and_boxes_stay_as_they_are() -> None:
    regions = Regions(RegionOptions())
    found = detections((0.1, 0.2, 0.3, 0.4, 0.9, 1), (0.11, 0.2, 0.3, 0.4, 0.8, 1))
    assert regions.count == 1
    result = regions.to_frame([found], *SIZE)
    assert np.array_equal(result.boxes, found.boxes) and np.array_equal(result.scores, found.scores)
    assert len(regions.to_frame([Detections.none()], *SIZE)) == 0


def test_a_crops_boxes_find_their_way_back() -> None:
    regions = Regions(RegionOptions(crop=(0.5, 0.25, 1.0, 0.75)))
    assert [view.shape for view in regions.views(np.zeros((1200, 1600, 3), np.uint8))] == [(600, 800, 3)]
    result = regions.to_frame([detections((0.0, 0.0, 0.5, 1.0, 0.9, 0))], *SIZE)
    assert np.allclose(result.boxes, [[0.5, 0.25, 0.75, 0.75]])


corner = st.floats(0.0, 1.0, width=32)
places_of_objects = st.lists(
    st.tuples(corner, corner, st.floats(0.02, 0.5), st.floats(0.02, 0.5)), min_size=1, max_size=6
)


@given(options, places_of_objects, st.integers(0, 2**32))
def test_every_object_comes_out_once_at_its_true_place(
    option: RegionOptions, drawn: list[tuple[float, float, float, float]], seed: int
) -> None:
    """Objects apart from one another; whole in some view, or in the overlap of any two that show parts of them."""
    regions = Regions(option)
    crop = np.array(option.crop)
    wide = crop[2:] - crop[:2]
    low = crop[:2] + np.array([(x * (1 - w), y * (1 - h)) for x, y, w, h in drawn]) * wide
    boxes = np.concatenate((low, low + np.array(drawn)[:, 2:] * wide), axis=1).astype(np.float32)
    apart = [i for i, box in enumerate(boxes) if not any(_touch(box, other) for other in boxes[:i])]
    boxes = boxes[apart]
    places = np.array(regions.places(*SIZE)) / np.tile(SIZE, 2)
    whole = [
        any((box[:2] >= view[:2] - 1e-6).all() and (box[2:] <= view[2:] + 1e-6).all() for view in places)
        for box in boxes
    ]
    boxes = boxes[np.array(whole)]
    assume(len(boxes))
    objects = Detections(boxes, np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int32))
    result = regions.to_frame(seen(regions, objects, np.random.default_rng(seed)), *SIZE)
    assert same_boxes(result.boxes, boxes), (result.boxes, boxes)
    assert (np.diff(result.scores) <= 0).all(), "best score first"


def _touch(a: Float32Array, b: Float32Array) -> bool:
    return bool((np.minimum(a[2:], b[2:]) >= np.maximum(a[:2], b[:2])).all())


@given(st.integers(0, 2**32), st.sampled_from([0.3, 0.45]))
def test_an_object_on_the_border_of_two_tiles_comes_out_once(seed: int, share: float) -> None:
    """No view shows it whole; either tile shows one end, and both its middle."""
    rng = np.random.default_rng(seed)
    regions = Regions(RegionOptions(tiles=(2, 1), overlap=0.3, whole=False))
    (_, _, left_end, _), (right_begin, *_) = regions.places(*SIZE)
    low, high = right_begin / SIZE[0] - rng.uniform(0.02, 0.1), left_end / SIZE[0] + rng.uniform(0.02, 0.1)
    top = rng.uniform(0, 0.5)
    objects = detections((low, top, high, top + share, 1.0, 0))
    result = regions.to_frame(seen(regions, objects, rng), *SIZE)
    assert same_boxes(result.boxes, objects.boxes)


@given(st.integers(0, 2**32))
def test_an_object_on_the_corner_of_four_tiles_comes_out_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    regions = Regions(RegionOptions(tiles=(2, 2), overlap=0.4, whole=bool(seed % 2)))
    low, high = rng.uniform(0.2, 0.3, 2), rng.uniform(0.7, 0.8, 2)
    objects = detections((*low, *high, 1.0, 0))
    result = regions.to_frame(seen(regions, objects, rng, least=0.1), *SIZE)
    assert same_boxes(result.boxes, objects.boxes)


def test_neighbours_at_a_border_stay_two() -> None:
    """Each in a tile of its own, both near the other's: whole boxes that overlap no more than people in a crowd do."""
    regions = Regions(RegionOptions(tiles=(2, 1), overlap=0.2, whole=False))
    objects = detections((0.40, 0.2, 0.50, 0.8, 0.9, 0), (0.46, 0.2, 0.60, 0.8, 0.8, 0))
    result = regions.to_frame(seen(regions, objects, np.random.default_rng(1)), *SIZE)
    assert same_boxes(result.boxes, objects.boxes)


def test_what_one_view_tells_apart_stays_apart() -> None:
    """Two people, one before the other, and a coarse view that took them for one."""
    views = np.array([[0, 0, 0.6, 1], [0.4, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    found = detections((0.45, 0.2, 0.55, 0.8, 0.9, 0), (0.46, 0.2, 0.56, 0.8, 0.8, 0), (0.455, 0.2, 0.555, 0.8, 0.7, 0))
    result = merge(found, np.array([0, 0, 1]), views)
    assert same_boxes(result.boxes, found.boxes[:2])


def test_classes_are_kept_apart() -> None:
    views = np.array([[0, 0, 0.6, 1], [0.4, 0, 1, 1]], np.float32)
    found = detections((0.45, 0.2, 0.55, 0.8, 0.9, 0), (0.45, 0.2, 0.55, 0.8, 0.8, 1))
    assert len(merge(found, np.array([0, 1]), views)) == 2


def test_a_piece_that_is_drawn_too_small_goes_with_what_it_is_a_piece_of() -> None:
    regions = Regions(RegionOptions(tiles=(2, 2), overlap=0.2))
    head_at_the_lower_border = detections((0.2, 0.7, 0.4, 1.0, 0.95, 0))
    whole = detections((0.05, 0.3, 0.3, 0.9, 0.6, 0))
    none = Detections.none()
    result = regions.to_frame([head_at_the_lower_border, none, none, none, whole], *SIZE)
    assert same_boxes(result.boxes, whole.boxes)


def test_a_small_box_of_the_whole_gives_way_to_the_tile_that_shows_it_larger() -> None:
    """A network errs by pixels of its own: in the whole, that is half a person."""
    regions = Regions(RegionOptions(tiles=(3, 2)))
    none = Detections.none()
    tile = detections((0.3, 0.3, 0.4, 0.6, 0.7, 0))
    left, top, right, bottom = np.array(regions.places(*SIZE)[0]) / np.tile(SIZE, 2)
    x = (left + 0.35 * (right - left), left + 0.45 * (right - left))
    y = (top + 0.3 * (bottom - top), top + 0.6 * (bottom - top))
    beside = detections((x[0], y[0], x[1], y[1], 0.9, 0))
    result = regions.to_frame([tile, *[none] * 5, beside], *SIZE)
    assert result.scores.tolist() == pytest.approx([0.7])
    alone = regions.to_frame([none] * 6 + [beside], *SIZE)
    assert same_boxes(alone.boxes, beside.boxes), "what no tile has found stays"


@st.composite
def any_boxes(draw: st.DrawFn) -> tuple[Detections, np.ndarray[Any, Any], Float32Array]:
    """Whatever detectors may say in the views of a grid, on a coarse raster so that boxes often coincide."""
    regions = Regions(draw(options))
    views = (np.array(regions.places(*SIZE)) / np.tile(SIZE, 2)).astype(np.float32)
    rows, view_of = [], []
    for _ in range(draw(st.integers(0, 12))):
        view = draw(st.integers(0, len(views) - 1))
        x = sorted(draw(st.tuples(st.integers(0, 8), st.integers(0, 8))))
        y = sorted(draw(st.tuples(st.integers(0, 8), st.integers(0, 8))))
        size = views[view, 2:] - views[view, :2]
        low, high = (
            views[view, :2] + np.array((x[0], y[0])) / 8 * size,
            views[view, :2] + np.array((x[1], y[1])) / 8 * size,
        )
        rows.append((*low, *high, draw(st.sampled_from([0.5, 0.7, 0.9])), draw(st.integers(0, 1))))
        view_of.append(view)
    found = Detections(
        np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[4] for row in rows], np.float32), np.array([row[5] for row in rows], np.int32),
    )  # fmt: skip
    return found, np.array(view_of, np.intp), views


@given(any_boxes(), st.randoms())
def test_merging_invents_nothing_and_does_not_depend_on_any_order(
    case: tuple[Detections, np.ndarray[Any, Any], Float32Array], random: Any
) -> None:
    found, view_of, views = case
    result = merge(found, view_of, views)
    assert len(result) <= len(found) and (len(result) > 0) == (len(found) > 0)
    assert (np.diff(result.scores) <= 0).all()
    for box, class_id in zip(result.boxes, result.class_ids, strict=True):
        alike = found.boxes[found.class_ids == class_id]
        assert (box[:2] <= box[2:]).all()
        for side in range(4):
            assert box[side] in alike[:, side], "every side is some box's"
    rows = list(range(len(found)))
    random.shuffle(rows)
    numbers = list(range(len(views)))
    random.shuffle(numbers)
    where = np.argsort(np.array(numbers))
    again = merge(found.take(np.array(rows, np.intp)), where[view_of[rows]], views[numbers])
    assert np.array_equal(again.boxes, result.boxes)
    assert np.array_equal(again.scores, result.scores) and np.array_equal(again.class_ids, result.class_ids)


def test_results_are_bounded_and_the_best_are_kept() -> None:
    regions = Regions(RegionOptions(tiles=(4, 4), overlap=0.0, whole=False))
    x, y = np.meshgrid(np.arange(12) / 12, np.arange(12) / 12)
    corners = np.stack((x.ravel(), y.ravel()), axis=1)
    boxes = np.concatenate((corners + 0.01, corners + 0.07), axis=1).astype(np.float32)
    found = []
    for view in range(16):
        scores = np.linspace(1, 0.5, len(boxes), dtype=np.float32) - view / 1000
        found.append(Detections(boxes, scores, np.zeros(len(boxes), np.int32)))
    assert sum(len(one) for one in found) > MAX_CANDIDATES
    result = regions.to_frame(found, *SIZE)
    assert len(result) == MAX_FOUND
    assert result.scores.min() > 0.9


SQUARE = ((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))


def test_what_stands_in_a_mask_is_left_out() -> None:
    feet_in = (0.45, 0.1, 0.55, 0.5, 0.9, 0)
    centre_in = (0.45, 0.3, 0.55, 0.7, 0.8, 0)
    outside = (0.0, 0.0, 0.2, 0.2, 0.7, 0)
    found = detections(feet_in, centre_in, outside)
    by_feet = Regions(RegionOptions(mask=(SQUARE,))).to_frame([found], *SIZE)
    assert by_feet.scores.tolist() == pytest.approx([0.8, 0.7])
    by_centre = Regions(RegionOptions(mask=(SQUARE,), mask_point="centre")).to_frame([found], *SIZE)
    assert by_centre.scores.tolist() == pytest.approx([0.9, 0.7])


def test_a_mask_is_of_the_frame_and_not_of_the_crop() -> None:
    regions = Regions(RegionOptions(mask=(SQUARE,), crop=(0.4, 0.4, 0.6, 0.6)))
    assert len(regions.to_frame([detections((0.4, 0.4, 0.6, 0.5, 0.9, 0))], *SIZE)) == 0


def test_blank_masks_that_overlap_are_black_where_they_do() -> None:
    pixels = np.full((100, 100, 3), 200, np.uint8)
    masks = (SQUARE, ((0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7)))
    shown = Regions(RegionOptions(mask=masks, blank=True)).blanked(pixels)
    assert not shown[31:70, 31:70].any()
    assert (pixels == 200).all(), "others look at the frame, too"


def test_a_blank_mask_is_black_before_anything_looks() -> None:
    pixels = np.full((100, 100, 3), 200, np.uint8)
    regions = Regions(RegionOptions(mask=(SQUARE, ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1))), blank=True))
    views = regions.views(regions.blanked(pixels))
    assert not views[0][41:60, 41:60].any() and not views[0][1:3, 1:3].any()
    assert (views[0][70:, 70:] == 200).all() and (views[0][:35, 50:] == 200).all()
    kept = np.full((100, 100, 3), 200, np.uint8)
    assert Regions(RegionOptions(mask=(SQUARE,))).blanked(kept) is kept
    assert (kept == 200).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"crop": [0.5, 0.0, 0.5, 1.0]}, "crop: expected x_min, y_min, x_max, y_max with each max"),
        ({"crop": [0.0, 0.9, 1.0, 0.1]}, "found \\[0.0, 0.9, 1.0, 0.1\\]"),
        ({"crop": [0.0, 0.0, 1.5, 1.0]}, "<= 1.0"),
        ({"crop": [0.0, 0.0, 1.0]}, "length 4"),
        ({"tiles": [0, 1]}, ">= 1"),
        ({"tiles": [8, 8]}, "tiles: expected at most 32 views of a frame, found 8 x 8 tiles"),
        ({"overlap": 0.9}, "<= 0.75"),
        ({"mask": [[[0.1, 0.1], [0.2, 0.2]]]}, "mask: expected at least 3 corners, found 2"),
        ({"mask": [[[0, 0], [1, 1], [1, 0], [0, 1]]]}, "mask: expected edges that do not cross"),
        ({"mask": [[[0, 0], [2, 1], [1, 0]]]}, "<= 1.0"),
        ({"blank": True}, "blank: expected a mask"),
        ({"tile": [2, 2]}, "unknown field `tile`"),
    ],
)
def test_options_that_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(wrong, RegionOptions)


def test_a_frame_too_small_for_its_tiles_is_named() -> None:
    regions = Regions(RegionOptions(tiles=(4, 4)))
    with pytest.raises(
        PictureError, match=r"a frame of 100x80: a view too small: .* 32 pixels .* found \d+; give fewer"
    ):
        regions.views(np.zeros((80, 100, 3), np.uint8))


@pytest.fixture(scope="module")
def detector() -> Model:
    return load_model(read_model(str(BUNDLE)))


@pytest.fixture(scope="module")
def plaza() -> UInt8Array:
    """Four views of the shipped clip as one large frame: its people are as small in it as those of a wide square."""
    capture = cv2.VideoCapture(str(CLIP))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    first, second, third, fourth = (frames[index] for index in np.linspace(0, len(frames) - 1, 4).astype(int))
    return np.vstack([np.hstack([first, second]), np.hstack([third, fourth])])


def test_tiles_find_the_people_that_the_whole_frame_is_too_small_for(detector: Model, plaza: UInt8Array) -> None:
    height, width = plaza.shape[:2]
    person = detector.spec.labels.index("person")

    def people(option: RegionOptions) -> Float32Array:
        regions = Regions(option)
        found = [detector(view) for view in regions.views(plaza)]
        result = regions.to_frame([one for one in found if isinstance(one, Detections)], width, height)
        return result.boxes[result.class_ids == person]

    without, with_tiles = people(RegionOptions()), people(RegionOptions(tiles=(3, 2)))
    print(f"{len(without)} people without tiles, {len(with_tiles)} with 3x2 tiles")
    assert len(with_tiles) > len(without)
    overlaps = iou(with_tiles, with_tiles) - np.eye(len(with_tiles), dtype=np.float32)
    assert overlaps.max() < 0.6, "nobody twice"
    new = [box for box in with_tiles if not len(without) or iou(box[None], without).max() < 0.1]
    assert new, "and some of them where the whole frame showed nobody"
