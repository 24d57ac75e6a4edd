"""What is worth knowing of a whole network, beyond where its operations run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .edgetpu import CUSTOM_OP
from .graph import Graph
from .xnnpack import CUSTOM

Severity: TypeAlias = Literal["error", "warning", "hint"]
KERNELS: Final = CUSTOM | {"TFLite_Detection_PostProcess"}
"""Custom operations that LiteRT and tflite-runtime bring a kernel for, or that XNNPACK takes."""
_LAYOUT: Final = frozenset({"TRANSPOSE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "PACK", "UNPACK"})
_LAYOUT_SHARE: Final = 0.15  # of all operations; an SSD head has a RESHAPE an output: the shipped detector 13 in 113
_LAYOUT_LEAST: Final = 4
_MULTIPLE: Final = 8  # output channels that XNNPACK's int8 kernels compute at once, or a multiple of it


@dataclass(frozen=True, slots=True)
class Finding:
    """``error``: it does not run there, or must not be shipped. ``warning``: it costs. ``hint``: it may be better."""

    severity: Severity
    rule: str
    problem: str
    fix: str = ""


def custom_without_kernel(graph: Graph) -> list[str]:
    """Names of custom operations that no runtime here has a kernel for."""
    return sorted({op.kind for op in graph.ops if op.custom and op.kind not in KERNELS})


def findings(graph: Graph, *, cpu: bool = False) -> list[Finding]:
    """All that holds on every target, and with ``cpu`` what holds on a CPU; worst first."""
    found = [finding for rule in (*_RULES, *(_CPU_RULES if cpu else ())) for finding in rule(graph)]
    return sorted(found, key=lambda finding: ("error", "warning", "hint").index(finding.severity))


def _sparsity(graph: Graph) -> Iterator[Finding]:
    sparse = [tensor for tensor in graph.tensors if tensor.sparse]
    if sparse:
        yield Finding(
            "error", "sparsity",
            f"{len(sparse)} tensors are stored sparse ({sparse[0].label}): no speed is gained, some runtimes do not "
            "load such a file, and one computed wrong results on ARM",
            "convert without Optimize.EXPERIMENTAL_SPARSITY; prune channels to gain speed",
        )  # fmt: skip


def _custom(graph: Graph) -> Iterator[Finding]:
    for name in custom_without_kernel(graph):
        if name == CUSTOM_OP:
            yield Finding(
                "error", "compiled", "the file is compiled for the Edge TPU and runs with its delegate alone",
                "lint the file it was compiled from",
            )  # fmt: skip
        elif name.startswith("Flex"):
            yield Finding(
                "error", "flex", f"{name} is an operation of TensorFlow itself, which no device runtime has",
                "convert with TFLITE_BUILTINS alone, and write it with other operations",
            )  # fmt: skip
        else:
            yield Finding(
                "error", "custom", f"{name} is a custom operation that LiteRT and tflite-runtime have no kernel for",
                "write it with built-in operations",
            )  # fmt: skip


def _float_edges(graph: Graph) -> Iterator[Finding]:
    if not graph.quantised:
        return
    consumers, producers = graph.consumers, graph.producers
    # a detector may compute its boxes in float: that is a result, not a conversion for the caller's sake
    inputs = [t.label for t in graph.inputs if any(op.kind == "QUANTIZE" for op in consumers.get(t.index, []))
              and t.dtype == "FLOAT32"]  # fmt: skip
    converted = [t.label for t in graph.outputs if (op := producers.get(t.index)) and op.kind == "DEQUANTIZE"]
    if inputs or converted:
        yield Finding(
            "warning", "float-edges",
            "an 8-bit network with float " + " and ".join(
                f"{what} ({', '.join(names)})"
                for what, names in (("inputs", inputs), ("outputs", converted)) if names
            ),
            "convert with inference_input_type and inference_output_type int8 or uint8: pixels are 8 bits already",
        )  # fmt: skip


def _add_n(graph: Graph) -> Iterator[Finding]:
    count = sum(op.kind == "ADD_N" for op in graph.ops)
    if count:
        yield Finding(
            "warning", "add-n", f"{count} ADD_N operations, each of which ends a partition",
            "rebuild the network with two-input ADDs: the results are the same",
        )  # fmt: skip


def _dynamic(graph: Graph) -> Iterator[Finding]:
    made = {tensor.index for op in graph.ops for tensor in op.outputs} | {tensor.index for tensor in graph.inputs}
    dynamic = [tensor for tensor in graph.tensors if tensor.index in made and tensor.dynamic]
    if dynamic:
        yield Finding(
            "warning",
            "dynamic",
            f"{len(dynamic)} tensors have a size known at run time only ({dynamic[0].label})",
            "convert with a fixed input shape",
        )
    elif any(tensor.open for tensor in graph.inputs):
        yield Finding(
            "hint",
            "batch",
            "the batch is left open: it is 1 unless somebody resizes the input",
            "convert with batch 1, so that shapes derived from it become constants",
        )


def _hybrid(graph: Graph) -> Iterator[Finding]:
    ops = [
        op for op in graph.ops
        if op.macs and op.outputs[0].dtype == "FLOAT32" and (w := op.input(1)) is not None
        and w.dtype in ("INT8", "INT4", "INT2")
    ]  # fmt: skip
    if ops:
        yield Finding(
            "warning", "hybrid",
            f"{len(ops)} operations multiply float values by {ops[0].inputs[1].dtype.lower() if ops[0].inputs[1] else ''} "
            "weights: smaller, but slower than float on a CPU",
            "calibrate, so that values are int8 too",
        )  # fmt: skip


def _wide(graph: Graph) -> Iterator[Finding]:
    ops = [op for op in graph.ops if op.macs and op.outputs[0].dtype == "INT16"]
    if ops:
        yield Finding(
            "warning", "int16", f"{len(ops)} operations have 16-bit values, which run on slow kernels",
            "quantise values to 8 bits, or keep these layers in float",
        )  # fmt: skip


def _channels(graph: Graph) -> Iterator[Finding]:
    consumers = graph.consumers
    weighted = {op.index for op in graph.ops if op.macs}
    leads: dict[int, bool] = {}  # operation -> another with weights lies behind it
    for op in reversed(graph.ops):
        after = [reader for out in op.outputs for reader in consumers.get(out.index, []) if reader.index > op.index]
        leads[op.index] = any(reader.index in weighted or leads.get(reader.index, False) for reader in after)
    odd = [
        op for op in graph.ops
        if op.index in weighted and leads[op.index] and op.outputs[0].shape and op.outputs[0].shape[-1] % _MULTIPLE
    ]  # fmt: skip
    if odd:
        worst = max(odd, key=lambda op: op.macs)
        yield Finding(
            "hint", "channels",
            f"{len(odd)} inner layers have a number of channels that is no multiple of {_MULTIPLE} "
            f"(operation {worst.index}: {worst.outputs[0].shape[-1]})",
            f"round up or prune to a multiple of {_MULTIPLE}: the lanes between are computed anyway",
        )  # fmt: skip


def _layout(graph: Graph) -> Iterator[Finding]:
    ops = [
        op
        for op in graph.ops
        if op.kind in _LAYOUT and op.outputs and (t := op.input(0)) is not None and not t.constant
    ]
    if len(ops) >= _LAYOUT_LEAST and len(ops) >= _LAYOUT_SHARE * len(graph.ops):
        transposes = sum(op.kind == "TRANSPOSE" for op in ops)
        yield Finding(
            "hint", "layout",
            f"{len(ops)} of {len(graph.ops)} operations only move data, {transposes} of them TRANSPOSE",
            "convert from channels-last code, and leave reordering of the results to the decoder",
        )  # fmt: skip


def _subgraphs(graph: Graph) -> Iterator[Finding]:
    if graph.subgraphs > 1:
        yield Finding(
            "warning", "subgraphs",
            f"{graph.subgraphs} subgraphs: conditions, loops or several signatures; the first alone is looked at",
            "unroll loops, and export one signature",
        )  # fmt: skip


def _predecessor(graph: Graph) -> Iterator[Finding]:
    if graph.quantised:
        yield Finding(
            "hint", "tflite-runtime", "tflite-runtime hands no 8-bit network to XNNPACK and runs it 10 to 20 times slower "
            "(vedette bench MODEL --runtime tflite-runtime measures it)",
            "use LiteRT on the device (pip install ai-edge-litert)",
        )  # fmt: skip


_RULES: Final[tuple[Callable[[Graph], Iterator[Finding]], ...]] = (
    _sparsity, _custom, _float_edges, _add_n, _dynamic, _hybrid, _wide, _subgraphs, _channels, _layout,
)  # fmt: skip
_CPU_RULES: Final = (_predecessor,)
