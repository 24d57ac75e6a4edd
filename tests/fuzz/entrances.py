"""Every way in for bytes from outside: what takes them, and inputs that are good.

`Entrance.made` is called once in a folder of its own, and gives a function that takes one input. That function returns
where the input was taken, refused with an error of vedette's of one line, or counted; whatever else it raises is a bug.
No part of it needs a fuzzer: tests call it, and `guided.py` has atheris call it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from typical import typical

from tiny import DATA, FAKE_FLATBUFFER, fake_parts, golden_arrays, make_manifest, npz
from vedette import clock
from vedette.chaos.account import Account
from vedette.config import parse_config
from vedette.contract import archive, golden
from vedette.contract import bundle as bundle_module
from vedette.contract import manifest as manifest_module
from vedette.contract.bgr import in_bgr
from vedette.contract.bundle import has_archive, open_bundle, third_party_archive
from vedette.contract.errors import (
    BrokerRefusedError,
    BundleError,
    ConfigError,
    KeyFileError,
    MissingPackageError,
    ModelError,
    PictureError,
    ReadingsError,
    RetryableError,
    SourceError,
    StateError,
    UndecodableError,
    VedetteError,
)
from vedette.contract.jpeg import decode, fingerprint, read_jpeg
from vedette.contract.labels import parse_labels, parse_third_party_labels
from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.tflite_metadata import read_normalization
from vedette.contract.types import Readings
from vedette.contract.window import WindowBuilder
from vedette.delivery import Stream
from vedette.flow.motion import MotionGate
from vedette.flow.regions import Regions
from vedette.follow.events import Scene, SceneOptions
from vedette.follow.steady import Steady
from vedette.follow.track import Tracker
from vedette.models import proofs, tune
from vedette.monitor import screen
from vedette.monitor.address import parse_url
from vedette.monitor.fleet import Fleet
from vedette.monitor.watch import Watch
from vedette.mqtt import Incoming, LinkOptions, Subscription, Topics, announcer
from vedette.mqtt.commands import Commands
from vedette.mqtt.connection import Connection
from vedette.mqtt.inbox import Inbox
from vedette.mqtt.payloads import MESSAGES, encode, ledger_message
from vedette.mqtt.send import parse_reply
from vedette.outbox import Bounds, open_outbox, tally
from vedette.outbox import epoch as epoch_module
from vedette.outbox.epoch import FILE as EPOCH
from vedette.outbox.recovery import recovered
from vedette.outbox.store import FILE as OUTBOX
from vedette.outbox.store import Store
from vedette.outbox.tally import FILE as TALLY
from vedette.pictures.drawing import read_picture
from vedette.recordings import read_recording
from vedette.sources import (
    SensorOptions,
    SourceOptions,
    is_sensor_url,
    make_sensor_source,
    make_source,
    masked_url,
)
from vedette.sources import lines as sensor_lines
from vedette.trust import rollback
from vedette.trust.credentials import certificate_expires, read_password
from vedette.trust.signatures import Trust, new_private_key, public_pem, read_private_key, read_public_key

ROOT: Final = Path(__file__).resolve().parents[2]
TOPICS: Final = Topics("vedette", "eye")
CHANNELS: Final = ("x", "y")
STREAM: Final = Stream("door", "detections")
BOUNDS: Final = Bounds(1000, 1_000_000, 0.0, "drop_oldest")
HANG_S: Final = 20.0
MAX_LINE: Final = 10_000  # characters of an error

Take: TypeAlias = Callable[[bytes], object]


@dataclass(frozen=True)
class Entrance:
    """``seeds``: good inputs, given a folder to make them in. ``max_bytes``: of an input that is worth trying."""

    name: str
    made: Callable[[Path], Take]
    seeds: Callable[[Path], Sequence[bytes]]
    max_bytes: int = 8192


class UnfitError(Exception):
    """An error of vedette's that is none: of a class that has no business here, or no line of bounded length."""


def refused(action: Callable[[], object], *kinds: type[VedetteError]) -> str:
    """The class of the error, which is one of ``kinds``; empty where there was none."""
    try:
        action()
    except VedetteError as error:
        line = str(error)
        if not isinstance(error, kinds) or not line.isprintable() or len(line) >= MAX_LINE:
            raise UnfitError(f"{type(error).__name__}: {line[:MAX_LINE]!r}") from error
        return type(error).__name__
    return ""


def fixed(*seeds: bytes) -> Callable[[Path], Sequence[bytes]]:
    """Seeds that need no folder."""
    return lambda folder: seeds


def choice(data: bytes, count: int) -> tuple[int, bytes]:
    """The first byte picks one of so many; the rest."""
    return (data[0] % count if data else 0), data[1:]


# the configuration, and what is typed


def _example() -> bytes:
    return re.sub(r"(?m)^#(?=\[|[a-z_]+ = )", "", (ROOT / "systemd" / "vedette.toml").read_text()).encode()


def _configs(folder: Path) -> Sequence[bytes]:
    others = [path.read_bytes() for path in sorted(ROOT.glob("examples/*.toml"))]
    rich = (
        b'device="a"\n[pipeline.door]\nmodel="m"\nlabels=["person"]\nthreshold=0.5\nthresholds={person=0.4}\n'
        b'source={url="rtsp://u:p@h/1",rtsp_transport="udp"}\nregion={tiles=[2,2],overlap=0.1}\nmotion={}\n'
        b"track={}\nevents={}\n[pipeline.door.zones.yard]\npolygon=[[0.1,0.1],[0.9,0.1],[0.9,0.9]]\n"
        b"[pipeline.door.wires.gate]\nline=[[0.1,0.5],[0.9,0.5]]\n"
        b'[pipeline.a]\nmodel="m"\nsource="csv:///x.csv?rate=5"\nsteady={}\n'
        b'[pipeline.a.plain]\noutput={decoder="classify"}\ninput={kind="series",channels=[{name="x"}],length=2,stride=1,rate_hz=1.0}\n'
    )
    return [b'[pipeline.door]\nmodel = "m"\nsource = "s"\n', rich, *others, _example()]


def _config(folder: Path) -> Take:
    def take(data: bytes) -> None:
        if refused(lambda: parsed.append(parse_config(data, Path("x.toml"))), ConfigError):
            return
        config = parsed.pop()
        for name, pipeline in config.pipelines.items():
            # what the configuration lets pass, the parts must take
            _make_source(pipeline.source_config.url)
            if pipeline.region is not None:
                Regions(pipeline.region)
            if pipeline.motion is not None:
                MotionGate(pipeline.motion)
            if pipeline.follows is not None:
                Tracker(pipeline.follows)
                Scene(pipeline.events or SceneOptions(), ("person",), pipeline.zones, pipeline.wires)
            if pipeline.steady is not None:
                Steady(pipeline.steady, ("a", "b"))
            assert name

    parsed: list[Any] = []
    return take


def _make_source(url: str) -> None:
    assert "\n" not in masked_url(url) or "\n" in url
    if is_sensor_url(url):
        refused(lambda: make_sensor_source(SensorOptions(url, CHANNELS)), SourceError, MissingPackageError)
    else:
        refused(lambda: make_source(SourceOptions(url)), SourceError, MissingPackageError)


def _url(folder: Path) -> Take:
    def take(data: bytes) -> None:
        url = data.decode("utf-8", "surrogateescape").replace("\0", "")
        refused(lambda: parse_url(url), ConfigError)
        _make_source(url)

    return take


URLS: Final = (
    b"mqtt://user:p%20w@host:1883/a/+/imu?columns=x,y", b"mqtts://[::1]:8883/plant-7/vedette", b"udp://0.0.0.0:9000",
    b"mqtts://u:p@h/t/#?ca_file=/a.pem", b"serial:///dev/ttyUSB0?baud=115200&columns=x,y", b"exec:/usr/bin/x -a b",
    b"iio:///sys/bus/iio/devices/iio:device0?rate=100&channels=a,b", b"csv:///a.csv?speed=4&rate=2&columns=t,x,y",
    b"ndjson:///a.ndjson?rate=1", b"rtsp://u:p@cam:554/1?a=b", b"https://cam/x.mjpg", b"v4l2:///dev/video0?width=640&height=480",
    b"rpicam://0?width=1280&height=720&fps=30&stride=1280", b"picamera2://0?width=64&height=48", b"images:///a", b"a.mp4",
)  # fmt: skip


# bundles, and what is in them


def _bundle(folder: Path) -> Take:
    path = folder / "a.tflite"
    trust = Trust((new_private_key().public("k"),), require=False)

    def take(data: bytes) -> None:
        path.write_bytes(data)
        refused(lambda: has_archive(path), ModelError)
        refused(lambda: third_party_archive(path), ModelError)
        refused(lambda: open_bundle(path, trust.check), ModelError)
        opened: list[bundle_module.Bundle] = []
        if not refused(lambda: opened.append(open_bundle(path)), ModelError):
            for name in opened[0].members:
                refused(lambda name=name: opened[0].read(name), BundleError)
            refused(opened[0].measurements, BundleError)

    return take


def _measurements(folder: Path) -> Take:
    path = folder / "a.tflite"

    def take(data: bytes) -> None:
        path.write_bytes(fake_parts(measurements_json=data).bytes())
        refused(open_bundle(path).measurements, BundleError)

    return take


def _bundles(folder: Path) -> Sequence[bytes]:
    parts = fake_parts()
    signed = fake_parts(manifest_sig=new_private_key().sign(manifest_module.encode(parts.manifest)))
    return [parts.bytes(), signed.bytes(), (DATA / "tiny-uint8.tflite").read_bytes()[:6000]]


def _manifest(folder: Path) -> Take:
    path, parts = folder / "a.tflite", fake_parts()

    def take(data: bytes) -> None:
        data = data[: archive.ORDER["manifest.json"]]
        path.write_bytes(archive.assemble(FAKE_FLATBUFFER, {"manifest.json": data, **parts.members}))
        refused(lambda: open_bundle(path), BundleError)

    return take


def _manifests(folder: Path) -> Sequence[bytes]:
    good = manifest_module.encode(fake_parts().manifest)
    return [good, json.dumps(json.loads(good)).encode()]


def _golden(folder: Path) -> Take:
    path = folder / "a.tflite"

    def take(data: bytes) -> None:
        members = {**fake_parts().members, "golden.npz": data}
        path.write_bytes(bundle_module.pack(FAKE_FLATBUFFER, make_manifest(FAKE_FLATBUFFER, members), members))
        opened = open_bundle(path)
        refused(lambda: golden.decode(opened.read("golden.npz"), path), BundleError)

    return take


def _goldens(folder: Path) -> Sequence[bytes]:
    return [npz(**golden_arrays()), npz(**golden_arrays(picture=None, picture_tensor=None))]


def _labels(folder: Path) -> Take:
    def take(data: bytes) -> None:
        refused(lambda: parse_labels(data, "l"), ModelError)
        refused(lambda: parse_third_party_labels(data, "l"), ModelError)
        refused(lambda: parse_third_party_labels(data, "l", unique=True), ModelError)

    return take


def _metadata(folder: Path) -> Take:
    return lambda data: refused(lambda: read_normalization(data), ModelError)


# frames


def _picture(folder: Path) -> Take:
    def take(data: bytes) -> None:
        path.write_bytes(data)
        refused(lambda: read_picture(path), PictureError)

    path = folder / "a.png"
    return take


def _pictures(folder: Path) -> Sequence[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    suffixes = (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm")
    return [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in suffixes]


def _rpicam(folder: Path) -> Take:
    """A program that says what the input says: up to its first NUL byte on the timestamps' pipe, then frames."""
    program = folder / "rpicam-vid"
    frames, lines = folder / "frames", folder / "lines"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncat "{frames}"\nexec cat "{lines}" > "$last"\n')
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    options = SourceOptions("rpicam://0?width=16&height=8", open_timeout_s=1.0, read_timeout_s=1.0)

    def take(data: bytes) -> None:
        said, _, pixels = data.partition(b"\0")
        lines.write_bytes(said)
        frames.write_bytes(pixels)
        source = make_source(options)

        def use() -> None:
            source.open()
            while source.read(None) is not None:
                continue

        try:
            refused(use, SourceError, RetryableError)
        finally:
            source.close()

    return take


def _jpeg(folder: Path) -> Take:
    """A camera's frame, as the motion gate, the network's input and a snapshot look at it."""

    def use(data: bytes) -> None:
        jpeg = read_jpeg(np.frombuffer(data, np.uint8))
        fingerprint(jpeg)
        for factor in (8, 2, 1):
            decode(jpeg, factor)

    return lambda data: refused(lambda: use(data), UndecodableError)


def _jpegs(folder: Path) -> Sequence[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    kinds = ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1))
    return [cv2.imencode(".jpg", pixels, kind)[1].tobytes() for kind in kinds]


YUV4MPEG: Final = (
    b"YUV4MPEG2 W16 H8 F25:1 Ip C420jpeg XCOLORRANGE=FULL\n" + (b"FRAME\n" + bytes(192)) * 2,
    b"YUV4MPEG2 W16 H8 Cmono\nFRAME Ip\n" + bytes(128),
)


def _yuv4mpeg(folder: Path) -> Take:
    """A program that writes the input."""
    written = folder / "written"

    def take(data: bytes) -> None:
        written.write_bytes(data)
        source = make_source(SourceOptions(f"exec:cat {written}", open_timeout_s=1.0, read_timeout_s=1.0))

        def use() -> None:
            source.open()
            while (reading := source.read(None)) is not None:
                in_bgr(reading.pixels)

        try:
            refused(use, SourceError, RetryableError)
        finally:
            source.close()

    return take


# sensors


LINES: Final = (
    b'{"t":1.5,"x":0.1,"y":0.2}\n{"t":1.6,"x":0.3,"y":0.4}\n{"t":1.7,"x":1e3,"y":-2}\n',
    b'{"time":"2026-11-22T15:04:05Z","values":[1,2]}\n{"time":"2026-11-22T15:04:06Z","values":[3,4]}\n',
    b"t,x,y\n1.5,0.1,0.2\n1.6,0.3,0.4\n1.7,0.5,0.6\n",
    b"0.1,0.2\n0.3,0.4\n",
    b"[0.1,0.2]\n[0.3,0.4]\n",
)


def _lines(folder: Path) -> Take:
    spec = SeriesInput(
        channels=tuple(Channel(name=name) for name in CHANNELS),
        length=2,
        stride=1,
        rate_hz=10.0,
        mean=(0.0,),
        std=(1.0,),
    )

    def take(data: bytes) -> None:
        which, raw = choice(data, 12)
        form: Any = ("any", "ndjson", "csv")[which % 3]
        said = sensor_lines.Tally()
        cutter = sensor_lines.LineCutter(said, joined_midway=which % 2 == 0)
        parser = sensor_lines.LineParser(CHANNELS, said, format=form)
        windows = WindowBuilder(spec)
        middle = len(raw) // 2
        for piece in (cutter.feed(raw[:middle]), cutter.feed(raw[middle:]), cutter.end(broken=which > 5)):
            parsed = parser.parse(piece)
            assert np.isfinite(parsed.values).all() and parsed.values.shape == (len(parsed), len(CHANNELS))
            times = parsed.times_ns if parsed.times_ns is not None else np.zeros(len(parsed), np.int64)
            for window in windows.push(Readings(parsed.values, times, 10**9, parsed.times_ns is not None)):
                assert np.isfinite(window.values).all()
        assert all(example.isprintable() for example in said.problems.values())

    return take


def _led(seeds: Sequence[bytes], count: int) -> Callable[[Path], Sequence[bytes]]:
    """Each with each leading byte that makes a difference."""
    return lambda folder: [bytes([first]) + seed for first in range(count) for seed in seeds]


def _recording(folder: Path) -> Take:
    def take(data: bytes) -> None:
        which, raw = choice(data, 3)
        path = folder / f"a{('.csv', '.ndjson', '.npy')[which]}"
        path.write_bytes(raw)
        refused(lambda: read_recording(path, CHANNELS), ReadingsError)
        if path.suffix == ".npy":
            return
        source = make_sensor_source(SensorOptions(str(path), CHANNELS, pace="max", rate_hz=10.0))

        def use() -> None:
            source.open()
            while (readings := source.read(0.0)) is not None:
                assert np.isfinite(readings.values).all()

        try:
            refused(use, SourceError)
        finally:
            source.close()

    return take


def _recordings(folder: Path) -> Sequence[bytes]:
    array = io.BytesIO()
    np.save(array, np.arange(20, dtype=np.float32).reshape(10, 2))
    texts = [(0, LINES[2]), (0, LINES[3]), (1, LINES[0]), (1, LINES[1]), (1, LINES[4]), (2, array.getvalue())]
    return [bytes([which]) + raw for which, raw in texts]


def _iio(folder: Path) -> Take:
    """The driver's files, a line each: two values, scale, offset, rate."""
    names = ("in_x_raw", "in_y_raw", "in_scale", "in_x_offset", "sampling_frequency")

    def take(data: bytes) -> None:
        for name, text in zip(names, data.split(b"\n"), strict=False):
            (folder / name).write_bytes(text[:65_536])
        source = make_sensor_source(SensorOptions(f"iio://{folder}", CHANNELS))

        def use() -> None:
            source.open()
            for _ in range(2):
                readings = source.read(0.0)
                assert readings is not None and readings.values.shape[1] == len(CHANNELS)
                assert np.isfinite(readings.values).all()

        try:
            refused(use, SourceError, RetryableError)
        finally:
            source.close()

    return take


# what a broker hands on

COMMANDS: Final = {
    "ping": {},
    "reload": {},
    "enable": {"pipeline": "door", "on": True},
    "threshold": {"pipeline": "door", "value": 0.5, "label": "person"},
    "snapshot": {"pipeline": "door"},
}


def _command(folder: Path) -> Take:
    replies: list[Any] = []
    alerts: list[str] = []
    carried: list[object] = []
    handlers: Any = dict.fromkeys(("enable", "threshold", "snapshot", "reload"), carried.append)
    names = [*COMMANDS, "", "x" * 1000, "../ping"]

    def take(data: bytes) -> None:
        # anew each time: the same command twice would be answered from memory
        commands = Commands(
            TOPICS, handlers, lambda topic, payload: replies.append(json.loads(payload)), alerts.append,
            clock_state=lambda: "synced", wall_s=lambda: 1e9,
        )  # fmt: skip
        which, payload = choice(data, len(names))
        inbox = Inbox([Subscription(TOPICS.commands, commands.receive)], alerts.append, lambda: 0)
        inbox.take(Incoming(f"vedette/eye/cmd/{names[which]}", payload, bool(data and data[0] > 200)))
        counts = {**commands.counts(), **inbox.counts()}
        assert "fault" not in counts, (counts, alerts)
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", reply["id"]) for reply in replies)
        assert all(alert.isprintable() for alert in alerts)
        for said in (replies, alerts, carried):
            said.clear()

    return take


def _commands(folder: Path) -> Sequence[bytes]:
    good = [json.dumps({"id": "a-1", "expires": 1e9 + 10, **fields}).encode() for fields in COMMANDS.values()]
    return [
        *(bytes([number]) + command for number, command in enumerate(good)),
        b'\0{"id":"b","expires":"2001-09-09T01:46:45Z","v":1}',
    ]


SAID: Final = (
    ("eye/status", ("status",)), ("eye/health", ("health",)), ("eye/ledger", ("ledger",)), ("eye/door/events", ("events",)),
    ("eye/door/detections", ("detections", "classes", "anomaly", "values", "poses", "segments")),
    ("eye/door/state", ("state",)), ("eye/door/stats", ("stats",)), ("eye/door/model", ("model",)),
    ("eye/door/settings", ("settings",)), ("eye/door/snapshot", ()), ("eye/cmd/ping", ("cmd-ping",)),
    ("eye/reply/a-1", ("reply",)), ("eye/door/else", ()),
)  # fmt: skip
"""Topics below the root, and the schemas of what is said there."""


def _heard(folder: Path) -> Take:
    """What ``vedette watch``, ``vedette top``, ``vedette command`` and ``vedette chaos`` make of what they hear."""
    watches = [Watch("vedette", as_json=as_json) for as_json in (False, True)]

    def take(data: bytes) -> None:
        which, payload = choice(data, len(SAID))
        retained = bool(data and data[0] > 127)
        message = Incoming(f"vedette/{SAID[which][0]}", payload, retained)
        with contextlib.redirect_stdout(_Sink()), contextlib.redirect_stderr(_Sink()):
            for watch in watches:
                watch.heard(message)
        fleet = Fleet("vedette")
        for _ in range(2):  # the second is compared with the first
            fleet.heard(message)
        for width, height in ((200, None), (60, 10)):
            screen.lines(fleet, "title", width=width, height=height)
        account = Account(TOPICS)
        for _ in range(2):
            account.hear(message.topic, payload, retained=retained)
        account.verdict()
        refused(lambda: parse_reply(payload, message.topic), RetryableError)

    return take


class _Sink(io.TextIOWrapper):
    """As stdout to a file is, and kept by nobody."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace")


def _sayings(folder: Path) -> Sequence[bytes]:
    seeds = []
    for number, (_, names) in enumerate(SAID):
        seeds += [bytes([number]) + typical(MESSAGES[name]) for name in names] or [bytes([number]) + b"{}"]
    return [seed.replace(b'"latency_ms":{"door"', b'"latency_ms":{"total"') for seed in seeds]


# what a broker, or whoever sits in its place, says

_WELCOMES: Final = (bytes.fromhex("2003000000"), bytes.fromhex("20020000"), b"")
_PUBLISH_5: Final = bytes.fromhex("3213 000f") + b"vedette/eye/cmd" + bytes.fromhex("0001 00") + b"{}"
PACKETS: Final = (
    bytes.fromhex("200600000321000a"), bytes.fromhex("20090000062700010000 00"), _PUBLISH_5,
    bytes.fromhex("4002 0001"), bytes.fromhex("4004 0001 87 00"), bytes.fromhex("9004 0001 00 01"),
    bytes.fromhex("9004 0001 00 87"), bytes.fromhex("b004 0001 00 00"), bytes.fromhex("d000"),
    bytes.fromhex("e002 8e00"), bytes.fromhex("f000"), bytes.fromhex("5002 0001"), bytes.fromhex("6202 0001"),
    bytes.fromhex("7002 0001"), bytes.fromhex("20020005"), bytes.fromhex("3211 000f") + b"vedette/eye/cmd" + b"\0\1",
    bytes.fromhex("9003 0001 01"), bytes.fromhex("9003 0001 80"), bytes.fromhex("30ffffff7f"),
)  # fmt: skip
"""Of MQTT 5.0 and 3.1.1."""


class _Peer:
    """Listens, and answers each connection with what it is given, in one piece; then it hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            peer, _ = self._server.accept()
            with peer, contextlib.suppress(OSError):  # the agent may hang up first
                peer.settimeout(HANG_S)
                peer.recv(4096)
                peer.sendall(self.answer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    continue


def _packets(folder: Path) -> Take:
    peer = _Peer()

    def link(protocol: Any) -> None:
        connection = Connection(LinkOptions("127.0.0.1", peer.port, "c", protocol), ("vedette/eye/status", b"{}"))
        try:
            connection.connect()
            connection.subscribe("vedette/eye/cmd/+")
            connection.publish("vedette/eye/door/detections", b"{}", qos=1)
            until = time.monotonic() + HANG_S
            while not connection.closed:
                connection.poll(0.05)
                assert time.monotonic() < until, "the connection does not end"
            assert connection.why.isprintable()
        finally:
            connection.close(politely=False)

    def sensor() -> None:
        # long enough for whoever waits for it to count as a hang
        source = make_sensor_source(SensorOptions(f"mqtt://127.0.0.1:{peer.port}/a/b", CHANNELS, open_timeout_s=600.0))
        try:
            source.open()
            while source.read(0.05) is not None:
                continue
        finally:
            source.close()

    def take(data: bytes) -> None:
        which, packets = choice(data, 9)
        peer.answer = _WELCOMES[which % 3] + packets
        action = (lambda: link("5"), lambda: link("3.1.1"), sensor)[which // 3]
        refused(action, BrokerRefusedError, RetryableError)

    return take


def _packet_seeds(folder: Path) -> Sequence[bytes]:
    return [*(b"\0" + packet for packet in PACKETS), *(bytes([first]) + b"".join(PACKETS) for first in range(9))]


# what is kept on the disk


def _kept(name: str) -> Callable[[Path], Take]:
    """An outbox one of whose files is the input; then a message goes through it."""

    def made(folder: Path) -> Take:
        originals = _outbox_files(folder / "good")
        state = folder / "state"

        def take(data: bytes) -> None:
            state.mkdir(exist_ok=True)
            for file in state.iterdir():
                file.unlink()
            for other, raw in originals.items():
                (state / other).write_bytes(_sealed(data) if other == name == TALLY else data if other == name else raw)
            refused(lambda: _use_outbox(state), StateError)

        return take

    return made


def _sealed(data: bytes) -> bytes:
    """A tally with checksums that are right, where its first byte is not the magic's: then its numbers are looked at."""
    if data[:1] == b"v":
        return data
    raw = bytearray(b"v" + data[1:])
    for form, at in ((tally._HEAD, 0), *((tally._RECORD, at) for at in range(64, len(raw) - 63, 64))):
        if at + form.size <= len(raw):
            values = form.unpack_from(raw, at)[:-1]
            form.pack_into(raw, at, *values, zlib.crc32(form.pack(*values, 0)))
    return bytes(raw)


def _use_outbox(state: Path) -> None:
    alerts: list[str] = []
    epoch, outbox = open_outbox(
        state, [STREAM], BOUNDS, durable="spill", max_memory_bytes=1_000_000, on_alert=alerts.append
    )
    try:
        outbox.append(STREAM, 1, "synced", b"{}")
        batch = outbox.batch(100, 0.0)
        outbox.accept([entry.key for entry in batch[:1]])
        rows = outbox.ledger()
        encode(ledger_message(rows, "eye", epoch.number, "2026-11-22T15:04:05.123456Z"))
    finally:
        outbox.close()
        outbox.end()
    epoch.end(rows)
    assert all(alert.isprintable() for alert in alerts), alerts


def _outbox_files(folder: Path) -> dict[str, bytes]:
    """As an agent that was killed leaves them, with two messages in it."""
    folder.mkdir(exist_ok=True)
    _, outbox = open_outbox(folder, [STREAM], BOUNDS, durable="always", max_memory_bytes=1_000_000)
    for number in range(2):
        outbox.append(STREAM, number, "synced", b'{"n":%d}' % number)
    outbox.close()
    outbox.end()
    store = Store(folder)
    state = store.state
    found = recovered(store, None, clock.boot_id())
    store.close()
    written = tally.Tally(folder, state.kept, clock.boot_id(), state.generation)
    for account in found.accounts:
        written.note(account)
    tally_raw = (folder / TALLY).read_bytes()
    written.close()
    with contextlib.closing(sqlite3.connect(folder / OUTBOX)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # all of it in one file
    return {EPOCH: (folder / EPOCH).read_bytes(), OUTBOX: (folder / OUTBOX).read_bytes(), TALLY: tally_raw}


def _outbox_seed(name: str) -> Callable[[Path], Sequence[bytes]]:
    def seeds(folder: Path) -> Sequence[bytes]:
        raw = _outbox_files(folder)[name]
        return [raw, b"V" + raw[1:]] if name == TALLY else [raw]

    return seeds


EPOCHS: Final = (b'{"epoch":7,"streams":[["door","detections"]],"ended":null}', typical(epoch_module._Record))


def _states(folder: Path) -> Sequence[bytes]:
    kinds = (
        rollback._Record, list[proofs._Proof], list[tune.Tuning], announcer._Announced,
    )  # fmt: skip
    return [b'\0{"versions":{"a":"1.2","b":"3"}}', *(bytes([n]) + typical(kind) for n, kind in enumerate(kinds))]


def _state(folder: Path) -> Take:
    """Small files that an agent keeps between its lives."""
    alerts: list[str] = []

    def announced() -> None:
        announcer.Announcer(folder, "homeassistant/x", None, lambda topic, payload: True, alerts.append)

    readers: tuple[tuple[str, Callable[[], object]], ...] = (
        (rollback.FILE, lambda: rollback.Rollback(folder).check("a", "1", "x")),
        (proofs.FILE, lambda: proofs.Proofs(folder)),
        (tune.FILE, lambda: tune.Tunings(folder)),
        (announcer.FILE, announced),
    )

    def take(data: bytes) -> None:
        which, raw = choice(data, len(readers))
        name, read = readers[which]
        (folder / name).write_bytes(raw)
        refused(read, StateError, BundleError)
        assert all(alert.isprintable() for alert in alerts), alerts
        alerts.clear()

    return take


# keys, certificates, passwords


def _key(folder: Path) -> Take:
    path = folder / "k"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        refused(lambda: read_public_key(data, "k"), KeyFileError)
        refused(lambda: read_private_key(data, "k"), KeyFileError)
        certificate_expires(str(path))
        refused(lambda: read_password(str(path)), BrokerRefusedError)

    return take


# a certificate that expired with the day it was made for
CERTIFICATE: Final = b"""-----BEGIN CERTIFICATE-----
MIIBQjCB9aADAgECAhQfMDawMDAwMDAwMDAwMDAwMDAwMDAFBgMrZXAwDDEKMAgG
A1UEAwwBYTAeFw0yNjExMjYwMDAwMDBaFw0yNjExMjcwMDAwMDBaMAwxCjAIBgNV
BAMMAWEwKjAFBgMrZXADIQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
-----END CERTIFICATE-----
"""


def _keys(folder: Path) -> Sequence[bytes]:
    private = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI%s\n-----END PRIVATE KEY-----\n" % (b"A" * 43)
    return [public_pem(new_private_key().public("k")), private, CERTIFICATE, b"secret\n"]


ENTRANCES: Final = {
    entrance.name: entrance
    for entrance in (
        Entrance("configuration", _config, _configs, 16_384),
        Entrance("url", _url, fixed(*URLS), 512),
        Entrance("bundle", _bundle, _bundles),
        Entrance("manifest", _manifest, _manifests),
        Entrance("golden vectors", _golden, _goldens),
        Entrance("measurements", _measurements, fixed(b'{"infer_ms": 0.1}\n'), 512),
        Entrance("labels", _labels, fixed(b"ash\nbirch\ncedar\nelm\n", b"0 ash\r\n1 birch\r\n"), 1024),
        Entrance("tflite metadata", _metadata, lambda folder: [(DATA / "tiny-uint8.tflite").read_bytes()], 16_384),
        Entrance("picture", _picture, _pictures),
        Entrance("rpicam", _rpicam, fixed(b"# pts\n0.000\n33.333\n\0" + bytes(16 * 12 * 2), b"\0" + bytes(192)), 2048),
        Entrance("camera's jpeg", _jpeg, _jpegs, 2048),
        Entrance("yuv4mpeg", _yuv4mpeg, fixed(*YUV4MPEG), 1024),
        Entrance("sensor lines", _lines, _led(LINES, 12), 2048),
        Entrance("recording", _recording, _recordings, 2048),
        Entrance("iio", _iio, fixed(b"1\n-2\n0.5\n3\n100\n", b"1\n-2\n0.5\n3\n0\n"), 256),
        Entrance("command", _command, _commands, 1024),
        Entrance("heard", _heard, _sayings, 4096),
        Entrance("mqtt packets", _packets, _packet_seeds, 512),
        Entrance("epoch.json", _kept(EPOCH), fixed(*EPOCHS), 2048),
        Entrance("outbox.sqlite", _kept(OUTBOX), _outbox_seed(OUTBOX), 65_536),
        Entrance("outbox.tally", _kept(TALLY), _outbox_seed(TALLY), 16_384),
        Entrance("state files", _state, _states, 1024),
        Entrance("keys", _key, _keys, 2048),
    )
}
