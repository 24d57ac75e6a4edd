"""Cameras and sensors that go and come back, and an agent that has to cope: for tests, and ``bench/sources_recovery.py``.

Each source is a process, a wire or a program of its own, so that it can be killed, stopped or unplugged. What the agent
makes of it is seen over MQTT: the status that says so, and the messages that come again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from real import DEADLINE_S, TINY, Agent, write_pictures
from test_pump_and_door import PLAIN, PUMP
from test_sensor_sources import Wire
from test_sources import RTSP_SERVER, SECRET

from vedette import clock
from vedette.chaos.usage import Usage, descendants, usage_of
from vedette.demo.broker import LOOPBACK, free_port

READING = b'{"t": %.3f, "x": 0.0, "y": 9.81, "z": 0.0}\n'
# Readings for as many seconds as are asked for, for ever where none
PROGRAM = """
import sys, time
end = time.monotonic() + float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
while time.monotonic() < end:
    print('{"t": %.3f, "x": 0.0, "y": 9.81, "z": 0.0}' % time.monotonic(), flush=True)
    time.sleep(0.02)
"""


class Outage(ABC):
    """A source that can be taken away and brought back. ``name``: of its pipeline."""

    name: str
    faults: tuple[str, ...]
    series = False
    mends_itself = False

    @property
    @abstractmethod
    def url(self) -> str:
        """As the agent is told."""

    @abstractmethod
    def start(self) -> None:
        """It is there, and returns when it can be opened."""

    @abstractmethod
    def inject(self, fault: str) -> None:
        """Takes it away, in one of the ways that `faults` names."""

    @abstractmethod
    def mend(self) -> None:
        """Brings it back, and returns when it can be opened."""

    @abstractmethod
    def stop(self) -> None:
        """For good."""


class Camera(Outage):
    """A server in a process of its own.

    ``killed``: its port refuses. ``stalled``: it is there and says nothing, and goes on where it was. ``unplugged``: its
    connections stay silent and new ones are not answered, as where the cable was pulled; then it starts anew.
    """

    faults = ("killed", "stalled", "unplugged")

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[str]
        self._fillers: list[socket.socket] = []

    @abstractmethod
    def _command(self) -> list[str]:
        """Prints ``ready`` when it listens."""

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._process.stdout.close()

    def inject(self, fault: str) -> None:
        if fault == "killed":
            self.stop()
            return
        self._process.send_signal(signal.SIGSTOP)
        if fault == "unplugged":
            self._fill()

    def _fill(self) -> None:
        """Linux drops SYN while a listener's queue is full, and nobody takes from that of a process that is stopped."""
        while True:
            filler = socket.socket()
            self._fillers.append(filler)
            filler.settimeout(0.2)
            try:
                filler.connect((LOOPBACK, self.port))
            except TimeoutError:
                return

    def mend(self) -> None:
        if self._process.poll() is None and not self._fillers:
            self._process.send_signal(signal.SIGCONT)
            return
        self.stop()
        self.start()

    def stop(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self._process.kill()
        self._process.wait()


class HttpCamera(Camera):
    """MJPEG, 50 pictures a second."""

    name = "http"

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/video"

    def _command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("camera.py")), str(self.port)]


class RtspCamera(Camera):
    """H.264 over TCP, 25 pictures a second, by gst-rtsp-server."""

    name = "rtsp"

    @property
    def url(self) -> str:
        return f"rtsp://admin:{SECRET}@{LOOPBACK}:{self.port}/live"

    def _command(self) -> list[str]:
        return ["/usr/bin/python3", "-c", RTSP_SERVER, str(self.port), SECRET]


class Program(Outage):
    """``exec:``. ``killed``: it is begun again at once, so nothing mends it. ``stopped``: it hangs."""

    name = "program"
    faults = ("killed", "stopped")
    series = True
    mends_itself = True

    def __init__(self, folder: Path) -> None:
        self._script = folder / "program.py"
        self._script.write_text(PROGRAM)
        self.agent_pid = 0

    @property
    def url(self) -> str:
        return f"exec:{sys.executable} {self._script}"

    def start(self) -> None:
        """The agent does that."""

    def inject(self, fault: str) -> None:
        [pid] = [
            pid for pid, command in descendants(self.agent_pid).items() if command.rstrip().endswith(self._script.name)
        ]
        os.kill(pid, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)

    def mend(self) -> None:
        """The agent does that, too."""

    def stop(self) -> None:
        """And that."""


class SerialPort(Outage):
    """A pseudo-terminal behind a name that stays the same. ``unplugged``; ``silent``: open, and nothing comes."""

    name = "serial"
    faults = ("unplugged", "silent")
    series = True

    def __init__(self, folder: Path) -> None:
        self._link = folder / "ttyUSB0"
        self._wire: Wire | None = None
        self._silent = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak)

    @property
    def url(self) -> str:
        return f"serial://{self._link}"

    def start(self) -> None:
        self._plug()
        self._thread.start()

    def _plug(self) -> None:
        with self._lock:
            self._wire = Wire()
            os.set_blocking(self._wire.sensor_end, False)
            self._link.symlink_to(self._wire.path)

    def _unplug(self) -> None:
        with self._lock:
            if self._wire is not None:
                self._link.unlink()
                self._wire.unplug()
                self._wire = None

    def _speak(self) -> None:
        while not self._ended.wait(0.02):
            with self._lock:
                if self._wire is not None and not self._silent:
                    # nobody reads yet: a sensor says it all the same, and whoever waited in a full terminal may not be woken
                    with contextlib.suppress(BlockingIOError):
                        self._wire.send(READING % time.monotonic())

    def inject(self, fault: str) -> None:
        if fault == "silent":
            self._silent = True
        else:
            self._unplug()

    def mend(self) -> None:
        self._silent = False
        if self._wire is None:
            self._plug()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._unplug()


class Ear:
    """Hears an agent: when each pipeline last sent what it saw, and which of them the status calls away."""

    def __init__(self, port: int) -> None:
        self._changed = threading.Condition()
        self._captured_us: dict[str, int] = {}
        self._away: str = ""
        self.stats: dict[str, Any] = {}
        self.longest_s: dict[str, float] = {}
        """Between two messages of a pipeline."""
        self._heard: dict[str, float] = {}
        subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._hear
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()
        assert subscribed.wait(DEADLINE_S)

    def _hear(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        *_, pipeline, kind = message.topic.split("/")
        now = time.monotonic()
        with self._changed:
            if kind == "detections":
                self._captured_us[pipeline] = msgspec.json.decode(message.payload)["mono_us"]
                since_s = now - self._heard.get(pipeline, now)
                self.longest_s[pipeline] = max(self.longest_s.get(pipeline, 0.0), since_s)
                self._heard[pipeline] = now
            elif kind == "status":
                self._away = msgspec.json.decode(message.payload)["why"] or ""
            elif kind == "stats":
                self.stats[pipeline] = msgspec.json.decode(message.payload)
            self._changed.notify_all()

    def forget_gaps(self) -> None:
        """`longest_s` counts from now on."""
        with self._changed:
            self.longest_s.clear()

    def is_away(self, pipeline: str) -> bool:
        """Whether the status says so."""
        return f"{pipeline}: source" in self._away

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """Seconds until it holds. Raises `AssertionError`."""
        begun = time.monotonic()
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"not within {timeout_s:g} s: {what}"
        return time.monotonic() - begun

    def wait_message(self, pipeline: str, after_us: int) -> float:
        """Seconds until a message comes whose sample is later."""
        return self.wait(f"a message of {pipeline}", lambda: self._captured_us.get(pipeline, 0) > after_us)

    def stop(self) -> None:
        """Hears no more."""
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Times:
    """Of one kind of fault of one source, seconds."""

    noticed_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)


STEADY = "steady"
"""The pipeline that nothing happens to."""
DYING = "dying"
"""The pipeline whose program ends after each second."""


class Site:
    """One agent with all these sources, a folder of pictures beside them, and a program that dies every second."""

    def __init__(self, folder: Path, port: int, outages: list[Outage]) -> None:
        self.outages = outages
        self._dying = folder / "dying.py"
        self._dying.write_text(PROGRAM)
        write_pictures(folder / "pictures")
        labels = folder / "labels.txt"
        labels.write_text("ash\nbirch\ncedar\nelm\n")
        camera = f'[pipeline.NAME.plain]\nlabels_file = "{labels}"\noutput = {{ decoder = "classify" }}\n'
        text = (
            f'device = "site"\nstate_dir = "{folder / "state"}"\n[mqtt]\nhost = "{LOOPBACK}"\nport = {port}\n'
            "[intervals]\nstats_s = 0.5\nledger_s = 5\nhealth_s = 5\n"
        )
        pictures = f'url = "{folder / "pictures"}"\nfps = 10\nloop = true'
        tables = [(STEADY, False, pictures), (DYING, True, f'url = "exec:{sys.executable} {self._dying} 1"')]
        tables += [(outage.name, outage.series, f'url = "{outage.url}"') for outage in outages]
        for name, series, source in tables:
            text += f'[pipeline.{name}]\nmodel = "{PUMP if series else TINY}"\nmax_fps = 10\n'
            text += PLAIN.replace("pipeline.pump", f"pipeline.{name}") if series else camera.replace("NAME", name)
            text += f"[pipeline.{name}.source]\n{source}\n"
        config = folder / "site.toml"
        config.write_text(text)
        self.agent = Agent(config)
        self.ear = Ear(port)
        self.times: dict[tuple[str, str], Times] = {}
        """By source and fault."""
        self.forget()

    def __enter__(self) -> Site:
        for outage in self.outages:
            outage.start()
        self.agent.__enter__()
        try:
            for name in (STEADY, DYING, *(outage.name for outage in self.outages)):
                self.ear.wait_message(name, 0)
        except AssertionError:
            self.__exit__()
            raise
        assert self.agent.process is not None
        for outage in self.outages:
            if isinstance(outage, Program):
                outage.agent_pid = self.agent.process.pid
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.__exit__()
        self.ear.stop()
        for outage in self.outages:
            outage.stop()

    def forget(self) -> None:
        """Times count from now on."""
        self.times = {(outage.name, fault): Times() for outage in self.outages for fault in outage.faults}
        self.ear.forget_gaps()

    def usage(self) -> Usage:
        """Of the agent now."""
        assert self.agent.process is not None
        usage = usage_of(self.agent.process.pid)
        assert usage is not None, "the agent has ended"
        return usage

    def own_bytes(self) -> int:
        """The agent's anonymous memory, without its programs, which come and go. Nothing of the libraries' files, whose
        share grows whenever another process that uses them ends."""
        assert self.agent.process is not None
        text = Path(f"/proc/{self.agent.process.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Anonymous:"))

    def settled(self, before: Usage, timeout_s: float = 20.0) -> Usage:
        """As soon as there are no more threads and descriptors than before, for one source is always about to be opened;
        or as it is when the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            usage = self.usage()
            if usage.threads <= before.threads and usage.open_files <= before.open_files:
                return usage
            if time.monotonic() > deadline:
                return usage
            time.sleep(0.01)

    def suffer(self, rounds: int, *, away_s: Callable[[], float]) -> None:
        """Every fault of every source so many times, the sources beside one another. ``away_s``: how long it stays after
        it was noticed."""
        failures: list[BaseException] = []

        def suffer(outage: Outage) -> None:
            try:
                for _, fault in itertools.product(range(rounds), outage.faults):
                    self._suffer(outage, fault, away_s())
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)

        threads = [threading.Thread(target=suffer, args=(outage,)) for outage in self.outages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _suffer(self, outage: Outage, fault: str, away_s: float) -> None:
        name, times = outage.name, self.times[outage.name, fault]
        self.ear.wait(f"{name} to be well", lambda: not self.ear.is_away(name))
        self.ear.wait_message(name, clock.now_ns() // 1000)
        outage.inject(fault)
        if outage.mends_itself:
            # noticed and mended by the agent, mostly before a status says so
            times.back_s.append(self.ear.wait_message(name, clock.now_ns() // 1000))
            return
        times.noticed_s.append(self.ear.wait(f"{name} {fault} to be noticed", lambda: self.ear.is_away(name)))
        threading.Event().wait(away_s)
        outage.mend()
        times.back_s.append(self.ear.wait_message(name, clock.now_ns() // 1000))
