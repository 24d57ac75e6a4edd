"""What is said of a plain ``.tflite``."""

from __future__ import annotations

from vedette_converter.bare import _speed


def test_what_became_slower_is_not_told_as_faster() -> None:
    assert _speed(0.25) == "4.00 times faster"
    assert _speed(1 / 0.58).startswith("1.72 times slower: `vedette-convert lint` says")
