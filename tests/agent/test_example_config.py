"""The example configuration names every option there is, each at its default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.inspect import DictType, StructType, Type, UnionType, type_info

from vedette.cli import main
from vedette.config import Config, PipelineConfig, load_config, parse_config

EXAMPLE = Path(__file__).resolve().parents[2] / "systemd" / "vedette.toml"
OPTION = re.compile(r"^#(?=\[|[a-z_]+ = )")  # "# " begins prose

# Worked out where the agent runs, so that no default can stand in a file
DEVICE = "device"
# TOML has no null; absent means "the bundle's own", "none", "nowhere"
NULLS = {"threshold", "stride", "rate_hz", "folder", "height", "width", "color", "mean", "std"}


@pytest.fixture
def uncommented() -> str:
    """The example with every option line made active."""
    return "".join(OPTION.sub("", line) for line in EXAMPLE.read_text().splitlines(keepends=True))


def test_parses_as_it_is() -> None:
    config = load_config(EXAMPLE)
    assert list(config.pipelines) == ["door"]
    assert config.pipelines["door"].source_config.url == "rtsp://camera.example:554/stream"


def test_active_lines_are_those_of_one_pipeline() -> None:
    document = tomllib.loads(EXAMPLE.read_text())
    pipelines = document.pop("pipeline")
    tables = ("mqtt", "trust", "outbox", "engine", "governor", "intervals", "home_assistant")
    assert document == {table: {} for table in tables}
    assert pipelines == {
        "door": {"model": "coco-ssdlite-mobilenet-v2", "source": {"url": "rtsp://camera.example:554/stream"}}
    }


def test_passes_the_check_of_a_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--offline", "-c", str(EXAMPLE)]) == 0
    assert "coco-ssdlite-mobilenet-v2" in capsys.readouterr().out


def test_lines_are_options_or_prose() -> None:
    # a line such as "#option=1" would be neither, and the tests below would not see it
    for number, line in enumerate(EXAMPLE.read_text().splitlines(), start=1):
        assert not line.startswith("#") or line == "#" or line.startswith("# ") or OPTION.match(line), (number, line)


def test_every_option_uncommented_is_its_default(uncommented: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/vedette")
    bare = parse_config(b'[pipeline.door]\nmodel = "m"\nsource = "s"\n', Path("bare.toml"))
    full = parse_config(uncommented.encode(), EXAMPLE)
    assert full.device == "front-door"
    for name in (
        "state_dir", "log_level", "mqtt", "trust", "outbox", "engine", "governor", "intervals", "home_assistant",
    ):  # fmt: skip
        assert getattr(full, name) == getattr(bare, name), name
    wrong = [f"{where}: {found!r} is not the default {default!r}" for where, found, default in _differences(full)]
    assert wrong == []


def test_every_option_has_its_line(uncommented: str) -> None:
    written = _keys_by_struct(uncommented)
    missing = [
        f"{struct.__name__}.{field.encode_name}"
        for struct in _structs(type_info(Config))
        for field in msgspec.structs.fields(struct)
        if struct is not Config and field.encode_name not in written.get(struct, set())
    ]
    assert missing == []
    top = set(tomllib.loads(uncommented))
    assert top == {"pipeline" if name == "pipelines" else name for name in Config.__struct_fields__}


def test_every_option_is_explained() -> None:
    """Prose stands above it, or above the option lines directly before it."""
    above = "blank"
    for number, line in enumerate(EXAMPLE.read_text().splitlines(), start=1):
        is_option = OPTION.match(line) or re.match(r"[a-z_]+ = ", line)
        is_header = line.lstrip("#").startswith("[")
        if is_option and not is_header:
            assert above in ("prose", "option"), f"line {number}: {line}"
        above = "blank" if not line or is_header else "option" if is_option else "prose"
        if is_header and line.startswith("#"):
            above = "option"  # the examples at the end open with the table itself


def _structs(kind: Type) -> Iterator[type[msgspec.Struct]]:
    """Every struct that a type leads to."""
    if isinstance(kind, StructType):
        yield kind.cls
        for field in kind.fields:
            yield from _structs(field.type)
    elif isinstance(kind, UnionType):
        for member in kind.types:
            yield from _structs(member)
    elif isinstance(kind, DictType):
        yield from _structs(kind.value_type)


def _values(value: Any) -> Iterator[msgspec.Struct]:
    """Every struct in a value."""
    if isinstance(value, msgspec.Struct):
        yield value
        for field in msgspec.structs.fields(value):
            yield from _values(getattr(value, field.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _values(item)


def _differences(config: Config) -> Iterator[tuple[str, Any, Any]]:
    for struct in _values(config):
        for field in msgspec.structs.fields(struct):
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            value = getattr(struct, field.name)
            tables = isinstance(value, dict) and any(isinstance(item, msgspec.Struct) for item in value.values())
            null = field.name in NULLS and default in (None, "")
            if default is msgspec.NODEFAULT or null or isinstance(value, msgspec.Struct) or tables:
                continue  # needed; or null; or tables, whose own fields are looked at
            if value != default:
                yield f"{type(struct).__name__}.{field.name}", value, default


def _keys_by_struct(text: str) -> dict[type[msgspec.Struct], set[str]]:
    """Which keys the file gives in a table of each struct. Tags (decoder, kind) are no fields."""
    document = tomllib.loads(text)
    config = parse_config(text.encode(), EXAMPLE)
    found: dict[type[msgspec.Struct], set[str]] = {}

    def walk(table: dict[str, Any], value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            found.setdefault(type(value), set()).update(table)
        for key, inner in table.items():
            found_there = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
            if isinstance(inner, dict) and isinstance(found_there, msgspec.Struct | dict):
                walk(inner, found_there)

    for name in ("mqtt", "trust", "outbox", "engine", "governor", "intervals", "home_assistant"):
        walk(document[name], getattr(config, name))
    for name, table in document["pipeline"].items():
        assert isinstance(config.pipelines[name], PipelineConfig)
        walk(table, config.pipelines[name])
    return found
