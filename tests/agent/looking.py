"""Commands that go on until they are told to end, as processes whose lines are read as they come."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from typing import Any

from real import DEADLINE_S, wait_for

from vedette.demo.broker import LOOPBACK
from vedette.mqtt.connection import Connection, LinkOptions


class Looker:
    """``vedette COMMAND ...``; ends with its context."""

    def __init__(self, *arguments: object) -> None:
        self._arguments = [sys.executable, "-m", "vedette", *map(str, arguments)]
        self.lines: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> Looker:
        self.process = subprocess.Popen(
            self._arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._readers = [
            threading.Thread(target=lambda s=stream, k=kept: k.extend(s_ for s_ in _lines(s)), daemon=True)
            for stream, kept in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)

    def line(self, *parts: str, after: int = 0) -> str:
        """The first line that has all of these in it."""

        def found() -> str:
            return next((line for line in list(self.lines[after:]) if all(part in line for part in parts)), "")

        return wait_for(f"a line with {parts}: {self.lines} {self.errors}", found)

    def end(self, signum: int = signal.SIGINT) -> int:
        """Its exit code; all of its lines are there then."""
        self.process.send_signal(signum)
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code


def _lines(stream: Any) -> Any:
    with stream:
        for line in stream:
            yield line.rstrip("\n")


class Terminal:
    """The same on a pseudo-terminal of its own."""

    def __init__(self, *arguments: object, columns: int = 80, rows: int = 24, term: str = "xterm-256color") -> None:
        self._arguments = [sys.executable, "-m", "vedette", *map(str, arguments)]
        self._size = struct.pack("HHHH", rows, columns, 0, 0)
        self._term = term
        self.output = b""

    def __enter__(self) -> Terminal:
        self._fd, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, self._size)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            self._arguments, stdin=child, stdout=child, stderr=child, close_fds=True, start_new_session=True,
            env={**environment, "TERM": self._term}, preexec_fn=lambda: _control(child),
        )  # fmt: skip
        os.close(child)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self.output += data

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        os.close(self._fd)

    def type(self, keys: bytes) -> None:
        """As if somebody typed it."""
        os.write(self._fd, keys)

    def shows(self, *parts: str) -> None:
        """Waits until all of these have been written."""
        wait_for(f"{parts} on the terminal", lambda: all(part.encode() in self.output for part in parts))


def _control(fd: int) -> None:
    """Ctrl-C reaches those whose controlling terminal it is (ioctl_tty(2))."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


class Voice:
    """Says what it is told on a broker, as an agent might."""

    def __init__(self, port: int, protocol: str) -> None:
        self._settled: list[int] = []
        self._connection = Connection(
            LinkOptions(LOOPBACK, port, "voice", protocol),  # type: ignore[arg-type]
            None,
            settled=lambda mid, reason: self._settled.append(mid),
        )

    def __enter__(self) -> Voice:
        self._connection.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close(politely=True)

    def say(self, topic: str, message: object, *, retain: bool = False) -> None:
        """At QoS 1; returns when the broker has it. ``message``: bytes as they are, anything else as JSON."""
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        mid = self._connection.publish(topic, payload, qos=1, retain=retain)

        def settled() -> bool:
            self._connection.poll(0.05)
            return mid in self._settled

        wait_for("the broker to take it", settled)


def detections(seq: int, *, epoch: int = 1, replay: bool = False, label: str = "person") -> dict[str, Any]:
    """A message with what is looked at here."""
    return {
        "v": 1, "epoch": epoch, "seq": seq, "ts": "2026-11-22T15:04:05.123456Z", "clock": "synced", "replay": replay,
        "objects": [{"label": label, "class_id": 0, "score": 0.91, "box": [0, 0, 1, 1], "track": 7}],
        "latency_ms": {"infer": 4.25, "total": 6.5},
    }  # fmt: skip


STATUS = {
    "v": 1, "state": "ready", "epoch": 1, "since": "2026-11-22T15:04:05.000000Z", "why": None, "agent": "0.1.0",
    "pipelines": ["door"], "degraded": [],
}  # fmt: skip
