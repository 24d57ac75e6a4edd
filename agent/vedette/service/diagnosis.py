"""What is wrong with an agent, as its parts say it: what lasts, and what has happened since the last look.

It only looks. `vedette.service.service` acts on what it finds, and `vedette.service.condition` makes a status of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vedette.contract.errors import VedetteError
from vedette.delivery import Outbox
from vedette.flow.feed import WindowFeed
from vedette.flow.governor import Governor
from vedette.flow.pipeline import Pipeline
from vedette.mqtt import Link
from vedette.sources import Outcome

from .lanes import Lanes


class Diagnosis:
    """Its methods are one thread's, the service's."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        unfit: Mapping[str, VedetteError],
        lanes: Lanes,
        governor: Governor,
        outbox: Outbox,
        link: Link,
    ) -> None:
        """``unfit``: the pipelines that were left out, for their model cannot be used here, and why."""
        self._pipelines = pipelines
        self._unfit = unfit
        self._lanes = lanes
        self._governor = governor
        self._outbox = outbox
        self._link = link
        self._engines: dict[str, object] = {}  # by pipeline with an accelerator, how that was last seen

    @property
    def faults(self) -> list[VedetteError]:
        """Why there are pipelines that do not run: those that were left out, and those that a fault has ended."""
        return [*self._unfit.values(), *(p.fault for p in self._pipelines if p.fault is not None)]

    def problems(self) -> dict[str, str]:
        """What is wrong now: by key, in words for people."""
        found = {name: f"{name}: {error.line()}" for name, error in self._unfit.items()}
        for pipeline in self._pipelines:
            found.update(_problems(pipeline))
            status = self._lanes[pipeline.name].accelerator
            if status is not None and not status.trusted:
                model = pipeline.model.spec.name
                found[f"accelerator {model}"] = f"{model}: the CPU runs it in {status.delegate}'s place: {status.why}"
        found.update(self._governor.problems())
        found.update(self._outbox.problems())
        link = self._link.status()
        if link.unsteady:
            found["connection"] = link.unsteady
        for topic in link.unheard:
            found[f"unheard {topic}"] = f"the broker does not let this agent hear {topic}"
        return found

    def news(self) -> list[tuple[str, str]]:
        """What has happened in pipelines since this was last asked: a key for its kind, and words for people."""
        found = []
        for pipeline in self._pipelines:
            news = pipeline.news()
            if isinstance(pipeline.feed, WindowFeed):
                news += pipeline.feed.news()
            found += [(f"{pipeline.name} {key}", f"{pipeline.name}: {text}") for key, text in news]
        return found

    def accelerated_anew(self) -> list[Pipeline]:
        """Those of whose accelerator there is something else to tell than when this was last asked: whether it or the CPU
        runs the model, and its faults."""
        found = []
        for pipeline in self._pipelines:
            loaded = self._lanes[pipeline.name]
            status = loaded.accelerator
            if status is None:
                continue
            seen = (status.trusted, loaded.model.engine.description.delegate, tuple(status.faults.items()))
            if self._engines.get(pipeline.name) != seen:
                self._engines[pipeline.name] = seen
                found.append(pipeline)
        return found


def _problems(pipeline: Pipeline) -> dict[str, str]:
    name, found = pipeline.name, {}
    status = pipeline.feed.status()
    if status.outcome is not None and status.outcome is not Outcome.END:
        found[name] = f"{name}: source {status.outcome.value}: {status.why}"
    if pipeline.unfit:
        thing = "window" if isinstance(pipeline.feed, WindowFeed) else "frame"
        found[f"unfit {name}"] = f"{name}: no {thing} can be used: {pipeline.unfit}"
    if pipeline.fault is not None:
        found[name] = f"{name}: {pipeline.fault.line()}"
    return found
