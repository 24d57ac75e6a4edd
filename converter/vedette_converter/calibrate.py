"""Calibration: pictures drawn from a folder, through the agent's own preprocessing, show the converter what is usual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vedette.contract.errors import PictureError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import Dataset, ImageInput
from vedette.contract.types import Float32Array, TensorSpec

from .pictures import dataset, draw, list_pictures, read_picture


@dataclass(frozen=True, slots=True)
class Calibration:
    """The pictures a network is calibrated with."""

    pictures: tuple[Path, ...]
    seed: int
    data: Dataset
    """For the manifest."""

    def samples(self, spec: ImageInput, on_sample: Callable[[], None] = lambda: None) -> Iterator[Float32Array]:
        """One float32 input, (1, height, width, channels), a picture. Raises `PictureError` naming the file."""
        tensor = TensorSpec("calibration", (1, spec.height, spec.width, spec.channels), np.dtype(np.float32))
        preprocess = ImagePreprocessor(spec, tensor)
        for path in self.pictures:
            sample = tensor.allocate()
            pixels = read_picture(path)
            try:
                preprocess(pixels, sample)
            except PictureError as error:
                raise PictureError(error.problem, where=path, expected=error.expected, found=error.found) from None
            on_sample()
            yield sample


def choose(folder: Path, count: int, seed: int) -> Calibration:
    """Draws ``count`` pictures of a folder. Raises `PictureError` where the folder has none."""
    chosen = draw(list_pictures(folder), count, seed)
    return Calibration(tuple(chosen), seed, dataset(folder.name or "calibration", chosen))
