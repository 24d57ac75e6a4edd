"""Memory for frames, used again as soon as nobody holds it."""

from __future__ import annotations

import sys

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

    def keep(self, array: UInt8Array) -> None:
        """Remembers a reader's own array for later, if it is not known."""
        if any(known is array for known in self._arrays):
            return
        same_size = [known for known in self._arrays if known.shape == array.shape]
        self._arrays = [*same_size[-(self._most - 1) :], array]
