"""Malformed input of every kind, from files and from the network: one error of one line or a count, never a crash.

A few hundred of each kind; ``VEDETTE_FUZZ=2000 python -m pytest tests/agent/test_malformed.py`` tries more. A hang is
ended by pytest's own timeout.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real import DATA, DEADLINE_S, LOOPBACK, ROOT, wait_for

from malformed import TRIES, broken
from tiny import FAKE_FLATBUFFER, fake_parts, golden_arrays, make_manifest, npz, sha256
from vedette.config import parse_config
from vedette.contract import archive, golden
from vedette.contract import bundle as bundle_module
from vedette.contract import manifest as manifest_module
from vedette.contract.bundle import has_archive, open_bundle
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError, ModelError, VedetteError
from vedette.contract.labels import parse_labels, parse_third_party_labels
from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.tflite_metadata import read_normalization
from vedette.contract.types import Readings
from vedette.contract.window import WindowBuilder
from vedette.mqtt import Incoming, LinkOptions, Subscription, Topics
from vedette.mqtt.commands import Commands
from vedette.mqtt.connection import Connection
from vedette.mqtt.inbox import MAX_MESSAGE, Inbox
from vedette.pictures.drawing import read_picture
from vedette.recordings import read_recording
from vedette.sources import SensorOptions, make_sensor_source
from vedette.sources.lines import LineCutter, LineParser, Tally
from vedette.trust.signatures import Trust, new_private_key

TOPICS = Topics("vedette", "eye")


def refused_or_fine(action: Callable[[], object]) -> str:
    """The class of the error, one printable line of bounded length; empty where there was none."""
    try:
        action()
    except VedetteError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 10_000
        return type(error).__name__
    return ""


def test_configurations() -> None:
    example = re.sub(r"(?m)^#(?=\[|[a-z_]+ = )", "", (ROOT / "systemd" / "vedette.toml").read_text()).encode()
    seeds = [
        example,
        b'[pipeline.door]\nmodel = "m"\nsource = "s"\n',
        *(p.read_bytes() for p in ROOT.glob("examples/*.toml")),
    ]
    outcomes = Counter(
        refused_or_fine(lambda raw=raw: parse_config(raw, Path("x.toml"))) for raw in broken(seeds, name="config")
    )
    assert set(outcomes) <= {"", "ConfigError"}
    assert outcomes["ConfigError"] > TRIES / 4


def test_bundles(tmp_path: Path) -> None:
    key = new_private_key()
    parts = fake_parts()
    raw_manifest = manifest_module.encode(parts.manifest)
    signed = fake_parts(manifest_sig=key.sign(raw_manifest)).bytes()
    trust = Trust((key.public("k"),))
    path = tmp_path / "a.tflite"
    outcomes: Counter[str] = Counter()
    for data in broken([signed, signed, (DATA / "tiny-uint8.tflite").read_bytes()[:5000]], name="bundle"):
        path.write_bytes(data)
        outcomes[refused_or_fine(lambda: has_archive(path))] += 1
        outcomes[refused_or_fine(lambda: open_bundle(path))] += 1
        verified = refused_or_fine(lambda: open_bundle(path, trust.check))
        # what the signature covers is never taken for good when it has changed
        assert verified or open_bundle(path).sha256 == sha256(raw_manifest)
    assert set(outcomes) <= {"", "BundleError", "ModelError"}


def test_manifests_whose_archive_is_right(tmp_path: Path) -> None:
    parts = fake_parts()
    path = tmp_path / "a.tflite"
    good = manifest_module.encode(parts.manifest)
    compact = json.dumps(json.loads(good)).encode()
    outcomes: Counter[str] = Counter()
    for raw in broken([good, compact], name="manifest"):
        if len(raw) <= archive.ORDER["manifest.json"]:
            path.write_bytes(archive.assemble(FAKE_FLATBUFFER, {"manifest.json": raw, **parts.members}))
            outcomes[refused_or_fine(lambda: open_bundle(path))] += 1
    assert set(outcomes) <= {"", "BundleError"}
    assert outcomes["BundleError"] > TRIES / 3


def test_golden_vectors_whose_digest_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    seeds = [npz(**golden_arrays()), npz(**golden_arrays(picture=None, picture_tensor=None))]
    outcomes: Counter[str] = Counter()
    for raw in broken(seeds, name="golden"):
        members = {**fake_parts().members, "golden.npz": raw}
        path.write_bytes(bundle_module.pack(FAKE_FLATBUFFER, make_manifest(FAKE_FLATBUFFER, members), members))
        opened = open_bundle(path)
        outcomes[refused_or_fine(lambda opened=opened: golden.decode(opened.read("golden.npz"), path))] += 1
    assert set(outcomes) <= {"", "BundleError"}
    assert outcomes["BundleError"] > TRIES / 3


def test_labels_and_metadata_of_plain_models(tmp_path: Path) -> None:
    network = (DATA / "tiny-uint8.tflite").read_bytes()
    for raw in broken([b"ash\nbirch\ncedar\nelm\n", b"0 ash\r\n1 birch\r\n"], name="labels"):
        refused_or_fine(lambda raw=raw: parse_labels(raw, "l"))
        refused_or_fine(lambda raw=raw: parse_third_party_labels(raw, "l"))
    for raw in broken([network], name="network"):
        with suppress(ModelError):
            read_normalization(raw)


def test_pictures(tmp_path: Path) -> None:
    import cv2

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    outcomes: Counter[str] = Counter()
    for suffix in (".png", ".jpg", ".bmp"):
        path = tmp_path / f"a{suffix}"
        for raw in broken([cv2.imencode(suffix, pixels)[1].tobytes()], name=suffix, tries=TRIES // 3):
            path.write_bytes(raw)
            outcomes[refused_or_fine(lambda path=path: read_picture(path))] += 1
    assert set(outcomes) <= {"", "PictureError"}


COMMANDS = {
    "ping": {},
    "reload": {},
    "enable": {"pipeline": "door", "on": True},
    "threshold": {"pipeline": "door", "value": 0.5, "label": "person"},
    "snapshot": {"pipeline": "door"},
}


def test_commands() -> None:
    replies: list[dict[str, Any]] = []
    alerts: list[str] = []
    carried: list[object] = []
    commands = Commands(
        TOPICS,
        {"enable": carried.append, "threshold": carried.append, "snapshot": carried.append, "reload": carried.append},  # type: ignore[typeddict-item]
        lambda topic, payload: replies.append(json.loads(payload)),
        alerts.append,
        clock_state=lambda: "synced",
        wall_s=lambda: 1e9,
    )
    seeds = [json.dumps({"id": "a-1", "expires": 1e9 + 10, **fields}).encode() for fields in COMMANDS.values()]
    seeds.append(b'{"id":"b","expires":"2001-09-09T01:46:45Z"}')
    names = [*COMMANDS, "", "x" * 1000, "\u202e", "../ping", "PING"]
    heard = 0
    for number, payload in enumerate(broken(seeds, name="command")):
        # each with an id of its own, or every one would be the first one come twice
        payload = payload.replace(b"a-1", b"n-%d" % number)
        before = len(replies) + len(alerts)
        commands.receive(Incoming(f"vedette/eye/cmd/{names[number % len(names)]}", payload, number % 17 == 0))
        assert len(replies) + len(alerts) == before + 1, payload
        heard += 1
    counts = commands.counts()
    assert sum(counts.values()) == heard and "fault" not in counts
    assert len(counts) >= 4, counts
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", reply["id"]) for reply in replies)
    assert all(alert.isprintable() for alert in alerts)


def test_messages_from_the_broker() -> None:
    heard: list[Incoming] = []
    alerts: list[str] = []
    now_ns = iter(range(0, 10**15, 10**9))  # a second between two of them: no flood
    inbox = Inbox([Subscription(TOPICS.commands, heard.append)], alerts.append, lambda: next(now_ns))
    for number, raw in enumerate(
        broken([b"vedette/eye/cmd/ping", b"vedette/other/cmd/ping", b"$SYS/broker"], name="topic")
    ):
        topic = raw.decode("utf-8", "replace")
        inbox.take(Incoming(topic, raw * (number % 200), number % 2 == 0))
    counts = inbox.counts()
    assert sum(counts.values()) == TRIES and "fault" not in counts
    assert counts["passed"] == len(heard) and counts["unasked"] > TRIES / 4
    assert all(len(message.payload) <= MAX_MESSAGE for message in heard)


# What a broker, or whoever sits in its place, may send: packets of MQTT (5.0 and 3.1.1), each of them broken

_PUBLISH = bytes.fromhex("3213 000f") + b"vedette/eye/cmd" + bytes.fromhex("0001 00") + b"{}"
PACKETS_5 = (
    bytes.fromhex("200600000321000a"),  # CONNACK, receive maximum 10
    bytes.fromhex("20090000062700010000 00"),
    _PUBLISH,
    bytes.fromhex("4002 0001"), bytes.fromhex("4004 0001 87 00"),  # PUBACK
    bytes.fromhex("9004 0001 00 01"), bytes.fromhex("9004 0001 00 87"),  # SUBACK
    bytes.fromhex("b004 0001 00 00"), bytes.fromhex("d000"), bytes.fromhex("e002 8e00"), bytes.fromhex("f000"),
    bytes.fromhex("5002 0001"), bytes.fromhex("6202 0001"), bytes.fromhex("7002 0001"),
)  # fmt: skip
PACKETS_311 = (
    bytes.fromhex("20020000"), bytes.fromhex("20020005"), bytes.fromhex("3211 000f") + b"vedette/eye/cmd" + b"\0\1",
    bytes.fromhex("4002 0001"), bytes.fromhex("9003 0001 01"), bytes.fromhex("9003 0001 80"), bytes.fromhex("d000"),
    bytes.fromhex("ffffffffff"), bytes.fromhex("30ffffff7f"),
)  # fmt: skip


class HostileBroker:
    """Answers each connection with CONNACK or not, then with broken packets, and hangs up."""

    def __init__(self, protocol: str, tries: int) -> None:
        self._server = socket.create_server((LOOPBACK, 0))
        self.port = self._server.getsockname()[1]
        welcome = bytes.fromhex("2003000000") if protocol == "5" else bytes.fromhex("20020000")
        packets = PACKETS_5 if protocol == "5" else PACKETS_311
        streams = broken([b"".join(packets), *packets], name=f"mqtt {protocol}", tries=tries)
        self._answers = [(b"" if number % 3 == 0 else welcome) + stream for number, stream in enumerate(streams)]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> HostileBroker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._thread.join(DEADLINE_S)

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return  # the test has ended
            with peer, suppress(OSError):  # the agent may hang up first
                peer.settimeout(DEADLINE_S)
                peer.recv(4096)
                peer.sendall(answer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    continue


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_hostile_broker_ends_a_connection_and_never_the_agent(protocol: Any) -> None:
    outcomes: Counter[str] = Counter()
    with HostileBroker(protocol, TRIES) as hostile:
        for _ in range(TRIES):
            heard: list[Incoming] = []
            connection = Connection(
                LinkOptions(LOOPBACK, hostile.port, "c", protocol), ("vedette/eye/status", b"{}"), heard=heard.append
            )
            try:
                connection.connect()
                connection.subscribe("vedette/eye/cmd/+")
                connection.publish("vedette/eye/door/detections", b"{}", qos=1)
                wait_for("the connection to end", lambda c=connection: c.poll(0.05) or c.closed)
                assert connection.why.isprintable()
                outcomes["connected"] += 1
            except (BrokerUnreachableError, BrokerRefusedError) as error:
                assert str(error).isprintable()
                outcomes[type(error).__name__] += 1
            finally:
                connection.close(politely=False)
            assert all(isinstance(message.topic, str) for message in heard)
    assert outcomes["connected"] > TRIES / 4 and outcomes["BrokerUnreachableError"] > 0, outcomes


def test_a_hostile_broker_of_a_sensor_ends_a_connection_and_never_the_agent() -> None:
    tries = max(1, TRIES // 2)
    outcomes: Counter[str] = Counter()
    with HostileBroker("3.1.1", tries) as hostile:
        for _ in range(tries):
            source = make_sensor_source(SensorOptions(f"mqtt://{LOOPBACK}:{hostile.port}/a/b", ("x", "y")))

            def use(source: Any = source) -> None:
                source.open()
                while source.read(0.05) is not None:
                    continue

            outcomes[refused_or_fine(use)] += 1
            source.close()
    assert set(outcomes) == {"SourceLostError"}, outcomes


LINES = (
    b'{"t":1.5,"x":0.1,"y":0.2}\n{"t":1.6,"x":0.3,"y":0.4}\n{"t":1.7,"x":1e3,"y":-2}\n',
    b'{"time":"2026-11-22T15:04:05Z","values":[1,2]}\n{"time":"2026-11-22T15:04:06Z","values":[3,4]}\n',
    b"t,x,y\n1.5,0.1,0.2\n1.6,0.3,0.4\n1.7,0.5,0.6\n",
    b"0.1,0.2\n0.3,0.4\n",
    b"[0.1,0.2]\n[0.3,0.4]\n",
)


@pytest.mark.parametrize("format", ["any", "ndjson", "csv"])
def test_lines_of_sensors(format: Any) -> None:
    spec = SeriesInput(
        channels=(Channel(name="x"), Channel(name="y")), length=2, stride=1, rate_hz=10.0, mean=(0.0,), std=(1.0,)
    )
    tally = Tally()
    for number, raw in enumerate(broken(LINES, name=f"lines {format}")):
        cutter = LineCutter(tally, joined_midway=number % 2 == 0)
        parser = LineParser(("x", "y"), tally, format=format)
        windows = WindowBuilder(spec)
        middle = len(raw) // 2
        for piece in (cutter.feed(raw[:middle]), cutter.feed(raw[middle:]), cutter.end(broken=number % 3 == 0)):
            parsed = parser.parse(piece)
            assert np.isfinite(parsed.values).all() and parsed.values.shape == (len(parsed), 2)
            times = parsed.times_ns if parsed.times_ns is not None else np.zeros(len(parsed), np.int64)
            for window in windows.push(Readings(parsed.values, times, number * 10**9, parsed.times_ns is not None)):
                assert np.isfinite(window.values).all()
    assert tally.total() > TRIES / 4
    assert len(tally.problems) >= 3 and all(example.isprintable() for example in tally.problems.values())


def test_recordings(tmp_path: Path) -> None:
    import io

    array = io.BytesIO()
    np.save(array, np.arange(20, dtype=np.float32).reshape(10, 2))
    outcomes: Counter[str] = Counter()
    for suffix, seeds in ((".csv", LINES[2:4]), (".ndjson", (*LINES[:2], LINES[4])), (".npy", (array.getvalue(),))):
        path = tmp_path / f"a{suffix}"
        for raw in broken(seeds, name=suffix, tries=TRIES // 3):
            path.write_bytes(raw)
            outcomes[refused_or_fine(lambda path=path: read_recording(path, ("x", "y")))] += 1
    assert set(outcomes) <= {"", "ReadingsError"}
    assert outcomes["ReadingsError"] > TRIES / 4


def test_the_same_inputs_come_again_and_differ_by_name() -> None:
    first = list(broken(LINES, name="a", tries=50))
    assert first == list(broken(LINES, name="a", tries=50))
    assert first != list(broken(LINES, name="b", tries=50))
    assert len(set(first)) > 40
