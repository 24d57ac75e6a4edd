"""The graph inside a ``.tflite`` file, read from its flatbuffer: no interpreter, no TensorFlow.

Source: the TFLite schema, whose Python reader ships with LiteRT (``ai_edge_litert.schema_py_generated``). That reader
trusts every offset it meets. So the numbers that could keep it busy for long are bounded here, buffers must lie inside
the file, indices must point to something, and whatever else it stumbles over is one `ModelError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from vedette.contract.bundle import MAX_FLATBUFFER, check_flatbuffer_head, has_archive, open_bundle
from vedette.contract.errors import MissingPackageError, ModelError

MAX_OPS: Final = 20_000  # the largest network seen here has 388
MAX_TENSORS: Final = 100_000
MAX_BUFFERS: Final = 200_000
MAX_RANK: Final = 16
_CONSTANT: Final = 4096  # constants of at most so many bytes are kept: shapes, axes, paddings, strides
_LABEL: Final = 40  # characters
_INTEGERS: Final[Mapping[str, str]] = {"INT32": "<i4", "INT64": "<i8", "INT8": "i1", "UINT8": "u1"}
_OPTIONS: Final = (
    "FusedActivationFunction", "Padding", "StrideW", "StrideH", "FilterWidth", "FilterHeight", "DilationWFactor",
    "DilationHFactor", "DepthMultiplier", "Axis", "KeepDims", "KeepNumDims", "WeightsFormat", "Beta", "Alpha",
    "AlignCorners", "HalfPixelCenters", "BlockSize", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask", "NumSplits",
    "AdjX", "AdjY",
)  # fmt: skip
_ACTIVATIONS: Final = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """real = scale * (q - zero_point); one pair a tensor, or one a channel along ``axis``."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        """More than one scale."""
        return len(self.scales) > 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the graph."""

    index: int
    name: str
    shape: tuple[int, ...]  # as the interpreter plans it; an open dimension has the size 1 or what the file says
    open: tuple[int, ...]  # the dimensions that are left open, 0 being the batch of most tensors
    dtype: str  # the schema's name: "INT8", "FLOAT32"
    constant: bool  # its data stands in the file
    sparse: bool  # stored with sparsity parameters
    variable: bool
    size_bytes: int  # in the file; 0 unless `constant`
    quantisation: Quantisation | None
    value: tuple[int, ...] | None  # a small integer constant's elements

    @property
    def dynamic(self) -> bool:
        """A size beyond the batch is known at run time only."""
        return any(axis > 0 for axis in self.open)

    @property
    def elements(self) -> int:
        """How many; a dimension that is not known counts as 1."""
        return int(np.prod([max(1, n) for n in self.shape], dtype=np.int64))

    @property
    def kind(self) -> str:
        """``int8 1x19x19x96``; an open dimension is a question mark."""
        shape = "x".join("?" if axis in self.open or n < 0 else str(n) for axis, n in enumerate(self.shape))
        return f"{self.dtype.lower()} {shape or 'scalar'}"

    @property
    def label(self) -> str:
        """The name in quotes, short enough for a message: converters join the names of all they fused by semicolons."""
        first = self.name.partition(";")[0]
        return repr(first if len(first) <= _LABEL else f"...{first[-_LABEL:]}")


@dataclass(frozen=True, slots=True)
class Op:
    """One operation, in the order of execution."""

    index: int
    kind: str  # the schema's name: "CONV_2D"; a custom op's own name
    custom: bool
    version: int
    inputs: tuple[Tensor | None, ...]  # None: an optional input left out
    outputs: tuple[Tensor, ...]
    options: Mapping[str, int | float | bool]  # by the schema's names, those in `_OPTIONS`

    @property
    def name(self) -> str:
        """Its first output's: what a graph viewer shows. Operations have no name of their own."""
        return self.outputs[0].name if self.outputs else ""

    @property
    def activation(self) -> str:
        """The fused one: ``NONE``, ``RELU6``, ..."""
        index = int(self.options.get("FusedActivationFunction", 0))
        return _ACTIVATIONS[index] if 0 <= index < len(_ACTIVATIONS) else f"activation {index}"

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs and outputs, without the optional ones left out."""
        return (*(tensor for tensor in self.inputs if tensor is not None), *self.outputs)

    def input(self, position: int) -> Tensor | None:
        """The input at this position, None where there is none."""
        return self.inputs[position] if position < len(self.inputs) else None

    @property
    def macs(self) -> int:
        """Multiply-adds of one run; 0 for what does not multiply by weights."""
        if not self.outputs:
            return 0
        weights, out = self.input(1), self.outputs[0]
        if weights is None or not weights.shape:
            return 0
        if self.kind in ("CONV_2D", "FULLY_CONNECTED"):  # OHWI, OI
            return out.elements * int(np.prod(weights.shape[1:], dtype=np.int64))
        if self.kind == "DEPTHWISE_CONV_2D" and len(weights.shape) == 4:  # 1HWO
            return out.elements * weights.shape[1] * weights.shape[2]
        source = self.input(2)
        if self.kind == "TRANSPOSE_CONV" and source is not None and len(weights.shape) == 4:
            return source.elements * weights.shape[0] * weights.shape[1] * weights.shape[2]
        first = self.input(0)
        if self.kind == "BATCH_MATMUL" and first is not None and first.shape:
            return out.elements * first.shape[-2 if self.options.get("AdjX") and len(first.shape) > 1 else -1]
        return 0


@dataclass(frozen=True, slots=True)
class Graph:
    """The first subgraph of a model, which is the one that runs."""

    path: Path
    flatbuffer: bytes  # without what may be appended to it
    ops: tuple[Op, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    subgraphs: int

    @property
    def producers(self) -> dict[int, Op]:
        """Tensor index -> the op that makes it."""
        return {tensor.index: op for op in self.ops for tensor in op.outputs}

    @property
    def consumers(self) -> dict[int, list[Op]]:
        """Tensor index -> the ops that read it."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(t.index for t in op.inputs if t is not None):
                found.setdefault(tensor, []).append(op)
        return found

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return sum(op.macs for op in self.ops)

    @property
    def quantised(self) -> bool:
        """Whether some layer with weights computes in 8 bits: input, weights and output."""
        return any(
            op.macs and op.outputs[0].dtype in ("INT8", "UINT8") and (w := op.input(1)) is not None
            and w.dtype in ("INT8", "UINT8", "INT4", "INT2")
            for op in self.ops
        )  # fmt: skip


def read_graph(path: Path) -> Graph:
    """Reads a ``.tflite`` file or a bundle, which is verified on the way.

    Raises `ModelError` where the file is no TFLite model or is damaged, `BundleError` where it is a bundle that does not
    hold what it promises, `MissingPackageError` without LiteRT.
    """
    if has_archive(path):
        size = open_bundle(path).manifest.flatbuffer_bytes
    else:
        size = -1
    try:
        with path.open("rb") as file:
            check_flatbuffer_head(file, path)
            file.seek(0)
            data = file.read(size if size >= 0 else MAX_FLATBUFFER)
    except OSError as error:
        raise ModelError("cannot be read", where=path, found=error.strerror or str(error)) from None
    return parse_graph(data, path)


def parse_graph(data: bytes, path: Path) -> Graph:
    """Reads a flatbuffer; ``path`` is what errors name. Raises `ModelError`."""
    schema = _schema()
    try:
        return _Reader(schema, data, path).graph()
    except ModelError:
        raise
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError,
            RecursionError) as error:  # fmt: skip
        raise _damaged(path, "tables that lie inside the file", " ".join(str(error).split()) or "none") from None


def _damaged(path: Path, expected: str, found: object) -> ModelError:
    return ModelError(
        "damaged flatbuffer", where=path, expected=expected, found=str(found),
        fix="the file is truncated or corrupt: get it again",
    )  # fmt: skip


@cache
def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingPackageError(
            "no reader of the TFLite schema", expected="ai-edge-litert", found=str(error),
            fix="pip install ai-edge-litert",
        ) from None  # fmt: skip
    return schema_py_generated


@cache
def _names(enumeration: str) -> dict[int, str]:
    return {value: name for name, value in vars(getattr(_schema(), enumeration)).items() if not name.startswith("_")}


class _Reader:
    def __init__(self, schema: Any, data: bytes, path: Path) -> None:
        self._schema = schema
        self._data = data
        self._path = path

    def graph(self) -> Graph:
        model = self._schema.Model.GetRootAs(self._data, 0)
        subgraphs = model.SubgraphsLength()
        if not 1 <= subgraphs <= MAX_OPS:
            raise _damaged(self._path, "at least one subgraph", subgraphs)
        self._bounded("buffers", model.BuffersLength(), MAX_BUFFERS)
        self._bounded("operator codes", model.OperatorCodesLength(), MAX_OPS)
        for index in range(model.BuffersLength()):
            self._buffer_bytes(model, index)
        codes = [self._code(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())]
        subgraph = model.Subgraphs(0)
        self._bounded("tensors", subgraph.TensorsLength(), MAX_TENSORS)
        self._bounded("operations", subgraph.OperatorsLength(), MAX_OPS)
        tensors = tuple(self._tensor(model, subgraph.Tensors(i), i) for i in range(subgraph.TensorsLength()))
        ops = tuple(self._op(subgraph.Operators(i), i, codes, tensors) for i in range(subgraph.OperatorsLength()))
        if not ops:
            raise _damaged(self._path, "at least one operation", 0)
        return Graph(
            path=self._path, flatbuffer=self._data, ops=ops, tensors=tensors,
            inputs=tuple(self._at(tensors, i) for i in self._indices(subgraph.InputsAsNumpy())),
            outputs=tuple(self._at(tensors, i) for i in self._indices(subgraph.OutputsAsNumpy())),
            subgraphs=subgraphs,
        )  # fmt: skip

    def _bounded(self, what: str, number: int, most: int) -> None:
        if not 0 <= number <= most:
            raise _damaged(self._path, f"at most {most} {what}", number)

    def _buffer_bytes(self, model: Any, index: int) -> int:
        """Size of a buffer's data, which must lie inside the file."""
        if not 0 <= index < model.BuffersLength():
            raise _damaged(self._path, f"a buffer's index below {model.BuffersLength()}", index)
        buffer = model.Buffers(index)
        if buffer is None:
            raise _damaged(self._path, f"buffer {index}", "none")
        offset, size = buffer.Offset(), buffer.Size()
        if offset > 1:  # schema: data of files above 2 GB stands behind the flatbuffer; 0 and 1 mean it does not
            return int(size)
        length = int(buffer.DataLength())
        if length and len(buffer.DataAsNumpy()) != length:  # raises where it would reach beyond the end
            raise _damaged(self._path, f"{length} bytes in buffer {index}", len(buffer.DataAsNumpy()))
        return length

    def _code(self, code: Any) -> tuple[str, bool, int]:
        # schema: codes above 127 stand in the new field, older files have the old one alone
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = _names("BuiltinOperator").get(number, f"operator {number}")
        if name == "CUSTOM":
            return (code.CustomCode() or b"").decode("utf-8", "replace") or "CUSTOM", True, code.Version()
        return name, False, code.Version()

    def _tensor(self, model: Any, tensor: Any, index: int) -> Tensor:
        self._bounded("dimensions", tensor.ShapeLength(), MAX_RANK)
        shape = self._indices(tensor.ShapeAsNumpy())
        signature = self._indices(tensor.ShapeSignatureAsNumpy())
        size = self._buffer_bytes(model, tensor.Buffer()) if tensor.Buffer() else 0
        dtype = _names("TensorType").get(tensor.Type(), f"type {tensor.Type()}")
        value = None
        if 0 < size <= _CONSTANT and dtype in _INTEGERS:
            raw = model.Buffers(tensor.Buffer()).DataAsNumpy()
            if not isinstance(raw, int):
                kind = np.dtype(_INTEGERS[dtype])
                whole = raw.tobytes()
                value = tuple(int(n) for n in np.frombuffer(whole[: len(whole) // kind.itemsize * kind.itemsize], kind))
        return Tensor(
            index=index,
            name=(tensor.Name() or b"").decode("utf-8", "replace"),
            shape=shape,
            open=tuple(axis for axis, n in enumerate(signature or shape) if n < 0),
            dtype=dtype,
            constant=size > 0,
            sparse=tensor.Sparsity() is not None,
            variable=bool(tensor.IsVariable()),
            size_bytes=size,
            quantisation=self._quantisation(tensor),
            value=value,
        )

    def _quantisation(self, tensor: Any) -> Quantisation | None:
        parameters = tensor.Quantization()
        if parameters is None or parameters.ScaleLength() == 0:
            return None
        zero_points = parameters.ZeroPointAsNumpy() if parameters.ZeroPointLength() else ()
        return Quantisation(
            tuple(float(scale) for scale in parameters.ScaleAsNumpy()),
            tuple(int(zero) for zero in zero_points),
            int(parameters.QuantizedDimension()),
        )

    def _op(self, op: Any, index: int, codes: Sequence[tuple[str, bool, int]], tensors: Sequence[Tensor]) -> Op:
        if not 0 <= op.OpcodeIndex() < len(codes):
            raise _damaged(self._path, f"an operator code below {len(codes)} in operation {index}", op.OpcodeIndex())
        kind, custom, version = codes[op.OpcodeIndex()]
        inputs = self._indices(op.InputsAsNumpy())
        return Op(
            index=index, kind=kind, custom=custom, version=version,
            inputs=tuple(None if i < 0 else self._at(tensors, i) for i in inputs),
            outputs=tuple(self._at(tensors, i) for i in self._indices(op.OutputsAsNumpy())),
            options={} if custom else self._options(op),
        )  # fmt: skip

    def _options(self, op: Any) -> dict[str, int | float | bool]:
        kind = _names("BuiltinOptions").get(op.BuiltinOptionsType(), "NONE")
        table = op.BuiltinOptions()
        reader = getattr(self._schema, kind, None)
        if table is None or reader is None:
            return {}
        options = reader()
        options.Init(table.Bytes, table.Pos)
        return {name: getattr(options, name)() for name in _OPTIONS if hasattr(options, name)}

    def _indices(self, array: Any) -> tuple[int, ...]:
        if isinstance(array, int):  # the reader's way to say that there is none
            return ()
        self._bounded("elements of a vector", len(array), MAX_TENSORS)
        return tuple(int(n) for n in array)

    def _at(self, tensors: Sequence[Tensor], index: int) -> Tensor:
        if not 0 <= index < len(tensors):
            raise _damaged(self._path, f"a tensor's index below {len(tensors)}", index)
        return tensors[index]
