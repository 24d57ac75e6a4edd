"""Where a recipe's network comes from: one struct a format, told apart by ``source.format``."""

from __future__ import annotations

from pathlib import PurePath
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


NOT_STATED = "not stated"

Outputs: TypeAlias = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=16)]


class LocalSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="format"):
    """What every source has that is a file or a folder of the user's own."""

    licence: Text = NOT_STATED
    """SPDX identifier of the weights' licence."""
    attribution: Text = NOT_STATED
    """Who made the network and the weights."""
    origin: Annotated[str, Meta(max_length=4096)] = ""
    """A URL where the network was got, for the manifest."""

    @property
    def path(self) -> str:
        """The file or folder, as the recipe names it."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """``origin``, or the bare name as ``file:NAME``: a bundle tells nobody how its maker's folders are called."""
        return self.origin or f"file:{PurePath(self.path).name}"


class FileSource(LocalSource, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network in one file."""

    file: Text
    """Its path, relative to the recipe."""
    sha256: Sha256 | None = None
    """Its sha256. Any file is taken without one; the manifest has it either way."""

    @property
    def path(self) -> str:
        """See `LocalSource`."""
        return self.file


class KerasSource(FileSource, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="keras"):
    """A Keras network: ``.keras``, or ``.h5`` as Keras 2 and tf_keras wrote it."""


class TfliteSource(FileSource, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="tflite"):
    """A TFLite flatbuffer with float weights, with or without metadata."""


class OnnxSource(FileSource, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="onnx"):
    """An ONNX network, converted by onnx2tf in an environment of its own."""

    outputs: Outputs | None = None
    """The tensors that are read, in the order that ``[output]`` counts them; what comes after them is left out. Default: the
    network's own outputs."""


class GraphDefSource(FileSource, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="graph_def"):
    """A frozen TensorFlow graph, ``.pb``."""

    input: Text | None = None
    """The node that is fed; what the graph computes before it is left out. Default: the graph's only placeholder."""
    outputs: Outputs | None = None
    """The nodes that are read (``NODE``, or ``NODE:1`` for a node's second output), in the order that ``[output]`` counts
    them. Default: those that no other node reads, in order of their names."""


class SavedModelSource(LocalSource, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="saved_model"):
    """A TensorFlow SavedModel."""

    folder: Text
    """Its path, relative to the recipe: the folder with ``saved_model.pb``."""
    sha256: dict[str, Sha256] = {}
    """sha256 of every file that is used, by its path inside the folder. Any folder is taken without them."""
    signature: Text | None = None
    """Default: ``serving_default``, or the only one there is."""
    outputs: Outputs | None = None
    """Which of the signature's outputs, in the order that ``[output]`` counts them. Default: all, by their names."""

    @property
    def path(self) -> str:
        """See `LocalSource`."""
        return self.folder


class TfjsModelSource(LocalSource, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="tfjs_model"):
    """A TensorFlow.js graph model on your own disk."""

    file: Text
    """Path of ``model.json``, relative to the recipe; the shards lie beside it."""
    sha256: dict[str, Sha256] = {}
    """sha256 of every file that is used, by its path inside the folder. Any are taken without them."""
    input: Text | None = None
    """The node that is fed; what the graph computes before it is left out. Default: the graph's only placeholder."""
    outputs: Outputs | None = None
    """The nodes that are read, in the order that ``[output]`` counts them. Default: those of the model's signature, in its
    order; without one, those that no other node reads, in order of their names."""

    @property
    def path(self) -> str:
        """See `LocalSource`."""
        return self.file


Source: TypeAlias = (
    TfjsSource | TfjsModelSource | KerasSource | SavedModelSource | GraphDefSource | TfliteSource | OnnxSource
)
