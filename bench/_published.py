"""The published COCO detector, as the benchmarks of smaller ones begin with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _results import ROOT

from vedette.contract.bundle import open_bundle
from vedette.contract.manifest import SsdOutput
from vedette_converter import quantise
from vedette_converter.load import load_network, tfjs
from vedette_converter.recipe import Recipe, read_recipe
from vedette_converter.recipe.sources import TfjsSource
from vedette_converter.source import read_source
from vedette_converter.tensorflow import load_tensorflow
from vedette_converter.zoo import ssdlite

NAME = "coco-ssdlite-mobilenet-v2"


@dataclass(frozen=True, slots=True)
class Published:
    """Its recipe, and what the recipe's package holds."""

    recipe: Recipe
    output: SsdOutput
    labels: tuple[str, ...]
    sha256: str
    """Of the package's files."""
    float32: bytes
    """The published graph as a flatbuffer."""
    keras: Any
    """The same network for Keras."""

    @classmethod
    def read(cls, package: Path) -> Published:
        """``package``: of npm, .tgz or unpacked."""
        recipe = read_recipe(ROOT / "models" / "recipes" / f"{NAME}.toml").recipe
        source, output = recipe.source, recipe.output
        assert isinstance(source, TfjsSource) and isinstance(output, SsdOutput)
        load_tensorflow(fast=True)
        files = read_source(source, package)
        height, width = recipe.image.height, recipe.image.width
        float32 = quantise.to_float32(load_network(source, files, (1, height, width, 3)))
        weights = tfjs.read_weights(json.loads(files.contents[source.model]), files.contents, source.model)
        network = ssdlite.build(height, width)
        ssdlite.load_published(network, weights, source.model)
        labels = open_bundle(ROOT / "models" / f"{NAME}.tflite").labels
        return cls(recipe, output, labels, files.sha256, float32, network)
