"""What the agent says of itself: how it is now -> a payload. Reads, changes nothing but the interval it has reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vedette import clock
from vedette.clock import ClockState
from vedette.delivery import Depth, LedgerRow
from vedette.engine import AcceleratedEngine, Engine, SelfTest
from vedette.flow.feed import FrameFeed, WindowFeed
from vedette.flow.pipeline import Pipeline
from vedette.flow.stats import Interval
from vedette.mqtt import payloads as wire
from vedette.service.health import Health
from vedette.sources import masked_url


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
        accelerator=accelerator(pipeline.model.engine),
        self_test_detail=outcome.reason if outcome else "a plain model has no golden vectors",
    )


def accelerator(engine: Engine) -> wire.AcceleratorInfo | None:
    """How a delegate does; None where there is none."""
    if not isinstance(engine, AcceleratedEngine):
        return None
    status = engine.status()
    fields = {name: getattr(status, name) for name in wire.AcceleratorInfo.__struct_fields__ if name != "why"}
    return wire.AcceleratorInfo(**fields, why=status.why or None)


def stats(
    origin: Origin,
    pipeline: Pipeline,
    url: str,
    waiting: Depth,
    rows: Sequence[LedgerRow],
    pictures: Mapping[str, int],
) -> wire.StatsMessage:
    """The interval since the last call. ``rows``: the accounts of this pipeline's streams, of those that have one.
    ``pictures``: what became of its snapshots, see `vedette.pictures.snapshots.Snapshots.counts`."""
    source = pipeline.feed.status()
    pipeline.count_passed()
    now = clock.now_ns()
    interval = pipeline.stats.take(now, source.frames)
    dropped = pipeline.stats.dropped()
    counts = {
        "stale": source.stale,
        "slowed": pipeline.feed.slowed if isinstance(pipeline.feed, FrameFeed) else 0,
        "outbox_full": sum(row.dropped for row in rows),
        "rejected": sum(row.rejected for row in rows),
    }
    counts.update(
        {f"snapshot_{what}": n for what, n in pictures.items() if what not in ("kept", "published", "removed")}
    )
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
        load=load(pipeline, interval),
        sensor=sensor(pipeline.feed) if isinstance(pipeline.feed, WindowFeed) else None,
        dropped=dropped,
        source=wire.SourceInfo(
            masked_url(url), source.outcome.value if source.outcome else None, source.why, source.reopened
        ),
        outbox=wire.OutboxInfo(waiting.messages, waiting.bytes),
    )


def load(pipeline: Pipeline, interval: Interval) -> wire.LoadInfo:
    """How much of what the pipeline wanted in this interval it got. Of a source that waits, nobody can say."""
    wanted = interval.frames_in - interval.unwanted
    share = min(1.0, interval.inferred / wanted) if wanted > 0 and pipeline.feed.live else None
    cap_fps = pipeline.feed.cap_fps if isinstance(pipeline.feed, FrameFeed) else None
    stats = pipeline.stats
    return wire.LoadInfo(
        weight=pipeline.seat.weight,
        share=None if share is None else round(share, 4),
        cap_fps=None if cap_fps is None else round(cap_fps, 3),
        late=stats.late if stats.deadline_ms else None,
    )


def sensor(feed: WindowFeed) -> wire.SensorInfo:
    """What became of a sensor's readings, since the start."""
    counts, cadence, heard = feed.counts, feed.cadence, feed.heard
    return wire.SensorInfo(
        readings=counts.readings,
        windows=counts.windows,
        rate_hz=None if cadence is None else float(f"{cadence.rate_hz:.6g}"),
        jitter_ms=None if cadence is None else round(cadence.jitter_ms, 3),
        gaps=counts.gaps,
        late=counts.late,
        clock_back=counts.clock_back,
        malformed=dict(heard.malformed),
        lost=heard.lost,
    )


def ledger(origin: Origin, rows: Sequence[LedgerRow]) -> wire.LedgerMessage:
    """The account of every stream."""
    return wire.ledger_message(rows, origin.device, origin.epoch, clock.wall_time(clock.now_ns()))


def health(
    origin: Origin, now: Health, clock_state: ClockState, commands: dict[str, int], certificate_days_left: float | None
) -> wire.HealthMessage:
    """How the device is. ``commands``: since the start, by what became of them. ``certificate_days_left``: of the
    client's own."""
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
        commands=commands,
        certificate_days_left=certificate_days_left,
    )
