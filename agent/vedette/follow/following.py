"""Results over time: what stays the same object, what holds, and what happened. One for each kind of result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from vedette.contract.types import Anomaly, Classes, Detections, Float32Array, Int32Array, Result, Values

from .events import Event, Scene, SceneState
from .steady import SensorState, Steady
from .track import Tracker

State: TypeAlias = SceneState | SensorState


@dataclass(frozen=True, slots=True)
class Followed:
    """What one result meant. ``ids``: (n,) int32, the track of each detection, 0 for none; None where nothing is tracked.

    ``state``: what holds now, None where it is as before.
    """

    ids: Int32Array | None
    events: tuple[Event, ...]
    state: State | None


NOTHING = Followed(None, (), None)
_NOBODY = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


class Following(Protocol):
    """Owned by one thread."""

    @property
    def busy(self) -> bool:
        """Whether something moves that must not be lost sight of."""
        ...

    @property
    def last_id(self) -> int:
        """The newest id of a track; 0 where there is none."""
        ...

    def __call__(self, result: Result, captured_ns: int) -> Followed:
        """Takes a result, poor detections included."""
        ...

    def hold(self, until_ns: int) -> None:
        """Nothing changed until then, and nobody looked."""
        ...

    def unseen(self, now_ns: int) -> Followed:
        """Nobody looks: it is as if nothing were there, for what comes and goes."""
        ...

    def retune(self, thresholds: Float32Array) -> None:
        """Other thresholds, (labels,), from the next result on."""
        ...

    def end(self, now_ns: int) -> Followed:
        """Nothing more comes: what is open ends."""
        ...


class Unfollowed:
    """Every result stands alone."""

    @property
    def busy(self) -> bool:
        """Never."""
        return False

    @property
    def last_id(self) -> int:
        """None."""
        return 0

    def __call__(self, result: Result, captured_ns: int) -> Followed:
        """See `Following`."""
        return NOTHING

    def hold(self, until_ns: int) -> None:
        """See `Following`."""

    def unseen(self, now_ns: int) -> Followed:
        """See `Following`."""
        return NOTHING

    def retune(self, thresholds: Float32Array) -> None:
        """See `Following`."""

    def end(self, now_ns: int) -> Followed:
        """See `Following`."""
        return NOTHING


class FollowedScene:
    """Objects before a camera: tracks, and what they do in zones."""

    def __init__(self, tracker: Tracker, scene: Scene) -> None:
        self._tracker = tracker
        self._scene = scene

    @property
    def busy(self) -> bool:
        """See `Following`."""
        return self._tracker.busy

    @property
    def last_id(self) -> int:
        """See `Following`."""
        return self._tracker.last_id

    def __call__(self, result: Result, captured_ns: int) -> Followed:
        """See `Following`."""
        if not isinstance(result, Detections):
            raise TypeError(f"expected Detections, found {type(result).__name__}")
        tracked = self._tracker.update(result, captured_ns)
        change = self._scene.update(tracked, captured_ns)
        return Followed(tracked.ids, change.events, change.state)

    def hold(self, until_ns: int) -> None:
        """See `Following`."""
        self._tracker.hold(until_ns)

    def unseen(self, now_ns: int) -> Followed:
        """See `Following`."""
        return self(_NOBODY, now_ns) if self._tracker.watches else NOTHING

    def retune(self, thresholds: Float32Array) -> None:
        """See `Following`."""
        self._tracker.retune(thresholds)

    def end(self, now_ns: int) -> Followed:
        """See `Following`."""
        change = self._scene.end(self._tracker.end())
        return Followed(None, change.events, change.state)


class FollowedSignal:
    """A sensor's class, anomaly or values."""

    def __init__(self, steady: Steady) -> None:
        self._steady = steady

    @property
    def busy(self) -> bool:
        """Never: a sensor's windows are all looked at."""
        return False

    @property
    def last_id(self) -> int:
        """None."""
        return 0

    def __call__(self, result: Result, captured_ns: int) -> Followed:
        """See `Following`."""
        if not isinstance(result, Classes | Anomaly | Values):
            raise TypeError(f"expected Classes, an Anomaly or Values, found {type(result).__name__}")
        change = self._steady.update(result, captured_ns)
        return Followed(None, change.events, change.state)

    def hold(self, until_ns: int) -> None:
        """See `Following`."""

    def unseen(self, now_ns: int) -> Followed:
        """See `Following`. What a sensor said last holds until it says something else."""
        return NOTHING

    def retune(self, thresholds: Float32Array) -> None:
        """See `Following`. What `SteadyOptions` says of scores stays."""

    def end(self, now_ns: int) -> Followed:
        """See `Following`."""
        change = self._steady.end(now_ns)
        return Followed(None, change.events, change.state)
