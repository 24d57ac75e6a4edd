"""Picture files: checked before they are decoded, read as BGR, drawn upon."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from vedette.contract.errors import PictureError
from vedette.contract.image import MAX_PIXELS, MIN_SIDE, as_bgr
from vedette.contract.labels import is_used
from vedette.contract.types import Detections, Float32Array, Poses, Segments, UInt8Array
from vedette.durable import replacing, try_place

from .captions import Caption, Rectangle, write_captions

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_BYTES: Final = 256 * 1024 * 1024
# as deep and as colourful as it is; unlike IMREAD_UNCHANGED, upright by its Exif (of WebP from OpenCV 4.12 on)
UPRIGHT: Final = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
SURE: Final = 0.3  # of a key point


def read_picture(path: Path) -> UInt8Array:
    """(height, width, 3) uint8 BGR; grey is spread, alpha dropped, 16 bits become 8, and it is turned as its
    Exif says that the camera was held. Raises `PictureError`.

    The size is read from the file's head first, so that a picture too large is refused before memory is asked for.
    """
    import imagesize  # an agent that watches a camera reads no files, and the import costs as much as OpenCV's

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # reading one may never end
            raise PictureError("no picture", where=path, expected="a regular file", found="a device or pipe")
        if status.st_size > MAX_BYTES:
            raise PictureError("picture file too large", where=path, expected=f"at most {MAX_BYTES} bytes")
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise PictureError("cannot be read", where=path, found=error.strerror or str(error)) from None
    try:
        width, height = imagesize.get(path)
    except (ValueError, OSError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise PictureError("no picture", where=path, found=str(error)) from None
    if len(data) and (width <= 0 or height <= 0):  # of no kind that is read, or made so that its size is not found
        raise PictureError(
            "no picture", where=path, expected="one of " + ", ".join(sorted(SUFFIXES)) + ", undamaged",
            found="a head that says no size",
        )  # fmt: skip
    if width * height > MAX_PIXELS:
        raise PictureError(
            "picture too large", where=path, expected=f"at most {MAX_PIXELS // 1_000_000} megapixels",
            found=f"{width}x{height}",
        )  # fmt: skip
    if 0 <= width < MIN_SIDE or 0 <= height < MIN_SIDE:
        raise PictureError(
            "picture too small",
            where=path,
            expected=f"at least {MIN_SIDE}x{MIN_SIDE} pixels",
            found=f"{width}x{height}",
        )
    try:
        pixels = cv2.imdecode(data, UPRIGHT) if len(data) else None
    except cv2.error as error:
        raise PictureError("no picture", where=path, found=error.err) from None
    if pixels is None:
        raise PictureError(
            "no picture", where=path, expected="one of " + ", ".join(sorted(SUFFIXES)) + ", undamaged",
            found="bytes OpenCV cannot decode", fix="" if path.suffix.lower() in SUFFIXES else "save it as JPEG or PNG",
        )  # fmt: skip
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS or min(pixels.shape[:2]) < MIN_SIDE:
        raise PictureError(
            "picture of an unfit size", where=path, found=f"{pixels.shape[1]}x{pixels.shape[0]}",
            expected=f"{MIN_SIDE}x{MIN_SIDE} to {MAX_PIXELS // 1_000_000} megapixels",
        )  # fmt: skip
    try:
        return as_bgr(pixels)
    except PictureError as error:
        raise PictureError(error.problem, where=path, expected=error.expected, found=error.found) from None


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is drawn for one thing. ``worth``: the more, the later it is drawn. ``dots``: center, radius, thickness."""

    worth: float
    color: tuple[int, int, int]
    box: Rectangle | None
    caption: str
    dots: tuple[tuple[tuple[int, int], int, int], ...] = ()


def draw(pixels: UInt8Array, found: Detections | Poses | Segments, labels: Sequence[str]) -> UInt8Array:
    """A copy with a box and a caption for each thing found, key points and centroids as dots; places are fractions of
    this picture. A point that the network is less sure of than `SURE` is a ring. What is surest, or largest of segments,
    lies over the others, and captions make room for each other."""
    canvas = pixels.copy()
    height, width = canvas.shape[:2]
    thickness = max(1, round(min(width, height) / 300))
    marks = sorted(_marks(found, labels, width, height), key=lambda mark: mark.worth)
    for mark in marks:
        if mark.box is not None:
            cv2.rectangle(canvas, mark.box[:2], mark.box[2:], mark.color, thickness, cv2.LINE_AA)
        for center, radius, filled in mark.dots:
            cv2.circle(canvas, center, radius, mark.color, filled, cv2.LINE_AA)
    best_first = [Caption(mark.caption, mark.box, mark.color) for mark in reversed(marks) if mark.box is not None]
    write_captions(canvas, best_first)
    return canvas


def _marks(found: Detections | Poses | Segments, labels: Sequence[str], width: int, height: int) -> Iterator[_Mark]:
    radius = max(2, round(min(width, height) / 150))
    if isinstance(found, Detections):
        for box, score, class_id in zip(found.boxes, found.scores, found.class_ids, strict=True):
            place = _rectangle(box, width, height)
            yield _Mark(float(score), _color(int(class_id)), place, f"{labels[class_id]} {score:.0%}")
    elif isinstance(found, Segments):
        rows = zip(found.boxes, found.shares, found.class_ids, found.centroids, strict=True)
        for box, share, class_id, centroid in rows:
            place = _rectangle(box, width, height)
            caption = f"{labels[class_id]} {share:.0%} of the picture"
            dot = (_pixel(centroid, width, height), 2 * radius, cv2.FILLED)
            yield _Mark(float(share), _color(int(class_id)), place, caption, (dot,))
    else:
        for number, (score, points) in enumerate(zip(found.scores, found.keypoints, strict=True)):
            dots = tuple(
                (_pixel(point, width, height), radius, cv2.FILLED if point[2] >= SURE else 1)
                for label, point in zip(labels, points, strict=True)
                if is_used(label)
            )
            framed = None if found.boxes is None else _rectangle(found.boxes[number], width, height)
            yield _Mark(float(score), _color(number), framed, f"{score:.0%}", dots)


def _rectangle(box: Float32Array, width: int, height: int) -> Rectangle:
    return (*_pixel(box, width, height), *_pixel(box[2:], width, height))


def _pixel(place: Float32Array, width: int, height: int) -> tuple[int, int]:
    # OpenCV's coordinates are 32 bits; a key point may lie far outside
    x, y = np.clip(place[:2], -1.0, 2.0)
    return int(x * width), int(y * height)


def check_place(path: Path) -> None:
    """Raises `PictureError` where `write_picture` could not write here, so that nobody works for what is then lost."""
    _picture_suffix(path)
    try:
        try_place(path)
    except OSError as error:
        raise PictureError("cannot be written", where=path, found=error.strerror or str(error)) from None


def _picture_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PictureError("cannot be written", where=path, expected="a name ending in " + ", ".join(sorted(SUFFIXES)))
    return suffix


def write_picture(path: Path, pixels: UInt8Array) -> None:
    """Raises `PictureError` where the suffix is none of a picture or the file cannot be written; never half a file."""
    suffix = _picture_suffix(path)
    try:
        fits, data = cv2.imencode(suffix, pixels)
    except cv2.error:
        fits = False
    if not fits:
        size = f"{pixels.shape[1]}x{pixels.shape[0]} in colour"
        raise PictureError(
            "cannot be written", where=path, expected=f"what {suffix} can hold", found=size, fix="try .png"
        )
    try:
        with replacing(path) as half:
            half.write_bytes(data.tobytes())
    except OSError as error:
        raise PictureError("cannot be written", where=path, found=error.strerror or str(error)) from None


def _color(class_id: int) -> tuple[int, int, int]:
    # dark enough for white letters, neighbours far apart on the colour wheel (golden angle)
    hue = int(class_id * 137.508 / 2 + 60) % 180
    b, g, r = cv2.cvtColor(np.array([[[hue, 220, 170]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(b), int(g), int(r)
