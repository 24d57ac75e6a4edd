"""TensorFlow.js's fused nodes taken apart: its graph optimiser writes ops that TensorFlow or TFLite does not have.

What they compute: https://github.com/tensorflow/tfjs, ``tfjs-converter/python/.../rewriters`` and the kernels of the same
names: a convolution or matrix product, then a bias, then an activation. TFLite's converter fuses them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vedette.contract.errors import ModelError

_PLAIN: Final = {"_FusedConv2D": "Conv2D", "FusedConv2D": "Conv2D", "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
                 "_FusedMatMul": "MatMul"}  # fmt: skip
_OWN: Final = {"Conv2D": ("T", "strides", "padding", "explicit_paddings", "data_format", "dilations"),
               "MatMul": ("T", "transpose_a", "transpose_b")}  # fmt: skip
_ACTIVATIONS: Final = ("Relu", "Relu6", "Elu", "Selu", "Sigmoid", "Tanh")


def take_apart(graph: Any, where: str) -> None:
    """Each fused node of a GraphDef becomes plain ones, the last of which has its name, in place.

    Raises `ModelError` for what cannot be taken apart.
    """
    plain = type(graph)()
    for node in graph.node:
        try:
            if node.op == "Prelu":
                x, alpha = node.input
                plain.node.extend(_prelu(node, node.name, x, alpha))
            elif node.op in _PLAIN:
                plain.node.extend(_parts(node, where))
            else:
                plain.node.append(node)
        except (ValueError, IndexError):  # an input that is not there, or a name that is no text
            raise ModelError(
                f"node {node.name}", where=where, expected=f"the inputs of a {node.op}", found=f"{len(node.input)}",
                fix="the file is damaged: get it again",
            ) from None  # fmt: skip
    del graph.node[:]
    graph.node.extend(plain.node)


def _parts(node: Any, where: str) -> Iterator[Any]:
    op = _PLAIN[node.op]
    before, kernel, *rest = node.input
    fused = [kind.decode() for kind in node.attr["fused_ops"].list.s]
    names = [f"{node.name}/{number}" for number in range(len(fused))] + [node.name]
    alone = type(node)(name=names[0], op=op, input=[before, kernel])
    for key in _OWN.get(op, _OWN["Conv2D"]):
        if key in node.attr:
            alone.attr[key].CopyFrom(node.attr[key])
    yield alone
    for kind, before, name in zip(fused, names[:-1], names[1:], strict=True):
        if kind == "Prelu":
            yield from _prelu(node, name, before, rest.pop(0))
            continue
        part = type(node)(name=name, op=kind, input=[before])
        part.attr["T"].CopyFrom(node.attr["T"])
        if kind == "BiasAdd":
            part.input.append(rest.pop(0))
            if "data_format" in node.attr:
                part.attr["data_format"].CopyFrom(node.attr["data_format"])
        elif kind == "LeakyRelu":
            part.attr["alpha"].f = node.attr["leakyrelu_alpha"].f
        elif kind not in _ACTIVATIONS:
            raise ModelError(
                f"node {node.name}", where=where, expected="BiasAdd, Prelu, LeakyRelu, " + ", ".join(_ACTIVATIONS),
                found=f"{kind} fused into {node.op}", fix="convert the network again, without that",
            )  # fmt: skip
        yield part


def _prelu(node: Any, name: str, x: str, alpha: str) -> Iterator[Any]:
    """relu(x) - alpha * relu(-x), as TFLite's converter knows a PRELU again."""
    for part, op, inputs in (
        ("/positive", "Relu", [x]), ("/minus", "Neg", [x]), ("/negative", "Relu", [f"{name}/minus"]),
        ("/slope", "Neg", [alpha]), ("/scaled", "Mul", [f"{name}/slope", f"{name}/negative"]),
        ("", "AddV2", [f"{name}/positive", f"{name}/scaled"]),
    ):  # fmt: skip
        made = type(node)(name=name + part, op=op, input=inputs)
        made.attr["T"].type = 1  # DT_FLOAT
        yield made
