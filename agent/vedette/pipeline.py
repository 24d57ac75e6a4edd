"""source -> newest frame -> preprocess -> engine -> decode -> filter -> outbox: one thread a pipeline."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from . import clock
from .clock import ClockState
from .contract.errors import EngineFaultError, PictureError
from .contract.types import Classes, Detections, Frame, Result
from .delivery import Outbox, Stream
from .model import Model
from .mqtt.payloads import (
    MAX_OBJECTS,
    ClassesBody,
    DetectedObject,
    DetectionsBody,
    EngineRef,
    FrameInfo,
    FrameLatency,
    ModelRef,
    SeenClass,
)
from .sources import Grabber
from .stats import PipelineStats

log = logging.getLogger(__name__)

TOPIC: Final = "detections"
IDLE_S: Final = 0.5  # how long one turn waits for a frame; a turn is what the watchdog calls progress


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """Which classes are reported, and from which score on: one threshold a class, above 1 for never.

    ``thresholds``: (labels,) float32.
    """

    thresholds: np.ndarray[tuple[int], np.dtype[np.float32]]

    def __call__(self, result: Result) -> Result:
        """Those that pass, in their order."""
        if not len(result):
            return result
        return result.take(np.flatnonzero(result.scores >= self.thresholds[result.class_ids]))

    @property
    def lowest(self) -> float:
        """The score below which nothing needs to be decoded."""
        return float(min(1.0, self.thresholds.min()))


class Pipeline:
    """Runs one model on one source. `run` is its thread; all else may be called by any thread."""

    def __init__(
        self,
        name: str,
        grabber: Grabber,
        model: Model,
        label_filter: LabelFilter,
        outbox: Outbox,
        stats: PipelineStats,
        *,
        max_fps: float = 0.0,
        publish_empty: bool = True,
        clock_state: Callable[[], ClockState] = clock.clock_state,
    ) -> None:
        self.name = name
        self.grabber = grabber
        self.model = model
        self.stats = stats
        self._filter = label_filter
        self._outbox = outbox
        self._stream = Stream(name, TOPIC)
        self._min_interval_ns = int(1e9 / max_fps) if max_fps else 0
        self._publish_empty = publish_empty
        self._clock_state = clock_state
        self._labels = model.spec.labels
        self._model_ref = ModelRef(model.spec.name, model.spec.version, model.spec.sha256)
        description = model.engine.description
        self._engine_ref = EngineRef(description.runtime, description.delegate)
        self._encoder = msgspec.json.Encoder()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name=f"pipeline-{name}", daemon=True)
        self.turned_ns = clock.now_ns()
        """When the thread last finished a turn: an inference, or a wait for a frame. The watchdog's food."""
        self.first_result = threading.Event()
        self.ended = threading.Event()
        self.fault: EngineFaultError | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Lets the thread finish its frame."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def run(self) -> None:
        """The thread: until it is stopped, or its source has ended for good."""
        slot = self.grabber.slot
        next_ns = 0
        try:
            while not self._stop.is_set():
                frame = slot.get(IDLE_S)
                if frame is None:
                    self.turned_ns = clock.now_ns()
                    if slot.closed:
                        return
                    continue
                taken_ns = clock.now_ns()
                if self._min_interval_ns:
                    if taken_ns < next_ns:
                        self.stats.drop("rate_cap")
                        self.turned_ns = taken_ns
                        continue
                    next_ns = max(next_ns + self._min_interval_ns, taken_ns)
                self.process(frame, taken_ns)
                self.turned_ns = clock.now_ns()
        except EngineFaultError as error:
            self.fault = error
            log.error("pipeline %s: %s", self.name, error)
        finally:
            self.ended.set()

    def process(self, frame: Frame, taken_ns: int) -> None:
        """One frame, the whole way."""
        model = self.model
        begun = time.perf_counter_ns()
        try:
            placement = model.preprocess(frame.pixels)
        except PictureError as error:
            self.stats.drop("unfit_frame")
            log.warning("pipeline %s: frame %d passed over: %s", self.name, frame.seq, error)
            return
        preprocessed = time.perf_counter_ns()
        model.infer()
        inferred = time.perf_counter_ns()
        result = self._filter(model.decode(placement))
        decoded = time.perf_counter_ns()
        latency_ms = {
            "capture": frame.capture_ns / 1e6,
            "queue": (taken_ns - frame.captured_ns) / 1e6,
            "preprocess": (preprocessed - begun) / 1e6,
            "infer": (inferred - preprocessed) / 1e6,
            "decode": (decoded - inferred) / 1e6,
        }
        latency_ms["total"] = sum(latency_ms.values())
        self.stats.inferred(latency_ms)
        if len(result) or self._publish_empty:
            body = self._body(frame, result, latency_ms)
            if self._outbox.append(self._stream, frame.captured_ns, self._clock_state(), body) is None:
                self.stats.drop("outbox_full")
        if not self.first_result.is_set():
            self.first_result.set()

    def _body(self, frame: Frame, result: Result, latency_ms: dict[str, float]) -> bytes:
        info = FrameInfo(frame.seq, frame.width, frame.height)
        latency = FrameLatency(**{stage: round(value, 3) for stage, value in latency_ms.items()})
        cut = max(0, len(result) - MAX_OBJECTS)
        if cut:
            # best score first, so what is cut scores least
            result = result.take(np.arange(MAX_OBJECTS))
            self.stats.drop("objects_cut", cut)
        if isinstance(result, Detections):
            return self._encoder.encode(
                DetectionsBody(info, self._objects(result), self._model_ref, self._engine_ref, latency, cut)
            )
        return self._encoder.encode(
            ClassesBody(info, self._classes(result), self._model_ref, self._engine_ref, latency)
        )

    def _objects(self, found: Detections) -> list[DetectedObject]:
        rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        return [
            DetectedObject(
                self._labels[class_id],
                class_id,
                round(score, 4),
                (round(box[0], 4), round(box[1], 4), round(box[2], 4), round(box[3], 4)),
            )
            for class_id, score, box in rows
        ]

    def _classes(self, found: Classes) -> list[SeenClass]:
        rows = zip(found.class_ids.tolist(), found.scores.tolist(), strict=True)
        return [SeenClass(self._labels[class_id], class_id, round(score, 4)) for class_id, score in rows]


def make_filter(
    labels: Sequence[str], chosen: Sequence[str], threshold: float, thresholds: dict[str, float]
) -> LabelFilter:
    """``chosen``: the labels that are reported, none for all. Names must be among ``labels``: the caller has checked."""
    values = np.full(len(labels), threshold, np.float32)
    for index, label in enumerate(labels):
        if label in thresholds:
            values[index] = thresholds[label]
        if chosen and label not in chosen:
            values[index] = 2.0
    return LabelFilter(values)
