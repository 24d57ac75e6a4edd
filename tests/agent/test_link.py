"""The link against a real broker: what is delivered, refused, lost, and told."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real import DEADLINE_S, BrokerAddress, Mosquitto, Subscriber, needs_mosquitto, wait_for

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError
from vedette.delivery import Key, LedgerRow, Stream
from vedette.demo.broker import LOOPBACK, free_port, mosquitto_path
from vedette.mqtt import Link, LinkOptions, Topics
from vedette.mqtt.connection import RESEND_S, RESERVED_WINDOW, RTO_MAX_MS, UNHEARD_S, Connection, try_connection
from vedette.mqtt.envelope import render
from vedette.mqtt.traffic import PUBACK_TIMEOUT_S
from vedette.outbox import MemoryOutbox

TOPICS = Topics("vedette", "dev-1")
DOOR = Stream("door", "detections")
GATE = Stream("gate", "detections")
EPOCH = 3


def put(outbox: MemoryOutbox, count: int = 1, stream: Stream = DOOR, extra: bytes = b"") -> None:
    for number in range(count):
        outbox.append(stream, clock.now_ns(), "synced", b'{"n":%d%s}' % (number, extra))


def row(outbox: MemoryOutbox, stream: Stream = DOOR) -> LedgerRow:
    rows = {r.stream: r for r in outbox.ledger()}
    assert all(r.balances for r in rows.values())
    return rows[stream]


class Linked:
    """A link and its outbox, and what it told. ``before_serving``: is called on each connection, as the agent publishes then
    what is retained; the first may be there before anything else is."""

    def __init__(self, port: int, before_serving: Callable[[Link], object] = lambda link: None, **options: Any) -> None:
        self.outbox = MemoryOutbox(EPOCH, max_messages=100_000, max_bytes=10**9)
        self.alerts: list[str] = []
        self.acknowledged: list[Key] = []
        self.senders: list[str] = []  # names of threads
        self.connected = threading.Semaphore(0)
        self._before_serving = before_serving
        self.link = Link(
            LinkOptions(**{"host": LOOPBACK, "port": port, "client_id": "vedette-dev-1", **options}),
            TOPICS, self.outbox, will=lambda: b'{"state":"lost"}', on_connected=self._connected,
            on_acknowledged=lambda key, captured_ns: self.acknowledged.append(key), on_alert=self.alerts.append,
            on_sent=lambda key, captured_ns, sent_ns: self.senders.append(threading.current_thread().name),
        )  # fmt: skip

    def _connected(self) -> None:
        self.connected.release()
        self._before_serving(self.link)

    def __enter__(self) -> Linked:
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop()

    def wait_connected(self) -> None:
        assert self.connected.acquire(timeout=DEADLINE_S), self.link.status()

    def connection(self) -> Connection:
        """The one that serves now."""
        traffic = wait_for("a connection that serves", lambda: self.link._traffic)
        assert traffic is not None
        return traffic.connection

    def wait_empty(self, timeout_s: float = 60.0) -> None:
        assert self.outbox.wait_empty(timeout_s), (self.outbox.depth(), self.link.status())


def seqs(subscriber: Subscriber, pipeline: str = "door") -> list[int]:
    return [m.json["seq"] for m in subscriber.messages(f"/{pipeline}/detections")]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_ten_thousand_detections_at_qos_1_every_seq_there_and_the_ledger_balances(
    broker: BrokerAddress, protocol: str
) -> None:
    if protocol not in broker.protocols:
        pytest.skip(f"{broker.name} does not speak MQTT {protocol} here: delivery with reason codes stays untested")
    count = 10_000
    with Subscriber(broker.port) as subscriber, Linked(broker.port, protocol=protocol) as linked:
        linked.wait_connected()
        put(linked.outbox, count)
        linked.wait_empty()
        wait_for("all to arrive", lambda: len(seqs(subscriber)) >= count, 60)
        assert seqs(subscriber) == list(range(1, count + 1)), "every seq, once, in order"
        assert {m.qos for m in subscriber.messages("/detections")} == {1}
        assert {m.retain for m in subscriber.messages("/detections")} == {False}
        assert row(linked.outbox) == LedgerRow(EPOCH, DOOR, 1, count, count, 0, 0, 0, (), 0)
        assert Counter(linked.acknowledged) == Counter(Key(EPOCH, DOOR, n) for n in range(1, count + 1))
        assert linked.link.status().sent == count
        assert linked.alerts == []


@needs_mosquitto
def test_acknowledgements_do_not_wait_for_the_next_message(tmp_path: Path) -> None:
    """Mosquitto's acknowledgement waits for the kernel's of the one before (RFC 896), which may come 40 ms later: once a
    few messages have gone out together, each is acknowledged no sooner than the next one goes out."""
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port), Linked(broker.port) as linked:
        linked.wait_connected()
        in_time = []
        for number in range(150):
            put(linked.outbox, 20 if number == 50 else 1)
            threading.Event().wait(0.008)
            in_time.append(linked.outbox.depth().messages == 0)
        assert sum(in_time[60:]) > 45


def test_the_kernel_tries_again_soon_and_leaves_giving_up_to_the_link(broker: BrokerAddress) -> None:
    with Linked(broker.port, protocol=broker.protocols[0]) as linked:
        linked.wait_connected()
        sock = linked.connection()._client.socket()
        assert isinstance(sock, socket.socket)
        patience_ms = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert patience_ms == UNHEARD_S * 1000 > PUBACK_TIMEOUT_S * 1000
        try:
            longest_ms = sock.getsockopt(socket.IPPROTO_TCP, RTO_MAX_MS)
        except OSError:
            pytest.skip("TCP_RTO_MAX_MS needs Linux 6.15: how soon the kernel tries again stays untried")
        assert longest_ms == RESEND_S * 1000


def test_whoever_appends_sends_while_the_link_only_waits(broker: BrokerAddress) -> None:
    with Subscriber(broker.port) as subscriber, Linked(broker.port, protocol=broker.protocols[0]) as linked:
        linked.connection()
        for _ in range(40):
            put(linked.outbox)
            linked.wait_empty()
            wait_for("a link that only waits", lambda: not linked.link._wire.locked())
        assert linked.senders.count(threading.current_thread().name) > 10, (
            "the rest met a link that was not waiting yet"
        )
        assert len(linked.senders) == 40 == len(linked.acknowledged)
        put(linked.outbox, 2000)  # faster than acknowledgements: the window fills, and the link empties the outbox
        linked.wait_empty()
        wait_for("all", lambda: len(seqs(subscriber)) >= 2040)
        assert seqs(subscriber) == list(range(1, 2041))


def test_a_fault_while_a_pipeline_sends_ends_the_connection_and_not_the_pipeline(
    broker: BrokerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[str] = []

    def render_(*arguments: Any, **options: Any) -> bytes:
        if threading.current_thread() is threading.main_thread():
            faults.append("one")
            raise RuntimeError("a fault of ours")
        return render(*arguments, **options)

    monkeypatch.setattr("vedette.mqtt.traffic.render", render_)
    with Subscriber(broker.port) as subscriber, Linked(broker.port, protocol=broker.protocols[0]) as linked:
        while not faults:
            linked.connection()
            put(linked.outbox)
            linked.wait_empty()
        count = row(linked.outbox).last
        wait_for("all", lambda: len(set(seqs(subscriber))) == count)
        assert any("a fault of ours" in alert for alert in linked.alerts)
        assert linked.link.status().connections == 1 + len(faults)


def test_nothing_overtakes_what_is_retained(broker: BrokerAddress) -> None:
    with Subscriber(broker.port) as subscriber, Linked(broker.port, protocol=broker.protocols[0]) as linked:
        linked.connection()
        for number in range(100):
            linked.link.publish(TOPICS.ledger, b"%d" % number, qos=1, retain=True)
            put(linked.outbox)
            linked.wait_empty()
        wait_for("all", lambda: len(subscriber.messages()) >= 200)
        assert [m.topic == TOPICS.ledger for m in subscriber.messages()] == [True, False] * 100


def test_many_append_at_once_while_connections_break(broker: BrokerAddress) -> None:
    streams = [Stream(f"camera-{n}", "detections") for n in range(4)]
    with Subscriber(broker.port) as subscriber, Linked(broker.port, protocol=broker.protocols[0]) as linked:
        linked.connection()
        threads = [threading.Thread(target=put, args=(linked.outbox, 1500, stream)) for stream in streams]
        for thread in threads:
            thread.start()
        for part in (1, 2, 3):
            wait_for("some", lambda p=part: len(linked.acknowledged) > p * 1000)  # type: ignore[misc]
            sock = linked.connection()._client.socket()
            with suppress(OSError):  # closed meanwhile: an appender has found it broken
                assert sock is not None
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        linked.wait_empty()
        for stream in streams:
            assert row(linked.outbox, stream).acknowledged == 1500
            wait_for("every seq", lambda s=stream: len(set(seqs(subscriber, s.pipeline))) == 1500)  # type: ignore[misc]
            first_time = list(dict.fromkeys(seqs(subscriber, stream.pipeline)))
            assert first_time == list(range(1, 1501)), "in order, but for what is sent again"


def test_streams_keep_their_own_topics_and_seqs(broker: BrokerAddress) -> None:
    with Subscriber(broker.port) as subscriber, Linked(broker.port, protocol=broker.protocols[0]) as linked:
        put(linked.outbox, 5, DOOR)
        put(linked.outbox, 7, GATE)
        linked.wait_empty()
        wait_for("all", lambda: len(subscriber.messages()) == 12)
        assert seqs(subscriber, "door") == [*range(1, 6)]
        assert seqs(subscriber, "gate") == [*range(1, 8)]
        message = subscriber.messages("vedette/dev-1/gate/detections")[2].json
        assert message["id"] == "dev-1-3-gate-detections-3"
        assert (message["epoch"], message["seq"], message["device"], message["pipeline"]) == (3, 3, "dev-1", "gate")
        assert message["boot"] == clock.boot_id()


def test_what_waited_for_the_connection_is_replayed_and_what_comes_later_is_live(broker: BrokerAddress) -> None:
    with Subscriber(broker.port) as subscriber:
        linked = Linked(broker.port, protocol=broker.protocols[0], replay_age_s=3600.0)
        put(linked.outbox, 3)
        with linked:
            linked.wait_connected()
            linked.wait_empty()
            put(linked.outbox, 2)
            linked.wait_empty()
        wait_for("all", lambda: len(seqs(subscriber)) == 5)
        assert [m.json["replay"] for m in subscriber.messages()] == [True] * 3 + [False] * 2


def test_what_is_older_than_the_configured_age_is_replayed(broker: BrokerAddress) -> None:
    with (
        Subscriber(broker.port) as subscriber,
        Linked(broker.port, protocol=broker.protocols[0], replay_age_s=60.0) as linked,
    ):
        linked.wait_connected()
        now = clock.now_ns()
        for age_s in (0, 120):
            linked.outbox.append(DOOR, now - age_s * 10**9, "synced", b'{"n":1}')
        young, old = wait_for("both", lambda: subscriber.messages() if len(subscriber.messages()) == 2 else [])
        assert (young.json["replay"], old.json["replay"]) == (False, True)
        assert old.json["ts"] < young.json["ts"]
        assert young.json["mono_us"] - old.json["mono_us"] == 120_000_000


def test_an_agent_that_never_connected_goes_on_trying_and_connects_when_the_broker_comes_up(tmp_path: Path) -> None:
    if mosquitto_path() is None:
        pytest.skip("no mosquitto: a broker that comes up late on a port known before stays untested")
    port = free_port()
    with Linked(port) as linked:
        wait_for("the first failure", lambda: linked.alerts)
        assert "no broker" in linked.alerts[0] and str(port) in linked.alerts[0]
        put(linked.outbox, 20)
        with Mosquitto(tmp_path, port=port), Subscriber(port) as subscriber:
            linked.wait_connected()
            linked.wait_empty()
            # the subscriber may have come after some of them
            wait_for("the last", lambda: linked.outbox.depth().messages == 0)
            put(linked.outbox, 1)
            wait_for("one more", lambda: 21 in seqs(subscriber))
        assert len(linked.alerts) == 1 or all("broker" in alert for alert in linked.alerts)
        assert linked.link.refused is None


@needs_mosquitto
def test_a_broker_killed_in_mid_stream_loses_nothing_and_ids_are_sent_again_as_replay(tmp_path: Path) -> None:
    count, kills = 3000, 2
    with Mosquitto(tmp_path) as mosquitto, Subscriber(mosquitto.port) as subscriber:
        # so that it hears all that is sent again
        linked = Linked(mosquitto.port, lambda link: subscriber.wait_subscribed(), replay_age_s=3600.0)
        acknowledged_before: set[int] = set()
        with linked:
            linked.wait_connected()
            for round_ in range(kills):
                put(linked.outbox, count)
                wait_for("some", lambda r=round_: row(linked.outbox).acknowledged > r * count + 200)
                subscriber.lose()
                mosquitto.kill()
                # acknowledgements may still lie in the socket
                wait_for("the loss", lambda: not linked.link.status().connected)
                waiting = row(linked.outbox).waiting
                acknowledged_before |= {key.seq for key in linked.acknowledged}
                mosquitto.start()
                linked.wait_connected()
            linked.wait_empty()
            put(linked.outbox, 1)
            linked.wait_empty()
            total = count * kills + 1
            account = row(linked.outbox)
            assert (account.acknowledged, account.last) == (total, total)
            wait_for("the last one", lambda: total in seqs(subscriber))
        copies: dict[int, list[dict[str, Any]]] = {}
        for message in subscriber.messages("/detections"):
            copies.setdefault(message.json["seq"], []).append(message.json)
        # what the broker had acknowledged and not yet passed on died with it; all else is there
        assert set(copies) | acknowledged_before == set(range(1, total + 1))
        for seq, same in copies.items():
            assert {m["id"] for m in same} == {f"dev-1-3-door-detections-{seq}"}
            assert len({(m["n"], m["mono_us"]) for m in same}) == 1
            assert all(m["replay"] for m in same[1:]), "what is sent again says so"
        assert waiting > 0 and any(same[-1]["replay"] for same in copies.values())
        assert copies[total][0]["replay"] is False
        assert linked.link.status().connections == kills + 1


@needs_mosquitto
def test_nothing_is_missing_after_a_restart_for_a_subscriber_that_stayed(tmp_path: Path) -> None:
    """The connection breaks, not the broker: whoever is subscribed gets every seq."""
    with Mosquitto(tmp_path) as mosquitto, Subscriber(mosquitto.port) as subscriber, Linked(mosquitto.port) as linked:
        linked.wait_connected()
        for round_ in range(3):
            put(linked.outbox, 2000)
            wait_for("some", lambda r=round_: row(linked.outbox).acknowledged > r * 2000 + 100)
            sock = linked.connection()._client.socket()
            assert sock is not None
            sock.shutdown(2)
            linked.wait_connected()
        linked.wait_empty()
        wait_for("every seq", lambda: len(set(seqs(subscriber))) == 6000)
        assert set(seqs(subscriber)) == set(range(1, 6001))
        assert row(linked.outbox).acknowledged == 6000


@needs_mosquitto
def test_a_broker_that_is_there_and_acknowledges_nothing_is_left_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.mqtt.traffic.PUBACK_TIMEOUT_S", 0.5)
    monkeypatch.setattr("vedette.mqtt.connection.CONNECT_TIMEOUT_S", 0.5)
    with Mosquitto(tmp_path) as mosquitto, Linked(mosquitto.port) as linked:
        linked.wait_connected()
        mosquitto.signal(signal.SIGSTOP)
        try:
            put(linked.outbox, 2000)
            wait_for("the silence to be told", lambda: any("acknowledges nothing" in a for a in linked.alerts))
            assert row(linked.outbox).waiting == 2000
        finally:
            mosquitto.signal(signal.SIGCONT)
        linked.wait_empty()
        assert row(linked.outbox).acknowledged == 2000


@needs_mosquitto
def test_with_mqtt_5_a_denied_topic_is_rejected_counted_and_told_once(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\ntopic readwrite vedette/dev-1/gate/#\n")
    acl.chmod(0o700)
    with Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {acl}\n") as mosquitto, Linked(mosquitto.port) as linked:
        linked.wait_connected()
        with Subscriber(mosquitto.port) as subscriber:
            put(linked.outbox, 50, DOOR)
            put(linked.outbox, 30, GATE)
            linked.wait_empty()
            assert (row(linked.outbox, DOOR).rejected, row(linked.outbox, DOOR).acknowledged) == (50, 0)
            assert row(linked.outbox, GATE).acknowledged == 30
            wait_for("the allowed ones", lambda: len(seqs(subscriber, "gate")) == 30)
            assert seqs(subscriber, "door") == []
            assert [a for a in linked.alerts if "rejects" in a] == [
                "the broker rejects messages of door/detections: reason 0x87"
            ]


@needs_mosquitto
def test_with_mqtt_3_1_1_a_denial_cannot_be_seen(tmp_path: Path) -> None:
    """Why the documentation says that 3.1.1 cannot prove authorisation."""
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    acl.chmod(0o700)
    with (
        Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {acl}\n") as mosquitto,
        Linked(mosquitto.port, protocol="3.1.1") as linked,
    ):
        put(linked.outbox, 5)
        linked.wait_empty()
        assert row(linked.outbox).acknowledged == 5


@needs_mosquitto
def test_a_message_over_the_brokers_limit_is_put_aside_and_never_blocks_the_head(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 2000\n") as mosquitto,
        Linked(mosquitto.port) as linked,
        Subscriber(mosquitto.port) as subscriber,
    ):
        linked.wait_connected()
        put(linked.outbox, 1)
        put(linked.outbox, 2, extra=b',"x":"%s"' % (b"x" * 3000))
        put(linked.outbox, 1)
        linked.wait_empty()
        wait_for("the small ones", lambda: seqs(subscriber) == [1, 4])
        account = row(linked.outbox)
        assert (account.acknowledged, account.rejected) == (2, 2)
        assert linked.link.status().connections == 1
        assert len([a for a in linked.alerts if "over the broker's" in a]) == 1
        assert linked.link.publish_and_wait("vedette/dev-1/ledger", b"x" * 5000, 0.2) is False
        put(linked.outbox, 1)
        linked.wait_empty()
        assert linked.link.status().connections == 1, "what is not the outbox's does not break it either"


@needs_mosquitto
def test_the_window_leaves_room_in_the_brokers_receive_maximum(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, "allow_anonymous true\nmax_inflight_messages 10\n") as mosquitto:
        with Linked(mosquitto.port) as linked:
            linked.wait_connected()
            assert linked.connection().in_flight_limit == 10 - RESERVED_WINDOW
            put(linked.outbox, 200)
            linked.wait_empty()
        assert f"window {10 - RESERVED_WINDOW}" in try_connection(linked.link._options)


@needs_mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_a_refusal_and_a_right_one_is_none(tmp_path: Path, protocol: str) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("anna:right\n")
    passwords.chmod(0o700)
    subprocess.run(["mosquitto_passwd", "-U", passwords], check=True, capture_output=True)
    with Mosquitto(tmp_path, f"password_file {passwords}\n") as mosquitto:
        options = LinkOptions(LOOPBACK, mosquitto.port, "c", protocol, "anna", "right")  # type: ignore[arg-type]
        assert f"MQTT {protocol}" in try_connection(options)
        with pytest.raises(BrokerRefusedError, match="refuses") as caught:
            try_connection(replace(options, password="wr0ng"))
        assert "wr0ng" not in str(caught.value)
        for table, names in (("--", "--username, --password-file"), ("url", "the URL's user name, --password-file")):
            with pytest.raises(BrokerRefusedError, match=names):
                try_connection(replace(options, password="wr0ng", table=table))  # type: ignore[arg-type]
        with Linked(mosquitto.port, protocol=protocol) as linked:
            wait_for("the refusal", lambda: linked.link.refused)
            assert linked.alerts == [], "it is said once, by whoever ends the agent"


@needs_mosquitto
def test_a_password_taken_away_later_does_not_end_a_running_agent(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto, Linked(mosquitto.port) as linked:
        linked.wait_connected()
        mosquitto.kill()
        mosquitto.config.write_text(mosquitto.config.read_text().replace("allow_anonymous true", ""))
        mosquitto.start()
        wait_for("the refusal", lambda: any("refuses" in alert for alert in linked.alerts))
        assert linked.link.refused is None


@contextmanager
def scripted(*answers: bytes) -> Iterator[int]:
    """A server that answers each connection's first packet with the next of these bytes and hangs up after the last."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            for answer in answers:
                peer, _ = server.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(DEADLINE_S)


CONNACK = bytes.fromhex("20 03 00 00 00")
TAKEN_OVER = bytes.fromhex("e0 02 8e 00")
SERVER_BUSY = bytes.fromhex("20 03 00 89 00")


def test_being_taken_over_by_another_session_is_told() -> None:
    """Mosquitto 2.0.11 hangs up without a word, so the words are spoken by hand (MQTT 5, section 3.14)."""
    with scripted(CONNACK + TAKEN_OVER) as port, Linked(port) as linked:
        linked.wait_connected()
        wait_for("the news", lambda: linked.alerts)
        assert "another client called vedette-dev-1" in linked.alerts[0] and "Session taken over" in linked.alerts[0]
        assert linked.link.status().unsteady


@pytest.mark.parametrize("reset", [True, False])
def test_a_reset_is_none_of_the_brokers_doing_whoever_meets_it_first(reset: bool) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        connection = Connection(LinkOptions(LOOPBACK, server.getsockname()[1], "dev-1"), None)
        accepted: list[socket.socket] = []

        def take() -> None:
            other, _ = server.accept()
            other.recv(1000)
            other.sendall(CONNACK)
            accepted.append(other)

        thread = threading.Thread(target=take)
        thread.start()
        connection.connect()
        thread.join()
        assert connection.arm()
        if reset:  # socket(7): what is unsent is thrown away, and RST takes FIN's place
            accepted[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted[0].close()
        while reset and connection.publish("t", b"a", qos=1) is not None:
            threading.Event().wait(0.01)
        connection.wait(1.0)
        connection.serve()
        assert connection.closed
        assert connection.closed_by_broker is not reset


@needs_mosquitto
def test_two_clients_of_one_name_give_way_to_each_other_and_say_so_until_one_has_gone(tmp_path: Path) -> None:
    """A cloned card. Mosquitto closes the older connection without a word, so that nothing but the turns shows it."""
    with Mosquitto(tmp_path) as mosquitto, Linked(mosquitto.port) as first:
        with Linked(mosquitto.port) as second:
            for linked in (first, second):
                wait_for("a word of it", lambda linked=linked: linked.link.status().unsteady)
                assert "is another client called vedette-dev-1 connected" in linked.link.status().unsteady
            so_far = first.link.status().connections + second.link.status().connections
            threading.Event().wait(4.0)  # 12 turns, if each came back at once
            assert first.link.status().connections + second.link.status().connections - so_far <= 6
            for linked in (first, second):
                said = [alert for alert in linked.alerts if "is another client" in alert]
                assert len(said) == 1 and linked.alerts[-1] is said[0], linked.alerts
        wait_for("a connection that lasts", lambda: not first.link.status().unsteady, 60)
        assert first.link.status().connected
        put(first.outbox, 5)
        first.wait_empty()


@needs_mosquitto
def test_a_broker_that_is_restarted_again_and_again_is_come_back_to_at_once(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto, Linked(mosquitto.port) as linked:
        for _ in range(6):
            linked.wait_connected()
            mosquitto.kill()
            wait_for("an attempt in vain", lambda: "no broker" in linked.link.status().why)
            mosquitto.start()
        linked.wait_connected()
        assert not linked.link.status().unsteady
        assert linked.link._retry._step_s <= 2.0


def test_a_broker_that_is_busy_is_tried_again() -> None:
    with scripted(SERVER_BUSY, CONNACK) as port, Linked(port) as linked:
        linked.wait_connected()
        assert linked.link.refused is None
        assert "not ready" in linked.alerts[0]


def test_a_server_that_says_nothing_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedette.mqtt.connection.CONNECT_TIMEOUT_S", 0.3)
    with socket.create_server((LOOPBACK, 0)) as silent:
        options = LinkOptions(LOOPBACK, silent.getsockname()[1], "c")
        with pytest.raises(BrokerUnreachableError, match="no answer to CONNECT"):
            try_connection(options)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "bad..name", "x" * 64 + ".invalid"])
def test_a_host_that_is_none_is_unreachable(host: str) -> None:
    with pytest.raises(BrokerUnreachableError):
        try_connection(LinkOptions(host, 1883, "c"))


def test_publishing_without_a_connection_says_so() -> None:
    linked = Linked(free_port())
    assert linked.link.publish("a", b"b", qos=1, retain=True) is False
    assert linked.link.publish_and_wait("a", b"b", 1.0) is False
    linked.link.stop()


def test_what_is_retained_waits_for_the_late(broker: BrokerAddress) -> None:
    with Linked(broker.port, protocol=broker.protocols[0]) as linked:
        linked.wait_connected()
        wait_for("a connection", lambda: linked.link.status().connected)
        assert linked.link.publish_and_wait(TOPICS.status, b'{"state":"ready"}', 20)
        with Subscriber(broker.port) as late:
            message = late.wait("/status")
            assert (message.retain, message.qos) == (True, 1)


def test_messages_of_others_do_not_settle_the_outboxs(broker: BrokerAddress) -> None:
    with Linked(broker.port, protocol=broker.protocols[0]) as linked, Subscriber(broker.port) as subscriber:
        linked.wait_connected()
        stop = threading.Event()

        def chatter() -> None:
            while not stop.wait(0.002):
                linked.link.publish(TOPICS.health, b"{}", qos=0, retain=False)
                linked.link.publish(TOPICS.ledger, b"{}", qos=1, retain=True)

        threads = [threading.Thread(target=chatter) for _ in range(2)]
        for thread in threads:
            thread.start()
        put(linked.outbox, 2000)
        linked.wait_empty()
        stop.set()
        for thread in threads:
            thread.join()
        wait_for("all", lambda: len(seqs(subscriber)) >= 2000)
        assert seqs(subscriber) == list(range(1, 2001))
        assert len(linked.acknowledged) == 2000 == row(linked.outbox).acknowledged


# TLS


@pytest.fixture
def tls_broker(authority: Path, tmp_path: Path) -> Iterator[Mosquitto]:
    lines = f"allow_anonymous true\ncertfile {authority}/server.pem\nkeyfile {authority}/server.key\n"
    with Mosquitto(tmp_path, lines) as mosquitto:
        yield mosquitto


def tls_options(port: int, ca_file: Path | str, host: str = "localhost") -> LinkOptions:
    return LinkOptions(host, port, "c", tls=True, ca_file=str(ca_file))


@needs_mosquitto
def test_tls_with_the_right_authority_delivers(tls_broker: Mosquitto, authority: Path) -> None:
    ca_file = authority / "ca.pem"
    assert "localhost" in try_connection(tls_options(tls_broker.port, ca_file))
    with Linked(tls_broker.port, host="localhost", tls=True, ca_file=str(ca_file)) as linked:
        put(linked.outbox, 100)
        linked.wait_empty()
        assert row(linked.outbox).acknowledged == 100


@needs_mosquitto
@pytest.mark.parametrize(("ca", "host"), [("other.pem", "localhost"), ("", "localhost"), ("ca.pem", LOOPBACK)])
def test_a_certificate_that_is_not_trusted_is_a_refusal_in_one_line(
    tls_broker: Mosquitto, authority: Path, ca: str, host: str
) -> None:
    with pytest.raises(BrokerRefusedError, match="not trusted") as caught:
        try_connection(tls_options(tls_broker.port, authority / ca if ca else "", host))
    assert "\n" not in str(caught.value) and "mqtt.ca_file" in str(caught.value)


@needs_mosquitto
def test_tls_to_a_broker_without_it_is_unreachable(tmp_path: Path, authority: Path) -> None:
    with Mosquitto(tmp_path) as plain, pytest.raises(BrokerUnreachableError, match="is it a TLS port"):
        try_connection(tls_options(plain.port, authority / "ca.pem"))


@needs_mosquitto
def test_a_tls_port_without_tls_is_asked_about_before_the_protocol_is(tls_broker: Mosquitto) -> None:
    for table, says in (("mqtt", "mqtt.tls = true; "), ("--", "Then --tls; "), ("url", "Then mqtts://; ")):
        options = LinkOptions("localhost", tls_broker.port, "c", table=table)  # type: ignore[arg-type]
        with pytest.raises(BrokerUnreachableError, match="is it a TLS port") as caught:
            try_connection(options)
        assert caught.value.fix.index(says) < caught.value.fix.index("does not speak MQTT 5")
        assert ("mqtt." in str(caught.value)) == (table == "mqtt")


@needs_mosquitto
@pytest.mark.parametrize(("table", "ca_file"), [("--", "--ca-file"), ("url", "--ca-file"), ("mqtt", "mqtt.ca_file")])
def test_what_is_named_is_what_was_typed(tls_broker: Mosquitto, authority: Path, table: str, ca_file: str) -> None:
    options = replace(tls_options(tls_broker.port, authority / "other.pem"), table=table)  # type: ignore[arg-type]
    with pytest.raises(BrokerRefusedError, match=f"set {ca_file} to the authority") as caught:
        try_connection(options)
    assert ("mqtt." in str(caught.value)) == (table == "mqtt")


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
def test_a_ca_file_that_cannot_be_used_is_a_refusal(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BrokerRefusedError, match="CA file cannot be used") as caught:
        try_connection(tls_options(free_port(), file))
    assert str(file) in str(caught.value)
