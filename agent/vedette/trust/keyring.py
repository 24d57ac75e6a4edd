"""Key files: where they lie, and what is in them. `vedette.trust.signatures` knows what a key is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vedette.contract.errors import KeyFileError

if TYPE_CHECKING:
    # libsodium costs memory, and is loaded where there are keys
    from .signatures import PrivateKey, Trust

MAX_KEYS: Final = 64
SUFFIX: Final = ".pub"


def load_trust(paths: Sequence[str | Path], *, require: bool = True) -> Trust | None:
    """The keys of these files, and of all ``*.pub`` in these folders; None where no path is given.

    Raises `KeyFileError` where a file is no key, and where a folder holds none: who names keys wants to be protected.
    """
    if not paths:
        return None
    from .signatures import Trust, read_public_key

    files: list[Path] = []
    for path in map(Path, paths):
        try:
            inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else None
        except OSError as error:
            raise KeyFileError("cannot be read", where=path, found=error.strerror or str(error)) from None
        if inside is not None:
            if not inside:
                raise KeyFileError("no keys", where=path, expected=f"files that end with {SUFFIX}", found="none")
            files += inside
        else:
            files.append(path)
    if len(files) > MAX_KEYS:
        raise KeyFileError("too many keys", where=files[0].parent, expected=f"at most {MAX_KEYS}", found=len(files))
    return Trust(tuple(read_public_key(read_key_file(file), str(file)) for file in files), require)


def load_private_key(path: Path) -> PrivateKey:
    """Raises `KeyFileError`."""
    from .signatures import read_private_key

    return read_private_key(read_key_file(path), str(path))


def read_key_file(path: Path) -> bytes:
    """The bytes, one more at most than a key file may have. Raises `KeyFileError`."""
    from .signatures import MAX_PEM

    try:
        with path.open("rb") as file:
            return file.read(MAX_PEM + 1)
    except OSError as error:
        raise KeyFileError("cannot be read", where=path, found=error.strerror or str(error)) from None
