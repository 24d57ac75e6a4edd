"""An agent as a process of its own, and what it uses while it runs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from vedette.demo.broker import LOOPBACK

READY_S = 60.0  # at most
WARM_S = 8.0  # seconds after the first statistics, for what is only done at first


@dataclass(frozen=True)
class Used:
    """``cores``: processor seconds a second, those of its children, too. ``fps``, ``inferences``: a second, by its own
    statistics."""

    cores: float
    fps: float
    inferences: float


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def watch(config: Path, port: int, seconds: float) -> Used:
    """Runs ``vedette run`` on a configuration whose statistics come every second. Raises where it does not keep running."""
    stats: list[dict[str, Any]] = []
    first = threading.Event()

    def on_message(client: Any, userdata: Any, message: Any) -> None:
        stats.append(msgspec.json.decode(message.payload))
        first.set()

    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe("vedette/+/+/stats", qos=1)
    client.on_message = on_message
    client.connect(LOOPBACK, port)
    client.loop_start()
    process = subprocess.Popen([sys.executable, "-m", "vedette", "run", "-c", str(config)], stdin=subprocess.DEVNULL)
    try:
        if not first.wait(READY_S):
            raise RuntimeError("the agent sent no statistics")
        time.sleep(WARM_S)
        begun = len(stats)
        before = _cpu_s(process.pid)
        time.sleep(seconds)
        after = _cpu_s(process.pid)
        seen = stats[begun:]
        if process.poll() is not None or not seen:
            raise RuntimeError(f"the agent did not keep running: exit code {process.returncode}")
    finally:
        process.terminate()
        process.wait(20)
        client.disconnect()
        client.loop_stop()
    span_s = sum(one["interval_s"] for one in seen)
    return Used(
        (after - before) / seconds,
        sum(one["frames"] for one in seen) / span_s,
        sum(one["inferred"] for one in seen) / span_s,
    )
