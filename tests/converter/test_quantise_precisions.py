"""Every precision, from a graph and from a flatbuffer, in a real interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from quantise_networks import (
    SIDE,
    as_flatbuffer,
    as_network,
    classifier,
    first_weights,
    samples,
    sourced,
    sqnr_db,
)

from vedette.contract.errors import FaultError, ModelError, PictureError, UserError
from vedette.contract.types import TensorSpec
from vedette.engine import load_runtime
from vedette_converter import quantise
from vedette_converter.load.network import Network
from vedette_converter.quantise import edge_quantizer, tf_converter
from vedette_converter.quantise.conversion import CLEARLY_DB
from vedette_converter.quantise.graph import read_graph
from vedette_converter.quantise.pack import compact
from vedette_converter.recipe.quantisation import Quantise

SOURCES = ["graph", "flatbuffer"]


@pytest.fixture(scope="module")
def network(tf: Any) -> Network:
    return as_network(tf, classifier(tf))


def engine_of(flatbuffer: bytes, tmp_path: Path) -> Any:
    path = tmp_path / "made.tflite"
    path.write_bytes(flatbuffer)
    return quantise.load_proven(path, load_runtime("litert"))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("precision", "least_db", "most_db", "dtype"),
    [
        ("float32", 200.0, np.inf, "float32"),
        ("float16", 50.0, 100.0, "float32"),
        ("dynamic", 25.0, 90.0, "float32"),
        ("int8", 20.0, 60.0, "int8"),
        ("int16x8", 30.0, 90.0, "int16"),
        ("mixed", 20.0, 60.0, "int8"),
    ],
)
def test_every_precision_runs_and_loses_what_it_should(
    network: Network, tmp_path: Path, source: str, precision: Any, least_db: float, most_db: float, dtype: str
) -> None:
    made = quantise.convert(sourced(network, source), Quantise(precision=precision), samples(network))
    engine = engine_of(made, tmp_path)
    assert {tensor.dtype.name for tensor in (*engine.inputs, *engine.outputs)} == {dtype}
    assert [tensor.shape for tensor in engine.outputs] == [spec.shape for spec in network.outputs]
    # from above as well: without noise nothing would have been quantised
    assert least_db <= sqnr_db(network, made, samples(network, 16, seed=2)) <= most_db


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("given", "taken"), [("uint8", "float32"), ("float32", "uint8"), ("int8", "int8")])
def test_inputs_and_outputs_have_the_dtype_that_was_asked_for(
    network: Network, tmp_path: Path, source: str, given: Any, taken: Any
) -> None:
    options = Quantise(input=given, output=taken)
    made = quantise.convert(sourced(network, source), options, samples(network))
    engine = engine_of(made, tmp_path)
    assert engine.inputs[0].dtype.name == given
    assert engine.outputs[0].dtype.name == taken
    assert sqnr_db(network, made, samples(network, 16, seed=2)) > 20.0


@pytest.mark.parametrize("source", SOURCES)
def test_a_network_with_two_inputs_gets_both(tf: Any, tmp_path: Path, source: str) -> None:
    keras = tf.keras
    keras.utils.set_random_seed(2)
    first, second = keras.Input((8,)), keras.Input((3,))
    joined = keras.layers.Concatenate()([keras.layers.Dense(8, activation="relu")(first), second])
    network = as_network(tf, keras.Model([first, second], keras.layers.Dense(4)(joined)))
    made = quantise.convert(sourced(network, source), Quantise(), samples(network))
    assert [tensor.shape for tensor in engine_of(made, tmp_path).inputs] == [(1, 8), (1, 3)]
    assert sqnr_db(network, made, samples(network, 16, seed=2)) > 20.0


def test_dynamic_leaves_depthwise_convolutions_of_a_flatbuffer_in_float(network: Network) -> None:
    made = quantise.convert(as_flatbuffer(network), Quantise(precision="dynamic"))
    dtypes = {op.name: op.inputs[1].dtype for op in read_graph(made).ops if "CONV" in op.name}
    assert dtypes == {"CONV_2D": "int8", "DEPTHWISE_CONV_2D": "float32"}


def test_constants_of_a_flatbuffer_stand_inside_it(tf: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema

    keras = tf.keras
    given = keras.Input((512,))  # the quantiser puts large constants alone behind the flatbuffer
    x = keras.layers.Dense(512, activation="relu")(given)
    network = as_flatbuffer(as_network(tf, keras.Model(given, keras.layers.Dense(512)(x))))
    buffers = schema.ModelT.InitFromPackedBuf(quantise.convert(network, Quantise(), samples(network, 4))).buffers
    assert all(buffer.offset <= 1 for buffer in buffers)
    assert sum(len(buffer.data) for buffer in buffers if buffer.data is not None) > 2 * 512 * 512


@pytest.mark.parametrize(
    "options", [Quantise(input="uint8", output="uint8"), Quantise(precision="mixed", output="float32", min_sqnr_db=38)]
)
def test_a_flatbuffer_without_signatures_gets_other_outputs_too(
    network: Network, tmp_path: Path, options: Quantise
) -> None:
    whole = as_flatbuffer(network)
    assert whole.flatbuffer is not None
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(whole.flatbuffer))
    model.signatureDefs = None  # as in files older than TensorFlow 2.5, and in what the loader changed
    bare = replace(whole, flatbuffer=bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    engine = engine_of(quantise.convert(bare, options, samples(bare)), tmp_path)
    assert [tensor.dtype.name for tensor in engine.outputs] == [options.output_dtype]


@pytest.mark.parametrize("precision", ["float16", "dynamic", "int8"])
def test_a_flatbuffer_of_an_old_schema_is_quantised_as_a_new_one(network: Network, precision: Any) -> None:
    whole = as_flatbuffer(network)
    assert whole.flatbuffer is not None
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(whole.flatbuffer))
    for code in model.operatorCodes:
        code.builtinCode = 0  # as TensorFlow 1 wrote it: the op is in the deprecated field alone
    old = replace(whole, flatbuffer=bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    made, expected = (quantise.convert(n, Quantise(precision=precision), samples(n)) for n in (old, whole))
    kinds = [[(op.name, [t.dtype for t in op.inputs]) for op in read_graph(given).ops] for given in (made, expected)]
    assert kinds[0] == kinds[1] and abs(len(made) - len(expected)) < 64


def test_the_plain_int8_of_a_graph_is_tensorflows_to_the_byte(network: Network) -> None:
    shown = samples(network)
    plain = quantise.to_int8(network, [*shown()])  # type: ignore[list-item]
    assert quantise.convert(network, Quantise(), shown) == compact(plain)


def test_each_sample_is_announced_once(network: Network) -> None:
    seen: list[int] = []
    quantise.convert(network, Quantise(), samples(network, 7), on_sample=lambda: seen.append(1))
    assert len(seen) == 7


def test_a_sample_that_cannot_be_read_stays_the_users_mistake(network: Network) -> None:
    def broken() -> Iterator[Any]:
        yield np.zeros(network.input.shape, np.float32)
        raise PictureError("no picture that can be decoded", where="here.jpg")

    with pytest.raises(PictureError, match=r"^here\.jpg: no picture that can be decoded$"):
        quantise.convert(network, Quantise(), broken)


def test_a_sample_of_another_shape_is_named(network: Network) -> None:
    def wrong() -> Iterator[Any]:
        yield np.zeros((1, SIDE, SIDE, 1), np.float32)

    with pytest.raises(UserError, match=r"does not fit the network: expected \[\[1, 16, 16, 3\]\], found \[\[1, 16"):
        quantise.convert(network, Quantise(), wrong)


# --- what is not finite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_nan_weight_names_its_layer(tf: Any, source: str, precision: Any) -> None:
    model = classifier(tf)
    weights = first_weights(model, "wide")
    weights[0][0, 0, 3, 2] = np.nan
    model.get_layer("wide").set_weights(weights)
    network = sourced(as_network(tf, model), source)
    with pytest.raises(ModelError, match=r"layer \S*wide\S* \(CONV_2D\) has weights that are no numbers: found 1 NaN"):
        quantise.convert(network, Quantise(precision=precision), samples(network))


def test_a_layer_that_overflows_is_named_and_not_one_that_merely_passes_it_on(tf: Any) -> None:
    model = classifier(tf)
    weights = first_weights(model, "last")
    model.get_layer("last").set_weights([np.sign(weights[0]) * np.float32(3e38), weights[1]])
    network = as_network(tf, model)
    with pytest.raises(
        ModelError, match=r"layer \S*last\S* \(CONV_2D\) puts out what is no finite number: found \d+ of"
    ):
        quantise.convert(network, Quantise(), samples(network))


def test_a_sample_with_nan_is_not_the_networks_fault(network: Network) -> None:
    def bad() -> Iterator[Any]:
        yield np.full(network.input.shape, np.nan, np.float32)

    with pytest.raises(UserError, match="a calibration sample is not finite: found 768 of 768"):
        quantise.convert(network, Quantise(), bad)


def test_no_samples_at_all_are_named(network: Network) -> None:
    with pytest.raises(ModelError, match="no calibration samples"):
        quantise.convert(network, Quantise(), lambda: iter(()))


# --- what has no kernel ----------------------------------------------------------------------------------------------


def test_an_op_that_tflite_lacks_is_named_with_its_layer(tf: Any) -> None:
    keras = tf.keras

    class Odd(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return tf.math.erfinv(x / 2)

    given = keras.Input((4,))
    network = as_network(tf, keras.Model(given, Odd(name="oddity")(given)))
    with pytest.raises(ModelError, match=r"no TFLite kernel.* for tf\.Erfinv at layer \S*oddity\S*; put") as caught:
        quantise.convert(network, Quantise(), samples(network))
    assert "\n" not in caught.value.line()
    assert len(caught.value.line()) < 300


def floor_network(tf: Any) -> Network:
    """FLOOR has no int8 kernel; a dense layer before and after it."""
    dense = tf.constant(np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32))
    function = tf.function(lambda x: [tf.matmul(tf.floor(tf.matmul(x, dense) * 4), dense)])
    spec = TensorSpec("x", (1, 8), np.dtype(np.float32))
    return Network((spec,), (spec,), function.get_concrete_function(tf.TensorSpec((1, 8), tf.float32)))


@pytest.mark.parametrize("source", SOURCES)
def test_an_op_that_would_stay_float_is_refused_in_int8_and_mixed_takes_it(
    tf: Any, tmp_path: Path, source: str
) -> None:
    network = sourced(floor_network(tf), source)
    with pytest.raises(
        ModelError, match=r"ops without an int8 kernel would stay in float32: found FLOOR at layer .*mixed"
    ):
        quantise.convert(network, Quantise(), samples(network))
    made = quantise.convert(network, Quantise(precision="mixed", min_sqnr_db=5), samples(network))
    engine_of(made, tmp_path)
    names = [op.name for op in read_graph(made).ops]
    assert "FLOOR" in names
    assert {"QUANTIZE", "DEQUANTIZE"} <= set(names)


def recurrent(tf: Any, *, unroll: bool) -> Network:
    keras = tf.keras
    keras.utils.set_random_seed(1)
    x = keras.Input((8, 3))
    y = keras.layers.Bidirectional(keras.layers.GRU(4, unroll=unroll), name="memory")(x)
    y = keras.layers.Reshape((8, 1))(y)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.LSTM(4, unroll=unroll)(y)))
    for variable in model.weights:  # a bias of zeros would be folded away
        variable.assign(keras.random.normal(variable.shape))
    return as_network(tf, model)


@pytest.mark.parametrize("precision", ["int8", "int16x8", "mixed"])
def test_a_loop_is_refused_by_its_layer_where_ranges_are_calibrated(tf: Any, precision: Any) -> None:
    network = recurrent(tf, unroll=False)
    with pytest.raises(ModelError, match=r"layer \S*memory\S*while \(WHILE\) has a body of its own") as caught:
        quantise.convert(network, Quantise(precision=precision), samples(network))
    assert "unroll=True" in caught.value.line() and 'precision = "dynamic" or "float16"' in caught.value.line()


def test_ways_out_of_a_loop(tf: Any, tmp_path: Path) -> None:
    network = recurrent(tf, unroll=False)
    for precision in ("dynamic", "float16"):
        engine_of(quantise.convert(network, Quantise(precision=precision), samples(network)), tmp_path)
    unrolled = recurrent(tf, unroll=True)
    engine_of(quantise.convert(unrolled, Quantise(), samples(unrolled)), tmp_path)


def test_the_quantiser_that_loses_clearly_less_is_taken(tf: Any, tmp_path: Path) -> None:
    keras = tf.keras
    keras.utils.set_random_seed(1)
    x = keras.Input((SIDE, SIDE, 3))
    y = keras.layers.AdaptiveAveragePooling2D(4)(keras.layers.Conv2D(8, 3, padding="same")(x))
    y = keras.layers.Flatten()(y)
    network = as_network(tf, keras.Model(x, keras.layers.Dense(3)(y)))
    shown = samples(network)
    alone = tf_converter.integer(network, shown)
    made = quantise.convert(network, Quantise(), shown)
    engine_of(made, tmp_path)
    later = samples(network, seed=2)
    assert sqnr_db(network, made, later) > sqnr_db(network, alone, later) + CLEARLY_DB


def test_what_tensorflow_refuses_the_other_quantiser_names_by_layer(tf: Any) -> None:
    x = tf.keras.Input((SIDE,))
    y = tf.keras.layers.Activation("hard_swish", name="bent")(tf.keras.layers.Dense(8)(x))
    network = as_network(tf, tf.keras.Model(x, tf.keras.layers.Dense(2)(y)))
    with pytest.raises(
        ModelError, match=r"without an int16x8 kernel .* found HARD_SWISH at layer \S*bent\S*; precision = \"mixed\""
    ):
        quantise.convert(network, Quantise(precision="int16x8"), samples(network))


@pytest.mark.parametrize(("precision", "at_least_db"), [("int8", 25), ("int16x8", 35)])
def test_a_part_that_nobody_reads_is_in_integers_too(
    tf: Any, tmp_path: Path, precision: Any, at_least_db: float
) -> None:
    network = sourced(recurrent(tf, unroll=True), "flatbuffer")
    made = quantise.convert(network, Quantise(precision=precision), samples(network))
    read = {tensor.index for op in read_graph(made).ops for tensor in op.inputs}
    parts = [tensor for op in read_graph(made).ops if op.name == "SPLIT" for tensor in op.outputs]
    unread = [tensor.dtype for tensor in parts if tensor.index not in read]
    assert unread == ["int8" if precision == "int8" else "int16"], "an LSTM's first step forgets nothing"
    engine_of(made, tmp_path)
    assert sqnr_db(network, made, samples(network, seed=2)) > at_least_db


def test_a_state_that_has_no_range_has_a_way_out(tf: Any) -> None:
    flatbuffer = sourced(recurrent(tf, unroll=True), "flatbuffer").flatbuffer
    assert flatbuffer is not None
    with pytest.raises(FaultError, match=r'cannot quantise the network: .*; take precision = "dynamic" or "float16"'):
        edge_quantizer.integer(flatbuffer, {})


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"precision": "float16", "input": "int8"}, "input: expected float32 with precision float16, found int8"),
        (
            {"precision": "int16x8", "output": "uint8"},
            "output: expected int16 or float32 with precision int16x8, found u",
        ),
        ({"input": "int16"}, "input: expected int8 or uint8 or float32 with precision int8, found int16"),
        ({"precision": "dynamic", "ranges": "percentile"}, "ranges: precision dynamic has no calibrated ranges"),
        ({"percentile": 99.9}, 'percentile: expected only with ranges = "percentile"'),
        ({"min_sqnr_db": 20.0}, "min_sqnr_db: expected only with precision mixed, found precision int8"),
        ({"precision": "int16x8", "max_float_layers": 2}, "max_float_layers: expected only with precision mixed"),
        ({"ranges": "percentile", "percentile": 100.0}, "Expected `float` < 100.0"),
    ],
)
def test_options_that_contradict_one_another_are_refused_in_one_line(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(options, Quantise)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults_follow_the_precision() -> None:
    assert (Quantise().input_dtype, Quantise().output_dtype, Quantise().clip_percentile) == ("int8", "int8", None)
    assert Quantise(precision="int16x8").input_dtype == "int16"
    assert Quantise(precision="dynamic").output_dtype == "float32"
    assert Quantise(ranges="percentile").clip_percentile == 99.99
    assert not Quantise(precision="float16").calibrated


# --- a published flatbuffer ------------------------------------------------------------------------------------------


def test_the_published_resnet_in_int8_is_as_good_as_the_published_int8_one(shared_data: Path, tf: Any) -> None:
    folder = shared_data / "mlperf-tiny"
    flatbuffer = (folder / "pretrainedResnet.tflite").read_bytes()
    published = (folder / "pretrainedResnet_quant.tflite").read_bytes()
    spec = TensorSpec("input_1", (1, 32, 32, 3), np.dtype(np.float32))
    network = Network((spec,), (TensorSpec("Identity", (1, 10), np.dtype(np.float32)),), None, None, flatbuffer)
    rng = np.random.default_rng(1)

    def pictures(count: int) -> list[Any]:
        # smooth: noise upsampled, in the 0..255 that this network takes
        return [
            np.kron(rng.uniform(0, 255, (1, 8, 8, 3)), np.ones((1, 4, 4, 1))).astype(np.float32) for _ in range(count)
        ]

    shown, unseen = pictures(48), pictures(48)
    ours = quantise.convert(network, Quantise(), lambda: iter(shown))
    assert sqnr_db(network, ours, lambda: iter(unseen)) > sqnr_db(network, published, lambda: iter(unseen)) - 1.0
    assert {op.name for op in read_graph(ours).ops} == {op.name for op in read_graph(published).ops}
    assert len(ours) < 0.35 * len(flatbuffer)
