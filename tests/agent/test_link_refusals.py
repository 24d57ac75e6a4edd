"""The link and brokers that do not take everything: limits told late or never, quotas, small windows, slow answers."""

from __future__ import annotations

import json
import socket
import struct
import threading
from pathlib import Path

import pytest
from real import Mosquitto, Subscriber, needs_mosquitto, wait_for
from strict_broker import HANG_UP, SILENCE, Published, StrictBroker
from test_link import DOOR, GATE, TOPICS, Linked, put, row, seqs

from vedette.contract.errors import BrokerRefusedError
from vedette.mqtt import Link, LinkOptions
from vedette.mqtt.connection import RESERVED_WINDOW, try_connection
from vedette.mqtt.notices import MAX_BYTES

LARGE = b',"x":"%s"' % (b"x" * 3000)


def is_large(published: Published) -> bool:
    return len(published.payload) > 2000


def tell(link: Link) -> None:
    """As the agent does on each connection."""
    link.publish(TOPICS.status, b"{}", qos=1, retain=True)


@needs_mosquitto
def test_a_message_that_mosquitto_finds_too_large_is_rejected_and_the_rest_goes_on(tmp_path: Path) -> None:
    """``message_size_limit`` is told to nobody: PUBACK says 0x95, which the standard does not have there."""
    with (
        Mosquitto(tmp_path, "allow_anonymous true\nmessage_size_limit 2000\n") as mosquitto,
        Linked(mosquitto.port) as linked,
        Subscriber(mosquitto.port) as subscriber,
    ):
        linked.wait_connected()
        put(linked.outbox, 1)
        put(linked.outbox, 1, extra=LARGE)
        put(linked.outbox, 3)
        linked.wait_empty()
        wait_for("the small ones", lambda: seqs(subscriber) == [1, 3, 4, 5])
        assert (row(linked.outbox).acknowledged, row(linked.outbox).rejected) == (4, 1)
        assert linked.link.status().connections == 1
        assert any("reason 0x95" in alert for alert in linked.alerts)


@needs_mosquitto
def test_a_message_at_which_mosquitto_hangs_up_is_found_and_the_rest_goes_on(tmp_path: Path) -> None:
    """MQTT 3.1.1 has no way to say that a packet is too large."""
    with (
        Mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 2000\n") as mosquitto,
        Subscriber(mosquitto.port) as subscriber,
        Linked(mosquitto.port, tell, protocol="3.1.1") as linked,
    ):
        linked.link._retry.pause_s = lambda: 0.1  # type: ignore[method-assign]
        linked.wait_connected()
        put(linked.outbox, 1)
        put(linked.outbox, 2, extra=LARGE)
        put(linked.outbox, 3)
        linked.wait_empty(120)
        wait_for("the small ones", lambda: set(seqs(subscriber)) == {1, 4, 5, 6})
        assert (row(linked.outbox).acknowledged, row(linked.outbox).rejected) == (4, 2)
        assert sum("given up, and counted as rejected" in alert for alert in linked.alerts) == 2


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x91])
def test_a_message_that_is_refused_for_now_each_time_it_is_sent_is_found(reason: int) -> None:
    with (
        StrictBroker(lambda published: reason if is_large(published) else 0) as broker,
        Linked(broker.port, tell) as linked,
    ):
        linked.link._retry.pause_s = lambda: 0.1  # type: ignore[method-assign]
        linked.wait_connected()
        put(linked.outbox, 1, extra=LARGE)
        put(linked.outbox, 3)
        linked.wait_empty(120)
        assert (row(linked.outbox).acknowledged, row(linked.outbox).rejected) == (3, 1)


def test_a_broker_that_hangs_up_at_every_message_costs_none() -> None:
    """A topic that is not allowed, with MQTT 3.1.1: nothing of it is the messages' fault."""
    allowed = threading.Event()

    def answer(published: Published) -> int:
        return 0 if published.topic == TOPICS.status or allowed.is_set() else HANG_UP

    with StrictBroker(answer) as broker, Linked(broker.port, tell, protocol="3.1.1") as linked:
        linked.link._retry.pause_s = lambda: 0.02  # type: ignore[method-assign]
        put(linked.outbox, 5)
        wait_for("connections", lambda: broker.connections >= 40, 60)
        assert row(linked.outbox).waiting == 5
        allowed.set()
        linked.wait_empty()
        assert row(linked.outbox).acknowledged == 5


def test_connections_that_break_while_one_message_is_on_its_way_cost_none() -> None:
    """However often: other messages do not fare better, or it is acknowledged in the end."""
    left = [25]

    def answer(published: Published) -> int:
        if published.topic == TOPICS.status:
            return 0
        left[0] -= 1
        return HANG_UP if left[0] > 0 else 0

    with StrictBroker(answer) as broker, Linked(broker.port, tell) as linked:
        linked.link._retry.pause_s = lambda: 0.02  # type: ignore[method-assign]
        put(linked.outbox, 1)
        linked.wait_empty()
        assert (row(linked.outbox).acknowledged, row(linked.outbox).rejected) == (1, 0)


def test_a_quota_costs_no_message() -> None:
    full = threading.Event()
    full.set()

    def answer(published: Published) -> int:
        return 0x97 if published.topic != TOPICS.status and full.is_set() else 0

    with StrictBroker(answer) as broker, Linked(broker.port, tell) as linked:
        put(linked.outbox, 50)
        wait_for("connections", lambda: broker.connections >= 3)
        assert row(linked.outbox).waiting == 50
        assert any("reason 0x97" in alert for alert in linked.alerts)
        assert not linked.link.status().unsteady, "nobody has taken its place"
        full.clear()
        linked.wait_empty()
        assert row(linked.outbox).acknowledged == 50
        delivered = [json.loads(one.payload)["seq"] for one in broker.topics("/detections")]
        assert sorted(set(delivered)) == list(range(1, 51))


@pytest.mark.parametrize("receive_maximum", [1, 2, 3, RESERVED_WINDOW, RESERVED_WINDOW + 1, 9])
def test_a_small_receive_maximum_is_kept(receive_maximum: int) -> None:
    def connected(link: Link) -> None:
        for number in range(12):
            link.publish(f"vedette/dev-1/{number}/state", b"{}", qos=1, retain=True)

    with (
        StrictBroker(receive_maximum=receive_maximum, delay_s=0.002) as broker,
        Linked(broker.port, connected) as linked,
    ):
        put(linked.outbox, 50)
        linked.wait_empty()
        wait_for("what is retained", lambda: len(broker.topics("/state")) == 12)
        assert (broker.exceeded, broker.connections) == (0, 1)
        assert row(linked.outbox).acknowledged == 50


@pytest.mark.parametrize("reason", [0x9A, 0x9B])
def test_a_broker_without_qos_1_or_retained_messages_is_a_refusal_that_says_so(reason: int) -> None:
    with (
        StrictBroker(refusal=reason) as broker,
        pytest.raises(BrokerRefusedError, match="QoS 1 and retained") as refused,
    ):
        try_connection(LinkOptions("127.0.0.1", broker.port, "c"))
    assert "access rules" not in str(refused.value)


def test_of_what_is_retained_the_newest_is_sent_and_pictures_are_bounded() -> None:
    with StrictBroker(delay_s=0.3) as broker, Linked(broker.port) as linked:
        linked.wait_connected()
        wait_for("a connection", lambda: linked.link.status().connected)
        for number in range(200):
            linked.link.publish(f"vedette/dev-1/{number % 8}/state", b"%d" % number, qos=1, retain=True)
        picture = b"x" * 100_000
        taken = [linked.link.publish("vedette/dev-1/0/snapshot", picture, qos=0, retain=False) for _ in range(20)]
        assert 0 < sum(taken) <= MAX_BYTES // len(picture) + 1 and not taken[-1]
        wait_for(
            "the newest",
            lambda: {one.payload for one in broker.topics("/state")} >= {b"%d" % n for n in range(192, 200)},
        )
        assert len(broker.topics("/state")) < 30
        wait_for("the pictures", lambda: len(broker.topics("/snapshot")) == sum(taken))


def test_last_words_overtake_and_where_they_cannot_be_sent_the_will_speaks() -> None:
    with StrictBroker(delay_s=0.2) as broker, Linked(broker.port) as linked:
        linked.wait_connected()
        wait_for("a connection", lambda: linked.link.status().connected)
        for number in range(40):
            linked.link.publish(f"vedette/dev-1/{number}/state", b"{}", qos=1, retain=True)
        assert linked.link.publish_and_wait(TOPICS.status, b"stopped", 10.0)
        assert len(broker.topics("/state")) < 40
        linked.link.stop()
        wait_for("a goodbye", lambda: broker.disconnects)
        assert broker.wills == 0
    with StrictBroker(receive_maximum=1, delay_s=5.0) as broker, Linked(broker.port) as linked:
        linked.wait_connected()
        wait_for("a connection", lambda: linked.link.status().connected)
        put(linked.outbox, 1)
        wait_for("a full window", lambda: broker.topics("/detections"))
        assert not linked.link.publish_and_wait(TOPICS.status, b"stopped", 0.1)
        linked.link.stop()
        wait_for("the will", lambda: broker.wills == 1)
        assert broker.disconnects == []


def test_an_answer_outlives_the_connection() -> None:
    def answer(published: Published) -> int:
        if published.topic.endswith("/reply/1") and published.connection == 1:
            return HANG_UP
        return 0

    with StrictBroker(answer) as broker, Linked(broker.port) as linked:
        linked.wait_connected()
        wait_for("a connection", lambda: linked.link.status().connected)
        assert linked.link.publish("vedette/dev-1/reply/1", b"done", qos=1, retain=False, lasting=True)
        wait_for(
            "the answer on the next connection", lambda: [one.connection for one in broker.topics("/reply/1")] == [1, 2]
        )
    linked = Linked(1)  # where nobody listens
    assert linked.link.publish("vedette/dev-1/reply/2", b"done", qos=1, retain=False, lasting=True)
    linked.link.stop()


def test_an_answer_outlives_a_connection_that_breaks_as_it_is_sent() -> None:
    with StrictBroker() as broker:

        def connected(link: Link) -> None:
            if broker.connections > 1:
                return
            [peer] = broker._peers
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.shutdown(socket.SHUT_RD)  # whoever reads there closes it then, and RST takes FIN's place
            wait_for("the end", lambda: not broker._peers)
            for number in range(3):
                assert link.publish(f"vedette/dev-1/reply/{number}", b"done", qos=1, retain=False, lasting=True)

        with Linked(broker.port, connected):
            wait_for("the answers", lambda: len(broker.published) >= 3)
        assert [one.topic[-1] for one in broker.published] == ["0", "1", "2"]


def test_notices_that_nobody_acknowledges_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedette.mqtt.traffic.PUBACK_TIMEOUT_S", 0.5)

    with (
        StrictBroker(lambda published: SILENCE if published.retain else 0) as broker,
        Linked(broker.port, tell) as linked,
    ):
        stop = threading.Event()

        def append() -> None:
            while not stop.wait(0.02):
                put(linked.outbox, 1, GATE)

        thread = threading.Thread(target=append)
        thread.start()
        try:
            wait_for("connections", lambda: broker.connections >= 2, 60)
        finally:
            stop.set()
            thread.join()
        wait_for("the news", lambda: any("acknowledges nothing" in alert for alert in linked.alerts))


def test_a_fault_of_ours_on_a_connection_is_told_and_the_link_comes_back() -> None:
    faults = [OSError(24, "Too many open files"), RuntimeError("unheard of")]

    def connected(link: Link) -> None:
        if faults:
            raise faults.pop(0)

    with StrictBroker() as broker:
        with Linked(broker.port, connected) as linked:
            put(linked.outbox, 3)
            linked.wait_empty()
        assert broker.connections == 3
        assert [alert for alert in linked.alerts if "Too many open files" in alert]
        assert row(linked.outbox, DOOR).acknowledged == 3
