"""``vedette-convert lint``: files that are read or refused, what is said of whole networks, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lint_networks import Network, conv, schema

from tiny import DATA
from vedette.contract.errors import BundleError, ModelError
from vedette_converter.cli import main
from vedette_converter.lint import edgetpu, lint, parse_graph, read_graph
from vedette_converter.lint.graph import Graph
from vedette_converter.lint.hints import findings
from vedette_converter.lint.xnnpack import XnnpackRules

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "coco-ssdlite-mobilenet-v2.tflite"
TINY = DATA / "tiny-int8.tflite"
MAP = (1, 8, 8, 8)
Build = Callable[[Network], Any]


def graph(build: Build) -> Graph:
    net = Network()
    build(net)
    return parse_graph(net.bytes(), Path("network.tflite"))


def rules(build: Build, *, cpu: bool = False) -> set[str]:
    return {finding.rule for finding in findings(graph(build), cpu=cpu)}


# reading


def test_a_graph_is_read() -> None:
    read = read_graph(TINY)
    assert [op.kind for op in read.ops] == ["CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    first = read.ops[0]
    assert first.activation == "RELU" and first.outputs[0].kind == "int8 1x8x8x8"
    assert first.macs == 8 * 8 * 8 * 3 * 3 * 3
    weights = first.inputs[1]
    assert weights is not None and weights.quantisation is not None and weights.constant
    assert len(weights.quantisation.scales) == 8 and weights.quantisation.axis == 0
    assert read.quantised and read.inputs[0].shape == (1, 16, 16, 3) and read.outputs[0].shape == (1, 4)
    assert not read_graph(DATA / "tiny-float32.tflite").quantised


def test_a_bundle_is_read_without_its_archive() -> None:
    read = read_graph(SHIPPED)
    assert len(read.flatbuffer) < SHIPPED.stat().st_size and len(read.ops) == 113


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    data = bytearray(SHIPPED.read_bytes())
    data[1_000_000] ^= 1
    (tmp_path / "bad.tflite").write_bytes(data)
    with pytest.raises(BundleError, match="digest does not match"):
        read_graph(tmp_path / "bad.tflite")


def test_reading_imports_no_tensorflow() -> None:
    code = (
        "import sys; from vedette_converter.lint import lint; from pathlib import Path; "
        f"lint(Path({str(TINY)!r}), 'edgetpu'); sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@given(st.integers(0, TINY.stat().st_size - 1))
def test_a_truncated_flatbuffer_is_one_error(size: int) -> None:
    with pytest.raises(ModelError):
        parse_graph(TINY.read_bytes()[:size], Path("short.tflite"))


@given(st.lists(st.tuples(st.integers(8, TINY.stat().st_size - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_corrupt_flatbuffer_is_read_or_is_one_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(TINY.read_bytes())
    for position, value in changes:
        data[position] = value
    try:
        read = parse_graph(bytes(data), Path("corrupt.tflite"))
    except ModelError as error:
        assert "\n" not in error.line()
        return
    findings(read, cpu=True)
    edgetpu.estimate(read)
    told = XnnpackRules(read)
    for op in read.ops:
        told.refusal(op)


@pytest.mark.parametrize("what", ["empty", "text", "truncated", "missing", "folder"])
def test_a_bad_file_is_one_line_and_exit_code_2(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.tflite"
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes({"empty": b"", "text": b"not a network", "truncated": TINY.read_bytes()[:3000]}[what])
    assert main(["lint", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(f"vedette-convert: error: {path}: ") and told.err.count("\n") == 1


def test_a_file_that_the_runtime_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Network()
    net.add("RELU", [net.input(MAP, "INT32"), net.input(MAP, "INT32")], net.tensor(MAP, "FLOAT32"))
    assert main(["lint", str(net.write(tmp_path / "odd.tflite"))]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "odd.tflite: cannot be run: found" in told.err and told.err.count("\n") == 1


# what is said of whole networks


def sparse(net: Network) -> None:
    conv(net, net.input(MAP), net.tensor(MAP), np.ones((8, 1, 1, 8), np.int8))
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = [0, 1, 2, 3]
    net.subgraph.tensors[2].sparsity = parameters


def convolved(net: Network, out: str = "INT8", *, inner: int = 8, source: int | None = None) -> int:
    start = net.input(MAP, "FLOAT32" if out == "FLOAT32" else "INT8") if source is None else source
    (value,) = conv(net, start, net.tensor((1, 8, 8, inner), out), np.ones((inner, 1, 1, 8), np.int8))
    return value


def float_edges(net: Network, inside: bool) -> None:
    quantised = net.add("QUANTIZE", [net.input(MAP, "FLOAT32")], net.tensor(MAP))[0] if inside else net.input(MAP)
    value = convolved(net, source=quantised)
    if inside:
        net.add("DEQUANTIZE", [value], net.tensor(MAP, "FLOAT32"))


def channels(net: Network, inner: int) -> None:
    value = convolved(net, inner=inner)
    conv(net, value, net.tensor((1, 8, 8, 5)), np.ones((5, 1, 1, inner), np.int8))


def moved(net: Network, count: int) -> None:
    value = convolved(net)
    order = net.constant(np.array([0, 1, 2, 3], np.int32))
    for _ in range(count):
        (value,) = net.add("TRANSPOSE", [value, order], net.tensor(MAP))


def one(kind: str, dtype: str = "FLOAT32", **rest: Any) -> Build:
    return lambda net: net.add(kind, [net.input(MAP, dtype, **rest)], net.tensor(MAP, dtype))


SAID: list[tuple[str, Build, Build]] = [  # rule, a network it speaks of, one it does not
    ("sparsity", sparse, convolved),
    ("flex", one("FlexErf"), one("ABS")),
    ("custom", one("MyOwnOp"), one("Convolution2DTransposeBias")),
    ("compiled", one("edgetpu-custom-op"), one("ABS")),
    ("float-edges", lambda net: float_edges(net, True), lambda net: float_edges(net, False)),
    ("add-n", lambda net: net.add("ADD_N", [net.input(MAP), net.input(MAP)], net.tensor(MAP)), one("ABS")),
    ("dynamic", one("ABS", signature=(1, -1, -1, 8)), one("ABS", signature=(-1, 8, 8, 8))),
    ("batch", one("ABS", signature=(-1, 8, 8, 8)), one("ABS")),
    ("hybrid", lambda net: convolved(net, "FLOAT32"), convolved),
    ("int16", lambda net: convolved(net, "INT16"), convolved),
    ("channels", lambda net: channels(net, 12), lambda net: channels(net, 16)),
    ("layout", lambda net: moved(net, 4), lambda net: moved(net, 3)),
    ("tflite-runtime", convolved, one("ABS")),
]


@pytest.mark.parametrize(("rule", "faulty", "sound"), SAID, ids=[rule for rule, _, _ in SAID])
def test_what_is_said_of_a_network(rule: str, faulty: Build, sound: Build) -> None:
    assert rule in rules(faulty, cpu=True)
    assert rule not in rules(sound, cpu=True)


def test_tflite_runtime_is_no_matter_on_the_edge_tpu() -> None:
    assert "tflite-runtime" not in rules(convolved)


def test_further_subgraphs_are_told() -> None:
    net = Network()
    one("ABS")(net)
    model = schema.ModelT.InitFromPackedBuf(net.bytes())
    model.subgraphs = [model.subgraphs[0], model.subgraphs[0]]
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    found = findings(parse_graph(bytes(builder.Output()), Path("two.tflite")))
    assert [finding.rule for finding in found] == ["subgraphs"]


def test_custom_operations_are_placed_by_the_rules(tmp_path: Path) -> None:
    net = Network()
    (value,) = net.add("MyOwnOp", [net.input(MAP, "FLOAT32")], net.tensor(MAP, "FLOAT32"))
    net.add("ABS", [value], net.tensor(MAP, "FLOAT32"))
    report = lint(net.write(tmp_path / "custom.tflite"))
    assert report.placement is None and not report.runs
    assert report.summary() == "1 of 2 ops on XNNPACK; 1 on no kernel at all: MyOwnOp (by the rules, not measured)"


# real networks


def test_the_shipped_detector() -> None:
    report = lint(SHIPPED)
    assert report.runs and [v.op.kind for v in report.fallen] == ["CONCATENATION", "CONCATENATION"]
    assert all(v.refusal is not None and v.refusal.why.startswith("6 inputs") for v in report.fallen)
    assert report.macs_on_target == 1


@pytest.mark.parametrize("name", ["float32", "int8", "uint8"])
def test_rules_and_runtime_agree_on_the_tiny_networks(name: str) -> None:
    report = lint(DATA / f"tiny-{name}.tflite")
    told = XnnpackRules(report.graph)
    assert [v.op.index for v in report.fallen] == [op.index for op in report.graph.ops if told.refusal(op)]


@pytest.fixture(scope="module")
def keras(tf: Any) -> Any:
    """A Keras network with operations that XNNPACK takes in float and leaves in 8 bits, or leaves always."""
    layers = tf.keras.layers
    source = tf.keras.Input((16, 16, 3), batch_size=1)
    x = layers.Conv2D(48, 3, strides=2, padding="same", activation=tf.keras.activations.hard_swish)(source)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Resizing(16, 16, interpolation="nearest")(x)
    x = layers.Concatenate()([layers.Conv2D(8, 1)(x) for _ in range(6)])
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return tf.keras.Model(source, x)


def converted(tf: Any, network: Any, path: Path, *, calibrated: bool | None, edges: Any = None) -> Path:
    """``calibrated``: True for int8, False for int8 weights alone, None for float."""
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if calibrated is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibrated:
        noise = np.random.default_rng(1)
        converter.representative_dataset = lambda: (
            [noise.normal(size=(1, 16, 16, 3)).astype(np.float32)] for _ in range(4)
        )
    if edges is not None:
        converter.inference_input_type = converter.inference_output_type = edges
    path.write_bytes(converter.convert())
    return path


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")  # what TensorFlow says of calibrated conversion
def test_a_network_from_keras(tf: Any, keras: Any, tmp_path: Path) -> None:
    reports = {
        "float": lint(converted(tf, keras, tmp_path / "float.tflite", calibrated=None)),
        "weights": lint(converted(tf, keras, tmp_path / "weights.tflite", calibrated=False)),
        "edges": lint(converted(tf, keras, tmp_path / "edges.tflite", calibrated=True)),
        "int8": lint(converted(tf, keras, tmp_path / "int8.tflite", calibrated=True, edges=tf.int8)),
    }
    for name, report in reports.items():  # rules and runtime agree on every operation
        told = XnnpackRules(report.graph)
        left = [op.index for op in report.graph.ops if told.refusal(op) is not None]
        assert [v.op.index for v in report.fallen] == left, name
    kinds = {name: {v.op.kind for v in report.fallen} for name, report in reports.items()}
    assert kinds["float"] == {"RESIZE_NEAREST_NEIGHBOR", "CONCATENATION"}
    assert kinds["int8"] == kinds["float"] | {"HARD_SWISH", "AVERAGE_POOL_2D", "SOFTMAX"}
    said = {name: {finding.rule for finding in report.findings} for name, report in reports.items()}
    assert "hybrid" in said["weights"] and "hybrid" not in said["int8"]
    assert "float-edges" in said["edges"] and "float-edges" not in said["int8"]
    edge = lint(tmp_path / "int8.tflite", "edgetpu")
    assert "HARD_SWISH" in {v.op.kind for v in edge.fallen}


# the command


def test_the_table_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(TINY)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "4" and "SOFTMAX" in lines[0] and "TFLite" in lines[0]
    assert "taken in float alone" in lines[0] and "let the decoder do it" in lines[0]
    assert lines[-1].startswith("4 of 5 ops on XNNPACK in 1 partition (100 % of ")
    assert "; 1 on TFLite's own kernels: SOFTMAX (measured with litert " in lines[-1]
    assert main(["lint", str(TINY), "--strict", "--all"]) == 1
    assert len([line for line in capsys.readouterr().out.splitlines() if line[0].isdigit()]) == 5 + 1
    assert main(["lint", str(DATA / "tiny-float32.tflite"), "--strict"]) == 0


def test_json_has_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(TINY), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ops"] == {"total": 5, "on_target": 4, "off": 1} and document["partitions"] == 1
    assert [op["partition"] for op in document["operations"]] == [0, 0, 0, 0, None]
    assert document["operations"][0]["outputs"] == ["int8 1x8x8x8"] and document["operations"][4]["fix"]
    assert document["runs"] and not document["clean"]


def test_a_network_that_does_not_run_there_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Network()
    one("FlexErf")(net)
    assert main(["lint", str(net.write(tmp_path / "flex.tflite"))]) == 1
    assert "error: FlexErf is an operation of TensorFlow itself" in capsys.readouterr().out


def test_out_needs_the_edge_tpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(TINY), "--out", str(tmp_path / "x.tflite")]) == 2
    assert "--target edgetpu" in capsys.readouterr().err


def test_names_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Network()
    net.add("NEG", [net.input(MAP)], net.tensor(MAP, name="\x1b[31mred\n"))
    assert main(["lint", str(net.write(tmp_path / "red.tflite"))]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_terminal_gets_a_table() -> None:
    import pty

    master, slave = pty.openpty()
    code = f"from vedette_converter.cli import main; raise SystemExit(main(['lint', {str(TINY)!r}]))"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=subprocess.STDOUT, env=environment)
    os.close(slave)
    text = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:  # Linux says so when the last writer is gone
            break
        if not block:
            break
        text += block
    os.close(master)
    assert child.wait(60) == 0
    assert b"what to change" in text and b"\x1b[" in text


def test_output_onto_a_full_disk_is_one_line() -> None:
    code = f"from vedette_converter.cli import main; raise SystemExit(main(['lint', {str(TINY)!r}]))"
    with Path("/dev/full").open("w") as full:
        outcome = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert outcome.returncode == 1
    assert outcome.stderr == "vedette-convert: error: output cannot be written: found No space left on device\n"
