"""Scores of windows -> what holds: a class is taken over, an anomaly begins and ends, neither at every flicker."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Annotated, Final

from msgspec import Meta, Struct

from vedette.contract.types import Anomaly, Classes, Values

from .events import Event

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Windows = Annotated[int, Meta(ge=1, le=1000)]
Factor = Annotated[float, Meta(gt=0.0, le=1000.0)]

DIGITS: Final = 4  # of a number in a state: more is noise, and would make every state a new one


class SteadyOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.steady]: of classes and of anomalies."""

    on_score: Fraction = 0.6
    """A class must score so much in a window to be taken over."""
    off_score: Fraction = 0.4
    """Below this a window speaks against the class that holds."""
    on_factor: Factor = 1.0
    """Times the threshold: a score above this speaks for an anomaly."""
    off_factor: Factor = 0.8
    """Times the threshold: a score below this speaks against the anomaly that holds."""
    enter: Windows = 3
    """So many windows must speak for it ..."""
    of: Annotated[int, Meta(ge=0, le=1000)] = 0
    """... of the last so many; 0: one after the other."""
    leave: Windows = 3
    """So many windows one after the other must speak against what holds before it is over."""
    every_s: Annotated[float, Meta(ge=0.0, le=86400.0)] = 10.0
    """Least time between two states that differ in nothing but a score or a value, seconds."""

    def __post_init__(self) -> None:
        if 0 < self.of < self.enter:
            raise ValueError(f"of: expected 0, or at least enter = {self.enter}, found {self.of}")
        if self.off_score > self.on_score:
            raise ValueError(f"off_score: expected at most on_score = {self.on_score}, found {self.off_score}")
        if self.off_factor > self.on_factor:
            raise ValueError(f"off_factor: expected at most on_factor = {self.on_factor}, found {self.off_factor}")


@dataclass(frozen=True, slots=True)
class AnomalyState:
    """``active``: whether one holds. ``since_ns``: from when on it does or does not, CLOCK_BOOTTIME. ``score``: of the last
    window, None where it was not finite. ``threshold``: the model's."""

    active: bool
    since_ns: int
    score: float | None
    threshold: float


@dataclass(frozen=True, slots=True)
class SensorState:
    """What holds now. ``label``: the class, None for none; ``since_ns``: from when on; ``score``: what it had in the last
    window. ``anomaly``, ``values``: None of a model that says nothing of the kind."""

    label: str | None = None
    score: float | None = None
    since_ns: int | None = None
    anomaly: AnomalyState | None = None
    values: dict[str, float | None] | None = None

    def earlier(self, by_ns: int) -> SensorState:
        """The same of another clock, that is so far behind."""
        if not by_ns:
            return self
        since_ns = None if self.since_ns is None else self.since_ns - by_ns
        anomaly = None if self.anomaly is None else replace(self.anomaly, since_ns=self.anomaly.since_ns - by_ns)
        return replace(self, since_ns=since_ns, anomaly=anomaly)


@dataclass(frozen=True, slots=True)
class SteadyChange:
    """What a window brought. ``state``: None where it is as before, or as good as."""

    events: tuple[Event, ...]
    state: SensorState | None


class Steady:
    """What holds of the classes, the anomaly or the values that one model says. Owned by one thread.

    Of an anomaly, every ``anomaly_ended`` follows an ``anomaly_began``; `end` closes what is open.
    """

    def __init__(self, options: SteadyOptions, labels: Sequence[str]) -> None:
        """``labels``: of the classes by id, or the names of the values."""
        self._labels = labels
        self._classes = _Classes(options, labels)
        self._anomaly = _Anomaly(options)
        self._every_ns = int(options.every_s * 1e9)
        self._told: SensorState | None = None
        self._told_ns = 0

    def update(self, result: Classes | Anomaly | Values, now_ns: int) -> SteadyChange:
        """Takes a window's result. ``now_ns``: CLOCK_BOOTTIME of its capture. The first call always has a state."""
        if isinstance(result, Values):
            numbers = [_rounded(value) for value in result.values.tolist()]
            return self._change((), SensorState(values=dict(zip(self._labels, numbers, strict=True))), now_ns)
        if isinstance(result, Anomaly):
            return self._change(*self._anomaly.update(result, now_ns), now_ns)
        return self._change(*self._classes.update(result, now_ns), now_ns)

    def end(self, now_ns: int) -> SteadyChange:
        """Nothing more comes: what holds is over."""
        for part in (self._anomaly, self._classes):
            over = part.end(now_ns)
            if over is not None:
                return self._change(*over, now_ns)
        return SteadyChange((), None)

    def _change(self, events: tuple[Event, ...], state: SensorState, now_ns: int) -> SteadyChange:
        told = self._told
        if told is not None and not events and (state == told or now_ns - self._told_ns < self._every_ns):
            return SteadyChange(events, None)
        self._told, self._told_ns = state, now_ns
        return SteadyChange(events, state)


class _Run:
    """What the last windows spoke for, and when."""

    def __init__(self, enough: int, of: int) -> None:
        self._enough = enough
        self._spoken: deque[tuple[Hashable, int]] = deque(maxlen=of)

    def add(self, vote: Hashable, now_ns: int) -> int | None:
        """The time of the first of them that spoke as this one does, once they are enough."""
        self._spoken.append((vote, now_ns))
        alike = [at_ns for spoken, at_ns in self._spoken if spoken == vote]
        return alike[0] if len(alike) >= self._enough else None

    def spoke(self, vote: Hashable) -> bool:
        """Whether any of them did so."""
        return any(spoken == vote for spoken, _ in self._spoken)

    def clear(self) -> None:
        """As at the beginning."""
        self._spoken.clear()


class _Classes:
    def __init__(self, options: SteadyOptions, labels: Sequence[str]) -> None:
        self._options = options
        self._labels = labels
        self._tops = _Run(options.enter, options.of or options.enter)
        self._doubts = _Run(options.leave, options.leave)
        self._held: int | None = None
        self._since_ns: int | None = None

    def update(self, found: Classes, now_ns: int) -> tuple[tuple[Event, ...], SensorState]:
        scores = dict(zip(found.class_ids.tolist(), found.scores.tolist(), strict=True))
        top = max(scores, key=scores.__getitem__, default=None)
        if top is not None and scores[top] < self._options.on_score:
            top = None
        enough_ns = self._tops.add(top, now_ns)
        doubted = self._held is not None and scores.get(self._held, 0.0) < self._options.off_score
        over_ns = self._doubts.add(doubted, now_ns)
        events: tuple[Event, ...] = ()
        if top is not None and top != self._held and enough_ns is not None:
            events = (self._change(top, scores[top], enough_ns),)
        elif doubted and over_ns is not None:
            events = (self._change(None, None, over_ns),)
        if self._since_ns is None:
            self._since_ns = now_ns
        score = None if self._held is None else _rounded(scores.get(self._held, 0.0))
        return events, SensorState(self._name(self._held), score, self._since_ns)

    def end(self, now_ns: int) -> tuple[tuple[Event, ...], SensorState] | None:
        if self._held is None:
            return None
        return (self._change(None, None, now_ns),), SensorState(since_ns=now_ns)

    def _change(self, held: int | None, score: float | None, at_ns: int) -> Event:
        # what spoke for the new one may have begun before the last change
        at_ns = max(at_ns, self._since_ns or 0)
        lasted_s = None if self._held is None or self._since_ns is None else (at_ns - self._since_ns) / 1e9
        event = Event(
            "class_changed", at_ns, self._name(held), score=score, duration_s=lasted_s, previous=self._name(self._held)
        )
        self._held, self._since_ns = held, at_ns
        self._tops.clear()
        self._doubts.clear()
        return event

    def _name(self, held: int | None) -> str | None:
        return None if held is None else self._labels[held]


class _Anomaly:
    def __init__(self, options: SteadyOptions) -> None:
        self._options = options
        self._for = _Run(options.enter, options.of or options.enter)
        self._against = _Run(options.leave, options.leave)
        self._active = False
        self._since_ns: int | None = None
        self._peak: float | None = None
        """Of the windows that spoke for it, and of all since it began."""
        self._last: tuple[float | None, float] = (None, 0.0)

    def update(self, found: Anomaly, now_ns: int) -> tuple[tuple[Event, ...], SensorState]:
        score = found.score if isfinite(found.score) else None
        # a network that gives no number is not well
        high = score is None or score > found.threshold * self._options.on_factor
        low = score is not None and score < found.threshold * self._options.off_factor
        self._last = (_rounded(found.score), found.threshold)
        self._since_ns = now_ns if self._since_ns is None else self._since_ns
        began_ns, over_ns = self._for.add(high, now_ns), self._against.add(low, now_ns)
        events: tuple[Event, ...] = ()
        if (high or self._active) and score is not None:
            self._peak = score if self._peak is None else max(score, self._peak)
        if not self._active and high and began_ns is not None:
            self._turn(True, began_ns)
            events = (Event("anomaly_began", self._since_ns, score=score, peak=self._peak),)
        elif self._active and low and over_ns is not None:
            events = (self._over(over_ns),)
        elif not self._active and not self._for.spoke(True):
            self._peak = None
        return events, self._state()

    def end(self, now_ns: int) -> tuple[tuple[Event, ...], SensorState] | None:
        return ((self._over(now_ns),), self._state()) if self._active else None

    def _over(self, at_ns: int) -> Event:
        began_ns, peak = self._since_ns or at_ns, self._peak
        self._turn(False, at_ns)
        self._peak = None
        return Event("anomaly_ended", at_ns, score=self._last[0], duration_s=(at_ns - began_ns) / 1e9, peak=peak)

    def _turn(self, active: bool, at_ns: int) -> None:
        self._active, self._since_ns = active, at_ns
        self._for.clear()
        self._against.clear()

    def _state(self) -> SensorState:
        return SensorState(anomaly=AnomalyState(self._active, self._since_ns or 0, *self._last))


def _rounded(value: float) -> float | None:
    return round(value, DIGITS) if isfinite(value) else None
