"""Frozen TensorFlow graphs: a binary GraphDef, ``.pb``."""

from __future__ import annotations

from typing import Any

from vedette.contract.errors import ModelError

from ..recipe.sources import GraphDefSource
from ..source import SourceFiles
from ..tensorflow import load_tensorflow
from .graph import as_network, feed_floats, parse
from .network import Network
from .shapes import Declared, Shape, fix_shape


def load(source: GraphDefSource, files: SourceFiles, input_shape: Shape | None) -> Network:
    """The network between ``source.input`` and ``source.outputs``.

    Raises `ModelError` where the file is no GraphDef, a named node is not there, or none is named and it is not clear
    which one is meant.
    """
    return between(parse(files.only, files.where), source.input, source.outputs, input_shape, files.where)


def between(
    graph: Any, first: str | None, last: tuple[str, ...] | None, input_shape: Shape | None, where: str
) -> Network:
    """The part of a graph between the node ``first``, its only placeholder without, and the nodes ``last``, those that no
    other reads without. Raises `ModelError`."""
    entry = first or _only_placeholder(graph, where)
    node = next((node for node in graph.node if node.name == entry), None)
    if node is None:
        placeholders = ", ".join(node.name for node in graph.node if node.op == "Placeholder") or "none"
        raise ModelError(
            "no such node in the graph", where=where, expected=f"a node; placeholders: {placeholders}", found=entry,
            fix="mend source.input",
        )  # fmt: skip
    fed = fix_shape(entry, _declared(node), input_shape, where)
    feed_floats(graph, entry, where)
    outputs = last or _leaves(graph, where)
    return as_network(graph, {entry: (entry, fed)}, [(name, name) for name in outputs], where)


def _only_placeholder(graph: Any, where: str) -> str:
    names = [node.name for node in graph.node if node.op == "Placeholder"]
    if len(names) != 1:
        raise ModelError(
            "which node is the input?", where=where, expected="one placeholder, or source.input",
            found=", ".join(names) or "no placeholder",
        )  # fmt: skip
    return str(names[0])


def _leaves(graph: Any, where: str) -> tuple[str, ...]:
    read = {name.split(":")[0].lstrip("^") for node in graph.node for name in node.input}
    names = sorted(n.name for n in graph.node if n.name not in read and n.op not in ("Const", "NoOp", "Placeholder"))
    if not 0 < len(names) <= 16:
        raise ModelError(
            "which nodes are the outputs?",
            where=where,
            expected="source.outputs",
            found=f"{len(names)} that none reads",
        )
    return tuple(names)


def _declared(node: Any) -> Declared | None:
    if node.op != "Placeholder":
        return None
    shape = load_tensorflow().TensorShape(node.attr["shape"].shape)
    return shape.as_list() if shape.rank else None
