"""Tracks -> what happened: came, went, entered, left, crossed; and the counts that hold now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import Annotated, Final, Literal, TypeAlias, get_args

import numpy as np
from msgspec import Meta, Struct

from .track import Tracked, Tracks
from .zones import Label, WireOptions, Wires, ZoneOptions, Zones

SceneKind: TypeAlias = Literal["track_began", "track_ended", "zone_entered", "zone_left", "wire_crossed"]
EventKind: TypeAlias = SceneKind | Literal["class_changed", "anomaly_began", "anomaly_ended"]
Box: TypeAlias = tuple[float, float, float, float]
Seconds = Annotated[float, Meta(ge=0.0, le=86400.0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]

SCENE_KINDS: Final[tuple[SceneKind, ...]] = get_args(SceneKind)
LOOKS: Final = 2  # frames without a track, after which it may be left out of the counts
STRIDE: Final = 0.02  # of the frame; a path's length is summed up in such steps, for boxes tremble


class SceneOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.events]"""

    labels: Annotated[tuple[Label, ...], Meta(max_length=1000)] = ()
    """Which labels count; none for all that are reported."""
    min_score: Fraction = 0.0
    """The best score that a track must have reached."""
    min_size: Fraction = 0.0
    """Area of its box that a track must have reached, as a share of the frame."""
    min_duration_s: Seconds = 0.5
    """How long a track must have lasted, or have been inside a zone, before it counts."""
    debounce_s: Seconds = 1.0
    """How long it must be outside a zone before it has left; who crosses a wire and is back sooner has not crossed it."""
    unseen_s: Seconds = 0.5
    """How long a track counts in the state after it was last seen, and for `LOOKS` frames without it in any case. It may be
    found again as another one: both would count."""
    report: Annotated[tuple[SceneKind, ...], Meta(max_length=len(SCENE_KINDS))] = SCENE_KINDS
    """Which events are published; the counts hold all the same."""


@dataclass(frozen=True, slots=True)
class Path:
    """Where a track went: the centre of its first and its last box, x and y as fractions of the frame, and the length of
    its way between them in the same measure."""

    first: tuple[float, float]
    last: tuple[float, float]
    length: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. What means nothing for its kind is None.

    ``at_ns``: when it happened, CLOCK_BOOTTIME; the frame that made it certain may be later. ``score``: of a track, its
    best so far; of a class or an anomaly, that of the window. ``duration_s``: how long what ended had lasted.
    ``dwell_s``: how long a track was in the zone. ``direction``: what the wire calls it. ``previous``: the class before.
    ``peak``: the highest score of an anomaly.
    """

    kind: EventKind
    at_ns: int
    label: str | None = None
    track: int | None = None
    score: float | None = None
    box: Box | None = None
    zone: str | None = None
    wire: str | None = None
    direction: str | None = None
    dwell_s: float | None = None
    duration_s: float | None = None
    path: Path | None = None
    previous: str | None = None
    peak: float | None = None


@dataclass(frozen=True, slots=True)
class SceneState:
    """What holds now: how many objects of each label, in the whole frame and in each zone. A label that was ever there, or
    that the options name, stays with 0."""

    counts: dict[str, int]
    zones: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class SceneChange:
    """What a frame brought. ``state``: None where it is as before."""

    events: tuple[Event, ...]
    state: SceneState | None


@dataclass(slots=True)
class _Presence:
    """One track and one zone. ``changed_ns``: since when it is on the other side than what counts."""

    inside: bool = False
    entered_ns: int = 0
    changed_ns: int | None = None

    def step(self, is_inside: bool, now_ns: int, patience_ns: int) -> bool:
        """Whether what counts has changed, after the other side has lasted for ``patience_ns``."""
        if is_inside == self.inside:
            self.changed_ns = None
            return False
        if self.changed_ns is None:
            self.changed_ns = now_ns
        return now_ns - self.changed_ns >= patience_ns


@dataclass(slots=True)
class _Object:
    """What is remembered of a track."""

    id: int
    label: str
    """What the tracker calls it, until it counts."""
    began_ns: int
    seen_ns: int
    box: Box
    first: tuple[float, float]
    best: float = 0.0
    area: float = 0.0
    counts: bool = False
    present: bool = False
    """Whether it is in the counts now."""
    misses: int = 0
    length: float = 0.0
    waypoint: tuple[float, float] = (0.0, 0.0)
    inside: list[bool] = field(default_factory=list)
    """Of each zone, as last seen."""
    presences: list[_Presence] = field(default_factory=list)
    crossings: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Wire -> direction and time of a crossing that is not certain yet."""


class Scene:
    """What happens before one camera. Owned by one thread.

    Every ``zone_left`` follows a ``zone_entered`` of the same track and zone, every ``track_ended`` a ``track_began``;
    the counts are those of what began or entered, has not ended or left, and was seen lately. `end` closes all that is open.
    """

    def __init__(
        self,
        options: SceneOptions,
        labels: Sequence[str],
        zones: Mapping[str, ZoneOptions],
        wires: Mapping[str, WireOptions],
    ) -> None:
        """``labels``: of the model, by class id."""
        self._options = options
        self._labels = labels
        self._followed = frozenset(options.labels or labels)
        self._zone_names, self._wire_names = tuple(zones), tuple(wires)
        self._zone_options, self._wire_options = tuple(zones.values()), tuple(wires.values())
        self._zones, self._wires = Zones(zones.values()), Wires(wires.values())
        self._min_duration_ns = int(options.min_duration_s * 1e9)
        self._debounce_ns = int(options.debounce_s * 1e9)
        self._unseen_ns = int(options.unseen_s * 1e9)
        self._objects: dict[int, _Object] = {}
        self._events: list[Event] = []
        self._counts = dict.fromkeys(options.labels, 0)
        self._zone_counts = {name: dict.fromkeys(zone.labels or options.labels, 0) for name, zone in zones.items()}
        self._told: SceneState | None = None

    def update(self, tracked: Tracked, captured_ns: int) -> SceneChange:
        """Takes what the tracker made of a frame. The first call always has a state."""
        live = tracked.live
        before = [self._objects.get(track) for track in live.ids.tolist()]
        crossed = self._crossed(before, live)
        inside = self._zones.inside(live.boxes).tolist()
        boxes = live.boxes.tolist()
        for row, known in enumerate(before):
            label = self._labels[live.class_ids[row]] if known is None or not known.counts else known.label
            if label not in self._followed:
                continue
            if known is None:
                known = self._meet(live, row, boxes[row])
            known.label = label
            known.seen_ns = int(live.seen_ns[row])  # also unseen: what was held in between counts
            if live.seen[row]:
                self._see(known, live, row, boxes[row], inside[row], crossed[row])
            self._step(known, captured_ns, bool(live.seen[row]))
            self._show(known, captured_ns - int(live.seen_ns[row]), bool(live.seen[row]))
        for track in tracked.ended.ids.tolist():
            if track in self._objects:
                self._close(self._objects.pop(track))
        return self._take()

    def end(self, ended: Tracks | None = None) -> SceneChange:
        """Nothing more comes: all that is open ends, each when it was last seen. ``ended``: the tracker's, which knows of
        what was held since the last frame."""
        if ended is not None:
            for track, seen_ns in zip(ended.ids.tolist(), ended.seen_ns.tolist(), strict=True):
                if track in self._objects:
                    self._objects[track].seen_ns = seen_ns
        for known in self._objects.values():
            self._close(known)
        self._objects.clear()
        return self._take()

    def _crossed(self, before: Sequence[_Object | None], live: Tracks) -> list[list[int]]:
        if not len(self._wires) or not len(live):
            return [[] for _ in before]
        last = [live.firsts[row] if known is None else known.box for row, known in enumerate(before)]
        return self._wires.crossed(np.asarray(last, np.float32), live.boxes).tolist()  # type: ignore[no-any-return]

    def _meet(self, live: Tracks, row: int, box: Sequence[float]) -> _Object:
        first = _centre(live.firsts[row].tolist())
        known = _Object(
            int(live.ids[row]), self._labels[live.class_ids[row]], int(live.began_ns[row]), int(live.seen_ns[row]),
            _box(box), first, waypoint=first, inside=[False] * len(self._zones),
            presences=[_Presence() for _ in self._zone_names],
        )  # fmt: skip
        self._objects[known.id] = known
        return known

    def _see(
        self, known: _Object, live: Tracks, row: int, box: Sequence[float], inside: list[bool], crossed: list[int]
    ) -> None:
        """What a frame that shows the track says of it."""
        known.box = _box(box)
        known.best = float(live.scores[row])
        known.area = max(known.area, (box[2] - box[0]) * (box[3] - box[1]))
        centre = _centre(box)
        if (step := hypot(centre[0] - known.waypoint[0], centre[1] - known.waypoint[1])) >= STRIDE:
            known.length += step
            known.waypoint = centre
        for index, zone in enumerate(self._zone_options):
            known.inside[index] = inside[index] and (not zone.labels or known.label in zone.labels)
        for index, direction in enumerate(crossed):
            wire = self._wire_options[index]
            if direction and (not wire.labels or known.label in wire.labels):
                self._cross(known, index, direction)

    def _cross(self, known: _Object, wire: int, direction: int) -> None:
        """Of what a track crosses before it counts, the last crossing of each wire is kept."""
        uncertain = known.crossings.pop(wire, None)
        if uncertain is not None and uncertain[0] != direction:
            return  # back again
        if uncertain is not None and known.counts:
            self._tell_crossing(known, wire, *uncertain)  # round the wire's end and across it again
        known.crossings[wire] = (direction, known.seen_ns)

    def _step(self, known: _Object, now_ns: int, seen: bool) -> None:
        """Time passes: what has lasted long enough becomes certain. Nothing begins to count while it is unseen."""
        if not known.counts and seen and self._is_due(known):
            known.counts = True
            self._tell(known, "track_began", known.began_ns)
        for index, presence in enumerate(known.presences):
            patience_ns = self._debounce_ns if presence.inside else self._min_duration_ns
            due = presence.step(known.inside[index], now_ns, patience_ns)
            if due and presence.inside:
                self._leave(known, index)
            elif due and known.counts and seen:
                self._enter(known, index)
        for wire, (direction, at_ns) in list(known.crossings.items()):
            if known.counts and now_ns - at_ns >= self._debounce_ns:
                del known.crossings[wire]
                self._tell_crossing(known, wire, direction, at_ns)

    def _show(self, known: _Object, unseen_ns: int, seen: bool) -> None:
        """Whether it is in the counts."""
        known.misses = 0 if seen else known.misses + 1
        present = known.counts and (known.misses <= LOOKS or unseen_ns <= self._unseen_ns)
        if present != known.present:
            known.present = present
            change = 1 if present else -1
            self._count(self._counts, known.label, change)
            for name, presence in zip(self._zone_names, known.presences, strict=True):
                if presence.inside:
                    self._count(self._zone_counts[name], known.label, change)

    def _is_due(self, known: _Object) -> bool:
        return (
            known.seen_ns - known.began_ns >= self._min_duration_ns
            and known.best >= self._options.min_score
            and known.area >= self._options.min_size
        )

    def _enter(self, known: _Object, zone: int) -> None:
        presence = known.presences[zone]
        presence.entered_ns = known.seen_ns if presence.changed_ns is None else presence.changed_ns
        presence.inside, presence.changed_ns = True, None
        if known.present:
            self._count(self._zone_counts[self._zone_names[zone]], known.label, 1)
        self._tell(known, "zone_entered", presence.entered_ns, zone=self._zone_names[zone])

    def _leave(self, known: _Object, zone: int) -> None:
        presence = known.presences[zone]
        left_ns = known.seen_ns if presence.changed_ns is None else presence.changed_ns
        presence.inside, presence.changed_ns = False, None
        if known.present:
            self._count(self._zone_counts[self._zone_names[zone]], known.label, -1)
        dwell_s = max(0, left_ns - presence.entered_ns) / 1e9
        self._tell(known, "zone_left", left_ns, zone=self._zone_names[zone], dwell_s=dwell_s)

    def _close(self, known: _Object) -> None:
        if not known.counts:
            return
        for wire, (direction, at_ns) in known.crossings.items():
            self._tell_crossing(known, wire, direction, at_ns)
        for index, presence in enumerate(known.presences):
            if presence.inside:
                self._leave(known, index)
        if known.present:
            self._count(self._counts, known.label, -1)
        self._tell(
            known, "track_ended", known.seen_ns, duration_s=(known.seen_ns - known.began_ns) / 1e9,
            path=Path(known.first, _centre(known.box), known.length),
        )  # fmt: skip

    def _tell_crossing(self, known: _Object, wire: int, direction: int, at_ns: int) -> None:
        options = self._wire_options[wire]
        name = options.rightward if direction > 0 else options.leftward
        self._tell(known, "wire_crossed", at_ns, wire=self._wire_names[wire], direction=name)

    def _tell(
        self,
        known: _Object,
        kind: SceneKind,
        at_ns: int,
        *,
        zone: str | None = None,
        wire: str | None = None,
        direction: str | None = None,
        dwell_s: float | None = None,
        duration_s: float | None = None,
        path: Path | None = None,
    ) -> None:
        if kind in self._options.report:
            self._events.append(
                Event(
                    kind, at_ns, known.label, known.id, known.best, known.box, zone, wire, direction, dwell_s, duration_s,
                    path,
                )
            )  # fmt: skip

    @staticmethod
    def _count(counts: dict[str, int], label: str, change: int) -> None:
        counts[label] = counts.get(label, 0) + change

    def _take(self) -> SceneChange:
        events, self._events = tuple(self._events), []
        if self._told is not None and self._told.counts == self._counts and self._told.zones == self._zone_counts:
            return SceneChange(events, None)
        self._told = SceneState(dict(self._counts), {name: dict(counts) for name, counts in self._zone_counts.items()})
        return SceneChange(events, self._told)


def _box(box: Iterable[float]) -> Box:
    x_min, y_min, x_max, y_max = box
    return x_min, y_min, x_max, y_max


def _centre(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
