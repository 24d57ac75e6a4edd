"""Ranges: extremes, or percentiles of what every activation was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantise_networks import as_flatbuffer, as_network, classifier, outlier, samples, sourced, sqnr_db

from vedette.contract.errors import UserError
from vedette_converter import quantise
from vedette_converter.load.network import Network
from vedette_converter.quantise.graph import read_graph
from vedette_converter.quantise.ranges import clip, observe
from vedette_converter.quantise.trace import Trace
from vedette_converter.recipe.quantisation import Quantise


@pytest.fixture(scope="module")
def spiky(tf: Any) -> Network:
    return as_network(tf, outlier(tf))


def values_of(flatbuffer: bytes, index: int, shown: Any) -> Any:
    trace = Trace(flatbuffer)
    found = []
    for sample in shown():
        trace.run(sample)
        found.append(trace.raw(index).ravel())
    return np.sort(np.concatenate(found))


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_a_clipped_range_leaves_out_the_share_it_says_and_no_more(tf: Any, percentile: float) -> None:
    network = as_network(tf, classifier(tf))
    flatbuffer = quantise.to_float32(network)
    shown = samples(network, 24)
    observed = observe(flatbuffer, shown)
    ranges = clip(flatbuffer, shown, observed, percentile)
    first = read_graph(flatbuffer).ops[0].outputs[0]
    values = values_of(flatbuffer, first.index, shown)
    beyond = int(len(values) * (100 - percentile) / 100)
    assert beyond > 0
    # by other kernels, which add in another order
    clipped = (ranges[first.name].low, ranges[first.name].high)
    assert clipped == pytest.approx((values[beyond], values[-1 - beyond]), rel=1e-5)
    assert clipped != pytest.approx((values[beyond - 1], values[-beyond]), rel=1e-5)
    extremes = (observed.ranges[first.name].low, observed.ranges[first.name].high)
    assert extremes == pytest.approx((values[0], values[-1]), rel=1e-5)


def test_inputs_and_outputs_keep_their_extremes(spiky: Network) -> None:
    flatbuffer = quantise.to_float32(spiky)
    shown = samples(spiky, 24)
    observed = observe(flatbuffer, shown)
    ranges = clip(flatbuffer, shown, observed, 99.0)
    graph = read_graph(flatbuffer)
    for tensor in (*graph.inputs, *graph.outputs):
        assert ranges[tensor.name] == observed.ranges[tensor.name]
    assert ranges[graph.ops[1].outputs[0].name].high < observed.ranges[graph.ops[1].outputs[0].name].high / 100


def test_what_only_passes_values_on_to_an_output_keeps_its_extremes_too(tf: Any) -> None:
    keras = tf.keras
    keras.utils.set_random_seed(1)
    given = keras.Input((64,))
    x = keras.layers.Dense(256, name="logits")(keras.layers.Dense(64, activation="relu")(given))
    network = as_network(tf, keras.Model(given, keras.layers.Reshape((16, 16))(keras.layers.Softmax()(x))))
    flatbuffer = quantise.to_float32(network)
    shown = samples(network, 32)
    observed = observe(flatbuffer, shown)
    ranges = clip(flatbuffer, shown, observed, 99.0)
    hidden, logits = (op.outputs[0].name for op in read_graph(flatbuffer).ops if op.name == "FULLY_CONNECTED")
    assert ranges[logits] == observed.ranges[logits]
    assert ranges[hidden].high < observed.ranges[hidden].high


@pytest.mark.parametrize("source", ["graph", "flatbuffer"])
def test_percentiles_save_a_network_with_outliers(spiky: Network, source: str) -> None:
    network = sourced(spiky, source)
    shown, unseen = samples(spiky, 64), samples(spiky, 64, seed=2)
    extremes = sqnr_db(spiky, quantise.convert(network, Quantise(), shown), unseen)
    clipped = sqnr_db(
        spiky, quantise.convert(network, Quantise(ranges="percentile", percentile=99.9), shown), unseen
    )  # fmt: skip
    assert clipped > extremes + 12.0
    assert clipped > 25.0


def test_a_range_clipped_too_small_for_the_runtime_is_refused_with_the_way_out(tf: Any) -> None:
    network = as_network(tf, outlier(tf, gain=1e6, raised=1.0))
    quantise.convert(network, Quantise(), samples(network, 32))  # runs, if badly
    options = Quantise(ranges="percentile", percentile=99.9)
    with pytest.raises(UserError, match=r"the int8 network does not run with litert.*XNNPACK.*; raise percentile"):
        quantise.convert(network, options, samples(network, 32))


def test_int16x8_takes_percentiles_as_well(spiky: Network) -> None:
    options = Quantise(precision="int16x8", ranges="percentile", percentile=99.9)
    made = quantise.convert(as_flatbuffer(spiky), options, samples(spiky, 32))
    trace = Trace(made)
    hidden = read_graph(made).ops[1].outputs[0]
    scale, zero_point = trace.quantisation(hidden.index)
    assert hidden.dtype == "int16"
    assert zero_point == 0
    assert scale * 32767 < 4.0  # the extremes are a hundred times that
