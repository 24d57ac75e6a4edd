"""TensorFlow.js graph models: ``model.json`` (a GraphDef as JSON, a weights manifest) and its binary shards.

The format: https://github.com/tensorflow/tfjs, ``tfjs-converter`` (``graph_model.ts``, ``weights_loader.ts``): the shards
of a group, one after the other, are the weights of its manifest, one after the other, little-endian, without padding. Where
an entry says ``quantization``, they are halves, or whole numbers of which ``number * scale + min`` is the weight.
"""

from __future__ import annotations

import base64
import math
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from vedette.contract.errors import ModelError
from vedette.contract.types import Tensor

from ..model_json import Weight, groups_of, parse
from ..recipe.sources import TfjsModelSource, TfjsSource
from ..source import SourceFiles
from ..tensorflow import load_tensorflow
from .graph_def import between
from .network import Network
from .shapes import Shape
from .unfused import take_apart

_DTYPES: Final[dict[str, np.dtype[Any]]] = {  # of the manifest -> as the shards store it
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "bool": np.dtype("u1"),
    "uint8": np.dtype("u1"),
}
_PACKED: Final[dict[str, np.dtype[Any]]] = {
    "float16": np.dtype("<f2"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
}


def load(source: TfjsSource, files: SourceFiles, input_shape: Shape | None) -> Network:
    """The network between ``source.input`` and ``source.outputs``, its input fixed to ``input_shape``, float32.

    Raises `ModelError` where topology, manifest and shards do not fit together, or a named node is not there.
    """
    if input_shape is None:
        raise ModelError(f"input {source.input}", where=source.model, expected="a shape", found="none given")
    where = source.model
    graph = _read_graph(parse(files.contents[where], where), files, where)
    return between(graph, source.input, source.outputs, input_shape, where)


def load_own(source: TfjsModelSource, files: SourceFiles, input_shape: Shape | None) -> Network:
    """The same of a ``model.json`` on this disk, whose signature says what the recipe does not.

    Raises `ModelError` as `load`, and where it is not clear which nodes are meant.
    """
    name = Path(source.file).name
    model = parse(files.contents[name], files.where)
    graph = _read_graph(model, files, name)
    signed = _signature(model)
    for node in graph.node:
        if node.op == "Placeholder" and (stated := signed["inputs"].get(node.name)) is not None:
            _close(node.attr["shape"].shape, stated)
    outputs = source.outputs or tuple(signed["outputs"]) or None
    return between(graph, source.input, outputs, input_shape, files.where)


def _read_graph(model: Mapping[str, Any], files: SourceFiles, where: str) -> Any:
    return build_graph(model, read_weights(model, files.contents, where), where)


def _signature(model: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Node -> shape, of inputs and outputs; -1 for an open dimension. Empty where the model states none."""
    stated = model.get("signature") or (model.get("userDefinedMetadata") or {}).get("signature") or {}
    try:
        return {
            side: {
                str(tensor["name"]).removesuffix(":0"): [
                    int(dim["size"]) for dim in tensor.get("tensorShape", {}).get("dim", [])
                ]
                for tensor in (stated.get(side) or {}).values()
            }
            for side in ("inputs", "outputs")
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {"inputs": {}, "outputs": {}}  # a hint that is none


def _close(shape: Any, stated: list[int]) -> None:
    """Gives a placeholder's open dimensions, but the batch, the sizes that the signature has for them."""
    if len(shape.dim) == len(stated):
        for dim, size in zip(shape.dim[1:], stated[1:], strict=True):
            if dim.size < 1 <= size:
                dim.size = size


def read_weights(model: Mapping[str, Any], contents: Mapping[str, bytes], where: str) -> dict[str, Tensor]:
    """Every weight by the name of its node. ``contents``: the shards by path, ``where``: the path of ``model.json``.

    Raises `ModelError` where a shard is missing, bytes are left over or lack, or a dtype is unknown.
    """
    weights: dict[str, Tensor] = {}
    for group in groups_of(model, where):
        paths = [posixpath.join(posixpath.dirname(where), path) for path in group.paths]
        if missing := [path for path in paths if path not in contents]:
            raise ModelError("shard missing", where=where, expected=missing[0], fix="name it in [source.sha256]")
        data = b"".join(contents[path] for path in paths)
        position = 0
        for entry in group.weights:
            name, shape = entry.name, entry.shape
            dtype = _stored(entry, where)
            size = math.prod(shape) * dtype.itemsize
            if position + size > len(data):
                raise ModelError(
                    f"weight {name}", where=where, expected=f"{size} bytes at {position} of its shards",
                    found=f"{max(0, len(data) - position)}",
                )  # fmt: skip
            stored = np.frombuffer(data, dtype, math.prod(shape), position).reshape(shape)
            weights[name] = _unpacked(stored, entry)
            position += size
        if position != len(data):
            raise ModelError("bytes left over", where=", ".join(paths), expected=f"{position}", found=f"{len(data)}")
    return weights


def _stored(entry: Weight, where: str) -> np.dtype[Any]:
    """How the shards hold a weight. Raises `ModelError` where that is not known."""
    packed = entry.quantization
    if packed is None:
        found, known = entry.dtype, entry.dtype in _DTYPES
    else:
        found = f"{packed.dtype} for {entry.dtype}"
        scaled = packed.dtype in ("uint8", "uint16") and None not in (packed.scale, packed.min)
        known = (packed.dtype, entry.dtype) == ("float16", "float32") or (
            scaled and entry.dtype in ("float32", "int32")
        )
    if not known:
        raise ModelError(
            f"weight {entry.name}", where=where, found=found,
            expected=f"{', '.join(_DTYPES)}; or, quantised, float16, or uint8 or uint16 with scale and min",
            fix="use the network's float32 edition",
        )  # fmt: skip
    return _DTYPES[entry.dtype] if packed is None else _PACKED[packed.dtype]


def _unpacked(stored: Tensor, entry: Weight) -> Tensor:
    packed = entry.quantization
    if packed is None:
        return stored
    if packed.scale is None or packed.min is None:
        return stored.astype(np.float32)
    values = stored * np.float64(packed.scale) + packed.min
    return np.asarray(np.floor(values + 0.5), np.int32) if entry.dtype == "int32" else values.astype(np.float32)


def build_graph(model: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> Any:
    """A GraphDef of TensorFlow's own ops whose Const nodes hold their weights.

    Raises `ModelError` where a weight does not fit its node.
    """
    tf = load_tensorflow()
    from google.protobuf import json_format

    graph = tf.compat.v1.GraphDef()
    try:
        json_format.ParseDict({"node": [_with_bytes(node) for node in model["modelTopology"]["node"]]}, graph)
    except (json_format.ParseError, TypeError, AttributeError, ValueError) as error:
        raise ModelError("not a GraphDef", where=f"{where}: modelTopology", found=str(error)) from None
    for node in graph.node:
        if node.op != "Const":
            continue
        weight = weights.get(node.name)
        if weight is None:
            raise ModelError(f"constant {node.name}", where=where, expected="a weight of this name in the manifest")
        tensor = node.attr["value"].tensor
        shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
        dtype = tf.as_dtype(node.attr["dtype"].type)
        if shape != weight.shape or (dtype.as_numpy_dtype != weight.dtype.newbyteorder("=") and dtype != tf.bool):
            raise ModelError(
                f"constant {node.name}", where=where, expected=f"{dtype.name}{list(shape)}",
                found=f"{weight.dtype.name}{list(weight.shape)}",
            )  # fmt: skip
        tensor.CopyFrom(tf.make_tensor_proto(weight, dtype=dtype, shape=shape))
    take_apart(graph, where)
    return graph


def _with_bytes(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node whose byte strings are base64, as protobuf wants them: TensorFlow.js also writes them as lists of codes."""
    attributes = {}
    for key, value in node.get("attr", {}).items():
        codes = value.get("s")
        if isinstance(codes, list):
            value = {**value, "s": base64.b64encode(bytes(codes)).decode()}
        attributes[key] = value
    return {**node, "attr": attributes}
