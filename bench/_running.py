"""A running agent, heard at the broker and looked at from outside: what a span of its life cost, by the kernel's clocks."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from vedette import clock
from vedette.chaos.account import Account
from vedette.demo.agent import AgentProcess
from vedette.demo.broker import LOOPBACK
from vedette.flow.stats import EMPTY, STAGES, Latency
from vedette.mqtt import Topics
from vedette.mqtt.payloads import StatsMessage

DEVICE = "bench"
READY_S = 60.0  # at most
SAID_S = 30.0  # the most between two statistics, where they come every second


def cpu_s(pid: int) -> float:
    """Processor seconds of another process, all its threads together, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def written_bytes(pid: int) -> int:
    """What a process has sent towards the disk, by the kernel's account (proc_pid_io(5))."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


@dataclass(frozen=True)
class Said:
    """One message of statistics. ``at``: CLOCK_BOOTTIME when it came, seconds; ``cpu_s``: of the agent, at that moment."""

    at: float
    cpu_s: float
    stats: StatsMessage


@dataclass(frozen=True)
class Span:
    """What an agent did between two of its statistics. ``cpu_s``, ``wall_s``: seconds. ``events``: by kind, of frames that
    were captured meanwhile. ``stages``: of all its pipelines."""

    wall_s: float
    cpu_s: float
    frames: int
    inferred: int
    events: Counter[str]
    stages: dict[str, Latency]
    pss_bytes: int

    @property
    def cpu_ms_frame(self) -> float:
        """Processor time of one frame that was inferred, milliseconds."""
        return self.cpu_s / max(1, self.inferred) * 1e3

    @property
    def cores(self) -> float:
        """Processor seconds a second."""
        return self.cpu_s / self.wall_s


class Running:
    """Made by `running`. ``account``: of every message; its verdict is good once the agent has ended."""

    def __init__(self, agent: AgentProcess, port: int) -> None:
        self.agent = agent
        self.account = Account(Topics("vedette", DEVICE))
        self._changed = threading.Condition()
        self._said: list[Said] = []
        self._events: list[tuple[float, str]] = []
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(f"vedette/{DEVICE}/#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()
        if not self._subscribed.wait(READY_S):
            raise RuntimeError("the broker does not take a subscription")

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        now = clock.now_ns() / 1e9
        self.account.hear(message.topic, message.payload, retained=message.retain)
        if message.retain:
            return
        if message.topic.endswith("/stats"):
            stats = msgspec.json.decode(message.payload, type=StatsMessage)
            try:
                used = cpu_s(self.agent.pid)
            except OSError:
                return  # its last words
            with self._changed:
                self._said.append(Said(now, used, stats))
                self._changed.notify_all()
        elif message.topic.endswith("/events"):
            event = msgspec.json.decode(message.payload)
            self._events.append((event["mono_us"] / 1e6, event["kind"]))

    def said_since(self, number: int) -> list[Said]:
        """Statistics but the first so many."""
        with self._changed:
            return self._said[number:]

    def _wait_for_round(self, pipelines: int) -> int:
        """Waits until each pipeline has spoken once more. How many statistics there are then."""
        with self._changed:
            before = len(self._said)

            def complete() -> bool:
                return len({said.stats.pipeline for said in self._said[before:]}) == pipelines

            if not self._changed.wait_for(complete, SAID_S):
                raise RuntimeError(f"the agent sent no statistics: {self.agent.last_words()}")
            return len(self._said)

    def span(self, seconds: float, pipelines: int) -> Span:
        """Looks on for about so long: from one round of statistics to another, so that frames and seconds fit."""
        first = self._wait_for_round(pipelines)
        time.sleep(max(0.0, seconds - 1.0))  # the next round ends it, and they come every second
        last = self._wait_for_round(pipelines)
        with self._changed:
            begin, end, said = self._said[first - 1], self._said[last - 1], self._said[first:last]
        if self.agent.exit_code() is not None:
            raise RuntimeError(f"the agent did not keep running: {self.agent.last_words()}")
        return Span(
            end.at - begin.at, end.cpu_s - begin.cpu_s, sum(one.stats.frames for one in said),
            sum(one.stats.inferred for one in said),
            Counter(kind for at, kind in list(self._events) if begin.at < at <= end.at), stages_of(said),
            self.agent.pss_bytes(),
        )  # fmt: skip

    def close(self) -> None:
        """Stops the agent, then listening. Calling it again does nothing."""
        self.agent.stop()
        self.account.stopped.wait(5)
        self._client.disconnect()
        self._client.loop_stop()


def stages_of(said: list[Said]) -> dict[str, Latency]:
    """The sum of their histograms, by stage."""
    merged = dict.fromkeys(STAGES, EMPTY)
    for one in said:
        for stage, latency in one.stats.latency_ms.items():
            merged[stage] = merged[stage].merge(latency)
    return merged


@contextmanager
def running(config: str, port: int, folder: Path, stats_s: float = 1.0) -> Iterator[Running]:
    """``vedette run`` on a configuration's tables, ready; ``folder``: its state, kept from one to the next."""
    path = folder / "vedette.toml"
    path.write_text(
        f'device = "{DEVICE}"\nstate_dir = "{folder / "state"}"\nlog_level = "warning"\n'
        f'[mqtt]\nhost = "{LOOPBACK}"\nport = {port}\n[intervals]\nstats_s = {stats_s}\n{config}\n'
    )
    (folder / "notify").unlink(missing_ok=True)
    agent = AgentProcess(path, folder)
    made = Running(agent, port)
    try:
        agent.start()
        agent.wait_ready(READY_S)
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Line:
    """``y = at_zero + slope * x``, by least squares. ``residual``: the largest, as a share of the largest y."""

    at_zero: float
    slope: float
    residual: float


def fit(xs: list[float], ys: list[float]) -> Line:
    """Through two points or more."""
    slope, at_zero = np.polyfit(xs, ys, 1)
    off = np.abs(np.asarray(ys) - (at_zero + slope * np.asarray(xs)))
    return Line(float(at_zero), float(slope), float(off.max() / np.abs(ys).max()))


def foretold(xs: list[float], ys: list[float]) -> float:
    """The y of the largest x, by what a line through all the others says of it: 1 where linear, more where worse."""
    order = np.argsort(xs)
    line = fit([xs[i] for i in order[:-1]], [ys[i] for i in order[:-1]])
    return ys[order[-1]] / (line.at_zero + line.slope * xs[order[-1]])
