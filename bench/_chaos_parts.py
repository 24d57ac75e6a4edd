"""The parts of ``bench/chaos.py``: each is one kind of fault, and gives rows."""

from __future__ import annotations

import json
import os
import random
import shutil
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
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from _appender import STREAMS, TOPICS
from paho.mqtt.enums import CallbackAPIVersion

from vedette import clock
from vedette.chaos.account import Account, Verdict
from vedette.chaos.clock import set_clock
from vedette.chaos.proxy import Conditions, Proxy
from vedette.chaos.run import Outcome, perform
from vedette.contract.errors import FaultError
from vedette.demo.agent import AgentProcess
from vedette.demo.broker import LOOPBACK, free_port, mosquitto_path
from vedette.mqtt import Topics

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


# what the parts are made of


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
        _until("a broker that listens", lambda: _connected(client, self._port))
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


def _connected(client: paho.Client, port: int) -> bool:
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
    with tempfile.TemporaryDirectory() as name, _broker(Path(name)) as broker:
        listener = Listener(broker.clean_port)
        with Proxy(LOOPBACK, broker.port, seed=seed) as proxy:
            listener.connect()
            appender = Appender(Path(name) / "state", proxy.port, durable, rate, listener.account)
            try:
                _until("the first message", lambda: listener.account.received)
                yield broker, proxy, listener, appender
            finally:
                appender.kill()
                listener.close()


@contextmanager
def _broker(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def _until(what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise FaultError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.005)


def back_s(listener: Listener, since_ns: int) -> float:
    """From that moment until each stream was heard of with something newer. CLOCK_BOOTTIME."""
    _until("messages to come again", lambda: listener.account.fresh_since(since_ns) >= PIPELINES)
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


# the parts


def kills(durable: str, extent: Extent, luck: random.Random) -> list[Row]:
    """SIGKILL at random moments under load; the broker is away in a third of the lives, so that there is a backlog."""
    accepted: dict[str, tuple[str, int, int]] = {}  # nonce, when, and when its appender was killed
    with tempfile.TemporaryDirectory() as name, _broker(Path(name)) as broker:
        listener = Listener(broker.clean_port)
        with Proxy(LOOPBACK, broker.port) as proxy:
            listener.connect()
            state = Path(name) / "state"
            for _ in range(extent.kills):
                proxy.become(Conditions(refused=luck.random() < 1 / 3))
                rate = luck.choice((20.0, 200.0, 0.0))
                appender = Appender(state, proxy.port, durable, rate, listener.account)
                if luck.random() < 0.9:
                    appender.opened.wait(WAIT_S)
                    time.sleep(luck.uniform(0.0, 1.5))
                else:  # while it starts
                    time.sleep(luck.uniform(0.0, 0.5))
                at = appender.kill()
                accepted.update({i: (nonce, when, at) for i, (nonce, when) in appender.accepted.items()})
            proxy.heal()
            appender = Appender(state, proxy.port, durable, 10.0, listener.account)
            appender.opened.wait(WAIT_S)
            drained = appender.finish()
            _until("the last message", lambda: (clock.now_ns() - listener.last_ns) / 1e9 > 1.0)
            listener.close()
    verdict = listener.account.verdict()
    missing = {i: (at - when) / 1e9 for i, (_, when, at) in accepted.items() if i not in listener.nonces}
    others = sum(i in listener.nonces and listener.nonces[i] != nonce for i, (nonce, _, _) in accepted.items())
    lost = verdict.accounted.get("lost with a crash", 0)
    what = f'"{durable}", {extent.kills} times SIGKILL'
    rows: list[Row] = []
    if durable == "always":
        rows.append(
            {"what": f"{what}: accepted messages missing at the subscriber", "value": len(missing), "unit": "messages",
             "n": len(accepted), "target": "== 0", "holds": not missing and drained}
        )  # fmt: skip
    else:
        oldest = max(missing.values(), default=0.0)
        rows += [
            {"what": f"{what}: accepted messages missing at the subscriber", "value": len(missing), "unit": "messages",
             "n": len(accepted)},
            {"what": f"{what}: age of the oldest of them at its kill", "value": round(oldest, 3), "unit": "s",
             "n": len(missing), "target": "<= 1", "holds": oldest <= 1.0 and drained},
            {"what": f"{what}: lost by the ledger", "value": lost, "unit": "messages", "n": extent.kills,
             "target": f">= {len(missing)}", "holds": lost >= len(missing)},
        ]  # fmt: skip
    rows += account_rows(what, verdict, drained, verdict.given)
    rows.append(
        {"what": f"{what}: ids of which the subscriber has another message than was accepted", "value": others,
         "unit": "ids",
         "n": len(accepted), "target": "== 0", "holds": others == 0}
    )  # fmt: skip
    return rows


def away(extent: Extent, luck: random.Random) -> list[Row]:
    """A broker away for a day at ten messages a second, appended without waiting for that day to pass."""
    rows: list[Row] = []
    full = extent.day == DAY
    small = 50_000_000 if full else extent.day * 660 // 13
    for limit in (1_000_000_000, small):
        done = subprocess.run(
            [sys.executable, str(HERE / "_away.py"), "--messages", str(extent.day), "--max-bytes", str(limit),
             "--rate", "20000"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said = json.loads(done.stdout)
        what = f"{extent.day:,} messages while no broker is there, {limit / 1e6:g} MB"
        kept = limit == 1_000_000_000
        first = 1 if kept else said["ranges"][-1][1] + 1 if said["ranges"] else 0
        whole = said["got"] == extent.day - first + 1 and (said["first"], said["last"]) == (first, extent.day)
        named = not kept and said["ranges"] == [[1, first - 1, "outbox_full"]] and said["dropped"] == first - 1
        rows.append(
            {"what": f"{what}: delivered afterwards, in order", "value": said["got"], "unit": "messages", "n": extent.day,
             "target": f"== {extent.day - first + 1}",
             "holds": whole and not said["out_of_order"] and said["balances"] and not said["alerts"]}
        )  # fmt: skip
        if not kept:
            rows.append(
                {"what": f"{what}: oldest messages given up, which the ledger names", "value": said["dropped"],
                 "unit": "messages", "n": extent.day, "target": "one range from 1", "holds": named}
            )  # fmt: skip
        rows.append(
            {"what": f"{what}: growth of memory after the first tenth", "value": round(said["growth_bytes"] / 1e6, 1),
             "unit": "MB", "n": extent.day, "target": "<= 10", "holds": said["growth_bytes"] <= 10_000_000,
             "reason": None if full else "a short run; memory is still filling up to its bound"}
        )  # fmt: skip
        if not full:
            rows[-1] |= {"target": None, "holds": None}
        rows.append(
            {"what": f"{what}: appended a second", "value": round(extent.day / said["appended_s"]), "unit": "1/s",
             "n": extent.day, "reason": "held at 20,000"}
        )  # fmt: skip
    return rows


def restarts(extent: Extent, luck: random.Random) -> list[Row]:
    """The broker is killed and started again; the link may only come back once the subscriber has."""
    times: list[float] = []
    with flow() as (broker, proxy, listener, appender):
        for _ in range(extent.restarts):
            time.sleep(luck.uniform(0.2, 1.0))
            proxy.become(Conditions(silent=True))  # or what the broker acknowledges while it dies is nobody's
            broker.kill()
            proxy.become(Conditions(refused=True))
            time.sleep(luck.uniform(0.2, 2.0))
            broker.start()
            listener.connect()
            healed = clock.now_ns()
            proxy.heal()
            times.append(back_s(listener, healed))
        drained = appender.finish()
        time.sleep(1.0)
        verdict = listener.account.verdict()
    what = f"broker killed {extent.restarts} times, away up to 2 s"
    return [*account_rows(what, verdict, drained, extent.restarts), recovery_row(what, times)]


def resets(extent: Extent, luck: random.Random) -> list[Row]:
    """RST in the middle of everything."""
    times: list[float] = []
    with flow(rate=200.0) as (_, proxy, listener, appender):
        for _ in range(extent.resets):
            time.sleep(luck.uniform(0.1, 1.5))
            proxy.become(Conditions(delay_s=0.1))  # so that something is on its way, or waits for its acknowledgement
            time.sleep(luck.uniform(0.1, 0.3))
            at = clock.now_ns()
            proxy.reset()
            proxy.heal()
            times.append(back_s(listener, at))
        drained = appender.finish()
        time.sleep(1.0)
        verdict = listener.account.verdict()
    what = f"{extent.resets} TCP resets"
    return [*account_rows(what, verdict, drained, extent.resets), recovery_row(what, times)]


def silences(extent: Extent, luck: random.Random) -> list[Row]:
    """Nothing goes through, and nothing is closed; once for so long that the link gives up."""
    times: list[float] = []
    longest: list[float] = []
    with flow(rate=100.0) as (_, proxy, listener, appender):
        for number in range(extent.silences + bool(extent.long_silence_s)):
            time.sleep(luck.uniform(0.2, 1.0))
            long = number == extent.silences
            proxy.become(Conditions(silent=True))
            time.sleep(extent.long_silence_s if long else luck.uniform(0.5, 8.0))
            healed = clock.now_ns()
            proxy.heal()
            (longest if long else times).append(back_s(listener, healed))
        drained = appender.finish()
        time.sleep(1.0)
        verdict = listener.account.verdict()
    what = "a link that goes silent, up to 8 s"
    rows = [*account_rows(what, verdict, drained, extent.silences), recovery_row(what, times)]
    if longest:
        why = "given up after 30 s without an acknowledgement; then a connection is tried for 10 s at a time"
        rows.append(recovery_row(f"a link silent for {extent.long_silence_s:g} s", longest, reason=why))
    return rows


def loss(extent: Extent, luck: random.Random) -> list[Row]:
    """30 % of the packets lost in each direction: by the kernel where it lets us, else as a proxy makes of it."""
    iptables = shutil.which("iptables", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    ip = shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if os.geteuid() == 0 and iptables and ip:
        space = f"vedette-chaos-{os.getpid()}"
        if subprocess.run([ip, "netns", "add", space], check=False, capture_output=True).returncode == 0:
            try:
                return _loss_in_namespace(ip, iptables, space, extent)
            finally:
                subprocess.run([ip, "netns", "del", space], check=False, capture_output=True)
    return lossy(extent.loss_s, None)


def _loss_in_namespace(ip: str, iptables: str, space: str, extent: Extent) -> list[Row]:
    inside = [ip, "netns", "exec", space]
    subprocess.run([*inside, ip, "link", "set", "lo", "up"], check=True)
    code = f"import sys, json; sys.path.insert(0, {str(HERE)!r}); from _chaos_parts import lossy; "
    code += f"print(json.dumps(lossy({extent.loss_s}, {iptables!r})))"
    done = subprocess.run([*inside, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    rows: list[Row] = json.loads(done.stdout)
    return rows


def lossy(seconds: float, iptables: str | None) -> list[Row]:
    """On the agent's own connection. ``iptables``: the program, where this process has a network of its own."""
    with flow(rate=10.0) as (_, proxy, listener, appender):
        rules = [
            ["INPUT", "-p", "tcp", way, str(proxy.port), "-m", "statistic", "--mode", "random", "--probability", "0.3",
             "-j", "DROP"]
            for way in ("--dport", "--sport")
        ]  # fmt: skip
        for rule in rules if iptables else []:
            subprocess.run([str(iptables), "-A", *rule], check=True)
        if not iptables:
            proxy.become(Conditions(loss=0.3))
        before = listener.account.received
        time.sleep(seconds)
        during = listener.account.received - before
        dropped = _dropped(iptables) if iptables else 0
        healed = clock.now_ns()
        for rule in rules if iptables else []:
            subprocess.run([str(iptables), "-D", *rule], check=True)
        proxy.heal()
        recovered = back_s(listener, healed)
        drained = appender.finish()
        time.sleep(1.0)
        verdict = listener.account.verdict()
    how = (
        f"{dropped:,} packets dropped by the kernel, in both directions"
        if iptables
        else "as retransmissions, by a proxy: no iptables, or no root"
    )
    what = f"30 % of the packets lost for {seconds:g} s"
    return [
        *account_rows(what, verdict, drained, verdict.given),
        {"what": f"{what}: delivered meanwhile", "value": round(during / seconds, 1), "unit": "1/s", "n": during,
         "reason": f"of 20 a second; {how}"},
        recovery_row(what, [recovered], reason="TCP's own back-off has to run out first"),
    ]  # fmt: skip


def _dropped(iptables: str) -> int:
    """Packets that the rules have dropped so far."""
    done = subprocess.run([iptables, "-L", "INPUT", "-v", "-x", "-n"], capture_output=True, text=True, check=True)
    return sum(int(line.split()[0]) for line in done.stdout.splitlines() if "DROP" in line and "statistic" in line)


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
    with tempfile.TemporaryDirectory() as name, _broker(Path(name)) as broker:
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
            _until("messages", lambda: heard.account.received > 20)
            times: list[float] = []
            for _ in range(extent.jumps):
                ahead_s = luck.choice((-1, 1)) * 10 ** luck.uniform(1.0, 5.2)
                at = clock.now_ns()
                wall.set(ahead_s)
                _until("a message dated by it", lambda ahead_s=ahead_s: abs(heard.ahead_s - ahead_s) < 0.5)  # type: ignore[misc]
                times.append((clock.now_ns() - at) / 1e9)
                _until("more", lambda at=at: heard.account.fresh_since(at + 10**9))  # type: ignore[misc]
            ended = agent.stop() == 0
            _until("its goodbye", heard.account.stopped.is_set)
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
        _until("a broker that listens", lambda: _connected(self._client, port))

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
