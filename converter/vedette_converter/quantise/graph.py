"""A flatbuffer's ops and tensors, read without running it.

Of the main subgraph alone: what stands in the bodies of WHILE and IF is not seen.
Schema: https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vedette.contract.errors import ModelError
from vedette.contract.types import Tensor

_DTYPES: Final = {"FLOAT32": "float32", "FLOAT16": "float16", "INT8": "int8", "UINT8": "uint8", "INT16": "int16",
                  "INT32": "int32", "INT64": "int64", "INT4": "int4", "BOOL": "bool"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """One tensor."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    """numpy's name of it, or the schema's where numpy has none."""
    constant: Tensor | None
    """The values, flat, of a float32 constant; an empty array for other constants; None for what is computed."""


@dataclass(frozen=True, slots=True)
class GraphOp:
    """One op, in the order of execution."""

    index: int
    name: str
    """The schema's name, such as CONV_2D; a custom op's own."""
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    macs: int
    """Multiply-accumulates of one run, counted from the shapes; 0 for ops that are no matrix products."""

    @property
    def layer(self) -> str:
        """What it is called in messages: its first output tensor's name, which the converter makes of the layer's."""
        return self.outputs[0].name if self.outputs else f"op {self.index}"


@dataclass(frozen=True, slots=True)
class Graph:
    """The main subgraph."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    ops: tuple[GraphOp, ...]


def read_graph(flatbuffer: bytes) -> Graph:
    """Raises `ModelError` where the bytes are no TFLite flatbuffer."""
    from ai_edge_litert import schema_py_generated as schema

    if flatbuffer[4:8] != b"TFL3":
        raise ModelError("no TFLite flatbuffer", expected="TFL3 at byte 4", found=repr(flatbuffer[4:8]))
    try:
        model = schema.ModelT.InitFromPackedBuf(flatbuffer)
        return _graph(schema, model, flatbuffer)
    except (IndexError, ValueError, TypeError, AttributeError, KeyError) as error:  # struct.error is a ValueError
        raise ModelError("no TFLite flatbuffer that can be read", found=f"{type(error).__name__}: {error}") from None


def _graph(schema: Any, model: Any, flatbuffer: bytes) -> Graph:
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    subgraph = model.subgraphs[0]
    computed = {int(i) for i in subgraph.inputs} | {int(i) for op in subgraph.operators for i in op.outputs}
    tensors = []
    for index, tensor in enumerate(subgraph.tensors):
        kind = types[tensor.type]
        tensors.append(
            GraphTensor(
                index, _text(tensor.name), tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ())),
                _DTYPES.get(kind, kind.lower()),
                None if index in computed else _constant(model.buffers[tensor.buffer], kind, flatbuffer),
            )
        )  # fmt: skip
    ops = []
    for index, op in enumerate(subgraph.operators):
        code = model.operatorCodes[op.opcodeIndex]
        # the deprecated field holds small codes in old files, 127 or the same in new ones
        name = codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if name == "CUSTOM":
            name = _text(code.customCode)
        inputs = tuple(tensors[i] for i in op.inputs if i >= 0)
        outputs = tuple(tensors[i] for i in op.outputs if i >= 0)
        ops.append(GraphOp(index, name, inputs, outputs, _macs(name, inputs, outputs)))
    return Graph(
        tuple(tensors[i] for i in subgraph.inputs), tuple(tensors[i] for i in subgraph.outputs), tuple(ops)
    )  # fmt: skip


def _text(raw: bytes | str | None) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw or ""


def _constant(buffer: Any, kind: str, flatbuffer: bytes) -> Tensor:
    if kind != "FLOAT32":
        return np.empty(0)
    if buffer.data is not None:
        return np.asarray(buffer.data, np.uint8).view(np.float32)
    if buffer.offset > 1:
        return np.frombuffer(flatbuffer, np.float32, buffer.size // 4, buffer.offset)
    return np.empty(0)


def _macs(name: str, inputs: tuple[GraphTensor, ...], outputs: tuple[GraphTensor, ...]) -> int:
    """Weights: convolution (out, height, width, in), depthwise (1, height, width, out), dense (out, in)."""
    if len(inputs) < 2 or not outputs:
        return 0
    made = math.prod(outputs[0].shape)
    weights = inputs[1].shape
    if name == "CONV_2D":
        return made * math.prod(weights[1:])
    if name == "DEPTHWISE_CONV_2D":
        return made * math.prod(weights[1:3])
    if name in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        return made * (weights[-1] if name == "FULLY_CONNECTED" else inputs[0].shape[-1])
    if name == "TRANSPOSE_CONV":  # inputs: output shape, weights, data
        return math.prod(inputs[2].shape) * math.prod(weights[:3])
    return 0
