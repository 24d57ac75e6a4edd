"""What the sensor's demo draws in a terminal: a strip a channel, the score, what holds, what happens."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from vedette.contract.manifest import SeriesInput
from vedette.models.model import ModelSpec
from vedette.mqtt.events import StateMessage

from .chart import ACROSS, BLANK, DOWN, Axis, Dots, axis_of, cells, dots, envelope, steps
from .recording import Recording
from .seen import SeenEvent, SeenWindow, SeenWindows
from .view import title, waiting, waiting_line

NAME_COLUMNS: Final = 10  # beside the strips: what it is
RANGE_COLUMNS: Final = 9  # and from where to where
FRAME: Final = 4  # columns of the panel's own
FIXED_LINES: Final = 6  # the panel's two, the head, the band, the axis, and what holds now
LEAST_EVENTS: Final = 2
MOST_EVENTS: Final = 6
MOST_ROWS: Final = 3  # of one strip
SHOWN_WINDOWS: Final = 5  # how much time is shown: so many windows' lengths, and at least
SHOWN_S: Final = 20.0
COLORS: Final = ("cyan", "magenta", "yellow", "green", "bright_blue", "bright_magenta", "bright_yellow", "white")
ALARM: Final = "bright_red"
DIM: Final = "bright_black"


@dataclass(frozen=True, slots=True)
class Moment:
    """All that there is to show. ``recording``: None of a live sensor. ``speed``: of a recording, times its own."""

    heard: SeenWindows
    spec: ModelSpec
    series: SeriesInput
    recording: Recording | None
    speed: float

    @property
    def origin_us(self) -> int:
        """What times are counted from: the recording's first reading, or the first window's."""
        if self.recording is not None:
            return int(self.recording.times_us[0])
        return self.heard.first.windows[0].first_us if self.heard.first.windows else 0

    def seconds(self, event: SeenEvent) -> float | None:
        """When it happened, counted from the origin; None where that is not known."""
        return None if event.at_us is None else round((event.at_us - self.origin_us) / 1e6, 3)

    def clock(self, event: SeenEvent) -> str:
        """The same for people."""
        at_s = self.seconds(event)
        return "end" if at_s is None else f"{at_s:.1f} s"

    def color(self, label: str | None) -> str:
        """Of a class, or an anomaly."""
        if label is None:
            return DIM
        if label not in self.spec.labels:
            return ALARM
        return COLORS[self.spec.labels.index(label) % len(COLORS)]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The time that is shown, microseconds, in so many columns of characters."""

    begin_us: int
    end_us: int
    columns: int

    @property
    def middles_us(self) -> NDArray[np.float64]:
        """(columns,) the time in the middle of each."""
        step = (self.end_us - self.begin_us) / self.columns
        return np.asarray(self.begin_us + (np.arange(self.columns) + 0.5) * step, np.float64)


def live(moment: Moment, broker: str, seconds_left: float, size: tuple[int, int]) -> RenderableType:
    """One moment of the demo; ``size``: columns and lines of the terminal."""
    heard = moment.heard
    newest = heard.round.newest
    if newest is None:
        return waiting(heard, broker, seconds_left)
    width, height = size
    stretch = _stretch(moment, newest, max(20, width - FRAME - NAME_COLUMNS - RANGE_COLUMNS))
    strips = _channels(moment) if moment.recording is not None else []
    names = list(newest.values) if heard.task == "regress" else []
    charts = len(strips) + max(1, len(names))
    free = max(0, height - 1 - FIXED_LINES - LEAST_EVENTS)
    rows = min(MOST_ROWS, max(1, free // charts))
    events = min(MOST_EVENTS, LEAST_EVENTS + max(0, free - rows * charts))
    lines: list[Text] = [_head(moment, newest)]
    for index, name in enumerate(strips):
        lines += _reading_strip(moment, name, index, stretch, rows)
    lines += [line for name in names for line in _value_strip(moment, name, stretch, rows)]
    if not names:
        lines += _score_strip(moment, stretch, rows)
        lines.append(_band(moment, stretch))
    lines.append(_axis(moment, stretch))
    lines.append(_now(moment))
    lines += _events(moment, events)
    return Panel(Group(*lines), title=title(broker, seconds_left))


def plain_line(moment: Moment) -> str:
    """The same moment as one line, for where there is no terminal."""
    heard = moment.heard
    newest = heard.round.newest
    if newest is None:
        return waiting_line(heard)
    at_s = (newest.last_us - moment.origin_us) / 1e6
    return (
        f"{at_s:7.1f} s  {heard.rate(time.monotonic()):5.1f} windows/s  {heard.received:4d} messages  "
        f"infer {newest.latency_ms.infer:5.2f} ms  {_said(heard, newest)}; holds: {_holding(heard.state)}"
    )


def _stretch(moment: Moment, newest: SeenWindow, columns: int) -> _Stretch:
    window_us = max(1, newest.last_us - newest.first_us)
    span_us = max(round(SHOWN_S * 1e6), SHOWN_WINDOWS * window_us)
    if moment.recording is not None:
        span_us = min(span_us, max(window_us, round(moment.recording.seconds * 1e6)))
    else:
        span_us = min(span_us, max(window_us, newest.last_us - moment.heard.round.windows[0].first_us))
    return _Stretch(newest.last_us - span_us, newest.last_us, columns)


def _head(moment: Moment, newest: SeenWindow) -> Text:
    heard, latency = moment.heard, newest.latency_ms
    speed = f" ({moment.speed:g}x)" if moment.speed != 1.0 else ""
    return Text.assemble(
        (f"{heard.rate(time.monotonic()):.1f} windows/s{speed}", "bold green"),
        f"   {heard.received} messages   infer {latency.infer:.2f} ms, total {latency.total:.2f} ms",
        no_wrap=True,
    )  # fmt: skip


def _channels(moment: Moment) -> list[str]:
    return [f"{c.name} {c.unit}".strip() for c in moment.series.channels]


def _reading_strip(moment: Moment, name: str, channel: int, stretch: _Stretch, rows: int) -> list[Text]:
    assert moment.recording is not None
    values = moment.recording.values[:, channel]
    axis = axis_of(values)
    curve = envelope(
        moment.recording.times_us, values, stretch.begin_us, stretch.end_us + 1, stretch.columns * ACROSS
    )  # fmt: skip
    return _strip(name, dots(curve, axis, rows * DOWN), ["green"] * stretch.columns, axis)


def _value_strip(moment: Moment, name: str, stretch: _Stretch, rows: int) -> list[Text]:
    windows = moment.heard.round.windows
    values = np.array([window.values.get(name, math.nan) for window in windows])
    axis = axis_of(values)
    curve = steps(_ends(windows), values, stretch.begin_us, stretch.end_us + 1, stretch.columns * ACROSS)
    return _strip(name, dots(curve, axis, rows * DOWN), ["cyan"] * stretch.columns, axis)


def _score_strip(moment: Moment, stretch: _Stretch, rows: int) -> list[Text]:
    heard = moment.heard
    windows = list(heard.round.windows)
    scores = np.array([window.score for window in windows])
    axis = heard.axis(scores)
    ends = _ends(windows)
    curve = dots(steps(ends, scores, stretch.begin_us, stretch.end_us + 1, stretch.columns * ACROSS), axis, rows * DOWN)
    which = np.searchsorted(ends, stretch.middles_us, "right") - 1
    colors = [moment.color(windows[index].label) if index >= 0 else DIM for index in which]
    line = np.zeros_like(curve)
    at = round((1.0 - float(axis.share(np.array(heard.threshold)))) * (len(line) - 1))
    line[at, ::ACROSS] = True
    score = "score" if heard.task == "classify" else "anomaly"
    return _strip(score, curve, colors, axis, f"at {heard.threshold:.3g}", line)


def _strip(
    name: str, curve: Dots, colors: Sequence[str], axis: Axis, note: str = "", line: Dots | None = None
) -> list[Text]:
    """A chart with its name before it and its range behind it; ``line``: what is drawn where the curve leaves room, and
    ``note`` says of it."""
    drawn = cells(curve)
    under = cells(line) if line is not None else drawn
    texts = []
    last = len(drawn) - 1
    for row, (above, below) in enumerate(zip(drawn, under, strict=True)):
        text = Text(f"{name if row == 0 else '':<{NAME_COLUMNS}.{NAME_COLUMNS - 1}}", no_wrap=True)
        if note and row == last > 0:
            text = Text(f"{note:<{NAME_COLUMNS}.{NAME_COLUMNS - 1}}", DIM, no_wrap=True)
        for over, dotted, color in zip(above, below, colors, strict=True):
            blank = over == BLANK
            text.append(dotted if blank else over, DIM if blank else color)
        text.append(f" {axis.high:.3g}" if row == 0 else f" {axis.low:.3g}" if row == last else "", DIM)
        texts.append(text)
    return texts


def _band(moment: Moment, stretch: _Stretch) -> Text:
    """What held when, by the events."""
    changes = [event for event in moment.heard.round.events if event.at_us is not None]
    times = np.array([event.at_us for event in changes], np.int64)
    which = np.searchsorted(times, stretch.middles_us, "right") - 1
    held = [changes[index].held if index >= 0 else None for index in which]
    text = Text(f"{'holds':<{NAME_COLUMNS}}", no_wrap=True)
    column = 0
    while column < len(held):
        end = column
        while end < len(held) and held[end] == held[column]:
            end += 1
        label, span = held[column], end - column
        style = f"black on {moment.color(label)}" if label else DIM
        text.append(f"{label[: span - 1]:<{span}}" if label else "·" * span, style)  # a space before the next one
        column = end
    return text


def _axis(moment: Moment, stretch: _Stretch) -> Text:
    begin, end = ((at - moment.origin_us) / 1e6 for at in (stretch.begin_us, stretch.end_us))
    of = f" of {moment.recording.seconds:.0f}" if moment.recording is not None else ""
    left, right = f"{begin:.1f} s" if begin >= 0 else "", f"{end:.1f}{of} s"
    blank = max(1, stretch.columns - len(left) - len(right))
    return Text(f"{'':<{NAME_COLUMNS}}{left}{'':<{blank}}{right}", DIM, no_wrap=True)


def _now(moment: Moment) -> Text:
    heard = moment.heard
    newest = heard.round.newest
    assert newest is not None
    said = f"   this window: {_said(heard, newest)}"
    if heard.task == "regress":
        return Text(said.strip(), no_wrap=True)
    held = _holding(heard.state)
    return Text.assemble("now: ", (held, f"bold {moment.color(_held(heard.state))}"), (said, DIM), no_wrap=True)


def _events(moment: Moment, count: int) -> list[Text]:
    known: list[SeenEvent] = list(moment.heard.round.events)[-count:]
    lines = []
    for event in known:
        lines.append(Text.assemble(f"{moment.clock(event):>9}  ", (event.text, moment.color(event.held)), no_wrap=True))
    return lines + [Text() for _ in range(count - len(lines))]


def _said(heard: SeenWindows, newest: SeenWindow) -> str:
    if heard.task == "regress":
        return ", ".join(f"{name} {value:.4g}" for name, value in newest.values.items())
    if heard.task == "anomaly":
        return f"score {newest.score:.3g}, threshold {heard.threshold:.3g}"
    return f"{newest.label} {newest.score:.2f}"


def _held(state: StateMessage | None) -> str | None:
    if state is None:
        return None
    if state.class_ is not UNSET:
        return state.class_.label
    return "anomaly" if state.anomaly is not UNSET and state.anomaly.active else None


def _holding(state: StateMessage | None) -> str:
    """What the retained state says."""
    held = _held(state)
    if state is None or held is None:
        return "nothing yet" if state is None else "normal" if state.anomaly is not UNSET else "nothing"
    score = state.class_.score if state.class_ is not UNSET else None
    return held if score is None else f"{held} {score:.2f}"


def _ends(windows: Iterable[SeenWindow]) -> NDArray[np.int64]:
    return np.array([window.last_us for window in windows], np.int64)
