"""A path alone says what it is, and what stands in a manifest about it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from vedette.contract.errors import UserError
from vedette_converter.load import guess_source
from vedette_converter.recipe.sources import KerasSource, Source, TfliteSource
from vedette_converter.source import read_source


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.keras", b"PK", "keras"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "keras"),
        ("A.H5", b"\x89HDF\r\n\x1a\n", "keras"),
        ("a.tflite", b"\x1c\0\0\0TFL3", "tflite"),
        ("a.onnx", b"\x08", "onnx"),
        ("a.pb", b"\x0a", "graph_def"),
        ("without", b"\x1c\0\0\0TFL3", "tflite"),
        ("weights.bin", b"\x89HDF\r\n\x1a\n", "keras"),
    ],
)
def test_a_file(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    source = guess_source(tmp_path / name)
    assert msgspec.to_builtins(source)["format"] == expected
    assert source.url == f"file:{name}", "no folder of this machine in a manifest"
    assert (source.licence, source.attribution) == ("not stated", "not stated")
    files = read_source(source, None)
    assert files.sha256 == hashlib.sha256(content).hexdigest()


def test_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "m" / "variables").mkdir(parents=True)
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"pb")
    (tmp_path / "m" / "variables" / "variables.index").write_bytes(b"index")
    for path in (tmp_path / "m", tmp_path / "m" / "saved_model.pb"):
        source = guess_source(path)
        assert msgspec.to_builtins(source)["format"] == "saved_model" and source.url == "file:m"
        assert set(read_source(source, None).contents) == {"saved_model.pb", "variables/variables.index"}


def test_what_is_not_understood_lists_what_is(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK")
    (tmp_path / "package" / "tfjs").mkdir(parents=True)
    (tmp_path / "package" / "tfjs" / "model.json").write_text("{}")
    for path, found in (
        (tmp_path / "a.pt", r"ending in \.pt"),
        (tmp_path / "package", r"a folder with tfjs/model\.json"),
    ):
        with pytest.raises(UserError, match=rf"which network is this\?: expected a \.keras, \.h5.*found .*{found}"):
            guess_source(path)
    with pytest.raises(UserError, match="no such file: expected a"):
        guess_source(tmp_path / "nowhere.keras")


def test_a_recipe_states_its_own_facts() -> None:
    document = {
        "format": "keras",
        "file": "../w/net.h5",
        "licence": "MIT",
        "attribution": "me",
        "origin": "https://x.org/n",
    }
    source: Source = msgspec.convert(document, Source)
    assert isinstance(source, KerasSource)
    assert (source.url, source.licence, source.attribution) == ("https://x.org/n", "MIT", "me")
    with pytest.raises(msgspec.ValidationError, match="unknown field `sha`"):
        msgspec.convert({**document, "sha": "0"}, Source)


def test_a_file_is_looked_for_beside_the_recipe_unless_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "n.tflite").write_bytes(b"of the recipe")
    (tmp_path / "mine.tflite").write_bytes(b"given")
    source = TfliteSource(file="n.tflite")
    assert read_source(source, None, lambda name: tmp_path / "r" / name).only == b"of the recipe"
    assert read_source(source, tmp_path / "mine.tflite", lambda name: tmp_path / "r" / name).only == b"given"
    checked = TfliteSource(file="n.tflite", sha256=hashlib.sha256(b"of the recipe").hexdigest())
    with pytest.raises(UserError, match=r"mine\.tflite: not the file the recipe was made for: expected sha256"):
        read_source(checked, tmp_path / "mine.tflite")
    (tmp_path / "empty.tflite").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.tflite: empty file"):
        read_source(source, tmp_path / "empty.tflite")
    with pytest.raises(UserError, match=r"gone\.tflite: cannot be read: found No such file"):
        read_source(source, tmp_path / "gone.tflite")
