"""Picture files: checked before they are decoded, read as BGR, drawn upon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import imagesize
import numpy as np

from vedette.contract.errors import PictureError
from vedette.contract.image import MAX_PIXELS, MIN_SIDE, as_bgr
from vedette.contract.types import Detections, UInt8Array

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_BYTES: Final = 256 * 1024 * 1024


def read_picture(path: Path) -> UInt8Array:
    """(height, width, 3) uint8 BGR; grey is spread, alpha dropped, 16 bits become 8. Raises `PictureError`.

    The size is read from the file's head first, so that a picture too large is refused before memory is asked for.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PictureError("picture file too large", where=path, expected=f"at most {MAX_BYTES} bytes")
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise PictureError("cannot be read", where=path, found=error.strerror or str(error)) from None
    try:
        width, height = imagesize.get(path)
    except (ValueError, OSError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise PictureError("no picture", where=path, found=str(error)) from None
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
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except cv2.error as error:
        raise PictureError("no picture", where=path, found=error.err) from None
    if pixels is None:
        raise PictureError(
            "no picture", where=path, expected="one of " + ", ".join(sorted(SUFFIXES)) + ", undamaged",
            found="bytes OpenCV cannot decode",
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


def draw(pixels: UInt8Array, detections: Detections, labels: Sequence[str]) -> UInt8Array:
    """A copy with a box and a caption for each detection; boxes are fractions of this picture."""
    canvas = pixels.copy()
    height, width = canvas.shape[:2]
    thickness = max(1, round(min(width, height) / 300))
    size = max(0.4, min(width, height) / 1200)
    for box, score, class_id in zip(detections.boxes, detections.scores, detections.class_ids, strict=True):
        color = _color(int(class_id))
        left, top = int(box[0] * width), int(box[1] * height)
        right, bottom = int(box[2] * width), int(box[3] * height)
        cv2.rectangle(canvas, (left, top), (right, bottom), color, thickness, cv2.LINE_AA)
        caption = f"{labels[class_id]} {score:.0%}"
        (w, h), base = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        y = max(top, h + base)
        cv2.rectangle(canvas, (left, y - h - base), (left + w, y), color, cv2.FILLED)
        cv2.putText(
            canvas, caption, (left, y - base // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA
        )
    return canvas


def write_picture(path: Path, pixels: UInt8Array) -> None:
    """Raises `PictureError` where the suffix is none of a picture or the file cannot be written; never half a file."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PictureError("cannot be written", where=path, expected="a name ending in " + ", ".join(sorted(SUFFIXES)))
    try:
        fits, data = cv2.imencode(suffix, pixels)
    except cv2.error:
        fits = False
    if not fits:
        size = f"{pixels.shape[1]}x{pixels.shape[0]} in colour"
        raise PictureError(
            "cannot be written", where=path, expected=f"what {suffix} can hold", found=size, fix="try .png"
        )
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PictureError("cannot be written", where=path, found=error.strerror or str(error)) from None


def _color(class_id: int) -> tuple[int, int, int]:
    # dark enough for white letters, neighbours far apart on the colour wheel (golden angle)
    hue = int(class_id * 137.508 / 2 + 60) % 180
    b, g, r = cv2.cvtColor(np.array([[[hue, 220, 170]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(b), int(g), int(r)
