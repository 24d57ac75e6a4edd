"""A compacted network is the same network, in fewer bytes, as any reader wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converter_project import ROOT

from vedette.engine import TfliteEngine, load_runtime
from vedette_converter.quantise.graph import read_graph
from vedette_converter.quantise.pack import compact

SHIPPED = sorted((ROOT / "models").glob("*.tflite"))


def network(path: Path) -> bytes:
    """As flatbuffers' own writer writes it: nothing shared."""
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model_of(path.read_bytes())))


def model_of(flatbuffer: bytes) -> Any:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return model


def outputs(flatbuffer: bytes, path: Path) -> list[Any]:
    path.write_bytes(flatbuffer)
    engine = TfliteEngine(path, load_runtime())
    inputs, found = engine.allocate()
    rng = np.random.default_rng(7)
    for tensor in inputs:
        tensor[...] = rng.integers(-100, 100, tensor.shape)
    engine.invoke(inputs, found)
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_the_same_network_in_fewer_bytes(path: Path, tmp_path: Path) -> None:
    plain = network(path)
    packed = compact(plain)
    assert len(packed) < len(plain) and compact(packed) == packed
    for one, other in zip(outputs(plain, tmp_path / "a"), outputs(packed, tmp_path / "b"), strict=True):
        assert np.array_equal(one, other)
    before, after = read_graph(plain), read_graph(packed)
    assert [(op.name, op.layer, op.macs) for op in before.ops] == [(op.name, op.layer, op.macs) for op in after.ops]
    for one, other in zip(model_of(plain).subgraphs[0].tensors, model_of(packed).subgraphs[0].tensors, strict=True):
        assert (one.type, list(one.shape)) == (other.type, list(other.shape))
        for key in ("scale", "zeroPoint", "quantizedDimension"):
            assert np.array_equal(getattr(one.quantization, key), getattr(other.quantization, key)), key


def test_constants_lie_where_a_kernel_may_load_them(tmp_path: Path) -> None:
    """At multiples of 16 bytes, as the schema asks for; flatbuffers' own writer for Python does not care."""
    packed = compact(network(ROOT / "models" / "cifar10-resnet8.tflite"))
    places = [packed.find(bytes(b.data)) for b in model_of(packed).buffers if b.data is not None and len(b.data) > 64]
    assert len(places) > 10 and all(place > 0 and place % 16 == 0 for place in places)
