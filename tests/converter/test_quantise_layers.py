"""Errors by layer, and mixed precision, which is chosen by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantise_networks import as_flatbuffer, as_network, classifier, first_weights, outlier, samples, sourced

from vedette.contract.errors import FaultError
from vedette_converter import quantise
from vedette_converter.load.network import Network
from vedette_converter.quantise.graph import read_graph
from vedette_converter.quantise.mixed import _fewest
from vedette_converter.quantise.ranges import observe
from vedette_converter.quantise.trace import Trace
from vedette_converter.recipe.quantisation import Quantise


@pytest.fixture(scope="module")
def network(tf: Any) -> Network:
    return as_network(tf, classifier(tf))


@pytest.fixture(scope="module")
def spiky(tf: Any) -> Network:
    return as_network(tf, outlier(tf))


@pytest.mark.parametrize("source", ["graph", "flatbuffer"])
def test_every_layer_is_there_in_its_order_with_its_error(network: Network, source: str) -> None:
    shown = samples(network, 8)
    float32 = quantise.to_float32(network)
    made = quantise.convert(sourced(network, source), Quantise(), shown)
    errors = quantise.layer_errors(float32, made, shown)
    graph = read_graph(float32)
    assert [(e.index, e.op, e.tensor) for e in errors] == [(op.index, op.name, op.layer) for op in graph.ops]
    assert {e.dtype for e in errors} == {"int8"}
    for error in errors:
        assert 15.0 < error.sqnr_db < 60.0
        # rounding alone makes 0.289, more where the errors of earlier layers are in it; a ReLU's zeros make it less
        assert error.rmse_by_scale is not None
        assert 0.1 < error.rmse_by_scale < 5.0
    # a second opinion on the first layer's figures, by their definitions
    before, after = Trace(float32), Trace(made)
    one = graph.ops[0].outputs[0]
    other = next(t for op in read_graph(made).ops for t in op.outputs if t.name == one.name)
    pairs = []
    for sample in shown():
        before.run(sample)
        after.run(sample)
        pairs.append((before.real(one.index).astype(np.float64), after.real(other.index).astype(np.float64)))
    f, q = (np.stack(side) for side in zip(*pairs, strict=True))
    assert errors[0].sqnr_db == pytest.approx(10 * np.log10(np.mean(f**2) / np.mean((f - q) ** 2)))
    scale = after.quantisation(other.index)[0]
    assert errors[0].rmse_by_scale == pytest.approx(np.sqrt(np.mean((f - q) ** 2)) / scale)


def test_multiply_accumulates_are_those_of_the_shapes(network: Network) -> None:
    shown = samples(network, 1)
    float32 = quantise.to_float32(network)
    errors = quantise.layer_errors(float32, float32, shown)
    assert [e.macs for e in errors if e.macs] == [
        16 * 16 * 8 * 3 * 3 * 3,  # first
        16 * 16 * 8 * 3 * 3,  # deep
        16 * 16 * 8 * 8,  # wide
        8 * 8 * 32 * 3 * 3 * 8,  # last
        5 * 32,  # logits
    ]
    assert sum(e.mac_share for e in errors) == pytest.approx(1.0)
    assert {e.sqnr_db for e in errors} == {float("inf")}
    assert {e.rmse_by_scale for e in errors} == {None}


def test_a_layer_with_an_outlier_among_its_weights_shows(tf: Any) -> None:
    model = classifier(tf)
    weights = first_weights(model, "wide")
    weights[0][0, 0, 0] *= 3e4  # one input channel drowns the others in every output channel
    deep = first_weights(model, "deep")
    deep[0][:, :, 0], deep[1][0] = 0.0, -1.0  # which is always zero
    model.get_layer("wide").set_weights(weights)
    model.get_layer("deep").set_weights(deep)
    network = as_network(tf, model)
    shown = samples(network, 8)
    float32 = quantise.to_float32(network)
    ranking = quantise.sensitivities(float32, observe(float32, shown).ranges, list(shown()))
    assert "wide" in ranking[0].op.layer
    assert ranking[0].sqnr_db < ranking[1].sqnr_db - 10.0


def test_mixed_leaves_what_is_good_enough_in_int8(network: Network) -> None:
    made = quantise.mixed(network, Quantise(precision="mixed", min_sqnr_db=10), samples(network))
    assert made.float_layers == ()
    assert made.trials == ((0, True),)


@pytest.mark.parametrize("source", ["graph", "flatbuffer"])
def test_mixed_keeps_the_layers_that_lose_most_and_no_others(spiky: Network, source: str) -> None:
    shown = samples(spiky, 32)
    options = Quantise(precision="mixed", min_sqnr_db=25)
    made = quantise.mixed(sourced(spiky, source), options, shown)
    # the layer that puts the outliers out, and the one that must take them in
    assert {"raise" in kept.op.layer or "reader" in kept.op.layer for kept in made.float_layers} == {True}
    assert len(made.float_layers) == 2
    assert made.sqnr_db >= 25.0
    assert made.trials[0] == (0, False)
    weights = [op.inputs[1].dtype for op in read_graph(made.flatbuffer).ops if op.name == "CONV_2D"]
    assert weights == ["int8", "float32", "float32", "int8"]
    assert [s.sqnr_db for s in made.ranking] == sorted(s.sqnr_db for s in made.ranking)


def test_mixed_is_refused_where_the_bound_does_not_hold(spiky: Network) -> None:
    options = Quantise(precision="mixed", min_sqnr_db=25, max_float_layers=1)
    with pytest.raises(
        FaultError, match=r"no mixed network holds the bound: expected 25 dB at every output, found .* dB"
    ):
        quantise.convert(as_flatbuffer(spiky), options, samples(spiky, 32))


def test_mixed_keeps_in_float_what_the_runtime_would_not_load(tf: Any) -> None:
    network = as_network(tf, outlier(tf, raised=1e6))
    with pytest.raises(FaultError, match="the int8 network does not run with litert"):
        quantise.convert(network, Quantise(), samples(network))
    made = quantise.mixed(network, Quantise(precision="mixed", min_sqnr_db=25), samples(network))
    assert made.trials[0] == (0, False)
    assert made.sqnr_db >= 25.0
    quantise.prove(made.flatbuffer)


def test_mixed_heeds_the_callers_own_bound(network: Network) -> None:
    asked: list[bytes] = []

    def holds(flatbuffer: bytes) -> bool:
        asked.append(flatbuffer)
        return sum(op.inputs[1].dtype == "float32" for op in read_graph(flatbuffer).ops if "CONV" in op.name) >= 2

    made = quantise.mixed(network, Quantise(precision="mixed"), samples(network), holds=holds)
    assert holds(made.flatbuffer)
    assert len(asked) - 1 == len(made.trials)
    smaller = [count for count, held in made.trials if not held]
    assert max(smaller) == len(made.float_layers) - 1  # one layer less was tried, and did not do


@given(st.integers(0, 70), st.integers(1, 80))
def test_the_search_finds_the_fewest_where_more_is_never_worse(most: int, needed: int) -> None:
    tried: list[int] = []

    def attempt(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert _fewest(attempt, most) == (needed if needed <= most else None)
    assert len(tried) == len(set(tried))
    assert all(1 <= count <= most for count in tried)
    assert len(tried) <= 2 * max(1, most).bit_length() + 1
