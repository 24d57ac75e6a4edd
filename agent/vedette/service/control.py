"""What commands change while the agent runs: pipelines on and off, and thresholds. `vedette.service.reload` has the rest.

Until the next start: what was changed by a command is not written anywhere but to ``.../settings``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vedette.contract.errors import UserError
from vedette.contract.labels import is_used
from vedette.contract.manifest import task_of
from vedette.contract.types import Float32Array
from vedette.contract.wording import nearest
from vedette.flow.pipeline import Pipeline
from vedette.flow.selection import make_filter
from vedette.mqtt.requests import Enable, SettingsMessage, Threshold

from .prepared import Prepared


@dataclass(frozen=True, slots=True)
class _Settings:
    """How one pipeline is set."""

    enabled: bool
    threshold: float
    thresholds: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[str] = ()


class Control:
    """Any thread may call anything."""

    def __init__(
        self, prepared: Sequence[Prepared], pipelines: Sequence[Pipeline], on_change: Callable[[str], None]
    ) -> None:
        """``on_change``: a pipeline's settings are others now."""
        self._lock = threading.RLock()  # a pipeline's model, what is known of it and its settings belong together
        self._prepared = {p.name: p for p in prepared}
        self._pipelines = {p.name: p for p in pipelines}
        self._on_change = on_change
        self._settings = {p.name: _configured(p, enabled=True) for p in prepared}

    def prepared(self, pipeline: str) -> Prepared | None:
        """As it was configured last; None where there is none of that name."""
        return self._prepared.get(pipeline)

    def settings(self, device: str, epoch: int, pipeline: str) -> SettingsMessage:
        """How a pipeline is set now."""
        now = self._settings[pipeline]
        return SettingsMessage(1, device, pipeline, epoch, now.enabled, now.threshold, dict(now.thresholds))

    def thresholds(self, pipeline: str) -> Float32Array:
        """(labels,) as they are now, above 1 for what is not reported."""
        return self._pipelines[pipeline].reporter.label_filter.thresholds

    def enable(self, request: Enable) -> Mapping[str, bool]:
        """A pipeline on or off. What the reply says. Raises `UserError` where there is none of that name."""
        pipeline = self._pipeline(request.pipeline)
        with self._lock:
            if request.on:
                pipeline.enabled.set()
            else:
                pipeline.enabled.clear()
            self._set(pipeline.name, replace(self._settings[pipeline.name], enabled=request.on))
        return {"enabled": request.on}

    def threshold(self, request: Threshold) -> None:
        """Another threshold, of a label or of all that have none of their own. Raises `UserError`."""
        name = self._pipeline(request.pipeline).name
        with self._lock:
            now = self._settings[name]
            self._check_threshold(request, self._prepared[name], now)
            if request.label is None:
                self._set(name, replace(now, threshold=request.value))
            else:
                self._set(name, replace(now, thresholds={**now.thresholds, request.label: request.value}))

    def take_over(self, new: Prepared) -> bool:
        """The thresholds and labels of this configuration of the same model. Whether they are others."""
        with self._lock:
            now = self._settings[new.name]
            then = _configured(new, enabled=now.enabled)
            self._prepared[new.name] = new
            if then != now:
                self._set(new.name, then)
            return then != now

    def exchange(self, new: Prepared, refit: Callable[[Pipeline, Prepared], None]) -> None:
        """Another model, with the thresholds and labels of its configuration. ``refit``: puts it into the pipeline, which
        is told as what it was prepared before; at once, and in an action of the pipeline's `between`."""
        with self._lock:
            refit(self._pipelines[new.name], self._prepared[new.name])
            self._prepared[new.name] = new
            self._settings[new.name] = _configured(new, enabled=self._settings[new.name].enabled)

    def _pipeline(self, name: str) -> Pipeline:
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            raise UserError("no such pipeline", found=repr(name), expected="one of " + ", ".join(self._pipelines))
        return pipeline

    def _check_threshold(self, request: Threshold, prepared: Prepared, now: _Settings) -> None:
        task = task_of(prepared.spec.output)
        if task in ("regress", "segment"):
            raise UserError(
                "no threshold", where=prepared.name, found=f"a network of task {task!r}, which has no scores"
            )
        if task != "anomaly" and request.value > 1:
            raise UserError("bad threshold", where=prepared.name, expected="0 to 1", found=f"{request.value:g}")
        if request.label is None:
            return
        known = [label for label in prepared.spec.labels if is_used(label)]
        if task not in ("detect", "classify") or request.label not in known:
            near = nearest(request.label, known)
            raise UserError(
                "no such label", where=prepared.name, found=repr(request.label),
                fix=f"did you mean {near!r}?" if near else "",
            )  # fmt: skip
        if now.labels and request.label not in now.labels:
            raise UserError(
                "a label that this pipeline does not report", where=prepared.name, found=repr(request.label),
                expected="one of " + ", ".join(now.labels), fix="add it to labels in the configuration, and reload",
            )  # fmt: skip

    def _set(self, name: str, settings: _Settings) -> None:
        self._settings[name] = settings
        prepared, pipeline = self._prepared[name], self._pipelines[name]
        label_filter = make_filter(prepared.spec.labels, settings.labels, settings.threshold, settings.thresholds)
        pipeline.decide_from(prepared.decoded_at(settings.threshold, label_filter))
        pipeline.reporter.label_filter = label_filter
        self._on_change(name)


def _configured(prepared: Prepared, *, enabled: bool) -> _Settings:
    config = prepared.config
    return _Settings(enabled, prepared.threshold, dict(config.thresholds), tuple(config.labels))
