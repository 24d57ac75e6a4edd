"""Readings without gaps -> samples at one rate -> the windows cut out of them. `vedette.contract.window` is in front."""

from __future__ import annotations

from typing import Final

import numpy as np

from .manifest import SeriesInput
from .types import Float32Array, Int64Array, Tensor, Window

PENDING: Final = 1024  # readings that wait for the end of their window before they are resampled, at most
PIECE_CELLS: Final = 1 << 18  # values resampled at once: 2 MB a temporary array


class Samples:
    """Samples in their order, and the windows cut out of them.

    They are written into a buffer of two windows once and never again, so that windows are views of it; when it is full,
    a new one takes over what the next window needs of it.
    """

    def __init__(self, length: int, channels: int, stride: int) -> None:
        self._length, self._stride = length, stride
        self._values = np.empty((max(2 * length, length + 256), channels), np.float32)
        self._times_ns = np.empty(len(self._values), np.int64)
        self._end = 0  # of what is written
        self._begin = 0  # of the next window, maybe behind the end
        self.windows = 0

    @property
    def missing(self) -> int:
        """How many more complete the next window."""
        return self._begin + self._length - self._end

    def begin_anew(self) -> None:
        """The next window begins with the next sample."""
        self._begin = self._end

    def add(self, values: Tensor, times_ns: Int64Array, arrived_ns: int, windows: list[Window]) -> None:
        """Appends samples, (n, channels), and to ``windows`` those that they complete."""
        done = 0
        while done < len(values):
            if self._end == len(self._values):
                self._renew()
            count = min(len(values) - done, len(self._values) - self._end)
            self._values[self._end : self._end + count] = values[done : done + count]
            self._times_ns[self._end : self._end + count] = times_ns[done : done + count]
            self._end += count
            done += count
            while self._begin + self._length <= self._end:
                windows.append(self._cut(arrived_ns))
                self._begin += self._stride

    def _cut(self, arrived_ns: int) -> Window:
        begin, end = self._begin, self._begin + self._length
        view = self._values[begin:end]
        view.setflags(write=False)
        self.windows += 1
        return Window(self.windows, arrived_ns, int(self._times_ns[begin]), int(self._times_ns[end - 1]), view)

    def _renew(self) -> None:
        kept = slice(min(self._begin, self._end), self._end)
        values, times_ns = self._values[kept], self._times_ns[kept]
        self._values, self._times_ns = np.empty_like(self._values), np.empty_like(self._times_ns)
        self._values[: len(values)] = values
        self._times_ns[: len(values)] = times_ns
        self._begin = max(0, self._begin - self._end)
        self._end = len(values)


class Resampler:
    """Readings without gaps -> samples at one rate. Works when a window can be completed, or too many readings wait."""

    def __init__(self, spec: SeriesInput, period_ns: float, samples: Samples) -> None:
        self._period_ns = period_ns
        self._linear = spec.interpolation == "linear"
        self._samples = samples
        # the first is the one before those that wait
        self._values = np.empty((PENDING + 1, len(spec.channels)), np.float32)
        self._times_ns = np.empty(PENDING + 1, np.int64)
        self._count = 0  # 0: nothing has come since the beginning
        self._origin_ns = 0  # of the first sample
        self._next = 0  # number of the next sample

    def begin_anew(self) -> None:
        """The next reading is the first sample."""
        self._count = 0

    def add(self, values: Float32Array, times_ns: Int64Array, arrived_ns: int, windows: list[Window]) -> None:
        """Takes readings, and appends to ``windows`` those that they complete."""
        done = 0
        if self._count == 0:
            self._values[0], self._times_ns[0] = values[0], times_ns[0]
            self._origin_ns = int(times_ns[0])
            self._count = self._next = done = 1
            self._samples.add(values[:1], times_ns[:1], arrived_ns, windows)
        while done < len(values):
            count = min(len(values) - done, len(self._values) - self._count)
            end = self._count + count
            self._values[self._count : end] = values[done : done + count]
            self._times_ns[self._count : end] = times_ns[done : done + count]
            self._count = end
            done += count
            due_ns = (self._next + self._samples.missing - 1) * self._period_ns
            if end == len(self._values) or int(times_ns[done - 1]) - self._origin_ns >= due_ns - 1:
                self._resample(arrived_ns, windows)

    def _resample(self, arrived_ns: int, windows: list[Window]) -> None:
        """Makes every sample up to the last reading, which stays as the one before those to come."""
        times_ns = self._times_ns[: self._count] - self._origin_ns
        last_ns = int(times_ns[-1])
        stop = int(last_ns / self._period_ns) + 2
        piece = max(1, PIECE_CELLS // self._values.shape[1])
        for first in range(self._next, stop, piece):
            number = np.arange(first, min(first + piece, stop))
            at_ns = np.rint(number * self._period_ns).astype(np.int64)
            at_ns = at_ns[: np.searchsorted(at_ns, last_ns, "right")]
            after = np.searchsorted(times_ns, at_ns)  # the first reading that is not earlier
            if self._linear:
                earlier_ns, later_ns = times_ns[after - 1], times_ns[after]
                share = ((at_ns - earlier_ns) / (later_ns - earlier_ns))[:, None]
                values: Tensor = self._values[after - 1] * (1.0 - share) + self._values[after] * share
            else:
                values = self._values[np.where(times_ns[after] == at_ns, after, after - 1)]
            self._next += len(at_ns)
            self._samples.add(values, at_ns + self._origin_ns, arrived_ns, windows)
        self._values[0], self._times_ns[0] = self._values[self._count - 1], self._times_ns[self._count - 1]
        self._count = 1
