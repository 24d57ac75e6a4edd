"""ai-edge-quantizer: float flatbuffer -> quantised flatbuffer, without TensorFlow, op by op, with ranges of our own."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import numpy as np

from vedette.contract.errors import FaultError, MissingPackageError

from .graph import GraphOp
from .pack import compact
from .ranges import Range

Dtype = Literal["int8", "uint8", "int16", "float32"]
_ACTIVATIONS: Final[dict[str, dict[str, Any]]] = {  # symmetric int16: the spec allows no zero point there
    "int8": {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"},
    "uint8": {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "UINT"},
    "int16": {"num_bits": 16, "symmetric": True, "granularity": "TENSORWISE", "dtype": "INT"},
}
_WEIGHTS: Final = {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}


def float16(flatbuffer: bytes) -> bytes:
    """Weights in float16, arithmetic in float32."""
    config = {"weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT"}, "compute_precision": "FLOAT",
              "explicit_dequantize": True}  # fmt: skip
    return _quantise(flatbuffer, [_rule(".*", "*", config, "float_casting")], None)


def dynamic(flatbuffer: bytes) -> bytes:
    """Weights in int8, activations in float32, quantised on the fly; depthwise convolutions stay float32.

    TFLite has no fast kernel for a depthwise convolution of that kind: with it MobileNetV2 is several times slower
    than without.
    """
    config = {"weight_tensor_config": _WEIGHTS, "compute_precision": "INTEGER", "explicit_dequantize": False}
    recipe = [_rule(".*", "*", config), _leave(".*", "DEPTHWISE_CONV_2D")]
    return _quantise(flatbuffer, recipe, None)


def integer(
    flatbuffer: bytes,
    ranges: Mapping[str, Range],
    *,
    activations: Literal["int8", "int16"] = "int8",
    input_dtype: Dtype = "int8",
    output_dtype: Dtype = "int8",
    keep_float: Iterable[GraphOp] = (),
    only: GraphOp | None = None,
) -> bytes:
    """Everything in integers that has such a kernel, less ``keep_float``; or ``only`` one op.

    ``ranges``: by the names of the float flatbuffer's tensors. Raises `FaultError`.
    """
    recipe = [_rule(".*" if only is None else _exactly(only), "*", _static(activations))]
    recipe += [_leave(_exactly(op), "*") for op in keep_float]
    for end, dtype in (("INPUT", input_dtype), ("OUTPUT", output_dtype)):
        recipe.append(_leave(".*", end) if dtype == "float32" else _rule(".*", end, _static(dtype)))
    statistics = {
        name: {"min": np.array([seen.low], np.float32), "max": np.array([seen.high], np.float32)}
        for name, seen in ranges.items()
    }
    return _quantise(flatbuffer, recipe, statistics)


def _static(dtype: str) -> dict[str, Any]:
    return {"activation_tensor_config": _ACTIVATIONS[dtype], "weight_tensor_config": _WEIGHTS,
            "compute_precision": "INTEGER", "explicit_dequantize": False}  # fmt: skip


def _rule(
    regex: str, op: str, config: Mapping[str, Any], algorithm: str = "min_max_uniform_quantize"
) -> dict[str, Any]:
    return {"regex": regex, "operation": op, "algorithm_key": algorithm, "op_config": dict(config)}


def _leave(regex: str, op: str) -> dict[str, Any]:
    return _rule(regex, op, {}, "no_quantize")


def _exactly(op: GraphOp) -> str:
    """The quantiser searches in the op's output names, each followed by a semicolon."""
    scope = "".join(f"{tensor.name};" for tensor in op.outputs)
    return f"^{re.escape(scope)}$"


def _quantise(flatbuffer: bytes, recipe: list[dict[str, Any]], statistics: dict[str, Any] | None) -> bytes:
    try:
        from ai_edge_quantizer.quantizer import Quantizer
    except ImportError as error:
        raise MissingPackageError(
            "ai-edge-quantizer is needed to quantise a flatbuffer",
            found=str(error),
            fix="pip install 'vedette[converter]'",
        ) from None
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # it draws bars of its own
            warnings.simplefilter("ignore")
            quantizer = Quantizer(_as_converters_write_today(flatbuffer), recipe)
            made = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise FaultError(
            "ai-edge-quantizer cannot quantise the network", found=said[:500],
            fix='take precision = "dynamic" or "float16" (--quantise)' if statistics is not None else "",
        ) from None  # fmt: skip
    finally:
        logger.setLevel(before)
    return compact(_with_parts_nobody_reads(bytes(made.quantized_model)))


def _as_converters_write_today(flatbuffer: bytes) -> bytearray:
    """The quantiser goes over a list of signatures, which may be empty and which many files have not; and it knows an op by
    the field alone that files of before 2020 leave at 0, which is ADD.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    old = [code for code in model.operatorCodes if code.builtinCode < code.deprecatedBuiltinCode]
    if model.signatureDefs is not None and not old:
        return bytearray(flatbuffer)
    for code in old:
        code.builtinCode = code.deprecatedBuiltinCode
    model.signatureDefs = model.signatureDefs or []
    return bytearray(flatbuffer_utils.convert_object_to_bytearray(model))


def _with_parts_nobody_reads(flatbuffer: bytes) -> bytes:
    """The quantiser leaves such a part of a SPLIT or UNPACK in float32, which no kernel has beside integer parts.

    The first step of an unrolled LSTM has one: what its forget gate lets through of a cell that is still 0.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    op_codes = schema.BuiltinOperator
    divided = {op_codes.SPLIT: 1, op_codes.SPLIT_V: 0, op_codes.UNPACK: 0}  # which of its inputs
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    changed = False
    for subgraph in model.subgraphs:
        read = {index for op in subgraph.operators for index in op.inputs} | set(subgraph.outputs)
        for op in subgraph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            place = divided.get(max(code.builtinCode, code.deprecatedBuiltinCode))
            if place is None:
                continue
            whole = subgraph.tensors[op.inputs[place]]
            for index in op.outputs:
                part = subgraph.tensors[index]
                if index not in read and part.type == schema.TensorType.FLOAT32 != whole.type:
                    part.type, part.quantization, changed = whole.type, whole.quantization, True
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if changed else flatbuffer
