"""``docs/converter/recipe.md`` out of the recipe's own structs, so that every option is documented and none twice.

python -m vedette_converter.recipe.document docs/converter/recipe.md
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from . import Recipe

HEAD = """# A recipe

Everything that makes one bundle, as TOML: `vedette-convert build RECIPE`. Unknown keys are refused, with the nearest
right name. Paths are relative to the recipe's own file. `models/recipes/` holds the ones behind the shipped bundles.

This page is made from the code: `python -m vedette_converter.recipe.document docs/converter/recipe.md`.
"""


def page() -> str:
    """The whole page, as Markdown."""
    lines = [HEAD]
    for path, kind in _tables(Recipe, ""):
        lines.append(f"## {_title(path, kind)}\n")
        lines.append(f"{_purpose(kind)}\n")
        lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        if kind.__struct_config__.tag_field:
            lines.append(f'| `{kind.__struct_config__.tag_field}` | `"{kind.__struct_config__.tag}"` |  | which kind |')
        meanings = _meanings(kind)
        for field in msgspec.structs.fields(kind):
            if _structs(field.type):
                continue
            meaning = " ".join(meanings.get(field.name, "").split())
            lines.append(
                f"| `{field.encode_name}` | {_value(field.type)} | {_default(field)} | {meaning.replace('|', '&#124;')} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _tables(kind: type[Struct], path: str) -> Iterator[tuple[str, type[Struct]]]:
    """Every table of a recipe, in order: the top, then each struct below it."""
    yield path, kind
    for field in msgspec.structs.fields(kind):
        below = f"{path}.{field.encode_name}" if path else field.encode_name
        for inner in _structs(field.type):
            yield from _tables(inner, below)


def _structs(kind: Any) -> list[type[Struct]]:
    if typing.get_origin(kind) is Annotated:
        return _structs(typing.get_args(kind)[0])
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [struct for member in typing.get_args(kind) for struct in _structs(member)]
    return [kind] if isinstance(kind, type) and issubclass(kind, Struct) else []


def _title(path: str, kind: type[Struct]) -> str:
    if not path:
        return "At the top"
    config = kind.__struct_config__
    return f'`[{path}]` with `{config.tag_field} = "{config.tag}"`' if config.tag_field else f"`[{path}]`"


def _purpose(kind: type[Struct]) -> str:
    text = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
    return "The bundle's name and what it does." if text == "See the module." else " ".join(text.split())


def _meanings(kind: type[Struct]) -> dict[str, str]:
    """The string below each field of a struct and of those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is Struct or not issubclass(base, Struct):
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):
            continue
        assert isinstance(tree, ast.ClassDef)
        for statement, after in zip(tree.body, [*tree.body[1:], None], strict=True):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
                continue
            if (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[statement.target.id] = after.value.value
    return found


def _value(kind: Any) -> str:
    """A type in words, with its bounds."""
    if typing.get_origin(kind) is Annotated:
        inner, *metas = typing.get_args(kind)
        bounds = [text for meta in metas if isinstance(meta, Meta) and (text := _bounds(meta))]
        return ", ".join([_value(inner), *bounds])
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(_value(member) for member in typing.get_args(kind) if member is not type(None))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{value!r}`".replace("'", '"') for value in arguments)
    if origin is dict:
        return f"a table of {_value(arguments[1])}"
    if origin in (tuple, list):
        return f"a list of {_value(arguments[0])}"
    if isinstance(kind, type) and issubclass(kind, Struct):
        return f"tables of {', '.join(f'`{field.encode_name}`' for field in msgspec.structs.fields(kind))}"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}.get(kind, str(kind))


def _bounds(meta: Meta) -> str:
    low = f"from {meta.ge:g}" if meta.ge is not None else f"above {meta.gt:g}" if meta.gt is not None else ""
    high = f"to {_plain(meta.le)}" if meta.le is not None else f"below {meta.lt:g}" if meta.lt is not None else ""
    return " ".join(part for part in (low, high) if part)


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not NODEFAULT:
        return "none"
    if field.default is NODEFAULT:
        return "*needed*"
    if field.default is None:
        return "none"
    if isinstance(field.default, tuple):
        shown = [round(value, 4) if isinstance(value, float) else value for value in field.default]
        return f"`{shown}`".replace("'", '"')
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default!r}`".replace("'", '"') if isinstance(field.default, str) else f"`{field.default:g}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
