"""The normalisation that a third-party ``.tflite`` carries in its TFLite metadata, where it carries any.

The model's table of metadata names a buffer ``TFLITE_METADATA``, itself a flatbuffer (identifier ``M001``) whose first
input tensor may have ``NormalizationOptions``: ``mean`` and ``std``, one value or one a channel, in pixel units. Both
schemas are public (``schema.fbs`` of TensorFlow Lite, ``metadata_schema.fbs`` of TFLite Support); the few tables on the
way are read here, for neither runtime brings a reader for the second.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from .flatbuffer import BrokenError, Table

_BUFFER_NAME: Final = b"TFLITE_METADATA"

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
    except BrokenError:
        return None
    return None


def _metadata(model: bytes) -> Table | None:
    if len(model) < 8:
        return None
    root = Table(model, struct.unpack_from("<I", model)[0])
    buffers = root.tables(_MODEL_BUFFERS)
    for entry in root.tables(_MODEL_METADATA):
        index = entry.scalar(_METADATA_BUFFER, "<I")
        if entry.bytes_(_METADATA_NAME) == _BUFFER_NAME and index < len(buffers):
            inner = buffers[index].bytes_(_BUFFER_DATA)
            if inner[4:8] == b"M001":
                return Table(inner, struct.unpack_from("<I", inner)[0])
    return None


def _checked(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization | None:
    fits = len(mean) in (1, 3) and len(std) in (1, 3)
    finite = all(abs(v) < 1e9 for v in mean + std) and all(v > 0 for v in std)
    return Normalization(mean, std) if fits and finite else None
