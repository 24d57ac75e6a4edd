"""What Home Assistant is told, and what Home Assistant itself makes of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.publish as publish
import pytest
from home_assistant.environment import HomeAssistant, Unavailable, make
from hypothesis import given
from hypothesis import strategies as st
from real import DEADLINE_S, ROOT, Mosquitto, needs_mosquitto, wait_for

from vedette.demo.broker import LOOPBACK
from vedette.mqtt import Incoming, Link, LinkOptions, Subscription, Topics
from vedette.mqtt.announcer import FILE, Announcer
from vedette.mqtt.commands import Commands, Handlers
from vedette.mqtt.discovery import (
    DeviceFacts,
    PipelineFacts,
    component_id,
    discovery,
    discovery_topic,
    platforms,
)
from vedette.mqtt.envelope import VERSION
from vedette.mqtt.events import AnomalyInfo, ClassInfo, StateMessage
from vedette.mqtt.payloads import StatusMessage, encode
from vedette.mqtt.requests import SettingsMessage
from vedette.outbox import MemoryOutbox

TOPICS = Topics("plant-7/vedette", "eye")
TOPIC = discovery_topic("homeassistant", TOPICS)
ODD = """it's {{ "odd" }} %} \\ \u00fc \U0001f600"""
FACTS = DeviceFacts(
    "1.2.0",
    (
        PipelineFacts(
            "door", "counts", labels=("person", "items", ODD), zones=("porch", "way-in"), thresholds=("person", ODD),
            snapshots=True,
        ),
        PipelineFacts("yard", "counts"),
        PipelineFacts("belt", "class", labels=("ok", "worn")),
        PipelineFacts("pump", "anomaly", max_threshold=1e6),
        PipelineFacts("tank", "values", values=(("level", "cm"), ("values", "")), max_threshold=0),
        PipelineFacts("plain", None),
    ),
)  # fmt: skip


def test_one_message_for_the_whole_device() -> None:
    message = discovery(FACTS, TOPICS)
    assert TOPIC == "homeassistant/device/eye/config"
    assert message["device"]["identifiers"] == ["vedette-eye"]
    assert message["device"]["sw_version"] == message["origin"]["sw_version"] == "1.2.0"
    kinds = {name: one["platform"] for name, one in message["components"].items()}
    assert kinds["problem"] == "binary_sensor" and kinds["temperature"] == "sensor"
    doors = {name: kind for name, kind in kinds.items() if name.startswith("door_")}
    assert sorted(doors.values()) == ["binary_sensor"] * 3 + ["button", "image"] + ["number"] * 3 + ["sensor"] * 6 + [
        "switch"
    ]
    assert not any(name.startswith("tank_threshold") for name in kinds)
    assert platforms(message) == kinds
    unique = [one["unique_id"] for one in message["components"].values()]
    assert len(set(unique)) == len(unique)


def test_intervals_say_when_a_value_is_too_old() -> None:
    components = discovery(DeviceFacts("1", (PipelineFacts("a"),), stats_s=7.0, health_s=0.1), TOPICS)["components"]
    assert (components["a_fps"]["expire_after"], components["temperature"]["expire_after"]) == (21, 1)
    facts = DeviceFacts("1", (PipelineFacts("a"),), expire_after_s=600)
    components = discovery(facts, TOPICS)["components"]
    assert (components["a_fps"]["expire_after"], components["temperature"]["expire_after"]) == (600, 600)


def test_what_is_no_more_has_nothing_but_its_platform() -> None:
    message = discovery(FACTS, TOPICS, {"gate_count": "sensor", "door_fps": "sensor"})
    assert message["components"]["gate_count"] == {"platform": "sensor"}
    assert len(message["components"]["door_fps"]) > 1, "it is back"
    assert "gate_count" not in platforms(message)


@given(first=st.text(max_size=12), second=st.text(max_size=12))
def test_two_names_never_become_one(first: str, second: str) -> None:
    one, other = component_id("door", "count", first), component_id("door", "count", second)
    assert (one == other) is (first == second)
    assert all(c.isascii() and (c.isalnum() or c in "-_") for c in one)


# the announcer


class Told:
    """An announcer with a broker that is there or not, and a clock of the test's."""

    def __init__(self, folder: Path, facts: DeviceFacts | None = FACTS, topic: str = TOPIC) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.alerts: list[str] = []
        self.there = True
        self.now_ns = 0
        message = None if facts is None else lambda retired: discovery(facts, TOPICS, retired)
        self.announcer = Announcer(
            folder, topic, message, self._publish, self.alerts.append,
            now_ns=lambda: self.now_ns, jitter_s=lambda: 7.5,
        )  # fmt: skip

    def _publish(self, topic: str, payload: bytes) -> bool:
        if self.there:
            self.sent.append((topic, payload))
        return self.there


def without(name: str) -> DeviceFacts:
    return DeviceFacts("1.2.1", tuple(p for p in FACTS.pipelines if p.name != name))


def test_it_announces_on_each_connection_and_again_after_home_assistants_birth(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.announcer.turn()
    assert told.sent == []
    told.announcer.connected()
    told.announcer.connected()
    assert [topic for topic, _ in told.sent] == [TOPIC] * 2
    for payload in (b"offline", b"", b"online", b"online"):
        told.announcer.heard(Incoming("homeassistant/status", payload))
    told.now_ns = int(7.4e9)
    told.announcer.turn()
    assert len(told.sent) == 2
    told.now_ns = int(7.5e9)
    told.announcer.turn()
    told.announcer.turn()
    assert len(told.sent) == 3, "once, however often it was asked"
    assert json.loads(told.sent[-1][1]) == discovery(FACTS, TOPICS)
    assert told.alerts == []


def test_what_is_told_last_is_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(tmp_path)
    publish = told._publish
    newer = threading.Thread(
        target=told.announcer.change, args=(lambda retired: discovery(without("yard"), TOPICS, retired),)
    )

    def amid_a_connection(topic: str, payload: bytes) -> bool:
        if not newer.ident:
            newer.start()
            newer.join(0.2)  # as far as it comes
        return publish(topic, payload)

    monkeypatch.setattr(told.announcer, "_publish", amid_a_connection)
    told.announcer.connected()
    newer.join(DEADLINE_S)
    assert [json.loads(payload)["components"]["yard_count"] == {"platform": "sensor"} for _, payload in told.sent] == [
        False, True,
    ]  # fmt: skip
    assert told.alerts == []
    assert Told(tmp_path, without("yard")).announcer.retired == ()


def test_what_another_model_no_longer_has_is_taken_back_at_once(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.announcer.connected()
    told.announcer.change(lambda retired: discovery(FACTS, TOPICS, retired))
    assert len(told.sent) == 1, "nothing is another"
    told.announcer.change(lambda retired: discovery(without("yard"), TOPICS, retired))
    components = json.loads(told.sent[-1][1])["components"]
    assert len(told.sent) == 2 and components["yard_count"] == {"platform": "sensor"}
    # the next start knows what it need not take back, and what it was told
    assert Told(tmp_path, without("yard")).announcer.retired == ()
    told.announcer.change(lambda retired: discovery(FACTS, TOPICS, retired))
    assert "state_topic" in json.loads(told.sent[-1][1])["components"]["yard_count"], "it came back"


def test_the_jitter_is_up_to_ten_seconds(tmp_path: Path) -> None:
    due = set()
    for _ in range(50):
        announcer = Announcer(tmp_path, TOPIC, lambda r: {"components": {}}, lambda t, p: True, print, now_ns=lambda: 0)
        announcer.heard(Incoming("homeassistant/status", b"online"))
        due.add(announcer._due_ns)
    assert len(due) > 40 and min(due) >= 0 and max(due) <= 10e9  # type: ignore[type-var, operator]


def test_what_the_configuration_no_longer_has_is_taken_back_through_one_run(tmp_path: Path) -> None:
    Told(tmp_path).announcer.connected()
    told = Told(tmp_path, without("yard"))
    assert set(told.announcer.retired) == {"yard_enabled", "yard_fps", "yard_threshold", "yard_count", "yard_occupancy"}
    for _ in range(2):
        told.announcer.connected()
        components = json.loads(told.sent[-1][1])["components"]
        assert components["yard_enabled"] == {"platform": "switch"}
        assert len(components["door_enabled"]) > 1
    after = Told(tmp_path, without("yard"))
    assert after.announcer.retired == ()


def test_what_could_not_be_sent_is_taken_back_later(tmp_path: Path) -> None:
    Told(tmp_path).announcer.connected()
    told = Told(tmp_path, without("yard"))
    told.there = False
    told.announcer.connected()
    assert Told(tmp_path, without("yard")).announcer.retired == told.announcer.retired != ()


def test_an_agent_that_is_to_be_hidden_or_told_elsewhere_is_withdrawn(tmp_path: Path) -> None:
    Told(tmp_path).announcer.connected()
    moved = Told(tmp_path, topic="hass/device/eye/config")
    moved.announcer.connected()
    assert [(topic, bool(payload)) for topic, payload in moved.sent] == [
        (TOPIC, False), ("hass/device/eye/config", True),
    ]  # fmt: skip
    hidden = Told(tmp_path, None)
    hidden.announcer.connected()
    hidden.announcer.heard(Incoming("homeassistant/status", b"online"))
    hidden.now_ns = 10**12
    hidden.announcer.turn()
    assert hidden.sent == [("hass/device/eye/config", b"")]
    assert not (tmp_path / FILE).exists()
    never = Told(tmp_path, None)
    never.announcer.connected()
    assert never.sent == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"topic": 1}', b"[]", b"\xff"])
def test_a_spoilt_memory_is_an_alert_and_no_more(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    told = Told(tmp_path)
    assert len(told.alerts) == 1 and FILE in told.alerts[0]
    told.announcer.connected()
    assert len(told.sent) == 1
    assert Told(tmp_path).alerts == []


def test_a_memory_that_cannot_be_written_is_an_alert_and_no_more(tmp_path: Path) -> None:
    told = Told(tmp_path / "not there")
    told.announcer.connected()
    assert len(told.sent) == 1
    assert len(told.alerts) == 1 and "cannot be noted" in told.alerts[0]


# Home Assistant itself


@pytest.fixture(scope="module")
def home_assistant_root() -> Path:
    try:
        return make(ROOT / "build" / "home-assistant")
    except Unavailable as error:
        pytest.skip(f"{error}: what Home Assistant makes of our messages stays untested")


class House:
    """Home Assistant, a broker and an agent that does nothing but announce itself and listen."""

    def __init__(self, root: Path, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self.done: list[Any] = []
        self.replies: list[dict[str, Any]] = []
        self.hass = HomeAssistant(root, port)

    def say(self, topic: str, payload: bytes) -> None:
        """Retained, as all of it is but stats and health."""
        publish.single(topic, payload, qos=1, retain=True, hostname=LOOPBACK, port=self.port)

    def settings(self, pipeline: str, *, enabled: bool = True, **thresholds: float) -> None:
        message = SettingsMessage(VERSION, "eye", pipeline, 1, enabled, 0.5, {"person": 0.25, ODD: 0.75, **thresholds})
        self.say(TOPICS.pipeline(pipeline, "settings"), encode(message))

    def state(self, pipeline: str, **holds: Any) -> None:
        message = StateMessage(v=VERSION, device="eye", pipeline=pipeline, epoch=1, ts="2026-11-22T15:04:05Z", **holds)
        self.say(TOPICS.pipeline(pipeline, "state"), encode(message))

    def status(self, state: Any, why: str | None = None) -> None:
        message = StatusMessage(VERSION, state, 1, "2026-11-22T15:04:05Z", why, "1.2.0", [], [])
        self.say(TOPICS.status, encode(message))

    def wait_for_all(self, facts: DeviceFacts) -> None:
        """Until every component is there."""
        wanted = {one["unique_id"] for one in discovery(facts, TOPICS)["components"].values()}
        wait_for("every component", lambda: wanted <= set(self.hass.ask("registry")))
        wait_for("a state of each", lambda: len(self.hass.states()) == len(wanted))

    def entity_state(self, component: str) -> dict[str, Any]:
        """State and attributes of a component; empty where there is none."""
        entity = self.hass.entity(f"vedette-eye-{component}")
        return self.hass.states().get(entity, {}) if entity else {}

    def expect(self, component: str, state: str) -> dict[str, Any]:
        wait_for(f"{component} to be {state}", lambda: self.entity_state(component).get("state") == state)
        return self.entity_state(component)


@pytest.fixture
def house(home_assistant_root: Path, tmp_path: Path) -> Iterator[House]:
    with Mosquitto(tmp_path) as mosquitto:
        house = House(home_assistant_root, mosquitto.port, tmp_path)
        with house.hass:
            yield house


@needs_mosquitto
@pytest.mark.broker
@pytest.mark.timeout(300)
def test_home_assistant_takes_every_component_and_reads_every_message(house: House) -> None:
    house.say(TOPIC, json.dumps(discovery(FACTS, TOPICS)).encode())
    house.wait_for_all(FACTS)
    assert house.entity_state("door_occupancy")["state"] == "unavailable", "nobody has said that it lives"

    house.status("ready")
    for pipeline in FACTS.pipelines:
        house.settings(pipeline.name)
    house.expect("problem", "off")
    house.expect("door_enabled", "on")
    assert house.expect("door_threshold", "0.5")["max"] == 1.0
    house.expect(component_id("door", "threshold", "person"), "0.25")
    house.expect(component_id("door", "threshold", ODD), "0.75")
    assert house.expect("door_occupancy", "unknown")["device_class"] == "occupancy"

    house.state("door", counts={}, zones={})
    house.expect("door_occupancy", "off")
    house.expect("door_count_person", "0")
    house.state("door", counts={"person": 2, ODD: 3, "items": 1}, zones={"porch": {"person": 1, "items": 1}})
    house.expect("door_occupancy", "on")
    house.expect("door_count_person", "2")
    house.expect("door_count_items", "1")
    house.expect(component_id("door", "count", ODD), "3")
    house.expect(component_id("door", "zone", "porch", "count"), "2")
    house.expect(component_id("door", "zone", "porch", "occupancy"), "on")
    house.expect(component_id("door", "zone", "way-in", "occupancy"), "off")
    house.state("yard", counts={"person": 2, "dog": 1}, zones={})
    house.expect("yard_count", "3")

    house.state("belt", class_=ClassInfo("worn", 0.9, "2026-11-22T15:04:05Z"))
    assert house.expect("belt_class", "worn")["options"] == ["ok", "worn"]
    house.state("belt", class_=ClassInfo(None, None, "2026-11-22T15:04:05Z"))
    house.expect("belt_class", "unknown")
    house.state("pump", anomaly=AnomalyInfo(True, 1.25, 1.0, "2026-11-22T15:04:05Z"))
    assert house.expect("pump_anomaly", "on")["device_class"] == "problem"
    house.expect("pump_anomaly_score", "1.25")
    house.state("pump", anomaly=AnomalyInfo(False, None, 1.0, "2026-11-22T15:04:05Z"))
    house.expect("pump_anomaly", "off")
    house.expect("pump_anomaly_score", "unknown")
    house.state("tank", values={"level": 12.5, "values": None})
    assert house.expect(component_id("tank", "value", "level"), "12.5")["unit_of_measurement"] == "cm"
    house.expect(component_id("tank", "value", "values"), "unknown")

    house.say(TOPICS.health, b'{"temperature_c": 51.5}')
    assert house.expect("temperature", "51.5")["unit_of_measurement"] == "°C"
    house.say(TOPICS.health, b'{"temperature_c": null}')
    house.expect("temperature", "unknown")
    house.say(TOPICS.pipeline("door", "stats"), b'{"fps_out": 12.34}')
    house.expect("door_fps", "12.34")
    house.say(TOPICS.pipeline("door", "snapshot"), (ROOT / "examples" / "media").joinpath(
        "people-walking.mp4").read_bytes()[:1000])  # any bytes: the entity takes them as they are  # fmt: skip
    wait_for("the picture", lambda: house.entity_state("door_snapshot")["state"] not in ("unknown", "unavailable"))

    house.status("alert", 'door: source "lost"')
    assert house.expect("problem", "on")["why"] == 'door: source "lost"'
    house.settings("door", enabled=False)
    house.expect("door_enabled", "off")
    house.expect("door_count_person", "unavailable")
    house.expect("yard_count", "3")
    house.status("lost")
    house.expect("door_enabled", "unavailable")
    house.expect("problem", "unavailable")
    assert house.hass.complaints() == []


@needs_mosquitto
@pytest.mark.broker
@pytest.mark.timeout(300)
def test_switches_numbers_and_buttons_are_commands_that_are_carried_out(house: House) -> None:
    done: list[tuple[Any, ...]] = []
    handlers: Handlers = {
        "enable": lambda r: done.append(("enable", r.pipeline, r.on)),
        "threshold": lambda r: done.append(("threshold", r.pipeline, r.label, r.value)),
        "snapshot": lambda r: done.append(("snapshot", r.pipeline)),
    }
    connected = threading.Event()
    commands = Commands(TOPICS, handlers, lambda t, p: link.publish(t, p, qos=1, retain=False), print)
    announcer = Announcer(
        house.folder, TOPIC, lambda retired: discovery(FACTS, TOPICS, retired),
        lambda topic, payload: link.publish(topic, payload, qos=1, retain=True), print,
    )  # fmt: skip

    def up() -> None:
        announcer.connected()
        connected.set()

    link = Link(
        LinkOptions(LOOPBACK, house.port, "vedette-eye"), TOPICS, MemoryOutbox(1, max_messages=10, max_bytes=10**6),
        will=lambda: b"{}", on_connected=up, on_acknowledged=lambda key, captured_ns: None, on_alert=print,
        subscriptions=(Subscription(TOPICS.commands, commands.receive),),
    )  # fmt: skip
    link.start()
    try:
        assert connected.wait(DEADLINE_S)
        house.status("ready")
        for pipeline in FACTS.pipelines:
            house.settings(pipeline.name)
        house.expect("door_enabled", "on")
        odd = component_id("door", "threshold", ODD)
        house.expect(odd, "0.75")
        for service, component, data in (
            ("switch.turn_off", "door_enabled", {}),
            ("switch.turn_on", "door_enabled", {}),
            ("switch.turn_off", "door_enabled", {}),
            ("number.set_value", "door_threshold", {"value": 0.35}),
            ("number.set_value", odd, {"value": 1}),
            ("number.set_value", "pump_threshold", {"value": 123456.75}),
            ("button.press", component_id("door", "take-snapshot"), {}),
        ):
            before = len(done)
            house.hass.call(service, house.hass.entity(f"vedette-eye-{component}"), **data)
            wait_for("the command", lambda n=before: len(done) > n or sum(commands.counts().values()) > n)
    finally:
        link.stop()
    assert done == [
        ("enable", "door", False),
        ("enable", "door", True),
        ("enable", "door", False),
        ("threshold", "door", None, 0.35),
        ("threshold", "door", ODD, 1.0),
        ("threshold", "pump", None, 123456.75),
        ("snapshot", "door"),
    ]
    assert commands.counts() == {"done": 7}
    assert house.expect("door_enabled", "on")["friendly_name"] == "eye door", (
        "it shows what the agent says, not its wish"
    )
    assert house.hass.complaints() == []


@needs_mosquitto
@pytest.mark.broker
@pytest.mark.timeout(300)
def test_what_is_taken_back_disappears_from_home_assistant(house: House) -> None:
    def say(told: Told) -> None:
        for topic, payload in told.sent:
            house.say(topic, payload)

    first = Told(house.folder)
    first.announcer.connected()
    say(first)
    house.wait_for_all(FACTS)
    second = Told(house.folder, without("yard"))
    second.announcer.connected()
    second.announcer.connected()
    say(second)
    wait_for("the switch to go", lambda: not house.hass.entity("vedette-eye-yard_enabled"))
    wait_for("the rest to go", lambda: not house.hass.entity("vedette-eye-yard_occupancy"))
    assert house.hass.entity("vedette-eye-door_enabled")
    hidden = Told(house.folder, None)
    hidden.announcer.connected()
    say(hidden)
    wait_for("everything to go", lambda: house.hass.states() == {})
    assert house.hass.complaints() == []


@needs_mosquitto
@pytest.mark.broker
@pytest.mark.timeout(300)
def test_home_assistant_would_say_so_if_a_message_were_wrong(house: House) -> None:
    """That the tests above can fail."""
    message = discovery(FACTS, TOPICS)
    message["components"]["temperature"]["unit_of_measurement"] = "furlongs"
    house.say(TOPIC, json.dumps(message).encode())
    complaint = wait_for("its complaint", house.hass.complaints)[0]
    assert "furlongs" in complaint
    begun = time.monotonic()
    house.say(TOPIC, json.dumps({**message, "components": [1]}).encode())
    wait_for("another", lambda: any("Invalid MQTT device discovery payload" in c for c in house.hass.complaints()))
    assert time.monotonic() - begun < DEADLINE_S
