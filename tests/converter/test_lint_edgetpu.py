"""The Edge TPU: the documented rules, one network each, and the compiler's log.

No edgetpu_compiler is to be had here. A script of that name stands in for it: it takes the options that are used and
writes a file, a log and words in the form of version 16. What the real one maps stays untested, but for one file: of
Coral's SSD MobileNet v2 it left TFLite_Detection_PostProcess alone on the CPU, and so do the rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgetpu_stand_in import SAID, stand_in
from lint_networks import Network, conv

from vedette.contract.bundle import write_bundle
from vedette.contract.errors import MissingPackageError, ModelError
from vedette_converter.cli import main
from vedette_converter.lint import compile_edgetpu, edgetpu, lint, parse_graph
from vedette_converter.lint.graph import Graph

MAP = (1, 8, 8, 8)
Build = Callable[[Network], Any]


def graph(build: Build) -> Graph:
    net = Network()
    build(net)
    return parse_graph(net.bytes(), Path("network.tflite"))


def weights(*shape: int) -> Any:
    return np.ones(shape, np.int8)


def one(kind: str, shape: tuple[int, ...] = MAP, out: tuple[int, ...] = (), dtype: str = "INT8", **rest: Any) -> Build:
    return lambda net: net.add(kind, [net.input(shape, dtype)], net.tensor(out or shape, dtype), **rest)


def with_axes(kind: str, axes: list[int], shape: tuple[int, ...] = MAP, options: str = "ReducerOptions") -> Build:
    return lambda net: net.add(
        kind, [net.input(shape), net.constant(np.array(axes, np.int32))], net.tensor(shape), options=options
    )


def padded(batch: int) -> Build:
    return lambda net: net.add(
        "PAD", [net.input(MAP), net.constant(np.array([[batch, 0], [1, 1], [1, 1], [0, 0]], np.int32))],
        net.tensor((1 + batch, 10, 10, 8)), options="PadOptions",
    )  # fmt: skip


def sliced(stride: int, **masks: int) -> Build:
    return lambda net: net.add(
        "STRIDED_SLICE",
        [net.input(MAP), *(net.constant(np.array(v, np.int32)) for v in ([0] * 4, [1, 8, 8, 8], [1, 1, stride, 1]))],
        net.tensor((1, 8, 8 // stride, 8)), options="StridedSliceOptions", **masks,
    )  # fmt: skip


def concatenated(*constants: Any, inputs: int = 1, activation: int = 0) -> Build:
    return lambda net: net.add(
        "CONCATENATION",
        [*(net.input(MAP) for _ in range(inputs)), *(net.constant(value, scale=0.1) for value in constants)],
        net.tensor((1, 8, 8, 16)), options="ConcatenationOptions", axis=3, fusedActivationFunction=activation,
    )  # fmt: skip


def convolved(**rest: Any) -> Build:
    return lambda net: conv(net, net.input(MAP), net.tensor(MAP), weights(8, 1, 1, 8), **rest)


def connected(rows: int, **rest: Any) -> Build:
    return lambda net: conv(
        net, net.input((rows, 8)), net.tensor((rows, 8)), weights(8, 8), kind="FULLY_CONNECTED",
        options="FullyConnectedOptions", **rest,
    )  # fmt: skip


def split(axis: int) -> Build:
    return lambda net: net.add(
        "SPLIT",
        [net.constant(np.int32(axis)), net.input(MAP)],
        net.tensor(MAP),
        net.tensor(MAP),
        options="SplitOptions",
    )


def sloped(*shape: int) -> Build:
    return lambda net: net.add(
        "PRELU", [net.input(MAP), net.constant(np.ones(shape, np.int8), scale=0.1)], net.tensor(MAP)
    )


def computed(net: Network) -> None:
    conv(net, net.input(MAP), net.tensor(MAP), net.input((8, 1, 1, 8)))


REFUSED: dict[str, tuple[Build, str]] = {
    "unknown": (one("HARD_SWISH"), "not among"),
    "nothing out": (lambda net: net.add("RELU", [net.input(MAP)]), "no input or no output"),
    "custom": (one("TFLite_Detection_PostProcess"), "not among"),
    "float": (one("RELU", dtype="FLOAT32"), "computes in int8 and uint8"),
    "no scale": (lambda net: net.add("RELU", [net.input(MAP, scale=None)], net.tensor(MAP)), "computes in int8"),
    "float weights": (
        lambda net: conv(net, net.input(MAP), net.tensor(MAP), np.ones((8, 1, 1, 8), np.float32)), "float32 weights",
    ),
    "16 bits": (one("RELU", dtype="INT16"), "int16"),
    "open size": (
        lambda net: net.add("RELU", [net.input(MAP, signature=(1, -1, -1, 8))], net.tensor(MAP)), "no fixed size",
    ),
    "computed weights": (computed, "computed while"),
    "batch": (one("RELU", (2, 8, 8, 8)), "three innermost"),
    "five dimensions": (one("RELU", (1, 2, 8, 8, 8)), "three innermost"),
    "max pool": (one("MAX_POOL_2D", options="Pool2DOptions", fusedActivationFunction=1), "a fused RELU"),
    "average pool": (one("AVERAGE_POOL_2D", options="Pool2DOptions", fusedActivationFunction=3), "a fused RELU6"),
    "concatenation fused": (concatenated(inputs=2, activation=1), "a fused RELU"),
    "concatenation constants": (concatenated(np.zeros(MAP, np.int8), inputs=2), "more than two"),
    "concatenation constant": (concatenated(np.ones(MAP, np.int8)), "not all zeros"),
    "dilation": (convolved(dilationWFactor=2, dilationHFactor=1), "dilation 1x2"),
    "fully connected": (connected(4), "not one-dimensional"),
    "shuffled": (connected(1, weightsFormat=1), "shuffled"),
    "mean of batches": (with_axes("MEAN", [0]), "over the batch"),
    "mean of channels": (with_axes("MEAN", [-1], (1, 8, 8, 6)), "a mean over 6 channels"),
    "sum of batches": (with_axes("SUM", [0]), "over the batch"),
    "maximum of batches": (with_axes("REDUCE_MAX", [0]), "over the batch"),
    "minimum of batches": (with_axes("REDUCE_MIN", [0]), "over the batch"),
    "pack": (one("PACK", options="PackOptions", axis=0), "packs along the batch"),
    "pad": (padded(1), "three innermost"),
    "slope a pixel": (sloped(8, 8, 8), "a slope a pixel"),
    "softmax of a map": (one("SOFTMAX", options="SoftmaxOptions"), "one dimension of at most 16000"),
    "long softmax": (one("SOFTMAX", (1, 16_001), options="SoftmaxOptions"), "one dimension of at most 16000"),
    "split": (split(0), "splits the batch"),
    "stride": (sliced(2), "strides [1, 1, 2, 1]"),
    "ellipsis": (sliced(1, ellipsisMask=1), "ellipsis"),
    "new axis": (sliced(1, newAxisMask=1), "new axis"),
}  # fmt: skip
MAPPED: dict[str, Build] = {
    "convolution": convolved(),
    "fully connected": connected(1),
    "mean": with_axes("MEAN", [1, 2]),
    "mean of channels": with_axes("MEAN", [3]),
    "pool": one("MAX_POOL_2D", options="Pool2DOptions"),
    "concatenation": concatenated(inputs=3),
    "zero padding by concatenation": concatenated(np.zeros(MAP, np.int8)),
    "pack": one("PACK", options="PackOptions", axis=1),
    "pad": padded(0),
    "slope": sloped(1, 1, 8),
    "softmax": one("SOFTMAX", (1, 1000), options="SoftmaxOptions"),
    "split": split(3),
    "slice": sliced(1),
    "uint8": one("RELU", dtype="UINT8"),
    "open batch": lambda net: net.add("RELU", [net.input(MAP, signature=(-1, 8, 8, 8))], net.tensor(MAP)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_on_the_cpu(name: str) -> None:
    build, why = REFUSED[name]
    found = edgetpu.refusal(graph(build).ops[-1])
    assert found is not None and why in found.why


@pytest.mark.parametrize("name", MAPPED)
def test_what_is_mapped(name: str) -> None:
    assert edgetpu.refusal(graph(MAPPED[name]).ops[-1]) is None


def test_padding_of_the_batch_alone(tmp_path: Path) -> None:
    def build(net: Network) -> None:  # its output is one the other rules have nothing against
        net.add(
            "PAD", [net.input(MAP), net.constant(np.array([[1, 0], [0, 0], [0, 0], [0, 0]], np.int32))], net.tensor(MAP)
        )

    found = edgetpu.refusal(graph(build).ops[-1])
    assert found is not None and "pads the batch" in found.why


def chain(net: Network, *kinds: str, dtype: str = "INT8") -> None:
    value = net.input(MAP, dtype)
    for kind in kinds:
        (value,) = net.add(kind, [value], net.tensor(MAP, "FLOAT32" if kind == "DEQUANTIZE" else "INT8"))


def test_what_follows_an_unsupported_operation_stays_with_it() -> None:
    found = edgetpu.estimate(graph(lambda net: chain(net, "RELU", "HARD_SWISH", "RELU", "TANH"))).refusals
    assert sorted(found) == [1, 2, 3]
    assert "follows operation 1 (HARD_SWISH)" in found[2].why and "follows operation 1" in found[3].why


def test_what_stands_before_the_first_mapped_operation_costs_nothing_else() -> None:
    def build(net: Network) -> None:
        chain(net, "QUANTIZE", "RELU", "TANH", "DEQUANTIZE", dtype="FLOAT32")

    assert sorted(edgetpu.estimate(graph(build)).refusals) == [0, 3]


def test_another_branch_stays_on_the_edge_tpu() -> None:
    def build(net: Network) -> None:
        (trunk,) = net.add("RELU", [net.input(MAP)], net.tensor(MAP))
        net.add("HARD_SWISH", [trunk], net.tensor(MAP))
        net.add("TANH", [trunk], net.tensor(MAP))

    assert sorted(edgetpu.estimate(graph(build)).refusals) == [1]


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_weights_beyond_the_chips_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch, tmp_path)

    def build(net: Network, side: int) -> Path:
        conv(net, net.input((1, side)), net.tensor((1, side)), weights(side, side), kind="FULLY_CONNECTED",
             options="FullyConnectedOptions")  # fmt: skip
        return net.write(tmp_path / "network.tflite")

    assert {f.rule for f in lint(build(Network(), 3000), "edgetpu").findings} == {"cache", "no-compiler"}
    assert {f.rule for f in lint(build(Network(), 300), "edgetpu").findings} == {"no-compiler"}


def test_a_float_network_runs_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch, tmp_path)
    net = Network()
    one("RELU", dtype="FLOAT32")(net)
    report = lint(net.write(tmp_path / "network.tflite"), "edgetpu")
    assert not report.runs and report.findings[0].rule == "nothing-mapped"
    assert "quantise" in report.findings[0].fix


def test_the_compilers_file_and_log_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    made = compile_edgetpu(b"a network")
    assert made.flatbuffer == b"TPUa network"
    assert (made.ops_on_tpu, made.ops_on_cpu, made.version) == (1, 3, "16.0.384591198")
    assert [(row.kind, row.count, row.mapped) for row in made.rows] == [
        ("RELU", 1, True), ("DEQUANTIZE", 2, False), ("QUANTIZE", 1, False),
    ]  # fmt: skip
    assert "Started a compilation" in made.log and "unspecified limitation" in made.log


@pytest.mark.parametrize(
    ("said", "counts"),
    [(SAID, (1, 3)), ("Total number of operations: 7\n", (7, 0))],
    ids=["counted", "all of them"],
)
def test_without_a_log_its_words_count(
    said: str, counts: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, log="", said=said)
    made = compile_edgetpu(b"a network")
    assert (made.ops_on_tpu, made.ops_on_cpu) == counts


def test_a_log_that_says_nothing_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, log="hello\n", said="hello\n")
    with pytest.raises(ModelError, match="not understood"):
        compile_edgetpu(b"a network")


def test_what_the_compiler_refuses_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, said="Invalid model: model.tflite\nModel not quantized\n", code=1)
    with pytest.raises(ModelError, match=r"a\.tflite: edgetpu_compiler does not take it: found .*Model not quantized"):
        compile_edgetpu(b"a network", "a.tflite")


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch, tmp_path)
    with pytest.raises(MissingPackageError, match=r"no edgetpu_compiler.*coral\.ai"):
        compile_edgetpu(b"a network")


def test_the_command_keeps_the_compiled_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, monkeypatch)
    net = Network()
    chain(net, "RELU", "HARD_SWISH")
    path = net.write(tmp_path / "network.tflite")
    out = tmp_path / "network_edgetpu.tflite"
    assert main(["lint", str(path), "--target", "edgetpu", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["compiled"]["ops_on_tpu"] == 1 and document["kept"] == str(out)
    assert document["summary"].startswith("1 of 4 ops on the Edge TPU (edgetpu_compiler 16.0.384591198); by the rules")
    assert out.read_bytes() == b"TPU" + path.read_bytes()
    assert main(["lint", str(path), "--target", "edgetpu", "--strict"]) == 1
    text = capsys.readouterr().out
    assert "edgetpu_compiler: DEQUANTIZE x2: Operation is working on an unsupported data type" in text
    assert main(["lint", str(path), "--target", "edgetpu", "--out", str(path)]) == 2
    assert "another file than the model" in capsys.readouterr().err
    assert path.read_bytes() == net.bytes()


def test_a_compiled_file_is_recognised(tmp_path: Path) -> None:
    net = Network()
    (value,) = net.add("edgetpu-custom-op", [net.input(MAP)], net.tensor(MAP))
    net.add("TFLite_Detection_PostProcess", [value], net.tensor((1, 20, 4), "FLOAT32"))
    report = lint(net.write(tmp_path / "network.tflite"), "edgetpu")
    assert report.runs and [finding.rule for finding in report.findings] == ["compiled"]
    assert report.summary().startswith("1 of 2 ops on the Edge TPU; 1 on the CPU: TFLite_Detection_PostProcess")


def test_a_bundle_takes_the_compiled_file(tmp_path: Path) -> None:
    from tiny import fake_parts

    parts = fake_parts(edgetpu_tflite=b"compiled")
    bundle = write_bundle(tmp_path / "tiny.tflite", parts.flatbuffer, parts.manifest, parts.members)
    assert bundle.read("edgetpu.tflite") == b"compiled"
