"""Readings of six channels, from a process of their own through a sensor's source and the window builder.

The sender paces itself and numbers its readings; here, each number is looked for. The share of a core is this process's
own (user and system), from the first reading to the last: listening, parsing and cutting windows, without inference.
"""

from __future__ import annotations

import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from _results import Results

from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.types import Readings
from vedette.contract.window import WindowBuilder
from vedette.demo.broker import LOOPBACK, free_port
from vedette.sources import Listener, ListenerStatus, SensorOptions, make_sensor_source

CHANNELS = ("n", "ay", "az", "gx", "gy", "gz")
RATE_HZ = 10_000
SECONDS = 10
ROUNDS = 3
LENGTH, STRIDE = 256, 64
MAX_SHARE = 0.25
GIVE_UP_S = 3.0  # without another reading
WARM_UP = {"csv": b"t,n,ay,az,gx,gy,gz\n0,-1,0,0,0,0,0\n", "untimed": b"\n-1,0,0,0,0,0\n"}
TIMED_WARM_UP = b'{"t":0,"n":-1,"ay":0,"az":0,"gx":0,"gy":0,"gz":0}'

# how: "stdout", "udp:PORT" or "fd:NUMBER"; each turn sends what is due since the last one
SENDER = r"""
import os, socket, sys, time
how, rate, count, each, form = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
kind, _, number = how.partition(":")
if kind == "udp":
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", int(number)))
def write(data):
    fd = int(number or 1)
    while data:
        data = data[os.write(fd, data):]
def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)
def line(n):
    t = begun + n / rate  # when the sensor would have measured it
    if form == "csv":
        return b"%.5f,%d,-0.1234,9.812,0.0123,-0.5432,1.234\n" % (t, n)
    if form == "untimed":
        return b"%d,-0.1234,9.812,0.0123,-0.5432,1.234\n" % n
    return b'{"t":%.6f,"n":%d,"ay":-0.123456,"az":9.812345,"gx":0.012345,"gy":-0.543210,"gz":1.234567}\n' % (t, n)
begun = now()
n = 0
while n < count:
    due = min(count, int((now() - begun) * rate))
    due -= due % each if due < count else 0
    if kind == "udp":
        while n < due:
            last = min(due, n + each)
            sock.send(b"".join(map(line, range(n, last))))
            n = last
    elif n < due:
        write(b"".join(map(line, range(n, due))))
        n = due
    time.sleep(max(0.0, begun + (n + each) / rate - now()))
time.sleep(60 if kind == "stdout" else 0)  # its end is not what is measured
"""


@dataclass
class Taker:
    """Takes readings as the agent does, and looks for each number."""

    rate_hz: float
    count: int = 0
    out_of_order: int = 0
    windows: int = 0
    first: tuple[float, float] = (0.0, 0.0)
    last: tuple[float, float] = (0.0, 0.0)
    late_ms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        channels = tuple(Channel(name=name) for name in CHANNELS)
        spec = SeriesInput(channels=channels, length=LENGTH, stride=STRIDE, rate_hz=self.rate_hz)
        self._builder = WindowBuilder(spec)

    def __call__(self, readings: Readings) -> None:
        """On the listener's thread."""
        numbers = readings.values[:, 0]
        if numbers[-1] < 0:
            return  # warming up
        self.windows += len(self._builder.push(readings))
        numbers = numbers[numbers >= 0]
        self.last = (time.perf_counter(), time.process_time())
        if not self.count:
            self.first = self.last
        self.out_of_order += int((numbers != np.arange(self.count, self.count + len(numbers))).sum())
        self.count += len(numbers)
        if readings.timed:
            self.late_ms.append((readings.arrived_ns - int(readings.times_ns[0])) / 1e6)

    @property
    def share(self) -> float:
        """Of one core."""
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


def measure(results: Results) -> None:
    """Adds the rows."""
    fast = RATE_HZ * SECONDS
    _rows(results, "exec:, NDJSON", RATE_HZ, fast, lambda: _program(RATE_HZ, fast))
    for each in (1, 10):
        name = f"udp://, NDJSON, {each} a datagram"
        _rows(results, name, RATE_HZ, fast, lambda each=each: _datagrams(RATE_HZ, fast, each))
    bytes_a_reading = 52
    for baud, form in ((115_200, "csv"), (921_600, "csv"), (921_600, "untimed")):
        rate = baud // 10 // bytes_a_reading  # eight bits, a start and a stop bit
        name = f"serial:// (a pty), CSV{', no times' if form == 'untimed' else ''}, paced as {baud} baud"
        _rows(
            results,
            name,
            rate,
            rate * SECONDS,
            lambda rate=rate, baud=baud, form=form: _serial(rate, rate * SECONDS, baud, form),
        )


Run = Callable[[], tuple[Taker, ListenerStatus]]


def _rows(results: Results, name: str, rate: int, count: int, run: Run) -> None:
    lost, counted, shares, windows, late = [], [], [], [], []
    for number in range(ROUNDS):
        taker, status = run()
        lost.append(count - taker.count + taker.out_of_order)
        # of a wire that is joined at some moment, the first line is not used
        counted.append(status.lost + sum(status.malformed.values()) - status.malformed.get("joined_midway", 0))
        shares.append(taker.share)
        windows.append(taker.windows)
        late += taker.late_ms
        print(f"{name}: round {number + 1}: {taker.count} of {count}, {shares[-1]:.3f} of a core", file=sys.stderr)
    sent = count * ROUNDS
    results.row(
        what=f"{name}, {rate} a second: readings lost", value=sum(lost), unit="readings", n=sent, target="== 0",
        holds=sum(lost) == 0,
    )  # fmt: skip
    results.row(
        what=f"{name}: lost that the source did not count", value=sum(lost) - sum(counted), unit="readings", n=sent,
        target="== 0", holds=sum(lost) == sum(counted),
    )  # fmt: skip
    share = statistics.median(shares)
    results.row(
        what=f"{name}: share of one core, windows included", value=round(share, 4), unit="cores", n=ROUNDS,
        target=f"<= {MAX_SHARE}", holds=share <= MAX_SHARE, spread=[round(min(shares), 4), round(max(shares), 4)],
    )  # fmt: skip
    most = (count - LENGTH) // STRIDE + 1
    # without times, a machine that is too busy to read for JITTER_S looks like a sensor that was silent
    target = None if "no times" in name else f"== {most * ROUNDS}"
    results.row(
        what=f"{name}: windows of {LENGTH} cut, of {most * ROUNDS}", value=sum(windows), unit="windows", n=sent,
        target=target, holds=None if target is None else sum(windows) == most * ROUNDS,
    )  # fmt: skip
    if late:
        p50, p99 = np.percentile(late, [50, 99])
        results.row(what=f"{name}: oldest reading of a batch p50", value=round(float(p50), 2), unit="ms", n=len(late))
        results.row(what=f"{name}: oldest reading of a batch p99", value=round(float(p99), 2), unit="ms", n=len(late))


def _program(rate: int, count: int) -> tuple[Taker, ListenerStatus]:
    words = [sys.executable, "-c", SENDER, "stdout", str(rate), str(count), "10", "ndjson"]
    with _listening("exec:" + " ".join(map(shlex.quote, words)), rate) as (taker, listener):
        return taker, _until(taker, listener, count)


def _datagrams(rate: int, count: int, each: int) -> tuple[Taker, ListenerStatus]:
    port = free_port()
    with _listening(f"udp://{LOOPBACK}:{port}", rate) as (taker, listener):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as warming:
            while not listener.status().readings:
                warming.sendto(TIMED_WARM_UP, (LOOPBACK, port))
                time.sleep(0.05)
        with _sending(f"udp:{port}", rate, count, each, "ndjson"):
            return taker, _until(taker, listener, count)


def _serial(rate: int, count: int, baud: int, form: str) -> tuple[Taker, ListenerStatus]:
    sensor_end, far_end = os.openpty()
    tty.setraw(far_end)
    try:
        with _listening(f"serial://{os.ttyname(far_end)}?baud={baud}", rate) as (taker, listener):
            while not listener.status().readings:
                os.write(sensor_end, WARM_UP[form])
                time.sleep(0.05)
            with _sending(f"fd:{sensor_end}", rate, count, 1, form):
                return taker, _until(taker, listener, count)
    finally:
        os.close(far_end)
        os.close(sensor_end)


@contextmanager
def _listening(url: str, rate: float) -> Iterator[tuple[Taker, Listener]]:
    taker = Taker(rate)
    listener = Listener(
        make_sensor_source(SensorOptions(url, CHANNELS)), name="bench", stall_timeout_s=60, on_readings=taker,
        on_change=lambda outcome, why: print(outcome, why, file=sys.stderr),
    )  # fmt: skip
    listener.start()
    try:
        yield taker, listener
    finally:
        listener.stop()


@contextmanager
def _sending(how: str, rate: float, count: int, each: int, form: str) -> Iterator[None]:
    descriptors = [int(how[3:])] if how.startswith("fd:") else []
    process = subprocess.Popen(
        [sys.executable, "-c", SENDER, how, str(rate), str(count), str(each), form], pass_fds=descriptors
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _until(taker: Taker, listener: Listener, count: int) -> ListenerStatus:
    """All of them have come, or none any more."""
    seen, since = -1, time.monotonic()
    while taker.count < count and time.monotonic() - since < GIVE_UP_S:
        if taker.count != seen:
            seen, since = taker.count, time.monotonic()
        time.sleep(0.05)
    return listener.status()
