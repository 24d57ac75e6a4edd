"""Runs inside a guest of qemu: an agent while the kernel's own clock is set. ``test_clock_set_for_real.py`` starts it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

HOUR_S: Final = 3600.0
NEAR_S: Final = 0.5
DEADLINE_S: Final = 180.0  # emulated in software, on a machine that does other things
BUSYBOX: Final = "/bin/busybox"
CLOCK_BOOTTIME: Final = time.CLOCK_BOOTTIME

# of struct timex (adjtimex(2)): modes, offset, freq, maxerror, esterror, status
_ADJ_MAXERROR: Final = 0x0004
_ADJ_STATUS: Final = 0x0010
_STA_PLL: Final = 0x0001


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_char * 300),
    )  # fmt: skip


def set_clock(ahead_s: float) -> None:
    """As an NTP client does: steps the kernel's clock, and says that it is disciplined (a step takes that back)."""
    time.clock_settime(time.CLOCK_REALTIME, _TRUE_S + time.clock_gettime(CLOCK_BOOTTIME) + ahead_s)
    timex = _Timex(modes=_ADJ_STATUS | _ADJ_MAXERROR, status=_STA_PLL, maxerror=0)
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")


_TRUE_S: Final = time.time() - time.clock_gettime(CLOCK_BOOTTIME)


class Heard:
    """All that the agent says, with the guest's CLOCK_BOOTTIME."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = self._on_message
        wait("a broker", lambda: self._connected(port))
        self.client.loop_start()

    def _connected(self, port: int) -> bool:
        try:
            self.client.connect("127.0.0.1", port)
        except OSError:
            return False
        return True

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self.messages.append((message.topic.rpartition("/")[2], json.loads(message.payload)))

    def of(self, topic: str) -> list[Any]:
        return [said for name, said in list(self.messages) if name == topic]


def wait(what: str, condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {DEADLINE_S:g} s in vain for {what}")
        time.sleep(0.05)


def ahead_s(message: Any) -> float:
    """The clock that it is dated by, less the true one."""
    return datetime.fromisoformat(message["ts"]).timestamp() - message["mono_us"] / 1e6 - _TRUE_S


def check(heard: Heard, agent: subprocess.Popen[bytes]) -> None:
    """Forward, back beyond the beginning, and right again."""
    wait("messages", lambda: len(heard.of("detections")) >= 5)
    assert {message["clock"] for message in heard.of("detections")} == {"synced"}
    # of a second one in the same direction within a minute, status says nothing
    for step_s, direction in (
        (5 * HOUR_S, "forward by 18000."),
        (-7 * HOUR_S, "back by 43200."),
        (0.0, ""),
    ):
        set_us = time.clock_gettime_ns(CLOCK_BOOTTIME) // 1000
        set_clock(step_s)
        wait(
            "a message of the new time",
            lambda step_s=step_s: abs(ahead_s(heard.of("detections")[-1]) - step_s) < NEAR_S,
        )
        wait(
            "stepped",
            lambda at=set_us: any(m["clock"] == "stepped" and m["mono_us"] > at for m in heard.of("detections")),
        )
        if direction:
            wait(direction, lambda words=direction: any(words in (s["why"] or "") for s in heard.of("status")))
    seen = len(heard.of("stats"))
    wait("two more intervals", lambda: len(heard.of("stats")) >= seen + 2)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(DEADLINE_S) == 0
    wait("goodbye", lambda: heard.of("status")[-1]["state"] == "stopped")
    messages = heard.of("detections")
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1)), "none missing, none twice"
    assert len({message["id"] for message in messages}) == len(messages)
    moments = [message["mono_us"] for message in messages]
    assert moments == sorted(moments)
    latest = heard.of("ledger")[-1]["streams"]
    assert all(row["dropped"] == row["rejected"] == 0 for row in latest), latest
    for stats in heard.of("stats"):
        for stage, latency in stats["latency_ms"].items():
            assert 0 <= latency["max"] < 1000 * DEADLINE_S, (stage, latency)
        assert 0 < stats["interval_s"] < DEADLINE_S
        assert not stats["source"]["outcome"], stats["source"]
    print(f"CLOCK {len(messages)} messages, {len(heard.of('stats'))} intervals", flush=True)


def main() -> int:
    model, labels, pictures, mosquitto = sys.argv[1:]
    folder = Path(tempfile.mkdtemp())
    subprocess.run([BUSYBOX, "ip", "link", "set", "lo", "up"], check=True)
    (folder / "broker.conf").write_text("listener 1883 127.0.0.1\nallow_anonymous true\nuser root\npersistence false\n")
    config = folder / "agent.toml"
    config.write_text(
        f'device = "eye"\nstate_dir = "{folder / "state"}"\n[intervals]\nstats_s = 1.0\nledger_s = 1.0\n'
        f'[pipeline.door]\nmodel = "{model}"\n[pipeline.door.source]\nurl = "{pictures}"\nfps = 5.0\nloop = true\n'
        f'[pipeline.door.plain]\nlabels_file = "{labels}"\noutput = {{ decoder = "classify" }}\n'
    )
    set_clock(0.0)
    log = folder / "agent.log"
    with log.open("wb") as out:
        broker = subprocess.Popen([mosquitto, "-c", str(folder / "broker.conf")], stdout=out, stderr=out)
        agent = subprocess.Popen(
            [sys.executable, "-B", "-m", "vedette", "run", "-c", str(config)], stdout=out, stderr=out
        )
    try:
        check(Heard(1883), agent)
    except (AssertionError, OSError, subprocess.SubprocessError, LookupError):
        traceback.print_exc()
        print(log.read_text()[-4000:], flush=True)
        return 1
    finally:
        for process in (agent, broker):
            process.kill()
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HOME", "/dev/shm")
    sys.exit(main())
