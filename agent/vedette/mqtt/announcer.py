"""Tells Home Assistant of this agent: on each connection, and again when Home Assistant has started.

``STATE_DIR/home-assistant.json``, written whole or not at all, remembers what has been announced and where::

    {"topic": "homeassistant/device/front-door/config", "components": {"door_fps": "sensor"}}

so that what a changed configuration no longer has can be taken back. It is taken back in every message of this run, for
nobody says whether Home Assistant was there to hear it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from vedette import clock
from vedette.contract.errors import StateError, one_line
from vedette.durable import write_durably

from .discovery import platforms
from .inbox import Incoming

FILE: Final = "home-assistant.json"
MAX_FILE: Final = 4 * 1024 * 1024  # bytes
MAX_JITTER_S: Final = 10.0  # a site's devices must not all answer Home Assistant's birth in one moment


class _Announced(Struct, frozen=True, forbid_unknown_fields=True):
    topic: str
    components: dict[str, str]


class Announcer:
    """See the module. Every method may be called by any thread."""

    def __init__(
        self,
        state_dir: Path,
        topic: str,
        message: Callable[[dict[str, str]], dict[str, Any]] | None,
        publish: Callable[[str, bytes], bool],
        alert: Callable[[str], None],
        *,
        now_ns: Callable[[], int] = clock.now_ns,
        jitter_s: Callable[[], float] = lambda: random.uniform(0.0, MAX_JITTER_S),
    ) -> None:
        """``message``: platforms of retired components by id -> the message to ``topic``; None where Home Assistant is not
        to know of this agent, and what it knows is taken back. ``publish``: retained, QoS 1; False without a connection."""
        self._path = state_dir / FILE
        self._topic = topic
        self._publish = publish
        self._alert = alert
        self._now_ns = now_ns
        self._jitter_s = jitter_s
        self._lock = threading.Lock()
        self._telling = threading.Lock()  # one at a time, so that what is told last is the newest
        self._due_ns: int | None = None
        before = self._remembered()
        elsewhere = before is not None and (message is None or before.topic != topic)
        self._withdrawn = before.topic if before is not None and elsewhere else None
        retired: dict[str, str] = {}
        self._payload = b""
        self._record: _Announced | None = None
        if message is not None:
            current = message({})
            if before is not None and not elsewhere:
                now = platforms(current)
                retired = {name: platform for name, platform in before.components.items() if name not in now}
                current = message(retired) if retired else current
            self._payload = msgspec.json.encode(current)
            self._record = _Announced(topic, platforms(current))
        self._retired = retired
        self.retired = tuple(retired)
        """Ids of components that are taken back in this run."""

    def change(self, message: Callable[[dict[str, str]], dict[str, Any]]) -> None:
        """What there is to be announced is another now: what it has no longer is taken back. As of the constructor."""
        current = message({})
        now = platforms(current)
        with self._lock:
            before = {} if self._record is None else self._record.components
            gone = {name: platform for name, platform in {**self._retired, **before}.items() if name not in now}
            payload = msgspec.json.encode(message(gone) if gone else current)
            if payload == self._payload:
                return
            self._retired = gone
            self._payload = payload
            self._record = _Announced(self._topic, now)
        self.connected()

    def connected(self) -> None:
        """A connection has come up."""
        with self._telling:
            with self._lock:
                payload, record = self._payload, self._record
            if self._withdrawn is not None and not self._publish(self._withdrawn, b""):
                return  # the next connection will do
            if payload and not self._publish(self._topic, payload):
                return
            self._remember(record)

    def heard(self, message: Incoming) -> None:
        """On ``PREFIX/status``: Home Assistant has started, and wants to hear it again."""
        if message.payload.strip().lower() == b"online" and self._payload:
            with self._lock:
                if self._due_ns is None:
                    self._due_ns = self._now_ns() + int(self._jitter_s() * 1e9)

    def turn(self) -> None:
        """Announces again if it is time. To be called every second or so."""
        with self._lock:
            if self._due_ns is None or self._now_ns() < self._due_ns:
                return
            self._due_ns = None
        self.connected()

    def _remembered(self) -> _Announced | None:
        """None where there is nothing, or nothing that can be read: then nothing is taken back, and said so."""
        try:
            if self._path.stat().st_size > MAX_FILE:
                raise ValueError(f"more than {MAX_FILE} bytes")
            return msgspec.json.decode(self._path.read_bytes(), type=_Announced)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            why = one_line(str(error))  # which may repeat a part of the file
            self._alert(f"{self._path}: what Home Assistant was told cannot be read, nothing is taken back: {why}")
            return None

    def _remember(self, told: _Announced | None) -> None:
        try:
            if told is None:
                self._path.unlink(missing_ok=True)
                return
            encoded = msgspec.json.encode(told)
            if self._path.exists() and self._path.read_bytes() == encoded:
                return
            write_durably(self._path, encoded)
        except OSError as error:
            self._alert(
                StateError(
                    "what Home Assistant was told cannot be noted", where=self._path, found=error.strerror or str(error)
                ).line()
            )
