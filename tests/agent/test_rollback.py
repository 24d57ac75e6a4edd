"""What is remembered of the models that ran, and what it forbids."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_trust import KEY, configured, sign

from tiny import FAKE_FLATBUFFER, Parts, fake_parts, make_manifest
from vedette.config import load_config
from vedette.contract.errors import BundleError, StateError
from vedette.service.compose import prepare, remember_versions
from vedette.trust.rollback import FILE, MAX_NAMES, Rollback
from vedette.trust.signatures import public_pem


def signed_bundle(path: Path, version: str, name: str = "tiny") -> Path:
    parts = fake_parts()
    manifest = make_manifest(FAKE_FLATBUFFER, parts.members, version=version, name=name)
    path.write_bytes(Parts(FAKE_FLATBUFFER, manifest, parts.members).bytes())
    sign(path)
    return path


def test_an_older_version_is_refused_the_same_and_a_newer_one_are_not(tmp_path: Path) -> None:
    Rollback(tmp_path).note([("person", "1.2"), ("dog", "3")])
    rollback = Rollback(tmp_path)
    for version in ("1.2", "1.2.0", "1.2.1", "1.10", "2"):
        rollback.check("person", version, "p")
    for version in ("1.1", "1.1.9", "1", "0.9.9"):
        with pytest.raises(BundleError, match="older than the one that ran here before") as caught:
            rollback.check("person", version, "p")
        assert str(tmp_path / FILE) in str(caught.value)
    rollback.check("cat", "0", "p")


def test_what_is_remembered_never_goes_down(tmp_path: Path) -> None:
    Rollback(tmp_path).note([("person", "2.0"), ("person", "1.0")])
    Rollback(tmp_path).note([("person", "1.5")])
    Rollback(tmp_path).check("person", "2.0", "p")
    with pytest.raises(BundleError):
        Rollback(tmp_path).check("person", "1.9", "p")


def test_the_file_is_there_whole_for_its_owner_alone_and_written_only_for_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    Rollback(state).note([("person", "1.2")])
    file = state / FILE
    assert file.read_bytes() == b'{"versions":{"person":"1.2"}}'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [p.name for p in state.iterdir()] == [FILE]
    inode = file.stat().st_ino
    Rollback(state).note([("person", "1.2"), ("person", "1.1")])
    assert file.stat().st_ino == inode
    # the power goes before the rename: the old content is still there
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(StateError, match="Input/output error"):
        Rollback(state).note([("person", "1.3")])
    assert file.read_bytes() == b'{"versions":{"person":"1.2"}}'


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"versions":{"a":1}}', b'{"versions":{"a":"x"}}', b'{"versions":{},"more":1}', b"\xff",
     b'{"versions":{"a":"' + b"9" * 5000 + b'"}}', b'{"versions":{"a":""}}', b" " * 1_100_000],
)  # fmt: skip
def test_a_damaged_memory_is_no_open_door(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StateError, match="older model") as caught:
        Rollback(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value) and len(str(caught.value)) < 1000


@given(content=st.binary(max_size=100))
def test_no_bytes_crash_the_reader(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / FILE).write_bytes(content)
    with pytest.raises(StateError):
        Rollback(folder)


def test_how_many_models_are_remembered_is_bounded(tmp_path: Path) -> None:
    Rollback(tmp_path).note((f"m{number}", "1") for number in range(MAX_NAMES))
    with pytest.raises(StateError, match="too many"):
        Rollback(tmp_path).note([("one-more", "1")])


def test_a_configuration_that_forbids_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "site.pub").write_bytes(public_pem(KEY.public()))
    bundle = signed_bundle(tmp_path / "person.tflite", "1.2.0")
    path = configured(tmp_path, bundle, f'keys = ["{tmp_path}/site.pub"]\nno_rollback = true')
    config = load_config(path)

    def prepared() -> Any:
        return prepare(config, path)

    remember_versions(config, prepared())
    signed_bundle(bundle, "1.1.9")
    with pytest.raises(BundleError, match=r"expected tiny 1\.2\.0 or newer, found 1\.1\.9"):
        prepared()
    signed_bundle(bundle, "1.1.9", name="another")
    prepared()
    signed_bundle(bundle, "1.3.0")
    # preparing alone (`vedette check`, a reload) remembers nothing: a bundle counts when its self-test has passed
    prepared()
    signed_bundle(bundle, "1.2.0")
    prepared()


def test_nothing_is_remembered_unless_it_is_asked_for(tmp_path: Path) -> None:
    bundle = signed_bundle(tmp_path / "person.tflite", "1.2.0")
    path = configured(tmp_path, bundle, "")
    config = load_config(path)
    remember_versions(config, prepare(config, path))
    assert not (Path(config.state_dir) / FILE).exists()
