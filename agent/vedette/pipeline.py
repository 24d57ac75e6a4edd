"""source -> newest frame -> preprocess -> engine -> decode -> filter -> outbox: three threads a pipeline."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

import msgspec
import numpy as np

from . import clock
from .clock import ClockState
from .contract.errors import FaultError, PictureError
from .contract.image import Placement
from .contract.types import Classes, Detections, Frame, Result
from .delivery import Outbox, Stream
from .model import Model
from .mqtt.payloads import (
    MAX_BODY,
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
BUFFERS: Final = 2  # sets of tensors: one in the engine, one before or behind it
EARLY_NS: Final = 300_000  # how much before the engine is free a camera's frame should be ready
AVERAGING: Final = 0.2  # weight of the newest time in a moving average


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


@dataclass(slots=True)
class _Work:
    """One frame on its way, with the buffers it goes in. Times: time.perf_counter_ns, but ``taken_ns``: CLOCK_BOOTTIME."""

    frame: Frame
    model: Model
    placement: Placement
    taken_ns: int
    begun: int
    preprocessed: int
    entered: int = 0
    inferred: int = 0


class Pipeline:
    """Runs one model on one source.

    Three threads in a row: one prepares a frame, one infers and does nothing else, one finishes: decodes, filters,
    appends to the outbox. `BUFFERS` sets of tensors go round between them, so that no more frames than that are under
    way, and frames keep their order. All public things may be called by any thread.
    """

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
        self._next_due_ns = 0
        self._publish_empty = publish_empty
        self._clock_state = clock_state
        self._labels = model.spec.labels
        self._model_ref = ModelRef(model.spec.name, model.spec.version, model.spec.sha256)
        description = model.engine.description
        self._engine_ref = EngineRef(description.runtime, description.delegate)
        self._encoder = msgspec.json.Encoder()
        self._stop = threading.Event()
        self._free: SimpleQueue[Model] = SimpleQueue()
        for number in range(BUFFERS):
            self._free.put(model.sibling() if number else model)
        # None: nothing more comes this way
        self._prepared: SimpleQueue[_Work | None] = SimpleQueue()
        self._inferred: SimpleQueue[_Work | None] = SimpleQueue()
        self._engine_free_ns = 0  # when the engine is expected to be free again
        self._infer_ns = 0.0  # moving average of its time
        self._preprocess_ns = 0.0
        self._unfit = ""
        stages = (self._prepare, self._infer, self._finish)
        self._turned_ns = dict.fromkeys((stage.__name__ for stage in stages), clock.now_ns())
        self._threads = [
            threading.Thread(target=self._run, args=(stage,), name=f"{stage.__name__[1:]}-{name}", daemon=True)
            for stage in stages
        ]
        self.first_result = threading.Event()
        self.ended = threading.Event()
        self.fault: FaultError | None = None

    @property
    def turned_ns(self) -> int:
        """When the thread that is furthest behind last finished a turn, or found nothing to do. The watchdog's food."""
        return min(self._turned_ns.values())

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Lets them finish the frames that are under way."""
        self._stop.set()
        deadline = clock.now_ns() + int(timeout_s * 1e9)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, (deadline - clock.now_ns()) / 1e9))

    def _run(self, stage: Callable[[], None]) -> None:
        """A thread. Whatever ends it but its own end ends the pipeline, and is its fault for the service to see."""
        try:
            stage()
        except FaultError as error:
            self.fault = error
            log.error("pipeline %s: %s", self.name, error)
        except Exception as error:
            self.fault = FaultError("a fault of ours", where=f"pipeline {self.name}", found=repr(error))
            log.exception("pipeline %s: %s", self.name, self.fault)
        finally:
            if self.fault is not None:
                self._stop.set()
            if stage == self._finish:
                self.ended.set()

    def _turned(self, stage: str) -> None:
        self._turned_ns[stage] = clock.now_ns()

    def _prepare(self) -> None:
        """The first thread: until it is stopped, or the source has ended for good."""
        try:
            model: Model | None = None
            while not self._stop.is_set():
                model = model or _next(self._free)
                if model is not None:
                    frame = self._take()
                    if frame is not None:
                        work = self._preprocess(frame, model)
                        if work is not None:
                            self._prepared.put(work)
                            model = None
                    elif self.grabber.slot.closed:
                        return
                self._turned("_prepare")
        finally:
            self._prepared.put(None)

    def _infer(self) -> None:
        """The second thread: nothing stands between one inference and the next."""
        try:
            while True:
                try:
                    work = self._prepared.get(timeout=IDLE_S)
                except Empty:
                    self._turned("_infer")
                    continue
                if work is None:
                    return
                work.entered = time.perf_counter_ns()
                self._engine_free_ns = clock.now_ns() + int(self._infer_ns)
                work.model.infer()
                work.inferred = time.perf_counter_ns()
                self._inferred.put(work)
                self._infer_ns += (work.inferred - work.entered - self._infer_ns) * AVERAGING
                self._turned("_infer")
        finally:
            self._inferred.put(None)

    def _finish(self) -> None:
        """The third thread."""
        try:
            while True:
                try:
                    work = self._inferred.get(timeout=IDLE_S)
                except Empty:
                    self._turned("_finish")
                    continue
                if work is None:
                    return
                self._report(work)
                self._free.put(work.model)
                self._turned("_finish")
        finally:
            for stage in self._turned_ns:
                self._turned(stage)

    def _take(self) -> Frame | None:
        """The next frame to work on; None when none came in time or it was over the rate cap."""
        slot = self.grabber.slot
        # a camera's frame is taken as late as the engine can have it, so that it is the newest then
        early_ns = self._engine_free_ns - self._preprocess_ns - EARLY_NS - clock.now_ns()
        if self.grabber.live and early_ns > 0:
            self._stop.wait(early_ns / 1e9)
        frame = slot.get(IDLE_S)
        if frame is None or not self._min_interval_ns:
            return frame
        now = clock.now_ns()
        if now < self._next_due_ns:
            self.stats.drop("rate_cap")
            return None
        self._next_due_ns = max(self._next_due_ns + self._min_interval_ns, now)
        return frame

    def _preprocess(self, frame: Frame, model: Model) -> _Work | None:
        """None for a frame that cannot be used; counted."""
        taken_ns = clock.now_ns()
        begun = time.perf_counter_ns()
        try:
            placement = model.preprocess(frame.pixels)
        except PictureError as error:
            self.stats.drop("unfit_frame")
            if str(error) != self._unfit:  # said once, not for each frame; all of them are counted
                self._unfit = str(error)
                log.warning("pipeline %s: frame %d passed over: %s", self.name, frame.seq, error)
            return None
        preprocessed = time.perf_counter_ns()
        self._preprocess_ns += (preprocessed - begun - self._preprocess_ns) * AVERAGING
        return _Work(frame, model, placement, taken_ns, begun, preprocessed)

    def _report(self, work: _Work) -> None:
        """Decodes, filters, and leaves the message in the outbox."""
        frame = work.frame
        begun = time.perf_counter_ns()
        result = self._filter(work.model.decode(work.placement))
        decoded = time.perf_counter_ns()
        waited = work.entered - work.preprocessed + begun - work.inferred
        latency_ms = {
            "capture": frame.capture_ns / 1e6,
            "queue": (work.taken_ns - frame.captured_ns + waited) / 1e6,
            "preprocess": (work.preprocessed - work.begun) / 1e6,
            "infer": (work.inferred - work.entered) / 1e6,
            "decode": (decoded - begun) / 1e6,
        }
        latency_ms["total"] = sum(latency_ms.values())
        self.stats.inferred(latency_ms)
        if len(result) or self._publish_empty:
            body = self._body(frame, result, latency_ms)
            self._outbox.append(self._stream, frame.captured_ns, self._clock_state(), body)
        if not self.first_result.is_set():
            self.first_result.set()

    def _body(self, frame: Frame, result: Result, latency_ms: dict[str, float]) -> bytes:
        info = FrameInfo(frame.seq, frame.width, frame.height)
        latency = FrameLatency(**{stage: round(value, 3) for stage, value in latency_ms.items()})
        kept = min(len(result), MAX_OBJECTS)
        body = self._encode(info, result, kept, latency)
        while kept and len(body) > MAX_BODY:
            kept = kept * MAX_BODY // len(body)
            body = self._encode(info, result, kept, latency)
        self.stats.drop("objects_cut", len(result) - kept)
        return body

    def _encode(self, info: FrameInfo, result: Result, kept: int, latency: FrameLatency) -> bytes:
        cut = len(result) - kept
        if cut:
            # best score first, so what is cut scores least
            result = result.take(np.arange(kept))
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


def _next(queue: SimpleQueue[Model]) -> Model | None:
    """Waits a while for a free set of buffers."""
    try:
        return queue.get(timeout=IDLE_S)
    except Empty:
        return None
