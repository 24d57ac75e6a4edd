"""Payloads, as structs: their JSON schemas in docs/schemas are generated from these very classes.

Messages of the outbox (`Detections`, `Classifications`) come in two parts: a body that the pipeline writes once, and an
envelope (`render`) that is written each time it is sent, for only then is the wall clock looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vedette import clock
from vedette.clock import ClockState
from vedette.delivery import Entry, LedgerRow
from vedette.stats import Latency

from .topics import Topics

VERSION: Final = 1
MAX_PAYLOAD: Final = 128 * 1024  # bytes; AWS IoT Core's limit, and plenty
MAX_BODY: Final = MAX_PAYLOAD - 1024  # bytes; the rest is the envelope's, at its longest names
MAX_OBJECTS: Final = 600  # of usually 100 bytes each; long labels make it fewer

State = Literal["init", "ready", "alert", "stopped", "lost"]


class FrameInfo(Struct, frozen=True):
    """Which picture. ``seq`` counts what the source gave; width and height in pixels."""

    seq: int
    width: int
    height: int


class DetectedObject(Struct, frozen=True, omit_defaults=True):
    """``box``: x_min, y_min, x_max, y_max as fractions of the frame."""

    label: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]
    track: int | None = None


class SeenClass(Struct, frozen=True):
    """One class of a classifier."""

    label: str
    class_id: int
    score: float


class ModelRef(Struct, frozen=True):
    """Which model spoke."""

    name: str
    version: str
    sha256: str


class EngineRef(Struct, frozen=True):
    """Which engine ran it."""

    runtime: str
    delegate: str


class FrameLatency(Struct, frozen=True):
    """Of this very frame, milliseconds a stage."""

    capture: float
    queue: float
    preprocess: float
    infer: float
    decode: float
    total: float


class DetectionsBody(Struct, frozen=True, omit_defaults=True):
    """The part of a detections message that never changes. ``cut``: objects left out because the message was full."""

    frame: FrameInfo
    objects: list[DetectedObject]
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency
    cut: int = 0


class ClassesBody(Struct, frozen=True):
    """The same for a classifier: ``classes`` in the place of ``objects``."""

    frame: FrameInfo
    classes: list[SeenClass]
    model: ModelRef
    engine: EngineRef
    latency_ms: FrameLatency


class Envelope(Struct, frozen=True):
    """The part that is written when a message is sent. ``ts``: capture by the wall clock, as it is set now.

    ``mono_us``: CLOCK_BOOTTIME in microseconds of the boot ``boot`` (nanoseconds pass 2**53 after 104 days).
    """

    v: int
    id: str
    epoch: int
    seq: int
    ts: str
    mono_us: int
    boot: str
    clock: ClockState
    replay: bool
    device: str
    pipeline: str


class DetectionsMessage(DetectionsBody, frozen=True, omit_defaults=True, kw_only=True):
    """A whole message on ``.../detections`` of a detector, as a consumer reads it."""

    v: int
    id: str
    epoch: int
    seq: int
    ts: str
    mono_us: int
    boot: str
    clock: ClockState
    replay: bool
    device: str
    pipeline: str


class ClassesMessage(ClassesBody, frozen=True, kw_only=True):
    """A whole message on ``.../detections`` of a classifier, as a consumer reads it."""

    v: int
    id: str
    epoch: int
    seq: int
    ts: str
    mono_us: int
    boot: str
    clock: ClockState
    replay: bool
    device: str
    pipeline: str


class StatusMessage(Struct, frozen=True):
    """Birth and will. ``since``: when this state began; of a will, when the connection was made."""

    v: int
    state: State
    epoch: int
    since: str
    why: str | None
    agent: str
    pipelines: list[str]


class SourceInfo(Struct, frozen=True):
    """How the pipeline's source is: ``outcome`` is null while frames come, else end, lost, stalled or frozen."""

    url: str
    outcome: Literal["end", "lost", "stalled", "frozen"] | None
    why: str
    reopened: int


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
    source: SourceInfo
    outbox: OutboxInfo


class ModelMessage(Struct, frozen=True):
    """The model in use. ``self_test``: passed, unjudged (the bundle states no bound for this engine), or none."""

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
    """Null where this device cannot say. ``throttled``: the Raspberry Pi firmware's bits, as vcgencmd says them."""

    v: int
    device: str
    epoch: int
    ts: str
    clock: ClockState
    uptime_s: float
    temperature_c: float | None
    throttled: int | None
    load_1m: float
    memory_available_bytes: int
    agent_pss_bytes: int
    disk_free_bytes: int | None
    threads: int
    open_files: int
    certificate_days_left: float | None


MESSAGES: Final[dict[str, type[Struct]]] = {
    "status": StatusMessage,
    "detections": DetectionsMessage,
    "classes": ClassesMessage,
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


def render(entry: Entry, topics: Topics, *, replay: bool) -> bytes:
    """The message as it goes out now: envelope and body as one JSON object."""
    this_boot = entry.boot == clock.boot_id()
    captured = clock.wall_time(entry.captured_ns) if this_boot else ""
    envelope = Envelope(
        v=VERSION,
        id=topics.message_id(entry.key),
        epoch=entry.key.epoch,
        seq=entry.key.seq,
        ts=captured,
        mono_us=entry.captured_ns // 1000,
        boot=entry.boot,
        clock=entry.clock,
        replay=replay,
        device=topics.device,
        pipeline=entry.key.stream.pipeline,
    )
    return _encoder.encode(envelope)[:-1] + b"," + entry.body[1:]


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
