"""Events and states -> what goes over MQTT of them."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from vedette import clock
from vedette.follow.events import Event, SceneState
from vedette.follow.steady import SensorState
from vedette.mqtt.envelope import VERSION
from vedette.mqtt.events import AnomalyInfo, ClassInfo, EventBody, PathInfo, StateMessage
from vedette.mqtt.results import Box, ModelRef

_T = TypeVar("_T")
_encoder: Final = msgspec.json.Encoder()


def event_body(event: Event, captured_ns: int, model: ModelRef) -> bytes:
    """The body of an event's message. ``captured_ns``: of the frame or window that made it certain, which the outbox dates
    the message by: one that looks back further than a replay's age is news all the same."""
    of_class = event.kind == "class_changed"
    body = EventBody(
        kind=event.kind,
        ago_s=_rounded(max(0, captured_ns - event.at_ns) / 1e9, 3),
        label=event.label if of_class else _given(event.label),
        track=_given(event.track),
        score=UNSET if event.score is None else _rounded(event.score),
        box=UNSET if event.box is None else _box(event.box),
        zone=_given(event.zone),
        wire=_given(event.wire),
        direction=_given(event.direction),
        dwell_s=UNSET if event.dwell_s is None else _rounded(event.dwell_s, 3),
        duration_s=UNSET if event.duration_s is None else _rounded(event.duration_s, 3),
        path=UNSET if event.path is None else PathInfo(
            (_rounded(event.path.first[0]), _rounded(event.path.first[1])),
            (_rounded(event.path.last[0]), _rounded(event.path.last[1])),
            _rounded(event.path.length),
        ),
        previous=event.previous if of_class else UNSET,
        peak=UNSET if event.peak is None else _rounded(event.peak),
        model=model,
    )  # fmt: skip
    return _encoder.encode(body)


def state_message(
    state: SceneState | SensorState, captured_ns: int, *, device: str, pipeline: str, epoch: int
) -> StateMessage:
    """What holds from a frame or window on. ``captured_ns``: of this boot."""
    ts = clock.wall_time(captured_ns)
    if isinstance(state, SceneState):
        return StateMessage(
            v=VERSION, device=device, pipeline=pipeline, epoch=epoch, ts=ts, counts=state.counts, zones=state.zones
        )
    held = state.since_ns is not None
    return StateMessage(
        v=VERSION,
        device=device,
        pipeline=pipeline,
        epoch=epoch,
        ts=ts,
        class_=ClassInfo(state.label, state.score, clock.wall_time(state.since_ns or 0)) if held else UNSET,
        anomaly=UNSET if state.anomaly is None else AnomalyInfo(
            state.anomaly.active, state.anomaly.score, state.anomaly.threshold, clock.wall_time(state.anomaly.since_ns)
        ),
        values=_given(state.values),
    )  # fmt: skip


def _given(value: _T | None) -> _T | UnsetType:
    return UNSET if value is None else value


def _rounded(value: float, digits: int = 4) -> float:
    return round(value, digits)


def _box(box: Box) -> Box:
    """A filtered box may reach a little over the frame's edge; a message's does not."""
    x_min, y_min, x_max, y_max = (_rounded(min(1.0, max(0.0, side))) for side in box)
    return x_min, y_min, x_max, y_max
