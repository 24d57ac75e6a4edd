"""``model.json`` of TensorFlow.js: told from what else is called so, and the shards that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec

from vedette.contract.errors import ModelError


class Packed(msgspec.Struct, frozen=True):
    """How a quantised weight is stored: see `vedette_converter.load.tfjs`."""

    dtype: str
    scale: float | None = None
    min: float | None = None


class Weight(msgspec.Struct, frozen=True):
    """One entry of a manifest."""

    name: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    dtype: str
    quantization: Packed | None = None


class Group(msgspec.Struct, frozen=True):
    """The weights that lie in some shards, one after the other."""

    paths: tuple[str, ...]
    weights: tuple[Weight, ...]


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """The document of a graph model. Raises `ModelError` that says what it is instead."""
    expected, fix = "a graph model: modelTopology and weightsManifest", ""
    try:
        model = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError("no TensorFlow.js model", where=where, expected=expected, found=str(error)) from None
    topology = model.get("modelTopology") if isinstance(model, dict) else None
    if isinstance(topology, dict) and isinstance(topology.get("node"), list) and "weightsManifest" in model:
        return dict(model)
    found = "another JSON document"
    if isinstance(model, list) and any(isinstance(group, dict) and "weights" in group for group in model):
        found = "weights alone: what they are the weights of stands in the program that reads them"
        fix = "have that program's network saved whole, as a graph model, a SavedModel or .keras"
    elif isinstance(topology, dict) and ("model_config" in topology or "class_name" in topology):
        found = "a layers model, whose topology is Keras's"
        fix = "tensorflowjs_converter --input_format tfjs_layers_model --output_format keras makes an .h5 of it"
    elif isinstance(model, dict) and "class_name" in model and "config" in model:
        found, fix = "a Keras network's layers without their weights", "give what model.save(...) writes"
    elif isinstance(model, dict) and topology is not None and "weightsManifest" not in model:
        found, fix = "no weightsManifest", "convert the network again"
    raise ModelError("no TensorFlow.js graph model", where=where, expected=expected, found=found, fix=fix)


def groups_of(model: Mapping[str, Any], where: str) -> list[Group]:
    """The manifest. Raises `ModelError` where it is none, or a shard would lie outside the model's folder."""
    try:
        groups = msgspec.convert(model["weightsManifest"], list[Group])
    except msgspec.ValidationError as error:
        raise ModelError(
            "weightsManifest", where=where, found=str(error), fix="the file is damaged: get it again"
        ) from None
    for path in (PurePosixPath(path) for group in groups for path in group.paths):
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(
                "shard outside the model's folder", where=where, expected="a file beside it", found=str(path)
            )
    return groups
