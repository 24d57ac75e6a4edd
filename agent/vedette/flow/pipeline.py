"""One sample, the whole way: feed -> preprocess -> engine -> decode -> reporter. Two threads a pipeline, and a lane's.

While samples come faster than that, each of the three has its own: one is prepared and one reported while the engine runs.
Where there is time between two samples (`LEISURE`), the first thread does it all: nobody has to be woken, and each step
finds what the last one wrote in its own core's caches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from vedette import clock
from vedette.contract.bgr import in_bgr
from vedette.contract.errors import FaultError, PictureError, ReadingsError, UndecodableError
from vedette.contract.image import Placement
from vedette.contract.types import Detections, Frame, Picture, Result, UInt8Array, Window
from vedette.engine import Engine, EngineDescription
from vedette.messages.reporter import Reporter
from vedette.models.model import Model
from vedette.sources import FROZEN, STOPPED, UNDECODABLE

from .doubts import Doubts
from .feed import Feed
from .interlude import Interludes
from .lane import Seat
from .selection import RateCap
from .stats import PipelineStats

log = logging.getLogger(__name__)

IDLE_S: Final = 0.5  # how long one turn waits for a sample; a turn is what the watchdog calls progress
BUFFERS: Final = 2  # sets of tensors: one in the engine, one before or behind it; one more for each inference abreast
EARLY_NS: Final = 300_000  # how much before the engine is free a camera's frame should be ready
PATIENCE: Final = 1 / 8  # of an inference, for which the engine may be kept waiting for a camera's next frame
LEISURE: Final = 2.0  # times all that a sample takes, from one to the next, from which on one thread does it all
RATE_CAP: Final = "rate_cap"  # why frames above `max_fps` are dropped
UNFIT_IN_A_ROW: Final = 10  # samples that cannot be used, from which on it is the source that is wrong
PASSED: Final = (RATE_CAP, UNDECODABLE, FROZEN, STOPPED)  # why a feed lets samples go that are counted here
AVERAGING: Final = 0.2  # weight of the newest time in a moving average


class Views(Protocol):
    """What a detector is shown of each frame, in the place of all of it. See `vedette.flow.regions`."""

    @property
    def count(self) -> int:
        """How many views of every frame."""
        ...

    def blanked(self, pixels: UInt8Array) -> UInt8Array:
        """A frame (height, width, 3) as anybody may see it: itself, or a copy."""
        ...

    def views(self, pixels: UInt8Array) -> Sequence[UInt8Array]:
        """``count`` of them, of a frame (height, width, 3)."""
        ...

    def to_frame(self, found: Sequence[Detections], width: int, height: int) -> Detections:
        """What was found in each view, as fractions of it -> what is in the frame, as fractions of that, each once."""
        ...


class Gate(Protocol):
    """Says which frames need no look. See `vedette.flow.motion`."""

    def skip(self, pixels: Picture, now_ns: int, *, busy: bool = False) -> bool:
        """Whether this frame may be skipped. ``busy``: what the last one showed moves. Raises `PictureError` for one that
        cannot be used."""
        ...


@dataclass(slots=True)
class _Work:
    """One sample on its way, with the buffers it goes in. Times: time.perf_counter_ns, but ``taken_ns``: CLOCK_BOOTTIME.

    ``models``: buffers for each view of the sample; ``placements``: where these views lie. ``number``: of those that were
    submitted to the lane, from 1 on.
    """

    sample: Frame | Window
    models: Sequence[Model]
    placements: Sequence[Placement]
    taken_ns: int
    begun: int
    preprocessed: int
    number: int = 0
    entered: int = 0
    inferred: int = 0
    engine: EngineDescription | None = None
    fault: FaultError | None = None


class Pipeline:
    """Runs one model on one feed.

    A thread prepares a sample, a lane that may be shared infers and does nothing else, a thread finishes: decodes and
    reports; or the first does all of it, see the module. `BUFFERS` sets of tensors go round between them, so that no more
    samples than that are under way. They are reported in their order, also where the seat lets several inferences run
    abreast. All public things may be called by any thread.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        models: Sequence[Sequence[Model]],
        seat: Seat,
        reporter: Reporter,
        stats: PipelineStats,
        *,
        max_fps: float = 0.0,
        regions: Views | None = None,
        gate: Gate | None = None,
    ) -> None:
        """``models``: `BUFFERS` sets, and one more for each inference abreast beyond the first; each has a model for every
        view that ``regions`` makes of a frame (one without)."""
        self.name = name
        self.feed = feed
        self.model = models[0][0]
        self.seat = seat
        self.reporter = reporter
        self.stats = stats
        self.gate = gate
        self.enabled = threading.Event()
        self.enabled.set()
        self._models = models
        self._regions = regions
        self._cap = RateCap(max_fps)
        self._stop = threading.Event()
        self._free: SimpleQueue[Sequence[Model]] = SimpleQueue()
        for buffers in models:
            self._free.put(buffers)
        self._interludes = Interludes()
        self._asked = self._interludes.waiting  # looked at before every sample
        self._inferred: SimpleQueue[_Work | None] = SimpleQueue()  # None: nothing more comes this way
        self._submitted = 0  # the first thread's; final once it has said None
        self._finished = 0  # of these; the second thread's
        self._passing = threading.Lock()
        self._passed = dict.fromkeys(PASSED, 0)  # under it: samples that the feed let go, as far as they are counted
        self._taken_ns = 0  # when the first thread took its last sample
        self._engine_free_ns = 0  # when it is expected to be this pipeline's turn again
        self._infer_ns = 0.0  # moving average of the engine's time
        self._preprocess_ns = 0.0
        self._report_ns = 0.0
        self._doubts = Doubts(stats)
        self._unfit = ""  # what was wrong with the last one that was
        self._undecodable = False  # whether it was that
        self._unfit_in_a_row = 0
        stages = (self._prepare, self._finish)
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
        return min(*self._turned_ns.values(), self.seat.lane.turned_ns)

    @property
    def unfit(self) -> str:
        """What is wrong with the samples, while `UNFIT_IN_A_ROW` and more could not be used; empty otherwise."""
        return self._unfit if self._unfit_in_a_row >= UNFIT_IN_A_ROW else ""

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Lets them finish the samples that are under way. What its feed, which was stopped before, still holds then is
        counted."""
        self._stop.set()
        deadline = clock.now_ns() + int(timeout_s * 1e9)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, (deadline - clock.now_ns()) / 1e9))
        while not self.feed.closed and self.feed.take(0.0) is not None:
            self.stats.drop(STOPPED)

    def count_passed(self) -> None:
        """What the feed has let go, above the rate cap, undecoded or at its end, goes to the account. Also for whoever reads
        it: of two counts that belong together, frames and drops, the first grows by itself."""
        with self._passing:
            for reason, counted in self._passed.items():
                passed = self.feed.passed(reason)
                if passed != counted:
                    self.stats.drop(reason, passed - counted)
                    self._passed[reason] = passed

    def news(self) -> list[tuple[str, str]]:
        """See `Doubts.news`."""
        return self._doubts.news()

    def decide_from(self, score_threshold: float) -> None:
        """From which score on results are decoded, from the next sample on."""
        first, *others = (model for buffers in self._models for model in buffers)
        first.decide_from(score_threshold)
        for other in others:
            other.decide_as(first)

    def between(self, action: Callable[[], None]) -> Future[None]:
        """``action`` is called once between two samples, when nothing is under way: all that was taken is reported, and
        whoever takes the next one is who calls. It must not wait.

        The future says when that was, or what it raised; cancelled where the pipeline ends before.
        """
        return self._interludes.ask(action)

    def equip(self, models: Sequence[Sequence[Model]], seat: Seat) -> None:
        """Another model, for the samples to come; the buffers are as of the constructor. Only in an action of `between`."""
        self.model = models[0][0]
        self.seat = seat
        self._models = models
        self._engine_free_ns = 0
        self.feed.busy_until(0)
        self._infer_ns = self._preprocess_ns = self._report_ns = 0.0

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
        """The first thread: until it is stopped, or the feed has ended for good."""
        try:
            models: Sequence[Model] | None = None
            while not self._stop.is_set():
                if not self._asked.empty():
                    self._interlude(models)
                    models = None
                models = models or _next(self._free)
                if models is not None:
                    sample = self._take()
                    if sample is not None:
                        work = self._preprocess(sample, models)
                        sample = None  # or its pixels would be held until the next one has come
                        if work is not None and not self._at_leisure(work):
                            self._submitted += 1
                            work.number = self._submitted
                            self._expect(max(self._engine_free_ns, clock.now_ns()))
                            self.feed.busy_until(self._next_take_ns)
                            self.seat.submit(partial(self._infer, work), partial(self._inferred_or_not, work))
                            models = None
                    elif self.feed.closed:
                        return
                self._turned("_prepare")
        finally:
            self.count_passed()
            self._inferred.put(None)
            self._interludes.close()

    def _interlude(self, models: Sequence[Model] | None) -> None:
        """Does what was asked for between two samples, once all buffers have come back. ``models``: those that are here."""
        interlude = self._asked.get()
        held = [models] if models is not None else []
        while len(held) < len(self._models) and not interlude.done.cancelled():
            if self._stop.is_set():
                interlude.done.cancel()
                break
            buffers = _next(self._free)
            if buffers is not None:
                held.append(buffers)
            self._turned("_prepare")
        if interlude.perform(self.name):
            held = list(self._models)
        for buffers in held:
            self._free.put(buffers)

    def _at_leisure(self, work: _Work) -> bool:
        """Infers and reports on the first thread, where there is time for it; whether it did.

        Nothing else of this pipeline may be under way, so that samples keep their order, and nobody else's in the lane.
        """
        since_ns = work.taken_ns - self._taken_ns
        self._taken_ns = work.taken_ns
        takes_ns = self._preprocess_ns + self._infer_ns + self._report_ns
        if not self._infer_ns or since_ns < LEISURE * takes_ns or self._finished != self._submitted:
            return False
        if not self.seat.run_now(partial(self._infer, work)):
            return False
        self._report(work)
        return True

    def _infer(self, work: _Work, engine: Engine) -> None:
        """On a lane's thread, where nothing stands between one inference and the next; or on the first thread."""
        work.entered = time.perf_counter_ns()
        self._expect(clock.now_ns())
        for model in work.models:
            model.infer(engine)
        work.inferred = time.perf_counter_ns()
        work.engine = engine.description  # an accelerated one's is of whoever ran it this time
        self._infer_ns = _averaged(self._infer_ns, work.inferred - work.entered)

    def _expect(self, begins_ns: int) -> None:
        """An inference begins then. Told when it does, and already when it is submitted: the time at which the engine will
        be free would until then be that of the inference before, and a frame taken for it an inference too early."""
        self._engine_free_ns = begins_ns + int(self._infer_ns * self.seat.lane.crowd / self.seat.abreast)

    def _inferred_or_not(self, work: _Work, fault: FaultError | None) -> None:
        """On a lane's thread, which must not wait."""
        work.fault = fault
        self._inferred.put(work)

    def _finish(self) -> None:
        """The second thread: until the first has ended, and all that it handed to the lane has come back."""
        closing = False
        done: dict[int, _Work] = {}  # by number: those that have come before their turn
        try:
            while not (closing and self._finished == self._submitted):
                try:
                    work = self._inferred.get(timeout=IDLE_S)
                except Empty:
                    self._turned("_finish")
                    continue
                if work is None:
                    closing = True
                    continue
                done[work.number] = work
                while (following := done.pop(self._finished + 1, None)) is not None:
                    if following.fault is not None:
                        raise following.fault
                    self._report(following)
                    self._free.put(following.models)
                    self._finished += 1
                self._turned("_finish")
        finally:
            self.reporter.end(clock.now_ns())
            for stage in self._turned_ns:
                self._turned(stage)

    @property
    def _next_take_ns(self) -> int:
        """When to take the next sample, if the engine is not to wait for it."""
        return self._engine_free_ns - int(self._preprocess_ns) - EARLY_NS

    def _take(self) -> Frame | Window | None:
        """The next sample to work on; None when none came in time, or this one is not wanted, which is counted."""
        # a camera's frame is taken as late as the engine can have it, so that it is the newest then
        early_ns = self._next_take_ns - clock.now_ns()
        if self.feed.live and early_ns > 0:
            self._stop.wait(early_ns / 1e9)
        sample = self.feed.take(IDLE_S, int(PATIENCE * self._infer_ns))
        self.count_passed()
        if sample is None:
            if self.feed.live and self.feed.status().outcome is not None:
                self._unseen(clock.now_ns())
            return None
        if not self.enabled.is_set():
            self.stats.drop("disabled")
            self._unseen(sample.captured_ns)
            return None
        if not self._cap.due(clock.now_ns()):
            self.stats.drop(RATE_CAP)
            return None
        self.feed.not_before(RATE_CAP, self._cap.due_ns)
        if self.gate is None or not isinstance(sample, Frame):
            return sample
        try:
            still = self.gate.skip(sample.pixels, sample.scene_ns, busy=self.reporter.busy)
        except PictureError as error:
            self._unusable(sample, error)
            return None
        if still:
            if self._undecodable:
                self._unfit_in_a_row = 0  # this one was decoded
            self.stats.drop("no_motion")
            self.reporter.hold(sample.scene_ns)
            return None
        return sample

    def _unseen(self, now_ns: int) -> None:
        """The source is away, or the pipeline off. Told once nothing is under way that the other thread would report."""
        if self._finished == self._submitted:
            self.reporter.unseen(now_ns)

    def _preprocess(self, sample: Frame | Window, models: Sequence[Model]) -> _Work | None:
        """None for a frame that cannot be used; counted."""
        taken_ns = clock.now_ns()
        begun = time.perf_counter_ns()
        try:
            if isinstance(sample, Window):
                placements = [models[0].preprocess(sample)]
            else:
                views: Sequence[Picture] = (sample.pixels,)
                if self._regions:
                    shown = self._regions.blanked(in_bgr(sample.pixels))
                    sample = replace(sample, pixels=shown)  # for snapshots, too
                    views = self._regions.views(shown)
                placements = [model.preprocess(view) for model, view in zip(models, views, strict=True)]
        except (PictureError, ReadingsError) as error:
            self._unusable(sample, error)
            return None
        preprocessed = time.perf_counter_ns()
        self._unfit_in_a_row = 0
        self._preprocess_ns = _averaged(self._preprocess_ns, preprocessed - begun)
        if isinstance(sample, Frame) and not self.reporter.looks:
            sample = sample.without_pixels()  # the source may have the memory for the next one already
        return _Work(sample, models, placements, taken_ns, begun, preprocessed)

    def _unusable(self, sample: Frame | Window, error: PictureError | ReadingsError) -> None:
        """Counted, and said once, not for each one."""
        unfit = "unfit_frame" if isinstance(sample, Frame) else "unfit_window"
        self._undecodable = isinstance(error, UndecodableError)
        self.stats.drop(UNDECODABLE if self._undecodable else unfit)
        self._unfit_in_a_row += 1
        if str(error) != self._unfit:
            self._unfit = str(error)
            log.warning("pipeline %s: %d passed over: %s", self.name, sample.seq, error)

    def _report(self, work: _Work) -> None:
        """Decodes, and tells the reporter what was found and how long it took. One thread at a time: see `_at_leisure`."""
        sample = work.sample
        begun = time.perf_counter_ns()
        found = [model.decode(placement) for model, placement in zip(work.models, work.placements, strict=True)]
        doubts = [model.doubt for model in work.models if model.doubt is not None]
        if doubts and not self._doubts.trusts(doubts):
            return
        result = self._merged(sample, found)
        decoded = time.perf_counter_ns()
        capture_ns = sample.capture_ns if isinstance(sample, Frame) else 0
        waited = work.entered - work.preprocessed + begun - work.inferred
        latency_ms = {
            "capture": capture_ns / 1e6,
            "queue": (work.taken_ns - sample.captured_ns + waited) / 1e6,
            "preprocess": (work.preprocessed - work.begun) / 1e6,
            "infer": (work.inferred - work.entered) / 1e6,
            "decode": (decoded - begun) / 1e6,
        }
        latency_ms["total"] = sum(latency_ms.values())
        self.stats.inferred(latency_ms)
        self.reporter(sample, result, latency_ms, work.engine)
        self._report_ns = _averaged(self._report_ns, time.perf_counter_ns() - begun)
        if not self.first_result.is_set():
            self.first_result.set()

    def _merged(self, sample: Frame | Window, found: Sequence[Result]) -> Result:
        if self._regions is None or isinstance(sample, Window) or not isinstance(found[0], Detections):
            return found[0]
        return self._regions.to_frame(
            [result for result in found if isinstance(result, Detections)], sample.width, sample.height
        )


def _averaged(average: float, newest: float) -> float:
    """The moving average with one more value, which is all of it where there was none: it is believed from the first on."""
    return average + (newest - average) * AVERAGING if average else newest


def _next(queue: SimpleQueue[Sequence[Model]]) -> Sequence[Model] | None:
    """Waits a while for a free set of buffers."""
    try:
        return queue.get(timeout=IDLE_S)
    except Empty:
        return None
