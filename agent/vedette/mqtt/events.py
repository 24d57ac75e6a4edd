"""What happened and what holds now, as it goes over MQTT on ``.../events`` and ``.../state``."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Struct, UnsetType, field

from vedette.follow.events import EventKind

from .envelope import message_of
from .results import Box, ModelRef


class PathInfo(Struct, frozen=True):
    """Where a track went: the centre of its first and its last box, x and y as fractions of the frame, and the length of its
    way between them in the same measure."""

    first: tuple[float, float]
    last: tuple[float, float]
    length: float


class EventBody(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The part of an event's message that never changes. What means nothing for its kind is left out.

    ``ago_s``: so long before ``ts`` it happened; the frame or window of ``ts`` made it certain. ``score``: of a track, its
    best so far; of a class or an anomaly, that of the window. ``dwell_s``: how long the track was in the zone.
    ``duration_s``: how long what is over had lasted. ``direction``: what the configuration calls it. ``label``, of
    class_changed: the class from now on, null for none; ``previous``: the one before. ``peak``: an anomaly's highest score.
    """

    kind: EventKind
    ago_s: float = 0.0
    label: str | UnsetType | None = UNSET
    track: int | UnsetType = UNSET
    score: float | UnsetType = UNSET
    box: Box | UnsetType = UNSET
    zone: str | UnsetType = UNSET
    wire: str | UnsetType = UNSET
    direction: str | UnsetType = UNSET
    dwell_s: float | UnsetType = UNSET
    duration_s: float | UnsetType = UNSET
    path: PathInfo | UnsetType = UNSET
    previous: str | UnsetType | None = UNSET
    peak: float | UnsetType = UNSET
    model: ModelRef


class ClassInfo(Struct, frozen=True):
    """Which class holds, null for none; its score in the last window; since when."""

    label: str | None
    score: float | None
    since: str


class AnomalyInfo(Struct, frozen=True):
    """Whether an anomaly holds, and since when it does or does not. ``score``: of the last window, null where the network
    gave no finite number."""

    active: bool
    score: float | None
    threshold: float
    since: str


class StateMessage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What holds now. ``ts``: capture of the frame or window that changed it.

    Of a camera ``counts``, how many objects of each label are there, and ``zones``, the same of each zone; of a classifier
    ``class``, of an autoencoder ``anomaly``, of a network that estimates ``values``, by name and in the model's units.
    """

    v: int
    device: str
    pipeline: str
    epoch: int
    ts: str
    counts: dict[str, int] | UnsetType = UNSET
    zones: dict[str, dict[str, int]] | UnsetType = UNSET
    class_: ClassInfo | UnsetType = field(default=UNSET, name="class")
    anomaly: AnomalyInfo | UnsetType = UNSET
    values: dict[str, float | None] | UnsetType = UNSET


EVENT_MESSAGES: Final[dict[str, type[Struct]]] = {
    "events": message_of(EventBody, "A whole message on ``.../events``, as a consumer reads it."),
    "state": StateMessage,
}
"""Schema name -> struct."""
