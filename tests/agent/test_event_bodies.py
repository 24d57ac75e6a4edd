"""Events and states as they go over MQTT: what every kind holds, and that the schemas know it."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import msgspec
import pytest
from real import ROOT

from vedette import clock
from vedette.delivery import Entry, Key, Stream
from vedette.follow.events import Event, Path, SceneState
from vedette.follow.steady import AnomalyState, SensorState
from vedette.messages.event_bodies import event_body, state_message
from vedette.mqtt.envelope import MAX_BODY, render
from vedette.mqtt.payloads import MESSAGES, encode
from vedette.mqtt.results import ModelRef
from vedette.mqtt.schemas import schemas
from vedette.mqtt.topics import Topics

MODEL = ModelRef("m", "1.0.0", "f" * 64)
BOX = (0.12345678, 0.2, 0.3, 0.4)
SECOND = 1_000_000_000


def validate(name: str, message: dict[str, Any]) -> None:
    """Against the schema with every object closed."""

    def strict(schema: Any) -> Any:
        if isinstance(schema, dict):
            closed = {key: strict(value) for key, value in schema.items()}
            return {**closed, "additionalProperties": False} if "properties" in closed else closed
        return [strict(item) for item in schema] if isinstance(schema, list) else schema

    jsonschema.Draft202012Validator(strict(schemas()[f"{name}.json"])).validate(message)


def sent(event: Event, captured_ns: int) -> dict[str, Any]:
    """The whole message as a consumer reads it, without what every message has."""
    body = event_body(event, captured_ns, MODEL)
    entry = Entry(Key(3, Stream("door", "events"), 5), captured_ns, clock.boot_id(), "synced", body)
    raw = render(entry, Topics("vedette", "pi"), replay=False)
    message = msgspec.json.decode(raw)
    validate("events", message)
    msgspec.json.decode(raw, type=MESSAGES["events"])
    assert (message["id"], message["mono_us"]) == ("pi-3-door-events-5", captured_ns // 1000)
    envelope = {"v", "id", "epoch", "seq", "ts", "mono_us", "boot", "clock", "replay", "device", "pipeline"}
    assert message["model"] == {"name": "m", "version": "1.0.0", "sha256": "f" * 64}
    return {key: value for key, value in message.items() if key not in {*envelope, "model"}}


def test_a_track_s_events() -> None:
    now_ns = clock.now_ns()
    told = sent(Event("track_began", now_ns - 1_500_000_000, "person", 7, 0.987654, BOX), now_ns)
    thing = {"label": "person", "track": 7, "score": 0.9877, "box": [0.1235, 0.2, 0.3, 0.4]}
    assert told == {"kind": "track_began", "ago_s": 1.5, **thing}
    path = Path((0.1, 0.2), (0.3, 0.4), 0.87654321)
    told = sent(Event("track_ended", now_ns, "person", 7, 0.987654, BOX, duration_s=3.14159, path=path), now_ns)
    way = {"first": [0.1, 0.2], "last": [0.3, 0.4], "length": 0.8765}
    assert told == {"kind": "track_ended", "ago_s": 0.0, **thing, "duration_s": 3.142, "path": way}
    told = sent(Event("zone_left", now_ns, "person", 7, 0.987654, BOX, zone="yard", dwell_s=0.0), now_ns)
    assert told == {"kind": "zone_left", "ago_s": 0.0, **thing, "zone": "yard", "dwell_s": 0.0}
    told = sent(Event("wire_crossed", now_ns, "person", 7, 0.987654, BOX, wire="gate", direction="in"), now_ns)
    assert told == {"kind": "wire_crossed", "ago_s": 0.0, **thing, "wire": "gate", "direction": "in"}


def test_a_predicted_box_reaches_no_further_than_the_frame() -> None:
    told = sent(Event("track_ended", 1, "person", 7, 0.9, (-0.1, 0.5, 0.2, 1.1)), 1)
    assert told["box"] == [0.0, 0.5, 0.2, 1.0]


def test_a_sensor_s_events() -> None:
    told = sent(Event("class_changed", SECOND, None, previous="walking", duration_s=2.0), SECOND)
    assert told == {"kind": "class_changed", "ago_s": 0.0, "label": None, "previous": "walking", "duration_s": 2.0}
    told = sent(Event("class_changed", SECOND, "walking", score=0.9), SECOND)
    assert told == {"kind": "class_changed", "ago_s": 0.0, "label": "walking", "previous": None, "score": 0.9}
    told = sent(Event("anomaly_ended", SECOND, score=0.1, duration_s=2.0, peak=0.98765), 2 * SECOND)
    assert told == {"kind": "anomaly_ended", "ago_s": 1.0, "score": 0.1, "duration_s": 2.0, "peak": 0.9877}
    assert sent(Event("anomaly_began", SECOND), SECOND) == {"kind": "anomaly_began", "ago_s": 0.0}


def test_the_longest_names_fit() -> None:
    event = Event("zone_left", 1, "é" * 256, 2**31 - 1, 0.9, BOX, zone="z" * 64, wire="w" * 64, direction="d" * 64)
    assert len(event_body(event, 1, MODEL)) < MAX_BODY


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def state(value: SceneState | SensorState) -> dict[str, Any]:
    message = msgspec.json.decode(encode(state_message(value, clock.now_ns(), device="pi", pipeline="door", epoch=3)))
    validate("state", message)
    assert re.fullmatch(TIME, message.pop("ts"))
    assert [message.pop(key) for key in ("v", "device", "pipeline", "epoch")] == [1, "pi", "door", 3]
    return dict(message)


def test_states() -> None:
    assert state(SceneState({"person": 2, "dog": 0}, {"yard": {"person": 1}})) == {
        "counts": {"person": 2, "dog": 0},
        "zones": {"yard": {"person": 1}},
    }
    assert state(SceneState({}, {})) == {"counts": {}, "zones": {}}
    told = state(SensorState("walking", 0.94, clock.now_ns()))
    assert re.fullmatch(TIME, told["class"].pop("since"))
    assert told == {"class": {"label": "walking", "score": 0.94}}
    told = state(SensorState(None, None, clock.now_ns()))
    assert told["class"]["label"] is None and told["class"]["score"] is None
    told = state(SensorState(anomaly=AnomalyState(True, clock.now_ns(), None, 0.2)))
    assert re.fullmatch(TIME, told["anomaly"].pop("since"))
    assert told == {"anomaly": {"active": True, "score": None, "threshold": 0.2}}
    assert state(SensorState(values={"t": 21.5, "h": None})) == {"values": {"t": 21.5, "h": None}}


@pytest.mark.parametrize("name", ["events", "state"])
def test_the_committed_schema_is_the_struct_s(name: str) -> None:
    assert json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text()) == schemas()[f"{name}.json"]


def test_the_document_s_examples_meet_the_schemas() -> None:
    text = (ROOT / "docs" / "WIRE.md").read_text()
    event = re.search(r'"kind":"zone_left".*?\}\}', text, re.DOTALL)
    assert event is not None
    fields = [("ago_s", float), ("zone", str), ("dwell_s", float), ("box", tuple[float, float, float, float])]
    msgspec.json.decode("{" + event[0], type=msgspec.defstruct("Fields", fields))
    example = next(block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"counts"' in block)
    validate("state", json.loads(example))
