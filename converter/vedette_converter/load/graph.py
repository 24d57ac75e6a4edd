"""GraphDefs: what several formats come down to. Checked, cut to what is read, tidied, made a `Network`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from vedette.contract.errors import ModelError
from vedette.contract.types import Tensor, TensorSpec

from ..tensorflow import captured_native_output, load_tensorflow
from .network import Network
from .shapes import TO_CHANNELS_FIRST, Fed, Shape

_ADDS: Final = frozenset({"Add", "AddV2"})
_CONVOLUTIONS: Final = frozenset({"Conv2D", "DepthwiseConv2dNative"})
_BEYOND: Final = frozenset(
    {"PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles", "LoadLibrary"}
)
"""Ops that run code of the process or touch files: no network needs them, and a file from elsewhere must not."""


def first_line(error: BaseException) -> str:
    """What an exception of TensorFlow's says, without the pages that follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__


def parse(raw: bytes, where: str) -> Any:
    """A GraphDef from its bytes. Raises `ModelError`."""
    tf = load_tensorflow()
    from google.protobuf.message import DecodeError

    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(raw)
    except DecodeError as error:
        raise ModelError(
            "no frozen graph", where=where, expected="a binary GraphDef", found=first_line(error),
            fix="the file is truncated, or of another format",
        ) from None  # fmt: skip
    if not graph.node:
        raise ModelError("no frozen graph", where=where, expected="a binary GraphDef", found="no node in it")
    return graph


def refuse_beyond(graph: Any, where: str) -> None:
    """Raises `ModelError` where a GraphDef reaches beyond its tensors: Python functions, files, libraries."""
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    for nodes in bodies:
        for node in nodes:
            if node.op in _BEYOND:
                raise ModelError(
                    "an op that a network has no business with", where=f"{where}: {node.name}", found=node.op,
                    fix="cut the graph behind it",
                )  # fmt: skip


def refuse_bad_weights(graph: Any, where: str) -> None:
    """Raises `ModelError` where a constant of a GraphDef holds NaN, or, not being a scalar, infinity.

    A scalar infinity is what a mask or a pooling's padding is filled with.
    """
    tf = load_tensorflow()
    for node in graph.node:
        if node.op == "Const" and tf.as_dtype(node.attr["dtype"].type).is_floating:
            values = tf.make_ndarray(node.attr["value"].tensor)
            refuse_bad(values, node.name, where, scalars_may=True)


def refuse_bad(values: Tensor, name: str, where: str, *, scalars_may: bool = False) -> None:
    """Raises `ModelError` where a float tensor holds NaN or infinity."""
    wide = values.astype(np.float32, copy=False)
    bad = ~np.isfinite(wide)
    if scalars_may and values.size == 1 and not np.isnan(wide).any():
        return
    if bad.any():
        kind = "NaN" if np.isnan(wide).any() else "infinity"
        raise ModelError(
            "weights that are no numbers", where=f"{where}: {name}", expected="finite values",
            found=f"{kind}, {int(bad.sum())} of {values.size} values", fix="train again from an earlier checkpoint",
        )  # fmt: skip


def cut(graph: Any, entries: Mapping[str, Shape], outputs: Sequence[str], where: str) -> Any:
    """The part of a GraphDef that the nodes ``outputs`` need, the nodes ``entries`` made its Placeholders, float32.

    Raises `ModelError`. Shapes that the graph computes from its input's become constants, for the Placeholder's shape
    is fixed: TensorFlow's own constant folding does that when the graph is converted.
    """
    tf = load_tensorflow()
    names = {node.name for node in graph.node}
    for name in (*entries, *outputs):
        if name not in names:
            raise ModelError("no such node in the graph", where=where, found=name, fix="mend [source] in the recipe")
    opened = tf.compat.v1.GraphDef()
    opened.library.CopyFrom(graph.library)
    opened.versions.CopyFrom(graph.versions)
    for node in graph.node:
        if node.name in entries:
            placeholder = opened.node.add(name=node.name, op="Placeholder")
            placeholder.attr["dtype"].type = tf.float32.as_datatype_enum
            placeholder.attr["shape"].shape.CopyFrom(tf.TensorShape(entries[node.name]).as_proto())
        elif node.op == "PlaceholderWithDefault":  # a switch, like Keras's learning phase: what it is by default
            switch = opened.node.add(name=node.name, op="Identity", input=node.input)
            switch.attr["T"].type = node.attr["dtype"].type
        else:
            opened.node.append(node)
    kept = tf.compat.v1.graph_util.extract_sub_graph(opened, list(outputs))
    found = [node.name for node in kept.node if node.op == "Placeholder"]
    if sorted(found) != sorted(entries):
        raise ModelError(
            "the outputs need other inputs", where=where, expected=", ".join(entries),
            found=", ".join(found) or "no input",
        )  # fmt: skip
    return kept


def feed_floats(graph: Any, entry: str, where: str) -> None:
    """Where a Placeholder is of another dtype and only ever cast to float32, the floats are fed instead, in place.

    Raises `ModelError` where it is used as it is.
    """
    tf = load_tensorflow()
    nodes = {node.name: node for node in graph.node}
    node = nodes.get(entry)
    if node is None or node.op != "Placeholder":
        return
    dtype = tf.as_dtype(node.attr["dtype"].type)
    if dtype == tf.float32:
        return
    carriers, readers, waiting = {entry}, [], [entry]
    while waiting:
        name = waiting.pop()
        for other in graph.node:
            if not any(_node_of(read) == name for read in other.input):
                continue
            if other.op != "Identity":
                readers.append(other)
            elif other.name not in carriers:
                carriers.add(other.name)
                waiting.append(other.name)
    casts = [r for r in readers if r.op == "Cast" and tf.as_dtype(r.attr["DstT"].type) == tf.float32]
    if len(casts) != len(readers) or not casts:
        others = sorted({reader.op for reader in readers} - {"Cast"}) or ["nothing"]
        raise ModelError(
            f"input {entry}", where=where, expected="float32, or a cast to float32 right after it",
            found=f"{dtype.name} read by {', '.join(others)}",
            fix="feed a node further in (--input), or export it with float32",
        )  # fmt: skip
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    for name in carriers - {entry}:
        nodes[name].attr["T"].type = tf.float32.as_datatype_enum
    for cast in casts:
        cast.op = "Identity"
        cast.attr.clear()
        cast.attr["T"].type = tf.float32.as_datatype_enum


def as_network(
    graph: Any,
    entries: Mapping[str, tuple[str, Fed]],
    outputs: Sequence[tuple[str, str]],
    where: str,
    *,
    model: Any = None,
) -> Network:
    """A GraphDef as a `Network` of float32 inputs and outputs.

    ``entries``: node -> its name outside and how it is fed. ``outputs``: (``NODE`` or ``NODE:1``, its name outside).
    Raises `ModelError` where TensorFlow refuses the graph, or an output has another dtype or no fixed shape.
    """
    tf = load_tensorflow()
    graph = cut(
        graph, {node: fed.inner for node, (_, fed) in entries.items()}, [_node_of(n) for n, _ in outputs], where
    )
    refuse_beyond(graph, where)
    refuse_bad_weights(graph, where)
    replace_add_n(graph)
    bring_biases_home(graph)

    def body(*fed: Any) -> list[Any]:
        inner = [
            tf.transpose(x, TO_CHANNELS_FIRST) if how.channels_first else x
            for x, (_, how) in zip(fed, entries.values(), strict=True)
        ]
        fetched: list[Any] = tf.graph_util.import_graph_def(
            graph,
            input_map={f"{node}:0": x for node, x in zip(entries, inner, strict=True)},
            return_elements=[name if ":" in name else f"{name}:0" for name, _ in outputs],
            name="",
        )
        return fetched

    inputs = [(name, fed.shape) for name, fed in entries.values()]
    names = _plain([name for name, _ in inputs])
    signature = [tf.TensorSpec(shape, tf.float32, name=plain) for (_, shape), plain in zip(inputs, names, strict=True)]
    try:
        with captured_native_output():
            function = tf.compat.v1.wrap_function(body, signature)
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        raise ModelError("TensorFlow will not have the graph", where=where, found=first_line(error)) from None
    float32 = np.dtype(np.float32)
    specs = []
    for (_, name), tensor in zip(outputs, function.outputs, strict=True):
        shape: list[Any] = tensor.shape.as_list() if tensor.shape.rank is not None else [None]
        if None in shape or tensor.dtype != tf.float32:
            raise ModelError(
                f"output {name}", where=where, expected="a fixed shape, float32",
                found=f"{shape} {tensor.dtype.name}",
                fix="export it with a fixed batch of 1: behind a loop it is not known" if None in shape else "",
            )  # fmt: skip
        specs.append(TensorSpec(name, tuple(shape), float32))
    return Network(tuple(TensorSpec(name, shape, float32) for name, shape in inputs), tuple(specs), function, model)


def freeze(function: Callable[..., Any] | Any, shapes: Sequence[tuple[Shape, Any]] | None = None) -> tuple[Any, Any]:
    """A TensorFlow function with its variables turned into constants: (GraphDef, the frozen ConcreteFunction).

    ``shapes``: (shape, dtype) of each input where ``function`` is a plain Python callable over tensors.
    Raises whatever TensorFlow raises.
    """
    tf = load_tensorflow()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    with captured_native_output():
        if shapes is not None:
            specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes]
            function = tf.function(function, autograph=False).get_concrete_function(*specs)
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
        return frozen.graph.as_graph_def(), frozen


def _node_of(name: str) -> str:
    return name.split(":")[0].lstrip("^")


def _plain(names: Sequence[str]) -> list[str]:
    """Names that TensorFlow takes for a function's arguments, each once."""
    if len(names) == 1:
        return ["input"]
    return [f"input_{number}_{re.sub('[^A-Za-z0-9_]', '_', name)}" for number, name in enumerate(names)]


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
