"""TensorFlow SavedModels: a folder with ``saved_model.pb`` and ``variables/``."""

from __future__ import annotations

import logging
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vedette.contract.errors import ModelError

from ..recipe.sources import SavedModelSource
from ..source import SourceFiles
from ..tensorflow import captured_native_output, load_tensorflow
from .graph import as_network, feed_floats, first_line, freeze, refuse_beyond
from .network import Network
from .shapes import Shape, fix_shape, only_given


def load(source: SavedModelSource, files: SourceFiles, input_shape: Shape | None) -> Network:
    """The network that a signature runs.

    Some SavedModels are refused by ``tf.saved_model.load`` although their graph is sound: those are read as TensorFlow 1
    read them. Raises `ModelError` where neither goes, the signature is not there, or the graph is none to convert.
    """
    where = files.where
    meta = _read_meta(files.contents["saved_model.pb"], where)
    refuse_beyond(meta.graph_def, where)
    key = _choose(source, meta, where)
    stated = meta.signature_def[key]
    names = sorted(stated.inputs)
    wanted = list(source.outputs or sorted(stated.outputs))
    if unknown := [name for name in wanted if name not in stated.outputs]:
        raise ModelError(
            f"no such output of signature {key}", where=where, expected=", ".join(sorted(stated.outputs)),
            found=unknown[0],
        )  # fmt: skip
    given = only_given(names, input_shape, where)
    fed = [fix_shape(name, _declared(stated.inputs[name]), given, where) for name in names]
    try:
        graph, nodes, tensors = _load_2(str(files.path), key, names)
    except Exception as error:  # noqa: BLE001 - TensorFlow raises what it comes across, AttributeError among it
        problem = first_line(error)
        try:
            graph, nodes, tensors = _load_1(str(files.path), key, names)
        except Exception as other:  # noqa: BLE001 - likewise
            raise ModelError(
                "TensorFlow cannot load it", where=where, found=f"{problem} | {first_line(other)}",
                fix="a file of the folder is truncated, missing or of another network: get it again",
            ) from None  # fmt: skip
        logging.getLogger(__name__).info("%s: read as TensorFlow 1 did: %s", where, problem)
    for node in nodes:
        feed_floats(graph, node, where)
    entries = dict(zip(nodes, zip(names, fed, strict=True), strict=True))
    return as_network(graph, entries, [(tensors[name], name) for name in wanted], where)


def _read_meta(raw: bytes, where: str) -> Any:
    load_tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    document = SavedModel()
    try:
        document.ParseFromString(raw)
    except DecodeError as error:
        raise ModelError(
            "saved_model.pb is damaged", where=where, found=first_line(error), fix="get it again"
        ) from None
    serving = [meta for meta in document.meta_graphs if "serve" in meta.meta_info_def.tags]
    if not serving:
        tags = "; ".join(", ".join(meta.meta_info_def.tags) for meta in document.meta_graphs)
        raise ModelError("no graph to serve", where=where, expected='the tag "serve"', found=tags or "no graph at all")
    return serving[0]


def _choose(source: SavedModelSource, meta: Any, where: str) -> str:
    there = {key for key, signature in meta.signature_def.items() if signature.inputs and signature.outputs}
    if source.signature is not None:
        if source.signature not in there:
            raise ModelError(
                "no such signature", where=where, expected=", ".join(sorted(there)) or "none is there",
                found=source.signature, fix="mend source.signature",
            )  # fmt: skip
        return source.signature
    if "serving_default" in there:
        return "serving_default"
    if len(there) != 1:
        raise ModelError(
            "which signature?", where=where, expected="source.signature", found=", ".join(sorted(there)) or "none"
        )
    return str(there.pop())


def _declared(stated: Any) -> list[int | None] | None:
    if stated.tensor_shape.unknown_rank:
        return None
    return [None if dim.size < 0 else int(dim.size) for dim in stated.tensor_shape.dim]


def _load_2(folder: str, key: str, names: list[str]) -> tuple[Any, list[str], dict[str, str]]:
    tf = load_tensorflow()
    with captured_native_output():
        loaded = tf.saved_model.load(folder)
    function = loaded.signatures[key]
    graph, frozen = freeze(function)
    placeholders = {tensor.op.name for tensor in frozen.inputs}
    by_name = {}
    for keyword, spec in function.structured_input_signature[1].items():
        # a signature's placeholder is called like its keyword, with what a node's name may not have made "_"
        by_name[keyword] = next((n for n in (keyword, spec.name) if n in placeholders), None)
    nodes = [by_name.get(name) for name in names]
    if None in nodes:
        raise ValueError(f"signature {key}: inputs {names} are not among {sorted(placeholders)}")
    outputs = sorted(function.structured_outputs)
    tensors = {name: str(t.name) for name, t in zip(outputs, frozen.outputs, strict=True)}
    return graph, [str(node) for node in nodes], tensors


@contextmanager
def _renamed_functions(folder: str) -> Iterator[str]:
    """The same SavedModel, whose functions have names that nobody else has.

    TensorFlow keeps one library of functions for the whole process, and there may be others of these names: what TensorFlow
    2 left of its own attempt, or the very network that was saved.
    """
    load_tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    document = SavedModel()
    document.ParseFromString((Path(folder) / "saved_model.pb").read_bytes())
    mark = uuid.uuid4().hex[:12]
    for meta in document.meta_graphs:
        library = meta.graph_def.library
        new = {function.signature.name: f"{function.signature.name}_{mark}" for function in library.function}
        for node in (*meta.graph_def.node, *(node for function in library.function for node in function.node_def)):
            node.op = new.get(node.op, node.op)
            for attribute in node.attr.values():
                for called in (attribute.func, *attribute.list.func):
                    if called.name in new:
                        called.name = new[called.name]
        for function in library.function:
            function.signature.name = new[function.signature.name]
        for gradient in library.gradient:
            gradient.function_name = new.get(gradient.function_name, gradient.function_name)
            gradient.gradient_func = new.get(gradient.gradient_func, gradient.gradient_func)
    with tempfile.TemporaryDirectory(prefix="vedette-saved-model-") as place:
        for part in Path(folder).iterdir():
            if part.name != "saved_model.pb":
                (Path(place) / part.name).symlink_to(part.resolve())
        (Path(place) / "saved_model.pb").write_bytes(document.SerializeToString())
        yield place


def _load_1(folder: str, key: str, names: list[str]) -> tuple[Any, list[str], dict[str, str]]:
    tf = load_tensorflow()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_from_session_graph

    with (
        _renamed_functions(folder) as place, tf.Graph().as_default(), tf.compat.v1.Session() as session,
        captured_native_output(),
    ):  # fmt: skip
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], place)
        signature = meta.signature_def[key]
        tensors = {name: str(stated.name) for name, stated in signature.outputs.items()}
        nodes = [str(signature.inputs[name].name) for name in names]
        graph = convert_variables_to_constants_from_session_graph(
            session, session.graph.as_graph_def(), sorted({name.split(":")[0] for name in tensors.values()})
        )

    def body(*fed: Any) -> list[Any]:
        results: list[Any] = tf.graph_util.import_graph_def(
            graph, input_map=dict(zip(nodes, fed, strict=True)), return_elements=list(tensors.values()), name=""
        )
        return results

    specs = []
    for name in names:
        stated = signature.inputs[name]
        shape = None if stated.tensor_shape.unknown_rank else tf.TensorShape(stated.tensor_shape)
        specs.append(tf.TensorSpec(shape, tf.as_dtype(stated.dtype)))
    # frozen once more: that unfolds the functions a TensorFlow 2 network calls, so that casts are seen for what they are
    unfolded, frozen = freeze(tf.compat.v1.wrap_function(body, specs))
    return (
        unfolded,
        [tensor.op.name for tensor in frozen.inputs],
        {name: str(tensor.name) for name, tensor in zip(tensors, frozen.outputs, strict=True)},
    )
