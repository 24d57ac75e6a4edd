"""What a flatbuffer does in more steps than it needs, which costs an int8 network dear.

Shapes that it computes as it runs are computed once: with fixed inputs they are the same each time. TensorFlow writes
``SHAPE -> STRIDED_SLICE -> PACK -> RESHAPE`` wherever the batch is open. SHAPE has no int8 kernel, and XNNPACK takes no
RESHAPE whose shape it does not know.

A RELU that stands alone behind a convolution or an addition becomes its fused activation. Of int8 XNNPACK takes none that
stands alone, and what lies before it needs a range for the half that is thrown away.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np

from vedette.engine import load_runtime
from vedette.engine.native_log import captured_stderr


def fold_shapes(model: Any, schema: Any, flatbuffer: bytes) -> bool:
    """SHAPE, and what is computed of it and of constants alone, becomes constants, in place. Whether there was any.

    ``flatbuffer``: the same model packed, with its inputs' shapes fixed. A network that computes integers of anything else,
    or has subgraphs or ops of its own, is left as it is: there a shape may hang on what is fed.
    """
    codes, integers = schema.BuiltinOperator, (schema.TensorType.INT32, schema.TensorType.INT64)
    graph = model.subgraphs[0]
    known = {n for n, tensor in enumerate(graph.tensors) if _has_data(model.buffers[tensor.buffer])}
    folded, left, joined = [], [], set()
    named = []
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        named.append((op, max(code.builtinCode, code.deprecatedBuiltinCode)))
        if named[-1][1] == codes.CONCATENATION:  # in which ai-edge-quantizer takes no constant
            joined |= {*_numbers(op.inputs)}
    for op, builtin in named:
        taken, made = _numbers(op.inputs), _numbers(op.outputs)
        whole = [graph.tensors[n].type in integers for n in made]
        shapes = all(whole) or (builtin == codes.FILL and not joined & {*made})
        if builtin == codes.SHAPE or (shapes and taken and all(n in known or n < 0 for n in taken)):
            folded.append(op)
            known |= {*made}
            continue
        if builtin == codes.CUSTOM or any(whole):
            return False
        left.append(op)
    if not folded or len(model.subgraphs) > 1:
        return False
    module = load_runtime("litert").module
    with captured_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the memory that keeping takes
        interpreter = module.Interpreter(
            model_content=flatbuffer,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        interpreter.invoke()
    read, graph.operators = {*_numbers(graph.outputs)}, []
    for op in reversed(left):  # without those whose shape alone was asked for
        if read & {*_numbers(op.outputs)}:
            read |= {*_numbers(op.inputs)}
            graph.operators = [op, *graph.operators]
    for number in sorted(read & {n for op in folded for n in _numbers(op.outputs)}):
        value = np.asarray(interpreter.get_tensor(number))
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        graph.tensors[number].buffer = len(model.buffers)
        model.buffers.append(buffer)
    for detail in interpreter.get_tensor_details():  # what was written for an open batch is no shape of any run
        if detail["index"] < len(graph.tensors):  # behind them stand the kernels' own
            tensor = graph.tensors[detail["index"]]
            tensor.shape, tensor.shapeSignature = np.asarray(detail["shape"], np.int32), None
    return True


def fuse_activations(model: Any, schema: Any) -> bool:
    """RELU, RELU6 and RELU_N1_TO_1 become part of what makes their input, where nothing else reads that, in place. Whether
    there was any."""
    codes, functions = schema.BuiltinOperator, schema.ActivationFunctionType
    fused = {getattr(codes, name): getattr(functions, name) for name in ("RELU", "RELU6", "RELU_N1_TO_1")}
    takes = (codes.CONV_2D, codes.DEPTHWISE_CONV_2D, codes.FULLY_CONNECTED, codes.ADD)
    changed = False
    for graph in model.subgraphs:
        readers = Counter(n for op in graph.operators for n in _numbers(op.inputs)) + Counter(_numbers(graph.outputs))
        makers: dict[int, Any] = {}
        kept = []
        for op in graph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            maker = makers.pop(int(op.inputs[0]), None) if builtin in fused else None
            if maker is not None and readers[int(op.inputs[0])] == 1:
                maker.builtinOptions.fusedActivationFunction, maker.outputs = fused[builtin], op.outputs
                changed = True
                continue
            kept.append(op)
            options = op.builtinOptions if builtin in takes else None
            if options is not None and options.fusedActivationFunction == functions.NONE:
                makers[int(op.outputs[0])] = op
        graph.operators = kept
    return changed


def _numbers(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _has_data(buffer: Any) -> bool:
    return (buffer.data is not None and len(buffer.data) > 0) or buffer.offset > 1
