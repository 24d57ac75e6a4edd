"""Real TFLite flatbuffers, an operation at a time: what no converter would write can be written here as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


class Network:
    """A graph in the making. Tensors are their indices."""

    def __init__(self) -> None:
        self.subgraph = schema.SubGraphT()
        self.subgraph.tensors, self.subgraph.operators = [], []
        self.subgraph.inputs, self.subgraph.outputs = [], []
        self.subgraph.name = b"main"
        empty = schema.BufferT()
        self.buffers = [empty]
        self.codes: list[Any] = []

    def tensor(
        self, shape: tuple[int, ...], dtype: str = "INT8", *, scale: float | list[float] | None = 0.1, zero_point: int = 0,
        axis: int = 0, signature: tuple[int, ...] | None = None, name: str = "",
    ) -> int:  # fmt: skip
        """A tensor that some operation makes. ``scale`` counts for 8-bit and 16-bit types, and for int32 biases."""
        tensor = schema.TensorT()
        tensor.shape = list(shape)
        if signature is not None:
            tensor.shapeSignature = list(signature)
        tensor.type = getattr(schema.TensorType, dtype)
        tensor.buffer = 0
        tensor.name = (name or f"t{len(self.subgraph.tensors)}").encode()
        if scale is not None and dtype in ("INT8", "UINT8", "INT16", "INT32", "INT4"):
            scales = scale if isinstance(scale, list) else [scale]
            parameters = schema.QuantizationParametersT()
            parameters.scale, parameters.zeroPoint = scales, [zero_point] * len(scales)
            parameters.quantizedDimension = axis
            tensor.quantization = parameters
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def input(self, shape: tuple[int, ...], dtype: str = "INT8", **rest: Any) -> int:
        """An input of the network."""
        index = self.tensor(shape, dtype, **rest)
        self.subgraph.inputs.append(index)
        return index

    def constant(self, value: Any, **rest: Any) -> int:
        """A tensor whose data stands in the file."""
        array = np.asarray(value)
        dtype = {"int8": "INT8", "uint8": "UINT8", "int32": "INT32", "float32": "FLOAT32", "float16": "FLOAT16"}
        index = self.tensor(array.shape, dtype[array.dtype.name], **{"scale": None, **rest})
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.buffers.append(buffer)
        self.subgraph.tensors[index].buffer = len(self.buffers) - 1
        return index

    def add(
        self, kind: str, inputs: list[int], *outputs: int, options: str = "", version: int = 1, **values: Any
    ) -> tuple[int, ...]:
        """An operation; ``options`` is its table's name in the schema, ``values`` that table's fields."""
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, kind, None)
        if number is None:
            number, code.customCode = schema.BuiltinOperator.CUSTOM, kind.encode()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        self.codes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(self.codes) - 1, inputs, list(outputs)
        if options:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, f"{options}T")()
            for field, value in values.items():
                assert hasattr(op.builtinOptions, field), field
                setattr(op.builtinOptions, field, value)
        self.subgraph.operators.append(op)
        return outputs

    def bytes(self, without: int = -1) -> bytes:
        """The flatbuffer. What nothing reads is an output, but for the tensor ``without``."""
        read = {tensor for op in self.subgraph.operators for tensor in op.inputs}
        made = [tensor for op in self.subgraph.operators for tensor in op.outputs]
        self.subgraph.outputs = [tensor for tensor in made if tensor not in read and tensor != without]
        model = schema.ModelT()
        model.version, model.description = 3, b"test"
        model.subgraphs, model.buffers, model.operatorCodes = [self.subgraph], self.buffers, self.codes
        builder = flatbuffers.Builder(4096)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def write(self, path: Path, without: int = -1) -> Path:
        """The flatbuffer, in a file."""
        path.write_bytes(self.bytes(without))
        return path


def conv(
    net: Network, source: int, out: int, weights: Any = None, *, bias: bool = True, axis: int = 0,
    weight_scale: Any = 0.1, kind: str = "CONV_2D", options: str = "Conv2DOptions", **values: Any,
) -> tuple[int, ...]:  # fmt: skip
    """A convolution of stride 1, ``weights`` being an array or a tensor's index."""
    if not isinstance(weights, int):
        weights = net.constant(weights, scale=weight_scale, axis=axis)
    shape = net.subgraph.tensors[weights].shape
    channels = shape[-1] if kind == "DEPTHWISE_CONV_2D" else shape[0]
    inputs = [source, weights]
    if bias:
        inputs.append(_bias(net, weights, channels))
    steps: dict[str, Any] = {} if kind == "FULLY_CONNECTED" else {"strideW": 1, "strideH": 1}
    if kind == "DEPTHWISE_CONV_2D":
        steps["depthMultiplier"] = 1
    return net.add(kind, inputs, out, options=options, **{"version": 3, **steps, **values})


def _bias(net: Network, weights: int, channels: int) -> int:
    described = net.subgraph.tensors[weights]
    if described.type == schema.TensorType.FLOAT32:
        return net.constant(np.zeros(channels, np.float32))
    scales = [0.1 * scale for scale in described.quantization.scale]
    return net.constant(np.zeros(channels, np.int32), scale=scales)
