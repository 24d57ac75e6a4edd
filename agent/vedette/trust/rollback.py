"""No way back: a bundle that is older than the one that ran here before is refused.

``STATE_DIR/models.json``, written whole or not at all, remembers the newest version that passed its self-test, by the
name in the manifest::

    {"versions": {"coco-ssdlite-mobilenet-v2": "1.2"}}

A signature says who made a bundle, not that it is the last one: without this, whoever can put files onto a device could
put back a bundle with a known weakness. The same version is no way back, whatever its content. Where two pipelines run two
versions of one name, the older one is refused from the next start on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vedette.contract.errors import BundleError, StateError
from vedette.durable import write_durably

FILE: Final = "models.json"
MAX_FILE: Final = 1024 * 1024  # bytes
MAX_NAMES: Final = 1024


class _Record(Struct, frozen=True, forbid_unknown_fields=True):
    versions: dict[str, str]


class Rollback:
    """See the module. Read when made; belongs to one thread."""

    def __init__(self, state_dir: Path) -> None:
        """Raises `StateError` where what is remembered cannot be read: nobody knows then what would be older."""
        self._path = state_dir / FILE
        self._versions = dict(_read(self._path))

    def check(self, name: str, version: str, where: object) -> None:
        """Raises `BundleError` for a version below the newest that has run."""
        newest = self._versions.get(name)
        if newest is not None and _parts(version) < _parts(newest):
            raise BundleError(
                "older than the one that ran here before", where=where, expected=f"{name} {newest} or newer",
                found=version, fix=f"if you mean it: take {name!r} out of {self._path}",
            )  # fmt: skip

    def note(self, models: Iterable[tuple[str, str]]) -> None:
        """These have passed their self-test here: name and version of each. Raises `StateError`."""
        newest = dict(self._versions)
        for name, version in models:
            if name not in newest or _parts(version) > _parts(newest[name]):
                newest[name] = version
        if newest == self._versions:
            return
        if len(newest) > MAX_NAMES:
            raise StateError(
                "too many models remembered", where=self._path, expected=f"at most {MAX_NAMES}", fix="take some out"
            )
        self._versions = newest
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._path, msgspec.json.encode(_Record(self._versions), order="sorted"))
        except OSError as error:
            raise StateError(
                "models cannot be remembered", where=self._path, found=error.strerror or str(error)
            ) from None


def _parts(version: str) -> tuple[int, ...]:
    """``1.2`` -> (1, 2, 0); what a manifest allows."""
    numbers = [int(part) for part in version.split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _read(path: Path) -> Mapping[str, str]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StateError("cannot be read", where=path, found=error.strerror or str(error)) from None
    try:
        if len(raw) > MAX_FILE:
            raise ValueError(f"more than {MAX_FILE} bytes")
        versions = msgspec.json.decode(raw, type=_Record).versions
        for version in versions.values():
            _parts(version)
    except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors, too
        raise StateError(
            "cannot be read, and passing over it would let an older model in", where=path, found=str(error),
            fix='write {"versions": {}} into it if every model there is may run',
        ) from None  # fmt: skip
    return versions
