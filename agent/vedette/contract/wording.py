"""Words for mistakes: msgspec's in those of whoever writes a configuration or an option, and the word that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_WORDS: Final = {
    "array": "list",
    "bool": "true or false",
    "float": "number",
    "int": "whole number",
    "object": "table",
    "str": "text",
}


def in_words(expected: str) -> str:
    """``int >= 1`` -> ``whole number >= 1``; ``float | null`` -> ``number``, for nothing is said by leaving it out."""
    kinds, *bounds = re.split(r"(?= (?:of length|matching|[<>]=?) )", expected.replace("`", ""), maxsplit=1)
    names = [_WORDS.get(kind, kind) for kind in kinds.split(" | ") if kind != "null"]
    return " or ".join(names) + "".join(bounds)


def explained(error: Exception) -> tuple[str, str, str]:
    """Of a `msgspec.ValidationError`: where (``tiles[0]``, ``crop``; "" for all of it), what was expected, what was found,
    each "" where it does not say. A struct's own check is to begin ``field: expected ..., found ...``."""
    text, _, path = str(error).replace("`", "").partition(" - at $")
    path = path.lstrip(".")
    if text.startswith("Expected "):
        expected, _, found = text.removeprefix("Expected ").partition(", got ")
        return path, in_words(expected), in_words(found)
    field, colon, rest = text.partition(": expected ")
    if colon and re.fullmatch(r"\w+", field):
        expected, _, found = rest.partition(", found ")
        return f"{path}.{field}".lstrip("."), expected, found
    return path, "", text[:1].lower() + text[1:]


def nearest(word: str, known: Iterable[str]) -> str:
    """Of the known words the one that was probably meant; "" where none is like it."""
    import difflib  # for mistakes alone: an agent keeps what it imports

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), "")
