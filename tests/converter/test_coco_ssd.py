"""The published COCO detector: our anchors and our decoding against the graph's own, run by TensorFlow.

Needs the npm package; VEDETTE_COCO_SSD points to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converter_project import RECIPE, ROOT

from vedette.contract.decode import make_decoder
from vedette.contract.decode.ssd import anchor_boxes
from vedette.contract.image import ImagePreprocessor
from vedette.contract.types import Detections, TensorSpec
from vedette_converter.load import load_network, tfjs
from vedette_converter.load.network import Network
from vedette_converter.pictures import read_picture
from vedette_converter.recipe import Recipe, read_recipe
from vedette_converter.source import SourceFiles, read_source


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read_recipe(RECIPE).recipe


@pytest.fixture(scope="module")
def files(recipe: Recipe, coco_package: Path) -> SourceFiles:
    return read_source(recipe.source, coco_package)


@pytest.fixture(scope="module")
def network(recipe: Recipe, files: SourceFiles, tf: Any) -> Network:
    return load_network(recipe.source, files, (1, 300, 300, 3))


@pytest.fixture(scope="module")
def graph(recipe: Recipe, files: SourceFiles, tf: Any) -> Any:
    where = recipe.source.model
    model = json.loads(files.contents[where])
    return tfjs.build_graph(model, tfjs.read_weights(model, files.contents, where), where)


def test_our_anchors_are_the_graphs(recipe: Recipe, files: SourceFiles) -> None:
    where = recipe.source.model
    weights = tfjs.read_weights(json.loads(files.contents[where]), files.contents, where)
    corners = weights["Postprocessor/ExpandDims"][0].astype(np.float64)  # y_min, x_min, y_max, x_max
    ours = anchor_boxes(recipe.output.anchors).astype(np.float64)
    expected = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("picture", ["vtest-003.jpg", "chelsea.jpg", "coffee.jpg"])
def test_our_decoding_is_the_graphs(tf: Any, recipe: Recipe, network: Network, graph: Any, picture: str) -> None:
    tensor = TensorSpec("input", (1, 300, 300, 3), np.dtype(np.float32))
    sample = tensor.allocate()
    ImagePreprocessor(recipe.input, tensor)(read_picture(ROOT / "models" / "golden" / picture), sample)
    outputs = network.run(sample)
    found = make_decoder(recipe.output, network.outputs, 90, score_threshold=0.3)(outputs)
    assert isinstance(found, Detections) and len(found)

    # the whole published graph, its AddN ops and its own postprocessing included, fed behind its resizing loop
    with tf.Graph().as_default() as published:
        tf.graph_util.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=published) as session:
            names = [node.name for node in graph.node if not is_read(graph, node.name) and node.op != "Placeholder"]
            values = session.run([f"{name}:0" for name in names], {"Preprocessor/sub:0": sample})
    by_rank = {value.ndim: value for value in values}
    boxes, scores = by_rank[4].reshape(1917, 4), by_rank[3].reshape(1917, -1)
    boxes = boxes[:, [1, 0, 3, 2]]  # y first -> x first
    scores = scores[:, -90:]  # without the background, whether the graph dropped it or not
    for box, score, class_id in zip(found.boxes, found.scores, found.class_ids, strict=True):
        candidates = np.abs(boxes - box).max(axis=1) + np.abs(scores[:, class_id] - score)
        assert candidates.min() < 1e-3
    # and nothing was missed: whatever passes there is one of ours, or is suppressed by one of ours
    from vedette.contract.boxes import iou

    for anchor, class_id in zip(*np.nonzero(scores > 0.301), strict=True):
        same = found.boxes[found.class_ids == class_id]
        assert iou(boxes[anchor : anchor + 1].astype(np.float32), same).max(initial=0.0) > 0.599


def is_read(graph: Any, name: str) -> bool:
    """Whether any node takes this one's output."""
    return any(name in (read.split(":")[0].lstrip("^") for read in node.input) for node in graph.node)


def test_plain_adds_and_biases_come_home_change_nothing(tf: Any, recipe: Recipe, network: Network, graph: Any) -> None:
    sample = np.random.default_rng(1).uniform(-1, 1, (1, 300, 300, 3)).astype(np.float32)
    with tf.Graph().as_default() as published:
        tf.graph_util.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=published) as session:
            expected = session.run([f"{name}:0" for name in recipe.source.outputs], {"Preprocessor/sub:0": sample})
    for ours, theirs in zip(network.run(sample), expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_the_whole_network_is_one_delegate_partition(tmp_path: Path, network: Network) -> None:
    """XNNPACK concatenates at most five tensors: the two concatenations of six maps, and a reshape behind one, are left."""
    from vedette.engine import load_runtime
    from vedette_converter import quantise

    path = tmp_path / "f.tflite"
    path.write_bytes(quantise.to_float32(network))
    interpreter = load_runtime("litert").module.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    ops = [op["op_name"] for op in interpreter._get_ops_details()]
    assert ops.count("DELEGATE") == 2
    assert "ADD_N" not in ops and "SHAPE" not in ops
    assert ops.count("ADD") == 10  # the residual sums alone: every bias went into its convolution
