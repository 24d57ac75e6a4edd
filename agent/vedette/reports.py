"""What the agent says of itself: how it is now -> a payload. Reads, changes nothing but the interval it has reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import clock
from .clock import ClockState
from .delivery import Depth, LedgerRow
from .engine import SelfTest
from .health import Health
from .mqtt import payloads as wire
from .pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Origin:
    """Who speaks."""

    device: str
    epoch: int


def model(origin: Origin, pipeline: Pipeline, outcome: SelfTest | None) -> wire.ModelMessage:
    """The model in use, and what its self-test on this machine said."""
    spec = pipeline.model.spec
    description = pipeline.model.engine.description
    return wire.ModelMessage(
        v=wire.VERSION,
        device=origin.device,
        pipeline=pipeline.name,
        epoch=origin.epoch,
        name=spec.name,
        version=spec.version,
        sha256=spec.sha256,
        bundle=spec.bundle is not None,
        labels=len(spec.labels),
        precision=spec.manifest.precision if spec.manifest else None,
        engine=wire.EngineRef(description.runtime, description.delegate),
        threads=description.threads,
        self_test="none" if outcome is None else "passed" if outcome.passed else "unjudged",
        self_test_detail=outcome.reason if outcome else "a plain model has no golden vectors",
    )


def stats(origin: Origin, pipeline: Pipeline, url: str, waiting: Depth, row: LedgerRow | None) -> wire.StatsMessage:
    """The interval since the last call. ``row``: the account of this pipeline's stream, once it has one."""
    source = pipeline.grabber.status()
    now = clock.now_ns()
    interval = pipeline.stats.take(now, source.frames)
    dropped = pipeline.stats.dropped()
    counts = {
        "stale": source.stale,
        "outbox_full": row.dropped if row else 0,
        "rejected": row.rejected if row else 0,
    }
    dropped.update({reason: count for reason, count in counts.items() if count})
    return wire.StatsMessage(
        v=wire.VERSION,
        device=origin.device,
        pipeline=pipeline.name,
        epoch=origin.epoch,
        ts=clock.wall_time(now),
        interval_s=round(interval.seconds, 3),
        fps_in=round(interval.frames_in / interval.seconds, 2),
        fps_out=round(interval.inferred / interval.seconds, 2),
        frames=interval.frames_in,
        inferred=interval.inferred,
        latency_ms=interval.stages,
        dropped=dropped,
        source=wire.SourceInfo(url, source.outcome.value if source.outcome else None, source.why, source.reopened),
        outbox=wire.OutboxInfo(waiting.messages, waiting.bytes),
    )


def ledger(origin: Origin, rows: Sequence[LedgerRow]) -> wire.LedgerMessage:
    """The account of every stream."""
    return wire.ledger_message(rows, origin.device, origin.epoch, clock.wall_time(clock.now_ns()))


def health(origin: Origin, now: Health, clock_state: ClockState) -> wire.HealthMessage:
    """How the device is."""
    return wire.HealthMessage(
        v=wire.VERSION,
        device=origin.device,
        epoch=origin.epoch,
        ts=clock.wall_time(clock.now_ns()),
        clock=clock_state,
        uptime_s=now.uptime_s,
        temperature_c=now.temperature_c,
        throttled=now.throttled,
        load_1m=now.load_1m,
        memory_available_bytes=now.memory_available_bytes,
        agent_pss_bytes=now.agent_pss_bytes,
        disk_free_bytes=now.disk_free_bytes,
        threads=now.threads,
        open_files=now.open_files,
        certificate_days_left=None,
    )
