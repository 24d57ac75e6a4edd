"""Latencies as a picture: a histogram with the share of all that were at most so long, drawn by OpenCV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from vedette.contract.types import UInt8Array
from vedette.flow.stats import percentile

Color: TypeAlias = tuple[int, int, int]
"""Blue, green, red."""
Values: TypeAlias = NDArray[np.float64]
"""Sorted."""

WIDTH: Final = 1000
HEIGHT: Final = 560
LEFT, RIGHT, TOP, BOTTOM = 72, 72, 84, 64
INNER: Final = WIDTH - LEFT - RIGHT
TALL: Final = HEIGHT - TOP - BOTTOM
INK: Final[Color] = (60, 50, 40)
FAINT: Final[Color] = (225, 220, 215)
BAR: Final[Color] = (196, 152, 92)
LINE: Final[Color] = (40, 110, 210)
MARKS: Final[tuple[tuple[float, Color], ...]] = ((0.5, (70, 140, 60)), (0.9, (20, 130, 200)), (0.99, (60, 60, 200)))
BINS: Final = 80
SHOWN: Final = 0.999  # of the values; the slowest thousandth would squeeze all others into a corner


def plot_latency(values_ms: Sequence[float], title: str, subtitle: str = "") -> UInt8Array:
    """(`HEIGHT`, `WIDTH`, 3) uint8 BGR. ``values_ms``: at least one. The slowest beyond `SHOWN` are said, not drawn."""
    values = np.sort(np.asarray(values_ms, np.float64))
    low, high = _span(values)
    page: UInt8Array = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)

    def x(value: float) -> int:
        return LEFT + round((value - low) / (high - low) * INNER)

    def y(share: float) -> int:
        return HEIGHT - BOTTOM - round(share * TALL)

    counts, edges = np.histogram(values[values <= high], bins=BINS, range=(low, high))
    for quarter in range(5):
        cv2.line(page, (LEFT, y(quarter / 4)), (WIDTH - RIGHT, y(quarter / 4)), FAINT, 1)
        _write(page, f"{quarter * 25} %", (WIDTH - RIGHT + 8, y(quarter / 4) + 4), 0.42, LINE)
        count = round(quarter / 4 * int(counts.max()))
        _write(page, str(count), (LEFT - 8 - _width(str(count), 0.42), y(quarter / 4) + 4), 0.42, INK)
    for number, count in enumerate(counts):
        if count:
            top = min(y(count / counts.max()), y(0) - 1)  # where there is a value, there is something to see
            cv2.rectangle(
                page, (x(edges[number]), top), (max(x(edges[number + 1]) - 1, x(edges[number])), y(0)), BAR, cv2.FILLED
            )
    columns = np.arange(LEFT, WIDTH - RIGHT + 1)
    shares = np.searchsorted(values, low + (columns - LEFT) / INNER * (high - low), "right") / len(values)
    points = np.stack((columns, [y(share) for share in shares]), axis=1).astype(np.int32)
    cv2.polylines(page, [points], False, LINE, 2, cv2.LINE_AA)
    for step in _ticks(low, high):
        cv2.line(page, (x(step), y(0)), (x(step), y(0) + 5), INK, 1)
        text = f"{step:g}"
        _write(page, text, (x(step) - _width(text, 0.42) // 2, y(0) + 20), 0.42, INK)
    _quantiles(page, values, x)
    cv2.rectangle(page, (LEFT, TOP), (WIDTH - RIGHT, y(0)), INK, 1)
    _write(page, title, (LEFT, 28), 0.62, INK)
    beyond = int((values > high).sum())
    rest = f"; {beyond} beyond, up to {values[-1]:.3g} ms" if beyond else ""
    _write(page, f"{subtitle}{rest}", (LEFT, 50), 0.45, INK)
    _write(page, "runs", (LEFT - 40, TOP - 10), 0.42, INK)
    _write(page, "at most so long", (WIDTH - RIGHT - 62, TOP - 10), 0.42, LINE)
    _write(page, "milliseconds", (LEFT + INNER // 2 - 40, HEIGHT - 16), 0.45, INK)
    return page


def _span(values: Values) -> tuple[float, float]:
    """Of the axis."""
    low, high = float(values[0]), percentile(values.tolist(), SHOWN)
    space = max((high - low) * 0.03, high * 1e-3, 1e-6)
    return max(0.0, low - space), high + space


def _quantiles(page: UInt8Array, values: Values, x: Callable[[float], int]) -> None:
    """Upright lines, and a legend of them."""
    found = [(percentile(values.tolist(), share), f"p{share * 100:g}", color) for share, color in MARKS]
    for value, _, color in found:
        at = min(x(value), WIDTH - RIGHT)
        for top in range(TOP, HEIGHT - BOTTOM, 9):
            cv2.line(page, (at, top), (at, top + 4), color, 2)
    left, top = WIDTH - RIGHT - 190, TOP + TALL // 2
    page[top - 22 : top + 22 * len(found) - 8, left - 12 : WIDTH - RIGHT - 12] = 255
    for number, (value, name, color) in enumerate(found):
        middle = top + 22 * number
        cv2.line(page, (left, middle - 5), (left + 30, middle - 5), color, 2)
        _write(page, f"{name} {value:.3g} ms", (left + 40, middle), 0.5, color)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about eight."""
    raw = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _write(page: UInt8Array, text: str, at: tuple[int, int], size: float, color: Color) -> None:
    cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def _width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0])
