"""A bundle: one ordinary ``.tflite`` file, the flatbuffer at offset 0, then a zip archive of stored members.

Any TFLite runtime loads the file as it is; ``unzip -l`` lists what is inside. Layout, byte for byte, and the bounds on
sizes: `vedette.contract.archive`.

Opening checks, in this order: sizes, the archive's form, the signature where the caller has keys, the manifest's syntax,
the digests. Every failure is one `BundleError` with the file, the field, what was expected and what was found. No member's
name is ever used as a path.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import msgspec

from . import manifest as manifest_module
from .archive import MAX_FLATBUFFER as MAX_FLATBUFFER
from .archive import ORDER, Member, MiB, assemble, read_directory, read_exactly, read_member
from .errors import BundleError, ModelError
from .labels import parse_labels
from .manifest import Manifest

REQUIRED: Final = ("manifest.json", "labels.txt", "golden.npz")
OUTSIDE_DIGEST: Final = frozenset({"manifest.json", "measurements.json", "manifest.sig"})

Verify: TypeAlias = Callable[[bytes, bytes | None, str], object]
"""Looks at a manifest's raw bytes and ``manifest.sig``, None without one, of the file named; raises `BundleError`."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: everything was checked but the golden vectors' contents, which are read when asked for."""

    path: Path
    manifest: Manifest
    labels: tuple[str, ...]
    sha256: str
    """Over the manifest's raw bytes, which name the digest of all the rest: the identity of this content."""
    _members: Mapping[str, Member]

    @property
    def members(self) -> Mapping[str, int]:
        """Sizes in bytes by name, in the archive's order."""
        return {name: member.size for name, member in self._members.items()}

    def read(self, name: str) -> bytes:
        """One member's bytes, its digest checked once more, for the file may have changed since it was opened.

        Raises `KeyError` where the bundle has no such member, `BundleError` where it is not what it was.
        """
        member = self._members[name]
        try:
            with self.path.open("rb") as file:
                data = read_member(file, member, self.path)
        except OSError as error:
            raise BundleError("cannot be read", where=self.path, found=error.strerror or str(error)) from None
        if zlib.crc32(data) != member.crc:
            raise BundleError("changed while it was in use", where=f"{self.path}: {name}")
        expected = self.manifest.members.get(name)
        if expected is not None:
            _expect_digest(hashlib.sha256(data).hexdigest(), expected, f"{self.path}: {name}")
        return data

    def flatbuffer(self) -> bytes:
        """The network, its digest checked once more. Raises `BundleError` where it is not what it was."""
        try:
            with self.path.open("rb") as file:
                data = file.read(self.manifest.flatbuffer_bytes)
        except OSError as error:
            raise BundleError("cannot be read", where=self.path, found=error.strerror or str(error)) from None
        if hashlib.sha256(data).hexdigest() != self.manifest.flatbuffer_sha256:
            raise BundleError("changed while it was in use", where=f"{self.path}: flatbuffer")
        return data

    def measurements(self) -> Any:
        """What ``measurements.json`` says, which no digest covers; None where there is none. Raises `BundleError`."""
        if "measurements.json" not in self._members:
            return None
        try:
            return msgspec.json.decode(self.read("measurements.json"))
        except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors, too
            raise BundleError(
                "measurements cannot be read", where=f"{self.path}: measurements.json", found=error
            ) from None


def open_bundle(path: str | os.PathLike[str], verify: Verify | None = None) -> Bundle:
    """Opens and checks a bundle. Raises `BundleError`, or `ModelError` where the file is no bundle at all.

    ``verify``: judges the signature before anything of the manifest is believed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _open(file, path, verify)
    except OSError as error:
        raise ModelError("cannot be read", where=path, found=error.strerror or str(error)) from None


def _open(file: BinaryIO, path: Path, verify: Verify | None) -> Bundle:
    size = check_flatbuffer_head(file, path)
    members = read_directory(file, size, path)
    for name in REQUIRED:
        if name not in members:
            raise BundleError("member missing", where=path, expected=f"{name} in the appended archive")
    raw = {name: read_member(file, members[name], path) for name in ("manifest.json", "labels.txt")}
    if verify is not None:
        signature = members.get("manifest.sig")
        signed = None if signature is None else read_member(file, signature, path)
        verify(raw["manifest.json"], signed, f"{path}: manifest.sig")
    manifest = _parse_manifest(raw["manifest.json"], path)
    first = next(iter(members.values())).offset
    if manifest.flatbuffer_bytes != first:
        raise BundleError(
            "gap between flatbuffer and archive",
            where=f"{path}: manifest.json: $.flatbuffer_bytes",
            expected=f"{first}, where the archive starts",
            found=f"{manifest.flatbuffer_bytes}",
        )
    covered = set(members) - OUTSIDE_DIGEST
    if set(manifest.members) != covered:
        raise BundleError(
            "members do not match the archive",
            where=f"{path}: manifest.json: $.members",
            expected=", ".join(sorted(covered)),
            found=", ".join(sorted(manifest.members)) or "none",
        )
    _expect_digest(_digest(file, 0, first, path)[0], manifest.flatbuffer_sha256, f"{path}: flatbuffer")
    for name, member in members.items():
        digest, crc = _digest(file, member.data_offset, member.size, path)
        if name in manifest.members:
            _expect_digest(digest, manifest.members[name], f"{path}: {name}")
        if crc != member.crc:
            raise BundleError(
                "damaged", where=f"{path}: {name}", expected=f"CRC-32 {member.crc:08x}", found=f"{crc:08x}"
            )
    try:
        labels = parse_labels(raw["labels.txt"], f"{path}: labels.txt")
    except ModelError as error:
        raise BundleError(error.problem, where=error.where, expected=error.expected, found=error.found) from None
    identity = hashlib.sha256(raw["manifest.json"]).hexdigest()
    return Bundle(path, manifest, labels, identity, members)


def check_flatbuffer_head(file: BinaryIO, path: Path) -> int:
    """The file's size in bytes. Raises `ModelError` unless a TFLite flatbuffer stands at its start."""
    size = file.seek(0, os.SEEK_END)
    if size > MAX_FLATBUFFER + sum(ORDER.values()):
        raise ModelError("file too large", where=path, expected=f"at most {MAX_FLATBUFFER} bytes", found=f"{size}")
    file.seek(0)
    head = file.read(8)
    if head[4:8] != b"TFL3":
        raise ModelError(
            "no TFLite model",
            where=path,
            expected="a flatbuffer with the identifier TFL3",
            found="an empty file" if not head else f"{head!r}",
            fix="convert it with vedette-convert, or give another file",
        )
    return size


def has_archive(path: Path) -> bool:
    """Whether the file carries a manifest, whole or not. Raises `ModelError` where it is no TFLite model at all."""
    try:
        with path.open("rb") as file:
            size = check_flatbuffer_head(file, path)
            marker = b"manifest.json"
            step = 4 * MiB
            position = max(0, size - step)
            while True:
                file.seek(position)
                block = file.read(step + 30 + len(marker))
                at = block.find(marker)
                while at >= 0:
                    if at >= 30 and block[at - 30 : at - 26] == b"PK\3\4":
                        return True
                    at = block.find(marker, at + 1)
                if position == 0:
                    return False
                position = max(0, position - step)
    except OSError as error:
        raise ModelError("cannot be read", where=path, found=error.strerror or str(error)) from None


def _parse_manifest(raw: bytes, path: Path) -> Manifest:
    try:
        return manifest_module.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError("bad manifest", where=f"{path}: manifest.json", found=str(error)) from None


def _digest(file: BinaryIO, offset: int, size: int, path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    crc = 0
    file.seek(offset)
    left = size
    while left:
        block = file.read(min(left, MiB))
        if not block:
            raise BundleError("truncated", where=path, expected=f"{size} bytes at {offset}", found=f"{size - left}")
        digest.update(block)
        crc = zlib.crc32(block, crc)
        left -= len(block)
    return digest.hexdigest(), crc


def _expect_digest(found: str, expected: str, where: str) -> None:
    if found != expected:
        raise BundleError("digest does not match", where=where, expected=f"sha256 {expected}", found=found)


def pack(flatbuffer: bytes, manifest: Manifest, members: Mapping[str, bytes]) -> bytes:
    """The bundle's bytes: the same arguments, the same bytes.

    ``members``: all but ``manifest.json``. The manifest's digests must already be right: `digests` makes them.
    """
    return assemble(flatbuffer, {"manifest.json": manifest_module.encode(manifest), **members})


def with_signature(bundle: Bundle, signature: bytes) -> bytes:
    """The bundle's bytes with this ``manifest.sig`` in the place of any other; nothing else changes, its sha256 neither.

    Raises `BundleError` where the file is not what it was when it was opened.
    """
    members = {name: bundle.read(name) for name in bundle.members}
    try:
        with bundle.path.open("rb") as file:
            flatbuffer = read_exactly(file, 0, bundle.manifest.flatbuffer_bytes, bundle.path)
    except OSError as error:
        raise BundleError("cannot be read", where=bundle.path, found=error.strerror or str(error)) from None
    found = hashlib.sha256(flatbuffer).hexdigest()
    _expect_digest(found, bundle.manifest.flatbuffer_sha256, f"{bundle.path}: flatbuffer")
    _expect_digest(hashlib.sha256(members["manifest.json"]).hexdigest(), bundle.sha256, f"{bundle.path}: manifest.json")
    return assemble(flatbuffer, {**members, "manifest.sig": signature})


def digests(members: Mapping[str, bytes]) -> dict[str, str]:
    """What a manifest's ``members`` must say of these."""
    return {
        name: hashlib.sha256(members[name]).hexdigest()
        for name in ORDER
        if name in members and name not in OUTSIDE_DIGEST
    }


def write_bundle(path: Path, flatbuffer: bytes, manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle so that it is there whole or not at all, and opens it as anyone would.

    Raises `BundleError` where what was written would not be accepted, before the name is taken.
    """
    return write_packed(path, pack(flatbuffer, manifest, members))


def write_packed(path: Path, data: bytes) -> Bundle:
    """As `write_bundle`, of a bundle's bytes."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        open_bundle(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return open_bundle(path)


def third_party_archive(path: Path) -> dict[str, bytes]:
    """Small text members of a zip that somebody else appended (TFLite metadata's associated files); {} without one."""
    limit = ORDER["labels.txt"]
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for entry in archive.infolist()[:16]:
                if entry.file_size <= limit and entry.filename.endswith(".txt"):
                    with archive.open(entry) as member:
                        # `ZipFile.read` would inflate all there is before it cuts it to the size the entry claims
                        found[entry.filename] = member.read(limit)
            return found
    except (zipfile.BadZipFile, OSError, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, RuntimeError,
            EOFError, ValueError, KeyError):  # fmt: skip
        return {}
