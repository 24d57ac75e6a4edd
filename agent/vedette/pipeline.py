"""source -> newest frame -> preprocess -> engine -> decode -> filter -> outbox: two lanes a pipeline."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
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
LANES: Final = 2  # one in the engine, one before and after it
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


class _Turns:
    """Lets numbered frames through one place in their order, one at a time.

    At most ``lanes`` numbers are under way, so that each has a place of its own to wait in. A `SimpleQueue` is native
    code: a `Condition` would wake its waiter through several Python locks, on the way from one inference to the next.
    """

    def __init__(self, lanes: int) -> None:
        self._places: list[SimpleQueue[bool]] = [SimpleQueue() for _ in range(lanes)]
        self._places[0].put(True)

    def wait(self, number: int) -> bool:
        """Until it is this frame's turn; False when there will be no more turns."""
        place = self._places[number % len(self._places)]
        if place.get():
            return True
        place.put(False)
        return False

    def done(self, number: int) -> None:
        """This frame has had its turn; the next one's begins."""
        self._places[(number + 1) % len(self._places)].put(True)

    def stop(self) -> None:
        """No more turns; whoever waits is woken."""
        for place in self._places:
            place.put(False)


@dataclass(slots=True)
class _Lane:
    """A thread with buffers of its own. ``turned_ns``: when it last finished a turn, or found nothing to do."""

    model: Model
    turned_ns: int
    thread: threading.Thread | None = None


class Pipeline:
    """Runs one model on one source.

    Two lanes share the engine: while one frame is inferred, the other lane preprocesses the next frame and decodes the
    last one. Frames keep their order, through the engine and into the outbox, by taking numbers. All public things may
    be called by any thread.
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
        lanes: int = LANES,
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
        self._taking = threading.Lock()  # who takes the next frame, and its number
        self._numbers = 0
        self._engine_turns = _Turns(lanes)
        self._outbox_turns = _Turns(lanes)
        self._engine_free_ns = 0  # when the engine is expected to be free again
        self._infer_ns = 0.0  # moving average of its time
        self._preprocess_ns = 0.0
        self._unfit = ""
        now = clock.now_ns()
        self._lanes = [_Lane(model if n == 0 else model.sibling(), now) for n in range(lanes)]
        self._left = lanes
        self.first_result = threading.Event()
        self.ended = threading.Event()
        self.fault: EngineFaultError | None = None

    @property
    def turned_ns(self) -> int:
        """When the lane that is furthest behind last finished a turn. The watchdog's food."""
        return min(lane.turned_ns for lane in self._lanes)

    def start(self) -> None:
        """Starts the lanes' threads."""
        for number, lane in enumerate(self._lanes):
            name = f"pipeline-{self.name}-{number}"
            lane.thread = threading.Thread(target=self._run, args=(lane,), name=name, daemon=True)
            lane.thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Lets the lanes finish their frames."""
        self._stop.set()
        deadline = clock.now_ns() + int(timeout_s * 1e9)
        for lane in self._lanes:
            if lane.thread is not None:
                lane.thread.join(max(0.0, (deadline - clock.now_ns()) / 1e9))
        self._engine_turns.stop()
        self._outbox_turns.stop()

    def _run(self, lane: _Lane) -> None:
        """A lane's thread: until it is stopped, or the source has ended for good."""
        try:
            while not self._stop.is_set():
                if not self._taking.acquire(timeout=IDLE_S):
                    lane.turned_ns = clock.now_ns()
                    continue
                try:
                    frame = self._take()
                    taken_ns = clock.now_ns()
                    number = self._numbers
                    self._numbers += frame is not None
                finally:
                    self._taking.release()
                if frame is not None:
                    self._process(lane, frame, taken_ns, number)
                elif self.grabber.slot.closed:
                    return
                lane.turned_ns = clock.now_ns()
        except EngineFaultError as error:
            self.fault = error
            log.error("pipeline %s: %s", self.name, error)
            self._stop.set()
            self._engine_turns.stop()
            self._outbox_turns.stop()
        finally:
            with self._taking:
                self._left -= 1
                if self._left == 0:
                    self.ended.set()

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

    def _process(self, lane: _Lane, frame: Frame, taken_ns: int, number: int) -> None:
        """One frame, the whole way."""
        model = lane.model
        begun = time.perf_counter_ns()
        try:
            placement = model.preprocess(frame.pixels)
        except PictureError as error:
            self.stats.drop("unfit_frame")
            if str(error) != self._unfit:  # said once, not for each frame; all of them are counted
                self._unfit = str(error)
                log.warning("pipeline %s: frame %d passed over: %s", self.name, frame.seq, error)
            for turns in (self._engine_turns, self._outbox_turns):
                if turns.wait(number):
                    turns.done(number)
            return
        preprocessed = time.perf_counter_ns()
        if not self._engine_turns.wait(number):
            return
        entered = time.perf_counter_ns()
        self._engine_free_ns = clock.now_ns() + int(self._infer_ns)
        model.infer()
        inferred = time.perf_counter_ns()
        self._engine_turns.done(number)
        self._infer_ns += (inferred - entered - self._infer_ns) * AVERAGING
        self._preprocess_ns += (preprocessed - begun - self._preprocess_ns) * AVERAGING
        result = self._filter(model.decode(placement))
        decoded = time.perf_counter_ns()
        latency_ms = {
            "capture": frame.capture_ns / 1e6,
            "queue": (taken_ns - frame.captured_ns + entered - preprocessed) / 1e6,
            "preprocess": (preprocessed - begun) / 1e6,
            "infer": (inferred - entered) / 1e6,
            "decode": (decoded - inferred) / 1e6,
        }
        latency_ms["total"] = sum(latency_ms.values())
        body = self._body(frame, result, latency_ms) if len(result) or self._publish_empty else b""
        if not self._outbox_turns.wait(number):
            return
        self.stats.inferred(latency_ms)
        if body:
            self._outbox.append(self._stream, frame.captured_ns, self._clock_state(), body)
        self._outbox_turns.done(number)
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
