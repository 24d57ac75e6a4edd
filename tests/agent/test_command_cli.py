"""``vedette command`` against a link that really listens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from real import DEADLINE_S, BrokerAddress, Mosquitto, Subscriber, needs_mosquitto, run_cli

from vedette.cli import main
from vedette.cli.command import _address
from vedette.contract.errors import ConfigError, RetryableError
from vedette.demo.broker import LOOPBACK
from vedette.mqtt import Link, LinkOptions, Subscription, Topics
from vedette.mqtt.commands import Commands, Handlers
from vedette.mqtt.requests import Enable, Threshold
from vedette.mqtt.send import parse_reply
from vedette.outbox import MemoryOutbox


@contextmanager
def listening(port: int, protocol: str, handlers: Handlers, root: str = "vedette") -> Iterator[Commands]:
    """An agent that does nothing but commands."""
    topics = Topics(root, "eye")
    connected = threading.Event()
    commands = Commands(
        topics, handlers, lambda topic, reply: link.publish(topic, reply, qos=1, retain=False), lambda alert: None
    )
    link = Link(
        LinkOptions(LOOPBACK, port, "vedette-eye", protocol=protocol),  # type: ignore[arg-type]
        topics, MemoryOutbox(1, max_messages=10, max_bytes=10**6), will=lambda: b"{}", on_connected=connected.set,
        on_acknowledged=lambda key, captured_ns: None, on_alert=lambda alert: None,
        subscriptions=(Subscription(topics.commands, commands.receive),),
    )  # fmt: skip
    link.start()
    try:
        assert connected.wait(DEADLINE_S)
        yield commands
    finally:
        link.stop()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_every_command_arrives_and_its_reply_is_printed(broker: BrokerAddress, protocol: str) -> None:
    if protocol not in broker.protocols:
        pytest.skip(f"{broker.name} does not speak MQTT {protocol} here: commands by it stay untested")
    done: list[object] = []

    def threshold(request: Threshold) -> dict[str, float]:
        if request.pipeline != "door":
            raise ConfigError("unknown pipeline", expected="one of door", found=repr(request.pipeline))
        done.append((request.label, request.value))
        return {"threshold": request.value}

    where = ("--broker", f"{LOOPBACK}:{broker.port}", "--protocol", protocol)
    handlers: Handlers = {"threshold": threshold, "enable": lambda request: done.append(request.on)}
    with listening(broker.port, protocol, handlers) as commands, Subscriber(broker.port) as subscriber:
        ping = run_cli("command", "eye", "ping", *where, "--json")
        assert ping.returncode == 0, ping.stderr
        reply = json.loads(ping.stdout)
        assert (reply["ok"], reply["command"], set(reply["result"])) == (True, "ping", {"clock"})
        off = run_cli("command", "eye", "enable", "door", "off", *where)
        assert (off.returncode, off.stdout) == (0, "eye: enable done\n")
        low = run_cli("command", "eye", "threshold", "door", "0.25", "--label", "person", *where)
        assert (low.returncode, low.stdout) == (0, 'eye: threshold done: {"threshold": 0.25}\n')
        gate = run_cli("command", "eye", "threshold", "gate", "0.25", *where)
        assert gate.returncode == 2
        assert gate.stdout == "eye: threshold refused (refused): unknown pipeline: expected one of door, found 'gate'\n"
        none = run_cli("command", "eye", "snapshot", "door", *where)
        assert none.returncode == 2 and "(not_supported)" in none.stdout
        assert done == [False, ("person", 0.25)]
        assert commands.counts() == {"done": 3, "refused": 1, "not_supported": 1}
        replies = subscriber.messages("")
        assert {m.retain for m in replies} == {False}
        assert {m.qos for m in replies if "/reply/" in m.topic} == {1}
        assert len([m for m in replies if "/reply/" in m.topic]) == 5


@needs_mosquitto
def test_an_agent_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        where = ("--broker", f"{LOOPBACK}:{mosquitto.port}", "--timeout", "3000")
        outcome = run_cli("command", "eye", "ping", *where, timeout_s=60)  # nobody need wait so long
    assert outcome.returncode == 1
    [line] = outcome.stderr.splitlines()
    assert "no reply: expected one within 3000 s, found nobody who is subscribed to it; is the agent running" in line


def test_what_is_typed_wrong_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in [
        (("a b", "ping"), "bad device"),
        (("eye", "ping", "--timeout", "0"), "bad --timeout"),
        (("eye", "ping", "door"), "expected vedette command DEVICE ping, found 1 words after ping"),
        (("eye", "enable", "door", "maybe"), "expected vedette command DEVICE enable PIPELINE on|off, found 'maybe'"),
        (("eye", "threshold", "door", "low"), "expected vedette command DEVICE threshold PIPELINE VALUE, found 'low'"),
        (("eye", "enable", "door", "on", "--label", "cat"), "bad command"),
        (("eye", "ping", "--broker", "a:b"), "bad --broker"),
        (("eye", "ping", "--root", "a/#"), "bad root"),
        (("eye", "ping", "--root", "a\x85"), "bad root"),
        (("eye", "ping", "--broker", f"{LOOPBACK}:1"), "no broker"),
        (("eye", "ping", "--broker", f"mqtt://{LOOPBACK}:1"), "no broker"),
        (("eye", "ping", "--broker", "http://a"), "bad broker: expected mqtt[s]://"),
        (("eye", "ping", "--broker", "mqtt://a", "--tls"), "bad --tls: expected mqtts:// in --broker, found mqtt://"),
        (("eye", "ping", "--broker", "mqtt://me@a", "--username", "me"), "bad --username"),
        (
            ("eye", "ping", "--username", "a\nb"),
            "bad --username: expected at most 65535 bytes of UTF-8 without control",
        ),
        (("eye", "ping", "--username", "a\udcffb"), "bad --username"),
        (("eye", "ping", "--username", "ü" * 32_768), "bad --username"),
        (("eye", "ping", "--broker", "mqtt://a", "--ca-file", "c"), "bad --ca-file: expected --tls beside it"),
        (("eye", "ping", "--broker", "mqtt://a", "--password-file", "p"), "expected --username beside it"),
        (
            ("eye", "ping", "--broker", "mqtts://me@a", "--password-file", str(tmp_path / "none")),
            "password file cannot be read",
        ),
        (
            ("eye", "ping", "--username", "me", "--password-file", str(tmp_path / "none")),
            "password file cannot be read",
        ),
        (("eye", "ping", "-c", str(tmp_path / "none")), "configuration cannot be read"),
        (
            ("eye", "ping", "--password-file", "p"),
            "bad --password-file: expected --username beside it, found none; add",
        ),
        (("eye", "ping", "--ca-file", "c"), "bad --ca-file: expected --tls beside it"),
        (("eye", "ping", "--cert-file", "c"), "bad --cert-file: expected --tls beside it"),
        (("eye", "ping", "--tls", "--key-file", "k"), "bad --key-file: expected --cert-file beside it"),
        (
            ("eye", "ping", "-c", "x", "--username", "me"),
            "bad --username: expected a configuration's broker or options of",
        ),
    ]:
        assert main(["command", *arguments]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert says in line


def test_what_is_no_reply_is_one_line(tmp_path: Path) -> None:
    for payload in (b"", b"\xff", b"[1]", b'{"v":1}', b"[" * 100_000):
        with pytest.raises(RetryableError, match="vedette/eye/reply/1: no reply of an agent") as failed:
            parse_reply(payload, "vedette/eye/reply/1")
        assert str(failed.value).isprintable()


@pytest.mark.parametrize(
    ("text", "address"),
    [("a", ("a", 1883)), ("a.b:1", ("a.b", 1)), ("[::1]", ("::1", 1883)), ("[fe80::1]:8883", ("fe80::1", 8883))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert _address(text) == address


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:0", "a:65536", "a b", "::1", "a:1:2", "[::1", "a..b", "a\udcff"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        _address(text)


def test_the_broker_may_be_the_url_that_watch_takes(broker: BrokerAddress) -> None:
    protocol = broker.protocols[0]
    for root, place, options in (
        ("vedette", "", ()), ("plant-7/v", "/plant-7/v", ()), ("plant-7", "/other", ("--root", "plant-7")),
    ):  # fmt: skip
        with listening(broker.port, protocol, {}, root):
            url = f"mqtt://{LOOPBACK}:{broker.port}{place}"
            done = run_cli("command", "eye", "ping", "--broker", url, "--protocol", protocol, *options)
            assert (done.returncode, done.stdout[:15]) == (0, "eye: ping done:"), done


def test_the_configuration_names_broker_and_root(broker: BrokerAddress, tmp_path: Path) -> None:
    path = tmp_path / "vedette.toml"
    protocol = broker.protocols[0]
    path.write_text(
        f'[mqtt]\nhost = "{LOOPBACK}"\nport = {broker.port}\nroot = "plant-7/v"\nprotocol = "{protocol}"\n'
        '[pipeline.door]\nmodel = "m"\nsource = "s"\n'
    )
    heard: list[Enable] = []
    with listening(broker.port, protocol, {"enable": heard.append}, root="plant-7/v"):
        outcome = run_cli("command", "eye", "enable", "door", "on", "-c", path)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "eye: enable done\n", "")
    assert [(request.pipeline, request.on) for request in heard] == [("door", True)]
