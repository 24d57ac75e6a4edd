"""An agent whose wall clock is set while it runs: what waits is dated right, and nothing else goes by it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from real import DEADLINE_S, Agent, Mosquitto, Subscriber, agent_config, needs_mosquitto, run_cli, wait_for
from set_clock import clock_of_its_own
from test_agent import Supervisor, endless
from test_clock import unix_us
from test_pump_and_door import PLAIN, PUMP

from vedette import clock
from vedette.delivery import Stream
from vedette.demo.broker import LOOPBACK, free_port
from vedette.outbox import Bounds, open_outbox

pytestmark = needs_mosquitto

DAY_S = 86_400.0
NEAR_US = 100_000  # between two looks at two clocks on a busy machine

# Readings by a clock of the sensor's own, which nobody sets
SENSOR = """
import itertools, json, time
for number in itertools.count():
    print(json.dumps({"t": number / 50, "x": 0.0, "y": 9.81, "z": 0.0}), flush=True)
    time.sleep(0.02)
"""


def captured_us(message: Any) -> int:
    """When it was, by this process's clock, which nobody sets."""
    return (time.time_ns() - clock.now_ns()) // 1000 + int(message["mono_us"])


def with_pump(config: Path) -> Path:
    """The configuration, and a sensor in a pipeline of its own."""
    script = config.with_name("sensor.py")
    script.write_text(SENSOR)
    with config.open("a") as file:
        file.write(f'[pipeline.pump]\nmodel = "{PUMP}"\nsource = "exec:{sys.executable} {script}"\n{PLAIN}')
    return config


def test_what_waits_is_dated_by_the_clock_as_it_was_set_since(tmp_path: Path) -> None:
    port = free_port()
    wall = clock_of_its_own(tmp_path, ahead_s=-10 * DAY_S, synced=False)
    with Agent(agent_config(tmp_path, port, endless(tmp_path)), **wall.environment) as agent:
        wait_for("the failure to be told", lambda: "no broker" in agent.text())
        begun = time.monotonic()
        wait_for("some pictures", lambda: time.monotonic() > begun + 1.5)
        set_us = clock.now_ns() // 1000
        wall.set(0.0)
        with Mosquitto(tmp_path, port=port), Subscriber(port) as subscriber:
            later = subscriber.wait("/detections", lambda m: m["clock"] == "stepped")
            subscriber.wait("/status", lambda s: "the clock was set forward by 864000.0 s" in (s["why"] or ""))
            subscriber.wait("/health", lambda health: health["clock"] == "stepped")
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0
            messages = [m.json for m in subscriber.messages("/detections")]
    assert later.json["mono_us"] > set_us
    waited = [m for m in messages if m["mono_us"] < set_us]
    assert len(waited) >= 10
    assert {m["clock"] for m in waited} == {"unsynced"}, "as it was at capture"
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
    assert max(abs(unix_us(m["ts"]) - captured_us(m)) for m in messages) < NEAR_US


@pytest.mark.parametrize("state", ["synced", "unsynced", "stepped"])
def test_the_file_keeps_the_clocks_state(tmp_path: Path, state: clock.ClockState) -> None:
    stream = Stream("door", "detections")
    for number in range(2):
        epoch, outbox = open_outbox(
            tmp_path, [stream], Bounds(10, 100_000, 0.0, "drop_oldest"), durable="always", max_memory_bytes=100_000,
            on_alert=pytest.fail,
        )  # fmt: skip
        if number == 0:
            outbox.append(stream, clock.now_ns(), state, b'{"n":1}')
        else:
            [entry] = outbox.batch(1, 0.0)
            assert (entry.clock, entry.body) == (state, b'{"n":1}')
        outbox.close()
        outbox.end()
        epoch.end(outbox.ledger())


class Jumping:
    """An agent with a camera and a sensor, its broker, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.wall = clock_of_its_own(folder)
        self.broker = Mosquitto(folder)
        self.config = with_pump(agent_config(folder, self.broker.port, endless(folder)))

    def sent_after(self, subscriber: Subscriber, pipeline: str, mono_us: int) -> list[Any]:
        """The messages of a pipeline that were captured later."""
        messages = [m.json for m in subscriber.messages(f"/{pipeline}/detections")]
        return [m for m in messages if m["mono_us"] > mono_us]


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
def test_a_jump_stops_nothing(tmp_path: Path, ahead_s: float) -> None:
    site = Jumping(tmp_path)
    with (
        Supervisor(tmp_path) as supervisor,
        site.broker,
        Subscriber(site.broker.port) as subscriber,
        Agent(site.config, NOTIFY_SOCKET=supervisor.address, WATCHDOG_USEC="6000000", **site.wall.environment) as agent,
    ):
        for pipeline in ("door", "pump"):
            subscriber.wait(f"/{pipeline}/detections", lambda m: m["clock"] == "synced")
        set_us = clock.now_ns() // 1000
        site.wall.set(ahead_s)
        direction = "forward" if ahead_s > 0 else "back"
        subscriber.wait(
            "/status", lambda s: s["state"] == "alert" and f"set {direction} by 7200.0 s" in (s["why"] or "")
        )
        for pipeline in ("door", "pump"):
            wait_for(
                f"a second of {pipeline}", lambda p=pipeline: len(site.sent_after(subscriber, p, set_us + 500_000)) > 4
            )
        for _ in range(2):
            supervisor.wait("WATCHDOG")
        assert len(subscriber.messages("/door/model")) >= 2, "what is retained is there again"
        status = [m.json for m in subscriber.messages("/status")][-1]
        assert abs(unix_us(status["since"]) - time.time() * 1e6 - ahead_s * 1e6) < 60e6

        # the way back to the broker is as long as ever
        subscriber.lose()
        lost_us = clock.now_ns() // 1000
        site.broker.kill()
        wait_for("the loss to be noticed", lambda: "the connection broke" in agent.text())
        site.wall.set(0.0)
        site.broker.start()
        subscriber.wait_subscribed()
        for pipeline in ("door", "pump"):
            wait_for(f"{pipeline} to go on", lambda p=pipeline: site.sent_after(subscriber, p, lost_us))
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
        for pipeline in ("door", "pump"):
            messages = [m.json for m in subscriber.messages(f"/{pipeline}/detections")]
            before = [m for m in messages if m["mono_us"] < lost_us - 500_000]
            assert not any(m["replay"] for m in before if m["mono_us"] > set_us), "none of them waited"
            shift = [round((unix_us(m["ts"]) - captured_us(m)) / 1e6) for m in before]
            assert set(shift) == {0, int(ahead_s)} and shift == sorted(shift, key=abs)
            moments = list(dict.fromkeys(m["mono_us"] for m in messages))
            assert moments == sorted(moments)
            assert len({m["id"] for m in messages}) == len({(m["id"], m["mono_us"]) for m in messages})
            # what a broker that is killed has acknowledged, and not yet handed on, goes with it
            numbers = [m["seq"] for m in before]
            assert numbers == list(range(1, len(numbers) + 1)), "none is missing, and none comes twice"
            after = [m["clock"] for m in before if m["mono_us"] > set_us + 5_000_000]
            assert set(after) <= {"stepped"}, "disciplined, and set within the minute before"
            # what a wall clock would have made of an interval across the jump is two hours, or less than nothing
            for message in subscriber.messages(f"/{pipeline}/stats"):
                for stage, latency in message.json["latency_ms"].items():
                    assert 0 <= latency["max"] < 1000 * DEADLINE_S, (stage, latency)
                assert 0 < message.json["interval_s"] < DEADLINE_S
        sensor = [m.json["sensor"] for m in subscriber.messages("/pump/stats")][-1]
        assert (sensor["gaps"], sensor["late"], sensor["clock_back"]) == (0, 0, 0), "its windows go by its own clock"


def test_commands_expire_by_the_clock_as_it_is_set(tmp_path: Path) -> None:
    site = Jumping(tmp_path)
    options = ("--broker", f"{LOOPBACK}:{site.broker.port}", "--json")
    with site.broker, Subscriber(site.broker.port) as subscriber, Agent(site.config, **site.wall.environment) as agent:
        subscriber.wait("/status", lambda status: status["state"] == "ready")
        site.wall.set(DAY_S / 2)
        subscriber.wait("/status", lambda s: "set forward" in (s["why"] or ""))
        refused = run_cli("command", "dev-1", "ping", *options)
        assert refused.returncode == 2 and '"expired"' in refused.stdout, refused
        site.wall.set(-DAY_S / 2)
        subscriber.wait("/status", lambda s: "set back" in (s["why"] or ""))
        done = run_cli("command", "dev-1", "ping", *options)
        assert done.returncode == 0 and '"stepped"' in done.stdout, done
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
