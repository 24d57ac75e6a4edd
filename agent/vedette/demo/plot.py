"""The sensor's demo as a picture: a recording's readings with what was delivered of it, drawn by OpenCV."""

from __future__ import annotations

from typing import Final, TypeAlias

import cv2
import numpy as np

from vedette.contract.types import UInt8Array

from .chart import Axis, Envelope, axis_of, envelope
from .recording import Recording
from .seen import Round
from .sensor_view import Moment

Color: TypeAlias = tuple[int, int, int]
"""Blue, green, red."""

WIDTH: Final = 1280
LEFT, RIGHT, TOP, BOTTOM = 130, 30, 64, 46
INNER: Final = WIDTH - LEFT - RIGHT
STRIP: Final = 66  # pixels a channel
SCORE: Final = 120
GAP: Final = 10
INK: Final[Color] = (60, 50, 40)
FAINT: Final[Color] = (205, 200, 195)
WAVE: Final[Color] = (130, 95, 40)
RED: Final[Color] = (50, 50, 210)
COLORS: Final[tuple[Color, ...]] = (
    (190, 120, 40), (60, 150, 230), (70, 160, 70), (180, 80, 160), (160, 160, 40), (80, 80, 200), (40, 120, 150),
    (140, 140, 140),
)  # fmt: skip
TINT: Final = 0.22  # how much of a colour lies behind the strips
MANY: Final = 200  # windows, from which on their dots are small
TICKS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
MAX_TICKS: Final = 12


def plot(moment: Moment, once: Round, recording: Recording) -> UInt8Array:
    """(height, `WIDTH`, 3) uint8 BGR: a strip a channel, the score with its threshold, and behind both what held.

    ``once``: the round that is drawn. What it did not reach is grey.
    """
    channels = moment.series.channels
    height = TOP + len(channels) * (STRIP + GAP) + SCORE + BOTTOM
    page = _Page(height, moment.spec.labels, int(recording.times_us[0]), int(recording.times_us[-1]))
    page.write(
        f"{moment.spec.name} on {recording.seconds:.0f} s of readings: what the broker delivered", (LEFT, 24), 0.6
    )
    newest = once.newest
    _held(page, once, page.end_us if newest is None else min(page.end_us, newest.last_us))
    for index, channel in enumerate(channels):
        top = TOP + index * (STRIP + GAP)
        values = recording.values[:, index]
        axis = axis_of(values)
        page.frame(top, STRIP, channel.name, channel.unit, axis)
        curve = envelope(recording.times_us, values, page.begin_us, page.end_us + 1, INNER)
        page.curve(axis.share(curve), top, STRIP)
    _scores(page, moment, once)
    page.ticks()
    return page.pixels


class _Page:
    """Where it is drawn."""

    def __init__(self, height: int, labels: tuple[str, ...], begin_us: int, end_us: int) -> None:
        self.pixels: UInt8Array = np.full((height, WIDTH, 3), 255, np.uint8)
        self.bottom = height - BOTTOM
        self.begin_us, self.end_us = begin_us, end_us
        self._labels = labels

    def x(self, time_us: float) -> int:
        """Where a time is."""
        return LEFT + round((time_us - self.begin_us) / max(1, self.end_us - self.begin_us) * INNER)

    def color(self, label: str | None) -> Color:
        """Of a class; of anything else, red."""
        return COLORS[self._labels.index(label) % len(COLORS)] if label in self._labels else RED

    def tint(self, left: int, right: int, color: Color) -> None:
        """A colour behind what is drawn later."""
        area = self.pixels[TOP : self.bottom, left:right]
        area[:] = np.rint(area * (1 - TINT) + np.array(color) * TINT).astype(np.uint8)

    def frame(self, top: int, height: int, name: str, unit: str, axis: Axis) -> None:
        """A strip's frame, what it is, and from where to where."""
        cv2.rectangle(self.pixels, (LEFT, top), (WIDTH - RIGHT, top + height), FAINT, 1)
        self.write(name, (10, top + height // 2), 0.5)
        self.write(unit, (10, top + height // 2 + 17), 0.4)
        self.number(axis.high, top + 10)
        self.number(axis.low, top + height - 2)

    def curve(self, shares: Envelope, top: int, height: int) -> None:
        """``shares``: of the height, (`INNER`, 2)."""
        before: float | None = None
        for column, (least, most) in enumerate(top + 2 + (1.0 - shares) * (height - 4)):
            if np.isnan(least):
                before = None
                continue
            reach = [least, most] if before is None else [least, most, before]
            x = LEFT + column
            cv2.line(self.pixels, (x, round(min(reach))), (x, round(max(reach))), WAVE, 1)
            before = float(most + least) / 2

    def ticks(self) -> None:
        """The times below all."""
        seconds = (self.end_us - self.begin_us) / 1e6
        step = next((tick for tick in TICKS_S if seconds / tick <= MAX_TICKS), TICKS_S[-1])
        for at in range(0, int(seconds) + 1, step):
            x = self.x(self.begin_us + at * 1e6)
            cv2.line(self.pixels, (x, self.bottom), (x, self.bottom + 5), INK, 1)
            self.write(f"{at} s", (x - 10, self.bottom + 22), 0.42)

    def number(self, value: float, y: int) -> None:
        """Left of a strip."""
        text = f"{value:.3g}"
        self.write(text, (LEFT - 8 - _width(text, 0.4), y), 0.4)

    def write(self, text: str, at: tuple[int, int], size: float, color: Color = INK, most: int = WIDTH) -> None:
        """``most``: pixels across that there is room for; what does not fit is cut."""
        while text and _width(text, size) > most:
            text = text[:-1]
        cv2.putText(self.pixels, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def _held(page: _Page, once: Round, reached_us: int) -> None:
    """What held when, by the events."""
    changes = [(event.at_us, event.held) for event in once.events if event.at_us is not None]
    ends = [at_us for at_us, _ in changes[1:]] + [reached_us]
    named = [page.x(at_us) for at_us, held in changes if held is not None] + [WIDTH]
    for (at_us, held), until_us in zip(changes, ends, strict=False):  # without a change there is nothing to end
        left, right = page.x(at_us), page.x(until_us)
        color = INK if held is None else page.color(held)
        if held is not None:
            page.tint(left, right, color)
            page.write(held, (left + 4, TOP - 8), 0.5, color, most=next(x for x in named if x > left) - left - 8)
        above = 0 if held is None else 20  # a label may reach beyond its own end
        cv2.line(page.pixels, (left, TOP - above), (left, page.bottom), color, 1)
    if reached_us < page.end_us:
        page.tint(page.x(reached_us), WIDTH - RIGHT, FAINT)


def _scores(page: _Page, moment: Moment, once: Round) -> None:
    """A dot a window, at the time of its last reading."""
    heard, top = moment.heard, page.bottom - SCORE
    scores = np.array([window.score for window in once.windows])
    axis = heard.axis(scores)
    name = {"classify": "score", "anomaly": "anomaly"}.get(heard.task) or next(iter(once.windows[0].values), "value")
    page.frame(top, SCORE, name, "decades" if axis.logarithmic else "", axis)

    def y(score: float) -> int:
        return top + round((1.0 - float(axis.share(np.array(score)))) * (SCORE - 1))

    if np.isfinite(heard.threshold):
        for x in range(LEFT, WIDTH - RIGHT, 8):
            cv2.line(page.pixels, (x, y(heard.threshold)), (x + 3, y(heard.threshold)), INK, 1)
        page.number(heard.threshold, y(heard.threshold) + 4)
    before: tuple[int, int] | None = None
    last_us = 0
    for window in once.windows:
        if np.isnan(window.score):
            before = None
            continue
        at = (page.x(window.last_us), y(window.score))
        # windows that have no reading in common are not joined: something may be missing between them
        if before is not None and window.first_us <= last_us:
            cv2.line(page.pixels, before, at, FAINT, 1, cv2.LINE_AA)
        color = INK if heard.task == "regress" or window.label is None else page.color(window.label)
        cv2.circle(page.pixels, at, 4 if len(once.windows) < MANY else 2, color, cv2.FILLED, cv2.LINE_AA)
        before, last_us = at, window.last_us


def _width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0])
