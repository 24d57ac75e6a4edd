"""Which text can be part of a topic: what we take, a real broker takes, and what we refuse, it answers by hanging up."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from real import DEADLINE_S, Mosquitto, Subscriber, needs_mosquitto, wait_for

from vedette.demo.broker import LOOPBACK
from vedette.hosts import is_host
from vedette.mqtt_text import NOT_TAKEN, ROOT

CHARACTERS = 120  # of one topic: a root has 128 at most


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as one:
        yield one


@needs_mosquitto
def test_a_broker_takes_every_letter_that_we_take(mosquitto: Mosquitto) -> None:
    letters = "".join(letter for letter in map(chr, range(sys.maxunicode + 1)) if re.search(ROOT, f"x{letter}"))
    assert len(letters) > 1_000_000
    roots = [f"x{letters[begin : begin + CHARACTERS]}" for begin in range(0, len(letters), CHARACTERS)]
    with Subscriber(mosquitto.port) as subscriber:
        for root in roots:
            subscriber.client.publish(f"{root}/d/status", qos=1)
        wait_for("all of them", lambda: len(subscriber.messages()) == len(roots))
        assert [message.topic for message in subscriber.messages()] == [f"{root}/d/status" for root in roots]


@needs_mosquitto
@pytest.mark.parametrize("letter", ["\n", "\x7f", "\x85", "\ufdd0", "\ufffe", "\U0001ffff", "\U0010fffe"])
def test_a_broker_hangs_up_at_what_we_refuse(mosquitto: Mosquitto, letter: str) -> None:
    assert re.search(f"[{NOT_TAKEN}]", letter)
    client = paho.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
    gone = threading.Event()
    client.on_connect = lambda client, *_: client.publish(f"x{letter}/d/status", qos=1)
    client.on_disconnect = lambda *_: gone.set()
    client.connect(LOOPBACK, mosquitto.port)
    client.loop_start()
    try:
        assert gone.wait(DEADLINE_S)
    finally:
        client.loop_stop()
        client._reset_sockets()


@pytest.mark.parametrize(
    "host",
    ["a", "a.b.", "a_b", "10.0.0.1", "::1", "fe80::1%eth0", "müller.example", "a" * 63, ".".join(["a" * 62] * 4)],
)
def test_what_can_be_a_host(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a..b",
        "a b",
        "a\n",
        "a\0",
        "a/b",
        "a@b",
        "a%00",
        "a:1",
        "[::1]",
        "a" * 64,
        "ü" * 60,
        "\udcff",
        "ab." * 100,
    ],
)
def test_what_can_be_none(host: str) -> None:
    assert not is_host(host)


@pytest.mark.parametrize("root", ["vedette", "plant-7/v", "müller/😀", "a b", "a//b", "x$"])
def test_what_topics_may_begin_with(root: str) -> None:
    assert re.search(ROOT, root)


@pytest.mark.parametrize("root", ["", "/a", "a/", "+", "a/#", "$SYS", "a\n", "a\udc85", "a\0"])
def test_what_no_topic_begins_with(root: str) -> None:
    assert not re.search(ROOT, root)
