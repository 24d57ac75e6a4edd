"""What others send to the agent: heard from a real broker, bounded, counted; and delivery goes on under a flood."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.publish as publish
import pytest
from real import DEADLINE_S, BrokerAddress, Mosquitto, Subscriber, needs_mosquitto, wait_for

from vedette import clock
from vedette.delivery import Stream
from vedette.demo.broker import LOOPBACK
from vedette.mqtt import Incoming, Link, LinkOptions, Subscription, Topics
from vedette.mqtt.inbox import BURST, MAX_MESSAGE, PATIENCE, PAUSE_S, RATE_PER_S, Inbox
from vedette.outbox import MemoryOutbox

TOPICS = Topics("vedette", "dev-1")
DOOR = Stream("door", "detections")


class Hearing:
    """A link that subscribes to its commands, and what it heard and told."""

    def __init__(self, port: int, **options: Any) -> None:
        self.outbox = MemoryOutbox(1, max_messages=100_000, max_bytes=10**9)
        self.alerts: list[str] = []
        self.heard: list[Incoming] = []
        self.fault: Exception | None = None
        self.connected = threading.Semaphore(0)
        self.link = Link(
            LinkOptions(**{"host": LOOPBACK, "port": port, "client_id": "vedette-dev-1", **options}),
            TOPICS, self.outbox, will=lambda: b'{"state":"lost"}', on_connected=self.connected.release,
            on_acknowledged=lambda key, captured_ns: None, on_alert=self.alerts.append,
            subscriptions=(
                Subscription(TOPICS.commands, self._hear), Subscription("homeassistant/status", self._hear),
            ),
        )  # fmt: skip

    def _hear(self, message: Incoming) -> None:
        self.heard.append(message)
        if self.fault is not None:
            raise self.fault

    def __enter__(self) -> Hearing:
        self.link.start()
        assert self.connected.acquire(timeout=DEADLINE_S), self.link.status()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop()

    def wait_subscribed(self) -> None:
        def answered() -> bool:
            traffic = self.link._traffic
            return traffic is not None and traffic.connection.subscribed

        wait_for("the subscriptions", answered)


def send(port: int, topic: str, payload: bytes | str, *, qos: int = 1, retain: bool = False) -> None:
    publish.single(topic, payload, qos=qos, retain=retain, hostname=LOOPBACK, port=port)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_is_sent_to_this_device_is_heard_and_nothing_else(broker: BrokerAddress, protocol: str) -> None:
    if protocol not in broker.protocols:
        pytest.skip(f"{broker.name} does not speak MQTT {protocol} here: commands by it stay untested")
    send(broker.port, "vedette/dev-1/cmd/reload", "old", retain=True)
    with Hearing(broker.port, protocol=protocol) as link:
        wait_for("what the broker kept", lambda: link.heard)
        for topic in ("vedette/dev-2/cmd/ping", "vedette/dev-1/cmd/a/b", "vedette/dev-1/cmd", "vedette/dev-1/status"):
            send(broker.port, topic, "not for me")
        send(broker.port, "vedette/dev-1/cmd/ping", b"\x00\xff")
        send(broker.port, "homeassistant/status", "online")
        wait_for("three", lambda: len(link.heard) >= 3)
    assert link.heard == [
        Incoming("vedette/dev-1/cmd/reload", b"old", retained=True),
        Incoming("vedette/dev-1/cmd/ping", b"\x00\xff"),
        Incoming("homeassistant/status", b"online"),
    ]
    assert link.link.status().received == {"passed": 3}
    assert link.alerts == []


@needs_mosquitto
def test_it_subscribes_again_on_each_connection(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto, Hearing(mosquitto.port) as link:
        for number in range(3):
            link.wait_subscribed()
            send(mosquitto.port, "vedette/dev-1/cmd/ping", str(number))
            wait_for("the command", lambda n=number: len(link.heard) == n + 1)
            mosquitto.kill()
            mosquitto.start()
            assert link.connected.acquire(timeout=DEADLINE_S)
        link.wait_subscribed()
        assert [message.payload for message in link.heard] == [b"0", b"1", b"2"]


DYNAMIC_SECURITY = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)


@needs_mosquitto
@pytest.mark.skipif(
    DYNAMIC_SECURITY is None, reason="no mosquitto_dynamic_security.so: a refused SUBACK stays untested"
)
@pytest.mark.parametrize(("protocol", "reason"), [("5", "0x87"), ("3.1.1", "0x80")])
def test_a_subscription_that_the_broker_refuses_is_an_alert_and_delivery_goes_on(
    tmp_path: Path, protocol: str, reason: str
) -> None:
    # an access list of Mosquitto says yes to every SUBSCRIBE and delivers nothing; its plugin says no
    roles = tmp_path / "roles.json"
    access = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    roles.write_text(json.dumps({"defaultACLAccess": access}))
    text = f"allow_anonymous true\nplugin {DYNAMIC_SECURITY}\nplugin_opt_config_file {roles}\n"
    with Mosquitto(tmp_path, text) as mosquitto, Hearing(mosquitto.port, protocol=protocol) as link:
        link.wait_subscribed()
        link.outbox.append(DOOR, clock.now_ns(), "synced", b'{"n":1}')
        assert link.outbox.wait_empty(DEADLINE_S)
        status = link.link.status()
        assert (status.connections, status.why) == (1, "")
        assert status.unheard == ("vedette/dev-1/cmd/+", "homeassistant/status")
        assert link.alerts == [
            f"the broker does not let this agent hear {topic}: reason {reason}" for topic in status.unheard
        ]


def test_a_large_message_is_dropped_counted_and_told(broker: BrokerAddress) -> None:
    with Hearing(broker.port, protocol="3.1.1") as link:
        link.wait_subscribed()
        send(broker.port, "vedette/dev-1/cmd/ping", b"x" * (MAX_MESSAGE + 1))
        send(broker.port, "vedette/dev-1/cmd/ping", b"x" * MAX_MESSAGE)
        wait_for("the one that fits", lambda: link.heard)
        assert link.link.status().received == {"too_large": 1, "passed": 1}
        assert [alert for alert in link.alerts if str(MAX_MESSAGE + 1) in alert] == link.alerts
        assert len(link.alerts) == 1


def test_a_fault_while_hearing_does_not_end_the_link(broker: BrokerAddress) -> None:
    with Hearing(broker.port, protocol=broker.protocols[0]) as link:
        link.wait_subscribed()
        link.fault = ZeroDivisionError("of ours")
        send(broker.port, "vedette/dev-1/cmd/ping", "a")
        wait_for("the fault to be told", lambda: link.alerts)
        link.fault = None
        send(broker.port, "vedette/dev-1/cmd/ping", "b")
        wait_for("the next one", lambda: link.link.status().received.get("passed"))
        assert link.link.status().received == {"fault": 1, "passed": 1}
        assert link.link.status().connections == 1


FLOOD = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(bytes.fromhex("100d00044d5154540402ffff0001") + b"f")  # CONNECT, MQTT 3.1.1, client id f
assert sock.recv(4)[0] == 0x20
topic = b"vedette/dev-1/cmd/ping"
publish = bytes([0x30, 2 + len(topic) + 50, 0, len(topic)]) + topic + 50 * b"x"
print("flooding", flush=True)
while True:
    sock.sendall(publish * 200)
"""


@needs_mosquitto
def test_a_flood_of_commands_does_not_starve_delivery(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto, Hearing(mosquitto.port) as link, Subscriber(mosquitto.port) as subscriber:
        link.wait_subscribed()
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(mosquitto.port)], stdout=subprocess.PIPE)
        try:
            assert flood.stdout is not None and flood.stdout.readline() == b"flooding\n"
            wait_for("the flood", lambda: link.link.status().received.get("flood", 0) > 100)
            for _ in range(1000):
                link.outbox.append(DOOR, clock.now_ns(), "synced", b'{"n":1}')
            assert link.outbox.wait_empty(DEADLINE_S), link.link.status()
            assert flood.poll() is None, "the flood went on all the while"
        finally:
            flood.kill()
            flood.wait()
            flood.stdout.close()
        status = link.link.status()
        assert status.connections == 1
        assert len(link.heard) == status.received["passed"]
        assert ["goes on: not listening" in alert for alert in link.alerts[:2]] == [False, True]
        wait_for("all", lambda: len(subscriber.messages("/detections")) == 1000)


@needs_mosquitto
def test_after_a_flood_it_listens_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedette.mqtt.inbox.PAUSE_S", 0.3)
    with Mosquitto(tmp_path) as mosquitto, Hearing(mosquitto.port) as link:
        link.wait_subscribed()
        publish.multiple(
            [("vedette/dev-1/cmd/ping", b"x", 0, False)] * (BURST + 2 * PATIENCE),
            hostname=LOOPBACK,
            port=mosquitto.port,
        )
        wait_for("the end of its patience", lambda: len(link.alerts) == 2)

        def heard_again() -> bool:
            send(mosquitto.port, "vedette/dev-1/cmd/ping", b"after")
            return link.heard[-1].payload == b"after"

        wait_for("a command", heard_again)
        assert link.link.status().connections == 1


def test_the_rate_and_the_burst_are_those_stated_and_a_flood_is_told_once() -> None:
    now = 0
    heard: list[Incoming] = []
    alerts: list[str] = []
    inbox = Inbox([Subscription("a/+", heard.append)], alerts.append, lambda: now)
    message = Incoming("a/b", b"")
    for _ in range(BURST + 100):
        inbox.take(message)
    assert (len(heard), inbox.counts()) == (BURST, {"passed": BURST, "flood": 100})
    for _ in range(1000):  # ten times the rate for ten seconds
        now += int(1e9 / RATE_PER_S / 10)
        inbox.take(message)
    assert abs(len(heard) - BURST - 1000 / 10) <= 1
    assert len(alerts) == 1 and "what is over 10 messages a second is dropped" in alerts[0]
    assert inbox.changes() == [("a/+", False)]
    assert inbox.changes() == []
    now += int(1e9 * BURST / RATE_PER_S)
    for _ in range(BURST + 1):
        inbox.take(message)
    assert inbox.changes() == []
    now += int(1e9 * PAUSE_S)
    assert inbox.changes() == [("a/+", True)]
    # after a silence it is another flood
    told = [alert.split(":")[0] for alert in alerts]
    assert told == ["a flood on a/+", "the flood on a/+ goes on", "a flood on a/+"]


def test_each_subscription_has_a_rate_of_its_own() -> None:
    heard: list[str] = []
    inbox = Inbox(
        [Subscription("a/+", lambda m: heard.append("a")), Subscription("b", lambda m: heard.append("b"))],
        lambda alert: None,
        lambda: 0,
    )
    for _ in range(2 * BURST):
        inbox.take(Incoming("a/x", b""))
    inbox.take(Incoming("b", b""))
    inbox.take(Incoming("c", b""))
    assert heard == ["a"] * BURST + ["b"]
    assert inbox.counts() == {"passed": BURST + 1, "flood": BURST, "unasked": 1}
