"""Flatbuffers are loaded and run before they are believed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converter_project import Tiny
from tfjs_writer import SIDE

from vedette.contract.errors import FaultError, ModelError, PictureError
from vedette.engine import load_runtime
from vedette_converter import calibrate, quantise
from vedette_converter.load import Network, load_network
from vedette_converter.source import read_source


@pytest.fixture(scope="module")
def network(tiny: Tiny, tf: Any) -> Network:
    source = tiny.read().recipe.source
    return load_network(source, read_source(source, tiny.package), (1, SIDE, SIDE, 3))


def test_the_float_flatbuffer_is_the_network(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "f.tflite"
    path.write_bytes(quantise.to_float32(network))
    engine = quantise.load_proven(path, load_runtime())
    sample = np.random.default_rng(1).uniform(-1, 1, network.input.shape).astype(np.float32)
    assert quantise.expect_same(engine, network, sample) < 1e-5


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_int8_is_int8_from_end_to_end(network: Network, tiny: Tiny, tmp_path: Path, dtype: Any) -> None:
    calibration = calibrate.choose(tiny.pictures, 8, seed=1)
    seen: list[int] = []
    path = tmp_path / "q.tflite"
    samples = calibration.samples(tiny.read().recipe.input, lambda: seen.append(1))
    path.write_bytes(quantise.to_int8(network, samples, input_dtype=dtype, output_dtype=dtype))
    assert len(seen) == 8
    engine = quantise.load_proven(path, load_runtime())
    assert {tensor.dtype.name for tensor in (*engine.inputs, *engine.outputs)} == {dtype}
    assert all(tensor.quantised for tensor in (*engine.inputs, *engine.outputs))
    assert [tensor.shape for tensor in engine.outputs] == [spec.shape for spec in network.outputs]


def test_a_calibration_picture_that_is_none_stays_the_users_mistake(network: Network) -> None:
    def samples() -> Iterator[Any]:
        yield np.zeros(network.input.shape, np.float32)
        raise PictureError("no picture that can be decoded", where="here.jpg")

    with pytest.raises(PictureError, match=r"^here\.jpg: no picture that can be decoded$"):
        quantise.to_int8(network, samples())


def test_an_op_without_an_int8_kernel_is_a_fault_in_one_line(tf: Any) -> None:
    function = tf.function(lambda x: [tf.math.erfinv(x / 2)]).get_concrete_function(tf.TensorSpec((1, 4), tf.float32))
    from vedette.contract.types import TensorSpec

    spec = TensorSpec("x", (1, 4), np.dtype(np.float32))
    with pytest.raises(ModelError, match="the network has ops that TFLite has not: found") as caught:
        quantise.to_int8(Network((spec,), (spec,), function), [np.zeros((1, 4), np.float32)])
    assert "\n" not in caught.value.line()


def test_a_flatbuffer_that_does_not_load_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    with pytest.raises(FaultError, match="the converted network does not run"):
        quantise.load_proven(path, load_runtime())


def test_a_float_flatbuffer_of_another_network_is_a_fault(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "f.tflite"
    path.write_bytes(quantise.to_float32(network))
    engine = quantise.load_proven(path, load_runtime())
    other = Network(network.inputs, network.outputs, lambda x: [2 * y for y in network.function(x)])
    sample = np.full(network.input.shape, 0.5, np.float32)
    with pytest.raises(FaultError, match=r"differs from TensorFlow: expected at most 0\.001"):
        quantise.expect_same(engine, other, sample)
