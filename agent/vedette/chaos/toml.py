"""Values -> TOML, for the standard library only reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def write_toml(document: Mapping[str, Any]) -> str:
    """A line a key, tables inline; for programs to read. Values: what `tomllib` gives, but for dates and times."""
    return "".join(f"{_text(key)} = {_value(value)}\n" for key, value in document.items())


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)  # inf, nan and -inf are TOML's words, too
        case str():
            return _text(value)
        case Mapping():
            return "{" + ", ".join(f"{_text(key)} = {_value(item)}" for key, item in value.items()) + "}"
        case Sequence():
            return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"no value of TOML: {type(value).__name__}")


def _text(text: str) -> str:
    """A JSON string is a basic string of TOML, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
