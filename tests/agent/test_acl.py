"""examples/mosquitto: the very files, a real broker, an agent that does all it can do, and an intruder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from certificates import issue
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from real import (
    LOOPBACK,
    ROOT,
    Agent,
    Mosquitto,
    Subscriber,
    agent_config,
    needs_mosquitto,
    run_cli,
    wait_for,
    write_pictures,
)

from vedette.demo.broker import free_port

EXAMPLE = ROOT / "examples" / "mosquitto"
PASSWORDS = {"operator": "open", "viewer": "see", "homeassistant": "house"}
pytestmark = needs_mosquitto


@dataclass
class Site:
    """The broker of the example, and what people and devices need."""

    folder: Path
    authority: Path
    devices: int
    people: int
    broker: Mosquitto

    def listen(self, user: str, topic: str = "#") -> Subscriber:
        """A program of this user's."""
        options = {"username": user, "password": PASSWORDS[user], "ca_file": str(self.authority / "ca.pem")}
        return Subscriber(self.people, topic, options, v5=True, host="localhost")

    def command(self, user: str, *words: str, port: int = 0) -> subprocess.CompletedProcess[str]:
        """``vedette command`` as this user would type it; nobody is a user without a password."""
        proof = [] if user == "nobody" else ["--username", user, "--password-file", self._password_file(user)]
        broker = ("--broker", f"localhost:{port or self.people}", "--tls", "--ca-file", self.authority / "ca.pem")
        return run_cli("command", *words, *broker, *proof)

    def _password_file(self, user: str) -> Path:
        path = self.folder / f"password-{user}"
        path.write_text(PASSWORDS.get(user, "wrong"))
        return path

    def denied(self) -> list[str]:
        """What the broker has refused so far."""
        return [line for line in self.broker.log.read_text().splitlines() if "Denied" in line]


@pytest.fixture
def site(authority: Path, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "broker"
    folder.mkdir()
    for file in EXAMPLE.iterdir():
        shutil.copy(file, folder)
    for name in ("ca.pem", "server.pem", "server.key"):
        shutil.copy(authority / name, folder)
    (folder / "passwords").write_text("".join(f"{user}:{password}\n" for user, password in PASSWORDS.items()))
    subprocess.run(["mosquitto_passwd", "-U", folder / "passwords"], check=True, capture_output=True)
    for name in ("passwords", "devices.acl", "people.acl"):
        (folder / name).chmod(0o700)
    devices, people = free_port(), free_port()
    text = (folder / "mosquitto.conf").read_text().replace("/etc/mosquitto/vedette", str(folder))
    text = text.replace("/var/lib/mosquitto/", f"{folder}/")
    for port, free in ((8883, devices), (8884, people)):
        assert f"\nlistener {port}\n" in text
        text = text.replace(f"listener {port}\n", f"listener {free} {LOOPBACK}\n")
    broker = Mosquitto(tmp_path, port=devices)
    # Mosquitto gives up root's rights, and with them that to read the test's files
    broker.config.write_text(("user root\n" if os.geteuid() == 0 else "") + text)
    for name in ("dev-1", "dev-2"):
        issue(authority, tmp_path, name)
    with broker:
        wait_for("the second listener", lambda: f"listen socket on port {people}" in broker.log.read_text())
        yield Site(tmp_path, authority, devices, people, broker)


def agent(site: Site, device: str = "dev-1") -> Agent:
    pictures = write_pictures(site.folder / "pictures", count=20)
    mqtt = (
        f'tls = true\nca_file = "{site.authority}/ca.pem"\n'
        f'cert_file = "{site.folder}/{device}.pem"\nkey_file = "{site.folder}/{device}.key"'
    )
    pipeline = (
        "steady = { on_score = 0.0, off_score = 0.0, enter = 1, of = 1, leave = 1, every_s = 0.1 }\nthreshold = 0.0"
    )
    config = agent_config(
        site.folder, site.devices, f'url = "{pictures}"\nloop = true\nfps = 20', device=device, mqtt=mqtt,
        top="[home_assistant]\nenabled = true", pipeline=pipeline,
    )  # fmt: skip
    config.write_text(config.read_text().replace(f'host = "{LOOPBACK}"', 'host = "localhost"'))
    return Agent(config)


class Intruder:
    """A device's certificate in the hands of somebody who types his own MQTT."""

    def __init__(self, site: Site, device: str, client_id: str = "") -> None:
        self.heard: list[str] = []
        self.reasons: dict[str, int] = {}
        self._mids: dict[int, str] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set(
            str(site.authority / "ca.pem"), str(site.folder / f"{device}.pem"), str(site.folder / f"{device}.key")
        )
        self._client.on_message = lambda client, userdata, message: self.heard.append(message.topic)
        self._client.on_publish = self._published
        self._client.on_connect = lambda client, *_: client.subscribe([("#", 1), ("vedette/#", 1), ("$SYS/#", 0)])
        self._port = site.devices

    def __enter__(self) -> Intruder:
        self._client.connect("localhost", self._port)
        self._client.loop_start()
        wait_for("a connection", self._client.is_connected)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _published(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self.reasons[self._mids[mid]] = reason.value

    def write(self, topic: str, *, retain: bool = False) -> int:
        """The broker's answer: below 0x80 it has taken the message."""
        self._mids[self._client.publish(topic, b"{}", qos=1, retain=retain).mid] = topic
        wait_for(f"an answer to {topic}", lambda: topic in self.reasons)
        return self.reasons[topic]


def test_an_agent_does_all_it_does_within_the_rules(site: Site) -> None:
    with site.listen("viewer") as viewer, site.listen("homeassistant") as house, agent(site) as running:
        base = "vedette/dev-1"
        viewer.wait(f"{base}/status", lambda status: status["state"] == "ready")
        for topic in ("door/detections", "door/events", "door/state", "door/stats", "door/model", "door/settings"):
            viewer.wait(f"{base}/{topic}")
        viewer.wait(f"{base}/health", lambda health: True)
        viewer.wait(f"{base}/ledger", lambda ledger: any(row["acknowledged"] for row in ledger["streams"]))
        house.wait("homeassistant/device/dev-1/config")
        done = site.command("operator", "dev-1", "ping")
        assert done.returncode == 0, done.stdout + done.stderr
        viewer.wait("", lambda message: isinstance(message, dict) and message.get("command") == "ping")
        # Home Assistant starts anew: the agent hears it, and would announce itself again
        house.client.publish("homeassistant/status", b"online", qos=1).wait_for_publish(30)
        sent = re.compile(r"Sending PUBLISH to dev-1 \(.*'homeassistant/status'")
        wait_for("the agent to hear it", lambda: sent.search(site.broker.log.read_text()))
        ledger = viewer.messages(f"{base}/ledger")[-1].json
        assert [row["rejected"] for row in ledger["streams"] if row["rejected"]] == []
        log = running.text()
    assert site.denied() == []
    assert "does not let this agent hear" not in log and "rejects" not in log


OTHERS = (
    "status", "health", "ledger", "reply/x", "door/detections", "door/events", "door/state", "door/stats", "door/model",
    "door/settings", "door/snapshot", "cmd/ping", "cmd/enable",
)  # fmt: skip


def test_a_device_cannot_write_for_another_command_it_or_hear_it(site: Site) -> None:
    with site.listen("viewer") as viewer, agent(site) as running, Intruder(site, "dev-2") as intruder:
        viewer.wait("vedette/dev-1/status", lambda status: status["state"] == "ready")
        for topic in OTHERS:
            assert intruder.write(f"vedette/dev-1/{topic}", retain=True) == 0x87, topic  # not authorised
        for topic in (
            "homeassistant/device/dev-1/config", "homeassistant/status", "vedette/dev-2x/status", "vedette", "other",
            "vedette/dev-2/door/other", "vedette//status", "vedette/dev-2/../dev-1/status",
        ):  # fmt: skip
            assert intruder.write(topic) == 0x87, topic
        for topic in OTHERS[:-2]:
            assert intruder.write(f"vedette/dev-2/{topic}") < 0x80, "its own"
        # it has heard nothing of dev-1, which has said a lot, until its own command arrives
        site.command("operator", "dev-2", "ping", "--timeout", "2")
        wait_for("its own command", lambda: "vedette/dev-2/cmd/ping" in intruder.heard)
        assert set(intruder.heard) == {"vedette/dev-2/cmd/ping"}
        assert len(viewer.messages("vedette/dev-1/door/detections")) > 0
        assert running.process is not None and running.process.poll() is None
        assert "command" not in running.text()


def test_a_device_cannot_take_anothers_session(site: Site) -> None:
    with site.listen("viewer") as viewer, agent(site):
        viewer.wait("vedette/dev-1/status", lambda status: status["state"] == "ready")
        for client_id in ("dev-1", "vedette-dev-1"):
            with Intruder(site, "dev-2", client_id) as intruder:
                intruder.write("vedette/dev-2/status")
        before = len(viewer.messages("vedette/dev-1/door/detections"))
        wait_for("more of it", lambda: len(viewer.messages("vedette/dev-1/door/detections")) > before + 5)
        assert [m.json["state"] for m in viewer.messages("vedette/dev-1/status")].count("lost") == 0


def test_people_read_and_only_some_command(site: Site) -> None:
    with site.listen("viewer") as viewer, agent(site):
        viewer.wait("vedette/dev-1/status", lambda status: status["state"] == "ready")
        for user in ("operator", "homeassistant"):
            done = site.command(user, "dev-1", "enable", "door", "on")
            assert done.returncode == 0, (user, done.stdout + done.stderr)
        done = site.command("viewer", "dev-1", "enable", "door", "off")
        assert done.returncode == 2 and "access rules" in done.stderr, done
        assert not [m for m in viewer.messages() if "/cmd/" in m.topic], "commands are not everybody's to see"


def test_nobody_comes_in_without_certificate_or_password(site: Site) -> None:
    for user, port in (("nobody", site.devices), ("nobody", site.people), ("stranger", site.people)):
        done = site.command(user, "dev-1", "ping", port=port)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done


def test_the_rules_name_every_topic_there_is() -> None:
    """A topic that is new in docs/WIRE.md must be allowed here, too."""
    documented = set(re.findall(r"(?m)^\| `<root>/<device>/([^`]+)`", (ROOT / "docs" / "WIRE.md").read_text()))
    devices = (EXAMPLE / "devices.acl").read_text()
    people = (EXAMPLE / "people.acl").read_text()
    for topic in documented:
        for name in topic.split("`, `"):
            pattern = re.sub(r"<[a-z]+>", "+", name)
            right = "read" if name.startswith("cmd") else "write"
            assert f"pattern {right} vedette/%u/{pattern}\n" in devices, name
            assert f"vedette/+/{pattern}\n" in people, name
    assert len(documented) >= 12
