"""Flatbuffers: float ones are taken as they are, or as little changed as it goes; the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lint_networks
import numpy as np
import pytest
from loading import expect_close, load, noise

from vedette.contract.errors import ModelError
from vedette.engine import TfliteEngine, load_runtime
from vedette_converter import quantise
from vedette_converter.lint.graph import parse_graph
from vedette_converter.load import tflite
from vedette_converter.quantise.graph import read_graph
from vedette_converter.recipe.quantisation import Quantise

DATA = Path(__file__).resolve().parents[1] / "contract" / "data"


def convert(tf: Any, path: Path, shape: tuple[int | None, ...], body: Any, *, float16: bool = False) -> Path:
    module = tf.Module()
    module.f = tf.function(body, input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.f.get_concrete_function()], module)
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
    return path


def dense(tf: Any, weight: Any) -> Any:
    return lambda x: tf.nn.relu(tf.matmul(x, weight))


def test_a_float_file_is_handed_on_byte_by_byte(tf: Any) -> None:
    path = DATA / "tiny-float32.tflite"
    network = load(path)
    assert network.flatbuffer == path.read_bytes() and network.function is None and network.model is None
    assert all(spec.dtype == np.float32 and not spec.quantised for spec in (*network.inputs, *network.outputs))
    a, b = (network.run(noise(*network.input.shape, seed=seed))[0] for seed in (1, 2))
    assert a.shape == network.outputs[0].shape and not np.array_equal(a, b)


@pytest.mark.parametrize("name", ["tiny-int8.tflite", "tiny-uint8.tflite"])
def test_a_quantised_file_is_refused(tf: Any, name: str) -> None:
    with pytest.raises(
        ModelError, match=rf"{name}: already quantised: expected float32 .*found \d+ tensors of U?INT8; use"
    ):
        load(DATA / name)


def test_float16_weights_are_widened(tf: Any, tmp_path: Path) -> None:
    weight = noise(300, 40)
    path = convert(tf, tmp_path / "h.tflite", (1, 300), dense(tf, weight), float16=True)
    original = path.read_bytes()
    network = load(path)
    assert len(network.flatbuffer or b"") > 1.5 * len(original)
    sample = noise(1, 300)
    expect_close(network.run(sample)[0], np.maximum(sample @ weight.astype(np.float16).astype(np.float32), 0))


def test_channels_first_is_fed_channels_last(tf: Any, tmp_path: Path) -> None:
    weight = noise(3, 2)
    path = convert(tf, tmp_path / "c.tflite", (1, 3, 8, 9), lambda x: tf.reduce_mean(x, (2, 3)) @ weight)
    network = load(path)
    sample = noise(1, 8, 9, 3)
    assert network.input.shape == (1, 8, 9, 3)
    expect_close(network.run(sample)[0], sample.mean((1, 2)) @ weight)


def kinds(network: Any) -> list[str]:
    return [op.name for op in read_graph(network.flatbuffer).ops]


def test_shapes_of_an_open_batch_are_computed_once(tf: Any, tmp_path: Path) -> None:
    weight = noise(45, 2)

    def body(x: Any) -> Any:
        y = tf.reshape(x, (tf.shape(x)[0], 45)) @ weight
        return tf.nn.relu(y) + tf.fill(tf.shape(y), 0.5)

    path = convert(tf, tmp_path / "s.tflite", (None, 5, 3, 3), body)
    asked = {"SHAPE", "STRIDED_SLICE", "PACK", "FILL"}
    assert asked <= {op.name for op in read_graph(path.read_bytes()).ops}
    network = load(path)
    assert not asked & set(kinds(network))
    sample = noise(1, 5, 3, 3)
    expect_close(network.run(sample)[0], body(tf.constant(sample)))
    made = quantise.convert(network, Quantise(), lambda: iter([sample]))
    assert {tensor.dtype for op in read_graph(made).ops for tensor in op.outputs} == {"int8"}


def test_a_relu_that_stands_alone_is_fused_where_nothing_else_reads_what_it_takes(tf: Any, tmp_path: Path) -> None:
    """As MediaPipe's networks have them. What the second one takes is added again further on."""
    net = lint_networks.Network()

    def tensor() -> int:
        return net.tensor((1, 6, 6, 4), "FLOAT32")

    given = net.input((1, 6, 6, 4), "FLOAT32")
    weights = [noise(4, 1, 1, 4, seed=n) for n in range(2)]
    [x] = lint_networks.conv(net, given, tensor(), weights[0], padding=0)
    [x] = net.add("RELU6", [x], tensor())
    [seen] = net.add("ADD", [x, given], tensor(), options="AddOptions")
    [y] = net.add("RELU", [seen], tensor())
    [z] = lint_networks.conv(net, y, tensor(), weights[1], padding=0)
    [z] = net.add("RELU", [z], tensor())
    net.add("ADD", [seen, z], tensor(), options="AddOptions")
    path = net.write(tmp_path / "alone.tflite")
    network = load(path)
    assert kinds(network) == ["CONV_2D", "ADD", "RELU", "CONV_2D", "ADD"]
    sample = noise(1, 6, 6, 4)
    engine = TfliteEngine(path, load_runtime())
    inputs, outputs = engine.allocate()
    inputs[0][...] = sample
    engine.invoke(inputs, outputs)
    expect_close(network.run(sample)[0], outputs[0])
    made = quantise.convert(network, Quantise(), lambda: iter([sample]))
    assert [op.name for op in read_graph(made).ops] == kinds(network)


def test_what_is_joined_to_zeros_of_an_open_batch_can_be_mixed(tf: Any, tmp_path: Path) -> None:
    weight = noise(45, 2)

    def body(x: Any) -> Any:
        return tf.concat([tf.reshape(x, (tf.shape(x)[0], 45)) @ weight, tf.zeros((tf.shape(x)[0], 2))], 1)

    network = load(convert(tf, tmp_path / "j.tflite", (None, 5, 3, 3), body))
    sample = noise(1, 5, 3, 3)
    assert quantise.convert(network, Quantise(precision="mixed"), lambda: iter([sample]))


def test_a_shape_that_may_hang_on_what_is_fed_is_left(tf: Any, tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        found = tf.gather(x[0], tf.where(x[0] > 0)[:, 0])  # as many as are above zero
        return tf.cumsum(x, 1) * tf.cast(tf.shape(found)[0], tf.float32)

    network = load(convert(tf, tmp_path / "w.tflite", (None, 9), body))
    assert "SHAPE" in kinds(network)
    for sample in (noise(1, 9), np.abs(noise(1, 9))):
        expect_close(network.run(sample)[0], body(tf.constant(sample)))


def test_sizes_that_were_worked_out_are_not_left_open(tf: Any, tmp_path: Path) -> None:
    """onnx2tf writes the sizes that the network runs with, and beside them a signature that leaves some open."""
    path = convert(tf, tmp_path / "open.tflite", (1, None, 8), lambda x: tf.nn.relu(x) * 2.0)
    network = tflite.from_flatbuffer(path.read_bytes(), "open.tflite", fixed=True)
    assert network.flatbuffer is not None
    before, after = (parse_graph(data, path) for data in (path.read_bytes(), network.flatbuffer))
    assert any(tensor.dynamic for tensor in before.tensors) and not any(tensor.dynamic for tensor in after.tensors)


def test_an_open_dimension_needs_a_shape(tf: Any, tmp_path: Path) -> None:
    weight = noise(3, 2)
    path = convert(tf, tmp_path / "o.tflite", (None, None, 3), lambda x: tf.nn.conv1d(x, weight[None], 1, "VALID"))
    with pytest.raises(ModelError, match=r"input .*x:0: expected fixed dimensions, found \[\?, \?, 3\]"):
        load(path)
    network = load(path, (1, 5, 3))
    assert network.outputs[0].shape == (1, 5, 2)
    expect_close(network.run(noise(1, 5, 3))[0], noise(1, 5, 3) @ weight)
    with pytest.raises(ModelError, match=r"expected \[\?, \?, 3\], found \[1, 5, 4\] by \[input\] or --size"):
        load(path, (1, 5, 4))


def test_weights_that_are_no_numbers_are_refused(tf: Any, tmp_path: Path) -> None:
    weight = noise(30, 4)
    weight[3, 1] = np.nan
    with pytest.raises(ModelError, match=r"weights that are no numbers: .*found NaN, 1 of 120 values"):
        load(convert(tf, tmp_path / "nan.tflite", (1, 30), dense(tf, weight)))


def test_damaged_files_are_one_line(tf: Any, tmp_path: Path) -> None:
    whole = (DATA / "tiny-float32.tflite").read_bytes()
    path = tmp_path / "broken.tflite"
    for content in (b"x" * 40, whole[:4], whole[:200], whole[: len(whole) // 2], b"\x1c\0\0\0TFL3" + bytes(range(200))):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"broken\.tflite") as caught:
            load(path)
        assert "\n" not in caught.value.line() and "/vedette-" not in caught.value.line()


def test_an_op_that_the_runtime_lacks_is_named(tf: Any, tmp_path: Path) -> None:
    path = convert(tf, tmp_path / "c.tflite", (1, 30), dense(tf, noise(30, 4)))
    model = tflite._parse(path.read_bytes(), "c")
    schema = tflite._schema()
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = "Frobnicate"
    path.write_bytes(tflite._pack(model))
    with pytest.raises(ModelError, match=r"c\.tflite: needs an operation that .* no kernel for: .*, found Frobnicate"):
        load(path)


def test_an_operation_that_xnnpack_alone_has_is_no_hindrance(tf: Any) -> None:
    network = load(DATA / "selfie_segmentation.tflite")
    shown = [np.full((1, 256, 256, 3), level, np.float32) for level in (0.2, 0.8)]
    made = quantise.convert(network, Quantise(precision="float16"), lambda: iter(shown))
    assert len(made) < 0.6 * len(network.flatbuffer or b"")
    with pytest.raises(ModelError, match=r"would stay in float32: found Convolution2DTransposeBias at layer segment"):
        quantise.convert(network, Quantise(), lambda: iter(shown))


def test_the_published_files(tf: Any, shared_data: Path) -> None:
    folder = shared_data / "mlperf-tiny"
    assert load(folder / "pretrainedResnet.tflite", (1, 32, 32, 3)).outputs[0].shape == (1, 10)
    with pytest.raises(ModelError, match="already quantised"):
        load(folder / "pretrainedResnet_quant.tflite")
