"""What runs in onnx2tf's environment, where nothing of vedette is installed: ONNX files described, fixed and run.

::

    python _onnx_child.py describe NETWORK.onnx ANSWER.json
    python _onnx_child.py cut NETWORK.onnx TENSORS.json CUT.onnx
    python _onnx_child.py fix NETWORK.onnx SHAPES.json FIXED.onnx
    python _onnx_child.py run NETWORK.onnx INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def _shape(value: Any) -> list[int | None] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [int(dim.dim_value) if dim.HasField("dim_value") else None for dim in kind.shape.dim]


def describe(path: str, answer: str) -> None:
    """Inputs, outputs, weights that are not finite or lie elsewhere: as JSON."""
    onnx = importlib.import_module("onnx")
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model)
    external = [weight.name for weight in model.graph.initializer if weight.data_location == weight.EXTERNAL]
    bad = []
    for weight in model.graph.initializer:
        if weight.name not in external:
            values = onnx.numpy_helper.to_array(weight)
            if values.dtype.kind == "f" and values.size > 1 and not np.isfinite(values).all():
                bad.append(weight.name)
    weights = {weight.name for weight in model.graph.initializer}

    def tensor(value: Any) -> dict[str, Any]:
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)))
        return {"name": value.name, "shape": _shape(value), "dtype": dtype}

    described = {
        "inputs": [tensor(value) for value in model.graph.input if value.name not in weights],
        "outputs": [tensor(value) for value in model.graph.output],
        "external": external,
        "bad": bad,
    }
    Path(answer).write_text(json.dumps(described))


def cut(path: str, tensors: str, out: str) -> None:
    """The same network up to these tensors, which become its outputs."""
    onnx = importlib.import_module("onnx")
    model = onnx.load(path)
    wanted = json.loads(Path(tensors).read_text())
    graph = model.graph
    made = [name for node in graph.node for name in node.output if name]
    for name in wanted:
        if name not in made:
            near = difflib.get_close_matches(name, made, 1)
            raise ValueError(f"no tensor {name!r} in it" + (f", did you mean {near[0]!r}?" if near else ""))
    needed, kept = set(wanted), []
    for node in reversed(graph.node):  # which stand in the order in which they run
        if needed & set(node.output):
            kept.append(node)
            needed |= set(_read(onnx, node))
    known = {value.name: value for value in [*onnx.shape_inference.infer_shapes(model).graph.value_info, *graph.output]}
    untold = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted]
    for field, values in (
        (graph.node, kept[::-1]),
        (graph.output, [known.get(value.name, value) for value in untold]),
        (graph.input, [value for value in graph.input if value.name in needed]),
        (graph.initializer, [value for value in graph.initializer if value.name in needed]),
    ):
        values = [type(value).FromString(value.SerializeToString()) for value in values]  # the field's own go with it
        del field[:]
        field.extend(values)
    onnx.save(model, out)


def _read(onnx: Any, node: Any) -> list[str]:
    """The names that a node reads, and the nodes of networks within it."""
    names = list(node.input)
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        names += [name for graph in graphs for inner in graph.node for name in _read(onnx, inner)]
    return names


def fix(path: str, shapes: str, fixed: str) -> None:
    """The same network with the inputs' shapes written into it, and all others left to be inferred anew."""
    onnx = importlib.import_module("onnx")
    model = onnx.load(path, load_external_data=False)
    wanted = json.loads(Path(shapes).read_text())
    for value in model.graph.input:
        if value.name in wanted:
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            for size in wanted[value.name]:
                dims.add().dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model)
    if any(not value.type.tensor_type.HasField("shape") for value in model.graph.output):
        _run_for_shapes(model, wanted)  # onnxsim refuses a network whose output has none
    onnx.save(model, fixed)


def _run_for_shapes(model: Any, shapes: dict[str, list[int]]) -> None:
    """Gives outputs of unknown shape the one they have for zeros, in place."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    for value, result in zip(model.graph.output, results, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
            for size in result.shape:
                value.type.tensor_type.shape.dim.add().dim_value = size


def run(path: str, inputs: str, outputs: str) -> None:
    """The outputs ``y0``, ``y1``... for the inputs ``x0``, ``x1``..., in the order of the file."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with np.load(inputs, allow_pickle=False) as given:
        fed = {value.name: given[f"x{number}"] for number, value in enumerate(session.get_inputs())}
    results = session.run(None, fed)
    np.savez(outputs, **{f"y{number}": result for number, result in enumerate(results)})


def main(arguments: list[str]) -> int:
    """Exit code 3 and one line where the file cannot be used."""
    try:
        match arguments:
            case ["describe", path, answer]:
                describe(path, answer)
            case ["cut", path, tensors, out]:
                cut(path, tensors, out)
            case ["fix", path, shapes, fixed]:
                fix(path, shapes, fixed)
            case ["run", path, inputs, outputs]:
                run(path, inputs, outputs)
            case _:
                raise ValueError(f"unknown: {arguments}")
    except Exception as error:  # noqa: BLE001 - protobuf's, onnx's and the runtime's own classes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(lines[0][:400] if lines else type(error).__name__)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
