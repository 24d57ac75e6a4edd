"""The same network in fewer bytes, for any reader.

Of a small network no small part of the file is not weights: each channel has a zero point of eight bytes, which is 0, and
so has its bias; and each tensor has the names of all the ops that were folded into it. Nothing that runs depends on either
being written out again.
"""

from __future__ import annotations

from typing import Any, Final

import flatbuffers
import numpy as np
from numpy.typing import NDArray

_ALIGNMENT: Final = 16  # of constants: ``force_align`` in the schema, which flatbuffers' Python writer does not heed


class _Sharing(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers ships no types
    """Writes equal vectors and equal strings once: offsets may point to the same place."""

    def __init__(self) -> None:
        super().__init__(1024)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802
        """See `flatbuffers.Builder`."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            if x.dtype == np.uint8:
                self.Prep(_ALIGNMENT, x.nbytes)
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]

    def CreateString(self, s: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        """See `flatbuffers.Builder`."""
        key = ("string", s if isinstance(s, bytes) else s.encode(encoding, errors))
        if key not in self._written:
            self._written[key] = super().CreateString(s, encoding, errors)
        return self._written[key]


def compact(flatbuffer: bytes) -> bytes:
    """The same network: ops, tensors, weights and computed tensors' names as they were.

    Equal vectors and strings are written once; a constant that is called after several folded ops is called after the
    first alone; constants lie inside the flatbuffer, at multiples of 16 bytes. ai-edge-quantizer puts them behind it:
    TFLite reads such offsets since 2.14, and older readers, among them the Edge TPU's compiler, would find no weights.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    # the reader fetches what lies behind and forgets the offsets
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)  # what is no array is packed byte by byte, in seconds
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            if model.buffers[tensor.buffer].data is not None and tensor.name is not None:
                tensor.name = tensor.name.split(b";" if isinstance(tensor.name, bytes) else ";")[0]
    builder = _Sharing()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
