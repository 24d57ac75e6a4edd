"""What commands change while the agent runs: pipelines on and off, thresholds, what the configuration file says now.

Until the next start: what was changed by a command is not written anywhere but to ``.../settings``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from vedette.config import Config, PipelineConfig, load_config
from vedette.contract.errors import UserError
from vedette.contract.labels import is_used
from vedette.contract.manifest import task_of
from vedette.contract.types import Float32Array
from vedette.flow.pipeline import Pipeline
from vedette.flow.selection import make_filter
from vedette.mqtt.requests import Enable, Reload, SettingsMessage, Threshold

from .compose import Prepared, prepare

LIVE: Final = ("threshold", "thresholds", "labels")
"""Keys of a pipeline that a reload takes over; all others need a restart."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """How one pipeline is set."""

    enabled: bool
    threshold: float
    thresholds: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[str] = ()


class Control:
    """Its methods are called by one thread, the link's; `settings` by any."""

    def __init__(
        self,
        config: Config,
        path: Path,
        prepared: Sequence[Prepared],
        pipelines: Sequence[Pipeline],
        on_change: Callable[[str], None],
    ) -> None:
        """``path``: of the configuration. ``on_change``: a pipeline's settings are others now."""
        self._config = config
        self._path = path
        self._prepared = {p.name: p for p in prepared}
        self._pipelines = {p.name: p for p in pipelines}
        self._on_change = on_change
        self._settings = {
            p.name: _Settings(True, p.threshold, dict(p.config.thresholds), tuple(p.config.labels)) for p in prepared
        }

    def settings(self, device: str, epoch: int, pipeline: str) -> SettingsMessage:
        """How a pipeline is set now."""
        now = self._settings[pipeline]
        return SettingsMessage(1, device, pipeline, epoch, now.enabled, now.threshold, dict(now.thresholds))

    def thresholds(self, pipeline: str) -> Float32Array:
        """(labels,) as they are now, above 1 for what is not reported."""
        return self._pipelines[pipeline].reporter.label_filter.thresholds

    def enable(self, request: Enable) -> None:
        """A pipeline on or off. Raises `UserError` where there is none of that name."""
        pipeline = self._pipeline(request.pipeline)
        if request.on:
            pipeline.enabled.set()
        else:
            pipeline.enabled.clear()
        self._change(pipeline.name, enabled=request.on)

    def threshold(self, request: Threshold) -> None:
        """Another threshold, of a label or of all that have none of their own. Raises `UserError`."""
        pipeline = self._pipeline(request.pipeline)
        spec = self._prepared[pipeline.name].spec
        task = task_of(spec.output)
        if task in ("regress", "segment"):
            raise UserError(
                "no threshold", where=pipeline.name, found=f"a network of task {task!r}, which has no scores"
            )
        if task != "anomaly" and request.value > 1:
            raise UserError("bad threshold", where=pipeline.name, expected="0 to 1", found=f"{request.value:g}")
        now = self._settings[pipeline.name]
        if request.label is None:
            self._change(pipeline.name, threshold=request.value)
            return
        known = [label for label in spec.labels if is_used(label)]
        if task not in ("detect", "classify") or request.label not in known:
            near = difflib.get_close_matches(request.label, known, n=1)
            raise UserError(
                "no such label", where=pipeline.name, found=repr(request.label),
                fix=f"did you mean {near[0]!r}?" if near else "",
            )  # fmt: skip
        self._change(pipeline.name, thresholds={**now.thresholds, request.label: request.value})

    def reload(self, request: Reload) -> dict[str, list[str]]:
        """Reads the configuration file again. What can be taken over is; the rest is named, as needing a restart.

        Raises `UserError` where the file is not right: nothing has changed then.
        """
        config = load_config(self._path)
        prepared = prepare(config, self._path)
        taken, later = [], _differences(self._config, config)
        for new in prepared:
            old = self._prepared.get(new.name)
            if old is None or later_of(old.config, new.config) or old.spec.sha256 != new.spec.sha256:
                later.append(f"pipeline.{new.name}")
                continue
            now = self._settings[new.name]
            then = replace(
                now, threshold=new.threshold, thresholds=dict(new.config.thresholds), labels=tuple(new.config.labels)
            )
            if then != now:
                self._set(new.name, then)
                taken.append(f"pipeline.{new.name}")
        later += [f"pipeline.{name}" for name in self._prepared if name not in config.pipelines]
        return {"changed": taken, "needs_restart": later}

    def _pipeline(self, name: str) -> Pipeline:
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            raise UserError("no such pipeline", found=repr(name), expected="one of " + ", ".join(self._pipelines))
        return pipeline

    def _change(self, name: str, **fields: object) -> None:
        self._set(name, replace(self._settings[name], **fields))  # type: ignore[arg-type]

    def _set(self, name: str, settings: _Settings) -> None:
        self._settings[name] = settings
        prepared, pipeline = self._prepared[name], self._pipelines[name]
        label_filter = make_filter(prepared.spec.labels, settings.labels, settings.threshold, settings.thresholds)
        pipeline.decide_from(prepared.decoded_at(settings.threshold, label_filter))
        pipeline.reporter.label_filter = label_filter
        self._on_change(name)


def later_of(old: PipelineConfig, new: PipelineConfig) -> list[str]:
    """The keys in which two configurations of a pipeline differ, and which need a restart."""
    return [key for key in old.__struct_fields__ if key not in LIVE and getattr(old, key) != getattr(new, key)]


def _differences(old: Config, new: Config) -> list[str]:
    """The tables in which they differ, but for the pipelines."""
    names = [name for name in old.__struct_fields__ if name != "pipelines"]
    return [
        name for name in names if msgspec.to_builtins(getattr(old, name)) != msgspec.to_builtins(getattr(new, name))
    ]
