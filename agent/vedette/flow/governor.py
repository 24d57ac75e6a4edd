"""How often cameras are looked at while the board is too hot, or results come too late: less, by a stated rule, and back.

The rule, in one place:

- *Pressure.* High while a temperature is at its limit, the firmware has slowed the processor down, or more than
  ``max_late`` of a pipeline's results of the last step came later than its deadline. Low once the temperature is
  ``hysteresis_celsius`` below, the firmware lets the processor run, and no more than half of ``max_late`` are late. Between
  the two nothing changes.
- *Share.* One number for all cameras, 1 when all is well. High pressure multiplies it by ``decrease``; low pressure that
  has lasted for a step adds ``increase``. No two changes are closer together than ``step_s``. Additive increase and
  multiplicative decrease (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in
  Computer Networks", 1989) leave what is too much soon, and find out slowly how much is not. While a hot board is getting
  cooler the share waits: a heat sink takes longer than a step.
- *By weight.* The share is one of the engine time that the cameras had. Each is left ``min_fps``; the rest goes by weight,
  and what one does not want, the others have: weighted max-min fairness (Bertsekas and Gallager, "Data Networks", 1992,
  section 6.5.2), which the engine's turns follow, too (`vedette.flow.lane`).

A sensor's windows are never left out, for readings that are skipped are lost; one that is late makes cameras give way. A
file that is read flat out waits for the pipeline, and has neither a rate nor a deadline.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, TypeAlias

from msgspec import Meta, Struct

from .feed import FrameFeed
from .stats import UNWANTED

if TYPE_CHECKING:
    from .pipeline import Pipeline

log = logging.getLogger(__name__)

COOLER: Final = 0.5  # degrees Celsius within a step, from which on a hot board is getting cooler: twice a sensor's step
ALL_BUT: Final = 0.01  # of a rate: a cap this near to it is none
EVEN_SHARE: Final = 0.95  # of the frames that a pipeline wanted; one that got so many got all


class GovernorOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[governor]"""

    enabled: bool = True
    max_celsius: Annotated[float, Meta(ge=0.0, le=150.0)] = 0.0
    """0: what the board says of itself, see `vedette.service.heat`."""
    hysteresis_celsius: Annotated[float, Meta(ge=0.5, le=50.0)] = 5.0
    max_late: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.1
    """Share of the results of a step that may come later than their pipeline's deadline."""
    decrease: Annotated[float, Meta(ge=0.1, le=0.95)] = 0.7
    increase: Annotated[float, Meta(ge=0.01, le=1.0)] = 0.05
    step_s: Annotated[float, Meta(ge=0.5, le=3600.0)] = 10.0
    min_fps: Annotated[float, Meta(ge=0.01, le=1000.0)] = 1.0


@dataclass(frozen=True, slots=True)
class Heat:
    """How hot the board is. ``slowed``: what its firmware does about it or about its power, in words; empty for nothing.

    ``celsius``: of the sensor that is nearest to its limit, or furthest above it; None where none has a limit.
    """

    celsius: float | None = None
    limit_celsius: float | None = None
    slowed: str = ""

    @property
    def excess(self) -> float:
        """Degrees above the limit, negative below; -inf where there is none."""
        if self.celsius is None or self.limit_celsius is None:
            return -math.inf
        return self.celsius - self.limit_celsius

    @property
    def words(self) -> str:
        """How the board is."""
        if not self.slowed:
            return f"at {self.celsius:.1f} °C, limit {self.limit_celsius:g} °C"
        celsius = "" if self.celsius is None else f"; {self.celsius:.1f} °C"
        return f"slowed down by its firmware ({self.slowed}{celsius})"


Pressure: TypeAlias = Literal["low", "steady", "high"]


class Share:
    """A number up to 1 that is multiplied down and added up. Pure: time is what it is told. Owned by one thread."""

    def __init__(self, options: GovernorOptions, now_s: float) -> None:
        self.value = 1.0
        self._options = options
        self._changed_s = now_s  # so that a board gets a step to settle after the start, too
        self._pressed_s = now_s  # when the pressure was last anything but low

    def turn(self, now_s: float, pressure: Pressure, least: float = 0.0) -> bool:
        """Whether it changed. ``least``: what it does not fall below, at most 1."""
        options = self._options
        if pressure != "low":
            self._pressed_s = now_s
        before = self.value
        if now_s - self._changed_s < options.step_s:
            return False
        if pressure == "high":
            self.value = min(before, max(least, before * options.decrease))
        elif pressure == "low" and now_s - self._pressed_s >= options.step_s:
            self.value = min(1.0, round(before + options.increase, 9))
        if self.value == before:
            return False
        self._changed_s = now_s
        return True


class Want(NamedTuple):
    """What a camera would have: frames a second, above 0; what one costs in seconds of the engine; its weight."""

    fps: float
    cost_s: float
    weight: float


def least_share(wants: Mapping[str, Want], min_fps: float) -> float:
    """The share at which each camera has ``min_fps``, or all it wants where that is less."""
    total = sum(want.fps * want.cost_s for want in wants.values())
    return sum(min(min_fps, want.fps) * want.cost_s for want in wants.values()) / total if total else 1.0


def divide(share: float, wants: Mapping[str, Want], min_fps: float) -> dict[str, float]:
    """Frames a second for each camera, that take ``share`` of the engine time all of them want together.

    None gets less than ``min_fps`` or more than it wants.
    """
    floors = {name: min(min_fps, want.fps) * want.cost_s for name, want in wants.items()}
    open_s = {name: want.fps * want.cost_s - floors[name] for name, want in wants.items()}  # what it wants beyond
    got_s = dict(floors)
    rest_s = max(0.0, share * sum(want.fps * want.cost_s for want in wants.values()) - sum(floors.values()))
    # those that want the least for their weight first: what they leave is the others'
    waiting = sorted(wants, key=lambda name: open_s[name] / wants[name].weight)
    weights = sum(wants[name].weight for name in waiting)
    for name in waiting:
        weight = wants[name].weight
        given = min(open_s[name], rest_s * min(1.0, weight / weights))
        got_s[name] += given
        rest_s -= given
        weights -= weight
    return {name: min(want.fps, got_s[name] / want.cost_s) for name, want in wants.items()}


class _Counts(NamedTuple):
    """Of one pipeline, since the start."""

    frames: int
    wanted: int
    results: int
    late: int


class _Cause(NamedTuple):
    """Why the share fell: "the board", "is", "was", "at 84.0 °C, limit 80 °C"."""

    what: str
    now: str
    then: str
    how: str


class Governor:
    """Sets the cameras' caps. Its methods are one thread's, the service's."""

    def __init__(
        self, options: GovernorOptions, read_heat: Callable[[], Heat], max_fps: Mapping[str, float], now_ns: int
    ) -> None:
        """``max_fps``: of each pipeline, as configured; 0 for as fast as it goes."""
        self._options = options
        self._read_heat = read_heat
        self._max_fps = max_fps
        self._share = Share(options, now_ns / 1e9)
        self._window: deque[tuple[float, dict[str, _Counts]]] = deque()  # of the last step, the oldest first
        self._excess: deque[tuple[float, float]] = deque()
        self._full: dict[str, float] = {}  # frames a second that a camera had before it was held back
        self._caps: dict[str, float] = {}
        self._halvings: dict[str, int] = {}  # how often a camera's rate has halved at its worst
        self._pressure: Pressure = "low"
        self._cause: list[_Cause] = []
        self._since_s = 0.0  # when the share left 1

    @property
    def share(self) -> float:
        """Of the engine time that cameras would have, what they are left."""
        return self._share.value

    def turn(self, now_ns: int, pipelines: Sequence[Pipeline]) -> None:
        """Looks at the board and at what came too late, and caps the cameras. To be called about once a second."""
        if not self._options.enabled:
            return
        now_s = now_ns / 1e9
        self._count(now_s, pipelines)
        cameras = {
            pipeline.name: (pipeline, pipeline.feed)
            for pipeline in pipelines
            if isinstance(pipeline.feed, FrameFeed) and pipeline.feed.live
        }
        wants = {
            name: Want(self._full[name], _cost_s(pipeline), pipeline.seat.weight)
            for name, (pipeline, feed) in cameras.items()
            if name in self._full and pipeline.enabled.is_set() and not feed.closed
        }
        self._pressure, cause = self._press(now_s, pipelines)
        if self._pressure == "high":
            self._cause = cause
        before = self._share.value
        if self._share.turn(now_s, self._pressure, least_share(wants, self._options.min_fps)):
            self._window = deque([self._window[-1]])  # what came under the other share says nothing about this one
        if before == 1.0:
            self._since_s = now_s
        caps = divide(self._share.value, wants, self._options.min_fps) if self._share.value < 1.0 else {}
        self._caps = {name: cap for name, cap in caps.items() if cap < wants[name].fps * (1.0 - ALL_BUT)}
        for name, (_, feed) in cameras.items():
            feed.limit(self._caps.get(name, 0.0))
        self._tell(before, now_s)

    def problems(self) -> dict[str, str]:
        """The cameras that are held back, and why, for the status: a key that is another one each time a rate has halved."""
        return {f"slowed {name} {self._halvings[name]}": self._line(name) for name in self._caps}

    def _line(self, name: str) -> str:
        verb = 1 if self._pressure != "low" else 2
        why = " and ".join(f"{cause.what} {cause[verb]} {cause.how}" for cause in self._cause)
        return f"{name}: {self._caps[name]:.1f} of {self._full[name]:.1f} frames/s, for {why}"

    def _tell(self, before: float, now_s: float) -> None:
        """A line for the journal where there is news."""
        self._halvings = {name: self._halvings[name] for name in self._halvings if name in self._caps}
        for name, cap in self._caps.items():
            halvings = int(math.log2(self._full[name] / cap))
            if halvings > self._halvings.get(name, -1):
                self._halvings[name] = halvings
                log.warning("%s", self._line(name))
        if before < 1.0 <= self._share.value:
            log.info("cameras are looked at as often as before, after %.0f s", now_s - self._since_s)

    def _count(self, now_s: float, pipelines: Sequence[Pipeline]) -> None:
        """Notes how far everybody is, and what each camera has while nothing holds it back."""
        while len(self._window) > 1 and now_s - self._window[1][0] >= self._options.step_s:
            self._window.popleft()
        now: dict[str, _Counts] = {}
        for pipeline in pipelines:
            source = pipeline.feed.status()
            if source.outcome is None and source.frames:
                now[pipeline.name] = _counts(pipeline)
                continue
            for _, counts in self._window:  # a time in which it was away says nothing about what it has
                counts.pop(pipeline.name, None)
        self._window.append((now_s, now))
        first_s, first = self._window[0]
        if now_s <= first_s:
            return
        for name, latest in now.items():
            if name not in first or (self._share.value < 1.0 and name in self._full):
                continue
            frames, wanted, results, _ = (max(0, b - a) for a, b in zip(first[name], latest, strict=True))
            rate = frames / (now_s - first_s)
            if self._max_fps.get(name):
                rate = min(rate, self._max_fps[name])
            got = min(1.0, results / wanted) if wanted else 1.0
            rate *= got if got < EVEN_SHARE else 1.0
            if rate > 0.0:
                self._full[name] = rate

    def _press(self, now_s: float, pipelines: Sequence[Pipeline]) -> tuple[Pressure, list[_Cause]]:
        """How it is now, and what is wrong where it is high."""
        options, heat = self._options, self._read_heat()
        causes = []
        warm = heat.excess > -options.hysteresis_celsius
        cooling = self._is_cooling(now_s, heat.excess)
        if (heat.slowed or heat.excess >= 0.0) and not (warm and cooling):
            causes.append(_Cause("the board", "is", "was", heat.words))
        steady = warm or bool(heat.slowed)
        first_s, first = self._window[0]
        if now_s - first_s >= options.step_s:
            for pipeline in pipelines:
                late = _late(pipeline, first.get(pipeline.name))
                steady = steady or late > options.max_late / 2
                if late > options.max_late:
                    what = f"{late:.0%} of the results of {pipeline.name}"
                    causes.append(_Cause(what, "are", "were", f"later than {pipeline.stats.deadline_ms:g} ms"))
        return ("high" if causes else "steady" if steady else "low"), causes

    def _is_cooling(self, now_s: float, excess: float) -> bool:
        """Whether it is less hot than a step ago."""
        while self._excess and now_s - self._excess[0][0] > self._options.step_s:
            self._excess.popleft()
        self._excess.append((now_s, excess))
        return self._excess[0][1] - excess >= COOLER


def _late(pipeline: Pipeline, first: _Counts | None) -> float:
    """Of the results since then, the share that came later than the deadline."""
    if first is None or not pipeline.feed.live:
        return 0.0
    counts = _counts(pipeline)
    return max(0, counts.late - first.late) / max(1, counts.results - first.results)


def _counts(pipeline: Pipeline) -> _Counts:
    frames = pipeline.feed.status().frames
    pipeline.count_passed()
    stats, dropped = pipeline.stats, pipeline.stats.dropped()
    wanted = frames - sum(dropped.get(reason, 0) for reason in UNWANTED)
    return _Counts(frames, wanted, stats.results, stats.late)


def _cost_s(pipeline: Pipeline) -> float:
    """Of one inference; of one that has not been made yet, nobody knows, and a millisecond stands for it."""
    seat = pipeline.seat
    return seat.engine_s / seat.inferences if seat.inferences and seat.engine_s > 0.0 else 1e-3
