"""Criteria, plans, what they cost, and pruning to a latency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_prune_proof import build_pattern, prove, randomise

from vedette.contract.errors import ModelError, UserError
from vedette_converter.prune import (
    BatchNormScale,
    Criterion,
    Cut,
    GeometricMedian,
    L1Norm,
    Plan,
    Taylor,
    analyse,
    count,
    plan,
    plan_for_latency,
)
from vedette_converter.prune.calls import load_keras
from vedette_converter.prune.planning import rounded


def wide(channels: int = 32) -> Any:
    """stem -> (a, b) + stem -> head, with batch norms."""
    keras = load_keras()
    layers = keras.layers
    x = keras.Input((8, 8, 3), name="x")
    y = stem = layers.BatchNormalization(name="n")(layers.Conv2D(channels, 3, padding="same", name="stem")(x))
    y = layers.ReLU(name="r")(layers.BatchNormalization(name="m")(layers.Conv2D(2 * channels, 3, name="a")(y)))
    y = layers.Conv2D(channels, 3, padding="same", name="b")(layers.ZeroPadding2D(1, name="z")(y))
    y = layers.Add(name="sum")([stem, y])
    out = layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="g")(y))
    return randomise(keras.Model(x, out, name="wide"))


def squared(model: Any, batch: Any) -> Any:
    """The mean of squared outputs."""
    return load_keras().ops.mean(model(batch, training=False) ** 2)


def batches(n: int = 2) -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.normal(0, 1, (4, 8, 8, 3)).astype(np.float32) for _ in range(n)]


# --- criteria --------------------------------------------------------------------------------------------------------


def test_l1_is_the_mean_over_members_of_norms_by_their_layers_mean(tf: Any) -> None:
    model = wide()
    scores = L1Norm()(analyse(model))
    norms = [np.abs(model.get_layer(name).kernel.numpy()).sum(axis=(0, 1, 2)) for name in ("stem", "b")]
    np.testing.assert_allclose(scores["stem"], sum(n / n.mean() for n in norms) / 2, rtol=1e-6)
    assert scores["a"].mean() == pytest.approx(1)


def test_fpgm_takes_the_filter_that_others_can_replace_and_l1_the_small_one(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.Dense(4, use_bias=False, name="a")(x)))
    filters = np.array([[5.0, 0, 0, 0], [0, 5, 0, 0], [0.1, 0, 0, 0], [2.5, 2.5, 0.5, 0]], np.float32)
    model.get_layer("a").set_weights([filters.T])
    graph = analyse(model)
    assert np.argmin(L1Norm()(graph)["a"]) == 2
    distances = [sum(np.linalg.norm(f - g) for g in filters) for f in filters]
    np.testing.assert_allclose(GeometricMedian()(graph)["a"], distances / np.mean(distances), rtol=1e-6)
    assert np.argmin(GeometricMedian()(graph)["a"]) == 3


def test_batch_norm_scale_is_the_mean_gamma_and_leaves_groups_without_one(tf: Any) -> None:
    model = wide()
    gamma = model.get_layer("n").gamma
    gamma.assign(-gamma)
    np.testing.assert_allclose(BatchNormScale()(analyse(model))["stem"], -gamma.numpy(), rtol=1e-6)
    mixed = build_pattern("identity_residual")  # a: no batch norm
    assert set(BatchNormScale()(analyse(mixed))) == {"stem"}
    assert {cut.group: cut.kept for cut in plan(mixed, BatchNormScale(), ratio=0.5, multiple=1, min_channels=1).cuts} == {
        "stem": 3, "a": 4,
    }  # fmt: skip
    with pytest.raises(UserError, match="chain: no group of channels has a batch normalisation with a scale"):
        BatchNormScale()(analyse(build_pattern("chain")))


def test_taylor_is_the_squared_derivative_along_the_units_weights(tf: Any) -> None:
    """Against a central difference: d loss / d s where all the unit's weights are multiplied by s."""
    model = wide(4)
    data = batches(2)
    graph = analyse(model)
    scores = Taylor(data, squared)(graph)
    step = 1e-2
    for unit in range(4):
        changes = []
        for batch in data:
            losses = []
            for factor in (1 + step, 1 - step):
                saved = {v.path: v.numpy() for v in model.weights}
                for weight in (model.get_layer("n").gamma, model.get_layer("n").beta, *model.get_layer("b").weights):
                    value = weight.numpy()  # stem's batch norm stands for stem; b has none, so its own weights count
                    value[..., unit] *= factor
                    weight.assign(value)
                losses.append(float(squared(model, batch)))
                for v in model.weights:
                    v.assign(saved[v.path])
            changes.append(((losses[0] - losses[1]) / (2 * step)) ** 2)
        assert scores["stem"][unit] == pytest.approx(np.mean(changes), rel=2e-2, abs=1e-6)


def test_taylor_spares_what_the_loss_needs(tf: Any) -> None:
    model = wide(16)
    kernel, bias = (w.numpy() for w in model.get_layer("head").weights)
    kernel[[2, 5, 11]] = 0  # nothing reads these channels behind the sum, and `a` reads none of them either
    model.get_layer("head").set_weights([kernel, bias])
    read = model.get_layer("a").kernel.numpy()
    read[:, :, [2, 5, 11]] = 0
    model.get_layer("a").kernel.assign(read)
    scores = Taylor(batches(), squared)(analyse(model))["stem"]
    assert set(np.argsort(scores)[:3]) == {2, 5, 11}
    assert scores[[2, 5, 11]].max() == 0


def test_taylor_without_data_or_with_nan_is_refused(tf: Any) -> None:
    graph = analyse(wide(4))
    with pytest.raises(UserError, match="expected at least one batch, found none"):
        Taylor([], squared)(graph)
    with pytest.raises(UserError, match="the loss has no finite gradient"):
        Taylor([np.full((1, 8, 8, 3), np.nan, np.float32)], squared)(graph)


def test_nan_weights_name_the_layer(tf: Any) -> None:
    model = wide(4)
    model.get_layer("b").kernel.assign(model.get_layer("b").kernel * np.nan)
    with pytest.raises(UserError, match="wide: layer b: expected finite weights, found NaN"):
        plan(model, L1Norm(), ratio=0.5)


@pytest.mark.parametrize("criterion", [L1Norm(), GeometricMedian(), BatchNormScale(), Taylor(batches(), squared)])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_each_criterion_leads_to_a_network_that_is_proved(tf: Any, criterion: Criterion, scope: Any) -> None:
    model = wide()
    chosen = plan(model, criterion, ratio=0.5, scope=scope)
    assert all(cut.kept % 8 == 0 for cut in chosen.cuts)
    assert 0.25 <= chosen.ratio <= 0.6
    prove(model, chosen)


def test_transposed_and_separable_kernels_are_scored_along_their_outputs(tf: Any) -> None:
    for name, layer in (("transposed_convolution_and_resizing", "t"), ("separable", "s")):
        model = build_pattern(name)
        last = model.get_layer(layer)
        variable = last.kernel if layer == "t" else last.pointwise_kernel
        kernel = variable.numpy()
        kernel[(..., 2, slice(None)) if layer == "t" else (..., 2)] = 0
        variable.assign(kernel)
        for criterion in (L1Norm(), Taylor(batches(), squared)):
            scores = criterion(analyse(model))[layer]
            assert len(scores) == {"t": 5, "s": 6}[layer]
        assert np.argmin(L1Norm()(analyse(model))[layer]) == 2


# --- plans -----------------------------------------------------------------------------------------------------------


def test_uniform_takes_the_same_share_of_each_group_and_the_least_important_units(tf: Any) -> None:
    model = wide()
    chosen = plan(model, L1Norm(), ratio=0.5)
    assert [(cut.layers, cut.size, cut.kept) for cut in chosen.cuts] == [(("stem", "b"), 32, 16), (("a",), 64, 32)]
    scores = L1Norm()(analyse(model))["a"]
    assert set(chosen.cuts[1].removed) == set(np.argsort(scores)[:32])
    assert chosen.ratio == 0.5


def test_global_takes_where_it_matters_least_down_to_the_floor(tf: Any) -> None:
    model = wide()
    gamma = model.get_layer("m").gamma
    gamma.assign(gamma * 0.01)  # a's channels
    chosen = plan(model, BatchNormScale(), ratio=0.4, scope="global")
    assert [cut.kept for cut in chosen.cuts] == [32, 24]
    chosen = plan(model, BatchNormScale(), ratio=0.6, scope="global", floor=0.5)
    assert [cut.kept for cut in chosen.cuts] == [16, 32]


def test_overrides_by_layer(tf: Any) -> None:
    model = wide()
    for scope in ("uniform", "global"):
        chosen = plan(model, L1Norm(), ratio=0.5, scope=scope, overrides={"b": 0, "a": 0.75})  # type: ignore[arg-type]
        assert [cut.kept for cut in chosen.cuts] == [32, 16]
    assert plan(model, L1Norm(), ratio=0.5, overrides={"head": 0}).ratio == 0.5  # it stays anyhow
    with pytest.raises(UserError, match="wide: overrides: no such layer: found stm; perhaps stem"):
        plan(model, L1Norm(), ratio=0.5, overrides={"stm": 0.5})
    with pytest.raises(UserError, match="overrides: head cannot be pruned: found an output of the network"):
        plan(model, L1Norm(), ratio=0.5, overrides={"head": 0.5})
    with pytest.raises(UserError, match=r"overrides: stem and b go together: expected one ratio, found 0 and 0\.5"):
        plan(model, L1Norm(), ratio=0.5, overrides={"stem": 0, "b": 0.5})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": 1.0}, "ratio: expected 0 to below 1, found 1"),
        ({"ratio": -0.1}, "ratio: expected 0 to below 1"),
        ({"ratio": float("nan")}, "ratio: expected 0 to below 1"),
        ({"ratio": 0.5, "multiple": 0}, "multiple: expected at least 1, found 0"),
        ({"ratio": 0.5, "min_channels": 0}, "min_channels: expected at least 1"),
        ({"ratio": 0.5, "scope": "local"}, "scope: expected uniform or global, found local"),
    ],
)
def test_numbers_that_cannot_be(tf: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(wide(8), L1Norm(), **options)


@given(st.integers(1, 512), st.floats(0, 1), st.integers(1, 16), st.integers(1, 64))
def test_rounding(size: int, ratio: float, multiple: int, least: int) -> None:
    kept = rounded(size * (1 - ratio), size, multiple, least)
    assert 1 <= kept <= size
    assert kept == size or (kept % multiple == 0 and kept >= least)
    assert kept >= size * (1 - ratio) - multiple / 2


def test_a_plan_is_checked_when_built() -> None:
    for removed in ((1, 0), (1, 1), (4,), (-1,), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match="group a"):
            Cut("a", ("a",), 4, removed)
    assert Plan((Cut("a", ("a",), 4, (0,)), Cut("b", ("b",), 4, ()))).ratio == 1 / 8


# --- cost ------------------------------------------------------------------------------------------------------------


def test_macs_and_parameters_by_hand(tf: Any) -> None:
    cost = count(wide(8))
    # stem 8x8 places, a 6x6, b 8x8, head once
    assert cost.macs == 64 * 27 * 8 + 36 * 72 * 16 + 64 * 144 * 8 + 8 * 4
    assert cost.parameters == (27 + 1) * 8 + (72 + 1) * 16 + (144 + 1) * 8 + (8 + 1) * 4 + 4 * (8 + 16)
    assert cost.uncounted == ()


@pytest.mark.parametrize(
    "name",
    [
        "identity_residual", "depthwise_with_a_multiplier", "separable", "two_towers_that_share_a_layer", "u_net",
        "inverted_residual_with_squeeze_and_excite", "dense_autoencoder",
    ],
)  # fmt: skip
def test_macs_are_those_of_tensorflows_profiler(tf: Any, name: str) -> None:
    model = build_pattern(name)
    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]), tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    profile = tf.compat.v1.profiler.profile(graph, cmd="op", options={**options, "output": "none"})
    kinds = {"Conv2D", "DepthwiseConv2dNative", "MatMul"}
    flops = sum(child.float_ops for child in _nodes(profile) if child.name in kinds)
    assert count(model).macs == flops / 2  # a multiply-accumulate is two operations


def _nodes(profile: Any) -> list[Any]:
    return [profile, *(node for child in profile.children for node in _nodes(child))]


def test_a_transposed_convolution_and_unknown_layers(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((5, 5, 2), name="x")
    y = keras.layers.Conv2DTranspose(3, 4, strides=2, padding="same", name="t")(x)
    y = keras.layers.LSTM(2, name="l")(keras.layers.Reshape((100, 3), name="r")(y))
    cost = count(keras.Model(x, y))
    assert cost.macs == 25 * 16 * 2 * 3  # each input touches 4 x 4 outputs
    assert cost.uncounted == ("l",)


def test_an_open_size_cannot_be_counted(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((None, None, 2), name="x")
    model = keras.Model(x, keras.layers.Conv2D(3, 3, name="c")(x), name="open")
    with pytest.raises(ModelError, match=r"open: layer c: expected a fixed size"):
        count(model)


# --- latency ---------------------------------------------------------------------------------------------------------


def macs_as_ms(model: Any) -> float:
    return count(model).macs / 1e5


@pytest.mark.parametrize("ratio", [0.8, 0.5, 0.3])
def test_pruning_to_a_latency_reaches_it_and_not_much_more(tf: Any, ratio: float) -> None:
    model = wide(64)
    measured: list[float] = []

    def measure(network: Any) -> float:
        measured.append(macs_as_ms(network))
        return measured[-1]

    steps: list[tuple[int, int]] = []
    found = plan_for_latency(model, L1Norm(), measure, ratio=ratio, progress=lambda *step: steps.append(step))
    assert found.before_ms == macs_as_ms(model)
    assert found.after_ms <= ratio * found.before_ms
    assert found.after_ms >= (ratio - 0.15) * found.before_ms  # 8 of 64 channels are coarse
    assert macs_as_ms(prove(model, found.plan)) == found.after_ms
    assert found.saved_ms["a"] > 0
    assert steps[-1] == (len(measured), len(measured))
    same = plan_for_latency(model, L1Norm(), macs_as_ms, target_ms=ratio * found.before_ms)
    assert same.plan == found.plan


def test_groups_that_cost_no_time_are_left_whole(tf: Any) -> None:
    model = wide(64)
    only_a = plan_for_latency(model, L1Norm(), lambda m: float(m.get_layer("a").filters), ratio=0.5)
    assert [cut.kept for cut in only_a.plan.cuts] == [64, 64]


def test_a_latency_that_holds_already_prunes_nothing(tf: Any) -> None:
    model = wide(8)
    found = plan_for_latency(model, L1Norm(), macs_as_ms, target_ms=1e9)
    assert found.plan.ratio == 0
    assert found.after_ms == found.before_ms


def test_a_latency_out_of_reach_says_how_far_pruning_gets(tf: Any) -> None:
    with pytest.raises(
        UserError, match=r"wide: the latency cannot be reached by pruning: expected 0\.001 ms, found 0\.\d+"
    ):
        plan_for_latency(wide(16), L1Norm(), macs_as_ms, target_ms=0.001)
    for options in ({}, {"target_ms": 1.0, "ratio": 0.5}):
        with pytest.raises(UserError, match="latency target: expected target_ms or ratio, one of them"):
            plan_for_latency(wide(8), L1Norm(), macs_as_ms, **options)
