"""One turn of the agent: ``vedette run`` in a process of its own, watched from outside; it delivers to a real broker."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
from _ear import Ear

from vedette import clock
from vedette.demo.agent import AgentProcess
from vedette.demo.broker import LOOPBACK
from vedette.flow.stats import EMPTY, Latency

READY_S = 60.0  # at most
STAGES = ("capture", "queue", "preprocess", "infer", "decode", "total")


@dataclass
class AgentTurn:
    """What one turn showed. Milliseconds, but what says otherwise; lists have an entry a message."""

    fps: float
    cpu_ms: float
    """Of all threads and children, a message."""
    cores: float
    """Processor seconds a second."""
    pss_mb: float
    ready_s: float
    stages: dict[str, list[float]] = field(default_factory=dict)
    delivered: list[float] = field(default_factory=list)
    """From the frame in memory to the message at a subscriber."""
    sent: Latency = EMPTY
    acknowledged: Latency = EMPTY
    """From the frame in memory to PUBACK, as the agent's statistics say."""
    missing: int = 0
    """Messages whose seq never came, between the first and the last."""


@dataclass(frozen=True)
class Camera:
    """One pipeline. ``pace``: max, or native. ``plain``: TOML tables of a model without a manifest."""

    model: str
    clip: Path
    pace: str = "max"
    plain: str = ""


def write_config(folder: Path, port: int, cameras: Sequence[Camera], threads: int | str = 1) -> Path:
    """The agent's configuration; its state is kept in ``folder``, too. With ``threads`` of a number one inference runs at a
    time: the agent would read a file flat out with as many as there are cores for."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "vedette.toml"
    tables = "".join(
        f"[pipeline.camera{n}]\nmodel = {json.dumps(camera.model)}\nparallel = {0 if threads == 'auto' else 1}\n"
        f"[pipeline.camera{n}.source]\nurl = {json.dumps(str(camera.clip))}\nloop = true\npace = {json.dumps(camera.pace)}\n"
        + camera.plain.replace("NAME", f"camera{n}")
        for n, camera in enumerate(cameras)
    )
    config.write_text(
        f'device = "bench"\nstate_dir = {json.dumps(str(folder / "state"))}\n'
        f'[mqtt]\nhost = "{LOOPBACK}"\nport = {port}\n[engine]\nthreads = {json.dumps(threads)}\n'
        f"[intervals]\nstats_s = 1.0\n{tables}"
    )
    return config


def agent_turn(
    ear: Ear,
    folder: Path,
    port: int,
    cameras: Sequence[Camera],
    *,
    threads: int | str = 1,
    seconds: float,
    warm: float = 1.0,
) -> AgentTurn:
    """Starts the agent, lets it get going for ``warm`` seconds after its first message, and watches it.

    ``folder``: keeps its state from one turn to the next, as a device does: a bundle is proved once, threads are measured
    once. Raises `FaultError` where the agent does not come up, RuntimeError where it says nothing.
    """
    config = write_config(folder, port, cameras, threads)
    ear.take()
    notify = folder / "notify"
    notify.unlink(missing_ok=True)
    with AgentProcess(config, folder) as agent:
        agent.start()
        agent.wait_ready(READY_S)
        deadline = time.monotonic() + READY_S
        heard = _messages(ear.take(), "detections")
        while not heard:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the agent sends nothing: {agent.last_words()}")
            time.sleep(0.05)
            heard = _messages(ear.take(), "detections")
        time.sleep(warm)
        ear.take()
        process = psutil.Process(agent.pid)
        begun_ns, before = clock.now_ns(), _cpu_s(process)
        time.sleep(seconds)
        ended_ns, after = clock.now_ns(), _cpu_s(process)
        pss = agent.pss_bytes()
        everything = ear.take()
    return _read(everything, begun_ns, ended_ns, after - before, pss, agent.ready_s)


def _read(
    everything: list[tuple[int, str, bytes]], begun_ns: int, ended_ns: int, cpu_s: float, pss: int, ready_s: float
) -> AgentTurn:
    span_s = (ended_ns - begun_ns) / 1e9
    results = [one for one in _messages(everything, "detections") if one[0] <= ended_ns]
    if not results:
        raise RuntimeError("not one message in the whole turn")
    fps = len(results) / span_s
    turn = AgentTurn(
        fps, cpu_s / span_s / fps * 1e3, cpu_s / span_s, pss / 1e6, ready_s, {stage: [] for stage in STAGES}
    )
    seqs: dict[str, list[int]] = {}
    for at_ns, message in results:
        seqs.setdefault(message["pipeline"], []).append(message["seq"])
        turn.delivered.append((at_ns - message["mono_us"] * 1000) / 1e6)
        for stage in STAGES:
            turn.stages[stage].append(message["latency_ms"][stage])
    for at_ns, message in _messages(everything, "stats"):
        if at_ns - begun_ns > message["interval_s"] * 0.9e9:  # it began with the turn, more or less
            sent, acknowledged = (
                msgspec.convert(message["latency_ms"][stage], Latency) for stage in ("sent", "acknowledged")
            )
            turn.sent, turn.acknowledged = turn.sent.merge(sent), turn.acknowledged.merge(acknowledged)
    turn.missing = sum(max(seen) - min(seen) + 1 - len(set(seen)) for seen in seqs.values())
    return turn


def _messages(heard: list[tuple[int, str, bytes]], kind: str) -> list[tuple[int, dict[str, Any]]]:
    return [
        (at_ns, msgspec.json.decode(payload))
        for at_ns, topic, payload in heard
        if topic.startswith("vedette/bench/") and topic.endswith("/" + kind)
    ]


def _cpu_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def quantile(latency: Latency, q: float) -> float:
    """From a histogram, milliseconds, as if its values lay evenly in their bucket: nearer than the bucket's middle."""
    buckets = latency.histogram
    rank = q * latency.count - buckets.zero_count
    for k, count in enumerate(buckets.counts):
        if rank <= count:
            low, high = (2 ** ((buckets.offset + k + n) / 2**buckets.scale) for n in (0, 1))
            return min(latency.max, low + (high - low) * max(0.0, rank) / count) if count else low
        rank -= count
    return latency.max


def median(values: Sequence[float]) -> float:
    """0 of none."""
    return statistics.median(values) if values else 0.0


def threads_turn(
    ear: Ear, folder: Path, port: int, camera: Camera, *, seconds: float, warm: float = 1.0
) -> dict[str, float]:
    """CPU milliseconds a message of each of the agent's threads, by the first word of its name; see ``rivals/rooms.py``."""
    config = write_config(folder, port, [camera])
    table = folder / "threads.jsonl"
    table.unlink(missing_ok=True)
    program = Path(__file__).parent / "rivals" / "rooms.py"
    ear.take()
    with (folder / "rooms.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(program), str(config), str(table)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + READY_S
        while not _messages(ear.take(), "detections"):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"the agent sends nothing: {(folder / 'rooms.log').read_text()[-400:]}")
            time.sleep(0.05)
        time.sleep(warm)
        ear.take()
        begun_ns = clock.now_ns()
        time.sleep(seconds)
        results = _messages(ear.take(), "detections")
    finally:
        process.terminate()
        process.wait(20)
    samples = [msgspec.json.decode(line) for line in table.read_bytes().splitlines()]
    first, *_, last = [sample for sample in samples if begun_ns <= sample["at_ns"] <= begun_ns + seconds * 1e9]
    frames = sum(1 for at_ns, _ in results if first["at_ns"] < at_ns <= last["at_ns"])
    used: dict[str, float] = {}
    for name, spent in last["cpu_ns"].items():
        room = name.removeprefix("mqtt-").split("-")[0]
        used[room] = used.get(room, 0.0) + (spent - first["cpu_ns"].get(name, 0)) / 1e6 / frames
    return used
