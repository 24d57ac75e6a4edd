"""A whole small project for the converter's tests, and where the shipped files lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tfjs_writer

from vedette_converter.recipe import RecipeFile, read_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "models" / "recipes" / "coco-ssdlite-mobilenet-v2.toml"
BUNDLE = ROOT / "models" / "coco-ssdlite-mobilenet-v2.tflite"


def write_pictures(folder: Path, count: int, seed: int) -> None:
    """Pictures of four quarters, each bright, grey or dark, with a little noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        quarters = rng.permutation([250, 235, 128, 5])  # one of each kind at least
        picture = np.kron(quarters.reshape(2, 2), np.ones((24, 24)))[..., None].repeat(3, axis=2)
        noisy = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.png"), noisy)


@dataclass(frozen=True)
class Tiny:
    """A whole small project: package, recipe, labels, pictures."""

    folder: Path

    @property
    def package(self) -> Path:
        """The unpacked npm package."""
        return self.folder / "package"

    @property
    def recipe(self) -> Path:
        """Its recipe."""
        return self.folder / "tiny.toml"

    @property
    def pictures(self) -> Path:
        """For calibration."""
        return self.folder / "pictures"

    def read(self) -> RecipeFile:
        """The recipe, parsed."""
        return read_recipe(self.recipe)

    def edit(self, old: str, new: str, to: Path) -> Path:
        """A copy of the recipe beside it, one passage changed."""
        text = self.recipe.read_text()
        assert text.count(old) == 1, old
        path = self.folder / to
        path.write_text(text.replace(old, new))
        return path


def make_tiny(tf: Any, folder: Path) -> Tiny:
    """Writes one into an empty folder."""
    project = Tiny(folder)
    model = project.package / "model"
    model.mkdir(parents=True)
    tfjs_writer.write(tf, tfjs_writer.tiny_detector(tf), model)
    files = sorted(path for path in model.iterdir())
    digests = "\n".join(f'"model/{p.name}" = "{hashlib.sha256(p.read_bytes()).hexdigest()}"' for p in files)
    (project.folder / "labels.txt").write_text("bright\ndark\n")
    write_pictures(project.folder / "golden", 32, seed=1)
    write_pictures(project.pictures, 8, seed=2)
    project.recipe.write_text(
        f"""
name = "tiny"
version = "1.0"
task = "detect"

[source]
format = "tfjs"
package = "tiny-detector"
version = "0.0.1"
model = "model/model.json"
licence = "CC0-1.0"
attribution = "made by this test"
input = "Preprocessor/sub"
outputs = ["boxes", "logits"]

[source.sha256]
{digests}

[input]
kind = "image"
height = {tfjs_writer.SIDE}
width = {tfjs_writer.SIDE}
mean = [127.5]
std = [127.5]

[output]
decoder = "ssd"
activation = "sigmoid"

[output.anchors]
feature_maps = [[2, 2]]

[labels]
file = "labels.txt"

[golden]
pictures = "golden"
raw = 2

[evaluate]
resamples = 100

[latency]
rounds = 5
max_ratio = 1000.0

[gate]
max_drop = 0.5
min_agreement = 0.5
"""
    )
    return project
