"""The normalisation that a third-party ``.tflite`` carries in its TFLite metadata, where it carries any.

The model's table of metadata names a buffer ``TFLITE_METADATA``, itself a flatbuffer (identifier ``M001``) whose first
input tensor may have ``NormalizationOptions``: ``mean`` and ``std``, one value or one a channel, in pixel units. Both
schemas are public (``schema.fbs`` of TensorFlow Lite, ``metadata_schema.fbs`` of TFLite Support); the few tables on the
way are read here, every offset checked against the file's end, for neither runtime brings a reader for the second.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_BUFFER_NAME: Final = b"TFLITE_METADATA"
_MAX_ITEMS: Final = 10_000  # in one vector; a bound on the work a hostile file can ask for

# field numbers in their tables
_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0
_ROOT_SUBGRAPHS = 3
_SUBGRAPH_INPUTS = 2
_TENSOR_PROCESS_UNITS = 4
_UNIT_TYPE, _UNIT_OPTIONS = 0, 1
_NORMALIZATION: Final = 1  # ProcessUnitOptions.NormalizationOptions
_MEAN, _STD = 0, 1


@dataclass(frozen=True, slots=True)
class Normalization:
    """``real = (pixel - mean) / std``; one value or one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class _BrokenError(Exception):
    """An offset leads out of the file."""


@dataclass(frozen=True, slots=True)
class _Table:
    data: bytes
    position: int

    def _unpack(self, form: str, position: int) -> int:
        try:
            return int(struct.unpack_from(form, self.data, position)[0])
        except struct.error:
            raise _BrokenError from None

    def field(self, number: int) -> int:
        """Where the field's value lies; 0 where the table has none."""
        vtable = self.position - self._unpack("<i", self.position)
        if vtable < 0 or 4 + 2 * number >= self._unpack("<H", vtable):
            return 0
        offset = self._unpack("<H", vtable + 4 + 2 * number)
        return self.position + offset if offset else 0

    def scalar(self, number: int, form: str) -> int:
        """0 where the table has none, which is the schema's default."""
        at = self.field(number)
        return self._unpack(form, at) if at else 0

    def table(self, number: int) -> _Table | None:
        at = self.field(number)
        return _Table(self.data, at + self._unpack("<I", at)) if at else None

    def _vector(self, number: int, item_bytes: int) -> tuple[int, int]:
        at = self.field(number)
        if not at:
            return 0, 0
        start = at + self._unpack("<I", at)
        count = self._unpack("<I", start)
        if start + 4 + count * item_bytes > len(self.data):
            raise _BrokenError
        return start + 4, count

    def tables(self, number: int) -> list[_Table]:
        start, count = self._vector(number, 4)
        if count > _MAX_ITEMS:
            raise _BrokenError
        places = [start + 4 * k for k in range(count)]
        return [_Table(self.data, at + self._unpack("<I", at)) for at in places]

    def bytes_(self, number: int) -> bytes:
        start, count = self._vector(number, 1)
        return self.data[start : start + count]

    def floats(self, number: int) -> tuple[float, ...]:
        start, count = self._vector(number, 4)
        if count > _MAX_ITEMS:
            raise _BrokenError
        return struct.unpack_from(f"<{count}f", self.data, start)


def read_normalization(model: bytes) -> Normalization | None:
    """Of the first input tensor; None where the file states none, or what it states cannot be read."""
    try:
        metadata = _metadata(model)
        if metadata is None:
            return None
        for subgraph in metadata.tables(_ROOT_SUBGRAPHS)[:1]:
            for tensor in subgraph.tables(_SUBGRAPH_INPUTS)[:1]:
                for unit in tensor.tables(_TENSOR_PROCESS_UNITS):
                    options = unit.table(_UNIT_OPTIONS)
                    if unit.scalar(_UNIT_TYPE, "<B") == _NORMALIZATION and options is not None:
                        return _checked(options.floats(_MEAN), options.floats(_STD))
    except _BrokenError:
        return None
    return None


def _metadata(model: bytes) -> _Table | None:
    if len(model) < 8:
        return None
    root = _Table(model, struct.unpack_from("<I", model)[0])
    buffers = root.tables(_MODEL_BUFFERS)
    for entry in root.tables(_MODEL_METADATA):
        index = entry.scalar(_METADATA_BUFFER, "<I")
        if entry.bytes_(_METADATA_NAME) == _BUFFER_NAME and index < len(buffers):
            inner = buffers[index].bytes_(_BUFFER_DATA)
            if inner[4:8] == b"M001":
                return _Table(inner, struct.unpack_from("<I", inner)[0])
    return None


def _checked(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization | None:
    fits = len(mean) in (1, 3) and len(std) in (1, 3)
    finite = all(abs(v) < 1e9 for v in mean + std) and all(v > 0 for v in std)
    return Normalization(mean, std) if fits and finite else None
