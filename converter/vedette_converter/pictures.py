"""Pictures in a folder: which, what they are made of, and their pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from vedette.contract.errors import PictureError
from vedette.contract.image import MAX_PIXELS, as_bgr
from vedette.contract.manifest import Dataset
from vedette.contract.types import UInt8Array

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def list_pictures(folder: Path) -> list[Path]:
    """Every picture right in the folder, by name; in the folders right below it where there is none.

    Raises `PictureError` where there are none at all.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise PictureError("folder cannot be read", where=folder, found=error.strerror or str(error)) from None
    if not found:
        raise PictureError("no pictures", where=folder, expected="files named " + ", ".join(sorted(SUFFIXES)))
    return found


def draw(pictures: list[Path], count: int, seed: int) -> list[Path]:
    """``count`` of them, or all where there are fewer, in their own order; the same seed, the same choice."""
    if count >= len(pictures):
        return list(pictures)
    chosen = np.random.default_rng(seed).choice(len(pictures), count, replace=False)
    return [pictures[i] for i in sorted(chosen)]


def read_picture(path: Path) -> UInt8Array:
    """(height, width, 3) uint8 BGR. Raises `PictureError` naming the file."""
    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
    except OSError as error:
        raise PictureError("cannot be read", where=path, found=error.strerror or str(error)) from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise PictureError("no picture that can be decoded", where=path, fix="take it out of the folder")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise PictureError("picture too large", where=path, expected=f"at most {MAX_PIXELS} pixels")
    return as_bgr(np.asarray(pixels))


def dataset(name: str, pictures: list[Path]) -> Dataset:
    """What a manifest says of these: their count, and the sha256 over the sha256 of every file, by name."""
    ordered = sorted(pictures, key=lambda path: path.name)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in ordered]
    return Dataset(name=name, count=len(ordered), sha256=hashlib.sha256("\n".join(digests).encode()).hexdigest())
