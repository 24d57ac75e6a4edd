"""The published float network, and what stands around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.errors import UserError
from vedette.contract.labels import is_used
from vedette.contract.manifest import ImageInput, SsdAnchors, SsdOutput
from vedette.contract.wording import nearest

from .. import quantise
from ..load import load_network, tfjs
from ..recipe import RecipeFile, read_recipe
from ..recipe.sources import TfjsSource
from ..source import SourceFiles, read_source
from ..zoo import ssdlite
from .wanted import Wanted


@dataclass(frozen=True)
class Teacher:
    """See the module."""

    recipe: RecipeFile
    output: SsdOutput
    files: SourceFiles
    labels: tuple[str, ...]
    class_ids: tuple[int, ...]
    """Of the kept classes."""

    @classmethod
    def read(cls, wanted: Wanted) -> Teacher:
        bundle = open_bundle(wanted.bundle)
        output = bundle.manifest.output
        if not isinstance(output, SsdOutput) or output.anchors is None:
            raise UserError(
                "no detector that can be specialised", where=wanted.bundle, expected="an SSD with anchors",
                found=bundle.manifest.output.__struct_config__.tag,
            )  # fmt: skip
        path = wanted.recipe or _recipe_beside(bundle)
        recipe = read_recipe(path)
        source = recipe.recipe.source
        if recipe.sha256 != bundle.manifest.recipe_sha256:
            raise UserError(
                "not the recipe that the bundle was made by", where=path, expected=f"sha256 {bundle.manifest.recipe_sha256}",
                found=recipe.sha256, fix="--recipe FILE",
            )  # fmt: skip
        if not isinstance(source, TfjsSource):
            raise UserError("no weights to start from", where=path, expected='source.format = "tfjs"')
        class_ids = _class_ids(wanted.keep, bundle)
        files = read_source(source, wanted.source, recipe.resolve)
        return cls(recipe, output, files, bundle.labels, class_ids)

    @property
    def input(self) -> ImageInput:
        """As published."""
        return self.recipe.recipe.image

    @property
    def anchors(self) -> SsdAnchors:
        """Of its head."""
        assert self.output.anchors is not None  # `read` looked
        return self.output.anchors

    @property
    def source(self) -> TfjsSource:
        """Where the weights come from."""
        source = self.recipe.recipe.source
        assert isinstance(source, TfjsSource)  # `read` looked
        return source

    @cached_property
    def flatbuffer(self) -> bytes:
        """The published graph itself, float32; converted once, for each step of a run looks at it."""
        shape = (1, self.input.height, self.input.width, self.input.channels)
        return quantise.to_float32(load_network(self.source, self.files, shape))

    def model(self) -> Any:
        """The same as a Keras network."""
        where = self.source.model
        weights = tfjs.read_weights(json.loads(self.files.contents[where]), self.files.contents, where)
        model = ssdlite.build(self.input.height, self.input.width, classes=len(self.labels) + 1)
        ssdlite.load_published(model, weights, where)
        return model


def _recipe_beside(bundle: Bundle) -> Path:
    path = bundle.path.parent / "recipes" / bundle.manifest.recipe
    if not path.is_file():
        raise UserError("the bundle's recipe is not there", where=path, fix="--recipe FILE")
    return path


def _class_ids(keep: Sequence[str], bundle: Bundle) -> tuple[int, ...]:
    known = [label for label in bundle.labels if is_used(label)]
    for label in keep:
        if label not in known:
            near = nearest(label, known)
            raise UserError(
                "--keep", where=bundle.path, expected="one of its labels", found=label,
                fix=f"did you mean {near}?" if near else "known: " + ", ".join(known),
            )  # fmt: skip
    if not keep or len(set(keep)) != len(keep):
        raise UserError("--keep", expected="at least one label, each once", found=", ".join(keep) or "none")
    return tuple(bundle.labels.index(label) for label in keep)
