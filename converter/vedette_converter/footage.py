"""Frames of one camera, in the order of time: a clip, or a folder of pictures by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vedette.contract.errors import PictureError
from vedette.contract.image import as_bgr, refuse_name
from vedette.contract.manifest import Dataset
from vedette.contract.types import UInt8Array

from .pictures import digest, list_pictures, read_picture


@dataclass(frozen=True, slots=True)
class Footage:
    """Some of a camera's frames; they are decoded each time they are iterated over, one at a time."""

    path: Path
    numbers: tuple[int, ...]
    """Ascending, from 0."""
    pictures: tuple[Path, ...]
    """All of the folder's; empty for a clip."""
    sha256: str
    """Of the clip's bytes; over the sha256 of every picture."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[UInt8Array]:
        """(height, width, 3) uint8 BGR each. Raises `PictureError` where the clip ends early or a picture is broken."""
        if self.pictures:
            for number in self.numbers:
                yield read_picture(self.pictures[number])
            return
        capture = cv2.VideoCapture(str(self.path))
        try:
            at = 0
            for number in self.numbers:
                while at < number and capture.grab():
                    at += 1
                read, pixels = capture.read()
                if not read:
                    raise PictureError(
                        "the clip ends early", where=self.path, expected=f"frame {number}", found=str(at)
                    )
                at += 1
                yield as_bgr(np.asarray(pixels))
        finally:
            capture.release()

    def part(self, numbers: Sequence[int]) -> Footage:
        """Some of these; ``numbers`` as in `numbers`."""
        return Footage(self.path, tuple(numbers), self.pictures, self.sha256)

    def dataset(self) -> Dataset:
        """What a manifest says of them: for a clip the digest of the whole file, which frames stands in the name."""
        return Dataset(
            name=f"{self.path.name}, {len(self)} frames from {self.numbers[0]} to {self.numbers[-1]}", count=len(self),
            sha256=self.sha256,
        )  # fmt: skip


def read_footage(path: Path, most: int) -> Footage:
    """A clip's or a folder's frames, at most ``most`` of them: every k-th. Raises `PictureError`."""
    if path.is_dir():
        pictures = tuple(list_pictures(path))
        digests = "\n".join(digest(picture) for picture in pictures)
        return Footage(path, _every(len(pictures), most), pictures, hashlib.sha256(digests.encode()).hexdigest())
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PictureError(
            "frames cannot be read", where=path, expected="a clip, or a folder of pictures",
            found=error.strerror or str(error),
        ) from None  # fmt: skip
    refuse_name(path)
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.isOpened() and capture.grab():  # what a container says of its length is often wrong
        count += 1
    capture.release()
    if not count:
        raise PictureError("no clip that can be decoded", where=path, expected="a video file, or a folder of pictures")
    return Footage(path, _every(count, most), (), sha256)


def _every(count: int, most: int) -> tuple[int, ...]:
    return tuple(range(0, count, -(-count // most)))


def split(frames: Footage, held_back: float) -> tuple[Footage, Footage]:
    """The first frames, to learn from, and the share ``held_back`` of the last, to judge by: time never mixes.

    Raises `PictureError` where either part would have no frame.
    """
    learned = round(len(frames) * (1 - held_back))
    if not 0 < learned < len(frames):
        raise PictureError(
            "too few frames",
            where=frames.path,
            expected="some to learn from and some to judge by",
            found=str(len(frames)),
        )
    return frames.part(frames.numbers[:learned]), frames.part(frames.numbers[learned:])
