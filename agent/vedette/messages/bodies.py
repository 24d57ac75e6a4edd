"""Results -> the bodies of messages: named by the labels, rounded, and cut until they fit a payload."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from vedette.contract.labels import is_used
from vedette.contract.types import Anomaly, Classes, Detections, Poses, Result, Segments, Values
from vedette.mqtt.envelope import MAX_BODY
from vedette.mqtt.results import (
    MAX_OBJECTS,
    AnomalyBody,
    Box,
    ClassesBody,
    DetectedObject,
    DetectionsBody,
    EngineRef,
    FrameInfo,
    FrameLatency,
    ModelRef,
    PosesBody,
    SeenAnomaly,
    SeenClass,
    SeenPose,
    SeenSegment,
    SegmentsBody,
    ValuesBody,
    WindowInfo,
)

PLACES: Final = 4  # decimals of scores and fractions: a tenth of a pixel of a frame 1,000 pixels wide
_PARTS: Final = 1e4  # of 1, as `PLACES` says
_US_IN_MS: Final = 1e3
# (x * n + _EVEN - _EVEN) / n is x rounded to an n-th: doubles of that size have no fractions, so that the addition rounds,
# half to even, as IEEE 754 has it. round() writes decimals and reads them; of a float32, as scores and boxes are, it makes
# the same double
_EVEN: Final = 1.5 * 2**52
DIGITS: Final = 6  # significant ones, of errors and values; float32 has seven

_OF_ANYTHING = (Classes, Anomaly, Values)  # what may be found in a window, too

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Body:
    """A message without its envelope. ``json``: one object, at most `MAX_BODY` bytes. ``cut``: things left out of it."""

    json: bytes
    cut: int = 0


class BodyWriter:
    """Writes what one pipeline's model finds. May be shared by threads: it keeps nothing between calls."""

    def __init__(self, labels: Sequence[str], model: ModelRef, engine: EngineRef) -> None:
        """``labels``: of classes, or of what else the model's results are rows of: key points, channels, quantities."""
        self._labels = tuple(labels)
        self._model = model
        self._engine = engine

    def __call__(
        self,
        result: Result,
        origin: FrameInfo | WindowInfo,
        latency_ms: Mapping[str, float],
        tracks: Sequence[int | None] | None = None,
        *,
        engine: EngineRef | None = None,
    ) -> Body:
        """The body of one result. ``latency_ms``: the stages of `FrameLatency`. ``tracks``: an id or None for each object
        or pose. ``engine``: who ran the model this time; None: the one that this was made with.

        What comes last in the result is cut: the lowest scores, the smallest shares. Raises `TypeError` for objects,
        poses or segments that are in no picture.
        """
        latency = FrameLatency(
            **{stage: (value * _US_IN_MS + _EVEN - _EVEN) / _US_IN_MS for stage, value in latency_ms.items()}
        )
        model, engine = self._model, engine or self._engine
        if isinstance(result, _OF_ANYTHING):
            frame: FrameInfo | UnsetType = origin if isinstance(origin, FrameInfo) else UNSET
            window: WindowInfo | UnsetType = origin if isinstance(origin, WindowInfo) else UNSET
            if isinstance(result, Classes):
                return _fit(
                    self._classes(result),
                    lambda classes, cut: ClassesBody(
                        frame=frame, window=window, classes=classes, model=model, engine=engine, latency_ms=latency,
                        cut=cut,
                    ),
                )  # fmt: skip
            if isinstance(result, Anomaly):
                anomaly = self._anomaly(result)
                return _whole(
                    AnomalyBody(
                        frame=frame, window=window, anomaly=anomaly, model=model, engine=engine, latency_ms=latency
                    )
                )
            values = self._named(result.values.tolist())
            return _whole(
                ValuesBody(frame=frame, window=window, values=values, model=model, engine=engine, latency_ms=latency)
            )
        if not isinstance(origin, FrameInfo):
            raise TypeError(f"{type(result).__name__} are of a frame, not of a {type(origin).__name__}")
        if isinstance(result, Detections):
            objects = self._objects(result, tracks)
            return _fit(objects, lambda kept, cut: DetectionsBody(origin, kept, model, engine, latency, cut))
        if isinstance(result, Poses):
            poses = self._poses(result, tracks)
            return _fit(poses, lambda kept, cut: PosesBody(origin, kept, model, engine, latency, cut))
        segments = self._segments(result)
        return _fit(segments, lambda kept, cut: SegmentsBody(origin, kept, model, engine, latency, cut))

    def _objects(self, found: Detections, tracks: Sequence[int | None] | None) -> list[DetectedObject]:
        rows = zip(
            found.class_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), _ids(tracks, len(found)), strict=True
        )
        return [
            DetectedObject(
                self._labels[class_id], class_id, (score * _PARTS + _EVEN - _EVEN) / _PARTS, _box(box), track
            )
            for class_id, score, box, track in rows
        ]

    def _classes(self, found: Classes) -> list[SeenClass]:
        rows = zip(found.class_ids.tolist(), found.scores.tolist(), strict=True)
        return [SeenClass(self._labels[class_id], class_id, round(score, PLACES)) for class_id, score in rows]

    def _poses(self, found: Poses, tracks: Sequence[int | None] | None) -> list[SeenPose]:
        boxes = [None] * len(found) if found.boxes is None else [_box(box) for box in found.boxes.tolist()]
        rows = zip(
            found.scores.tolist(), found.keypoints.tolist(), boxes, _ids(tracks, len(found)), strict=True
        )  # fmt: skip
        return [
            SeenPose(
                round(score, PLACES),
                {
                    name: (round(x, PLACES), round(y, PLACES), round(sure, PLACES))
                    for name, (x, y, sure) in zip(self._labels, points, strict=True)
                    if is_used(name)
                },
                box,
                track,
            )
            for score, points, box, track in rows
        ]

    def _segments(self, found: Segments) -> list[SeenSegment]:
        rows = zip(
            found.class_ids.tolist(), found.shares.tolist(), found.boxes.tolist(), found.centroids.tolist(), strict=True
        )
        return [
            SeenSegment(
                self._labels[class_id], class_id, round(share, PLACES), _box(box), (round(x, PLACES), round(y, PLACES))
            )
            for class_id, share, box, (x, y) in rows
        ]

    def _anomaly(self, found: Anomaly) -> SeenAnomaly:
        score = _significant(found.score)
        # a score that is no number is not at most the threshold either
        anomalous = not found.score <= found.threshold
        return SeenAnomaly(score, found.threshold, anomalous, self._named(found.errors.tolist()))

    def _named(self, values: Iterable[float]) -> dict[str, float | None]:
        return {
            name: _significant(value) for name, value in zip(self._labels, values, strict=True) if is_used(name)
        }  # fmt: skip


def _fit(items: list[_Item], wrap: Callable[[list[_Item], int], Struct]) -> Body:
    """As many of the items, from the first, as a payload holds."""
    kept = min(len(items), MAX_OBJECTS)
    data = msgspec.json.encode(wrap(items[:kept], len(items) - kept))
    while kept and len(data) > MAX_BODY:
        kept = kept * MAX_BODY // len(data)
        data = msgspec.json.encode(wrap(items[:kept], len(items) - kept))
    return Body(data, len(items) - kept)


def _whole(body: Struct) -> Body:
    """Of a result that cannot be cut; 256 names of 64 characters, all a manifest allows, fit."""
    return Body(msgspec.json.encode(body))


def _ids(tracks: Sequence[int | None] | None, count: int) -> Sequence[int | None]:
    return [None] * count if tracks is None else tracks


def _box(box: Sequence[float]) -> Box:
    x_min, y_min, x_max, y_max = box
    return (
        (x_min * _PARTS + _EVEN - _EVEN) / _PARTS,
        (y_min * _PARTS + _EVEN - _EVEN) / _PARTS,
        (x_max * _PARTS + _EVEN - _EVEN) / _PARTS,
        (y_max * _PARTS + _EVEN - _EVEN) / _PARTS,
    )


def _significant(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
