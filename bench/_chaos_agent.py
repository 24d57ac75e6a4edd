"""Parts of ``bench/chaos.py`` in which a whole agent lives: its accelerator, its clock, everything at once."""

from __future__ import annotations

import random
import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from _chaos_stage import (
    ROOT,
    WAIT_S,
    Extent,
    Row,
    account_rows,
    connected,
    recovery_row,
    running_broker,
    until,
)
from paho.mqtt.enums import CallbackAPIVersion

from vedette import clock
from vedette.chaos.account import Account
from vedette.chaos.clock import set_clock
from vedette.chaos.run import Outcome, perform
from vedette.demo.agent import AgentProcess
from vedette.mqtt import Topics


def engine(extent: Extent, luck: random.Random) -> list[Row]:
    """An accelerator's process killed, and stopped; the delegate is the one that is written for tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = _delegate(folder)
        if isinstance(made, str):
            return [{"what": "accelerator killed and hung", "value": "not tried", "unit": "", "n": 0, "reason": made}]
        engine_table, model = made
        config = folder / "engine.toml"
        config.write_text(
            f'device = "bench"\nstate_dir = "{folder / "state"}"\n[mqtt]\n{engine_table}\n'
            f'[pipeline.door]\nmodel = "{model}"\nthreshold = 0.0\n'
            f'[pipeline.door.source]\nurl = "{_pictures(folder)}"\nfps = 20\n'
        )
        outcome = perform(config, seconds=extent.engine_s, seed=luck.randrange(1 << 30), only=["engine"])
    return _rows_of("accelerator killed and hung", outcome)


def jumps(extent: Extent, luck: random.Random) -> list[Row]:
    """The wall clock of a real agent is set, by seconds to days, to and fro."""
    what = f"the wall clock set {extent.jumps} times, by up to two days"
    with tempfile.TemporaryDirectory() as name, running_broker(Path(name)) as broker:
        folder = Path(name)
        wall = set_clock(folder)
        if isinstance(wall, str):
            return [{"what": what, "value": "not tried", "unit": "", "n": 0, "reason": wall}]
        config = folder / "jumps.toml"
        config.write_text(
            f'device = "bench"\nstate_dir = "{folder / "state"}"\n[mqtt]\nport = {broker.port}\n'
            "[intervals]\nstats_s = 0.5\nledger_s = 0.5\n"
            f'[pipeline.door]\nmodel = "{ROOT / "models/cifar10-resnet8.tflite"}"\nthreshold = 0.0\n'
            f'[pipeline.door.source]\nurl = "{_pictures(folder)}"\nfps = 20\nloop = true\n'
        )
        with AgentProcess(config, folder, wall.environment) as agent, _Overheard(broker.clean_port) as heard:
            agent.start()
            agent.wait_ready(WAIT_S)
            until("messages", lambda: heard.account.received > 20)
            times: list[float] = []
            for _ in range(extent.jumps):
                ahead_s = luck.choice((-1, 1)) * 10 ** luck.uniform(1.0, 5.2)
                at = clock.now_ns()
                wall.set(ahead_s)
                until("a message dated by it", lambda ahead_s=ahead_s: abs(heard.ahead_s - ahead_s) < 0.5)  # type: ignore[misc]
                times.append((clock.now_ns() - at) / 1e9)
                until("more", lambda at=at: heard.account.fresh_since(at + 10**9))  # type: ignore[misc]
            ended = agent.stop() == 0
            until("its goodbye", heard.account.stopped.is_set)
    verdict = heard.account.verdict()
    stepped = heard.clocks.count("stepped")
    told = [why for why in heard.whys if "the clock was set" in why]
    longest_ms = max(heard.latencies_ms)
    return [
        *account_rows(what, verdict, ended, verdict.given),
        {"what": f"{what}: longest until messages are dated by it", "value": round(max(times), 2), "unit": "s",
         "n": len(times), "target": "<= 3", "holds": max(times) <= 3.0},
        {"what": f"{what}: times that status says it was set", "value": len(told), "unit": "messages", "n": len(heard.whys),
         "target": "> 0", "holds": bool(told), "reason": "of several in one direction within a minute, the first"},
        {"what": f'{what}: messages that say clock = "stepped"', "value": stepped, "unit": "messages",
         "n": len(heard.clocks), "target": "> 0", "holds": stepped > 0},
        {"what": f"{what}: the longest latency that statistics told", "value": round(longest_ms, 1), "unit": "ms",
         "n": len(heard.latencies_ms), "target": "0 to 10000", "holds": 0 <= min(heard.latencies_ms) <= longest_ms <= 1e4},
    ]  # fmt: skip


class _Overheard:
    """All that one agent says."""

    def __init__(self, port: int) -> None:
        topics = Topics("vedette", "bench")
        self.account = Account(topics)
        self.whys: list[str] = []
        self.clocks: list[str] = []
        self.latencies_ms: list[float] = []
        self.ahead_s = 0.0  # the clock that the last message is dated by, less this process's
        self._client = paho.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        self._client.on_connect = lambda client, *_: client.subscribe(topics.all, qos=1)
        self._client.on_message = self._on_message
        until("a broker that listens", lambda: connected(self._client, port))

    def __enter__(self) -> _Overheard:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self.account.hear(message.topic, message.payload, retained=message.retain)
        last = message.topic.rpartition("/")[2]
        if last not in ("status", "stats", "detections"):
            return
        said = msgspec.json.decode(message.payload)
        if last == "status":
            self.whys.append(said["why"] or "")
        elif last == "detections":
            self.clocks.append(said["clock"])
            dated_s = datetime.fromisoformat(said["ts"]).timestamp()
            self.ahead_s = dated_s - said["mono_us"] / 1e6 - (time.time_ns() - clock.now_ns()) / 1e9
        else:
            for stage in said["latency_ms"].values():
                self.latencies_ms += [stage["max"]] if stage["count"] else []


def together(extent: Extent, luck: random.Random) -> list[Row]:
    """Three faults at a time in one long life: pictures, a clip, a recording, a program, and an accelerator."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = _delegate(folder)
        engine_table, model = made if not isinstance(made, str) else ("", ROOT / "models/cifar10-resnet8.tflite")
        config = folder / "all.toml"
        config.write_text(
            f'device = "bench"\nstate_dir = "{folder / "state"}"\n[mqtt]\n{engine_table}\n'
            f'[pipeline.door]\nmodel = "{model}"\nthreshold = 0.0\n'
            f'[pipeline.door.source]\nurl = "{_pictures(folder)}"\nfps = 20\n'
            f'[pipeline.clip]\nmodel = "{ROOT / "models/cifar10-resnet8.tflite"}"\nmax_fps = 10\ndelegate = false\n'
            f'[pipeline.clip.source]\nurl = "{ROOT / "examples/media/people-walking.mp4"}"\n'
            f'[pipeline.watch]\nmodel = "{ROOT / "models/watch-activity.tflite"}"\ndelegate = false\n'
            f'[pipeline.watch.source]\nurl = "csv://{ROOT / "examples/media/shoulder-exercises.csv"}?speed=4"\n'
            f'[pipeline.pump]\nmodel = "{ROOT / "models/shuttle-anomaly.tflite"}"\ndelegate = false\n'
            f'[pipeline.pump.source]\nurl = "exec:{sys.executable} {ROOT / "examples/sensors/pump.py"}"\n'
        )
        outcome = perform(
            config, seconds=extent.together_s, seed=luck.randrange(1 << 30), without=["agent killed"], at_once=3
        )
    rows = _rows_of(f"three faults at a time for {extent.together_s / 60:.3g} min", outcome)
    samples = outcome.samples
    third = max(1, len(samples) // 3)
    for number, (what, unit, most, scale) in enumerate(
        (("threads", "threads", 0.5, 1.0), ("descriptors", "files", 1.0, 1.0), ("memory", "MB", 10.0, 1e6))
    ):
        values = [used[number] / scale for _, used in samples]
        grown = statistics.median(values[-third:]) - statistics.median(values[:third])
        enough = extent.together_s >= 600
        rows.append(
            {"what": f"the same: growth of {what}, median of the last third of rounds against the first",
             "value": round(grown, 1), "unit": unit, "n": len(samples),
             "target": f"<= {most:g}" if enough else None, "holds": grown <= most if enough else None,
             "spread": [round(min(values), 1), round(max(values), 1)],
             "reason": None if enough else "too short to say"}
        )  # fmt: skip
    return rows


def _rows_of(what: str, outcome: Outcome) -> list[Row]:
    verdict = outcome.verdict
    assert verdict is not None
    times = [seconds for tried in outcome.tried for seconds in tried.back_s]
    rows = account_rows(what, verdict, True, verdict.given)
    rows.append(
        {"what": f"{what}: what was not as it must be", "value": len(outcome.failures), "unit": "", "n": len(times),
         "target": "== 0", "holds": outcome.passed, "reason": "; ".join(outcome.failures[:2]) or None}
    )  # fmt: skip
    if times:
        rows.append(recovery_row(what, times, None))
    return rows


def _delegate(folder: Path) -> tuple[str, Path] | str:
    """The configuration's lines for it and its model, or why there is none."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/agent")]
    try:
        from accelerator import TestDelegate, accelerated_bundle
    except ImportError as error:
        return f"no {error.name}"
    if shutil.which("gcc") is None:
        return "no gcc"
    library = TestDelegate(folder, name="libedgetpu.so.1")
    table = (
        f'[engine]\ndelegate = "{library.library}"\ndeadline_s = 0.5\n'
        f'delegate_options = {{ command = "{library.command}" }}'
    )
    return table, accelerated_bundle(folder)


def _pictures(folder: Path) -> Path:
    import cv2
    import numpy as np

    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for number in range(5):
        cv2.imwrite(str(pictures / f"{number}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    return pictures
