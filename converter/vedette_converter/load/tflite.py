"""TFLite flatbuffers with float weights. The schema: tensorflow/compiler/mlir/lite/schema/schema.fbs.

Weights stored as float16 (behind a DEQUANTIZE each) are widened to float32; a picture wanted as NCHW gets a TRANSPOSE in
front; shapes that it computes are computed once; a RELU that stands alone is fused. Nothing else of the file is changed, and
an unchanged file is handed on byte by byte.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from vedette.contract.errors import ModelError
from vedette.contract.types import TensorSpec
from vedette.engine import TfliteEngine, load_runtime, probe

from ..recipe.sources import TfliteSource
from ..source import SourceFiles
from ..tensorflow import load_tensorflow
from .folding import fold_shapes, fuse_activations
from .graph import first_line, refuse_bad
from .network import Network
from .shapes import TO_CHANNELS_FIRST, Fed, Shape, fix_shape, only_given

_INTEGERS: Final = ("INT8", "UINT8", "INT16", "INT4", "UINT4", "INT2")


def load(source: TfliteSource, files: SourceFiles, input_shape: Shape | None) -> Network:
    """The network in the flatbuffer.

    Raises `ModelError` where the file is none, is truncated, is quantised, sparse, or needs an op the runtime lacks.
    """
    return from_flatbuffer(files.only, files.where, input_shape)


def from_flatbuffer(content: bytes, where: str, input_shape: Shape | None = None, *, fixed: bool = False) -> Network:
    """A flatbuffer as a `Network`: see `load`. ``fixed``: the shapes it runs with by itself are the ones that are meant."""
    if content[4:8] != b"TFL3":
        raise ModelError(
            "no TFLite model", where=where, expected="a flatbuffer with the identifier TFL3",
            found=repr(content[4:8]), fix="the file is of another format, or not whole",
        )  # fmt: skip
    _try_out(content, where)
    model = _parse(content, where)
    _refuse_quantised(model, where)
    changed = _widen(model, where)
    refuse_bad_buffers(model, where)
    if fuse_activations(model, _schema()):
        _sweep(model, _schema().TensorType.FLOAT32)
        changed = True
    graph = model.subgraphs[0]
    inputs = [graph.tensors[index] for index in graph.inputs]
    names = [_name(tensor) for tensor in inputs]
    given = only_given(names, input_shape, where)
    for number, (name, tensor) in enumerate(zip(names, inputs, strict=True)):
        fed = Fed(_shape(tensor)) if fixed else fix_shape(name, _declared(tensor), given, where)
        changed |= tuple(tensor.shape) != fed.inner
        tensor.shape = np.asarray(fed.inner, np.int32)
        if tensor.shapeSignature is not None:
            tensor.shapeSignature, changed = None, True
        if fed.channels_first:
            _transpose_input(model, number, fed)
            changed = True
    if fixed:
        for tensor in graph.tensors:  # onnx2tf leaves sizes open that it has worked out
            if tensor.shapeSignature is not None and -1 in tensor.shapeSignature:
                tensor.shapeSignature, changed = None, True
    flatbuffer = _pack(model) if changed else content
    network = _network(flatbuffer, where)
    if not fold_shapes(model, _schema(), flatbuffer):
        return network
    for kind in (_schema().TensorType.INT32, _schema().TensorType.INT64):
        _sweep(model, kind)
    return _network(_pack(model), where)


def with_transposed_input(network: Network, shape: Shape, order: tuple[int, ...], where: str) -> Network:
    """The network of one input, fed with ``shape``, whose axes are put in ``order`` before it. Raises `ModelError`."""
    assert network.flatbuffer is not None
    model = _parse(network.flatbuffer, where)
    _put_transpose(model, 0, shape, order)
    return _network(_pack(model), where)


def _try_out(content: bytes, where: str) -> None:
    """Runs it once in a child process, for a damaged flatbuffer can take the process down."""
    with tempfile.NamedTemporaryFile(prefix="vedette-", suffix=".tflite") as file:
        file.write(content)
        file.flush()
        try:
            probe(Path(file.name))
        except ModelError as error:
            problem = error.problem if error.fix else "the TFLite runtime will not have it"
            found = error.found.replace(file.name, where)
            raise ModelError(problem, where=where, expected=error.expected, found=found, fix=error.fix) from None


def _network(flatbuffer: bytes, where: str) -> Network:
    with tempfile.NamedTemporaryFile(prefix="vedette-", suffix=".tflite") as file:
        file.write(flatbuffer)
        file.flush()
        try:
            engine = TfliteEngine(Path(file.name), load_runtime())
        except ModelError as error:
            raise ModelError("cannot be run with this shape", where=where, found=error.found) from None
    for kind, specs in (("input", engine.inputs), ("output", engine.outputs)):
        for spec in specs:
            if spec.dtype != np.float32:
                raise ModelError(f"{kind} {spec.name}", where=where, expected="float32", found=str(spec.dtype))
    inputs = tuple(_plain(spec) for spec in engine.inputs)
    outputs = tuple(_plain(spec) for spec in engine.outputs)
    engine.close()
    return Network(inputs, outputs, None, flatbuffer=flatbuffer)


def _plain(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.shape, spec.dtype)


def _schema() -> Any:
    load_tensorflow()
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def _parse(content: bytes, where: str) -> Any:
    try:
        model = _schema().ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:  # noqa: BLE001 - struct.error, IndexError, TypeError: whatever a wild offset leads to
        raise ModelError("damaged flatbuffer", where=where, found=first_line(error), fix="get it again") from None
    if not model.subgraphs:
        raise ModelError("no network", where=where, expected="a subgraph", found="none")
    return model


def _pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _name(tensor: Any) -> str:
    return tensor.name.decode("utf-8", "replace") if isinstance(tensor.name, bytes) else str(tensor.name)


def _shape(tensor: Any) -> Shape:
    return tuple(int(dim) for dim in tensor.shape)


def _declared(tensor: Any) -> list[int | None]:
    stated = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    return [None if dim < 0 else int(dim) for dim in ([] if stated is None else stated)]


def _refuse_quantised(model: Any, where: str) -> None:
    schema = _schema()
    kinds = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            scales = getattr(tensor.quantization, "scale", None)
            if kinds.get(tensor.type) in _INTEGERS and scales is not None and len(scales):
                found[kinds[tensor.type]] += 1
            if tensor.sparsity is not None:
                raise ModelError(
                    "sparse weights", where=f"{where}: {_name(tensor)}", expected="dense float weights",
                    fix="use the network's dense edition",
                )  # fmt: skip
    if found:
        kind, count = found.most_common(1)[0]
        raise ModelError(
            "already quantised", where=where, expected="float32 throughout", found=f"{count} tensors of {kind}",
            fix="use the network's float edition: what was rounded away does not come back",
        )  # fmt: skip


def _widen(model: Any, where: str) -> bool:
    """float16 constants behind a DEQUANTIZE become float32 constants, in place. Whether there were any."""
    schema = _schema()
    float16, float32 = schema.TensorType.FLOAT16, schema.TensorType.FLOAT32
    changed = False
    for graph in model.subgraphs:
        kept = []
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            source = graph.tensors[operator.inputs[0]] if operator.inputs is not None and len(operator.inputs) else None
            data = None if source is None else model.buffers[source.buffer].data
            if builtin != schema.BuiltinOperator.DEQUANTIZE or source is None or source.type != float16 or data is None:
                kept.append(operator)
                continue
            wide = np.frombuffer(bytes(data), np.float16).astype("<f4")
            target = graph.tensors[operator.outputs[0]]
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(wide.tobytes(), np.uint8)
            target.buffer, target.type, target.quantization = len(model.buffers), float32, None
            model.buffers.append(buffer)
            model.buffers[source.buffer].data = None
            changed = True
        graph.operators = kept
        if any(tensor.type == float16 and model.buffers[tensor.buffer].data is not None for tensor in graph.tensors):
            raise ModelError("float16 arithmetic", where=where, expected="float32", fix="use the float32 edition")
    if changed:
        _sweep(model, float16)
    return changed


def _sweep(model: Any, kind: int) -> None:
    """Drops tensors of a dtype that nothing reads any more; the numbers of the others move up."""
    for graph in model.subgraphs:
        used = {int(i) for op in graph.operators for i in (*_numbers(op.inputs), *_numbers(op.outputs))}
        used |= {int(i) for i in (*_numbers(graph.inputs), *_numbers(graph.outputs))}
        keep = [i for i, tensor in enumerate(graph.tensors) if i in used or tensor.type != kind]
        places = {old: new for new, old in enumerate(keep)}
        places[-1] = -1  # an optional input that is left out
        graph.tensors = [graph.tensors[i] for i in keep]
        for op in graph.operators:
            op.inputs = [places[int(i)] for i in _numbers(op.inputs)]
            op.outputs = [places[int(i)] for i in _numbers(op.outputs)]
        graph.inputs = [places[int(i)] for i in _numbers(graph.inputs)]
        graph.outputs = [places[int(i)] for i in _numbers(graph.outputs)]
    for signature in model.signatureDefs or []:
        first = model.subgraphs[signature.subgraphIndex]
        for tensors, numbers in ((signature.inputs, first.inputs), (signature.outputs, first.outputs)):
            if tensors is not None and len(tensors) > len(numbers):
                model.signatureDefs = None
                return
    model.signatureDefs = None  # they count tensors; the engine goes by inputs and outputs


def _numbers(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def refuse_bad_buffers(model: Any, where: str) -> None:
    """Raises `ModelError` where a constant float tensor of a parsed flatbuffer holds NaN or infinity."""
    schema = _schema()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if tensor.type == schema.TensorType.FLOAT32 and data is not None and len(data):
                values = np.frombuffer(bytes(data), "<f4")
                refuse_bad(values, _name(tensor), where, scalars_may=True)


def _transpose_input(model: Any, number: int, fed: Fed) -> None:
    _put_transpose(model, number, fed.shape, TO_CHANNELS_FIRST)


def _put_transpose(model: Any, number: int, shape: Shape, order: tuple[int, ...]) -> None:
    """A new input of ``shape`` whose axes a TRANSPOSE puts in ``order`` for the input there was, in place."""
    schema = _schema()
    graph = model.subgraphs[0]
    inner = int(graph.inputs[number])
    axes = schema.BufferT()
    axes.data = np.frombuffer(np.asarray(order, "<i4").tobytes(), np.uint8)
    model.buffers.extend([axes, schema.BufferT()])
    fed_name = _name(graph.tensors[inner])
    entry, permutation = schema.TensorT(), schema.TensorT()
    entry.name, entry.shape = f"{fed_name}_nhwc", np.asarray(shape, np.int32)
    entry.type, entry.buffer = schema.TensorType.FLOAT32, len(model.buffers) - 1
    permutation.name, permutation.shape = f"{fed_name}_order", np.asarray([len(order)], np.int32)
    permutation.type, permutation.buffer = schema.TensorType.INT32, len(model.buffers) - 2
    graph.tensors = [*graph.tensors, entry, permutation]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE
    code.version = 1
    model.operatorCodes = [*model.operatorCodes, code]
    transpose = schema.OperatorT()
    transpose.opcodeIndex = len(model.operatorCodes) - 1
    transpose.inputs = [len(graph.tensors) - 2, len(graph.tensors) - 1]
    transpose.outputs = [inner]
    transpose.builtinOptionsType = schema.BuiltinOptions.TransposeOptions
    transpose.builtinOptions = schema.TransposeOptionsT()
    graph.operators = [transpose, *graph.operators]
    numbers = _numbers(graph.inputs)
    numbers[number] = len(graph.tensors) - 2
    graph.inputs = numbers
    model.signatureDefs = None
