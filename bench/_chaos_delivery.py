"""Parts of ``bench/chaos.py`` in which a process appends and a broker or a network fails; each gives rows."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _chaos_stage import (
    DAY,
    HERE,
    WAIT_S,
    Appender,
    Extent,
    Listener,
    Row,
    account_rows,
    back_s,
    flow,
    recovery_row,
    running_broker,
    until,
)

from vedette import clock
from vedette.chaos.proxy import Conditions, Proxy
from vedette.demo.broker import LOOPBACK


def kills(durable: str, extent: Extent, luck: random.Random) -> list[Row]:
    """SIGKILL at random moments under load; the broker is away in a third of the lives, so that there is a backlog."""
    accepted: dict[str, tuple[str, int, int]] = {}  # nonce, when, and when its appender was killed
    with tempfile.TemporaryDirectory() as name, running_broker(Path(name)) as broker:
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
            until("the last message", lambda: (clock.now_ns() - listener.last_ns) / 1e9 > 1.0)
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
    code = f"import sys, json; sys.path.insert(0, {str(HERE)!r}); from _chaos_delivery import lossy; "
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
