"""JSON schemas of all payloads, generated from the structs: ``python -m vedette.mqtt.schemas docs/schemas``.

They say what a message holds. A consumer should pass over fields it does not know, for later versions may add some.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from .payloads import MESSAGES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> schema."""
    return {f"{name}.json": {"$schema": DIALECT, **msgspec.json.schema(kind)} for name, kind in MESSAGES.items()}


def render(schema: dict[str, Any]) -> str:
    """As it stands in the file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Writes every schema into a folder."""
    if len(arguments) != 1:
        print("usage: python -m vedette.mqtt.schemas FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(render(schema), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
