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
    """Every picture right in the folder, by name; in all folders below it, by path, where there is none.

    Hidden folders are not looked into. Raises `PictureError` where there are none at all, and where there are some right in
    it and some below, which leaves open what was meant.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        below = sorted(path for path in {*folder.glob("*/*"), *folder.rglob("*/*")} if _is_below(path, folder))
    except OSError as error:
        raise PictureError("folder cannot be read", where=folder, found=error.strerror or str(error)) from None
    if found and below:
        raise PictureError(
            "pictures beside folders of pictures", where=folder, expected="the one or the other",
            found=f"{found[0].name} and {below[0].relative_to(folder)}", fix="move one of them elsewhere",
        )  # fmt: skip
    if not found and not below:
        raise PictureError("no pictures", where=folder, expected="files named " + ", ".join(sorted(SUFFIXES)))
    return found or below


def _is_below(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts[:-1])
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


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


def digest(path: Path) -> str:
    """sha256 of a picture's file. Raises `PictureError` naming it."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PictureError("cannot be read", where=path, found=error.strerror or str(error)) from None


def dataset(name: str, pictures: list[Path]) -> Dataset:
    """What a manifest says of these: their count, and the sha256 over the sha256 of every file, by name.

    Raises `PictureError` naming a file that cannot be read.
    """
    ordered = sorted(pictures, key=lambda path: path.name)
    digests = [digest(path) for path in ordered]
    return Dataset(name=name, count=len(ordered), sha256=hashlib.sha256("\n".join(digests).encode()).hexdigest())
