"""Frozen graphs: which nodes are fed and read, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import expect_close, load, noise

from vedette.contract.errors import ModelError


def write(tf: Any, path: Path, *, weight: Any = None, dtype: Any = None, shape: Any = (None, 3)) -> Path:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype or tf.float32, shape, "x")
        training = tf.compat.v1.placeholder_with_default(True, (), "training")
        total = tf.matmul(tf.cast(x, tf.float32), noise(3, 2, seed=3) if weight is None else weight, name="total")
        tf.nn.relu(total, name="a")
        tf.multiply(total, 1.0 + tf.cast(training, tf.float32), name="switched")
        tf.identity(total, name="b")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_the_only_placeholder_and_the_named_outputs(tf: Any, tmp_path: Path) -> None:
    network = load(write(tf, tmp_path / "g.pb"), outputs=("b", "a"))
    assert [str(spec) for spec in network.inputs] == ["x float32[1, 3]"]
    sample, weight = noise(1, 3), noise(3, 2, seed=3)
    b, a = network.run(sample)
    expect_close(b, sample @ weight)
    np.testing.assert_allclose(a, np.maximum(sample @ weight, 0), rtol=1e-5)


def test_nodes_that_none_reads_are_the_outputs(tf: Any, tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (1, 4), "x")
        tf.split(tf.nn.relu(x, name="mid"), 2, axis=1, name="parts")
        tf.square(x, name="square")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    assert [spec.name for spec in load(tmp_path / "g.pb").outputs] == ["parts", "square"]
    sample = noise(1, 4)
    network = load(tmp_path / "g.pb", input="mid", shape=(1, 4), outputs=("parts:1",))
    expect_close(network.run(sample)[0], sample[:, 2:])


def test_a_switch_is_what_it_is_by_default(tf: Any, tmp_path: Path) -> None:
    network = load(write(tf, tmp_path / "g.pb"), outputs=("switched",))
    assert [spec.name for spec in network.inputs] == ["x"]
    expect_close(network.run(noise(1, 3))[0], 2 * noise(1, 3) @ noise(3, 2, seed=3))


def test_bytes_that_are_cast_first_are_fed_as_floats(tf: Any, tmp_path: Path) -> None:
    network = load(write(tf, tmp_path / "g.pb", dtype=tf.uint8), outputs=("b",))
    expect_close(network.run(np.array([[1, 2, 250]]))[0], np.array([[1, 2, 250]]) @ noise(3, 2, seed=3))


def test_wrong_names_are_refused(tf: Any, tmp_path: Path) -> None:
    path = write(tf, tmp_path / "g.pb")
    with pytest.raises(ModelError, match="no such node in the graph: expected a node; placeholders: x, found image"):
        load(path, input="image")
    with pytest.raises(ModelError, match="no such node in the graph: found c; mend"):
        load(path, outputs=("c",))
    with pytest.raises(ModelError, match="the outputs need other inputs: expected a, found x"):
        load(path, input="a", outputs=("b",), shape=(1, 2))


def test_an_open_shape_needs_one(tf: Any, tmp_path: Path) -> None:
    path = write(tf, tmp_path / "g.pb", shape=(None, None))
    with pytest.raises(ModelError, match=r"input x: expected fixed dimensions, found \[\?, \?\]"):
        load(path, outputs=("b",))
    assert load(path, (1, 3), outputs=("b",)).outputs[0].shape == (1, 2)
    path = write(tf, tmp_path / "batch.pb", shape=(8, 3))
    with pytest.raises(ModelError, match=r"input x: expected a batch of 1, found \[8, 3\]"):
        load(path, outputs=("b",))


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_weights_that_are_no_numbers_are_named(tf: Any, tmp_path: Path, value: float, kind: str) -> None:
    weight = noise(3, 2)
    weight[2, 1] = value
    path = write(tf, tmp_path / "g.pb", weight=weight)
    with pytest.raises(ModelError, match=rf"g\.pb: .*: weights that are no numbers: .*found {kind}, 1 of 6 values"):
        load(path, outputs=("b",))


def test_an_op_that_tensorflow_does_not_have(tf: Any, tmp_path: Path) -> None:
    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString(write(tf, tmp_path / "g.pb").read_bytes())
    next(node for node in graph.node if node.name == "a").op = "FrobnicateV7"
    (tmp_path / "g.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match=r"TensorFlow will not have the graph: found .*FrobnicateV7") as caught:
        load(tmp_path / "g.pb", outputs=("a",))
    assert "\n" not in caught.value.line()


def test_a_graph_that_writes_a_file_is_refused(tf: Any, tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (1, 2), "x")
        with tf.control_dependencies([tf.io.write_file(str(tmp_path / "sly"), "boo")]):
            tf.identity(x, "y")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ModelError, match="no business with: found WriteFile"):
        load(tmp_path / "g.pb")
    assert not (tmp_path / "sly").exists()


def test_what_is_no_graph_is_refused(tf: Any, tmp_path: Path) -> None:
    whole = write(tf, tmp_path / "g.pb").read_bytes()
    for content in (whole[: len(whole) // 2], b"hello", b"\x00" * 64):
        (tmp_path / "broken.pb").write_bytes(content)
        with pytest.raises(ModelError, match=r"broken\.pb: no frozen graph: expected a binary GraphDef"):
            load(tmp_path / "broken.pb")
