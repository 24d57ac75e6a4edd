"""A sensor and a camera in one agent, through a real broker: events, states, commands, and what a bad sensor does."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from real import BUNDLE, CLIP, DATA, Agent, Mosquitto, Subscriber, needs_mosquitto, wait_for

from signals import CHANNELS, CLASSES, LENGTH, MEAN, RATE_HZ, STD, THRESHOLD, signal
from vedette.demo.broker import LOOPBACK, free_port

pytestmark = needs_mosquitto

PUMP = DATA / "series-anomaly-int8.tflite"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


PLAIN = f"""
[pipeline.pump.plain.input]
kind = "series"
channels = [{", ".join(f'{{ name = "{name}", unit = "m/s2" }}' for name in CHANNELS)}]
length = {LENGTH}
stride = {LENGTH // 2}
rate_hz = {RATE_HZ}
mean = {list(MEAN)}
std = {list(STD)}
[pipeline.pump.plain.output]
decoder = "anomaly"
threshold = {THRESHOLD}
"""
WALK, RUN = CLASSES.index("walk"), CLASSES.index("run")


class Site:
    """A door, filmed, and a pump that is told of by datagrams: a device of its own with an agent of its own."""

    def __init__(self, folder: Path, broker: Mosquitto, *, device: str) -> None:
        self.device = device
        self.udp_port = free_port()
        self.config = folder / "site.toml"
        self.config.write_text(
            f'device = "{device}"\nstate_dir = "{folder / "state"}"\n[mqtt]\nhost = "{LOOPBACK}"\nport = {broker.port}\n'
            "[intervals]\nstats_s = 0.5\nledger_s = 0.5\nhealth_s = 0.5\n"
            f'[pipeline.door]\nmodel = "{BUNDLE}"\nlabels = ["person"]\ndetections = false\n'
            f'[pipeline.door.source]\nurl = "{CLIP}"\nloop = true\n'
            "[pipeline.door.zones.yard]\npolygon = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]\n"
            f'[pipeline.door.snapshots]\nfolder = "{folder / "pictures"}"\nmqtt = true\nevents = []\n'
            "[home_assistant]\nenabled = true\n"
            f'[pipeline.pump]\nmodel = "{PUMP}"\nsource = "udp://{LOOPBACK}:{self.udp_port}"\n'
            "[pipeline.pump.steady]\nenter = 2\nof = 2\nleave = 2\n" + PLAIN
        )
        self.pictures = folder / "pictures" / "door"
        self.agent = Agent(self.config)
        self.subscriber = Subscriber(broker.port, f"vedette/{device}/#", v5=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._rng = np.random.default_rng(7)
        self._t_us = 0
        self._commands = 0

    def __enter__(self) -> Site:
        self.subscriber.__enter__()
        self.agent.__enter__()
        self.subscriber.wait("/status", lambda status: status["state"] == "ready")
        return self

    def __exit__(self, *exception: object) -> None:
        self.agent.__exit__(*exception)
        self.subscriber.__exit__(*exception)
        self._socket.close()

    def line(self, text: str) -> None:
        """One datagram of one line, as it is."""
        self._socket.sendto(text.encode(), (LOOPBACK, self.udp_port))

    def readings(self, kind: int, count: int = 6 * LENGTH) -> None:
        """So many good ones of an activity, the next in time."""
        for values in signal(kind, count, self._rng).tolist():
            self._t_us += round(1e6 / RATE_HZ)
            self.line(json.dumps({"t": self._t_us / 1e6, **dict(zip(CHANNELS, values, strict=True))}))

    def back(self, seconds: float) -> None:
        """The sensor's clock is set back."""
        self._t_us -= int(seconds * 1e6)

    def event(self, pipeline: str, kind: str) -> Any:
        """The first event of that kind, parsed."""
        return self.subscriber.wait(f"/{pipeline}/events", lambda event: event["kind"] == kind).json

    def last(self, suffix: str) -> Any:
        """The newest message of such a topic, parsed."""
        return self.subscriber.messages(suffix)[-1].json

    def command(self, name: str, *, retain: bool = False, expires_in_s: float = 30.0, **fields: Any) -> Any:
        """Sends a command; its reply, parsed."""
        self._commands += 1
        command_id = f"c{self._commands}"
        payload = json.dumps({"id": command_id, "expires": time.time() + expires_in_s, **fields})
        topic = f"vedette/{self.device}/cmd/{name}"
        self.subscriber.client.publish(topic, payload, qos=1, retain=retain)
        if retain:
            self.subscriber.client.publish(topic, b"", qos=1, retain=True)
        return self.subscriber.wait(f"/reply/{command_id}").json


@pytest.fixture(scope="module")
def site(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), broker, device="site-1") as one:
        yield one


def test_people_at_the_door_are_events_and_counts_not_a_message_a_frame(site: Site) -> None:
    began = site.event("door", "track_began")
    entered = site.event("door", "zone_entered")
    assert (began["label"], entered["zone"]) == ("person", "yard")
    state = site.subscriber.wait("/door/state", lambda state: state["zones"]["yard"].get("person", 0) > 0)
    assert not state.retain, "it was published while we listened"
    assert site.subscriber.messages("/door/detections") == []


def test_what_holds_is_retained_for_whoever_comes_later(site: Site, broker: Mosquitto) -> None:
    site.event("door", "track_began")
    with Subscriber(broker.port, f"vedette/{site.device}/+/state") as late:
        message = late.wait("/door/state")
        assert message.retain
        assert set(message.json) >= {"counts", "zones", "ts", "epoch"}


def test_a_pump_that_runs_wild_begins_and_ends_one_anomaly(site: Site) -> None:
    site.readings(WALK)
    site.subscriber.wait("/pump/state", lambda state: state["anomaly"]["active"] is False)
    site.readings(RUN)
    site.event("pump", "anomaly_began")
    site.subscriber.wait("/pump/state", lambda state: state["anomaly"]["active"])
    site.readings(WALK)
    ended = site.event("pump", "anomaly_ended")
    assert ended["peak"] > THRESHOLD
    message = site.subscriber.wait("/pump/detections", lambda m: m["anomaly"]["anomalous"]).json
    assert set(message["anomaly"]["channels"]) == set(CHANNELS)
    assert message["window"]["samples"] == LENGTH


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello", "wrong_count"),
        ('{"t": 1, "x": "warm", "y": 1, "z": 1}', "not_a_number"),
        ("[1, 2, 3, 4]", "wrong_count"),
        ('{"t": 1, "x": NaN, "y": 1, "z": 1}', "not_finite"),
        ('{"t": 1, "x": 1e39, "y": 1, "z": 1}', "not_finite"),
        ('{"t": 1, "x": 1}', "missing_channel"),
    ],
)
def test_a_bad_line_is_counted_and_said_and_the_rest_goes_on(site: Site, line: str, reason: str) -> None:
    def malformed(stats: Any) -> int:
        return int(stats["sensor"]["malformed"].get(reason, 0))

    site.subscriber.wait("/pump/stats")
    before = max(malformed(m.json) for m in site.subscriber.messages("/pump/stats"))
    site.line(line)
    site.subscriber.wait("/pump/stats", lambda stats: malformed(stats) == before + 1)
    status = site.subscriber.wait("/status", lambda s: s["state"] == "alert" and f"pump: {reason}" in s["why"])
    assert "first: " in status.json["why"]
    windows = len(site.subscriber.messages("/pump/detections"))
    site.readings(WALK)
    wait_for("windows after it", lambda: len(site.subscriber.messages("/pump/detections")) > windows)


def test_a_clock_that_runs_backwards_is_counted_and_begins_anew(site: Site) -> None:
    site.readings(WALK)
    site.back(3600.0)
    site.readings(WALK)
    site.subscriber.wait("/pump/stats", lambda stats: stats["sensor"]["clock_back"] >= 1)
    site.subscriber.wait("/status", lambda s: s["state"] == "alert" and "clock set back" in s["why"])
    site.readings(WALK)


def test_a_pipeline_is_turned_off_and_on(site: Site) -> None:
    assert site.command("enable", pipeline="door", on=False)["result"] == {"enabled": False}
    site.subscriber.wait("/door/settings", lambda settings: not settings["enabled"])
    first = site.subscriber.wait("/door/stats", lambda stats: stats["dropped"].get("disabled", 0) > 3).json
    site.subscriber.wait("/door/stats", lambda stats: stats["ts"] > first["ts"] and stats["inferred"] == 0)
    assert site.command("enable", pipeline="door", on=True)["result"] == {"enabled": True}
    on = site.last("/door/stats")
    site.subscriber.wait("/door/stats", lambda stats: stats["ts"] > on["ts"] and stats["inferred"] > 0)


def test_a_threshold_is_changed_and_holds(site: Site) -> None:
    assert site.command("threshold", pipeline="pump", value=1000.0)["ok"]
    site.subscriber.wait("/pump/settings", lambda settings: settings["threshold"] == 1000.0)
    site.readings(RUN)
    message = site.subscriber.wait("/pump/detections", lambda m: m["anomaly"]["threshold"] == 1000.0).json
    assert message["anomaly"]["anomalous"] is False
    assert site.command("threshold", pipeline="pump", value=THRESHOLD)["ok"]
    assert site.command("threshold", pipeline="door", value=0.6, label="person")["ok"]
    settings = site.subscriber.wait("/door/settings", lambda settings: settings["thresholds"]).json
    assert settings["thresholds"] == {"person": 0.6}


@pytest.mark.parametrize(
    ("name", "fields", "code", "words"),
    [
        ("enable", {"pipeline": "gate", "on": True}, "refused", "expected one of door, pump"),
        ("threshold", {"pipeline": "door", "value": 1.5}, "refused", "expected 0 to 1"),
        ("threshold", {"pipeline": "door", "value": 0.5, "label": "persn"}, "refused", "did you mean 'person'"),
        ("dance", {}, "unknown_command", "dance"),
        ("enable", {"pipeline": "door"}, "invalid", "on"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_reply(
    site: Site, name: str, fields: dict[str, Any], code: str, words: str
) -> None:
    reply = site.command(name, **fields)
    assert (reply["ok"], reply["error"]["code"]) == (False, code)
    assert words in reply["error"]["message"]
    site.subscriber.wait("/health", lambda health: health["commands"].get(code, 0) > 0)


def test_a_picture_is_taken_on_command_kept_and_sent(site: Site) -> None:
    assert site.command("snapshot", pipeline="door")["ok"]
    message = wait_for("the picture", lambda: site.subscriber.messages("/door/snapshot"))[0]
    [kept] = wait_for("the file", lambda: list(site.pictures.glob("*.jpg")))
    for data in (message.payload, kept.read_bytes()):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None and pixels.std() > 10, "a picture with something in it"
    assert site.command("snapshot", pipeline="pump")["error"]["code"] == "refused"


def test_home_assistant_finds_one_device_with_both(site: Site, broker: Mosquitto) -> None:
    with Subscriber(broker.port, "homeassistant/#") as assistant:
        message = assistant.wait(f"/device/{site.device}/config")
        assert message.retain
        components = message.json["components"]
        platforms = {component["platform"] for component in components.values()}
        assert {"sensor", "binary_sensor", "switch", "number"} <= platforms
        topics = {component.get("state_topic") for component in components.values()}
        assert {f"vedette/{site.device}/door/state", f"vedette/{site.device}/pump/state"} <= topics
        # what a switch sends is a command that the agent carries out
        switch = next(
            c for c in components.values() if c["platform"] == "switch" and "/cmd/enable" in c["command_topic"]
        )
        assert switch["command_topic"] == f"vedette/{site.device}/cmd/enable"


def test_an_expired_command_and_a_retained_one_are_refused(site: Site, broker: Mosquitto) -> None:
    assert site.command("enable", expires_in_s=-1.0, pipeline="door", on=False)["error"]["code"] == "expired"
    assert site.command("ping")["ok"]


def test_a_reload_takes_over_thresholds_and_names_what_needs_a_restart(site: Site) -> None:
    text = site.config.read_text()
    site.config.write_text(text.replace("detections = false", "detections = false\nthreshold = 0.7"))
    assert site.command("reload")["result"] == {"changed": ["pipeline.door"], "needs_restart": []}
    site.subscriber.wait("/door/settings", lambda settings: settings["threshold"] == 0.7)
    site.config.write_text(text.replace("stats_s = 0.5", "stats_s = 0.6").replace('["person"]', '["dog"]'))
    result = site.command("reload")["result"]
    assert result == {"changed": ["pipeline.door"], "needs_restart": ["intervals"]}
    site.config.write_text(text.replace(", [1.0, 1.0], [0.0, 1.0]]", "]"))
    reply = site.command("reload")
    assert not reply["ok"] and "site.toml" in reply["error"]["message"]
    site.config.write_text(text)
    assert site.command("reload")["ok"]
