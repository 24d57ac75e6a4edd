"""What one inference found, as it goes over MQTT on ``.../detections``: a body for each kind of result.

A body is written once, by `vedette.messages.bodies`; `vedette.mqtt.envelope` wraps it each time it is sent.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Struct, UnsetType

from vedette.clock import ClockState

from .envelope import message_of

MAX_OBJECTS: Final = 600  # of usually 100 bytes each; long labels make it fewer

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max as fractions of the frame."""


class FrameInfo(Struct, frozen=True):
    """Which picture. ``seq`` counts what the source gave; width and height in pixels."""

    seq: int
    width: int
    height: int


class WindowInfo(Struct, frozen=True):
    """Which stretch of readings. ``seq`` counts the windows of the source; ``samples`` are in it.

    ``first_us``, ``last_us``: times of the first and the last, microseconds by the sensor's own clock where it has one,
    else CLOCK_BOOTTIME.
    """

    seq: int
    samples: int
    first_us: int
    last_us: int


class DetectedObject(Struct, frozen=True, omit_defaults=True):
    """``box``: x_min, y_min, x_max, y_max as fractions of the frame."""

    label: str
    class_id: int
    score: float
    box: Box
    track: int | None = None


class SeenClass(Struct, frozen=True):
    """One class of a classifier."""

    label: str
    class_id: int
    score: float


class SeenPose(Struct, frozen=True, omit_defaults=True):
    """``keypoints``: by name, x, y and score; x and y as fractions of the frame, and a little outside where the network
    puts a point there. ``box``: as an object's; null where the network has none."""

    score: float
    keypoints: dict[str, tuple[float, float, float]]
    box: Box | None = None
    track: int | None = None


class SeenSegment(Struct, frozen=True):
    """One class of a segmentation: ``share`` of the frame's area, ``box`` around its pixels, ``centroid`` x, y of them."""

    label: str
    class_id: int
    share: float
    box: Box
    centroid: tuple[float, float]


class SeenAnomaly(Struct, frozen=True):
    """``anomalous``: the score is above the threshold. ``channels``: each one's own error, in the unit of the score.

    A number is null where the network gave none that is finite; such a window is anomalous.
    """

    score: float | None
    threshold: float
    anomalous: bool
    channels: dict[str, float | None]


class ModelRef(Struct, frozen=True):
    """Which model spoke."""

    name: str
    version: str
    sha256: str


class EngineRef(Struct, frozen=True):
    """Which engine ran it."""

    runtime: str
    delegate: str


class FrameLatency(Struct, frozen=True):
    """Of this very frame or window, milliseconds a stage."""

    capture: float
    queue: float
    preprocess: float
    infer: float
    decode: float
    total: float


class DetectionsBody(Struct, frozen=True, omit_defaults=True):
    """The part of a detections message that never changes. ``cut``: objects left out because the message was full."""

    frame: FrameInfo
    objects: list[DetectedObject]
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency
    cut: int = 0


class PosesBody(Struct, frozen=True, omit_defaults=True):
    """The same for key points: ``poses`` in the place of ``objects``."""

    frame: FrameInfo
    poses: list[SeenPose]
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency
    cut: int = 0


class SegmentsBody(Struct, frozen=True, omit_defaults=True):
    """The same for a segmentation: ``segments`` in the place of ``objects``."""

    frame: FrameInfo
    segments: list[SeenSegment]
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency
    cut: int = 0


class ClassesBody(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The same for a classifier: ``classes`` in the place of ``objects``; of a sensor, ``window`` in that of ``frame``."""

    frame: FrameInfo | UnsetType = UNSET
    window: WindowInfo | UnsetType = UNSET
    classes: list[SeenClass]
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency
    cut: int = 0


class AnomalyBody(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The same for an autoencoder: ``anomaly`` in the place of ``objects``, and a ``window`` or a ``frame``."""

    frame: FrameInfo | UnsetType = UNSET
    window: WindowInfo | UnsetType = UNSET
    anomaly: SeenAnomaly
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency


class ValuesBody(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The same for a network that estimates quantities: ``values`` by name, in the units that the model states.

    A value is null where the network gave no finite number.
    """

    frame: FrameInfo | UnsetType = UNSET
    window: WindowInfo | UnsetType = UNSET
    values: dict[str, float | None]
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency


class DetectionsMessage(DetectionsBody, frozen=True, omit_defaults=True, kw_only=True):
    """A whole message on ``.../detections`` of a detector, as a consumer reads it."""

    # spelt out for those who read it with types; of the others `message_of` makes the same
    v: int
    id: str
    epoch: int
    seq: int
    ts: str
    mono_us: int
    boot: str
    clock: ClockState
    replay: bool
    device: str
    pipeline: str


RESULT_MESSAGES: Final[dict[str, type[Struct]]] = {
    "detections": DetectionsMessage,
    "classes": message_of(
        ClassesBody, "A whole message on ``.../detections`` of a classifier, as a consumer reads it."
    ),
    "poses": message_of(PosesBody, "A whole message on ``.../detections`` of a pose network, as a consumer reads it."),
    "segments": message_of(
        SegmentsBody, "A whole message on ``.../detections`` of a segmentation, as a consumer reads it."
    ),
    "anomaly": message_of(
        AnomalyBody, "A whole message on ``.../detections`` of an autoencoder, as a consumer reads it."
    ),
    "values": message_of(
        ValuesBody, "A whole message on ``.../detections`` of a network that estimates, as a consumer reads it."
    ),
}
"""Schema name -> struct."""
