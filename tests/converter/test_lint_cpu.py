"""What XNNPACK takes: each rule beside the runtime itself, on one network each that has the fault and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lint_networks import Network, conv

from vedette_converter.lint import lint
from vedette_converter.lint.graph import read_graph
from vedette_converter.lint.xnnpack import TAKEN, XnnpackRules

MAP = (1, 8, 8, 8)
Build = Callable[[Network], Any]


def weights(*shape: int) -> Any:
    return np.ones(shape, np.int8)


def unary(kind: str, dtype: str = "INT8", **rest: Any) -> Build:
    return lambda net: net.add(kind, [net.input(MAP, dtype)], net.tensor(MAP, dtype), **rest)


def binary(kind: str, dtype: str = "INT8", *, scales: tuple[float, float] = (0.1, 0.1), **rest: Any) -> Build:
    return lambda net: net.add(
        kind, [net.input(MAP, dtype, scale=scales[0]), net.input(MAP, dtype, scale=scales[0])],
        net.tensor(MAP, dtype, scale=scales[1]), **rest,
    )  # fmt: skip


def concatenated(count: int, dtype: str = "INT8", scale: float = 0.1) -> Build:
    return lambda net: net.add(
        "CONCATENATION", [net.input(MAP, dtype) for _ in range(count)],
        net.tensor((1, 8, 8, 8 * count), dtype, scale=scale), options="ConcatenationOptions", axis=3,
    )  # fmt: skip


def split(count: int) -> Build:
    return lambda net: net.add(
        "SPLIT", [net.constant(np.int32(3)), net.input(MAP)], *(net.tensor((1, 8, 8, 8 // count)) for _ in range(count)),
        options="SplitOptions", numSplits=count,
    )  # fmt: skip


def pooled(kind: str, dtype: str, stride: int = 2) -> Build:
    side = (8 - 2) // stride + 1
    return lambda net: net.add(
        kind, [net.input(MAP, dtype)], net.tensor((1, side, side, 8), dtype), options="Pool2DOptions", padding=1,
        strideW=stride, strideH=stride, filterWidth=2, filterHeight=2,
    )  # fmt: skip


def padded(amount: int) -> Build:
    return lambda net: net.add(
        "PAD", [net.input(MAP), net.constant(np.array([[0, 0], [amount, 1], [0, 0], [0, 0]], np.int32))],
        net.tensor((1, 9 + amount, 8, 8)), options="PadOptions",
    )  # fmt: skip


def sliced(stride: int, shrink: int = 0) -> Build:
    shape = (8, 8 // stride, 8) if shrink else (1, 8, 8 // stride, 8)
    return lambda net: net.add(
        "STRIDED_SLICE",
        [net.input(MAP), *(net.constant(np.array(v, np.int32)) for v in ([0] * 4, [1, 8, 8, 8], [1, 1, stride, 1]))],
        net.tensor(shape), options="StridedSliceOptions", shrinkAxisMask=shrink,
    )  # fmt: skip


def convolved(dtype: str = "INT8", **rest: Any) -> Build:
    return lambda net: conv(
        net, net.input(MAP, dtype), net.tensor(MAP, dtype), **{"weights": weights(8, 1, 1, 8), **rest}
    )


def computed_weights(net: Network) -> None:
    net_weights = net.input((8, 1, 1, 8), "FLOAT32")
    conv(net, net.input(MAP, "FLOAT32"), net.tensor(MAP, "FLOAT32"), net_weights)


def computed_shape(net: Network) -> None:
    shape = net.input((2,), "INT32", scale=None)
    net.add("RESHAPE", [net.input(MAP), shape], net.tensor((1, 512)))


def reshaped(scale: float) -> Build:
    return lambda net: net.add(
        "RESHAPE", [net.input(MAP), net.constant(np.array([1, 512], np.int32))], net.tensor((1, 512), scale=scale)
    )


def connected(net: Network, **rest: Any) -> None:
    conv(
        net, net.input((1, 8)), net.tensor((1, 8)), weights(8, 8), kind="FULLY_CONNECTED",
        options="FullyConnectedOptions", **rest,
    )  # fmt: skip


REFUSED: dict[str, tuple[Build, str]] = {
    "unknown": (unary("NEG"), "float alone"),
    "no such op": (binary("ADD_N", "FLOAT32", options="AddNOptions"), "no such operation"),
    "floor mod": (binary("FLOOR_MOD", "FLOAT32"), "no such operation"),
    "float only": (unary("HARD_SWISH"), "float alone"),
    "softmax": (
        lambda net: net.add("SOFTMAX", [net.input(MAP)], net.tensor(MAP, scale=1 / 256, zero_point=-128),
                            options="SoftmaxOptions", beta=1.0), "float alone",
    ),
    "softmax beta": (unary("SOFTMAX", "FLOAT32", options="SoftmaxOptions", beta=2.0), "beta 2"),
    "average pool": (pooled("AVERAGE_POOL_2D", "INT8"), "float alone"),
    "pool stride": (pooled("MAX_POOL_2D", "INT8", 3), "exceeds the window"),
    "16 bits": (binary("ADD", "INT16", options="AddOptions"), "float, int8 and uint8"),
    "concatenation": (concatenated(6), "6 inputs"),
    "concatenation uint8": (concatenated(2, "UINT8", 0.2), "another scale"),
    "split": (split(8), "8 outputs"),
    "reshape scale": (reshaped(0.2), "another scale"),
    "reshape computed": (computed_shape, "computed while the network runs"),
    "stride": (sliced(2), "strides [1, 1, 2, 1]"),
    "lost axis": (sliced(1, shrink=1), "a lost axis"),
    "negative pad": (padded(-1), "negative padding"),
    "add scale": (binary("ADD", scales=(0.1, 1e-4), options="AddOptions"), "times the output's"),
    "mul scale": (binary("MUL", scales=(1e-4, 0.1), options="MulOptions"), "too far"),
    "fused": (binary("ADD", "FLOAT32", options="AddOptions", fusedActivationFunction=5), "SIGN_BIT"),
    "quantize": (
        lambda net: net.add("QUANTIZE", [net.input(MAP, "UINT8", zero_point=128)], net.tensor(MAP, "INT8")),
        "from uint8 to int8",
    ),
    "quantize scale": (
        lambda net: net.add("QUANTIZE", [net.input(MAP, scale=0.1)], net.tensor(MAP, scale=1e-5)), "times the output's",
    ),
    "computed weights": (computed_weights, "weights are computed"),
    "custom": (unary("TFLite_Detection_PostProcess"), "custom"),
}  # fmt: skip

TAKEN_NETWORKS: dict[str, Build] = {
    "convolution": convolved(),
    "a scale a channel": convolved(weight_scale=[0.1] * 8),
    "depthwise": convolved(weights=weights(1, 3, 3, 8), kind="DEPTHWISE_CONV_2D", options="DepthwiseConv2DOptions",
                           weight_scale=[0.1] * 8, axis=3),
    "add": binary("ADD", options="AddOptions"),
    "five": concatenated(5),
    "four": split(4),
    "max pool": pooled("MAX_POOL_2D", "INT8"),
    "average pool in float": pooled("AVERAGE_POOL_2D", "FLOAT32"),
    "softmax in float": unary("SOFTMAX", "FLOAT32", options="SoftmaxOptions", beta=1.0),
    "pad": padded(1),
    "slice": sliced(1),
    "reshape": reshaped(0.1),
    "logistic": lambda net: net.add("LOGISTIC", [net.input(MAP)], net.tensor(MAP, scale=1 / 256, zero_point=-128)),
}  # fmt: skip


def written(build: Build, folder: Path) -> Path:
    net = Network()
    build(net)
    return net.write(folder / "network.tflite")


@pytest.mark.parametrize("name", REFUSED)
def test_what_xnnpack_leaves_is_explained(name: str, tmp_path: Path) -> None:
    build, why = REFUSED[name]
    path = written(build, tmp_path)
    refusal = XnnpackRules(read_graph(path)).refusal(read_graph(path).ops[-1])
    assert refusal is not None and why in refusal.why
    if name in NOT_RUN:
        return
    report = lint(path)
    assert report.placement is not None
    assert [v.op.index for v in report.fallen] == [len(report.verdicts) - 1]  # the runtime says so too
    assert report.fallen[0].refusal == refusal


NOT_RUN = frozenset({"fused", "custom", "negative pad", "reshape computed"})
"""TFLite's own kernels refuse them, too, or need more around them: the rule alone is looked at."""


@pytest.mark.parametrize("name", TAKEN_NETWORKS)
def test_what_xnnpack_takes(name: str, tmp_path: Path) -> None:
    report = lint(written(TAKEN_NETWORKS[name], tmp_path))
    assert report.placement is not None and report.clean
    assert XnnpackRules(report.graph).refusal(report.graph.ops[0]) is None  # the rule says so too


RULES_ALONE: dict[str, tuple[Build, str]] = {  # what TFLite's own kernels do not run either: `lint` could not load it
    "no bias": (convolved(bias=False), "no bias"),
    "weights' axis": (convolved(weight_scale=[0.1] * 8, axis=3), "along axis 3"),
    "weights' type": (convolved(weights=np.ones((8, 1, 1, 8), np.uint8)), "uint8 weights with int8 values"),
    "weights' scale": (
        convolved("FLOAT32", weights=weights(8, 1, 1, 8), weight_scale=None, bias=False, kind="FULLY_CONNECTED",
                  options="FullyConnectedOptions"), "no scale",
    ),
    "uint8 channels": (
        convolved("UINT8", weights=np.ones((8, 1, 1, 8), np.uint8), weight_scale=[0.1] * 8), "scale a channel",
    ),
    "values' scale": (lambda net: net.add("TANH", [net.input(MAP, scale=None)], net.tensor(MAP)), "without one scale"),
    "mixed": (
        lambda net: net.add("ADD", [net.input(MAP), net.input(MAP, "UINT8")], net.tensor(MAP), options="AddOptions"),
        "mixed types: int8, uint8",
    ),
    "seven dimensions": (
        lambda net: net.add("TANH", [net.input((1,) * 7, "FLOAT32")], net.tensor((1,) * 7, "FLOAT32")), "7 dimensions",
    ),
    "one input": (concatenated(1), "one input alone"),
    "nothing out": (lambda net: net.add("TANH", [net.input(MAP)]), "no input or no output"),
    "a constant out": (
        lambda net: net.add("DEQUANTIZE", [net.constant(np.ones(MAP, np.float16))], net.tensor(MAP, "FLOAT32")),
        "hands a constant out",
    ),
    "sparse weights": (lambda net: connected(net, version=8), "sparse"),
    "shuffled": (lambda net: connected(net, weightsFormat=1), "shuffled"),
    "dequantize": (
        lambda net: net.add("DEQUANTIZE", [net.input(MAP, "INT16")], net.tensor(MAP, "FLOAT32")), "from int8 and uint8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES_ALONE)
def test_what_no_converter_writes(name: str, tmp_path: Path) -> None:
    build, why = RULES_ALONE[name]
    graph = read_graph(written(build, tmp_path))
    refusal = XnnpackRules(graph).refusal(graph.ops[-1])
    assert refusal is not None and why in refusal.why


def test_a_constant_is_unpacked_only_for_those_who_are_taken(tmp_path: Path) -> None:
    def build(net: Network, kind: str) -> None:
        half = net.constant(np.ones(MAP, np.float16))
        unpacked = net.tensor(MAP, "FLOAT32")
        net.add("DEQUANTIZE", [half], unpacked, version=3)
        net.add(kind, [net.input(MAP, "FLOAT32"), unpacked], net.tensor(MAP, "FLOAT32"))

    taken = lint(written(lambda net: build(net, "MAXIMUM"), tmp_path))
    assert taken.clean
    left = lint(written(lambda net: build(net, "FLOOR_MOD"), tmp_path))
    assert [v.op.kind for v in left.fallen] == ["DEQUANTIZE", "FLOOR_MOD"]
    assert left.fallen[0].refusal is not None and "operation 1 (FLOOR_MOD)" in left.fallen[0].refusal.why


def test_every_partition_is_told_apart(tmp_path: Path) -> None:
    net = Network()
    before = net.add("ABS", [net.input(MAP, "FLOAT32")], net.tensor(MAP, "FLOAT32"))
    middle = net.add("FLOOR_MOD", [*before, *before], net.tensor(MAP, "FLOAT32"))
    behind = net.add("NEG", [*middle], net.tensor(MAP, "FLOAT32"))
    net.add("SQUARE", [*behind], net.tensor(MAP, "FLOAT32"))
    report = lint(net.write(tmp_path / "network.tflite"))
    assert report.placement is not None
    assert report.placement.partitions == ((0,), (2, 3))
    assert [finding.rule for finding in report.findings] == ["partitions"]
    assert report.summary().startswith("3 of 4 ops on XNNPACK in 2 partitions; 1 on TFLite's own kernels: FLOOR_MOD (")


def test_a_result_that_nobody_reads_is_still_computed_inside(tmp_path: Path) -> None:
    net = Network()
    (value,) = net.add("ABS", [net.input(MAP, "FLOAT32")], net.tensor(MAP, "FLOAT32"))
    (unread,) = net.add("NEG", [value], net.tensor(MAP, "FLOAT32"))
    net.add("SQUARE", [value], net.tensor(MAP, "FLOAT32"))
    report = lint(net.write(tmp_path / "network.tflite", without=unread))
    assert report.placement is not None and report.placement.partitions == ((0, 1, 2),)


def test_the_table_of_operations_names_real_ones() -> None:
    from ai_edge_litert import schema_py_generated as schema

    assert {name for name in TAKEN if not hasattr(schema.BuiltinOperator, name)} == set()
