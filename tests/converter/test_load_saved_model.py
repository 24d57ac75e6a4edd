"""SavedModels: signatures, what TensorFlow 2 refuses and TensorFlow 1 reads, and what no network needs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import expect_close, load, noise

from vedette.contract.errors import ModelError, UserError


def save(tf: Any, folder: Path, **signatures: Any) -> Path:
    """A module with one weight and these functions of (weight, x) as signatures."""
    module = tf.Module()
    module.weight = tf.Variable(noise(3, 2, seed=3), name="weight")
    made = {}
    for name, (spec, body) in signatures.items():
        made[name] = tf.function(lambda x, body=body: body(module.weight, x)).get_concrete_function(x=spec)
    tf.saved_model.save(module, str(folder), signatures=made)
    return folder


@pytest.fixture
def plain(tf: Any, tmp_path: Path) -> Path:
    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    return save(
        tf, tmp_path / "plain",
        first=(spec, lambda w, x: {"b": x @ w, "a": tf.nn.relu(x @ w)}), second=(spec, lambda w, x: {"c": x @ (w + 1)}),
    )  # fmt: skip


def test_a_signature_is_chosen_and_its_outputs_are_ordered(plain: Path) -> None:
    weight, sample = noise(3, 2, seed=3), noise(1, 3)
    network = load(plain, signature="first")
    assert [str(spec) for spec in network.inputs] == ["x float32[1, 3]"]
    assert [spec.name for spec in network.outputs] == ["a", "b"]
    expect_close(network.run(sample)[1], sample @ weight)
    assert [spec.name for spec in load(plain, signature="first", outputs=("b", "a")).outputs] == ["b", "a"]
    expect_close(load(plain, signature="second").run(sample)[0], sample @ (weight + 1))


def test_an_unknown_signature_or_output_lists_those_there_are(plain: Path) -> None:
    with pytest.raises(ModelError, match=r"which signature\?: expected source\.signature, found first, second"):
        load(plain)
    with pytest.raises(ModelError, match="no such signature: expected first, second, found third"):
        load(plain, signature="third")
    with pytest.raises(ModelError, match="no such output of signature first: expected a, b, found d"):
        load(plain, signature="first", outputs=("d",))


def test_bytes_that_are_cast_first_are_fed_as_floats(tf: Any, tmp_path: Path) -> None:
    spec = tf.TensorSpec((1, 3), tf.uint8, name="x")
    cast = save(tf, tmp_path / "cast", serving_default=(spec, lambda w, x: {"y": tf.cast(x, tf.float32) @ w}))
    sample = np.array([[0, 7, 255]], np.float32)
    network = load(cast)
    assert network.input.dtype == np.float32
    expect_close(network.run(sample)[0], sample @ noise(3, 2, seed=3))
    other = save(
        tf,
        tmp_path / "other",
        serving_default=(spec, lambda w, x: {"y": tf.cast(x + tf.constant(1, tf.uint8), tf.float32)}),
    )
    with pytest.raises(ModelError, match=r"expected float32, or a cast to float32 .*found uint8 read by AddV2"):
        load(other)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What nobody refers to stays: TensorFlow has one library of functions for the process, and those of the network that
    was saved, or of an attempt to load it, are in it until their Python objects are collected."""
    gc.disable()
    yield
    gc.enable()


def test_what_tensorflow_2_refuses_is_read_as_tensorflow_1_did(tf: Any, uncollected: None, plain: Path) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    expected = load(plain, signature="first")
    document = SavedModel()
    document.ParseFromString((plain / "saved_model.pb").read_bytes())
    for node in document.meta_graphs[0].object_graph_def.nodes:
        if node.WhichOneof("kind") == "variable":
            node.variable.shape.dim[0].size = 77  # the object graph lies; the graph itself is sound
    (plain / "saved_model.pb").write_bytes(document.SerializeToString())
    with pytest.raises(Exception, match="77"):
        tf.saved_model.load(str(plain))
    network = load(plain, signature="first")
    for found, known in zip(network.run(noise(1, 3)), expected.run(noise(1, 3)), strict=True):
        expect_close(found, known)


def test_a_python_function_in_the_graph_is_refused(tf: Any, tmp_path: Path) -> None:
    spec = tf.TensorSpec((1, 3), tf.float32, name="x")
    folder = save(
        tf, tmp_path / "py",
        serving_default=(spec, lambda w, x: {"y": tf.ensure_shape(tf.numpy_function(np.sin, [x], tf.float32), (1, 3))}),
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"an op that a network has no business with: found (Eager)?PyFunc"):
        load(folder)


@pytest.mark.parametrize(
    "file", ["variables/variables.data-00000-of-00001", "variables/variables.index", "saved_model.pb"]
)
def test_a_truncated_file_is_one_line(plain: Path, file: str) -> None:
    path = plain / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="plain: ") as caught:
        load(plain, signature="first")
    assert "\n" not in caught.value.line()


def test_files_are_checked_against_the_recipe(plain: Path) -> None:
    digest = "0" * 64
    with pytest.raises(UserError, match=r"saved_model\.pb: not the file the recipe was made for: expected sha256 000"):
        load(plain, sha256={"saved_model.pb": digest})
    with pytest.raises(UserError, match="file missing; name every file"):
        load(plain, sha256={"a": digest})
    with pytest.raises(UserError, match=r"nowhere: no SavedModel: expected a folder with saved_model\.pb"):
        load(plain, folder=str(plain.parent / "nowhere"))


def test_an_open_dimension_needs_a_shape(tf: Any, tmp_path: Path) -> None:
    spec = tf.TensorSpec((None, None, 3), tf.float32, name="x")
    folder = save(tf, tmp_path / "open", serving_default=(spec, lambda w, x: {"y": x @ w}))
    with pytest.raises(ModelError, match=r"input x: expected fixed dimensions, found \[\?, \?, 3\]"):
        load(folder)
    assert load(folder, (1, 5, 3)).outputs[0].shape == (1, 5, 2)


def test_a_batch_that_a_loop_forgets_is_to_be_exported_fixed(tf: Any, tmp_path: Path) -> None:
    def doubled(w: Any, x: Any) -> dict[str, Any]:
        _, y = tf.while_loop(
            lambda n, y: n < 3, lambda n, y: (n + 1, y + y), (0, x),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 3])),
        )  # fmt: skip
        return {"y": y @ w}

    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    folder = save(tf, tmp_path / "loop", serving_default=(spec, doubled))
    with pytest.raises(ModelError, match=r"output y: .* found \[None, 2\] float32; export it with a fixed batch of 1"):
        load(folder)


def test_channels_first_is_fed_channels_last(tf: Any, tmp_path: Path) -> None:
    spec = tf.TensorSpec((1, 3, 8, 9), tf.float32, name="x")
    folder = save(tf, tmp_path / "nchw", serving_default=(spec, lambda w, x: {"y": tf.einsum("bchw,cd->bd", x, w)}))
    network = load(folder)
    sample = noise(1, 8, 9, 3)
    assert network.input.shape == (1, 8, 9, 3)
    expect_close(network.run(sample)[0], np.einsum("bhwc,cd->bd", sample, noise(3, 2, seed=3)), 1e-4)
