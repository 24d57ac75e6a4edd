"""Mistakes in a configuration, in words: file, line, key, what was expected and found, and the nearest right name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from vedette.contract.errors import ConfigError
from vedette.contract.wording import in_words, nearest
from vedette.sources import masked_url

MAX_BYTES: Final = 1024 * 1024  # of a file
_T = TypeVar("_T")


class Places:
    """Finds the line of a key, for tomllib does not say it."""

    _HEADER: Final = re.compile(r"^\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
    _KEY: Final = re.compile(
        r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
    )
    _PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := self._HEADER.match(line):
                table = self._split(header[1])
                self._lines.setdefault(table, number)
            elif key := self._KEY.match(line):
                parts = self._split(key[1])
                for end in range(1, len(parts) + 1):
                    self._lines.setdefault((*table, *parts[:end]), number)

    @classmethod
    def of(cls, path: Path) -> Places:
        """Of a file that has been read before; it finds no lines where it is gone."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES)
        except OSError:
            raw = b""
        return cls(path, raw.decode("utf-8-sig", "replace"))

    def _split(self, dotted: str) -> tuple[str, ...]:
        return tuple(part.strip("\"'") for part in self._PART.findall(dotted))

    def at(self, key: tuple[str, ...]) -> str:
        """``file:line: dotted.key``, the line left out where the key is not in the file."""
        for end in range(len(key), 0, -1):
            if key[:end] in self._lines:
                return f"{self._path}:{self._lines[key[:end]]}: {'.'.join(key)}"
        return f"{self._path}: {'.'.join(key)}"

    def unknown(self, table: tuple[str, ...], key: str, known: tuple[str, ...]) -> ConfigError:
        """The error for a key that nobody reads."""
        near = nearest(key, known)
        return ConfigError(
            "unknown key", where=self.at((*table, key)), expected="one of " + ", ".join(known),
            fix=f"did you mean {near!r}?" if near else "",
        )  # fmt: skip


_PATH = re.compile(r"(?s)^(?P<text>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>[^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<key>[^`]*)`$")
_EXPECTED = re.compile(r"^Expected (?P<expected>.*?)(?:, got (?P<got>.*))?$")
_PATTERNS: Final = {
    "prefix": "levels of a topic, such as homeassistant, without +, #, control characters and noncharacters",
    "root": "levels of a topic, such as plant-7/vedette, without +, #, control characters and noncharacters",
    "username": "some text without control characters and noncharacters",
    "host": "a name or address without spaces",
    "fourcc": "four letters or digits, such as MJPG",
    "alpn": "1 to 255 printable ASCII characters, such as x-amzn-mqtt-ca",
    "zones": "names of 1 to 64 letters, digits, - and _",
    "wires": "names of 1 to 64 letters, digits, - and _",
    "rightward": "1 to 64 letters, digits, - and _",
    "leftward": "1 to 64 letters, digits, - and _",
}
"""What a key's pattern means, for people; of the others: some text without NUL bytes."""


def converted(value: Any, kind: type[_T], table: tuple[str, ...], places: Places) -> _T:
    """``value``, what TOML has at ``table``, as a struct. Raises `ConfigError`, which says where in the file and what was
    expected."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        match = _PATH.match(str(error))
        text = match["text"] if match else str(error)
        inner = tuple(re.findall(r"\.\.\.|[^.\[\]]+", match["path"] or "")) if match else ()
        key = _name_dict_keys((*table, *inner), value, table, kind)
        found = look_up(value, key[len(table) :])
        if unknown := _UNKNOWN.match(text):
            struct = _struct_at(kind, key[len(table) :], value)
            fields = struct.__struct_fields__ if struct else ()
            raise places.unknown(key, unknown["key"], tuple(fields)) from None
        if missing := _MISSING.match(text):
            raise ConfigError("missing key", where=places.at(key), expected=f"{missing['key']} = ...") from None
        if expected := _EXPECTED.match(text):
            wanted = in_words(expected["expected"])
            if "matching regex" in wanted:
                wanted = _PATTERNS.get(key[-1], "some text without NUL bytes")
                if isinstance(found, dict):  # one of its keys
                    found = next((name for name in found if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)), found)
            raise ConfigError("bad value", where=places.at(key), expected=wanted, found=_shown(found, key)) from None
        head, _, rest = text.partition(": ")
        if rest and re.fullmatch(r"[a-z_]+", head):
            # a struct's own check: "field: expected X, found Y"
            wanted, _, what = rest.removeprefix("expected ").partition(", found ")
            raise ConfigError("bad value", where=places.at((*key, head)), expected=wanted, found=what) from None
        options = _choices(kind, key[len(table) :], value)
        raise ConfigError(
            "bad value", where=places.at(key), expected=options, found=_shown(found, key) if options else text
        ) from None


def _shown(value: Any, key: tuple[str, ...]) -> str:
    """A value as an error shows it: short, and never a password."""
    if key and key[-1] == "password":
        return "a secret"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = repr(masked_url(value) if isinstance(value, str) else value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


def _name_dict_keys(path: tuple[str, ...], value: Any, table: tuple[str, ...], kind: Any) -> tuple[str, ...]:
    """msgspec writes ``[...]`` for a dict's key; the offending one is the first that is no score, or no such table."""
    if "..." not in path:
        return path
    index = path.index("...")
    inner = look_up(value, path[len(table) : index])
    struct = _struct_at(kind, (*path[len(table) : index], "..."))
    if isinstance(inner, dict):
        for name, item in inner.items():
            if struct is not None:
                try:
                    msgspec.convert(item, struct)
                except msgspec.ValidationError:
                    return (*path[:index], name, *path[index + 1 :])
                continue
            bad = isinstance(item, bool) or not isinstance(item, int | float) or not 0 <= item <= 1
            if bad:
                return (*path[:index], name, *path[index + 1 :])
    return path[:index]


def look_up(value: Any, path: tuple[str, ...]) -> Any:
    """What lies there, or the last thing that there is on the way."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return value
    return value


def _struct_at(kind: Any, path: tuple[str, ...], value: Any = None) -> Any:
    """The struct that a path below ``kind`` leads to, for the names of its fields; ``value``: what it is to hold."""
    found, there = _info_at(kind, path, value)
    info = None if found is None else _chosen(found, there)
    return info.cls if isinstance(info, msgspec.inspect.StructType) else None


def _info_at(kind: Any, path: tuple[str, ...], value: Any) -> tuple[msgspec.inspect.Type | None, Any]:
    """What a path below ``kind`` leads to, a choice not made yet, and what stands there."""
    info = msgspec.inspect.type_info(kind)
    for part in path:
        info = _chosen(info, value)
        value = look_up(value, (part,))
        if isinstance(info, msgspec.inspect.DictType):
            info = info.value_type
        elif isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            info = info.item_type
        elif isinstance(info, msgspec.inspect.StructType):
            fields = {field.name: field.type for field in info.fields}
            if part not in fields:
                return None, value
            info = fields[part]
    return info, value


def _chosen(info: msgspec.inspect.Type, value: Any) -> msgspec.inspect.Type:
    """Of a choice of structs the one whose tag the value has (decoder, kind), else the first."""
    if not isinstance(info, msgspec.inspect.UnionType):
        return info
    structs = [t for t in info.types if isinstance(t, msgspec.inspect.StructType)]
    tagged = [t for t in structs if isinstance(value, dict) and t.tag_field and value.get(t.tag_field) == t.tag]
    chosen = tagged or structs
    return chosen[0] if chosen else info


def _choices(kind: Any, path: tuple[str, ...], value: Any) -> str:
    """What a field with few values may be."""
    if path and path[-1].isdigit():  # of a list
        path = path[:-1]
    choice = _info_at(kind, path[:-1], value)[0]
    if isinstance(choice, msgspec.inspect.UnionType):
        tags = [t.tag for t in choice.types if isinstance(t, msgspec.inspect.StructType) and t.tag_field == path[-1]]
        if tags:
            return "one of " + ", ".join(repr(tag) for tag in tags)
    struct = _struct_at(kind, path[:-1], value) if path else None
    if struct is None:
        return ""
    for field in msgspec.inspect.type_info(struct).fields:  # type: ignore[attr-defined]
        info = field.type
        if isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            info = info.item_type
        number = ""
        if isinstance(info, msgspec.inspect.UnionType):
            number = "a number, or "
            info = next((t for t in info.types if isinstance(t, msgspec.inspect.LiteralType)), info)
        if path and field.name == path[-1] and isinstance(info, msgspec.inspect.LiteralType):
            return number + "one of " + ", ".join(repr(v) for v in info.values)
    return ""
