"""ONNX through onnx2tf in its own environment; everything else about it is tested without one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from loading import load

from vedette.contract.errors import MissingPackageError, ModelError
from vedette_converter.load import onnx

MAKE = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
folder = sys.argv[1]
weights = np.load(folder + "/weights.npz")
w, d = (numpy_helper.from_array(weights[name], name) for name in "wd")
def save(name, *sides, kind=TensorProto.FLOAT, bad=False):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["y"]),
    ]
    last = numpy_helper.from_array(weights["d"] * np.nan, "d") if bad else d
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", kind, ["batch", 3, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])], [w, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, f"{folder}/{name}.onnx")
save("fixed", 16, 24)
save("open", "h", "w")
save("nan", 16, 24, bad=True)
# as PyTorch's tracer writes a reshape to (batch, cells, 4): sizes read off the tensor, and a Concat that makes them one
cells = [
    helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
    helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
    helper.make_node("Shape", ["t"], ["s"]),
    helper.make_node("Gather", ["s", "zero"], ["n"]),
    helper.make_node("Unsqueeze", ["n"], ["u"], axes=[0]),
    helper.make_node("Concat", ["u", "rest"], ["to"], axis=0),
    helper.make_node("Reshape", ["t", "to"], ["y"]),
]
values = [w, numpy_helper.from_array(np.array(0), "zero"), numpy_helper.from_array(np.array([-1, 4]), "rest")]
for name, taken, made in (("cells", [1, 3, 16, 24], [1, 384, 4]), ("open_cells", ["n", 3, "h", "w"], ["n", "cells", 4])):
    graph = helper.make_graph(cells, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    onnx.save(model, f"{folder}/{name}.onnx")
"""


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ONNX files and their weights; skips where there is no onnx2tf."""
    if not os.environ.get(onnx.VARIABLE):
        pytest.skip(f"{onnx.VARIABLE} does not name an interpreter with onnx2tf=={onnx.PINNED}")
    folder = tmp_path_factory.mktemp("onnx")
    rng = np.random.default_rng(5)
    w, d = rng.normal(size=(4, 3, 3, 3)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    np.savez(folder / "weights.npz", w=w, d=d)
    subprocess.run([str(onnx.find_environment()), "-I", "-c", MAKE, str(folder)], check=True, timeout=120)
    return folder


def expected(tf: object, folder: Path, sample: np.ndarray) -> np.ndarray:
    """By hand: a padded convolution summed over the picture, times a matrix."""
    with np.load(folder / "weights.npz") as weights:
        w, d = weights["w"], weights["d"]
    height, width = sample.shape[1:3]
    padded = np.pad(sample[0], ((1, 1), (1, 1), (0, 0)))
    total = np.zeros(4)
    for i in range(3):
        for j in range(3):
            total += w[:, :, i, j] @ padded[i : i + height, j : j + width].sum((0, 1))
    return np.asarray(total / (height * width) @ d)[None]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cells", "open_cells"])
def test_sizes_that_are_read_off_a_tensor_are_known_beforehand(tf: object, networks: Path, name: str) -> None:
    network = load(networks / f"{name}.onnx", (1, 16, 24, 3))
    assert network.outputs[0].shape == (1, 384, 4)
    sample = np.random.default_rng(6).random((1, 16, 24, 3)).astype(np.float32)
    with np.load(networks / "weights.npz") as weights:
        w = weights["w"]
    found = network.run(sample)[0].reshape(16, 24, 4)[1, 2]
    np.testing.assert_allclose(found, np.einsum("oiyx,yxi->o", w, sample[0, :3, 1:4]), rtol=1e-4)


@pytest.mark.slow
def test_a_tensor_within_may_be_an_output(tf: object, networks: Path) -> None:
    whole, cut = load(networks / "fixed.onnx"), load(networks / "fixed.onnx", outputs=["y", "c"])
    assert [sorted(spec.shape) for spec in cut.outputs] == [[1, 5], [1, 4, 16, 24]]
    sample = np.random.default_rng(6).random((1, 16, 24, 3)).astype(np.float32)
    said, inner = cut.run(sample)
    np.testing.assert_allclose(said, whole.run(sample)[0], rtol=1e-4)
    (alone,) = load(networks / "fixed.onnx", outputs=["c"]).run(sample)
    # onnx2tf leaves channels where it likes
    first, second = (x.transpose(0, 2, 3, 1) if x.shape[1] == 4 else x for x in (alone, inner))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"cut at these outputs: found no tensor 'cc' in it, did you mean 'c'\?"):
        load(networks / "fixed.onnx", outputs=["cc"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("fixed", (16, 24)), ("open", (20, 12))])
def test_a_picture_network_is_fed_channels_last(tf: object, networks: Path, name: str, side: tuple[int, int]) -> None:
    network = load(networks / f"{name}.onnx", (1, *side, 3))
    assert network.flatbuffer is not None and network.input.shape == (1, *side, 3)
    sample = np.random.default_rng(6).random((1, *side, 3)).astype(np.float32)
    np.testing.assert_allclose(network.run(sample)[0], expected(tf, networks, sample), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_converted_is_one_line(tf: object, networks: Path) -> None:
    with pytest.raises(ModelError, match=r"input x: expected fixed dimensions, found \[\?, 3, \?, \?\]"):
        load(networks / "open.onnx")
    with pytest.raises(ModelError, match=r"nan\.onnx: d: weights that are no numbers"):
        load(networks / "nan.onnx")
    whole = (networks / "fixed.onnx").read_bytes()
    for content in (whole[: len(whole) // 2], b"hello"):
        (networks / "broken.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"broken\.onnx: no ONNX network: found") as caught:
            load(networks / "broken.onnx")
        assert "\n" not in caught.value.line() and "Traceback" not in caught.value.line()


def test_without_an_environment_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(onnx.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "vedette" / "onnx2tf"
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(
        MissingPackageError, match=rf"-m venv {folder} && {folder}/bin/pip install onnx2tf=={onnx.PINNED}"
    ):
        load(tmp_path / "a.onnx")
    monkeypatch.setenv(onnx.VARIABLE, "/usr/bin/false")
    with pytest.raises(MissingPackageError, match=rf"{onnx.VARIABLE}: .*an interpreter with onnx2tf at /usr/bin/false"):
        load(tmp_path / "a.onnx")


def test_an_environment_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(onnx, "_interpreter", lambda: "/usr/bin/false")
    with pytest.raises(MissingPackageError, match="environment cannot be made"):
        onnx.make_environment()
    assert not onnx.environment_folder().exists()
    monkeypatch.setattr(onnx, "_interpreter", lambda: None)
    with pytest.raises(MissingPackageError, match=r"expected python3\.12 or python3\.13, found 3\."):
        onnx.make_environment()
