"""Keras files of either kind become the network they hold, with a Keras 3 model, or are refused in one line."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from loading import expect_close, load, noise

from vedette.contract.errors import ModelError, UserError
from vedette_converter import quantise

# Keras's own way to NumPy 2, whenever it saves weights
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture
def keras(tf: Any) -> Any:
    import keras

    keras.utils.set_random_seed(11)
    return keras


def small(keras: Any, *head: Any) -> Any:
    x = keras.Input((8, 10, 3), name="picture")
    y = keras.layers.Conv2D(4, 3, activation="relu", name="first")(x)
    y = keras.layers.BatchNormalization()(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, keras.layers.Dense(5, name="head")(y))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_functional_network(keras: Any, tmp_path: Path, ending: str) -> None:
    model = small(keras)
    path = tmp_path / f"small{ending}"
    model.save(path)
    network = load(path)
    assert [str(spec) for spec in network.inputs] == ["picture float32[1, 8, 10, 3]"]
    assert [spec.shape for spec in network.outputs] == [(1, 5)]
    sample = noise(1, 8, 10, 3)
    expect_close(network.run(sample)[0], model(sample))
    assert isinstance(network.model, keras.Model) and len(network.model.trainable_weights) == 6
    expect_close(network.model(noise(3, 8, 10, 3)), model(noise(3, 8, 10, 3)))
    assert not network.function.variables


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_network_trained_in_half_precision_computes_in_float32(
    keras: Any, tmp_path: Path, policy: str, ending: str
) -> None:
    x = keras.Input((8, 10, 3), name="picture")
    y = keras.layers.Conv2D(4, 3, activation="relu", dtype=policy)(x)
    inner = keras.Sequential([keras.Input(y.shape[1:], dtype=y.dtype), keras.layers.Conv2D(4, 3, dtype=policy)])
    y = keras.layers.GlobalAveragePooling2D(dtype=policy)(inner(y))
    model = keras.Model(x, keras.layers.Dense(5, dtype="float32")(y))
    path = tmp_path / f"half{ending}"
    model.save(path)
    network = load(path)
    assert {layer.compute_dtype for layer in network.model._flatten_layers()} == {"float32"}
    sample = noise(1, 8, 10, 3)
    assert np.abs(network.run(sample)[0] - np.asarray(model(sample))).max() < 0.02  # eight bits of a bfloat16
    assert quantise.prove(quantise.to_float32(network))


def test_a_sequential_network_becomes_a_functional_one(keras: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)])
    model.save(tmp_path / "s.keras")
    network = load(tmp_path / "s.keras")
    assert not isinstance(network.model, keras.Sequential)
    expect_close(network.run(noise(1, 6))[0], model(noise(1, 6)))


def test_several_inputs_and_outputs_keep_their_order(keras: Any, tmp_path: Path) -> None:
    a, b = keras.Input((4,), name="zebra"), keras.Input((3,), name="ant")
    joined = keras.layers.Concatenate()([a, b])
    model = keras.Model([a, b], [keras.layers.Dense(2, name="y")(joined), keras.layers.Dense(3, name="x")(joined)])
    model.save(tmp_path / "two.keras")
    network = load(tmp_path / "two.keras")
    assert [spec.name for spec in network.inputs] == ["zebra", "ant"]
    assert [(spec.name, spec.shape) for spec in network.outputs] == [("y", (1, 2)), ("x", (1, 3))]
    fed = noise(1, 4), noise(1, 3, seed=8)
    for found, expected in zip(network.run(*fed), model(list(fed)), strict=True):
        expect_close(found, expected)
    with pytest.raises(ModelError, match=r"several inputs: expected one, .*found zebra, ant"):
        load(tmp_path / "two.keras", (1, 4))


def test_a_network_fed_by_a_dictionary(keras: Any, tmp_path: Path) -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Subtract()([a, b]))
    model.save(tmp_path / "d.keras")
    network = load(tmp_path / "d.keras")
    fed = {spec.name: noise(1, 4, seed=n) for n, spec in enumerate(network.inputs)}
    expect_close(network.run(*fed.values())[0], fed["a"] - fed["b"])


def test_open_dimensions_need_a_shape(keras: Any, tmp_path: Path) -> None:
    x = keras.Input((None, None, 3), name="picture")
    model = keras.Model(x, keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(4, 3)(x)))
    path = tmp_path / "open.keras"
    model.save(path)
    with pytest.raises(
        ModelError,
        match=r"open\.keras: input picture: expected fixed dimensions, found \[\?, \?, \?, 3\]; export",
    ):
        load(path)
    network = load(path, (1, 12, 9, 3))
    expect_close(network.run(noise(1, 12, 9, 3))[0], model(noise(1, 12, 9, 3)))
    assert network.model.input.shape == (None, 12, 9, 3)
    with pytest.raises(
        ModelError, match=r"input picture: expected \[\?, \?, \?, 3\], found \[1, 12, 9, 1\] by \[input\] or --size"
    ):
        load(path, (1, 12, 9, 1))


def test_a_layer_that_remembers_is_refused(keras: Any, tmp_path: Path) -> None:
    x = keras.Input((5, 2), batch_size=1)
    keras.Model(x, keras.layers.GRU(3, stateful=True, name="memory")(x)).save(tmp_path / "a.keras")
    with pytest.raises(
        ModelError, match="layer memory: expected the same answer to the same sample, found stateful=True"
    ):
        load(tmp_path / "a.keras")


def test_channels_first_is_fed_channels_last(keras: Any, tmp_path: Path) -> None:
    x = keras.Input((3, 8, 10), name="picture")
    model = keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    model.save(tmp_path / "nchw.keras")
    network = load(tmp_path / "nchw.keras")
    assert network.input.shape == (1, 8, 10, 3)
    sample = noise(1, 8, 10, 3)
    expect_close(network.run(sample)[0], model(sample.transpose(0, 3, 1, 2)))
    expect_close(network.model(sample), model(sample.transpose(0, 3, 1, 2)))


def test_an_old_depthwise_network_becomes_a_keras_3_network(keras: Any, tmp_path: Path) -> None:
    import tf_keras

    old = tf_keras.Sequential(
        [
            tf_keras.layers.Input((8, 8, 3)),
            tf_keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(2),
        ]
    )
    path = tmp_path / "old.h5"
    with pytest.warns(UserWarning, match="HDF5"):
        old.save(path)
    with h5py.File(path) as file:
        assert '"groups"' in file.attrs["model_config"], "no longer what Keras 3 stumbles over"
    with pytest.raises(Exception, match="groups"):
        keras.models.load_model(path, compile=False)
    network = load(path)
    assert isinstance(network.model, keras.Model)
    expect_close(network.run(noise(1, 8, 8, 3))[0], old(noise(1, 8, 8, 3)))
    expect_close(network.model(noise(2, 8, 8, 3)), old(noise(2, 8, 8, 3)))
    assert "TF_USE_LEGACY_KERAS" not in os.environ


def test_what_keras_3_has_no_layer_for_runs_through_tf_keras(tf: Any, tmp_path: Path) -> None:
    import tf_keras

    x = tf_keras.Input((4,))
    old = tf_keras.Model(x, tf.math.sinh(tf_keras.layers.Dense(3)(x)))  # a TFOpLambda layer
    with pytest.warns(UserWarning, match="HDF5"):
        old.save(tmp_path / "op.h5")
    network = load(tmp_path / "op.h5")
    assert network.model is None
    expect_close(network.run(noise(1, 4))[0], old(noise(1, 4)))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_layer_that_carries_code_is_refused_unread(keras: Any, tmp_path: Path, ending: str) -> None:
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Lambda(lambda t: t * 2.0, name="sly")(x))
    model.save(tmp_path / f"l{ending}")
    with pytest.raises(ModelError, match="layer sly: a layer that carries code: found Lambda; replace"):
        load(tmp_path / f"l{ending}")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_class_or_a_function_of_ones_own_is_named(keras: Any, tmp_path: Path, ending: str) -> None:
    class Doubled(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return 2 * x

    class Whole(keras.Model):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.dense = keras.layers.Dense(2)
            self.dense.build(shape)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    def halved(x: Any) -> Any:
        return x / 2

    for own in (Doubled, Whole):
        own.__module__ = "__main__"  # as a program's or a notebook's own classes, of which Keras writes no module
    dense = keras.layers.Dense(2, activation=halved, name="last")
    whole = Whole()
    whole(noise(1, 4))
    cases = [("class", "Doubled", keras.Sequential([keras.Input((4,)), Doubled()])),
             ("function", "halved", keras.Sequential([keras.Input((4,)), dense]))]  # fmt: skip
    if ending == ".keras":  # Keras writes no subclassed model as an .h5
        cases.append(("class", "Whole", whole))
    for kind, name, model in cases:
        model.save(tmp_path / f"{name}{ending}")
        with pytest.raises(
            ModelError, match=rf"{name}\{ending}: .*a {kind} that is not Keras's own: found {name}; .*export"
        ):
            load(tmp_path / f"{name}{ending}")


def test_a_function_of_tensorflow_that_keras_has_too_is_no_stranger(tf: Any, keras: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation=tf.nn.relu)])
    model.save(tmp_path / "a.keras")
    expect_close(load(tmp_path / "a.keras").run(noise(1, 4))[0], model(noise(1, 4)))


def test_a_class_of_another_module_is_refused_before_it_is_imported(keras: Any, tmp_path: Path) -> None:
    small(keras).save(tmp_path / "a.keras")
    marker = tmp_path / "imported"
    (tmp_path / "sly_module.py").write_text(f"open({str(marker)!r}, 'w')")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1]["module"] = "sly_module"
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(ModelError, match=r"layer first: a class that is not Keras's own: found sly_module\.Conv2D"):
            load(tmp_path / "b.keras")
    assert not marker.exists()


def test_weights_that_are_no_numbers_are_named(keras: Any, tmp_path: Path) -> None:
    model = small(keras)
    kernel, bias = model.get_layer("head").get_weights()
    kernel[1, 2] = np.nan
    model.get_layer("head").set_weights([kernel, bias])
    model.save(tmp_path / "nan.keras")
    with pytest.raises(ModelError, match=r"head/kernel: weights that are no numbers: .*found NaN, 1 of 20 values"):
        load(tmp_path / "nan.keras")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_truncated_file_is_one_line(keras: Any, tmp_path: Path, ending: str) -> None:
    whole = tmp_path / f"whole{ending}"
    small(keras).save(whole)
    content = whole.read_bytes()
    path = tmp_path / f"half{ending}"
    for size in (1, 8, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError, match=rf"half{ending}") as caught:
            load(path)
        assert "\n" not in caught.value.line()


def test_what_is_no_network_is_refused(keras: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.h5: empty file"):
        load(tmp_path / "empty.h5")
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(ModelError, match=r"no Keras network: expected a \.keras or \.h5 file"):
        load(tmp_path / "text.keras")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(ModelError, match=r"no Keras network: expected config\.json"):
        load(tmp_path / "zip.keras")
    small(keras).save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ModelError, match=r"no network in the file: .*found weights alone"):
        load(tmp_path / "w.weights.h5")


def test_the_published_resnet(tf: Any, shared_data: Path) -> None:
    network = load(shared_data / "mlperf-tiny" / "pretrainedResnet.h5", (1, 32, 32, 3))
    assert type(network.model).__name__ == "Functional"
    published = load(shared_data / "mlperf-tiny" / "pretrainedResnet.tflite", (1, 32, 32, 3))
    for seed in range(3):
        sample = np.abs(noise(1, 32, 32, 3, seed=seed)) * 80
        expect_close(network.run(sample)[0], published.run(sample)[0])
