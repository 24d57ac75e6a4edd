"""What is kept whole because pruning it would be wrong, what is refused, and that the proof holds beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_prune_proof import head, outputs, prove, random_plan, randomise

from vedette.contract.errors import ModelError, UserError
from vedette_converter.prune import Cut, L1Norm, Plan, analyse, apply, masked, plan
from vedette_converter.prune.calls import load_keras

Between = Callable[[Any, Any], Any]


def sandwich(between: Between, **first: Any) -> Any:
    """Convolution ``a``, what is given, convolution ``b``, a head."""
    keras = load_keras()
    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Conv2D(8, 3, padding="same", name="a", **first)(x)
    y = keras.layers.Conv2D(6, 3, padding="same", name="b")(between(keras, y))
    return randomise(keras.Model(x, head(keras.layers, y), name="sandwich"))


def double(x: Any) -> Any:
    return x * 2


# what stands between -> the layer that is named, and what is said of it
KEPT: dict[str, tuple[Between, str, str]] = {
    "LayerNormalization": (lambda k, y: k.layers.LayerNormalization(name="n")(y), "n", "no rule"),
    "GroupNormalization": (lambda k, y: k.layers.GroupNormalization(2, name="n")(y), "n", "no rule"),
    "MultiHeadAttention": (
        lambda k, y: k.layers.MultiHeadAttention(2, 4, name="m")(y, y), "m", "no rule",
    ),
    "Lambda": (lambda k, y: k.layers.Lambda(double, name="l")(y), "l", "no rule"),
    "a permutation": (lambda k, y: k.layers.Permute((3, 1, 2), name="p")(y), "p", "no rule"),
    "a slice of channels": (lambda k, y: y[..., :4], "get_item", "no rule"),
    "a softmax": (lambda k, y: k.layers.Softmax(name="s")(y), "s", "mixes channels"),
    "a softmax activation": (lambda k, y: k.layers.Activation("softmax", name="s")(y), "s", "softmax may mix channels"),
    "a function": (lambda k, y: k.layers.Activation(double, name="f")(y), "f", "none of Keras"),
    "a grouped convolution": (lambda k, y: k.layers.Conv2D(8, 3, groups=4, name="g")(y), "g", "of 4 groups"),
    "a constant vector": (lambda k, y: y + np.arange(8, dtype=np.float32), "add", "array of constants"),
    "a reshape into groups": (lambda k, y: k.layers.Reshape((8, 16, 4), name="r")(y), "r", "takes channels apart"),
    "a batch norm of rows": (lambda k, y: k.layers.BatchNormalization(axis=1, name="n")(y), "n", "normalises axis 1"),
    "a sum over channels": (lambda k, y: k.ops.sum(y, axis=-1, keepdims=True), "sum", "reduces the channels"),
    "a quotient": (lambda k, y: 1.0 / k.ops.exp(y), "true_divide", "divides by the channels"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("what", KEPT)
def test_what_is_not_known_keeps_its_channels(tf: Any, what: str) -> None:
    between, name, reason = KEPT[what]
    model = sandwich(between)
    graph = analyse(model)
    ((named, said),) = graph.unknown.items()
    assert named.startswith(name)
    assert reason in said
    assert [group.layers for group in graph.groups] == [("b",)]
    assert named in graph.kept["a"]
    assert reason in graph.kept["a"]
    prove(model, random_plan(model))


def test_a_fused_softmax_keeps_its_own_layer_alone(tf: Any) -> None:
    model = sandwich(lambda keras, y: keras.layers.ReLU(name="r")(y), activation="softmax")
    graph = analyse(model)
    assert [group.layers for group in graph.groups] == [("b",)]
    assert graph.kept["a"] == "a: its activation softmax may mix channels"
    prove(model, random_plan(model))


def test_a_subclass_of_a_known_layer_is_not_known(tf: Any) -> None:
    """It may do anything in its call: this one standardises its kernel over all inputs."""
    keras = load_keras()

    @keras.saving.register_keras_serializable("vedette-tests")
    class Standardised(keras.layers.Conv2D):  # type: ignore[name-defined,misc,unused-ignore]
        def convolution_op(self, inputs: Any, kernel: Any) -> Any:
            return super().convolution_op(inputs, kernel - keras.ops.mean(kernel, axis=(0, 1, 2)))

    model = sandwich(lambda k, y: Standardised(5, 3, name="s")(y))
    graph = analyse(model)
    assert [group.layers for group in graph.groups] == [("b",)]
    assert set(graph.unknown) == {"s"}
    assert type(prove(model, random_plan(model)).get_layer("s")) is Standardised


def test_reshapes_that_pack_whole_pixels_are_followed(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((6, 6, 4), name="x")
    packed = keras.layers.Reshape((12, 18), name="pack")(keras.layers.Conv2D(6, 1, name="a")(x))
    y = keras.layers.Conv2D(5, 3, name="b")(keras.layers.Reshape((6, 6, 6), name="unpack")(packed))
    model = randomise(keras.Model(x, head(keras.layers, y)))
    assert [group.layers for group in analyse(model).groups] == [("a",), ("b",)]
    prove(model, random_plan(model))


@pytest.mark.parametrize("apart_first", [True, False])
def test_a_shared_layer_that_cannot_be_followed_once_is_kept_in_every_call(tf: Any, apart_first: bool) -> None:
    keras = load_keras()
    layers = keras.layers
    x = keras.Input((6, 6, 4), name="x")
    whole = layers.Conv2D(6, 1, name="whole")(x)  # (6, 6, 6)
    apart = layers.Conv2D(12, 1, strides=(1, 2), name="apart")(x)  # (6, 3, 12), as many values
    shared = layers.Reshape((36, 6), name="shared")
    both = [shared(y) for y in ([apart, whole] if apart_first else [whole, apart])]
    y = layers.Conv1D(5, 1, name="c")(layers.Concatenate(name="join")(both))
    model = randomise(keras.Model(x, layers.Dense(2, name="head")(layers.Flatten(name="flat")(y))))
    graph = analyse(model)
    assert [group.layers for group in graph.groups] == [("c",)]
    assert set(graph.kept) == {"whole", "apart", "head"}
    prove(model, random_plan(model))


def test_outputs_keep_their_channels_and_what_is_tied_to_them(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((8, 8, 3), name="x")
    a = keras.layers.Conv2D(6, 3, padding="same", name="a")(x)
    b = keras.layers.Conv2D(6, 3, padding="same", name="b")(keras.layers.Conv2D(4, 3, padding="same", name="c")(a))
    model = randomise(keras.Model(x, [keras.layers.Add(name="sum")([a, b]), head(keras.layers, a)]))
    graph = analyse(model)
    assert [group.layers for group in graph.groups] == [("c",)]
    assert graph.kept == dict.fromkeys(["a", "b", "head"], "an output of the network")
    prove(model, random_plan(model))


def test_an_input_keeps_its_channels_and_what_is_tied_to_it(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((8, 8, 3), name="x")
    a = keras.layers.Conv2D(3, 3, padding="same", name="a")(keras.layers.Conv2D(4, 3, padding="same", name="b")(x))
    model = keras.Model(x, head(keras.layers, keras.layers.Add(name="sum")([a, x])))
    assert [group.layers for group in analyse(model).groups] == [("b",)]
    assert analyse(model).kept["a"] == "input x of the network"


def test_several_inputs_by_name_and_a_normalisation_that_was_adapted(tf: Any) -> None:
    keras = load_keras()
    x, y = keras.Input((8, 8, 3), name="picture"), keras.Input((4,), name="reading")
    normalised = keras.layers.Normalization(name="norm")
    normalised.adapt(np.random.default_rng(1).normal(5, 3, (64, 8, 8, 3)).astype(np.float32))
    a = keras.layers.GlobalMaxPooling2D(name="g")(keras.layers.Conv2D(6, 3, name="a")(normalised(x)))
    b = keras.layers.Dense(5, activation="relu", name="b")(y)
    out = keras.layers.Dense(2, name="head")(keras.layers.Concatenate(name="join")([a, b]))
    model = keras.Model({"picture": x, "reading": y}, {"answer": out})
    assert [group.layers for group in analyse(model).groups] == [("a",), ("b",)]
    pruned = prove(model, random_plan(model))
    assert set(pruned.input) == {"picture", "reading"}
    assert set(pruned.output) == {"answer"}
    np.testing.assert_allclose(pruned.get_layer("norm").mean, normalised.mean)


def test_an_empty_plan_copies_the_network_and_leaves_the_original_alone(tf: Any) -> None:
    keras = load_keras()
    layers = [keras.Input((8, 8, 3), name="x"), keras.layers.Conv2D(8, 3, name="a"), keras.layers.Flatten(name="f")]
    model = randomise(keras.Sequential([*layers, keras.layers.Dense(2, name="b")], name="s"))
    before = outputs(model)
    (group,) = analyse(model).groups
    copy = apply(model, Plan((Cut(group.name, group.layers, group.size, ()),)))
    np.testing.assert_array_equal(outputs(copy)[0], before[0])
    copy.get_layer("a").kernel.assign(0 * copy.get_layer("a").kernel)
    np.testing.assert_array_equal(outputs(model)[0], before[0])
    smaller = prove(model, random_plan(model, 4), seed=4)
    assert smaller.name == "s"
    assert [layer.name for layer in smaller.layers] == ["x", "a", "f", "b"]


def test_pruning_what_was_pruned(tf: Any) -> None:
    model = sandwich(lambda keras, y: keras.layers.BatchNormalization(name="n")(y))
    once = prove(model, plan(model, L1Norm(), ratio=0.5, multiple=2, min_channels=2))
    twice = prove(once, plan(once, L1Norm(), ratio=0.5, multiple=2, min_channels=2))
    assert [layer.filters for layer in twice.layers if hasattr(layer, "filters")] == [2, 2]


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)  # Keras's
def test_a_pruned_network_is_saved_and_loaded(tf: Any, tmp_path: Any) -> None:
    keras = load_keras()
    model = sandwich(lambda k, y: k.layers.PReLU(name="p")(k.ops.relu(y) * 0.5))
    pruned = apply(model, random_plan(model))
    pruned.save(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(
        outputs(pruned)[0], outputs(keras.models.load_model(tmp_path / "pruned.keras", compile=False))[0]
    )


# --- refused ---------------------------------------------------------------------------------------------------------


def test_channels_first_is_refused(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((3, 8, 8), name="x")
    pooled = keras.layers.GlobalMaxPooling2D(data_format="channels_first", name="pool")(x)
    model = keras.Model(x, keras.layers.Dense(2, name="d")(pooled))
    with pytest.raises(
        ModelError, match=r"layer pool \(GlobalMaxPooling2D\): expected channels last, found .*channels_fi"
    ):
        analyse(model)


def test_networks_without_a_graph_are_refused(tf: Any) -> None:
    keras = load_keras()

    class Subclassed(keras.Model):  # type: ignore[name-defined,misc,unused-ignore]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(
        ModelError, match=r"expected a functional or a built Sequential.*found a subclassed network, .*Subc"
    ):
        analyse(Subclassed())
    with pytest.raises(ModelError, match=r"found a Sequential that was not built; give it a keras\.Input"):
        analyse(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ModelError, match=r"expected a keras\.Model \(Keras 3\), found builtins\.str"):
        analyse("model.keras")


def test_a_layer_that_cannot_be_rebuilt_is_named(tf: Any) -> None:
    keras = load_keras()

    class Odd(keras.layers.Layer):  # type: ignore[name-defined,misc,unused-ignore]
        def __init__(self, secret: object) -> None:
            super().__init__(name="odd")
            self.secret = secret

        def call(self, x: Any) -> Any:
            return x

    model = sandwich(lambda k, y: Odd(object())(y))
    with pytest.raises(ModelError, match=r"layer odd \(.*Odd\) cannot be rebuilt from its config"):
        apply(model, random_plan(model))


def test_a_plan_for_another_network_is_refused(tf: Any) -> None:
    model = sandwich(lambda keras, y: y)
    other = Plan((Cut("a", ("a",), 16, (1,)),))
    for function in (apply, masked):
        with pytest.raises(UserError, match="sandwich: the plan was made for another network: expected 16 units in a"):
            function(model, other)


def test_nothing_to_prune_says_why(tf: Any) -> None:
    keras = load_keras()
    x = keras.Input((8,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="only")(x), name="small")
    with pytest.raises(UserError, match=r"small: nothing can be pruned.*found only: an output of the network"):
        plan(model, L1Norm(), ratio=0.5)


def test_an_output_keeps_the_name_of_the_nested_network_that_makes_it(tf: Any, tmp_path: Any) -> None:
    keras = load_keras()
    inside = keras.Input((5,), name="inside")
    classifier = keras.Model(inside, keras.layers.Dense(2, name="dense")(inside), name="classifier")
    x = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(5, activation="relu", name="hidden")(x)
    model = randomise(keras.Model(x, [classifier(hidden), keras.layers.Dense(1, name="score")(hidden)]))
    pruned = prove(model, random_plan(model))
    assert pruned.output_names == ["classifier", "score"]
    assert pruned.get_layer("dense").units == 2


def test_a_nested_network_that_is_called_with_a_dictionary(tf: Any) -> None:
    keras = load_keras()
    layers = keras.layers
    a, b = keras.Input((8,), name="a"), keras.Input((6,), name="b")
    joined = layers.Concatenate(name="join")([layers.Dense(5, name="of_a")(a), layers.Dense(4, name="of_b")(b)])
    ends = [layers.Dense(3, name="first")(joined), layers.Dense(7, name="second")(joined)]
    nested = keras.Model({"b": b, "a": a}, ends, name="nested")
    x = keras.Input((9,), name="x")
    first, second = nested({"a": layers.Dense(8, name="p")(x), "b": layers.Dense(6, name="q")(x)})
    model = randomise(keras.Model(x, layers.Dense(2, name="head")(layers.Concatenate(name="c")([second, first]))))
    groups = {group.layers: group.size for group in analyse(model).groups}
    assert groups == {("p",): 8, ("q",): 6, ("of_a",): 5, ("of_b",): 4, ("first",): 3, ("second",): 7}
    prove(model, random_plan(model))


def test_what_was_frozen_or_adapted_stays_so(tf: Any) -> None:
    model = sandwich(lambda k, y: k.layers.BatchNormalization(name="n")(y))
    model.get_layer("a").trainable = False
    model.get_layer("head").enable_lora(2)
    pruned = apply(model, plan(model, L1Norm(), ratio=0.5, multiple=2, min_channels=2))
    assert [layer.name for layer in pruned.layers if layer.weights and not layer.trainable] == ["a"]
    assert analyse(model).unknown == {"head": "unknown weight lora_kernel_a"}
    prove(model, Plan(tuple(Cut(g.name, g.layers, g.size, ()) for g in analyse(model).groups)))
