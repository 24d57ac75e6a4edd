"""Curves as characters: each holds two by four dots of braille (Unicode 15, section 21.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Envelope: TypeAlias = NDArray[np.float64]
"""(columns of dots, 2): the least and the largest value there, NaN where there is none."""
Dots: TypeAlias = NDArray[np.bool_]
"""(rows of dots, columns of dots), the highest first."""

GAP: Final = 3  # times the usual distance of readings: further apart they are not joined
ACROSS: Final = 2
DOWN: Final = 4
_BITS: Final = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
BLANK: Final = "\u2800"
"""A character without a dot."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``; logarithmic where a low of 0 would be nothing, and scores reach over decades."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Where values stand, 0 to 1; NaN stays, what lies beyond is on the edge."""
        low, high, at = self.low, self.high, np.asarray(values, np.float64)
        if self.logarithmic:
            low, high, at = np.log10(low), np.log10(high), np.log10(np.maximum(at, low))
        return np.clip((at - low) / (high - low if high > low else 1.0), 0.0, 1.0)


def axis_of(values: NDArray[np.floating]) -> Axis:
    """One that holds all of them."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return Axis(low, high) if high > low else Axis(low - 0.5, low + 0.5)


def envelope(times: NDArray[np.int64], values: NDArray[np.floating], begin: int, end: int, columns: int) -> Envelope:
    """What readings reach in each column of a stretch of time, so that no peak is missed. Where they are fewer than the
    columns, neighbours are joined, but not over a gap.

    ``times``: (n,) ascending; ``values``: (n,); ``begin``, ``end``: of the stretch, in the unit of the times.
    """
    found = np.full((columns, 2), np.nan)
    inside = slice(*np.searchsorted(times, (begin, end)))
    where = (times[inside] - begin) * columns // max(1, end - begin)
    known, first = np.unique(where, return_index=True)
    if not len(known):
        return found
    found[known, 0] = np.minimum.reduceat(values[inside], first)
    found[known, 1] = np.maximum.reduceat(values[inside], first)
    apart = np.diff(known)
    usual = GAP * max(1.0, float(np.median(apart))) if len(apart) else 0.0
    for index in np.flatnonzero((apart > 1) & (apart <= usual)):
        left, right = int(known[index]), int(known[index + 1])
        between = np.arange(left + 1, right)
        found[between] = np.interp(between, (left, right), (found[left].mean(), found[right].mean()))[:, None]
    return found


def steps(times: NDArray[np.int64], values: NDArray[np.floating], begin: int, end: int, columns: int) -> Envelope:
    """The same of values that hold until the next one."""
    middles = begin + (np.arange(columns) + 0.5) * (end - begin) / columns
    index = np.searchsorted(times, middles, "right") - 1
    held = np.where(index >= 0, values[np.maximum(index, 0)], np.nan) if len(values) else np.full(columns, np.nan)
    return np.stack((held, held), axis=1)


def dots(found: Envelope, axis: Axis, rows: int) -> Dots:
    """A curve on ``rows`` rows of dots; each column is joined to the one before."""
    joined = found.copy()
    joined[1:, 0] = np.fmin(found[1:, 0], np.where(np.isnan(found[1:, 0]), np.nan, found[:-1, 1]))
    joined[1:, 1] = np.fmax(found[1:, 1], np.where(np.isnan(found[1:, 1]), np.nan, found[:-1, 0]))
    row = np.rint((1.0 - axis.share(joined)) * (rows - 1))
    number = np.arange(rows)[:, None]
    return (number >= row[:, 1]) & (number <= row[:, 0])  # never where it is NaN


def cells(drawn: Dots) -> list[str]:
    """Lines of characters, the highest first; rows and columns of dots in whole characters."""
    rows, columns = drawn.shape
    blocks = drawn.reshape(rows // DOWN, DOWN, columns // ACROSS, ACROSS)
    codes = ord(BLANK) + np.einsum("rdca,da->rc", blocks.astype(np.int64), _BITS)
    return ["".join(map(chr, line)) for line in codes.tolist()]
