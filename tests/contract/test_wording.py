"""What msgspec expected, in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vedette.contract.manifest import ImageInput
from vedette.contract.wording import explained, in_words, nearest
from vedette.flow.regions import RegionOptions


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ("`int` >= 1", "whole number >= 1"),
        ("`float | null`", "number"),
        ("`object | str`", "table or text"),
        ("`array` of length 2", "list of length 2"),
        ("`str` matching regex '^[a-z]{1,3} | x$'", "text matching regex '^[a-z]{1,3} | x$'"),
        ("`bool`", "true or false"),
        ("`datetime`", "datetime"),
    ],
)
def test_types_are_named_as_people_do(expected: str, words: str) -> None:
    assert in_words(expected) == words


@pytest.mark.parametrize(
    ("word", "meant"), [("persn", "person"), ("personal", "person"), ("bycicle", "bicycle"), ("xyz", ""), ("", "")]
)
def test_the_word_that_was_meant(word: str, meant: str) -> None:
    assert nearest(word, iter(["bicycle", "person", "car"])) == meant


@pytest.mark.parametrize(
    ("kind", "value", "explanation"),
    [
        (RegionOptions, {"tiles": [0, 3]}, ("tiles[0]", "whole number >= 1", "")),
        (RegionOptions, {"crop": [0.5, 0.5]}, ("crop", "list of length 4", "2")),
        (RegionOptions, {"overlap": "x"}, ("overlap", "number", "text")),
        (RegionOptions, {"mask_point": "top"}, ("mask_point", "", "invalid enum value 'top'")),
        (ImageInput, {"kind": "image", "height": 1, "width": 1, "std": [0]}, ("std", "numbers above 0", "[0.0]")),
    ],
)
def test_an_error_is_taken_apart(kind: Any, value: Any, explanation: tuple[str, str, str]) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(value, kind)
    assert explained(error.value) == explanation
