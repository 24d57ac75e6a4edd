"""TensorFlow.js graph models: ``model.json`` (a GraphDef as JSON, a weights manifest) and its binary shards.

The format: https://github.com/tensorflow/tfjs, ``tfjs-converter`` (``graph_model.ts``, ``weights_loader.ts``): the shards
of a group, one after the other, are the weights of its manifest, one after the other, little-endian, without padding.
"""

from __future__ import annotations

import base64
import json
import math
import posixpath
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from vedette.contract.errors import ModelError
from vedette.contract.types import Tensor, TensorSpec

from ..recipe.sources import TfjsSource
from ..source import SourceFiles
from ..tensorflow import load_tensorflow
from .network import Network

_DTYPES: Final[dict[str, np.dtype[Any]]] = {  # of the manifest -> as the shards store it
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "bool": np.dtype("u1"),
    "uint8": np.dtype("u1"),
}

_ADDS: Final = frozenset({"Add", "AddV2"})
_CONVOLUTIONS: Final = frozenset({"Conv2D", "DepthwiseConv2dNative"})


def load(source: TfjsSource, files: SourceFiles, input_shape: tuple[int, ...]) -> Network:
    """The network between ``source.input`` and ``source.outputs``, its input fixed to ``input_shape``, float32.

    Raises `ModelError` where topology, manifest and shards do not fit together, or a named node is not there.
    """
    tf = load_tensorflow()
    where = source.model
    model = _parse(files.contents[where], where)
    graph = build_graph(model, read_weights(model, files.contents, where), where)
    graph = cut(graph, source.input, source.outputs, input_shape, where)
    replace_add_n(graph)
    bring_biases_home(graph)

    def body(x: Any) -> list[Any]:
        fetched: list[Any] = tf.graph_util.import_graph_def(
            graph, input_map={f"{source.input}:0": x}, return_elements=[f"{name}:0" for name in source.outputs], name=""
        )
        return fetched

    try:
        function = tf.compat.v1.wrap_function(body, [tf.TensorSpec(input_shape, tf.float32, name="input")])
    except (ValueError, tf.errors.OpError) as error:
        raise ModelError("TensorFlow will not have the graph", where=where, found=str(error).splitlines()[0]) from None
    outputs = []
    for name, tensor in zip(source.outputs, function.outputs, strict=True):
        shape: list[Any] = tensor.shape.as_list() if tensor.shape.rank is not None else [None]
        if None in shape or tensor.dtype != tf.float32:
            raise ModelError(
                f"output {name}", where=where, expected="a fixed shape, float32", found=f"{shape} {tensor.dtype.name}"
            )
        outputs.append(TensorSpec(name, tuple(shape), np.dtype(np.float32)))
    return Network((TensorSpec(source.input, input_shape, np.dtype(np.float32)),), tuple(outputs), function)


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        model = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError("no TensorFlow.js model", where=where, found=str(error)) from None
    for key in ("modelTopology", "weightsManifest"):
        if not isinstance(model, dict) or key not in model:
            raise ModelError("no TensorFlow.js graph model", where=where, expected=f"the key {key}")
    if "node" not in model["modelTopology"]:
        raise ModelError("no TensorFlow.js graph model", where=where, expected="modelTopology.node, a GraphDef")
    return dict(model)


def read_weights(model: Mapping[str, Any], contents: Mapping[str, bytes], where: str) -> dict[str, Tensor]:
    """Every weight by the name of its node. ``contents``: the shards by path, ``where``: the path of ``model.json``.

    Raises `ModelError` where a shard is missing, bytes are left over or lack, or a dtype is unknown.
    """
    weights: dict[str, Tensor] = {}
    for group in model["weightsManifest"]:
        paths = [posixpath.join(posixpath.dirname(where), path) for path in group["paths"]]
        if missing := [path for path in paths if path not in contents]:
            raise ModelError("shard missing", where=where, expected=missing[0], fix="name it in [source.sha256]")
        data = b"".join(contents[path] for path in paths)
        position = 0
        for entry in group["weights"]:
            name, shape = entry["name"], tuple(int(n) for n in entry["shape"])
            if "quantization" in entry or entry["dtype"] not in _DTYPES:
                found = "quantised weights" if "quantization" in entry else entry["dtype"]
                raise ModelError(
                    f"weight {name}", where=where, expected="plain " + ", ".join(_DTYPES), found=found,
                    fix="use the network's float32 edition",
                )  # fmt: skip
            dtype = _DTYPES[entry["dtype"]]
            size = math.prod(shape) * dtype.itemsize
            if position + size > len(data):
                raise ModelError(
                    f"weight {name}", where=where, expected=f"{size} bytes at {position} of its shards",
                    found=f"{max(0, len(data) - position)}",
                )  # fmt: skip
            weights[name] = np.frombuffer(data, dtype, math.prod(shape), position).reshape(shape)
            position += size
        if position != len(data):
            raise ModelError("bytes left over", where=", ".join(paths), expected=f"{position}", found=f"{len(data)}")
    return weights


def build_graph(model: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> Any:
    """A GraphDef whose Const nodes hold their weights. Raises `ModelError` where a weight does not fit its node."""
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


def cut(graph: Any, entry: str, outputs: tuple[str, ...], input_shape: tuple[int, ...], where: str) -> Any:
    """The part of a GraphDef that ``outputs`` need, ``entry`` made its one Placeholder. Raises `ModelError`.

    Shapes that the graph computes from its input's become constants, for the Placeholder's shape is fixed:
    TensorFlow's own constant folding does that when the graph is converted.
    """
    tf = load_tensorflow()
    names = {node.name for node in graph.node}
    for name in (entry, *outputs):
        if name not in names:
            raise ModelError("no such node in the graph", where=where, found=name, fix="mend [source] in the recipe")
    opened = tf.compat.v1.GraphDef()
    for node in graph.node:
        if node.name != entry:
            opened.node.append(node)
            continue
        placeholder = opened.node.add(name=entry, op="Placeholder")
        placeholder.attr["dtype"].type = tf.float32.as_datatype_enum
        placeholder.attr["shape"].shape.CopyFrom(tf.TensorShape(input_shape).as_proto())
    kept = tf.compat.v1.graph_util.extract_sub_graph(opened, list(outputs))
    entries = [node.name for node in kept.node if node.op.startswith("Placeholder")]
    if entries != [entry]:
        raise ModelError(
            "the outputs need other inputs", where=where, expected=entry, found=", ".join(entries) or "no input"
        )
    return kept


def replace_add_n(graph: Any) -> None:
    """Each AddN of a GraphDef becomes plain adds, in place: AddN is no op of XNNPACK, so each would split the delegate."""
    extra = []
    for node in graph.node:
        if node.op != "AddN":
            continue
        addends = list(node.input)
        dtype = node.attr["T"].type
        while len(addends) > 2:
            step = type(node)(name=f"{node.name}/add_{len(addends)}", op="AddV2", input=addends[:2])
            step.attr["T"].type = dtype
            extra.append(step)
            addends = [step.name, *addends[2:]]
        node.op = "AddV2" if len(addends) == 2 else "Identity"
        del node.input[:]
        node.input.extend(addends)
        node.attr.clear()
        node.attr["T"].type = dtype
    graph.node.extend(extra)


def bring_biases_home(graph: Any) -> None:
    """``bias + (convolution + other)`` becomes ``(convolution + bias) + other``, in place.

    TensorFlow's graph optimiser moves a residual block's bias behind the block's sum. There it is an op of its own over
    the whole tensor, and in int8 one more rounding; beside its convolution it costs nothing, for it becomes the
    convolution's own. The same sum in another order: float results differ by rounding.
    """
    nodes = {node.name: node for node in graph.node}
    readers = Counter(name.split(":")[0].lstrip("^") for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op not in _ADDS or len(node.input) != 2:
            continue
        for bias, total in (tuple(node.input), tuple(reversed(node.input))):
            inner = nodes.get(total)
            if inner is None or inner.op not in _ADDS or readers[total] != 1 or not _is_vector(nodes.get(bias)):
                continue
            convolutions = [name for name in inner.input if name in nodes and nodes[name].op in _CONVOLUTIONS]
            if len(convolutions) != 1:
                continue
            other = next(name for name in inner.input if name != convolutions[0])
            inner.input[:] = [convolutions[0], bias]
            node.input[:] = [total, other]
            break


def _is_vector(node: Any) -> bool:
    return node is not None and node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 1
