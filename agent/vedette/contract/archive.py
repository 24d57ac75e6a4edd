"""The archive at the end of a bundle: a zip of stored members, in one form alone. Layout, byte for byte::

    flatbuffer (manifest.flatbuffer_bytes) | local header + data, a member each, in `ORDER` | central directory | end

It is canonical: fixed order, no compression, no extra fields, no comment, the date 1980-01-01, no gap and nothing behind
it. Python's `zipfile` reads such an archive but would also read a hundred others (it takes the last of two members of one
name, skips gaps and trailing bytes), so the few headers are written and compared here.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from .errors import BundleError

MiB: Final = 1024 * 1024
ORDER: Final[Mapping[str, int]] = {  # member -> its largest size in bytes
    "manifest.json": 1 * MiB,
    "labels.txt": 256 * 1024,
    "golden.npz": 64 * MiB,
    "edgetpu.tflite": 256 * MiB,
    "measurements.json": 1 * MiB,
    "manifest.sig": 4096,
}
MAX_FLATBUFFER: Final = 1024 * MiB

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_DOS_DATE: Final = (0 << 9) | (1 << 5) | 1  # 1980-01-01


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member stands. ``offset``: of its local header, in the file; ``size``: of its data, bytes; ``crc``: CRC-32."""

    name: str
    crc: int
    size: int
    offset: int

    def local_header(self) -> bytes:
        """What stands before its data."""
        name = self.name.encode()
        head = _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DOS_DATE, self.crc, self.size, self.size, len(name), 0)
        return head + name

    def central_header(self) -> bytes:
        """What the directory says of it."""
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
        """Of its first byte, in the file."""
        return self.offset + _LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        """Where the next member begins, or the directory."""
        return self.data_offset + self.size


def _end_record(count: int, directory_size: int, directory_offset: int) -> bytes:
    return _END.pack(b"PK\5\6", 0, 0, count, count, directory_size, directory_offset, 0)


def read_directory(file: BinaryIO, size: int, path: Path) -> dict[str, Member]:
    """The members by name, in their order; all of the archive's form is checked, of their data nothing.

    ``size``: of the file, bytes. Raises `BundleError`.
    """
    if size < _END.size + 16:
        raise BundleError("truncated", where=path, found=f"{size} bytes")
    end = read_exactly(file, size - _END.size, _END.size, path)
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
    directory = read_exactly(file, directory_offset, directory_size, path)
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
        if member.end > directory_offset or read_exactly(file, position, len(header), path) != header:
            raise BundleError("bad local header", where=f"{path}: {name}", expected="the central directory's values")
        position = member.end
    if position != directory_offset:
        raise BundleError(
            "gap in the archive", where=path, expected=f"central directory at {position}", found=f"{directory_offset}"
        )
    return members


def _parse_central(directory: bytes, count: int, path: Path) -> Iterator[Member]:
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
        member = Member(name, crc=values[7], size=values[9], offset=values[16])
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


def assemble(flatbuffer: bytes, everything: Mapping[str, bytes]) -> bytes:
    """A file of these members, whatever they hold: the same arguments, the same bytes."""
    if unknown := set(everything) - set(ORDER):
        raise ValueError(f"unknown members {sorted(unknown)}")
    out = io.BytesIO()
    out.write(flatbuffer)
    directory = b""
    written = [name for name in ORDER if name in everything]
    for name in written:
        data = everything[name]
        member = Member(name, zlib.crc32(data), len(data), out.tell())
        out.write(member.local_header())
        out.write(data)
        directory += member.central_header()
    directory_offset = out.tell()
    out.write(directory)
    out.write(_end_record(len(written), len(directory), directory_offset))
    return out.getvalue()


def read_exactly(file: BinaryIO, offset: int, size: int, path: Path) -> bytes:
    """So many bytes from there on. Raises `BundleError` where there are fewer."""
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise BundleError("truncated", where=path, expected=f"{size} bytes at {offset}", found=f"{len(data)}")
    return data


def read_member(file: BinaryIO, member: Member, path: Path) -> bytes:
    """Its data, unchecked. Raises `BundleError` where the file ends before it."""
    return read_exactly(file, member.data_offset, member.size, path)
