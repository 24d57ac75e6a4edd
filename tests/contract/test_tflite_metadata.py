"""Metadata of third parties: read from a file that TFLite Support's own writer made, and never trusted further."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.errors import ModelError
from vedette.contract.manifest import ClassifyOutput
from vedette.contract.tflite_metadata import Normalization, read_normalization
from vedette.contract.types import TensorSpec
from vedette.models.model import PlainModel, load_model, read_model
from vedette.models.spec import input_from

DATA = Path(__file__).parent / "data"
CARRYING = (DATA / "tiny-metadata.tflite").read_bytes()


def test_reads_what_the_writer_was_given() -> None:
    assert read_normalization(CARRYING) == Normalization((127.5,), (63.75,))


@pytest.mark.parametrize("name", ["tiny-float32", "tiny-int8", "tiny-uint8"])
def test_a_file_without_metadata_states_nothing(name: str) -> None:
    assert read_normalization((DATA / f"{name}.tflite").read_bytes()) is None


@given(st.integers(0, len(CARRYING)))
def test_a_truncated_file_states_nothing_or_the_same(end: int) -> None:
    assert read_normalization(CARRYING[:end]) in (None, Normalization((127.5,), (63.75,)))


@given(st.integers(0, len(CARRYING) - 1), st.integers(0, 255))
def test_a_changed_byte_is_no_crash(position: int, value: int) -> None:
    changed = bytearray(CARRYING)
    changed[position] = value
    stated = read_normalization(bytes(changed))
    assert stated is None or all(v > 0 for v in stated.std)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_crash(data: bytes) -> None:
    assert read_normalization(b"\x1c\0\0\0TFL3" + data) is None


def test_labels_and_normalisation_are_used_without_options() -> None:
    spec = read_model(str(DATA / "tiny-metadata.tflite"), PlainModel(output=ClassifyOutput()))
    assert spec.labels == ("red", "green", "blue", "grey")
    model = load_model(spec)
    # (255 - 127.5) / 63.75 = 2: what a white picture must become
    model.preprocess(np.full((16, 16, 3), 255, np.uint8))
    assert (model._inputs[0] == 2.0).all()
    model.engine.close()


def three_for_one() -> bytes:
    """The same file, its one mean and one std three each: floats are vectors of a count and what follows."""
    changed = CARRYING
    for value in (127.5, 63.75):
        changed = changed.replace(struct.pack("<If", 1, value), struct.pack("<If", 3, value))
    return changed


def test_a_normalisation_of_more_channels_than_the_input_has_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "grey.tflite"
    path.write_bytes(three_for_one())
    spec = read_model(str(path), PlainModel(output=ClassifyOutput()))
    with pytest.raises(
        ModelError, match=r"metadata does not fit input tensor grey .*1 values for gray, found 3.*--mean"
    ):
        input_from(TensorSpec("grey", (1, 16, 16, 1), np.dtype(np.float32)), spec)


def test_a_scale_that_is_none_is_one_line() -> None:
    spec = read_model(
        str(DATA / "tiny-uint8.tflite"), PlainModel(output=ClassifyOutput(), labels_file=DATA / "tiny-labels.txt")
    )
    with pytest.raises(ModelError, match="quantisation does not fit input tensor"):
        input_from(TensorSpec("dark", (1, 16, 16, 3), np.dtype(np.uint8), 1e-30), spec)
