"""What the parts of ``bench/chaos.py`` play on: a broker, whoever listens and whoever appends, and the rows they give."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from _appender import STREAMS, TOPICS
from paho.mqtt.enums import CallbackAPIVersion

from vedette import clock
from vedette.chaos.account import Account, Verdict
from vedette.chaos.proxy import Proxy
from vedette.contract.errors import FaultError
from vedette.demo.broker import LOOPBACK, free_port, mosquitto_path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PIPELINES = {stream.pipeline for stream in STREAMS}
WAIT_S = 120.0  # for what must come to pass
DAY = 864_000  # messages of a day, ten a second
Row = dict[str, Any]


@dataclass(frozen=True)
class Extent:
    """How much of each part. ``whole`` is what is published; a short one is for seeing whether it still works."""

    kills: int
    restarts: int
    resets: int
    silences: int
    long_silence_s: float
    loss_s: float
    day: int
    together_s: float
    engine_s: float
    jumps: int

    @classmethod
    def whole(cls, minutes: float) -> Extent:
        """What is published."""
        return cls(200, 20, 20, 10, 45.0, 60.0, DAY, minutes * 60, 60.0, 30)

    @classmethod
    def short(cls, seconds: float) -> Extent:
        """In about so many seconds, on two cores that are not busy."""
        share = seconds / 90
        return cls(
            max(3, round(8 * share)), max(2, round(3 * share)), max(3, round(5 * share)), 2, 0.0, max(4.0, 6 * share),
            max(20_000, int(60_000 * share)), max(8.0, 20 * share), max(6.0, 10 * share), 4,
        )  # fmt: skip


class Broker:
    """Mosquitto, to be killed. ``port`` for agents, ``clean_port`` for whoever listens, where nothing is done to it."""

    def __init__(self, folder: Path) -> None:
        self.port, self.clean_port = free_port(), free_port()
        self._config = folder / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        # no limits: what it acknowledges it has by then passed on to a subscriber that is there
        self._config.write_text(
            f"{user}listener {self.port} {LOOPBACK}\nlistener {self.clean_port} {LOOPBACK}\nallow_anonymous true\n"
            "persistence false\nmax_inflight_messages 0\nmax_queued_messages 1000000\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once; whoever connects tries until it listens."""
        program = mosquitto_path()
        if program is None:
            raise FaultError("no mosquitto, which is killed here", fix="apt-get install mosquitto")
        self._process = subprocess.Popen(
            [program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Listener:
    """Subscribes straight to the broker, and keeps account; ``nonces``: by id, what the message itself says it is."""

    def __init__(self, port: int) -> None:
        self.account = Account(TOPICS)
        self.nonces: dict[str, str] = {}
        self.last_ns = 0  # when the last message came, CLOCK_BOOTTIME
        self._port = port
        self._client: paho.Client | None = None

    def connect(self) -> None:
        """A connection of its own, and everything subscribed to when this returns."""
        self.close()
        subscribed = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.on_connect = lambda client, *_: client.subscribe(TOPICS.all, qos=1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = self._on_message
        until("a broker that listens", lambda: connected(client, self._port))
        client.loop_start()
        if not subscribed.wait(WAIT_S):
            raise FaultError("the broker does not take a subscription")
        self._client = client

    def close(self) -> None:
        """Disconnects."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if message.retain:
            return
        said = msgspec.json.decode(message.payload)
        if "nonce" in said:
            self.last_ns = clock.now_ns()
            # the first that came: the account compares the whole of those that follow
            self.nonces.setdefault(said["id"], said["nonce"])
        self.account.hear(message.topic, message.payload)


def connected(client: paho.Client, port: int) -> bool:
    """Whether a broker is there to take the connection."""
    try:
        client.connect(LOOPBACK, port)
    except OSError:
        return False
    return True


class Appender:
    """``bench/_appender.py`` as a child; what it says is heard by a thread, and is evidence."""

    def __init__(self, folder: Path, port: int, durable: str, rate: float, account: Account) -> None:
        self._account = account
        self.accepted: dict[str, tuple[str, int]] = {}
        """By id: nonce, and when `append` had returned, CLOCK_MONOTONIC."""
        self.opened, self.drained = threading.Event(), threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "_appender.py"), str(folder), "--port", str(port), "--durable", durable,
             "--rate", str(rate)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # killed in the middle of it
                word, _, rest = line.rstrip().partition(b" ")
                if word == b"kept":
                    name, nonce, at = rest.decode().split()
                    self.accepted[name] = (nonce, int(at))
                elif word == b"ledger":
                    self._account.hear(TOPICS.ledger, rest)
                elif word == b"open":
                    self.opened.set()
                elif word == b"drained":
                    self.drained.set()

    def kill(self) -> int:
        """SIGKILL, and when, CLOCK_MONOTONIC; all that it said was heard."""
        at = time.monotonic_ns()
        self.process.kill()
        self.process.wait()
        self._thread.join()
        return at

    def finish(self) -> bool:
        """SIGTERM; whether everything was delivered."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S * 2)
        self._thread.join()
        return self.drained.is_set()


@contextmanager
def flow(
    durable: str = "spill", rate: float = 25.0, *, seed: int = 0
) -> Iterator[tuple[Broker, Proxy, Listener, Appender]]:
    """A broker, a listener, and an appender that goes through a proxy."""
    with tempfile.TemporaryDirectory() as name, running_broker(Path(name)) as broker:
        listener = Listener(broker.clean_port)
        with Proxy(LOOPBACK, broker.port, seed=seed) as proxy:
            listener.connect()
            appender = Appender(Path(name) / "state", proxy.port, durable, rate, listener.account)
            try:
                until("the first message", lambda: listener.account.received)
                yield broker, proxy, listener, appender
            finally:
                appender.kill()
                listener.close()


@contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """Started, and killed at the end."""
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def until(what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
    """Waits. Raises `FaultError` where it does not come to pass."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise FaultError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.005)


def back_s(listener: Listener, since_ns: int) -> float:
    """From that moment until each stream was heard of with something newer. CLOCK_BOOTTIME."""
    until("messages to come again", lambda: listener.account.fresh_since(since_ns) >= PIPELINES)
    return (clock.now_ns() - since_ns) / 1e9


def account_rows(what: str, verdict: Verdict, drained: bool, n: int) -> list[Row]:
    """That nothing is missing, and no id stands for two messages."""
    reason = "; ".join(verdict.examples[:2]) or None
    return [
        {"what": f"{what}: messages missing of {verdict.given:,}", "value": verdict.missing + verdict.waiting,
         "unit": "messages", "n": n, "target": "== 0", "holds": verdict.missing == verdict.waiting == 0 and drained,
         "reason": reason},
        {"what": f"{what}: ids that stood for two messages", "value": verdict.conflicts, "unit": "ids",
         "n": verdict.received,
         "target": "== 0", "holds": verdict.conflicts == 0},
    ]  # fmt: skip


def recovery_row(what: str, seconds: list[float], target_s: float | None = 3.0, reason: str | None = None) -> Row:
    """The longest, with the quartiles as spread."""
    quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    return {
        "what": f"{what}: longest until messages are live again", "value": round(max(seconds), 2), "unit": "s",
        "n": len(seconds), "spread": [round(quartiles[0], 2), round(quartiles[2], 2)],
        "target": None if target_s is None else f"<= {target_s:g}",
        "holds": None if target_s is None else max(seconds) <= target_s, "reason": reason,
    }  # fmt: skip
