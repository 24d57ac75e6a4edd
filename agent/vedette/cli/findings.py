"""What `vedette infer` says of a sample: as the agent would publish it, and as lines of text."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vedette.contract.errors import ModelError
from vedette.contract.types import Detections, Result, UInt8Array, Window
from vedette.flow.regions import Regions
from vedette.messages.bodies import BodyWriter
from vedette.models.model import Doubt, Model
from vedette.mqtt.results import EngineRef, FrameInfo, ModelRef, WindowInfo

KINDS: Final = ("objects", "classes", "poses", "segments", "anomaly", "values")
STAGES: Final = ("preprocess", "infer", "decode")


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. ``kind``: one of `KINDS`, ``value``: what a message says under that name. ``latency_ms``: by stage.
    ``doubt``: why it says less than the network gave; "" for no reason."""

    result: Result
    kind: str
    value: Any
    latency_ms: dict[str, float]
    doubt: str


class Finder:
    """Runs a model on samples one by one, timed."""

    def __init__(self, model: Model, regions: Regions | None = None) -> None:
        """``regions``: the views of a picture that a detector is shown."""
        self.model = model
        self._regions = regions
        self._latency = dict.fromkeys(("capture", "queue", *STAGES, "total"), 0.0)
        description = model.engine.description
        self.model_ref = ModelRef(model.spec.name, model.spec.version, model.spec.sha256)
        self._writer = BodyWriter(
            model.spec.labels, self.model_ref, EngineRef(description.runtime, description.delegate)
        )

    def __call__(self, sample: UInt8Array | Window) -> Finding:
        """``sample``: a picture, (height, width, 3) uint8 BGR, or a window. Raises `ModelError` where the network gives no
        numbers, which would look like nothing found, or no scores."""
        views: Sequence[UInt8Array | Window] = (sample,)
        if self._regions is not None and not isinstance(sample, Window):
            views = self._regions.views(sample)
        spans = [0.0] * len(STAGES)
        found: list[Result] = []
        doubts: list[Doubt] = []
        for view in views:
            stamps = [time.perf_counter_ns()]
            placement = self.model.preprocess(view)
            stamps.append(time.perf_counter_ns())
            self.model.infer()
            stamps.append(time.perf_counter_ns())
            found.append(self.model.decode(placement))
            stamps.append(time.perf_counter_ns())
            doubts += [self.model.doubt] if self.model.doubt is not None else []
            spans = [span + (b - a) / 1e6 for span, (a, b) in zip(spans, itertools.pairwise(stamps), strict=True)]
        for doubt in doubts:
            if doubt.broken:
                raise ModelError(doubt.why, where=self.model.spec.path)
        result = found[0]
        if self._regions is not None and not isinstance(sample, Window) and isinstance(result, Detections):
            begun = time.perf_counter_ns()
            detections = [one for one in found if isinstance(one, Detections)]
            result = self._regions.to_frame(detections, sample.shape[1], sample.shape[0])
            spans[-1] += (time.perf_counter_ns() - begun) / 1e6
        origin = window_info(sample) if isinstance(sample, Window) else FrameInfo(1, sample.shape[1], sample.shape[0])
        body = msgspec.json.decode(self._writer(result, origin, self._latency).json)
        kind = next(name for name in KINDS if name in body)
        latency_ms = dict(zip(STAGES, (round(s, 3) for s in spans), strict=True))
        return Finding(result, kind, body[kind], latency_ms, doubts[0].why if doubts else "")

    def document(self, results: list[dict[str, object]]) -> dict[str, object]:
        """What ``--json`` prints."""
        description = self.model.engine.description
        return {
            "model": msgspec.to_builtins(self.model_ref),
            "engine": {
                "runtime": description.runtime,
                "delegate": description.delegate,
                "threads": description.threads,
            },
            "results": results,
        }


def window_info(window: Window) -> WindowInfo:
    """A window as messages name it."""
    return WindowInfo(window.seq, len(window.values), window.first_ns // 1000, window.last_ns // 1000)


def lines(finding: Finding) -> list[str]:
    """A finding as text, a line a thing found."""
    value = finding.value
    if finding.kind == "anomaly":
        return [anomaly_line(value)]
    if finding.kind == "values":
        return [f"{_number(number):>12}  {name}" for name, number in value.items()]
    if finding.kind == "segments":
        return [f"{item['share']:7.2%}  {item['label']:<16} {_box(item)}".rstrip() for item in value]
    if finding.kind == "poses":
        return [f"{item['score']:.2f}  {_points(item['keypoints'])}" for item in value]
    return [f"{item['score']:.2f}  {item['label']:<16} {_box(item)}" for item in value]


def anomaly_line(value: dict[str, Any]) -> str:
    """Score, verdict, and the channels that are furthest off."""
    far = sorted(value["channels"].items(), key=lambda item: -(float("inf") if item[1] is None else item[1]))
    said = "anomalous" if value["anomalous"] else "normal"
    return f"{_number(value['score']):>12}  {said:<9}  " + ", ".join(f"{n} {_number(e)}" for n, e in far[:4])


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"


def _box(item: dict[str, Any]) -> str:
    return " ".join(f"{v:.3f}" for v in item["box"]) if "box" in item else ""


def _points(keypoints: dict[str, Any]) -> str:
    return "  ".join(f"{name} {x:.3f} {y:.3f} ({score:.2f})" for name, (x, y, score) in keypoints.items())
