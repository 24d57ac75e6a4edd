"""Configuration and models -> what Home Assistant is told that this agent has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vedette import __version__
from vedette.config import Config
from vedette.contract.labels import is_used
from vedette.contract.manifest import AnomalyOutput, RegressOutput, SeriesInput, task_of
from vedette.mqtt.discovery import DeviceFacts, PipelineFacts, Shows
from vedette.service.prepared import Prepared

MAX_COUNTED: Final = 32  # labels with a sensor of their own; who chooses more gets their total


def device_facts(config: Config, prepared: Sequence[Prepared]) -> DeviceFacts:
    """The whole agent."""
    return DeviceFacts(
        version=__version__,
        pipelines=tuple(pipeline_facts(one) for one in prepared),
        stats_s=config.intervals.stats_s,
        health_s=config.intervals.health_s,
        expire_after_s=config.home_assistant.expire_after_s,
    )


def pipeline_facts(prepared: Prepared) -> PipelineFacts:
    """One pipeline: what its state message holds follows from how its results are followed (`vedette.service.compose`)."""
    config, spec = prepared.config, prepared.spec
    task = task_of(spec.output)
    shows = _shows(prepared)
    chosen = tuple(config.labels) if len(config.labels) <= MAX_COUNTED else ()
    classes = tuple(label for label in spec.labels if is_used(label))
    output = spec.output
    return PipelineFacts(
        prepared.name,
        shows,
        labels=classes if shows == "class" else chosen,
        zones=tuple(config.zones),
        values=tuple((q.name, q.unit) for q in output.quantities) if isinstance(output, RegressOutput) else (),
        thresholds=tuple(config.thresholds),
        # of an anomaly's score nobody knows how large it may become
        max_threshold=1e6 if isinstance(output, AnomalyOutput) else 0.0 if task in ("regress", "segment") else 1.0,
        snapshots=config.snapshots is not None and config.snapshots.mqtt,
    )


def _shows(prepared: Prepared) -> Shows | None:
    config, spec = prepared.config, prepared.spec
    if prepared.follows is not None:
        return "counts"
    if config.steady is None and not isinstance(spec.input, SeriesInput):
        return None
    task = task_of(spec.output)
    return "anomaly" if task == "anomaly" else "values" if task == "regress" else "class"
