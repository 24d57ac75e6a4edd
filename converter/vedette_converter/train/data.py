"""Pictures to train on, decoded once through the agent's own preprocessing, kept as bytes.

A training looks at each picture many times, so what a frame becomes before its arithmetic (resized, coloured) is kept
as uint8 and the arithmetic ``(pixel - mean) / std`` is done batch by batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from vedette.contract.errors import PictureError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import Dataset, ImageInput, InputSpec
from vedette.contract.types import Float32Array, TensorSpec, UInt8Array

from ..pictures import SUFFIXES, digest, list_pictures, read_picture

MAX_BYTES: Final = 4 * 1024**3  # of decoded pictures; they are kept in memory


Batch = tuple[Float32Array, NDArray[np.int32], NDArray[np.float32]]
"""Inputs as the network takes them, class ids or empty, answers or empty."""


class TrainingBatches(Protocol):
    """Endless epochs over `TrainingSamples`."""

    views: int

    @property
    def samples(self) -> TrainingSamples:
        """What they are made of."""
        ...

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batch by batch; the same for the same number."""
        ...

    def looks(self, index: NDArray[np.intp], view: int) -> Any:
        """Some samples as they look in one view, before their arithmetic."""
        ...


class TrainingSamples(Protocol):
    """What a network is trained on: pictures, or windows of readings."""

    @property
    def class_ids(self) -> NDArray[np.int32]:
        """(n,), or empty where labels teach nothing."""
        ...

    @property
    def targets(self) -> NDArray[np.float32]:
        """(n, ...) of the network's output, or empty where numbers teach nothing."""
        ...

    @property
    def sha256(self) -> str:
        """Over everything that a resumed training must find again."""
        ...

    @property
    def spec(self) -> InputSpec:
        """The arithmetic that makes them the network's input."""
        ...

    def __len__(self) -> int: ...

    def real(self, inputs: Any) -> Float32Array:
        """What `TrainingBatches.looks` gave, as the network takes it."""
        ...

    def batches(
        self, size: int, augmentation: Augmentation | None, seed: int, *, views: int = 0,
        answers: NDArray[np.float32] | None = None,
    ) -> TrainingBatches:  # fmt: skip
        """Epochs over them; without an augmentation, as they are."""
        ...


@dataclass(frozen=True, slots=True)
class Labelled:
    """Files and the class of each."""

    files: tuple[Path, ...]
    class_ids: NDArray[np.int32]
    """(n,), the line of the labels' file, from 0; empty where the pictures carry no labels."""
    data: Dataset
    """For the manifest."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Decoded pictures: ``pixels`` (n, height, width, channels) uint8, ``class_ids`` (n,) int32 or empty."""

    pixels: UInt8Array
    class_ids: NDArray[np.int32]
    spec: ImageInput
    sha256: str
    """Over the pictures' own files, their labels and what became of them before their arithmetic; what a resumed
    training must find again."""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def targets(self) -> NDArray[np.float32]:
        """None: pictures are taught by labels or by a teacher."""
        return np.empty(0, np.float32)

    def batches(
        self, size: int, augmentation: Augmentation | None, seed: int, *, views: int = 0,
        answers: NDArray[np.float32] | None = None,
    ) -> Batches:  # fmt: skip
        """See `TrainingSamples`."""
        return Batches(self, size, augmentation or PLAIN, seed, views=views, answers=answers)

    def real(self, pixels: UInt8Array) -> Float32Array:
        """(n, height, width, channels) uint8 -> float32 as the network takes it."""
        mean = np.asarray(self.spec.mean, np.float32)
        std = np.asarray(self.spec.std, np.float32)
        return np.asarray((pixels.astype(np.float32) - mean) / std, np.float32)

    def take(self, index: NDArray[np.intp]) -> Samples:
        """Some of them."""
        ids = self.class_ids[index] if len(self.class_ids) else self.class_ids
        chosen = hashlib.sha256(self.sha256.encode() + np.asarray(index, np.int64).tobytes()).hexdigest()
        return Samples(self.pixels[index], ids, self.spec, chosen)


def list_labelled(folder: Path, labels: Sequence[str]) -> Labelled:
    """``folder/LABEL/*.jpg``, one folder a class. Raises `PictureError` where folders and labels do not fit together."""
    if not folder.is_dir():
        raise PictureError("folder cannot be read", where=folder, expected="a folder with one folder a class")
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    if missing := [label for label in labels if label not in found]:
        raise PictureError(
            "no folder for a label", where=folder / missing[0], expected="one folder a label: " + ", ".join(labels),
            found=", ".join(sorted(found)) or "no folders",
        )  # fmt: skip
    if extra := sorted(found - set(labels)):
        raise PictureError("a folder that is no label", where=folder / extra[0], expected=", ".join(labels))
    if stray := sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()):
        raise PictureError(
            "a picture without a label", where=stray[0], expected="pictures in the labels' folders alone",
            fix="move it into one of them, or elsewhere",
        )  # fmt: skip
    files: list[Path] = []
    ids: list[int] = []
    for number, label in enumerate(labels):
        pictures = list_pictures(folder / label)
        files += pictures
        ids += [number] * len(pictures)
    return Labelled(tuple(files), np.array(ids, np.int32), _dataset(folder, files))


def list_unlabelled(folder: Path) -> Labelled:
    """The pictures that `list_pictures` finds. Raises `PictureError` where there is none."""
    files = list_pictures(folder)
    return Labelled(tuple(files), np.empty(0, np.int32), _dataset(folder, files))


def _dataset(folder: Path, files: Sequence[Path]) -> Dataset:
    digests = [digest(path) for path in files]
    return Dataset(
        name=folder.resolve().name or "pictures", count=len(files),
        sha256=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    )  # fmt: skip


def decode(listed: Labelled, spec: ImageInput, on_picture: Callable[[], None] = lambda: None) -> Samples:
    """Reads every picture. Raises `PictureError` naming a file that cannot be read, or where they would not fit."""
    shape = (len(listed.files), spec.height, spec.width, spec.channels)
    if int(np.prod(shape, dtype=np.int64)) > MAX_BYTES:
        raise PictureError(
            "too many pictures to keep in memory", expected=f"at most {MAX_BYTES // 1024**3} GB decoded",
            found=f"{len(listed.files)} of {spec.width}x{spec.height}",
        )  # fmt: skip
    plain = msgspec.structs.replace(spec, mean=(0.0,), std=(1.0,))
    tensor = TensorSpec("training", (1, *shape[1:]), np.dtype(np.uint8), 1.0, 0)
    preprocess = ImagePreprocessor(plain, tensor)
    pixels = np.empty(shape, np.uint8)
    for number, path in enumerate(listed.files):
        preprocess(read_picture(path), pixels[number : number + 1])
        on_picture()
    made = hashlib.sha256(listed.data.sha256.encode() + listed.class_ids.tobytes() + msgspec.json.encode(plain))
    return Samples(pixels, listed.class_ids, spec, made.hexdigest())


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to pictures while training, at random, each picture by itself."""

    flip: bool
    """Left and right change places, every other time."""
    shift: int
    """Pixels, at most, up or down and left or right; edges are mirrored into the gap."""
    brightness: float
    """Share of 255, at most, that is added or taken away."""


PLAIN: Final = Augmentation(flip=False, shift=0, brightness=0.0)


class Batches:
    """Endless epochs over `Samples`: each an order of its own, drawn from the seed and the epoch's number.

    With ``views`` each picture has so many looks and no more, the epochs going through them by turns, so that a teacher
    need be asked about each look once only: `vedette_converter.train.answers`. Without, every epoch has new ones.
    """

    def __init__(
        self, samples: Samples, size: int, augmentation: Augmentation, seed: int, *, views: int = 0,
        answers: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        """``answers``: (views, n, ...), what a teacher says of each look of each picture."""
        self.samples = samples
        self.size = min(size, len(samples))
        self.views = views
        self._augmentation = augmentation
        self._seed = seed
        self._answers = answers
        shift = augmentation.shift
        self._padded = np.pad(samples.pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
        self._look: tuple[int, Look] | None = None

    @property
    def steps(self) -> int:
        """Batches an epoch; what is left over waits for the next one."""
        return len(self.samples) // self.size

    def epoch(self, number: int) -> Iterator[tuple[Float32Array, NDArray[np.int32], NDArray[np.float32]]]:
        """(inputs as the network takes them, class ids or empty, answers or empty), batch by batch.

        The same for the same number.
        """
        order = np.random.default_rng([self._seed, 0, number]).permutation(len(self.samples))
        view = number % self.views if self.views else number
        nothing = np.empty(0, np.float32)
        for step in range(self.steps):
            index = order[step * self.size : (step + 1) * self.size]
            ids = self.samples.class_ids[index] if len(self.samples.class_ids) else self.samples.class_ids
            answers = self._answers[view, index] if self._answers is not None else nothing
            yield self.samples.real(self.looks(index, view)), ids, answers

    def looks(self, index: NDArray[np.intp], view: int) -> UInt8Array:
        """Some pictures as they look in one view: (n, height, width, channels) uint8."""
        look = self._drawn(view)
        height, width = self.samples.pixels.shape[1:3]
        rows = look.top[index, None] + np.arange(height)
        across = np.where(look.flipped[index, None], np.arange(width)[::-1], np.arange(width))
        columns = look.left[index, None] + across
        pixels = self._padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        if self._augmentation.brightness:
            pixels = np.clip(pixels + look.brighter[index, None, None, None], 0, 255).astype(np.uint8)
        return np.asarray(pixels, np.uint8)

    def _drawn(self, view: int) -> Look:
        if self._look is None or self._look[0] != view:
            wanted = self._augmentation
            rng = np.random.default_rng([self._seed, 1, view])
            count = len(self.samples)
            top, left = rng.integers(0, 2 * wanted.shift + 1, (2, count))
            flipped = rng.random(count) < (0.5 if wanted.flip else 0.0)
            brighter = rng.uniform(-255.0, 255.0, count).astype(np.float32) * np.float32(wanted.brightness)
            self._look = (view, Look(top, left, flipped, brighter))
        return self._look[1]


@dataclass(frozen=True, slots=True)
class Look:
    """How each picture, (n,), looks in one view."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    brighter: NDArray[np.float32]
    """Added to every pixel, 0..255."""
