"""What goes over MQTT: schemas, topics, QoS and retain flags, of what a really running agent sends."""

from __future__ import annotations

import copy
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real import BUNDLE, CLIP, ROOT, Agent, Message, Subscriber, agent_config, wait_for, write_pictures

from vedette import clock
from vedette.delivery import Entry, Key, Stream
from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.mqtt.envelope import Envelope, render
from vedette.mqtt.payloads import MESSAGES
from vedette.mqtt.schemas import main as write_schemas
from vedette.mqtt.schemas import schemas
from vedette.mqtt.topics import Topics

SCHEMAS = ROOT / "docs" / "schemas"


def strict(schema: Any) -> Any:
    """The schema with every object closed: a field that is not documented fails."""
    if isinstance(schema, dict):
        closed = {key: strict(value) for key, value in schema.items()}
        if closed.get("type") == "object" and "properties" in closed:
            closed["additionalProperties"] = False
        return closed
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


VALIDATORS = {
    name.removesuffix(".json"): jsonschema.Draft202012Validator(strict(schema)) for name, schema in schemas().items()
}


def test_the_committed_schemas_are_those_of_the_structs(tmp_path: Path) -> None:
    assert write_schemas([str(tmp_path)]) == 0
    committed = {file.name: file.read_text(encoding="utf-8") for file in SCHEMAS.iterdir()}
    fresh = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    assert committed == fresh, "run: make schemas"


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_each_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas()[f"{name}.json"])


def test_the_schemas_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_schemas([]) == 2
    assert "usage:" in capsys.readouterr().err


class Recorded:
    """What an agent published from its start to its goodbye, to one who was there and to one who came late."""

    def __init__(self, folder: Path, config: str, port: int, device: str, task: str) -> None:
        self.device = device
        self.task = task
        path = folder / f"{device}.toml"
        if config:
            path.write_text(config)
        with Subscriber(port) as subscriber, Agent(path) as agent:
            subscriber.wait("/detections")
            if task == "detections":
                subscriber.wait("/events")  # somebody is followed from the third frame on: later than the first message
            subscriber.wait("/stats", lambda stats: stats["inferred"] and stats["latency_ms"]["acknowledged"]["count"])
            subscriber.wait("/ledger", lambda ledger: ledger["streams"])
            subscriber.wait("/health")
            subscriber.wait("/model")
            subscriber.wait("/status", lambda status: status["state"] == "ready")
            with Subscriber(port) as late:
                kept = 4 + (task == "detections")  # status, ledger, model, settings; and a detector's state
                wait_for("what is retained", lambda: len({m.topic for m in late.messages() if m.retain}) >= kept)
                self.late = late.messages()
            agent.signal(signal.SIGTERM)
            self.exit_code = agent.wait()
            subscriber.wait("/status", lambda status: status["state"] == "stopped")
            self.log = agent.text()
            self.messages = subscriber.messages()

    def of(self, topic: str) -> list[Message]:
        """Of exactly this topic below the device's."""
        return [m for m in self.messages if m.topic == f"vedette/{self.device}/{topic}"]


DETECTOR = f"""
device = "eye"
state_dir = "STATE"
[mqtt]
host = "{LOOPBACK}"
port = PORT
protocol = "PROTOCOL"
[intervals]
stats_s = 0.5
ledger_s = 0.5
health_s = 0.5
[pipeline.door]
model = "{BUNDLE}"
[pipeline.door.source]
url = "{CLIP}"
loop = true
[pipeline.door.zones.yard]
polygon = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
"""

KINDS = {"status", "stats", "ledger", "health", "model", "settings"}
FOLLOWED = {"events", "state"}
"""What a detector with a zone says besides."""


@pytest.fixture(scope="module", params=["classify", "detect"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("agent")
    with loopback_broker(os.environ.get("VEDETTE_TEST_BROKER", "auto")) as (name, port):
        protocol = "5" if name == "mosquitto" else "3.1.1"
        if request.param == "classify":
            write_pictures(folder / "pictures")
            source = f'url = "{folder / "pictures"}"\nfps = 20.0\nloop = true'
            agent_config(folder, port, source, device="eye", mqtt=f'protocol = "{protocol}"')
            yield Recorded(folder, "", port, "eye", "classes")
        else:
            if not BUNDLE.is_file():
                pytest.skip("the shipped detector is absent: detections of a detector stay untested")
            text = DETECTOR.replace("STATE", str(folder / "state")).replace("PORT", str(port))
            yield Recorded(folder, text.replace("PROTOCOL", protocol), port, "eye", "detections")


def schema_of(message: Message, task: str) -> str:
    name = message.topic.rsplit("/", 1)[1]
    return task if name == "detections" else name


def test_every_message_meets_its_schema_and_holds_nothing_else(recorded: Recorded) -> None:
    kinds = {schema_of(message, recorded.task) for message in recorded.messages}
    assert kinds == {recorded.task, *KINDS} | (FOLLOWED if recorded.task == "detections" else set())
    for message in recorded.messages:
        VALIDATORS[schema_of(message, recorded.task)].validate(message.json)


def test_the_strict_schemas_would_notice_a_field_too_many_and_one_too_few(recorded: Recorded) -> None:
    for kind in (recorded.task, *KINDS, *(FOLLOWED if recorded.task == "detections" else ())):
        good = next(m.json for m in recorded.messages if schema_of(m, recorded.task) == kind)
        with pytest.raises(jsonschema.ValidationError):
            VALIDATORS[kind].validate({**good, "extra": 1})
        lacking = copy.deepcopy(good)
        del lacking["v"]
        with pytest.raises(jsonschema.ValidationError):
            VALIDATORS[kind].validate(lacking)


def test_topics_qos_and_retain_are_those_of_the_contract(recorded: Recorded) -> None:
    contract = {
        "status": (1, True),
        "ledger": (1, True),
        "health": (0, False),
        "door/detections": (1, False),
        "door/stats": (0, False),
        "door/model": (1, True),
        "door/settings": (1, True),
    }
    if recorded.task == "detections":
        contract |= {"door/events": (1, False), "door/state": (1, True)}
    base = f"vedette/{recorded.device}/"
    assert {m.topic for m in recorded.messages} == {base + topic for topic in contract}
    for topic, (qos, retained) in contract.items():
        assert {m.qos for m in recorded.of(topic)} == {qos}, topic
        assert any(m.topic == base + topic and m.retain for m in recorded.late) is retained, topic
    assert not any(m.retain for m in recorded.messages), "whoever is there gets nothing twice"


def test_the_states_are_told_in_order_and_the_last_is_a_goodbye(recorded: Recorded) -> None:
    states = [m.json["state"] for m in recorded.of("status")]
    assert states[-2:] == ["ready", "stopped"]
    assert set(states) <= {"init", "ready", "stopped"}
    assert recorded.exit_code == 0
    assert "Traceback" not in recorded.log


def test_ids_and_seqs(recorded: Recorded) -> None:
    messages = [m.json for m in recorded.of("door/detections")]
    epoch = messages[0]["epoch"]
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
    assert [m["id"] for m in messages] == [f"eye-{epoch}-door-detections-{m['seq']}" for m in messages]
    assert {m["boot"] for m in messages} == {clock.boot_id()}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", m["ts"]) for m in messages)
    assert [m["mono_us"] for m in messages] == sorted(m["mono_us"] for m in messages)
    assert all(m["v"] == 1 for m in messages)


def test_the_last_ledger_balances_and_accounts_for_every_message(recorded: Recorded) -> None:
    rows = {row["topic"]: row for row in recorded.of("ledger")[-1].json["streams"]}
    assert set(rows) == ({"detections", "events"} if recorded.task == "detections" else {"detections"})
    for topic, row in rows.items():
        sent = len(recorded.of(f"door/{topic}"))
        assert (row["first"], row["last"], row["acknowledged"]) == (1, sent, sent)
        assert (row["waiting"], row["rejected"], row["dropped"], row["lost_at_crash"]) == (0, 0, 0, 0)
        assert row["pipeline"] == "door"


def test_statistics_agree_with_the_messages(recorded: Recorded) -> None:
    stats = [m.json for m in recorded.of("door/stats")]
    sent = len(recorded.of("door/detections"))
    assert sum(s["inferred"] for s in stats) == sent
    kept = sent + len(recorded.of("door/events"))
    assert 0 < sum(s["latency_ms"]["acknowledged"]["count"] for s in stats) <= kept
    assert 0 < sum(s["latency_ms"]["sent"]["count"] for s in stats) <= kept
    for one in stats:
        assert set(one["latency_ms"]) == {
            "capture", "queue", "preprocess", "infer", "decode", "total", "sent", "acknowledged",
        }  # fmt: skip
        for latency in one["latency_ms"].values():
            assert latency["count"] == latency["histogram"]["zero_count"] + sum(latency["histogram"]["counts"])
            assert latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert one["source"]["outcome"] is None and one["source"]["why"] == ""


def test_the_model_is_named(recorded: Recorded) -> None:
    model = recorded.of("door/model")[-1].json
    message = recorded.of("door/detections")[0].json
    assert message["model"] == {key: model[key] for key in ("name", "version", "sha256")}
    assert message["engine"] == model["engine"]
    if recorded.task == "detections":
        assert model["self_test"] == "passed" and model["bundle"]
        found = {o["label"] for m in recorded.of("door/detections") for o in m.json["objects"]}
        assert "person" in found
        for one in recorded.of("door/detections"):
            for found_object in one.json["objects"]:
                x0, y0, x1, y1 = found_object["box"]
                assert 0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1
    else:
        assert model["self_test"] == "none" and not model["bundle"]


NAMES = st.text("abcXYZ019-_", min_size=1, max_size=64)


@given(device=NAMES, pipeline=NAMES, epoch=st.integers(1, 2**53), seq=st.integers(1, 2**53), replay=st.booleans())
def test_an_envelope_and_a_body_are_one_object(device: str, pipeline: str, epoch: int, seq: int, replay: bool) -> None:
    key = Key(epoch, Stream(pipeline, "detections"), seq)
    entry = Entry(key, clock.now_ns(), clock.boot_id(), "synced", b'{"a":[1,{"b":2}]}')
    message = msgspec.json.decode(render(entry, Topics("root", device), replay=replay))
    assert message["a"] == [1, {"b": 2}]
    assert message["id"] == f"{device}-{epoch}-{pipeline}-detections-{seq}"
    assert message["replay"] is replay
    assert set(message) == {*Envelope.__struct_fields__, "a"}


def test_a_message_of_an_earlier_boot_is_not_dated_by_this_ones_clock() -> None:
    key = Key(1, Stream("door", "detections"), 1)
    entry = Entry(key, 123_456_789_000, "another-boot", "unsynced", b'{"a":1}')
    message = msgspec.json.decode(render(entry, Topics("vedette", "d"), replay=True))
    assert (message["mono_us"], message["boot"], message["clock"]) == (123_456_789, "another-boot", "unsynced")
    assert message["ts"] == ""


def test_topics() -> None:
    topics = Topics("plant-7/vedette", "pi")
    assert topics.status == "plant-7/vedette/pi/status"
    assert topics.health == "plant-7/vedette/pi/health"
    assert topics.ledger == "plant-7/vedette/pi/ledger"
    assert topics.pipeline("door", "stats") == "plant-7/vedette/pi/door/stats"
    assert topics.stream(Stream("door", "detections")) == "plant-7/vedette/pi/door/detections"
    assert topics.all == "plant-7/vedette/pi/#"
