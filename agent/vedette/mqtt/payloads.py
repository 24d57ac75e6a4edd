"""Payloads, as structs: their JSON schemas in docs/schemas are generated from these very classes.

Messages of the outbox come in two parts: a body that is written once (`vedette.mqtt.results`), and an envelope
(`vedette.mqtt.envelope`) that is written each time it is sent, for only then is the wall clock looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vedette.clock import ClockState
from vedette.delivery import LedgerRow
from vedette.flow.stats import Latency

from .envelope import VERSION as VERSION
from .events import EVENT_MESSAGES
from .events import EventBody as EventBody
from .events import StateMessage as StateMessage
from .requests import REQUEST_MESSAGES
from .requests import SettingsMessage as SettingsMessage
from .results import RESULT_MESSAGES
from .results import EngineRef as EngineRef

State = Literal["init", "ready", "alert", "stopped", "lost"]


class StatusMessage(Struct, frozen=True):
    """Birth and will. ``since``: when this state began; of a will, when the connection was made.

    ``degraded``: the pipelines that get less than 0.9 of the inferences they want, for others need the machine too.
    """

    v: int
    state: State
    epoch: int
    since: str
    why: str | None
    agent: str
    pipelines: list[str]
    degraded: list[str]


class SourceInfo(Struct, frozen=True):
    """How the pipeline's source is: ``outcome`` is null while frames come, else end, lost, stalled or frozen."""

    url: str
    outcome: Literal["end", "lost", "stalled", "frozen"] | None
    why: str
    reopened: int


class LoadInfo(Struct, frozen=True):
    """``weight``: the pipeline's, as configured. ``share``: of the samples that it wanted in this interval, how many were
    inferred, 0 to 1; null where none came, or its source waits for it. ``cap_fps``: frames a second that a camera is
    looked at now while the board is too hot or results come too late; null for all of them. ``late``: results since the
    start that came later than the pipeline's ``deadline_ms``; null without one."""

    weight: float
    share: float | None
    cap_fps: float | None = None
    late: int | None = None


class SensorInfo(Struct, frozen=True):
    """What became of a sensor's readings, since the start. ``rate_hz``, ``jitter_ms``: of the last readings.

    ``gaps``: how often readings were too far apart for one window; ``late``: those left out, for they were not later than
    the one before; ``clock_back``: how often the sensor's clock was set back; ``malformed``: lines by reason; ``lost``:
    messages that the system threw away before they could be read.
    """

    readings: int
    windows: int
    rate_hz: float | None
    jitter_ms: float | None
    gaps: int
    late: int
    clock_back: int
    malformed: dict[str, int]
    lost: int


class OutboxInfo(Struct, frozen=True):
    """What waits to be delivered, of all pipelines together."""

    messages: int
    bytes: int


class StatsMessage(Struct, frozen=True):
    """One interval of one pipeline. ``dropped``: since the start, by reason; frames, objects and messages."""

    v: int
    device: str
    pipeline: str
    epoch: int
    ts: str
    interval_s: float
    fps_in: float
    fps_out: float
    frames: int
    inferred: int
    latency_ms: dict[str, Latency]
    dropped: dict[str, int]
    load: LoadInfo
    sensor: SensorInfo | None
    source: SourceInfo
    outbox: OutboxInfo


class AcceleratorInfo(Struct, frozen=True):
    """Whether the accelerator runs the model (``trusted``), or the CPU in its place, and ``why``. ``proof``: what its last
    self-test said.

    Counts are since the start, and ``faults`` by kind: hung, crashed, refused, wrong. ``starts``: how often it was
    tried. ``taken_over``: inferences that the CPU made in its place. ``doubtful``: results between the last check that it
    passed and one that it failed.
    """

    delegate: str
    trusted: bool
    why: str | None
    proof: str
    faults: dict[str, int]
    starts: int
    taken_over: int
    doubtful: int


class ModelMessage(Struct, frozen=True):
    """The model in use. ``engine``: who runs it now. ``self_test``: passed, unjudged (the bundle states no bound for this
    engine), or none. ``accelerator``: null where the configuration names none."""

    v: int
    device: str
    pipeline: str
    epoch: int
    name: str
    version: str
    sha256: str
    bundle: bool
    labels: int
    precision: str | None
    engine: EngineRef
    threads: int
    self_test: Literal["passed", "unjudged", "none"]
    self_test_detail: str
    accelerator: AcceleratorInfo | None = None


class DroppedRange(Struct, frozen=True):
    """Messages first..last, and why."""

    first: int
    last: int
    reason: str


class LedgerStream(Struct, frozen=True):
    """See `vedette.delivery.LedgerRow`."""

    epoch: int
    pipeline: str
    topic: str
    first: int
    last: int | None
    acknowledged: int
    waiting: int
    rejected: int
    dropped: int
    dropped_ranges: list[DroppedRange]
    ranges_cut: int
    lost_at_crash: int | None


class LedgerMessage(Struct, frozen=True):
    """A row for each stream and epoch that is not settled."""

    v: int
    device: str
    epoch: int
    ts: str
    streams: list[LedgerStream]


class HealthMessage(Struct, frozen=True):
    """Null where this device cannot say, or cannot now.

    ``throttled``: the Raspberry Pi firmware's bits, as vcgencmd says them. ``commands``: since the start, by what
    became of them.
    """

    v: int
    device: str
    epoch: int
    ts: str
    clock: ClockState
    uptime_s: float
    temperature_c: float | None
    throttled: int | None
    load_1m: float | None
    memory_available_bytes: int | None
    agent_pss_bytes: int
    disk_free_bytes: int | None
    threads: int | None
    open_files: int | None
    certificate_days_left: float | None
    commands: dict[str, int] = {}


MESSAGES: Final[dict[str, type[Struct]]] = {
    "status": StatusMessage,
    **RESULT_MESSAGES,
    **EVENT_MESSAGES,
    **REQUEST_MESSAGES,
    "stats": StatsMessage,
    "ledger": LedgerMessage,
    "health": HealthMessage,
    "model": ModelMessage,
}
"""Schema name -> struct."""

_encoder = msgspec.json.Encoder()


def encode(message: Struct) -> bytes:
    """JSON, UTF-8."""
    return _encoder.encode(message)


def ledger_message(rows: Sequence[LedgerRow], device: str, epoch: int, ts: str) -> LedgerMessage:
    """The ledger as it is published."""
    return LedgerMessage(
        v=VERSION,
        device=device,
        epoch=epoch,
        ts=ts,
        streams=[
            LedgerStream(
                epoch=row.epoch,
                pipeline=row.stream.pipeline,
                topic=row.stream.topic,
                first=row.first,
                last=row.last,
                acknowledged=row.acknowledged,
                waiting=row.waiting,
                rejected=row.rejected,
                dropped=row.dropped,
                dropped_ranges=[DroppedRange(d.first, d.last, d.reason) for d in row.dropped_ranges],
                ranges_cut=row.ranges_cut,
                lost_at_crash=row.lost_at_crash,
            )
            for row in rows
        ],
    )
