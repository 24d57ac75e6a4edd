"""The real parts that tests of the agent meet: a broker, a subscriber that keeps what it hears, agents as processes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from vedette.demo.broker import LOOPBACK, free_port, mosquitto_path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parents[1] / "contract" / "data"
TINY = DATA / "tiny-uint8.tflite"  # a classifier of 16x16 pictures, four classes
BUNDLE = ROOT / "models" / "coco-ssdlite-mobilenet-v2.tflite"
CLIP = ROOT / "examples" / "media" / "people-walking.mp4"
DEADLINE_S = 30.0  # for whatever a test waits for; a busy machine is no failure

T = TypeVar("T")


def wait_for(what: str, condition: Callable[[], T], timeout_s: float = DEADLINE_S) -> T:
    """Looks again and again until the condition holds; fails with ``what`` where it never does."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.01)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more, as where something leaks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    highest = max(int(descriptor.name) for descriptor in Path("/proc/self/fd").iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))  # so that few need be taken
        with suppress(OSError):
            while True:
                taken.append(os.dup(2))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class BrokerAddress:
    """Where the test's broker listens, and what it is."""

    name: str
    port: int

    @property
    def protocols(self) -> tuple[str, ...]:
        """What it speaks on this port; iotcore has another for MQTT 5."""
        return ("5", "3.1.1") if self.name == "mosquitto" else ("3.1.1",)


class Mosquitto:
    """Mosquitto with a configuration of its own, that can be killed and started again on the same port."""

    def __init__(self, folder: Path, lines: str = "allow_anonymous true\n", *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder
        self.config = folder / f"mosquitto-{self.port}.conf"
        user = "user root\n" if os.geteuid() == 0 else ""  # or it gives up the right to read the test's files
        head = f"listener {self.port} {LOOPBACK}\npersistence false\nmax_queued_messages 200000\n"
        self.config.write_text(head + user + lines)
        self.log = folder / f"mosquitto-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it listens."""
        program = mosquitto_path()
        assert program is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, "-v", "-c", str(self.config)], stdout=log, stderr=log)
        wait_for("Mosquitto to listen", self._listens)

    def _listens(self) -> bool:
        import socket

        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"Mosquitto ended: {self.log.read_text()}")
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1):
                return True
        except OSError:
            return False

    def signal(self, signum: int) -> None:
        """SIGSTOP and SIGCONT: a broker that is there and says nothing."""
        assert self._process is not None
        self._process.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL: everything it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


needs_mosquitto = pytest.mark.skipif(
    mosquitto_path() is None,
    reason="no mosquitto: what a broker can refuse (passwords, access rules, sizes, TLS) and its restart stay untested",
)


@dataclass
class Message:
    """As a subscriber got it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool

    @property
    def json(self) -> Any:
        """Parsed."""
        return msgspec.json.decode(self.payload)


@dataclass
class Subscriber:
    """Keeps every message of a filter, in order."""

    port: int
    topic: str = "#"
    options: dict[str, Any] = field(default_factory=dict)
    v5: bool = False
    host: str = LOOPBACK

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[Message] = []
        self._subscribed = threading.Event()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            protocol=MQTTProtocolVersion.MQTTv5 if self.v5 else MQTTProtocolVersion.MQTTv311,
        )
        self.client.on_connect = lambda client, *_: client.subscribe(self.topic, qos=1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = self._on_message
        self.client.reconnect_delay_set(1, 1)
        if "username" in self.options:
            self.client.username_pw_set(self.options["username"], self.options["password"])
        if "ca_file" in self.options:
            self.client.tls_set(self.options["ca_file"])

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        with self._lock:
            self._messages.append(Message(message.topic, message.payload, message.qos, message.retain))

    def __enter__(self) -> Subscriber:
        self.client.connect(self.host, self.port)
        self.client.loop_start()
        self.wait_subscribed()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        # paho leaves its own pair of sockets to __del__, which may come after the garbage collector has found them open
        self.client._reset_sockets()

    def wait_subscribed(self) -> None:
        """Until the broker has taken the subscription (again, after `lose`)."""
        assert self._subscribed.wait(DEADLINE_S), "no SUBACK"

    def lose(self) -> None:
        """The broker is about to go: the next subscription will be waited for."""
        self._subscribed.clear()

    def messages(self, suffix: str = "") -> list[Message]:
        """So far, of the topics that end so."""
        with self._lock:
            return [m for m in self._messages if m.topic.endswith(suffix)]

    def wait(self, suffix: str, condition: Callable[[Any], bool] = lambda _: True) -> Message:
        """The first message of such a topic whose parsed payload meets the condition."""

        def found() -> Message | None:
            return next((m for m in self.messages(suffix) if condition(m.json)), None)

        message = wait_for(f"a message on ...{suffix}", found)
        assert message is not None
        return message


def run_cli(*arguments: object, timeout_s: float = 120.0, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m vedette ...`` as a user would type it."""
    return subprocess.run(
        [sys.executable, "-m", "vedette", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def write_pictures(folder: Path, count: int = 3, size: tuple[int, int] = (48, 64)) -> Path:
    """A folder of different pictures of (height, width)."""
    import cv2
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


def agent_config(
    folder: Path, port: int, source: str, *, device: str = "dev-1", mqtt: str = "", top: str = "", pipeline: str = "",
    intervals: str = "stats_s = 0.5\nledger_s = 0.5\nhealth_s = 0.5",
) -> Path:  # fmt: skip
    """A configuration of one pipeline, ``door``, with the tiny classifier. ``source``: lines of its table."""
    labels = folder / "labels.txt"
    labels.write_text("ash\nbirch\ncedar\nelm\n")
    path = folder / f"{device}.toml"
    path.write_text(
        f'device = "{device}"\nstate_dir = "{folder / device}"\n{top}\n'
        f'[mqtt]\nhost = "{LOOPBACK}"\nport = {port}\n{mqtt}\n'
        f"[intervals]\n{intervals}\n"
        f'[pipeline.door]\nmodel = "{TINY}"\n{pipeline}\n'
        f"[pipeline.door.source]\n{source}\n"
        f'[pipeline.door.plain]\nlabels_file = "{labels}"\noutput = {{ decoder = "classify" }}\n'
    )
    return path


class Agent:
    """``vedette run`` in a process of its own; its log is read at the end."""

    def __init__(self, config: Path, **environment: str) -> None:
        self.config = config
        self.log = config.with_suffix(".log")
        self.environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Agent:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vedette", "run", "-c", str(self.config)],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def signal(self, signum: int) -> None:
        """Sends it."""
        assert self.process is not None
        self.process.send_signal(signum)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Its exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text()
