"""How many messages a second go through the outbox and a broker, on disk or not; what that writes, and what a kill takes.

Rates are medians over rounds in which all kinds of outbox take turns, and their spread is the least and the most of them;
what is missing is the sum of all rounds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from vedette import clock
from vedette.delivery import Durable, LedgerRow, Outbox, Stream
from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.mqtt import Link, LinkOptions, Topics
from vedette.outbox import Bounds, open_outbox

sys.path.insert(0, str(Path(__file__).parent))
from _results import ROOT, Results

BODY = (
    b'{"objects":['
    + b",".join([b'{"label":"person","class_id":0,"score":0.91,"box":[0.12,0.3,0.21,0.66]}'] * 6)
    + b"]}"
)
BOUNDS = Bounds(10_000_000, 1 << 32)
TARGETS: dict[Durable, int] = {"memory": 5000, "spill": 5000, "always": 500}
MODES: tuple[Durable, ...] = ("memory", "spill", "always")


class Figures:
    """What came of the rounds of one kind of outbox, in the order in which it was first seen."""

    def __init__(self) -> None:
        self._rates: dict[str, tuple[str, int | None, list[float]]] = {}
        self._counts: dict[str, list[tuple[int, int, bool]]] = {}
        self._units: dict[str, tuple[str, str]] = {}
        self._order: list[str] = []

    def rate(self, what: str, value: float, unit: str = "1/s", *, at_least: int | None = None) -> None:
        """Of one round; the median counts."""
        if what not in self._rates:
            self._rates[what] = unit, at_least, []
            self._order.append(what)
        self._rates[what][2].append(value)

    def count(self, what: str, value: int, unit: str, target: str, n: int, *, holds: bool) -> None:
        """Of one round; the sum counts, and it holds where every round does. ``n``: messages."""
        if what not in self._counts:
            self._counts[what] = []
            self._units[what] = unit, target
            self._order.append(what)
        self._counts[what].append((value, n, holds))

    def rows(self, results: Results) -> None:
        """All of them."""
        for what in self._order:
            if what in self._rates:
                unit, at_least, values = self._rates[what]
                median = statistics.median(values)
                holds = None if at_least is None else median >= at_least
                digits = 0 if median >= 10 else 3
                results.row(
                    what=what, value=round(median, digits or None), unit=unit, n=len(values),
                    target=None if at_least is None else f">= {at_least}", holds=holds,
                    spread=[round(min(values), digits or None), round(max(values), digits or None)],
                    reason=f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if holds is False else None,
                )  # fmt: skip
                continue
            (unit, target), counts = self._units[what], self._counts[what]
            results.row(
                what=what, value=sum(value for value, _, _ in counts), unit=unit, n=sum(n for _, n, _ in counts),
                target=target, holds=all(holds for _, _, holds in counts),
            )  # fmt: skip


def written_bytes() -> int:
    """What this process has sent towards the disk, by the kernel's account (proc_pid_io(5))."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


def opened(folder: Path, durable: Durable) -> Outbox:
    """The outbox of one run."""
    return open_outbox(folder, [], BOUNDS, durable=durable, max_memory_bytes=1 << 30, on_alert=print)[1]


def append(outbox: Outbox, streams: list[Stream], count: int, rate: float = 0.0) -> None:
    """From one thread a stream, as pipelines do. ``rate``: messages a second in all; 0: as fast as it goes."""

    def work(stream: Stream, share: int) -> None:
        begun = time.perf_counter()
        for number in range(share):
            outbox.append(stream, clock.now_ns(), "synced", BODY)
            if rate:
                wait_s = begun + number * len(streams) / rate - time.perf_counter()
                if wait_s > 0:
                    time.sleep(wait_s)

    threads = [threading.Thread(target=work, args=(stream, count // len(streams))) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Witness:
    """A subscriber in a process of its own that counts ids."""

    def __init__(self, port: int, count: int) -> None:
        command = [sys.executable, __file__, "--witness", str(port), "--messages", str(count)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._line()  # it has subscribed

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def different(self) -> int:
        """How many different messages came; waits until it is all of them, or until nothing has come for ten seconds."""
        count = int(self._line())
        self._process.wait()
        return count


def witness(port: int, count: int) -> None:
    """What `Witness` runs."""
    seen: set[tuple[str, int]] = set()
    news = threading.Event()
    done = threading.Event()

    def on_message(client: Any, userdata: Any, message: Any) -> None:
        head = message.payload[:200]
        at = head.index(b'"seq":') + 6
        seen.add((message.topic, int(head[at : head.index(b",", at)])))
        news.set()
        if len(seen) >= count:
            done.set()

    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *_: print("subscribed", flush=True)
    client.on_message = on_message
    client.connect(LOOPBACK, port)
    client.loop_start()
    while not done.wait(10) and (news.is_set() or not seen):
        news.clear()
    client.disconnect()
    client.loop_stop()
    print(len(seen), flush=True)


def link(outbox: Outbox, port: int) -> Link:
    """Started."""
    made = Link(
        LinkOptions(LOOPBACK, port, "bench-link"), Topics("vedette", "bench"), outbox, will=lambda: b"{}",
        on_connected=lambda: None, on_acknowledged=lambda key, captured: None, on_alert=print,
    )  # fmt: skip
    made.start()
    return made


def alone(figures: Figures, durable: Durable, count: int, threads: int, folder: Path) -> None:
    """With somebody who acknowledges everything at once: what the outbox itself costs."""
    outbox = opened(folder, durable)
    appended = threading.Event()

    def deliver() -> None:
        while not (appended.is_set() and outbox.depth().messages == 0):
            outbox.accept([entry.key for entry in outbox.batch(64, 0.01)])

    reader = threading.Thread(target=deliver)
    reader.start()
    begun = time.perf_counter()
    append(outbox, [Stream(f"p{number}", "detections") for number in range(threads)], count)
    appended.set()
    reader.join()
    rate = count / (time.perf_counter() - begun)
    outbox.end()
    what = f"{durable}, {threads} thread{'s' * (threads > 1)}"
    figures.rate(f"{what}: through the outbox alone a second", rate, at_least=TARGETS[durable])


def flow(figures: Figures, durable: Durable, count: int, threads: int, folder: Path) -> None:
    """As fast as it goes, with a broker that answers."""
    streams = [Stream(f"p{number}", "detections") for number in range(threads)]
    with loopback_broker("auto") as (broker, port):
        heard = Witness(port, count)
        outbox = opened(folder, durable)
        sender = link(outbox, port)
        while not sender.status().connected:
            time.sleep(0.01)
        before, begun = written_bytes(), time.perf_counter()
        append(outbox, streams, count)
        appended_s = time.perf_counter() - begun
        outbox.wait_empty(300)
        seconds = time.perf_counter() - begun
        came = heard.different()
        outbox.close()
        written = written_bytes() - before
        sender.stop()
        outbox.end()
    what = f"{durable}, {threads} thread{'s' * (threads > 1)}"
    figures.rate(f"{what}: acknowledged by {broker} a second", count / seconds, at_least=TARGETS[durable])
    figures.rate(f"{what}: accepted a second", count / appended_s)
    figures.count(f"{what}: missing at a subscriber", count - came, "messages", "== 0", count, holds=came == count)
    rows = outbox.ledger()
    balances = all(row.balances and row.acknowledged == row.last for row in rows)
    figures.count(
        f"{what}: streams whose ledger row balances", len(rows), "", "all", count, holds=balances
    )  # fmt: skip
    figures.rate(f"{what}: written to disk a message", written / count, "bytes")


def steady(results: Results, durable: Durable, seconds: float, rate: float, folder: Path) -> None:
    """At a camera's rate, with a broker that answers: what a day of it writes."""
    with loopback_broker("auto") as (_, port):
        outbox = opened(folder, durable)
        sender = link(outbox, port)
        while not sender.status().connected:
            time.sleep(0.01)
        append(outbox, [Stream("p0", "detections")], int(rate * 5), rate)  # leases find their length
        before = written_bytes()
        append(outbox, [Stream("p0", "detections")], int(rate * seconds), rate)
        written = written_bytes() - before
        outbox.close()
        sender.stop()
        outbox.end()
    results.row(
        what=f"{durable}, {rate:g} messages a second: written to disk a day", value=round(written / seconds * 86400 / 1e6),
        unit="MB", n=int(rate * seconds),
    )  # fmt: skip


def away(figures: Figures, durable: Durable, count: int, threads: int, folder: Path) -> None:
    """The broker comes after all messages have been appended, and the agent has been started again."""
    outbox = opened(folder, durable)
    begun = time.perf_counter()
    append(outbox, [Stream(f"p{number}", "detections") for number in range(threads)], count)
    outbox.close()
    stored_s = time.perf_counter() - begun
    outbox.end()
    size = (folder / "outbox.sqlite").stat().st_size
    with loopback_broker("auto") as (broker, port):
        heard = Witness(port, count)
        begun = time.perf_counter()
        outbox = opened(folder, durable)
        open_s = time.perf_counter() - begun
        sender = link(outbox, port)
        begun = time.perf_counter()
        outbox.wait_empty(300)
        sent_s = time.perf_counter() - begun
        came = heard.different()
        sender.stop()
        outbox.end()
    what = f"{durable}, broker away"
    figures.rate(f"{what}: stored a second", count / stored_s)
    figures.rate(f"{what}: file a message", size / count, "bytes")
    figures.rate(f"{what}: opening the file again", open_s, "s")
    figures.rate(f"{what}: acknowledged by {broker} a second afterwards", count / sent_s)
    figures.count(f"{what}: missing at a subscriber", count - came, "messages", "== 0", count, holds=came == count)


def child(folder: Path, durable: Durable) -> None:
    """Appends 500 messages a second for ever, if the disk goes along, and says so."""
    outbox = opened(folder, durable)
    stream = Stream("p0", "detections")
    begun = time.perf_counter()
    for number in itertools.count():
        time.sleep(max(0.0, begun + number / 500 - time.perf_counter()))
        key = outbox.append(stream, clock.now_ns(), "synced", BODY)
        assert key is not None
        sys.stdout.write(f"{key.seq}\n")
        sys.stdout.flush()


def kills(results: Results, durable: Durable, turns: int, folder: Path) -> None:
    """A process is killed in the midst of it, again and again."""
    lost = wrong = witnessed = 0
    for turn in range(turns):
        state = folder / str(turn)
        command = [sys.executable, __file__, "--child", str(state), "--only", durable]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            begun, lines = time.monotonic(), []
            while not lines or time.monotonic() - begun < 2.0 + 0.1 * turn:
                lines.append(process.stdout.readline())
                begun = begun if len(lines) > 1 else time.monotonic()
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines(keepends=True)
        last = max(int(line) for line in lines if line.endswith(b"\n"))
        outbox = opened(state, durable)
        there = set()
        while entries := outbox.batch(1000, 0):
            there |= {entry.key.seq for entry in entries}
        missing = last - len(there & set(range(1, last + 1)))
        rows: list[LedgerRow] = [row for row in outbox.ledger() if row.last]
        told = sum(row.lost_at_crash or 0 for row in rows)
        # a message may have been taken of which nobody got to hear
        wrong += not (missing <= told <= missing + 1)
        lost += missing
        witnessed += last
        outbox.end()
    bound = {"always": 0}.get(durable, 500 * turns)  # a second of them
    results.row(
        what=f"{durable}, SIGKILL, nobody acknowledges: lost of those that append had returned", value=lost,
        unit="messages", n=witnessed, target=f"<= {bound}", holds=lost <= bound,
    )  # fmt: skip
    results.row(
        what=f"{durable}, SIGKILL: ledgers that tell another number", value=wrong, unit="of kills", n=turns, target="== 0",
        holds=wrong == 0,
    )  # fmt: skip


def in_turn(figures: Figures, durable: Durable, arguments: argparse.Namespace, base: Path) -> None:
    """One round of one kind: alone, with a broker that answers, and with one that is away at first."""
    threads = arguments.threads if durable == "always" else 1
    count = (arguments.messages if durable != "always" else arguments.messages // 10) // threads * threads
    alone(figures, durable, count, threads, base / "alone")
    flow(figures, durable, count, threads, base / "flow")
    if threads > 1:
        flow(figures, durable, count // 4, 1, base / "one")
    if durable != "memory":
        away(figures, durable, count, threads, base / "away")


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=30_000, help="of a run; a tenth of them with always")
    parser.add_argument("--rounds", type=int, default=3, help="of all but the kills and the camera's rate")
    parser.add_argument("--no-keep", action="store_true", help="print alone")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the run at a camera's rate")
    parser.add_argument("--threads", type=int, default=8, help="that append at the same time with always")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="on the disk that is to be measured")
    parser.add_argument("--only", choices=MODES)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--witness", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.witness:
        witness(arguments.witness, arguments.messages)
        return 0
    if arguments.child:
        child(arguments.child, arguments.only)
    arguments.folder.mkdir(exist_ok=True)
    results = Results("outbox")
    modes = MODES if arguments.only is None else (arguments.only,)
    figures = {durable: Figures() for durable in modes}
    with TemporaryDirectory(dir=arguments.folder) as temporary:
        base = Path(temporary)
        for number in range(arguments.rounds):
            for durable in (*modes[number % len(modes) :], *modes[: number % len(modes)]):
                print(f"round {number + 1}: {durable}", file=sys.stderr)
                in_turn(figures[durable], durable, arguments, base / f"{durable}-{number}")
        for durable in modes:
            figures[durable].rows(results)
            if durable != "memory":
                steady(results, durable, arguments.seconds, 10.0, base / f"steady-{durable}")
                kills(results, durable, arguments.kills, base / f"kills-{durable}")
    return 0 if results.write(keep=arguments.only is None and not arguments.no_keep) else 1


if __name__ == "__main__":
    sys.exit(main())
