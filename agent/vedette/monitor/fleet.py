"""Every agent below a root topic, as it last described itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import Struct

from vedette.flow.stats import Latency, merge_all
from vedette.mqtt.inbox import Incoming
from vedette.mqtt.payloads import HealthMessage, SettingsMessage, StatsMessage, StatusMessage
from vedette.service.health import THROTTLED_NOW, throttled_words

from .lines import printable, size
from .place import Place, place_of

MAX_DEVICES: Final = 256
MAX_PIPELINES: Final = 64  # of one device
WINDOW_S: Final = 60.0  # of the stages' figures: those that were published so lately
LATE: Final = 3.0  # times its interval, after which a pipeline that says nothing is a problem
LATE_S: Final = 5.0  # and at least
HOT_C: Final = 80.0  # a Raspberry Pi's firmware slows down from here
SCARCE_MEMORY: Final = 64e6  # bytes
SCARCE_DISK: Final = 100e6  # bytes
TOPICS: Final = ("status", "health", "stats", "settings")
"""What it listens to."""
_KINDS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "status": msgspec.json.Decoder(StatusMessage),
    "health": msgspec.json.Decoder(HealthMessage),
    "stats": msgspec.json.Decoder(StatsMessage),
    "settings": msgspec.json.Decoder(SettingsMessage),
}
# what a histogram may claim, so that nobody's message makes us allocate the gap between two far buckets
_MAX_BUCKETS: Final = 2048
_MAX_OFFSET: Final = 16_384
_MAX_SCALE: Final = 12


@dataclass(slots=True)
class PipelineSeen:
    """One pipeline. ``heard_s``: when its statistics last came, time.monotonic()."""

    stats: StatsMessage | None = None
    settings: SettingsMessage | None = None
    heard_s: float = 0.0
    dropped_lately: dict[str, int] = field(default_factory=dict)
    """In the interval published last, by reason."""
    _history: deque[tuple[float, dict[str, Latency]]] = field(default_factory=lambda: deque(maxlen=600))

    def note(self, stats: StatsMessage, now: float) -> None:
        """New statistics."""
        before = self.stats.dropped if self.stats is not None and self.stats.epoch == stats.epoch else {}
        known = self.stats is not None
        self.dropped_lately = {
            reason: count - before.get(reason, 0)
            for reason, count in stats.dropped.items()
            if known and count > before.get(reason, 0)
        }
        self.stats = stats
        self.heard_s = now
        self._history.append((now, stats.latency_ms))

    def stages(self, now: float) -> dict[str, Latency]:
        """Latency a stage over the last `WINDOW_S`, merged from what was published."""
        while self._history and now - self._history[0][0] > WINDOW_S:
            self._history.popleft()
        names = dict.fromkeys(name for _, stages in self._history for name in stages)
        return {name: merge_all(s[name] for _, s in self._history if name in s) for name in names}

    def is_late(self, now: float) -> bool:
        """Whether its statistics should have come long since."""
        return self.stats is not None and now - self.heard_s > max(LATE_S, LATE * self.stats.interval_s)


@dataclass(slots=True)
class DeviceSeen:
    """One device."""

    status: StatusMessage | None = None
    health: HealthMessage | None = None
    pipelines: dict[str, PipelineSeen] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """Whether it has said goodbye, or the broker lost it: what else it said was before that."""
        return self.status is not None and self.status.state in ("stopped", "lost")


class Fleet:
    """Hears on one thread, is read by another, which holds `lock` meanwhile."""

    def __init__(self, root: str) -> None:
        self.lock = threading.Lock()
        self.devices: dict[str, DeviceSeen] = {}
        self.connected: bool | None = None
        self._root = root
        self._why = ""
        self._odd: dict[str, str] = {}  # who says something that this version does not understand, and what

    def changed(self, why: str | None) -> None:
        """The connection is up, or gone, and why."""
        with self.lock:
            self.connected = why is None
            self._why = why or ""

    def heard(self, message: Incoming) -> None:
        """One message."""
        place = place_of(message.topic, self._root)
        if place is None or place.name not in _KINDS or not message.payload:
            return
        try:
            said: Struct = _KINDS[place.name].decode(message.payload)
            if isinstance(said, StatsMessage):
                _check(said)
        except (ValueError, RecursionError) as error:
            with self.lock:
                if len(self._odd) < MAX_DEVICES:
                    self._odd[f"{place} {place.name}"] = f"not as this version knows it: {error}"
            return
        with self.lock:
            self._odd.pop(f"{place} {place.name}", None)
            self._note(place, said)

    def _note(self, place: Place, said: Struct) -> None:
        device = self.devices.get(place.device)
        if device is None:
            if len(self.devices) >= MAX_DEVICES:
                return
            device = self.devices[place.device] = DeviceSeen()
        if isinstance(said, StatusMessage):
            device.status = said
        elif isinstance(said, HealthMessage):
            device.health = said
        else:
            pipeline = device.pipelines.get(place.pipeline)
            if pipeline is None:
                if len(device.pipelines) >= MAX_PIPELINES:
                    return
                pipeline = device.pipelines[place.pipeline] = PipelineSeen()
            if isinstance(said, StatsMessage):
                pipeline.note(said, time.monotonic())
            elif isinstance(said, SettingsMessage):
                pipeline.settings = said

    def problems(self, now: float) -> list[str]:
        """What an operator should know, a line each; under the lock."""
        found = (
            [] if self.connected or self.connected is None else [f"not connected: {printable(self._why)}; trying again"]
        )
        for name, device in sorted(self.devices.items()):
            found += [f"{name}: {text}" for text in _of_device(device, now)]
        return found + [f"{printable(who)}: {printable(text)}" for who, text in sorted(self._odd.items())]


def _of_device(device: DeviceSeen, now: float) -> list[str]:
    status, health = device.status, device.health
    found = []
    if status is not None and status.state in ("lost", "stopped"):
        return [
            f"{status.state} since {printable(status.since)}" + (f": {printable(status.why)}" if status.why else "")
        ]
    if status is not None and status.why:
        found.append(printable(status.why))
    if status is not None and status.degraded:
        names = ", ".join(printable(name) for name in status.degraded)
        found.append(f"degraded: {names} cannot infer as often as wanted; share the load or set max_fps")
    if health is not None:
        if health.throttled is not None and health.throttled & THROTTLED_NOW:
            found.append(", ".join(throttled_words(health.throttled)))
        if health.temperature_c is not None and health.temperature_c >= HOT_C:
            found.append(f"hot: {health.temperature_c:.1f} °C")
        if health.clock == "unsynced":
            found.append("its clock is not synchronised: times may be wrong")
        elif health.clock != "synced":
            found.append("its clock has just been set: times before that may be wrong")
        if health.memory_available_bytes is not None and health.memory_available_bytes < SCARCE_MEMORY:
            found.append(f"memory is scarce: {size(health.memory_available_bytes)} free")
        if health.disk_free_bytes is not None and health.disk_free_bytes < SCARCE_DISK:
            found.append(f"disk is nearly full: {size(health.disk_free_bytes)} free")
    for name, pipeline in sorted(device.pipelines.items()):
        found += [f"{printable(name)}: {text}" for text in _of_pipeline(pipeline, status, now)]
    return found


def _of_pipeline(pipeline: PipelineSeen, status: StatusMessage | None, now: float) -> list[str]:
    stats = pipeline.stats
    if stats is None:
        return []
    found = []
    told = status is not None and status.why is not None and "source" in status.why
    if stats.source.outcome is not None and not told:
        found.append(f"source {stats.source.outcome}: {printable(stats.source.why)}")
    for reason in ("outbox_full", "rejected"):
        if count := pipeline.dropped_lately.get(reason):
            found.append(f"{count} messages lost in the last interval: {reason}")
    if pipeline.is_late(now):
        found.append(f"no statistics for {now - pipeline.heard_s:.0f} s")
    return found


def _check(stats: StatsMessage) -> None:
    for stage, latency in stats.latency_ms.items():
        histogram = latency.histogram
        if (
            len(histogram.counts) > _MAX_BUCKETS
            or abs(histogram.offset) > _MAX_OFFSET
            or abs(histogram.scale) > _MAX_SCALE
            or any(count < 0 for count in histogram.counts)
        ):
            raise ValueError(f"a histogram of {stage!r} that nobody can have measured")
