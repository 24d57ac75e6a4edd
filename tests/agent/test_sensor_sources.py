"""Sensors against the real thing: pseudo-terminals, programs, sockets, a broker, files; IIO alone has a stand-in."""

from __future__ import annotations

import errno
import gc
import itertools
import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import tty
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from certificates import issue
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from real import DEADLINE_S, ROOT, BrokerAddress, Mosquitto, needs_mosquitto, no_descriptors, wait_for

from vedette import clock
from vedette.config import parse_config
from vedette.contract.errors import ConfigError, MissingPackageError, ReadingsError, SourceError, SourceLostError
from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.types import Readings
from vedette.contract.window import WindowBuilder
from vedette.demo.broker import LOOPBACK, free_port
from vedette.recordings import read_recording
from vedette.sources import (
    Listener,
    Outcome,
    SensorOptions,
    SensorSource,
    is_sensor_url,
    make_sensor_source,
    masked_url,
    mqtt_topic,
    udp,
)
from vedette.sources import running as running_module
from vedette.sources.lines import Parsed, Tally
from vedette.sources.sensor import Arrivals

CHANNELS = ("x", "y")
SECRET = "s3cret"


def sensor(url: str, **options: Any) -> SensorSource:
    return make_sensor_source(SensorOptions(url, **{"channels": CHANNELS, **options}))


class Heard:
    """A listener and all that it handed on."""

    def __init__(self, source: SensorSource, *, stall_timeout_s: float = 60.0) -> None:
        self.batches: list[Readings] = []
        self.said: list[Outcome | None] = []
        self.listener = Listener(
            source, name="test", stall_timeout_s=stall_timeout_s, on_readings=self.batches.append,
            on_change=lambda outcome, why: self.said.append(outcome),
        )  # fmt: skip

    def __enter__(self) -> Heard:
        self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.stop()

    def values(self) -> list[list[float]]:
        return [row for batch in list(self.batches) for row in batch.values.tolist()]

    def times_ns(self) -> list[int]:
        return [t for batch in list(self.batches) for t in batch.times_ns.tolist()]

    def wait(self, count: int) -> list[list[float]]:
        wait_for(f"{count} readings", lambda: len(self.values()) >= count)
        return self.values()

    def outcome(self) -> Outcome | None:
        return self.listener.status().outcome

    def wait_outcome(self, outcome: Outcome | None) -> None:
        wait_for(str(outcome), lambda: self.outcome() is outcome and self.listener.status().why != "opening")


def rows(first: int, count: int) -> list[list[float]]:
    return [[float(n), -float(n)] for n in range(first, first + count)]


def ndjson(first: int, count: int, *, times: bool = False) -> bytes:
    time = '"t": {n}, ' if times else ""
    return "".join(f'{{{time.format(n=n)}"x": {n}, "y": {-n}}}\n' for n in range(first, first + count)).encode()


# -- URLs --


@pytest.mark.parametrize(
    ("url", "is_sensor"),
    [
        ("serial:///dev/ttyUSB0", True),
        ("SERIAL:///dev/ttyUSB0?baud=9600", True),
        ("iio:///sys/bus/iio/devices/iio:device0", True),
        ("csv:///a.csv", True),
        ("ndjson:///a", True),
        ("udp://127.0.0.1:9000", True),
        ("mqtt://host/topic", True),
        ("exec:python3 read.py", True),
        ("/data/a.csv", True),
        ("recording.ndjson", True),
        ("rtsp://camera/live", False),
        ("http://camera/a.csv", False),
        ("/data/a.mp4", False),
        ("/data/serial:x", False),
        ("images:///folder", False),
        ("udp:9000", False),
    ],
)
def test_a_sensors_url_is_told_from_a_cameras(url: str, is_sensor: bool) -> None:
    assert is_sensor_url(url) is is_sensor


@pytest.mark.parametrize("url", ["rtsp://camera/live", "/data/a.mp4", "images:///folder", "v4l2:///dev/video0"])
def test_a_cameras_url_is_refused_with_what_to_do(url: str) -> None:
    with pytest.raises(SourceError, match=r"no sensor's URL.*a model whose input is an image"):
        sensor(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("serial://", "malformed URL"),
        ("serial:///dev/ttyUSB0?baud=fast", "bad baud.*found fast"),
        ("serial:///dev/ttyUSB0?baud=0", "bad baud"),
        ("serial:///dev/ttyUSB0?buad=9600", r"unknown option.*did you mean baud=\?"),
        ("serial:///dev/ttyUSB0?columns=t,x", "bad columns.*y too"),
        ("iio:///sys/x?rate=-1", "bad rate"),
        ("iio:///sys/x?rate=nan", "bad rate"),
        ("iio:///sys/x?channels=accel_x", "bad channels.*2 names, for x, y"),
        ("csv:///a.csv?rate=0", "bad rate"),
        ("csv:///a.csv?speed=0", "bad speed"),
        ("ndjson:///a?columns=x,y", "unknown option"),
        ("udp://", "malformed URL"),
        ("udp://host", "malformed URL"),
        ("udp://host:0", "malformed URL"),
        ("udp://host:65536", "malformed URL"),
        ("udp://host:9000/path", "malformed URL"),
        ("mqtt:///topic", "malformed URL"),
        ("mqtt://host", "a topic"),
        ("mqtt://host/", "a topic"),
        ("mqtt://host/a/#/b", "a topic"),
        ("mqtt://host/a+/b", "a topic"),
        ("mqtt://host/a%0a", "a topic"),
        ("mqtt://host/a\x85", "a topic"),
        ("mqtt://host/a%ef%bf%be", "a topic"),
        ("mqtt://host:x/a", "malformed URL"),
        ("mqtt://a..b/t", "malformed URL"),
        ("mqtt://[::1:1883/t", "malformed URL"),
        ("mqtt://me%0a@host/t", "a user name without control characters"),
        ("mqtt://me%00:pw@host/t", "a user name without control characters"),
        ("mqtt://" + "u" * 65_536 + "@host/t", "65535 bytes at most"),
        ("mqtt://u:" + "ü" * 32_768 + "@host/t", "65535 bytes at most"),
        ("mqtt://me:%ff@host/t", "UTF-8"),
        ("mqtt://me%ff@host/t", "UTF-8"),
        ("mqtt://me:\udcff@host/t", "UTF-8"),
        ("mqtt://host/%ff", "UTF-8"),
        ("mqtt://:pw@host/t", "a user name before the password"),
        ("udp://a..b:9000", "malformed URL"),
        ("exec:", "no command"),
        ("exec:echo 'open", "malformed command"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        sensor(url)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"mqtt://user:{SECRET}@broker:1883/plant/#", "mqtt://***@broker:1883/plant/#"),
        (f"mqtt://user:{SECRET}@{SECRET}@broker/a/+/b", "mqtt://***@broker/a/+/b"),
        (f"mqtt://user:a#{SECRET}@broker/a", "mqtt://***"),
        ("mqtt://broker/a", "mqtt://broker/a"),
        ("exec:python3 /opt/read.py", "exec:python3 /opt/read.py"),
        (f"exec:python3 /opt/read.py --key {SECRET} /x", "exec:python3 /opt/read.py ***"),
        (f"exec:curl https://u:{SECRET}@host/x", "exec:curl ***"),
        (f"exec:curl '{SECRET}", "exec:curl ***"),
        ("exec:", "exec:"),
        ("serial:///dev/ttyUSB0", "serial:///dev/ttyUSB0"),
        ("udp://127.0.0.1:9000", "udp://127.0.0.1:9000"),
    ],
)
def test_secrets_are_masked(url: str, masked: str) -> None:
    assert masked_url(url) == masked
    assert SECRET not in masked_url(url)


@pytest.mark.parametrize(
    "url",
    [f"mqtt://u:{SECRET}@:1/t", f"mqtt://u:{SECRET}/{SECRET}@host/t", f"exec:'{SECRET}", f"nothing://u:{SECRET}@h"],
)
def test_errors_about_a_url_do_not_repeat_its_password(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        sensor(url)
    assert SECRET not in str(caught.value)


# -- a serial port, which a pseudo-terminal is to whoever opens it --


class Wire:
    """A pty: the listener's end has a path, the sensor's end is written to."""

    def __init__(self) -> None:
        self.sensor_end, self._far_end = os.openpty()
        tty.setraw(self._far_end)
        self.path = os.ttyname(self._far_end)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.sensor_end, data) :]

    def unplug(self) -> None:
        for descriptor in (self._far_end, self.sensor_end):
            if descriptor >= 0:
                os.close(descriptor)
        self._far_end = self.sensor_end = -1


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.unplug()


def opened(wire: Wire, heard: Heard) -> None:
    """Until the port is open, which throws away what came before."""

    def answers() -> bool:
        wire.send(b"[0,0]\n")
        return bool(heard.values())

    wait_for("the port to open", answers)


@pytest.mark.parametrize("baud", [9600, 115_200, 921_600])
def test_readings_come_over_a_serial_port(wire: Wire, baud: int) -> None:
    with Heard(sensor(f"serial://{wire.path}?baud={baud}")) as heard:
        opened(wire, heard)
        before = len(heard.wait(1))
        wire.send(ndjson(1, 300))
        wire.send(b"not a reading\n7,8\n")
        assert heard.wait(before + 301)[-301:] == [*rows(1, 300), [7.0, 8.0]]
        status = heard.listener.status()
        assert (status.malformed, status.problems) == ({"wrong_count": 1}, {"wrong_count": "not a reading"})
        assert all(not b.timed and b.times_ns[-1] <= b.arrived_ns for b in heard.batches)
        assert heard.times_ns() == sorted(heard.times_ns())
        assert heard.said == []


def test_a_serial_line_may_come_in_pieces(wire: Wire) -> None:
    with Heard(sensor(f"serial://{wire.path}")) as heard:
        opened(wire, heard)
        before = len(heard.wait(1))
        for byte in ndjson(1, 2):
            wire.send(bytes([byte]))
        assert heard.wait(before + 2)[-2:] == rows(1, 2)


def test_a_plug_that_is_pulled_is_a_loss_and_half_a_line_is_not_used(wire: Wire) -> None:
    with Heard(sensor(f"serial://{wire.path}")) as heard:
        opened(wire, heard)
        wire.send(b'{"x":1,"y":2}\n[3,')
        wait_for("the last whole line", lambda: [1.0, 2.0] in heard.values())
        before = heard.listener.status().readings
        wire.unplug()
        heard.wait_outcome(Outcome.LOST)
        status = heard.listener.status()
        assert status.readings == before
        assert status.malformed == {"cut_off": 1}
        assert wire.path in status.why
        assert heard.said == [Outcome.LOST]


def test_a_device_that_comes_back_is_opened_again(tmp_path: Path) -> None:
    device = tmp_path / "ttyUSB0"  # a link, as udev makes them under /dev/serial/by-id
    first, second = Wire(), Wire()
    try:
        device.symlink_to(first.path)
        with Heard(sensor(f"serial://{device}")) as heard:
            opened(first, heard)
            device.unlink()
            first.unplug()
            heard.wait_outcome(Outcome.LOST)
            device.symlink_to(second.path)

            def back() -> bool:
                second.send(b"[5,6]\n")
                return [5.0, 6.0] in heard.values()

            wait_for("the second wire", back)
            heard.wait_outcome(None)
            assert heard.listener.status().reopened >= 1
            assert heard.said == [Outcome.LOST, None]
    finally:
        first.unplug()
        second.unplug()


def test_a_device_that_is_not_there_yet_is_a_loss(tmp_path: Path) -> None:
    with Heard(sensor(f"serial://{tmp_path}/none")) as heard:
        heard.wait_outcome(Outcome.LOST)
        assert os.strerror(errno.ENOENT) in heard.listener.status().why


def test_a_silent_device_is_stalled_and_opened_again(wire: Wire) -> None:
    with Heard(sensor(f"serial://{wire.path}"), stall_timeout_s=0.2) as heard:
        wait_for("the stall", lambda: Outcome.STALLED in heard.said)
        assert "no reading for" in heard.listener.status().why
        wait_for("another try", lambda: heard.listener.status().reopened >= 1)
        wait_for("readings", lambda: heard.values() or (wire.send(b"[1,2]\n") is None and False))


def test_a_device_that_sends_rubbish_is_stalled_and_the_rubbish_is_told(wire: Wire) -> None:
    with Heard(sensor(f"serial://{wire.path}"), stall_timeout_s=0.2) as heard:

        def stalled() -> bool:
            wire.send(b"\xf0\x80wrong baud rate\n")
            return "lines could not be used" in heard.listener.status().why

        wait_for("the stall", stalled)
        assert heard.listener.status().malformed
        assert "expected x, y, found" in heard.listener.status().why


def test_a_device_that_is_opened_anew_before_its_second_line_is_told_of(wire: Wire) -> None:
    with Heard(sensor(f"serial://{wire.path}"), stall_timeout_s=0.2) as heard:
        opened = -1

        def told() -> bool:
            nonlocal opened
            if heard.listener.status().reopened > opened:
                opened = heard.listener.status().reopened
                wire.send(b"1.5,2.5\n")
            return "raise stall_timeout_s where lines come less often" in heard.listener.status().why

        wait_for("what to do", told)
        assert set(heard.listener.status().malformed) == {"joined_midway"}


def test_a_device_that_ends_no_line_is_stalled_and_what_it_sent_is_told(wire: Wire) -> None:
    with Heard(sensor(f"serial://{wire.path}"), stall_timeout_s=0.2) as heard:

        def told() -> bool:
            wire.send(b"1.5,2.5\r")
            return "(cut off): expected x, y, found" in heard.listener.status().why

        wait_for("what it sent", told)
        status = heard.listener.status()
        assert status.outcome is Outcome.STALLED
        assert "end each line with \\n" in status.why
        assert status.problems["cut_off"].startswith("1.5,2.5\\r")


def test_without_pyserial_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'vedette\[serial\]'"):
        sensor("serial:///dev/ttyUSB0")


def test_only_a_serial_source_needs_pyserial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    for url in ("iio:///x", "csv:///x", "udp://:9000", "mqtt://host/t", "exec:true"):
        sensor(url)


EXAMPLE = ROOT / "examples" / "sensors"


def test_the_example_program_can_be_tried_without_a_sensor() -> None:
    url = f"exec:{shlex.quote(sys.executable)} {shlex.quote(str(EXAMPLE / 'lis3dh.py'))} --simulate"
    with Heard(sensor(url, channels=("x", "y", "z"))) as heard:
        values = np.array(heard.wait(20))
        assert heard.listener.status().malformed == {}
    assert np.abs(np.linalg.norm(values[:, :2], axis=1) - 0.5).max() < 0.01
    assert np.abs(values[:, 2] - 9.80665).max() < 0.01
    assert all(batch.timed for batch in heard.batches)


LIS3DH = """
import itertools
WRITTEN = {}
class SMBus:
    # registers as the data sheet has them: not ready, then ready, and so on
    def __init__(self, bus):
        assert bus == 1
        self._status = itertools.cycle([0x00, 0x08])
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def write_byte_data(self, address, register, value):
        WRITTEN[address, register] = value
    def read_byte_data(self, address, register):
        assert WRITTEN == {(0x18, 0x20): 0x77, (0x18, 0x23): 0x88} and (address, register) == (0x18, 0x27)
        return next(self._status)
    def read_i2c_block_data(self, address, register, length):
        assert (address, register, length) == (0x18, 0x28 | 0x80, 6)
        return [0x00, 0x00, 0xC0, 0xFF, 0x80, 0x3E]  # 0, -4 mg, 1000 mg, left-justified 12 bits
"""


def test_the_example_program_reads_the_sensors_registers(tmp_path: Path) -> None:
    # a stand-in for smbus2 and the sensor on its bus
    (tmp_path / "smbus2.py").write_text(LIS3DH)
    words = ["env", f"PYTHONPATH={tmp_path}", sys.executable, str(EXAMPLE / "lis3dh.py")]
    with Heard(sensor("exec:" + " ".join(map(shlex.quote, words)), channels=("x", "y", "z"))) as heard:
        assert heard.wait(3)[0] == pytest.approx([0.0, -0.004 * 9.80665, 9.80665], abs=1e-3)


def test_what_the_examples_page_says_is_so() -> None:
    page = (EXAMPLE / "README.md").read_text()
    config = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert config is not None
    sensor(parse_config(config[1].encode(), Path("README.md")).pipelines["motor"].source_config.url)
    urls = re.findall(r"`(\w+://[^`]+)`", page)
    assert {url.partition(":")[0] for url in urls} == {"serial", "iio", "udp", "mqtt", "csv", "ndjson"}
    for url in urls:
        sensor(url, channels=("x", "y", "z"))


# -- when readings arrived that do not say it --

MS = 1_000_000


def arrivals(batches: list[tuple[int, int]]) -> list[list[float]]:
    """(milliseconds, readings) of each batch -> the times of its readings in milliseconds."""
    arrived = Arrivals()
    return [
        (arrived.readings(Parsed(np.zeros((n, 1), np.float32), None), now * MS).times_ns / MS).round(3).tolist()
        for now, n in batches
    ]


def test_a_batch_is_spread_over_the_time_since_the_last_one() -> None:
    assert arrivals([(100, 2), (110, 2), (120, 2), (121, 0), (130, 2)]) == [
        [100, 100], [105, 110], [115, 120], [], [125, 130],
    ]  # fmt: skip


def test_what_is_read_late_has_arrived_evenly() -> None:
    times = arrivals([*((n * 10, 10) for n in range(1, 30)), (335, 10), (340, 35), (350, 10)])
    steps = np.diff(np.concatenate(times[1:]))
    assert steps.min() > 0 and steps.max() < 1.5


def test_a_silence_in_which_nothing_was_due_any_more_shows() -> None:
    times = arrivals([*((n * 10, 10) for n in range(1, 30)), (1290, 10), (1300, 10)])
    steps = np.diff(np.concatenate(times[1:]))
    assert np.flatnonzero(steps > 2).tolist() == [len(steps) - 20]
    assert steps.max() == pytest.approx(991, abs=1)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), min_size=1, max_size=60))
def test_times_of_arrival_go_on_and_never_ahead_of_the_clock(batches: list[tuple[int, int]]) -> None:
    now, said = 1000, [0.0]
    moments = []
    for pause, count in batches:
        now += pause + 1
        moments.append((now, count))
    for (now, _), times in zip(moments, arrivals(moments), strict=True):
        assert all(b >= a for a, b in itertools.pairwise([said[-1], *times]))
        assert not times or times[-1] <= now
        said += times


def test_a_sensor_may_become_slower_or_faster() -> None:
    batches, now = [], 0
    for step in [10] * 50 + [1] * 200 + [10] * 200:
        now += step * 2
        batches.append((now, 2))
    times = np.concatenate(arrivals(batches))
    assert np.diff(times[-20:]) == pytest.approx(10, rel=0.05)
    assert times[-1] == pytest.approx(now, abs=5)
    fast = times[400:500]
    assert np.diff(fast) == pytest.approx(1, rel=0.05)


def test_a_late_reader_makes_no_gaps_in_windows_and_a_sensor_that_pauses_does() -> None:
    spec = SeriesInput(channels=(Channel(name="x"),), length=50, stride=50, rate_hz=1000.0)
    for pause, there, gaps in ((10, 10, 0), (30, 1, 0), (160, 160, 0), (160, 10, 1)):
        builder, arrived = WindowBuilder(spec), Arrivals()
        now = 0
        for batch in range(60):
            late = batch == 30
            now += pause if late else 10
            parsed = Parsed(np.zeros((there if late else 10, 1), np.float32), None)
            builder.push(arrived.readings(parsed, now * MS))
        assert builder.counts.gaps == gaps, (pause, there)


# -- a program --


def python(code: str, *arguments: object) -> str:
    words = [sys.executable, "-u", "-c", code, *map(str, arguments)]
    return "exec:" + " ".join(map(shlex.quote, words))


COUNT = """
import json, sys, time
for n in range(int(sys.argv[1])):
    print(json.dumps({"t": n / 100, "x": n, "y": -n}))
time.sleep(600)
"""


def test_readings_come_from_a_program() -> None:
    with Heard(sensor(python(COUNT, 500))) as heard:
        assert heard.wait(500) == rows(0, 500)
        assert heard.times_ns() == [n * 10_000_000 for n in range(500)]
        assert all(batch.timed for batch in heard.batches)
        assert all(0 <= clock.now_ns() - batch.arrived_ns < DEADLINE_S * 1e9 for batch in heard.batches)
        assert heard.listener.status().malformed == {}


def test_a_program_runs_without_a_shell() -> None:
    code = "import sys, time; print([1, 2] if sys.argv[1] == '$HOME; exit' else [0, 0]); time.sleep(600)"
    with Heard(sensor(python(code, "$HOME; exit"))) as heard:
        assert heard.wait(1) == [[1.0, 2.0]]


def test_a_program_that_prints_more_than_ndjson_is_heard_all_the_same() -> None:
    code = "import time; print('starting up'); print('1,2'); print([3, 4]); time.sleep(600)"
    with Heard(sensor(python(code))) as heard:
        assert heard.wait(1) == [[3.0, 4.0]]
        assert heard.listener.status().malformed == {"not_json": 2}


def test_a_program_that_ends_is_a_loss_and_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    code = "import sys; print([1, 2]); print('[3,', end=''); print('no sensor', file=sys.stderr); sys.exit(3)"
    with Heard(sensor(python(code))) as heard:
        heard.wait_outcome(Outcome.LOST)
        assert "exit code 3, after 'no sensor'" in heard.listener.status().why
        assert heard.wait(2) == [[1.0, 2.0]] * 2
        status = heard.listener.status()
        assert status.reopened >= 1
        assert status.malformed["cut_off"] >= 1
    assert "no sensor" in caplog.text


def test_a_program_that_is_killed_says_so() -> None:
    code = "import os, signal; print([1, 2]); os.kill(os.getpid(), signal.SIGKILL)"
    with Heard(sensor(python(code))) as heard:
        heard.wait_outcome(Outcome.LOST)
        assert "signal 9" in heard.listener.status().why


def test_a_program_that_is_not_there_says_so() -> None:
    with Heard(sensor("exec:/no/such/program --now")) as heard:
        heard.wait_outcome(Outcome.LOST)
        assert "/no/such/program: program cannot be run" in heard.listener.status().why


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_program_goes_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print([1, 2])\n"
        "time.sleep(600)\n"
    )
    with Heard(sensor(python(code))) as heard:
        heard.wait(1)
        leader, child = map(int, pids.read_text().split())
        assert alive(leader) and alive(child)
    wait_for("both to be gone", lambda: not alive(leader) and not alive(child))


ENDS_MEANWHILE = """
import sys, threading, time
from pathlib import Path
from vedette.sources import SensorOptions, make_sensor_source
source = make_sensor_source(SensorOptions(sys.argv[1], ("x", "y")))
source.open()
while not len(source.read(0.1)):
    pass
threading.Thread(target=source.close, daemon=True).start()
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
"""


def test_a_program_goes_with_an_agent_that_ends_while_it_is_asked_to(tmp_path: Path) -> None:
    asked, pid = tmp_path / "asked", tmp_path / "pid"
    code = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1]).touch())\n"
        "pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))\n"
        "print([1, 2])\n"
        "while True: time.sleep(600)\n"
    )
    url = python(code, asked, pid)
    subprocess.run([sys.executable, "-c", ENDS_MEANWHILE, url, asked], check=True, timeout=DEADLINE_S)
    assert not alive(int(pid.read_text()))


def test_a_program_that_hangs_is_stalled_and_begun_again() -> None:
    with Heard(sensor(python("print([1, 2]); import time; time.sleep(600)")), stall_timeout_s=0.5) as heard:
        heard.wait(2)
        assert Outcome.STALLED in heard.said
        assert heard.listener.status().reopened >= 1


def test_a_program_that_ends_no_line_is_stalled_and_what_it_printed_is_told() -> None:
    code = "import time; print([1, 2], end=' ', flush=True); time.sleep(600)"
    with Heard(sensor(python(code)), stall_timeout_s=0.5) as heard:
        wait_for("what it printed", lambda: "(cut off): expected x, y, found '[1, 2] '" in heard.listener.status().why)
        assert heard.outcome() is Outcome.STALLED


def test_a_program_that_complains_without_end_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys, time\n"
        "for n in range(5000): print('complaint', n, file=sys.stderr)\n"
        "sys.stderr.close(); print([1, 2]); time.sleep(600)\n"
    )
    with caplog.at_level(logging.WARNING), Heard(sensor(python(code))) as heard:
        assert heard.wait(1) == [[1.0, 2.0]]
        wait_for("all complaints", lambda: "complaint 19" in caplog.text)
    said = [r.getMessage() for r in caplog.records if "complaint" in r.getMessage()]
    assert len(said) == running_module.STDERR_LINES
    left_out = [int(m[1]) for r in caplog.records if (m := re.search(r"(\d+) more lines", r.getMessage()))]
    assert sum(left_out) == 5000 - running_module.STDERR_LINES


# -- datagrams --


class Sender:
    """Sends to a UDP port of this computer."""

    def __init__(self, port: int, host: str = LOOPBACK) -> None:
        self._address = (host, port)
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendto(data, self._address)

    def until_heard(self, heard: Heard) -> None:
        """Until the socket is bound."""
        wait_for("the socket", lambda: heard.values() or (self.send(b"[0,0]") is None and False))


def test_datagrams_may_hold_several_readings_with_or_without_a_last_end_of_line() -> None:
    port = free_port()
    with Heard(sensor(f"udp://{LOOPBACK}:{port}")) as heard, Sender(port) as sender:
        sender.until_heard(heard)
        before = len(heard.values())
        sender.send(ndjson(1, 20))
        sender.send(ndjson(21, 1).rstrip())
        sender.send(b"22,-22\n23,-23")
        sender.send(b"")
        sender.send(b"[1")
        sender.send(b"[24, -24]\r\n")
        assert heard.wait(before + 24)[-24:] == rows(1, 24)
        status = heard.listener.status()
        assert (status.malformed, status.lost) == ({"not_json": 1}, 0)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("url", "bound"), [("udp://:{}", "127.0.0.1"), ("udp://[::1]:{}", "::1"), ("udp://0.0.0.0:{}", "0.0.0.0")]
)
def test_a_socket_is_bound_where_the_user_says_and_to_loopback_otherwise(url: str, bound: str) -> None:
    if bound == "::1" and not has_ipv6():
        pytest.skip("no IPv6 on this computer: its sockets stay untested")
    port = free_port()
    source = sensor(url.format(port))
    source.open()
    try:
        assert source._socket.getsockname()[0] == bound  # type: ignore[attr-defined]
    finally:
        source.close()


def test_a_port_that_is_taken_is_a_loss_until_it_is_free() -> None:
    port = free_port()
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind((LOOPBACK, port))
    with Heard(sensor(f"udp://{LOOPBACK}:{port}")) as heard, Sender(port) as sender:
        heard.wait_outcome(Outcome.LOST)
        assert os.strerror(errno.EADDRINUSE) in heard.listener.status().why
        taken.close()
        sender.until_heard(heard)
        heard.wait_outcome(None)


def test_a_silent_socket_is_stalled_but_not_opened_again() -> None:
    port = free_port()
    with Heard(sensor(f"udp://{LOOPBACK}:{port}"), stall_timeout_s=0.3) as heard, Sender(port) as sender:
        heard.wait_outcome(Outcome.STALLED)
        sender.until_heard(heard)
        heard.wait_outcome(None)
        heard.wait_outcome(Outcome.STALLED)
        assert heard.listener.status().reopened == 0


def taken_at_once(source: SensorSource, count: int) -> list[int]:
    """How many readings each look at the source gave, until it has given so many."""
    taken: list[int] = []
    wait_for("all of them", lambda: taken.append(len(source.read(0.05) or ())) or sum(taken) >= count)
    return taken


def test_a_flood_of_datagrams_is_taken_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MOST_BYTES", 1000)
    port = free_port()
    with closing(sensor(f"udp://{LOOPBACK}:{port}")) as source, Sender(port) as sender:
        source.open()
        for n in range(10):
            sender.send((b"[%d,0]" % n).ljust(600))
        assert max(taken_at_once(source, 10)) <= 2
        assert source.tally.lost == 0


@pytest.mark.broker
def test_a_flood_of_messages_is_taken_piece_by_piece(broker: BrokerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_topic, "MOST_BYTES", 1000)
    with closing(sensor(f"mqtt://{LOOPBACK}:{broker.port}/flood")) as source, Publisher(broker.port) as publisher:
        source.open()
        for n in range(10):
            publisher.send("flood", (b"[%d,0]" % n).ljust(600))
        assert max(taken_at_once(source, 10)) <= 2


def test_what_the_kernel_drops_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    source = sensor(f"udp://{LOOPBACK}:{port}")
    source.open()
    source._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)  # type: ignore[attr-defined]
    sent = 3000
    with Sender(port) as sender:
        for n in range(sent):
            sender.send(b"[%d,0]" % n)
    got = 0
    while len(readings := source.read(0.1) or ()):
        got += len(readings)
    assert 0 < got < sent
    wait_for("the count", lambda: source.read(0.01) is not None and source.tally.lost == sent - got)
    assert caplog.text.count("faster than they are read") == 1
    source.close()


# -- a topic of a broker --


class Publisher:
    """Publishes and waits for the broker's acknowledgement."""

    def __init__(self, port: int, **login: str) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(login["username"], login["password"])
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, topic: str, data: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, data, qos=1, retain=retain).wait_for_publish(DEADLINE_S)

    def until_heard(self, heard: Heard, topic: str) -> None:
        wait_for("the subscription", lambda: heard.values() or (self.send(topic, b"[0,0]") is None and False))


@pytest.mark.broker
def test_messages_of_a_topic_are_readings_and_old_ones_are_not(broker: BrokerAddress) -> None:
    with Publisher(broker.port) as publisher:
        publisher.send("plant/pump/imu", b"[99, 99]", retain=True)
        publisher.send("plant/other", b"[98, 98]")
        with Heard(sensor(f"mqtt://{LOOPBACK}:{broker.port}/plant/+/imu")) as heard:
            publisher.until_heard(heard, "plant/pump/imu")
            before = len(heard.values())
            publisher.send("plant/pump/imu", ndjson(1, 50, times=False))
            publisher.send("plant/other/imu", b"51,-51")
            publisher.send("plant/pump/imu", b"nonsense")
            publisher.send("plant/pump/imu", b"[52, -52]")
            assert heard.wait(before + 52)[-52:] == rows(1, 52)
            assert [99.0, 99.0] not in heard.values()
            malformed = heard.listener.status().malformed
            assert malformed.pop("retained", 1) == 1
            assert sum(malformed.values()) == 1


@needs_mosquitto
@pytest.mark.broker
def test_a_broker_that_goes_is_a_loss_and_connected_to_again(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto, Heard(sensor(f"mqtt://{LOOPBACK}:{mosquitto.port}/imu")) as heard:
        with Publisher(mosquitto.port) as publisher:
            publisher.until_heard(heard, "imu")
        mosquitto.kill()
        heard.wait_outcome(Outcome.LOST)
        mosquitto.start()
        with Publisher(mosquitto.port) as publisher:

            def back() -> bool:
                publisher.send("imu", b"[7, 7]")
                return [7.0, 7.0] in heard.values()

            wait_for("readings again", back)
        heard.wait_outcome(None)
        assert heard.listener.status().reopened >= 1


@needs_mosquitto
@pytest.mark.broker
def test_a_password_reaches_the_broker_and_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    passwords = tmp_path / "passwords"
    passwords.write_text(f"user:{SECRET}/@\n")
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    passwords.chmod(0o644)
    lines = f"allow_anonymous false\npassword_file {passwords}\n"
    with Mosquitto(tmp_path, lines) as mosquitto:
        place = f"{LOOPBACK}:{mosquitto.port}/imu"
        with (
            Heard(sensor(f"mqtt://user:{SECRET}%2F%40@{place}")) as heard,
            Publisher(mosquitto.port, username="user", password=f"{SECRET}/@") as publisher,
        ):
            publisher.until_heard(heard, "imu")
        with Heard(sensor(f"mqtt://user:wrong{SECRET}@{place}")) as heard:
            heard.wait_outcome(Outcome.LOST)
            why = heard.listener.status().why
    assert "the broker refuses" in why and SECRET not in why + caplog.text


def read_by_its_user(folder: Path, *files: Path) -> None:
    """Mosquitto reads them as root in a container, and as another user elsewhere."""
    for file in files:
        file.chmod(0o644)


@needs_mosquitto
@pytest.mark.broker
def test_over_tls_with_a_certificate_and_a_password_of_ones_own(tmp_path: Path, authority: Path) -> None:
    certificate, key = issue(authority, tmp_path, "eye")
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    passwords.write_text(f"user:{SECRET}\n")
    secret.write_text(f"{SECRET}\n")
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    read_by_its_user(tmp_path, passwords)
    plain = free_port()
    lines = (
        f"cafile {authority / 'ca.pem'}\ncertfile {authority / 'server.pem'}\nkeyfile {authority / 'server.key'}\n"
        f"require_certificate true\nallow_anonymous false\npassword_file {passwords}\nlistener {plain} {LOOPBACK}\n"
    )
    own = {"ca_file": str(authority / "ca.pem"), "cert_file": str(certificate), "key_file": str(key)}
    with Mosquitto(tmp_path, lines) as mosquitto:
        url = f"mqtts://user@localhost:{mosquitto.port}/imu"
        with (
            Heard(sensor(url, password_file=str(secret), **own)) as heard,
            Publisher(plain, username="user", password=SECRET) as publisher,
        ):
            publisher.until_heard(heard, "imu")
            before = len(heard.values())
            # more than TLS hands on in one piece, so that some of it waits where poll(2) does not see it
            for number in range(10):
                publisher.send("imu", ndjson(1000 * number, 1000))
            assert heard.wait(before + 10_000)[-10_000:] == rows(0, 10_000)
        secret.write_text("another\n")
        for options, why in (
            ({**own, "password_file": str(secret)}, "the broker refuses"),
            ({"ca_file": own["ca_file"]}, "does not accept this device's certificate"),
            ({**own, "ca_file": str(authority / "other.pem")}, r"not trusted.*set source\.ca_file"),
            ({"cert_file": own["cert_file"], "key_file": own["key_file"]}, "not trusted"),
        ):
            with Heard(sensor(url, **options)) as heard:
                heard.wait_outcome(Outcome.LOST)
                assert re.search(why, heard.listener.status().why), heard.listener.status().why


@pytest.mark.parametrize(
    ("url", "options", "problem"),
    [
        ("mqtts://h/t", {"ca_file": "none.pem"}, r"source\.ca_file: none\.pem: CA file cannot be used"),
        ("mqtts://h/t", {"cert_file": "none.pem"}, r"source\.cert_file: none\.pem: cannot be read"),
        ("mqtts://u@h/t", {"password_file": "none"}, "none: password file cannot be read"),
        ("mqtt://h/t", {"ca_file": "a.pem"}, "bad ca_file: expected mqtts://, found mqtt://"),
        ("mqtts://h/t", {"password_file": "p"}, "bad password_file: expected a user name in the URL"),
        ("mqtts://u:w@h/t", {"password_file": "p"}, "bad password_file.*found a password"),
    ],
)
def test_files_that_cannot_be_used_are_said_at_once(url: str, options: dict[str, str], problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        sensor(url, **options)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('url = "mqtt://u:w@h/t"\nca_file = "a"', "pipeline.a.source.ca_file: bad value: expected a url of mqtts://"),
        ('url = "udp://h:1"\npassword_file = "a"', "pipeline.a.source.password_file: bad value"),
        ('url = "rtsp://u:w@h/t"\ncert_file = "a"', "found rtsp://***@h/t"),
        ('url = "mqtts://h/t"\nkey_file = "a"', "pipeline.a.source.key_file: bad value: expected cert_file beside it"),
    ],
)
def test_files_that_nothing_would_read_are_refused(lines: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f'[pipeline.a]\nmodel = "m"\n[pipeline.a.source]\n{lines}\n'.encode(), Path("v.toml"))
    assert says in str(caught.value) and ":w" not in str(caught.value)


def test_a_broker_that_is_not_there_is_a_loss() -> None:
    with Heard(sensor(f"mqtt://{LOOPBACK}:{free_port()}/imu")) as heard:
        heard.wait_outcome(Outcome.LOST)
        assert os.strerror(errno.ECONNREFUSED) in heard.listener.status().why


# -- IIO: a folder laid out as the kernel's sysfs stands in for it --


@pytest.fixture
def iio(tmp_path: Path) -> Path:
    """An accelerometer and a voltage, as Documentation/ABI/testing/sysfs-bus-iio lays them out."""
    folder = tmp_path / "iio:device0"
    folder.mkdir()
    for name, text in {
        "name": "lis3dh", "sampling_frequency": "400.000000", "in_accel_scale": "0.5", "in_accel_x_raw": "4",
        "in_accel_y_raw": "-6", "in_accel_y_offset": "2", "in_accel_z_raw": "8", "in_accel_z_scale": "0.25",
        "in_voltage0_raw": "3", "in_voltage_scale": "2.0", "in_temp_input": "21500",
    }.items():  # fmt: skip
        (folder / name).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("in_accel_scale", "nan", "expected a number"),
        ("in_accel_scale", "1e999", "expected a number"),
        ("in_accel_scale", "0x5", "expected a number"),
        ("in_accel_y_offset", "inf", "expected a number"),
        ("sampling_frequency", "-400", "expected a sampling_frequency of 0.001 or more, found -400"),
        ("sampling_frequency", "1e-300", "expected a sampling_frequency of 0.001 or more"),
    ],
)
def test_an_iio_device_that_says_nonsense_is_not_polled(iio: Path, name: str, text: str, problem: str) -> None:
    (iio / name).write_text(text)
    with (
        closing(sensor(f"iio://{iio}", channels=("accel_x", "accel_y"))) as source,
        pytest.raises((SourceError, SourceLostError), match=problem),
    ):
        source.open()


def test_an_iio_value_that_its_scale_makes_endless_is_counted(iio: Path) -> None:
    (iio / "in_accel_scale").write_text("1e38")
    with Heard(sensor(f"iio://{iio}", channels=("accel_x", "accel_y"))) as heard:
        wait_for("a refusal", lambda: heard.listener.status().malformed.get("not_finite"))
    assert heard.values() == []


def test_an_iio_device_is_polled_at_its_rate_and_scaled(iio: Path) -> None:
    channels = ("accel_x", "accel_y", "accel_z", "voltage0", "temp")
    with Heard(sensor(f"iio://{iio}", channels=channels)) as heard:
        values = heard.wait(100)
    assert set(map(tuple, values)) == {(2.0, -2.0, 2.0, 6.0, 21500.0)}
    assert all(batch.timed for batch in heard.batches)
    times = heard.times_ns()
    assert all(b > a for a, b in itertools.pairwise(times))
    # never faster than 400 a second on the whole; slower where the machine is busy
    assert times[-1] - times[0] >= (len(times) - 1) * 1e9 / 400 * 0.9
    assert heard.said == []


def test_an_iio_device_may_be_asked_for_other_channels_and_another_rate(iio: Path) -> None:
    with Heard(sensor(f"iio://{iio}?channels=accel_z,accel_x&rate=50")) as heard:
        assert heard.wait(3)[0] == [2.0, 2.0]
        times = heard.times_ns()
        assert times[2] - times[0] >= 2 * 0.02 * 1e9 * 0.9


def test_what_an_iio_device_lacks_is_said_with_what_it_has(iio: Path) -> None:
    with Heard(sensor(f"iio://{iio}")) as heard:
        heard.wait_outcome(Outcome.LOST)
        why = heard.listener.status().why
    assert "expected x, found accel_x, accel_y, accel_z, temp, voltage0" in why
    assert "?channels=" in why


def test_an_iio_device_without_a_rate_takes_the_models_or_asks_for_one(iio: Path) -> None:
    (iio / "sampling_frequency").unlink()
    url = f"iio://{iio}?channels=accel_x,accel_y"
    with pytest.raises(SourceError, match=r"no rate.*\?rate=HZ"):
        sensor(url).open()
    source = sensor(url, rate_hz=100.0)
    source.open()
    assert len(source.read(1.0) or ()) >= 1
    source.close()


def rewrite(path: Path, text: str) -> None:
    """In one write, as the kernel's own files change."""
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())


def test_an_iio_reading_that_is_no_number_is_counted(iio: Path) -> None:
    with Heard(sensor(f"iio://{iio}?channels=accel_x,accel_y")) as heard:
        heard.wait(1)
        rewrite(iio / "in_accel_x_raw", "busy\n")
        wait_for("the count", lambda: heard.listener.status().malformed.get("not_a_number"))
        assert heard.listener.status().problems["not_a_number"].startswith("busy")
        rewrite(iio / "in_accel_x_raw", "nan\n\n")
        wait_for("the count", lambda: heard.listener.status().malformed.get("not_finite"))


def test_what_an_iio_device_gave_before_it_was_lost_is_handed_on(iio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polls = itertools.count(1)

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        if next(polls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return b"7\n"

    monkeypatch.setattr(os, "pread", pread)
    with closing(sensor(f"iio://{iio}?channels=accel_z&rate=5000", channels=("z",))) as source:
        source.open()
        given: list[list[float]] = []

        def read_on() -> None:
            while (readings := source.read(DEADLINE_S)) is not None:
                given.extend(readings.values.tolist())

        with pytest.raises(SourceLostError, match=r"cannot be read: found Input/output error"):
            read_on()
        assert given == [[1.75], [1.75]]
        source.close()
        source.open()
        readings = source.read(DEADLINE_S)
        assert readings is not None and len(readings)


def test_an_iio_device_that_is_not_there_may_come(iio: Path) -> None:
    away = iio.with_name("away")
    iio.rename(away)
    with Heard(sensor(f"iio://{iio}?channels=accel_x,accel_y")) as heard:
        heard.wait_outcome(Outcome.LOST)
        away.rename(iio)
        heard.wait(1)


# -- recordings --


def test_a_recording_flat_out_gives_every_reading_once_and_waits_for_whoever_takes_them(tmp_path: Path) -> None:
    count = 20_000
    path = tmp_path / "a.csv"
    path.write_text("t,y,x\n" + "".join(f"{n / 1000},{-n},{n}\n" for n in range(count)) + "broken\n")
    taken: list[Readings] = []
    may_go_on = threading.Semaphore(0)

    def take(readings: Readings) -> None:
        may_go_on.acquire(timeout=DEADLINE_S)
        taken.append(readings)

    ended = threading.Event()
    listener = Listener(
        sensor(f"csv://{path}", pace="max"), name="test", stall_timeout_s=0.001, on_readings=take,
        on_change=lambda outcome, why: ended.set() if outcome is Outcome.END else None,
    )  # fmt: skip
    listener.start()
    first = listener.status().readings
    assert not ended.wait(0.05) and listener.status().readings <= max(first, count // 2)
    while not ended.is_set():
        may_go_on.release()
    listener.stop()
    assert np.concatenate([r.values for r in taken]).tolist() == rows(0, count)
    assert np.concatenate([r.times_ns for r in taken]).tolist() == [n * 1_000_000 for n in range(count)]
    status = listener.status()
    assert (status.readings, status.outcome, status.malformed) == (count, Outcome.END, {"wrong_count": 1})


@pytest.mark.parametrize("format", ["csv", "ndjson"])
def test_a_recording_is_held_to_its_own_pace(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    seconds = [5.0, 5.1, 5.1, 5.3, 5.4]
    if format == "csv":
        path.write_text("x,y,time\n" + "".join(f"1,2,{t}\n" for t in seconds))
    else:
        path.write_text("".join(f'{{"t":{t},"x":1,"y":2}}\n' for t in seconds))
    with Heard(sensor(str(path))) as heard:
        heard.wait_outcome(Outcome.END)
    assert heard.times_ns() == [round(t * 1e9) for t in seconds]
    assert [len(b) for b in heard.batches][:2] == [1, 2]
    assert_not_before_their_time(heard.batches, 1.0)


def test_a_recording_may_be_played_faster_and_keeps_its_times(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    seconds = [0.0, 20.0, 20.1, 40.0]
    path.write_text("t,x,y\n" + "".join(f"{t},1,2\n" for t in seconds))
    with Heard(sensor(f"csv://{path}?speed=100")) as heard:
        heard.wait_outcome(Outcome.END)
    assert heard.times_ns() == [round(t * 1e9) for t in seconds]
    assert [len(b) for b in heard.batches][:2] == [1, 2]
    assert_not_before_their_time(heard.batches, 100.0)


def assert_not_before_their_time(batches: list[Readings], speed: float) -> None:
    """What is due within 10 ms of one another comes together; a busy machine may be late, and never early."""
    first = batches[0]
    for batch in batches:
        due_ns = (int(batch.times_ns[-1]) - int(first.times_ns[0])) / speed
        assert batch.arrived_ns - first.arrived_ns >= due_ns - 12e6


def test_a_recording_that_jumps_goes_on_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,x,y\n0,0,0\n90000,1,-1\n5,2,-2\n5.01,3,-3\n")
    with Heard(sensor(str(path))) as heard:
        heard.wait_outcome(Outcome.END)
    assert heard.values() == rows(0, 4)


def test_a_recording_without_times_has_its_rates(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{n},{-n}\n" for n in range(5)))
    for url, options in ((f"csv://{path}?rate=200", {}), (str(path), {"rate_hz": 200.0})):
        for pace in ("native", "max"):
            with Heard(sensor(url, pace=pace, **options)) as heard:
                heard.wait_outcome(Outcome.END)
            assert heard.times_ns() == [n * 5_000_000 for n in range(5)]
    with pytest.raises(SourceError, match=r"no times.*\?rate=HZ"):
        sensor(str(path)).open()


def test_a_recording_without_times_or_rate_flat_out_is_untimed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2\n3,4")
    with Heard(sensor(str(path), pace="max")) as heard:
        heard.wait_outcome(Outcome.END)
    assert heard.values() == [[1.0, 2.0], [3.0, 4.0]]
    assert not any(b.timed for b in heard.batches)


@pytest.mark.parametrize("pace", ["native", "max"])
def test_a_recording_may_begin_again(tmp_path: Path, pace: str) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"".join(b'{"t": %f, "x": %d, "y": %d}\n' % (n / 1000, n, -n) for n in range(3)))
    with Heard(sensor(str(path), pace=pace, loop=True)) as heard:
        assert heard.wait(9)[:9] == rows(0, 3) * 3
        assert heard.outcome() is None


def lines(first: int, count: int, every_s: float = 0.01) -> str:
    return "t,x,y\n" + "".join(f"{n * every_s:.3f},{first + n},{-first - n}\n" for n in range(count))


def test_a_recording_that_begins_again_is_what_is_in_the_file_by_then(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(lines(0, 10))
    with Heard(sensor(str(path), pace="max", loop=True)) as heard:
        heard.wait(20)
        new = tmp_path / "new"
        new.write_text(lines(100, 10))
        new.replace(path)
        wait_for("what is in the new file", lambda: [109.0, -109.0] in heard.values())
        seen = len(heard.values())
        heard.wait(seen + 20)
        assert heard.values()[-1][0] >= 100 and heard.outcome() is None
        path.unlink()
        heard.wait_outcome(Outcome.LOST)
        assert "cannot be opened" in heard.listener.status().why
        path.write_text(lines(200, 10))
        wait_for("the file that is there again", lambda: [209.0, -209.0] in heard.values())


@pytest.mark.parametrize("loop", [False, True])
def test_a_recording_that_is_shorter_than_a_window_is_refused(tmp_path: Path, loop: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text(lines(0, 100))
    with closing(sensor(str(path), loop=loop, window_s=0.99)) as source:
        source.open()
    with pytest.raises(SourceError) as caught:
        sensor(str(path), loop=loop, window_s=1.28).open()
    assert str(caught.value).startswith(
        f"{path}: shorter than a window: expected at least 1.28 s of readings, as the model's window has, "
        "found 0.99 s in 100 readings; take a longer recording"
    )
    path.write_text(lines(0, 100) + lines(0, 100).partition("\n")[2])  # its clock is set back in the middle
    with pytest.raises(SourceError, match=r"found 0\.99 s in 200 readings"):
        sensor(str(path), loop=loop, window_s=1.28).open()


def test_a_reading_that_is_late_does_not_make_a_recording_shorter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,x,y\n" + "".join(f"{n / 100 - (n % 20 == 19) * 0.015:.3f},{n},{-n}\n" for n in range(200)))
    with closing(sensor(str(path), window_s=1.9)) as source:
        source.open()


def test_a_recording_of_gaps_alone_is_refused_and_the_unit_of_its_times_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    options: dict[str, Any] = {"rate_hz": 50.0, "window_s": 0.4, "max_gap_s": 0.1}

    def write(step: float) -> None:
        path.write_text("t,x,y\n" + "".join(f"{k * step},{k},{-k}\n" for k in range(30)))

    write(0.02)
    with closing(sensor(str(path), **options)) as source:
        source.open()
    write(20)
    with pytest.raises(SourceError) as caught:
        sensor(str(path), **options).open()
    assert str(caught.value) == (
        f"{path}: no window can come of it: readings are 20 s apart by their t, the model wants 0.02 s: is t in "
        "milliseconds?; write t in seconds: divide it by 1000"
    )
    path.write_text("t,x,y\n" + "".join(f"{k // 5},{k},{-k}\n" for k in range(30)))
    with pytest.raises(
        SourceError, match=r"no window can come of it: 24 of 30 readings are not later than the one before; t"
    ):
        sensor(str(path), **options).open()
    write(0.5)
    with pytest.raises(
        SourceError, match=r"no window can come of it: readings are 0\.5 s apart, the model wants 0\.02 s; ta"
    ):
        sensor(str(path), **options).open()


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("hello\nworld\n", "2 lines could not be used (not json): expected x, y, found 'hello'"),
        ('{"x": 1}\n', "1 line could not be used (missing channel): expected x, y, found '{\"x\": 1}'"),
        ('{"t": 1764140000000, "x": 1, "y": 2}\n', "t is in seconds: is it in milliseconds here?"),
        ('{"t": 1764140000000000, "x": 1, "y": 2}\n', "t is in seconds: is it in microseconds here?"),
        ('{"t": 1764140000000000000, "x": 1, "y": 2}\n', "t is in seconds: is it in nanoseconds here?"),
        ('{"t": "12:00:01", "x": 1, "y": 2}\n', "t is a number, in seconds, or text with date and time, in ISO 8601"),
    ],
)
def test_a_program_that_ends_is_told_of_with_what_it_printed(tmp_path: Path, printed: str, said: str) -> None:
    (tmp_path / "lines").write_text(printed)
    with Heard(sensor(f"exec:cat {tmp_path / 'lines'}")) as heard:
        heard.wait_outcome(Outcome.LOST)
        why = heard.listener.status().why
        assert "the program ended" in why and "exit code 0" in why and said in why


@pytest.mark.parametrize(
    ("text", "advised"),
    [
        ("t;x;y\n0,00;1,5;2,5\n", True),
        ("x;y\n1,5;2,5\n", True),
        ("1,5;2,5\n", True),
        ("x\ty\n1,5\t2,5\n", True),
        ('x,y\n"1,5","2,5"\n', True),
        ("t,x,y\n0,00,1,5,2,5\n", True),
        ("1.5,2.5,3.5\n", False),
        ("1,2,3\n", False),
        ("x,y\none,two\n", False),
    ],
)
def test_decimal_commas_are_called_so(tmp_path: Path, text: str, advised: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(SourceError) as caught:
        sensor(str(path), pace="max").open()
    assert ("decimal comma? write 0.5 for 0,5" in str(caught.value)) == advised
    with pytest.raises(ReadingsError) as read:
        read_recording(path, CHANNELS)
    assert ("decimal comma?" in str(read.value)) == advised


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("none.csv", None, "cannot be opened"),
        ("empty.csv", "", "not one reading"),
        ("head.csv", "t,x,y\n", "not one reading"),
        ("other.csv", "t,a,b\n1,2,3\n", r"missing channel|wrong count|not a number"),
        ("lacks.csv", "t,x\n1,2\n", "missing channel.*expected x, y, found 't,x'"),
        ("a.ndjson", '{"x": 1}\n', "missing channel"),
        ("b.ndjson", "1,2\n", "not json.*found .1,2.; a reading is a line of JSON here, such as"),
    ],
)
@pytest.mark.parametrize("loop", [False, True])
def test_a_recording_that_is_of_no_use_is_said_at_the_start(
    tmp_path: Path, name: str, text: str | None, problem: str, loop: bool
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    heard = Heard(sensor(str(tmp_path / name), loop=loop, pace="max"))
    with pytest.raises(SourceError, match=problem) as caught:
        heard.listener.start()
    assert str(tmp_path) in str(caught.value)


def test_a_recordings_path_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "a b?c.csv"
    path.write_text("1,2\n")
    with Heard(sensor(f"csv://{tmp_path}/a%20b%3Fc.csv", pace="max")) as heard:
        heard.wait_outcome(Outcome.END)
    assert heard.values() == [[1.0, 2.0]]


# -- the life of every source --


def descriptors() -> set[str]:
    """What this process has open, apart from what earlier tests left to the garbage collector."""
    gc.collect()
    return {f"{fd.name} {fd.readlink()}" for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}


def test_closing_twice_does_nothing(tmp_path: Path, wire: Wire, broker: BrokerAddress, iio: Path) -> None:
    recording = tmp_path / "a.csv"
    recording.write_text("1,2\n")
    urls = (
        f"serial://{wire.path}", python(COUNT, 1), f"udp://{LOOPBACK}:{free_port()}", f"csv://{recording}?rate=1",
        f"mqtt://{LOOPBACK}:{broker.port}/t", f"iio://{iio}?channels=accel_x,accel_y",
    )  # fmt: skip
    before = descriptors()
    for url in urls:
        source = sensor(url)
        source.close()
        for _ in range(2):
            source.open()
            assert source.read(0.0) is not None
            source.close()
        source.close()
    assert descriptors() == before


def test_a_source_that_cannot_be_opened_leaves_nothing_behind(iio: Path) -> None:
    before = descriptors()
    for url in (f"iio://{iio}?channels=accel_x,none", f"mqtt://{LOOPBACK}:{free_port()}/t", "udp://192.0.2.1:9000"):
        source = sensor(url)
        with pytest.raises((SourceError, SourceLostError)):
            source.open()
        source.close()
    assert descriptors() == before


def test_out_of_descriptors_a_program_is_lost_and_begun_again_once_there_are_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end, pids = tmp_path / "end", tmp_path / "pids"
    code = (
        "import os, sys, time\n"
        f"with open({str(pids)!r}, 'a') as file: print(os.getpid(), file=file)\n"
        "print([1, 2], flush=True)\n"
        f"while not os.path.exists({str(end)!r}): time.sleep(0.01)\n"
    )
    before = descriptors()
    with Heard(sensor(python(code))) as heard:
        heard.wait(1)
        with no_descriptors():
            end.mkdir()  # which needs none
            heard.wait_outcome(Outcome.LOST)
            wait_for("another try", lambda: "program cannot be run" in heard.listener.status().why)
        heard.wait(2)
        assert heard.said[:2] == [Outcome.LOST, None]
    assert "Traceback" in caplog.text and "Too many open files" in caplog.text
    wait_for("every program's end", lambda: not any(Path("/proc", pid).exists() for pid in pids.read_text().split()))
    assert descriptors() == before


class Clumsy:
    """A sensor that fails at ``part``, a method's name, as nobody foresaw, until it is mended; counts what it is told."""

    live = endless = reopens_when_silent = True

    def __init__(self, part: str) -> None:
        self.part = part
        self.tally = Tally()
        self.told: Counter[str] = Counter()

    def open(self) -> None:
        self._do("open")

    def read(self, timeout_s: float) -> Readings | None:
        self._do("read")
        if self.part:
            raise SourceLostError("nothing there")
        return Readings(np.ones((1, 2), np.float32), np.zeros(1, np.int64), clock.now_ns(), False)

    def close(self) -> None:
        self._do("close")

    def _do(self, part: str) -> None:
        self.told[part] += 1
        if part == self.part:
            raise ZeroDivisionError(f"in {part}")


@pytest.mark.parametrize("part", ["open", "read", "close"])
def test_what_nobody_foresaw_is_a_loss_and_told_once(part: str, caplog: pytest.LogCaptureFixture) -> None:
    source = Clumsy(part)
    with Heard(source) as heard:
        wait_for("three tries", lambda: source.told[part] >= 3)
        assert heard.outcome() is Outcome.LOST
        why = "nothing there" if part == "close" else f"a fault of ours: ZeroDivisionError: in {part}"
        assert heard.listener.status().why == why
        [record] = [record for record in caplog.records if record.exc_info is not None]
        assert record.getMessage() == f"listen-test: a fault of ours: ZeroDivisionError: in {part}"
        source.part = ""
        heard.wait(1)
        assert heard.outcome() is None
    assert not [t for t in threading.enumerate() if t.name == "listen-test"]


def test_stopping_does_not_wait_for_a_silent_sensor() -> None:
    heard = Heard(sensor(f"udp://{LOOPBACK}:{free_port()}"))
    with heard:
        pass
    assert not [t for t in threading.enumerate() if t.name == "listen-test"]


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("csv", "timestamp_s,x,y\n" + "".join(f"{n / 10},{n},{-n}\n" for n in range(20_000))),
        ("ndjson", "".join(f'{{"timestamp_s":{n / 10},"x":{n},"y":{-n}}}\n' for n in range(20_000))),
        ("ndjson", "up\n" + "".join(f'{{"timestamp_s":{n / 10},"values":[{n},{-n}],"ok":true}}\n' for n in range(20_000))),
    ],
    ids=["CSV", "NDJSON", "a banner before it"],
)  # fmt: skip
def test_a_recording_whose_time_has_another_name_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, format: str, text: str
) -> None:
    path = tmp_path / "r"
    path.write_text(text)
    with Heard(sensor(f"{format}://{path}", pace="max", rate_hz=10.0)) as heard:
        heard.wait(20_000)
    told = [record.message for record in caplog.records if "timestamp_s" in record.message]
    assert len(told) == 1 and told[0].startswith("test: no column or key is called t, time or timestamp")
    assert "not used: 'timestamp_s'; where" in told[0]


@pytest.mark.parametrize("text", ['{"x": 1, "y": 2}\n', '{"t": 1, "ts": 1, "x": 1, "y": 2}\n', "[1, 2]\n", "1,2\n"])
def test_nothing_is_asked_about_a_time_where_nothing_could_be_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r"
    path.write_text(text)
    source = sensor(f"{'csv' if text[0] == '1' else 'ndjson'}://{path}", pace="max")
    with closing(source):
        source.open()
    assert source.tally.untimed == ()


def test_a_pipe_is_no_recording_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.csv")
    with pytest.raises(SourceError, match=r"no recording: expected a regular file, found a pipe; exec:cat /"):
        sensor(str(tmp_path / "r.csv")).open()


@pytest.mark.parametrize("columns", ["x,y,x", "t,x,y,t"])
def test_columns_that_are_named_twice_are_refused(columns: str) -> None:
    with pytest.raises(SourceError, match=r"columns.*once"):
        sensor(f"udp://127.0.0.1:9000?columns={columns}")
