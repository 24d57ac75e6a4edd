"""A TensorFlow.js graph model becomes the network it describes, or is refused with the weight or the node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converter_project import Tiny
from tfjs_writer import ANCHORS, CLASSES, SIDE

from vedette.contract.errors import ModelError
from vedette_converter.load import load_network, tfjs
from vedette_converter.load.graph import bring_biases_home, replace_add_n
from vedette_converter.source import read_source

SHAPE = (1, SIDE, SIDE, 3)
WHERE = "model/model.json"


def contents(tiny: Tiny) -> dict[str, bytes]:
    return dict(read_source(tiny.read().recipe.source, tiny.package).contents)


def test_the_network_computes_what_the_graph_did(tf: Any, tiny: Tiny) -> None:
    source = tiny.read().recipe.source
    network = load_network(source, read_source(source, tiny.package), SHAPE)
    assert [spec.shape for spec in network.outputs] == [(1, ANCHORS, 4), (1, ANCHORS, 1 + CLASSES)]
    sample = np.full(SHAPE, -1.0, np.float32)
    sample[:, : SIDE // 2, : SIDE // 2] = 1.0
    boxes, logits = network.run(sample)
    # by hand: background -5, bright -1 + 8 * mean, dark -1 - 8 * mean; three anchors a quarter
    np.testing.assert_allclose(logits[0, :3], np.tile([-5.0, 7.0, -9.0], (3, 1)), atol=1e-4)
    np.testing.assert_allclose(logits[0, 3:], np.tile([-5.0, -9.0, 7.0], (9, 1)), atol=1e-4)
    assert boxes.shape == (1, ANCHORS, 4)


def test_no_add_n_is_left(tf: Any, tiny: Tiny) -> None:
    files = contents(tiny)
    model = json.loads(files[WHERE])
    graph = tfjs.build_graph(model, tfjs.read_weights(model, files, WHERE), WHERE)
    assert sum(node.op == "AddN" for node in graph.node) == 1
    replace_add_n(graph)
    assert {node.op for node in graph.node} & {"AddN", "AddV2"} == {"AddV2"}


@pytest.mark.parametrize("addends", [1, 2, 3, 5])
def test_add_n_of_any_number_becomes_plain_adds(tf: Any, addends: int) -> None:
    with tf.Graph().as_default() as graph:
        tf.raw_ops.AddN(inputs=[tf.constant(float(10**n), name=f"c{n}") for n in range(addends)], name="sum")
    definition = graph.as_graph_def()
    replace_add_n(definition)
    with tf.Graph().as_default() as graph:
        (result,) = tf.graph_util.import_graph_def(definition, return_elements=["sum:0"], name="")
        with tf.compat.v1.Session(graph=graph) as session:
            assert session.run(result) == float("1" * addends)


@pytest.mark.parametrize("bias_first", [True, False])
def test_a_bias_goes_back_to_its_convolution(tf: Any, bias_first: bool) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 4, 4, 2)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        entry = tf.compat.v1.placeholder(tf.float32, x.shape, "x")
        kernel = rng.normal(size=(1, 1, 2, 2)).astype(np.float32)
        convolution = tf.nn.conv2d(entry, kernel, 1, "VALID", name="convolution")
        total = tf.raw_ops.AddN(inputs=[convolution, entry], name="total")
        bias = tf.constant(rng.normal(size=2).astype(np.float32), name="bias")
        pair = (bias, total) if bias_first else (total, bias)
        tf.raw_ops.AddV2(x=pair[0], y=pair[1], name="out")
    definition = graph.as_graph_def()

    def run() -> Any:
        with tf.Graph().as_default() as copy:
            tf.graph_util.import_graph_def(definition, name="")
            with tf.compat.v1.Session(graph=copy) as session:
                return session.run("out:0", {"x:0": x})

    before = run()
    replace_add_n(definition)
    bring_biases_home(definition)
    nodes = {node.name: list(node.input) for node in definition.node}
    assert nodes["total"] == ["convolution", "bias"] and nodes["out"] == ["total", "x"]
    np.testing.assert_allclose(run(), before, atol=1e-6)


def test_a_sum_that_others_read_keeps_its_bias_behind(tf: Any) -> None:
    with tf.Graph().as_default() as graph:
        entry = tf.compat.v1.placeholder(tf.float32, (1, 4, 4, 2), "x")
        convolution = tf.nn.conv2d(entry, np.ones((1, 1, 2, 2), np.float32), 1, "VALID", name="convolution")
        total = tf.raw_ops.AddV2(x=convolution, y=entry, name="total")
        tf.raw_ops.AddV2(x=total, y=tf.constant([1.0, 2.0]), name="out")
        tf.identity(total, "reader")
    definition = graph.as_graph_def()
    before = definition.SerializeToString(deterministic=True)
    bring_biases_home(definition)
    assert definition.SerializeToString(deterministic=True) == before


def test_bytes_lacking_or_left_over_are_refused(tiny: Tiny) -> None:
    files = contents(tiny)
    model = json.loads(files[WHERE])
    last = sorted(name for name in files if "shard" in name)[-1]
    files[last] += b"\0"
    with pytest.raises(ModelError, match=r"bytes left over: expected \d+, found \d+"):
        tfjs.read_weights(model, files, WHERE)
    files[last] = files[last][:-2]
    with pytest.raises(ModelError, match=r"weight .*: expected \d+ bytes at \d+ of its shards, found \d+"):
        tfjs.read_weights(model, files, WHERE)
    del files[last]
    with pytest.raises(ModelError, match=f"shard missing: expected {last}"):
        tfjs.read_weights(model, files, WHERE)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dtype": "complex64"}, "expected float32, int32, bool, uint8; or, quantised, .*, found complex64"),
        ({"quantization": {"dtype": "uint4", "scale": 0.1, "min": 0}}, "found uint4 for"),
        ({"quantization": {"dtype": "uint8", "scale": 0.1}}, "uint8 or uint16 with scale and min, found uint8 for"),
        ({"dtype": "int32", "quantization": {"dtype": "float16"}}, "found float16 for int32"),
    ],
)
def test_weights_of_another_kind_are_refused(tiny: Tiny, change: dict[str, Any], expected: str) -> None:
    files = contents(tiny)
    model = json.loads(files[WHERE])
    model["weightsManifest"][0]["weights"][0].update(change)
    with pytest.raises(ModelError, match=expected):
        tfjs.read_weights(model, files, WHERE)


def test_quantised_weights_are_read_as_they_were_meant() -> None:
    numbers = np.array([0, 3, 200], np.uint8)
    wide = np.array([0, 3, 60000], "<u2")
    halves = np.array([0.1, -2.5], "<f2")
    scaled = {"scale": 0.3, "min": -1.2}
    entries: list[dict[str, Any]] = [
        {"name": "eight", "shape": [3], "dtype": "float32", "quantization": {"dtype": "uint8", **scaled}},
        {"name": "whole", "shape": [3], "dtype": "int32", "quantization": {"dtype": "uint8", **scaled}},
        {"name": "sixteen", "shape": [3], "dtype": "float32", "quantization": {"dtype": "uint16", **scaled}},
        {"name": "half", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
    ]
    model = {"weightsManifest": [{"paths": ["shard"], "weights": entries}]}
    data = b"".join(array.tobytes() for array in (numbers, numbers, wide, halves))
    weights = tfjs.read_weights(model, {"shard": data}, "model.json")
    np.testing.assert_allclose(weights["eight"], [-1.2, -0.3, 58.8], rtol=1e-6)
    np.testing.assert_array_equal(weights["whole"], [-1, 0, 59])
    np.testing.assert_allclose(weights["sixteen"], [-1.2, -0.3, 17998.8], rtol=1e-6)
    np.testing.assert_array_equal(weights["half"], halves.astype(np.float32))
    assert [weights[e["name"]].dtype.name for e in entries] == ["float32", "int32", "float32", "float32"]


def test_a_weight_must_fit_its_node(tf: Any, tiny: Tiny) -> None:
    files = contents(tiny)
    model = json.loads(files[WHERE])
    weights = tfjs.read_weights(model, files, WHERE)
    name = next(name for name, weight in weights.items() if weight.ndim == 4)
    with pytest.raises(ModelError, match=rf"constant {name}: expected float32\[16, 16, 3, \d+\], found float32\[\d+\]"):
        tfjs.build_graph(model, {**weights, name: weights[name].reshape(-1)}, WHERE)
    with pytest.raises(ModelError, match=f"constant {name}: expected float32.*, found int32"):
        tfjs.build_graph(model, {**weights, name: weights[name].astype(np.int32)}, WHERE)
    del weights[name]
    with pytest.raises(ModelError, match=f"constant {name}: .*expected a weight of this name"):
        tfjs.build_graph(model, weights, WHERE)


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"modelTopology": {}, "weightsManifest": []}'])
def test_what_is_no_graph_model_is_refused(tiny: Tiny, tf: Any, text: str) -> None:
    from vedette_converter.source import SourceFiles

    files = SourceFiles({**contents(tiny), WHERE: text.encode()})
    with pytest.raises(ModelError, match=r"no TensorFlow\.js"):
        tfjs.load(tiny.read().recipe.source, files, SHAPE)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"logits"]', '"logit"]', "no such node in the graph: found logit; mend"),
        (
            'input = "Preprocessor/sub"',
            'input = "sum"',
            "the outputs need other inputs: expected sum, found image, sum",
        ),
        ('"logits"]', '"logits/Shape"]', r"output logits/Shape.*expected a fixed shape, float32, found \[4\] int32"),
    ],
)
def test_a_cut_at_the_wrong_place_is_refused(tiny: Tiny, old: str, new: str, expected: str) -> None:
    from vedette_converter.recipe import read_recipe

    source = read_recipe(tiny.edit(old, new, Path("cut.toml"))).recipe.source
    with pytest.raises(ModelError, match=expected):
        load_network(source, read_source(source, tiny.package), SHAPE)
