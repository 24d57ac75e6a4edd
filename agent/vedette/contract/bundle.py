"""A bundle: one ordinary ``.tflite`` file, the flatbuffer at offset 0, then a zip archive of stored members.

Any TFLite runtime loads the file as it is; ``unzip -l`` lists what is inside. Layout, byte for byte::

    flatbuffer (manifest.flatbuffer_bytes) | local header + data, a member each, in `ORDER` | central directory | end

The archive is canonical: fixed order, no compression, no extra fields, no comment, the date 1980-01-01, no gap and
nothing behind it. Python's `zipfile` reads such an archive but would also read a hundred others (it takes the last of
two members of one name, skips gaps and trailing bytes), so the few headers are written and compared here.

Opening checks, in this order: sizes, the archive's form, the signature where the caller has keys, the manifest's syntax,
the digests. Every failure is one `BundleError` with the file, the field, what was expected and what was found. No member's
name is ever used as a path.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import msgspec

from . import manifest as manifest_module
from .errors import BundleError, ModelError
from .labels import parse_labels
from .manifest import Manifest

MiB: Final = 1024 * 1024
ORDER: Final[Mapping[str, int]] = {  # member -> its largest size in bytes
    "manifest.json": 1 * MiB,
    "labels.txt": 256 * 1024,
    "golden.npz": 64 * MiB,
    "edgetpu.tflite": 256 * MiB,
    "measurements.json": 1 * MiB,
    "manifest.sig": 4096,
}
REQUIRED: Final = ("manifest.json", "labels.txt", "golden.npz")
OUTSIDE_DIGEST: Final = frozenset({"manifest.json", "measurements.json", "manifest.sig"})
MAX_FLATBUFFER: Final = 1024 * MiB

Verify: TypeAlias = Callable[[bytes, bytes | None, str], object]
"""Looks at a manifest's raw bytes and ``manifest.sig``, None without one, of the file named; raises `BundleError`."""

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_DOS_DATE: Final = (0 << 9) | (1 << 5) | 1  # 1980-01-01


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    crc: int
    size: int
    offset: int  # of its local header, in the file

    def local_header(self) -> bytes:
        name = self.name.encode()
        head = _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DOS_DATE, self.crc, self.size, self.size, len(name), 0)
        return head + name

    def central_header(self) -> bytes:
        name = self.name.encode()
        # made by: Unix (3), zip 2.0; external attributes: a plain file, rw-r--r--
        return (
            _CENTRAL.pack(
                b"PK\1\2", (3 << 8) | 20, 20, 0, 0, 0, _DOS_DATE, self.crc, self.size, self.size,
                len(name), 0, 0, 0, 0, 0o100644 << 16, self.offset,
            )
            + name
        )  # fmt: skip

    @property
    def data_offset(self) -> int:
        return self.offset + _LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        return self.data_offset + self.size


def _end_record(count: int, directory_size: int, directory_offset: int) -> bytes:
    return _END.pack(b"PK\5\6", 0, 0, count, count, directory_size, directory_offset, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: everything was checked but the golden vectors' contents, which are read when asked for."""

    path: Path
    manifest: Manifest
    labels: tuple[str, ...]
    sha256: str
    """Over the manifest's raw bytes, which name the digest of all the rest: the identity of this content."""
    _members: Mapping[str, _Member]

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
                data = _read_exactly(file, member.data_offset, member.size, self.path)
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
    members = _read_directory(file, size, path)
    for name in REQUIRED:
        if name not in members:
            raise BundleError("member missing", where=path, expected=f"{name} in the appended archive")
    raw = {name: _read_member(file, members[name], path) for name in ("manifest.json", "labels.txt")}
    if verify is not None:
        signature = members.get("manifest.sig")
        signed = None if signature is None else _read_member(file, signature, path)
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


def _read_exactly(file: BinaryIO, offset: int, size: int, path: Path) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise BundleError("truncated", where=path, expected=f"{size} bytes at {offset}", found=f"{len(data)}")
    return data


def _read_directory(file: BinaryIO, size: int, path: Path) -> dict[str, _Member]:
    if size < _END.size + 16:
        raise BundleError("truncated", where=path, found=f"{size} bytes")
    end = _read_exactly(file, size - _END.size, _END.size, path)
    signature, _, _, _, count, directory_size, directory_offset, _ = _END.unpack(end)
    if signature != b"PK\5\6":
        raise BundleError(
            "no archive at its end", where=path, expected="the end record of a zip archive in the last 22 bytes",
            found="other bytes: truncated, or something was appended", fix="get it again",
        )  # fmt: skip
    if not 1 <= count <= len(ORDER):
        raise BundleError("bad archive", where=path, expected=f"1 to {len(ORDER)} members", found=f"{count}")
    if end != _end_record(count, directory_size, directory_offset):
        raise BundleError("bad archive", where=path, expected="one disk, no comment", found="another end record")
    largest = sum(_CENTRAL.size + len(name) for name in ORDER)
    if directory_size > largest or directory_offset + directory_size != size - _END.size:
        raise BundleError(
            "bad archive", where=path, expected="a central directory right before the end record",
            found=f"{directory_size} bytes at {directory_offset} of {size}",
        )  # fmt: skip
    directory = _read_exactly(file, directory_offset, directory_size, path)
    members = {member.name: member for member in _parse_central(directory, count, path)}
    names = list(members)
    if len(names) != count:
        raise BundleError("bad archive", where=path, expected="each member once", found="a duplicate name")
    if names != [name for name in ORDER if name in members]:
        raise BundleError("bad archive", where=path, expected="members in order " + ", ".join(ORDER), found=str(names))
    position = next(iter(members.values())).offset
    if not 16 <= position <= MAX_FLATBUFFER:
        raise BundleError("bad archive", where=path, expected="an archive behind the flatbuffer", found=f"{position}")
    for name, member in members.items():
        if member.size > ORDER[name]:
            raise BundleError(
                "member too large", where=f"{path}: {name}", expected=f"at most {ORDER[name]} bytes",
                found=f"{member.size}",
            )  # fmt: skip
        if member.offset != position:
            raise BundleError(
                "gap in the archive", where=f"{path}: {name}", expected=f"offset {position}", found=f"{member.offset}"
            )
        header = member.local_header()
        if member.end > directory_offset or _read_exactly(file, position, len(header), path) != header:
            raise BundleError("bad local header", where=f"{path}: {name}", expected="the central directory's values")
        position = member.end
    if position != directory_offset:
        raise BundleError(
            "gap in the archive", where=path, expected=f"central directory at {position}", found=f"{directory_offset}"
        )
    return members


def _parse_central(directory: bytes, count: int, path: Path) -> Iterator[_Member]:
    position = 0
    for _ in range(count):
        fields = directory[position : position + _CENTRAL.size]
        if len(fields) < _CENTRAL.size or fields[:4] != b"PK\1\2":
            raise BundleError("bad archive", where=path, expected=f"{count} central headers", found="fewer")
        values = _CENTRAL.unpack(fields)
        raw_name = directory[position + _CENTRAL.size : position + _CENTRAL.size + values[10]]
        name = raw_name.decode("ascii", "replace")
        if name not in ORDER:
            raise BundleError("unknown member", where=path, expected="one of " + ", ".join(ORDER), found=repr(name))
        member = _Member(name, crc=values[7], size=values[9], offset=values[16])
        header = member.central_header()
        if directory[position : position + len(header)] != header:
            raise BundleError(
                "bad central header", where=f"{path}: {name}", expected="a stored member without extra fields"
            )
        position += len(header)
        yield member
    if position != len(directory):
        raise BundleError(
            "bad archive", where=path, expected=f"{position} bytes of directory", found=f"{len(directory)}"
        )


def _read_member(file: BinaryIO, member: _Member, path: Path) -> bytes:
    return _read_exactly(file, member.data_offset, member.size, path)


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
    return _assemble(flatbuffer, {"manifest.json": manifest_module.encode(manifest), **members})


def with_signature(bundle: Bundle, signature: bytes) -> bytes:
    """The bundle's bytes with this ``manifest.sig`` in the place of any other; nothing else changes, its sha256 neither.

    Raises `BundleError` where the file is not what it was when it was opened.
    """
    members = {name: bundle.read(name) for name in bundle.members}
    try:
        with bundle.path.open("rb") as file:
            flatbuffer = _read_exactly(file, 0, bundle.manifest.flatbuffer_bytes, bundle.path)
    except OSError as error:
        raise BundleError("cannot be read", where=bundle.path, found=error.strerror or str(error)) from None
    found = hashlib.sha256(flatbuffer).hexdigest()
    _expect_digest(found, bundle.manifest.flatbuffer_sha256, f"{bundle.path}: flatbuffer")
    _expect_digest(hashlib.sha256(members["manifest.json"]).hexdigest(), bundle.sha256, f"{bundle.path}: manifest.json")
    return _assemble(flatbuffer, {**members, "manifest.sig": signature})


def _assemble(flatbuffer: bytes, everything: Mapping[str, bytes]) -> bytes:
    if unknown := set(everything) - set(ORDER):
        raise ValueError(f"unknown members {sorted(unknown)}")
    out = io.BytesIO()
    out.write(flatbuffer)
    directory = b""
    written = [name for name in ORDER if name in everything]
    for name in written:
        data = everything[name]
        member = _Member(name, zlib.crc32(data), len(data), out.tell())
        out.write(member.local_header())
        out.write(data)
        directory += member.central_header()
    directory_offset = out.tell()
    out.write(directory)
    out.write(_end_record(len(written), len(directory), directory_offset))
    return out.getvalue()


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
