"""Where a recipe's network comes from: one struct a format, told apart by ``source.format``."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from vedette.contract.manifest import Sha256, Text


class TfjsSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="format", tag="tfjs"):
    """A TensorFlow.js graph model inside a package of npm. Nothing of it is kept in this project."""

    package: Text
    """The package's name."""
    version: Text
    """Its exact version."""
    model: Text
    """Path of ``model.json`` inside the package; the shards are looked for beside it."""
    sha256: Annotated[dict[str, Sha256], Meta(min_length=2)]
    """sha256 of every file that is used, by its path inside the package: ``model.json`` and each shard."""
    licence: Text
    """SPDX identifier of the weights' licence."""
    attribution: Text
    """Who made the network and the weights."""
    input: Text
    """The node that is fed: float32, as ``[input]`` makes it. What the graph computes before it is left out."""
    outputs: Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)]
    """The nodes that are read, in the order that ``[output]`` counts them. What comes after them is left out."""

    @property
    def url(self) -> str:
        """A package URL (purl): which registry serves it is the user's choice."""
        return f"pkg:npm/{self.package}@{self.version}#{self.model}"


Source: TypeAlias = TfjsSource
