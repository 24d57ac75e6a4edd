"""A flatbuffer's tables, every offset checked against the file's end, and whether a TFLite model is all there.

The format is FlatBuffers' own ("Internals" of its documentation); the fields' numbers are those of ``schema.fbs`` of
TensorFlow Lite.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

_MAX_ITEMS: Final = 10_000  # in one vector of tables; a bound on the work a hostile file can ask for
_MAX_NAMED: Final = 12  # tensors of a line for people
_DTYPES: Final = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
)  # fmt: skip
_MAX_TABLES: Final = 100_000  # that are looked at before a model is called whole

# field numbers in their tables
_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS, _SUBGRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_SIGNATURE = 0, 1, 3, 7
_OPERATOR_INPUTS, _OPERATOR_OUTPUTS = 1, 2
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2


class BrokenError(Exception):
    """An offset leads out of the file."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ``data``, whose offset to its vtable lies at ``position``. Everything raises `BrokenError`."""

    data: bytes
    position: int

    def _unpack(self, form: str, position: int) -> int:
        try:
            return int(struct.unpack_from(form, self.data, position)[0])
        except struct.error:
            raise BrokenError from None

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

    def table(self, number: int) -> Table | None:
        """None where the table has none."""
        at = self.field(number)
        return Table(self.data, at + self._unpack("<I", at)) if at else None

    def vector(self, number: int, item_bytes: int) -> tuple[int, int]:
        """Where its items begin, all of them inside the file, and how many there are."""
        at = self.field(number)
        if not at:
            return 0, 0
        start = at + self._unpack("<I", at)
        count = self._unpack("<I", start)
        if start + 4 + count * item_bytes > len(self.data):
            raise BrokenError
        return start + 4, count

    def tables(self, number: int) -> list[Table]:
        """A vector of tables; empty where the table has none. More than 10,000 are none."""
        count = self.vector(number, 4)[1]
        if count > _MAX_ITEMS:
            raise BrokenError
        return list(self.each(number))

    def each(self, number: int) -> Iterator[Table]:
        """As `tables`, of any number, one after another."""
        start, count = self.vector(number, 4)
        for at in range(start, start + 4 * count, 4):
            yield Table(self.data, at + self._unpack("<I", at))

    def bytes_(self, number: int) -> bytes:
        """A vector of bytes, or text; empty where the table has none."""
        start, count = self.vector(number, 1)
        return self.data[start : start + count]

    def integers(self, number: int) -> tuple[int, ...]:
        """A vector of int32; empty where the table has none. More than 10,000 are none."""
        return self._numbers(number, "i")

    def floats(self, number: int) -> tuple[float, ...]:
        """A vector of float32; empty where the table has none. More than 10,000 are none."""
        return self._numbers(number, "f")

    def _numbers(self, number: int, form: str) -> tuple[Any, ...]:
        start, count = self.vector(number, 4)
        if count > _MAX_ITEMS:
            raise BrokenError
        return struct.unpack_from(f"<{count}{form}", self.data, start)


def is_whole(model: bytes) -> bool:
    """Whether the tensors, operators and weights that a TFLite model speaks of lie inside it: not so of one that is cut.

    That a runtime can run it is not said. Of a model of more than 100,000 tables the others are not looked at.
    """
    try:
        if len(model) < 8:
            return False
        tables = _tables(Table(model, struct.unpack_from("<I", model)[0]))
        return len(list(islice(tables, _MAX_TABLES))) > 0
    except BrokenError:
        return False


def _tables(model: Table) -> Iterator[Table]:
    """Those of a model that matter, the vectors of each looked at before it is given."""
    for code in model.each(_MODEL_CODES):
        code.field(0)
        yield code
    for buffer in model.each(_MODEL_BUFFERS):
        buffer.vector(_BUFFER_DATA, 1)
        # weights beyond 2 GB lie behind the flatbuffer
        if buffer.scalar(_BUFFER_OFFSET, "<Q") + buffer.scalar(_BUFFER_SIZE, "<Q") > len(model.data):
            raise BrokenError
        yield buffer
    for subgraph in model.each(_MODEL_SUBGRAPHS):
        subgraph.vector(_SUBGRAPH_INPUTS, 4)
        subgraph.vector(_SUBGRAPH_OUTPUTS, 4)
        yield subgraph
        for tensor in subgraph.each(_SUBGRAPH_TENSORS):
            tensor.vector(_TENSOR_SHAPE, 4)
            tensor.vector(_TENSOR_NAME, 1)
            yield tensor
        for operator in subgraph.each(_SUBGRAPH_OPERATORS):
            operator.vector(_OPERATOR_INPUTS, 4)
            operator.vector(_OPERATOR_OUTPUTS, 4)
            yield operator


def interface(model: bytes) -> str:
    """For people: what the network takes and gives, by number, name, dtype and shape; -1 for a size that is left open. ""
    where it cannot be read."""
    try:
        subgraph = Table(model, struct.unpack_from("<I", model)[0]).tables(_MODEL_SUBGRAPHS)[0]
        tensors = subgraph.tables(_SUBGRAPH_TENSORS)
        taken, given = (
            [_named(tensors[index]) for index in subgraph.integers(number)[:_MAX_NAMED]]
            for number in (_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS)
        )
    except (BrokenError, IndexError, struct.error):
        return ""
    outputs = ", ".join(f"{number}: {tensor}" for number, tensor in enumerate(given))
    return f"input {', '.join(taken)}; output {outputs}"


def _named(tensor: Table) -> str:
    kind = tensor.scalar(_TENSOR_TYPE, "<B")
    shape = list(tensor.integers(_TENSOR_SIGNATURE) or tensor.integers(_TENSOR_SHAPE))
    name = tensor.bytes_(_TENSOR_NAME)[-60:].decode("utf-8", "replace")
    return f"{name} {_DTYPES[kind] if kind < len(_DTYPES) else f'type {kind}'}{shape}"
