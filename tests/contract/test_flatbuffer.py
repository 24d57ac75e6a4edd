"""A TFLite model that is cut is told from a whole one, wherever the cut is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.flatbuffer import interface, is_whole

DATA = Path(__file__).parent / "data"
END = 200  # bytes: the table written last, and metadata that says nothing of the network, may be cut unnoticed


@pytest.mark.parametrize("path", sorted(DATA.glob("*.tflite")), ids=lambda path: path.stem)
def test_every_cut_is_noticed(path: Path) -> None:
    model = path.read_bytes()
    assert is_whole(model) and is_whole(model + b"PK")
    for size in range(0, len(model) - END, max(1, len(model) // 200)):
        assert not is_whole(model[:size]), size


@given(st.binary(max_size=300))
def test_any_bytes_have_an_answer(tail: bytes) -> None:
    assert is_whole(b"\x1c\0\0\0TFL3" + tail) in (True, False)


@given(st.binary(max_size=300))
def test_any_bytes_have_an_interface_or_none(tail: bytes) -> None:
    assert isinstance(interface(b"\x1c\0\0\0TFL3" + tail), str)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny-uint8", r"input serving_default_\S+ uint8\[1, 16, 16, 3\]; output 0: \S+ uint8\[1, 4\]"),
        ("tiny-open-batch", r"input pixels float32\[-1, 4, 4, 3\]; output 0: Identity float32\[-1, -1, 3\]"),
    ],
)
def test_a_network_says_what_it_takes_and_gives(name: str, expected: str) -> None:
    assert re.fullmatch(expected, interface((DATA / f"{name}.tflite").read_bytes()))
