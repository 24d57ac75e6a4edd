"""What the broker delivers of a model of readings, put in its place in the recording."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vedette.contract.manifest import Task, task_of
from vedette.follow.steady import SteadyOptions
from vedette.models.model import ModelSpec
from vedette.mqtt.events import EVENT_MESSAGES, StateMessage
from vedette.mqtt.results import RESULT_MESSAGES, FrameLatency

from .chart import Axis, axis_of
from .listener import Heard

KEPT: Final = 20_000  # windows and events of a round
MATCH_US: Final = 1_500  # an event says in milliseconds how long ago it was
BELOW: Final = 30.0  # of an anomaly's threshold, where its axis begins
ON_SCORE: Final = SteadyOptions().on_score
_MESSAGES: Final[dict[Task, str]] = {"classify": "classes", "anomaly": "anomaly", "regress": "values"}


@dataclass(frozen=True, slots=True)
class SeenWindow:
    """A window's result as it was delivered.

    ``mono_us``: when it was complete, CLOCK_BOOTTIME; ``first_us``, ``last_us``: of its samples, by the recording's clock.
    ``label``: the best class, or ``anomaly``; ``score``: its score, or the anomaly's, NaN where there is none; ``values``:
    all numbers by name.
    """

    mono_us: int
    first_us: int
    last_us: int
    label: str | None
    score: float
    values: dict[str, float]
    latency_ms: FrameLatency


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event as it was delivered. ``at_us``: when it happened, by the recording's clock; None of what was over because
    the agent ended. ``held``: what holds from then on, None for nothing."""

    at_us: int | None
    kind: str
    held: str | None
    text: str


@dataclass(slots=True)
class Round:
    """A recording once through: windows and events in the order of their times."""

    windows: deque[SeenWindow]
    events: deque[SeenEvent]

    @property
    def newest(self) -> SeenWindow | None:
        """The last window."""
        return self.windows[-1] if self.windows else None


class SeenWindows(Heard):
    """What has been delivered. A recording that begins again begins a new round."""

    def __init__(self, spec: ModelSpec) -> None:
        self.task = task_of(spec.output)
        topics = {"detections": RESULT_MESSAGES[_MESSAGES[self.task]], "events": EVENT_MESSAGES["events"]}
        super().__init__({**topics, "state": StateMessage})
        self.first = self.round = _round()
        """The first round, and the one under way."""
        self.threshold = ON_SCORE if self.task == "classify" else math.nan
        """The score that speaks for a class, or above which a window is anomalous."""
        self.state: StateMessage | None = None
        self.events = 0
        self._waiting: list[Any] = []  # events whose window has not come yet

    def axis(self, scores: NDArray[np.float64]) -> Axis:
        """What scores are drawn on: of classes 0 to 1; of anomalies decades, the threshold well inside."""
        if self.task == "classify":
            return Axis(0.0, 1.0)
        if self.task == "anomaly" and self.threshold > 0:
            return Axis(self.threshold / BELOW, max(2 * self.threshold, float(np.nanmax(scores, initial=0.0))), True)
        return axis_of(scores)

    def note(self, topic: str, value: Any) -> None:
        """See `Heard.note`."""
        super().note(topic, value)
        if topic == "detections":
            window = self._window(value)
            if self.round.newest is not None and window.first_us < self.round.newest.first_us:
                self._place_all()
                self.round = _round()
            self.round.windows.append(window)
            self._place_all()
        elif topic == "events":
            self.events += 1
            # the message of the window that made it certain comes after it
            self._waiting.append(value)
        elif topic == "state":
            self.state = value
        elif topic == "status" and value.state == "stopped":
            self._place_all()

    def _place_all(self) -> None:
        for event in self._waiting:
            at_us = event.mono_us - round(event.ago_s * 1e6)
            windows = self.round.windows
            index = bisect_left(windows, at_us - MATCH_US, key=lambda window: window.mono_us)
            found = windows[index] if index < len(windows) else None
            known = found is not None and abs(found.mono_us - at_us) <= MATCH_US
            held = (
                event.label if event.kind == "class_changed" else "anomaly" if event.kind == "anomaly_began" else None
            )
            place = found.last_us if known and found is not None else None
            self.round.events.append(SeenEvent(place, event.kind, held or None, event_text(event)))
        self._waiting.clear()

    def _window(self, message: Any) -> SeenWindow:
        label: str | None = None
        if self.task == "classify":
            values = {found.label: found.score for found in message.classes}
            label = max(values, key=values.__getitem__, default=None)
            score = values[label] if label is not None else math.nan
        elif self.task == "anomaly":
            self.threshold = message.anomaly.threshold
            values = {name: _number(error) for name, error in message.anomaly.channels.items()}
            label = "anomaly" if message.anomaly.anomalous else None
            score = _number(message.anomaly.score)
        else:
            values = {name: _number(number) for name, number in message.values.items()}
            score = next(iter(values.values()), math.nan)
        window = message.window
        return SeenWindow(message.mono_us, window.first_us, window.last_us, label, score, values, message.latency_ms)


def event_text(event: Any) -> str:
    """An event's message for people."""
    if event.kind == "class_changed":
        score = f" ({event.score:.2f})" if event.label and isinstance(event.score, float) else ""
        return f"{event.previous or 'nothing'} -> {event.label or 'nothing'}{score}"
    peak = f", peak {event.peak:.3g}" if isinstance(event.peak, float) else ""
    return f"{event.kind.replace('_', ' ')}{peak}"


def _round() -> Round:
    return Round(deque(maxlen=KEPT), deque(maxlen=KEPT))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
