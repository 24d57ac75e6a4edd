"""A ``model.json`` on the user's disk: read with its shards, and what else is called so is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tfjs_writer

from vedette.contract.errors import ModelError, UserError
from vedette_converter.cli import main
from vedette_converter.load import Network, guess_source, load_network
from vedette_converter.recipe.sources import Source, TfjsModelSource
from vedette_converter.source import read_source

SIGNATURE = {
    "inputs": {"picture": {"name": "image:0", "tensorShape": {"dim": [{"size": n} for n in ("-1", "6", "6", "3")]}}},
    "outputs": {"second": {"name": "twice:0"}, "first": {"name": "mean:0"}},
}


@pytest.fixture
def model(tf: Any, tmp_path: Path) -> Path:
    """uint8 pixels of any size -> their mean, and twice it; the signature says 6x6 and turns the outputs round."""
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], "image")
        mean = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2], name="mean")
        tf.multiply(mean, [2.0, 2.0, 2.0], "twice")
    tfjs_writer.write(tf, graph.as_graph_def(), tmp_path)
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "signature": SIGNATURE}))
    return path


def load(source: Source, shape: tuple[int, ...] | None = None) -> Network:
    return load_network(source, read_source(source, None), shape)


def test_the_signature_says_what_nobody_stated(model: Path) -> None:
    for path in (model, model.parent):
        source = guess_source(path)
        assert msgspec.to_builtins(source)["format"] == "tfjs_model" and source.url == "file:model.json"
        network = load(source)
        assert network.input.shape == (1, 6, 6, 3) and [spec.name for spec in network.outputs] == ["twice", "mean"]
        twice, mean = network.run(np.full((1, 6, 6, 3), 7, np.float32))
        assert mean.tolist() == [[7, 7, 7]] and twice.tolist() == [[14, 14, 14]]
    document = json.loads(model.read_text())
    document["userDefinedMetadata"] = {"signature": document.pop("signature")}  # where older converters write it
    model.write_text(json.dumps(document))
    assert [spec.name for spec in load(source).outputs] == ["twice", "mean"]
    document["userDefinedMetadata"] = {"signature": {"outputs": {"x": 3}}}
    model.write_text(json.dumps(document))
    with pytest.raises(ModelError, match=r"input image: expected fixed dimensions, found \[\?, \?, \?, 3\]"):
        load(source)
    assert [spec.name for spec in load(source, (1, 4, 4, 3)).outputs] == ["twice"], "what none reads"


def test_a_recipe_may_say_all_of_it(model: Path) -> None:
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in model.parent.iterdir()}
    source = TfjsModelSource(file=str(model), sha256=digests, input="Cast", outputs=("mean",))
    assert [spec.name for spec in load(source, (1, 4, 5, 3)).outputs] == ["mean"]
    with pytest.raises(UserError, match="shard1: file without a sha256 in the recipe"):
        load(msgspec.structs.replace(source, sha256={"model.json": digests["model.json"]}))
    (model.parent / "shard1").write_bytes(b"others")
    with pytest.raises(UserError, match=r"shard1: not the file the recipe was made for"):
        load(source)
    (model.parent / "shard1").unlink()
    with pytest.raises(UserError, match=r"shard1: cannot be read: found No such file"):
        load(source)


def test_flags_may_cut_it(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "samples.npy", np.ones((8, 3), np.float32))
    command = ["build", str(model), "--data", str(tmp_path / "samples.npy"), "--quantise", "float32"]
    command += ["--out", str(tmp_path / "cut.tflite")]
    assert main([*command, "--input", "mean", "--outputs", "twice"]) == 2, "of which no shape is known"
    assert "input mean: expected a shape" in capsys.readouterr().err
    np.save(tmp_path / "samples.npy", np.ones((8, 4, 4, 3), np.float32))
    assert main([*command, "--size", "4x4", "--input", "Cast", "--outputs", "twice,mean"]) == 0
    assert "| twice | [1, 3] |" in (said := capsys.readouterr().out) and "| mean | [1, 3] |" in said
    assert main(["build", str(tmp_path / "cut.tflite"), "--data", str(tmp_path), "--input", "Cast"]) == 2
    assert "--input: expected a graph with nodes" in capsys.readouterr().err


WEIGHT = {"name": "w", "shape": [1], "dtype": "float32"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([{"weights": [WEIGHT], "paths": ["a"]}], "found weights alone: .*; have that program's network saved whole"),
        (
            {"modelTopology": {"model_config": {}}, "weightsManifest": []},
            "found a layers model.*; tensorflowjs_converter",
        ),
        ({"class_name": "Sequential", "config": {}}, r"layers without their weights; give what model\.save"),
        ({"modelTopology": {"node": []}}, "found no weightsManifest"),
        ({"name": "package"}, "found another JSON document"),
        ({"modelTopology": {"node": []}, "weightsManifest": {}}, "weightsManifest: found Expected `array`"),
        ({"modelTopology": {"node": []}, "weightsManifest": [{"paths": ["../a"], "weights": []}]}, "found ../a"),
        ({"modelTopology": {"node": []}, "weightsManifest": [{"paths": ["/a"], "weights": []}]}, "found /a"),
    ],
)
def test_what_is_called_so_and_is_none(tmp_path: Path, document: Any, expected: str) -> None:
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=expected):
        read_source(guess_source(tmp_path / "model.json"), None)
