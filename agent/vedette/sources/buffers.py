"""Memory for frames, used again as soon as nobody holds it."""

from __future__ import annotations

import sys

import numpy as np

from vedette.contract.types import UInt8Array


class Buffers:
    """A few frame-sized arrays used again and again, for a new one each time costs page faults."""

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._arrays: list[UInt8Array] = []

    def free(self) -> UInt8Array | None:
        """One that nobody else holds, nor a view of it; None when there is none, and the reader then makes its own."""
        for array in self._arrays:
            if sys.getrefcount(array) <= 3:  # the list, the loop's variable, getrefcount's argument
                return array
        return None

    def sized(self, size_bytes: int) -> UInt8Array:
        """(size_bytes,) that nobody else holds, kept for later."""
        free = self.free()
        array = free if free is not None and len(free) == size_bytes else np.empty(size_bytes, np.uint8)
        self.keep(array)
        return array

    def keep(self, array: UInt8Array) -> None:
        """Remembers a reader's own array for later, if it is not known."""
        if any(known is array for known in self._arrays):
            return
        same_size = [known for known in self._arrays if known.shape == array.shape]
        self._arrays = [*same_size[-(self._most - 1) :], array]
