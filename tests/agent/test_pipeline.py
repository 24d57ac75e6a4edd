"""The pipeline with a small engine of its own: what is filtered, capped, passed over and counted on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real import DEADLINE_S, wait_for

from vedette import clock
from vedette.contract.errors import EngineFaultError, SourceError
from vedette.contract.manifest import (
    BoxesOutput,
    ClassifyOutput,
    HeatmapOutput,
    ImageInput,
    OutputSpec,
    PoseOutput,
    PostprocessOutput,
    SegmentOutput,
    YoloOutput,
)
from vedette.contract.types import Classes, Detections, Frame, Tensor, TensorSpec, UInt8Array
from vedette.delivery import Stream
from vedette.engine.base import EngineDescription
from vedette.flow.feed import FrameFeed
from vedette.flow.lane import Lane, Turns
from vedette.flow.pipeline import BUFFERS, UNFIT_IN_A_ROW, Pipeline
from vedette.flow.regions import RegionOptions, Regions
from vedette.flow.selection import make_filter
from vedette.flow.stats import PipelineStats
from vedette.follow.events import Scene, SceneOptions
from vedette.follow.following import FollowedScene, Following, Unfollowed
from vedette.follow.track import Tracker, TrackOptions
from vedette.messages.bodies import BodyWriter
from vedette.messages.reporter import Audience, NoAudience, Reporter
from vedette.models.model import Model, ModelSpec
from vedette.mqtt.envelope import MAX_PAYLOAD, render
from vedette.mqtt.results import MAX_OBJECTS, DetectionsMessage, EngineRef, ModelRef
from vedette.mqtt.topics import Topics
from vedette.outbox import MemoryOutbox
from vedette.sources import Grabber, Source
from vedette.sources.base import Reading

LABELS = ("cat", "dog", "bird")
FLOAT = np.dtype(np.float32)
UINT8 = np.dtype(np.uint8)


class SmallEngine:
    """Says what it is told to say; with an event to wait for, it hangs until that is set."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self._values = outputs
        self.inputs = (TensorSpec("in", (1, 16, 16, 3), UINT8, 1.0, 0),)
        self.outputs = tuple(TensorSpec(f"out{n}", v.shape, FLOAT) for n, v in enumerate(outputs))
        self.description = EngineDescription("small 1", "none", 1, "builtin")
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Semaphore(0)
        self.fault: Exception | None = None
        self._running = threading.Lock()
        self.overlaps = 0

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        return [s.allocate() for s in self.inputs], [s.allocate() for s in self.outputs]

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        self.overlaps += not self._running.acquire(blocking=False)
        self.entered.release()
        assert self.go_on.wait(60)
        if self.fault is not None:
            raise self.fault
        for output, value in zip(outputs, self._values, strict=True):
            output[...] = value
        self._running.release()

    def close(self) -> None:
        """Nothing to give back."""


def detector(scores: Sequence[float], class_ids: Sequence[float]) -> SmallEngine:
    n = len(scores)
    boxes = np.tile(np.array([0.1, 0.2, 0.6, 0.9], np.float32), (1, n, 1))
    return SmallEngine(
        [boxes, np.array([class_ids], np.float32), np.array([scores], np.float32), np.array([n], np.float32)]
    )


class Paced(list[UInt8Array]):
    """Pictures that come one after another, seconds apart."""

    def __init__(self, pictures: Sequence[UInt8Array], seconds: float) -> None:
        super().__init__(pictures)
        self._seconds = seconds

    def __iter__(self) -> Iterator[UInt8Array]:
        for picture in super().__iter__():
            time.sleep(self._seconds)
            yield picture


class FedSource:
    """A source that gives the pictures it is handed, each only once the last was taken."""

    live = False
    endless = False

    def __init__(self, pictures: Sequence[UInt8Array]) -> None:
        self._pictures = iter(pictures)

    def open(self) -> None:
        """Nothing to open."""

    def read(self, into: UInt8Array | None) -> Reading | None:
        picture = next(self._pictures, None)
        return None if picture is None else Reading(picture, 1_000_000)

    def close(self) -> None:
        """Nothing to close."""


def picture(height: int = 24, width: int = 32) -> UInt8Array:
    return np.full((height, width, 3), 90, np.uint8)


class Run:
    """A pipeline on a fed source and a memory outbox, and what came of it."""

    def __init__(
        self,
        engine: SmallEngine,
        pictures: Sequence[UInt8Array],
        *,
        output: OutputSpec | None = None,
        labels: tuple[str, ...] = LABELS,
        chosen: Sequence[str] = (),
        threshold: float = 0.5,
        thresholds: dict[str, float] | None = None,
        max_messages: int = 10_000,
        following: Following | None = None,
        detections: bool = True,
        max_detections_hz: float = 0.0,
        publish_empty: bool = True,
        source: Source | None = None,
        more: Sequence[SmallEngine] = (),
        audience: Audience | None = None,
        **options: Any,
    ) -> None:
        """``more``: interpreters beside ``engine``, for as many inferences abreast."""
        spec = ModelSpec(
            Path("small.tflite"), "small", "1", "0" * 64, labels, ImageInput(height=16, width=16),
            output or PostprocessOutput(), None,
        )  # fmt: skip
        label_filter = make_filter(labels, chosen, threshold, thresholds or {})
        self.engine = engine
        self.outbox = MemoryOutbox(1, max_messages=max_messages, max_bytes=10**9, when_full="drop_newest")
        self.stats = PipelineStats(clock.now_ns())
        reader = Grabber(source or FedSource(pictures), name="p", stall_timeout_s=60, frozen_timeout_s=0)
        self.grabber = reader.tap(lambda *_: None)
        model = Model(spec, engine, score_threshold=label_filter.lowest)
        model_ref = ModelRef(spec.name, spec.version, spec.sha256)
        self.reporter = Reporter(
            "p", BodyWriter(labels, model_ref, EngineRef("small 1", "none")), model_ref, label_filter,
            following or Unfollowed(), self.outbox, self.stats, audience or NoAudience(), detections=detections,
            max_detections_hz=max_detections_hz, publish_empty=publish_empty, clock_state=clock.clock_state,
        )  # fmt: skip
        abreast = 1 + len(more)
        self.lane = Lane("small", [engine, *more], Turns(abreast))
        count = options["regions"].count if "regions" in options else 1
        self.pipeline = Pipeline(
            "p", FrameFeed(self.grabber), [[model.sibling() for _ in range(count)] for _ in range(BUFFERS + len(more))],
            self.lane.seat("p", abreast=abreast), self.reporter, self.stats, **options,
        )  # fmt: skip

    def start(self) -> None:
        self.grabber.start()
        self.lane.start()
        self.pipeline.start()

    def __enter__(self) -> Run:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.go_on.set()
        self.grabber.stop()
        self.pipeline.stop()
        self.lane.stop()

    def to_the_end(self) -> Run:
        with self:
            assert self.pipeline.ended.wait(DEADLINE_S)
        return self

    def payloads(self) -> list[bytes]:
        topics = Topics("vedette", "dev-1")
        return [render(entry, topics, replay=False) for entry in self.outbox.batch(100_000, 0)]

    def messages(self) -> list[Any]:
        return [msgspec.json.decode(payload) for payload in self.payloads()]


def labels_of(message: Any) -> list[str]:
    return [found["label"] for found in message["objects"]]


def test_every_frame_of_a_file_becomes_a_message_in_order() -> None:
    run = Run(detector([0.9], [0]), [picture()] * 50).to_the_end()
    messages = run.messages()
    assert [m["seq"] for m in messages] == list(range(1, 51))
    assert [m["frame"]["seq"] for m in messages] == list(range(1, 51)), "three threads keep the frames' order"
    assert messages[0]["frame"] == {"seq": 1, "width": 32, "height": 24}
    assert messages[0]["objects"] == [{"label": "cat", "class_id": 0, "score": 0.9, "box": [0.2, 0.1, 0.9, 0.6]}]
    assert run.engine.overlaps == 0, "an engine runs one inference at a time"
    assert run.stats.dropped() == {}


def test_a_threshold_that_is_moved_holds_for_every_frame_after_it() -> None:
    run = Run(detector([0.4], [0]), [picture()] * 20, threshold=0.5)
    run.reporter.label_filter = make_filter(LABELS, [], 0.3, {})
    run.pipeline.decide_from(0.3)
    assert [labels_of(m) for m in run.to_the_end().messages()] == [["cat"]] * 20, "whichever buffers a frame goes in"


def test_the_default_threshold_and_the_labels_own() -> None:
    engine = detector([0.9, 0.55, 0.4, 0.3], [0, 1, 2, 1])
    run = Run(engine, [picture()], threshold=0.5, thresholds={"bird": 0.35, "cat": 0.95}).to_the_end()
    assert labels_of(run.messages()[0]) == ["dog", "bird"]


def test_only_the_chosen_labels_are_reported() -> None:
    run = Run(detector([0.9, 0.8, 0.7], [0, 1, 2]), [picture()], chosen=["bird", "cat"]).to_the_end()
    assert labels_of(run.messages()[0]) == ["cat", "bird"]


@given(
    scores=st.lists(st.floats(0, 1, width=32), max_size=20),
    data=st.data(),
    threshold=st.floats(0, 1),
    thresholds=st.dictionaries(st.sampled_from(LABELS), st.floats(0, 1)),
    chosen=st.lists(st.sampled_from(LABELS), unique=True),
)
def test_the_filter_keeps_exactly_what_its_definition_says(
    scores: list[float], data: st.DataObject, threshold: float, thresholds: dict[str, float], chosen: list[str]
) -> None:
    ids = data.draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores)))
    found = Classes(np.array(scores, np.float32), np.array(ids, np.int32))
    label_filter = make_filter(LABELS, chosen, threshold, thresholds)
    kept = label_filter(found)
    expected = [
        (score, class_id)
        for score, class_id in zip(found.scores.tolist(), ids, strict=True)
        if (not chosen or LABELS[class_id] in chosen)
        and score >= np.float32(thresholds.get(LABELS[class_id], threshold))
    ]
    assert list(zip(kept.scores.tolist(), kept.class_ids.tolist(), strict=True)) == expected
    assert all(score >= label_filter.lowest for score, _ in expected)


def test_frames_without_a_finding_are_published_or_not_as_configured() -> None:
    engine = detector([0.1], [0])
    assert [m["objects"] for m in Run(engine, [picture()] * 3).to_the_end().messages()] == [[]] * 3
    silent = Run(detector([0.1], [0]), [picture()] * 3, publish_empty=False).to_the_end()
    assert silent.messages() == []
    assert silent.stats.take(clock.now_ns(), 3).inferred == 3


class Unending(FedSource):
    """Pictures without end, as fast as they are read; one is being read when it is stopped."""

    def __init__(self, *, live: bool) -> None:
        super().__init__(())
        self.live = live
        self.reading = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def read(self, into: UInt8Array | None) -> Reading | None:
        self.reading.release()
        assert self.go_on.wait(DEADLINE_S)
        return Reading(picture(), 1_000_000)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("waiting", [True, False])
def test_every_frame_is_accounted_for_when_the_pipeline_is_stopped(live: bool, waiting: bool) -> None:
    """``waiting``: the engine is busy, so that a frame waits to be taken while the next one is being read."""
    source = Unending(live=live)
    run = Run(detector([0.9], [0]), [], source=source)
    run.start()
    wait_for("the first results", lambda: run.stats.results > 3)
    if waiting:
        run.engine.go_on.clear()
        wait_for("a frame to wait", lambda: not run.grabber.slot.empty)
    source.go_on.clear()
    while source.reading.acquire(blocking=False):
        """Up to now."""
    threading.Timer(0.1, source.go_on.set).start()
    run.grabber.stop()
    threading.Timer(0.1, run.engine.go_on.set).start()
    run.pipeline.stop()
    run.lane.stop()
    status = run.grabber.status()
    run.pipeline.count_passed()
    inferred = run.stats.take(clock.now_ns(), status.frames).inferred
    assert inferred == len(run.messages())
    assert status.frames - inferred - status.stale == sum(run.stats.dropped().values())
    assert set(run.stats.dropped()) <= {"stopped"}
    if live:
        assert run.stats.dropped()["stopped"] >= 1, "the one that was being read"


def test_the_rate_cap_counts_what_it_holds_back() -> None:
    run = Run(detector([0.9], [0]), [picture()] * 200, max_fps=1.0).to_the_end()
    sent = len(run.messages())
    assert 1 <= sent < 200
    assert run.stats.dropped() == {"rate_cap": 200 - sent}
    assert run.outbox.ledger()[0].last == sent, "a seq is given after the cap: no gap"


def test_an_unfit_frame_is_counted_said_once_and_the_rest_go_on(caplog: pytest.LogCaptureFixture) -> None:
    pictures = [picture(), picture(2, 2), picture(2, 2), picture(), picture(2, 2), picture()]
    run = Run(detector([0.9], [0]), pictures).to_the_end()
    assert [m["frame"]["seq"] for m in run.messages()] == [1, 4, 6]
    assert run.stats.dropped() == {"unfit_frame": 3}
    assert caplog.text.count("passed over") == 1


NAN = float("nan")
SCORES = np.full((1, 3), NAN, np.float32)


@pytest.mark.parametrize(
    ("engine", "output"),
    [
        (SmallEngine([SCORES]), ClassifyOutput()),
        (SmallEngine([SCORES]), ClassifyOutput(activation="softmax")),
        (SmallEngine([np.array([[np.inf, 0, 0]], np.float32)]), ClassifyOutput(activation="softmax")),
        (detector([NAN, NAN], [0, 1]), None),
        (SmallEngine([np.full((1, 5, 8), NAN, np.float32)]), YoloOutput()),
        (SmallEngine([np.full((1, 5, n), NAN, np.float32) for n in (4, 3)]), BoxesOutput()),
        (SmallEngine([np.full((1, 4, 4, 3), NAN, np.float32)]), SegmentOutput(activation="softmax")),
        (SmallEngine([np.full((1, 4, 4, 3), NAN, np.float32)]), HeatmapOutput()),
        (SmallEngine([np.full((1, 3, 3), NAN, np.float32)]), PoseOutput()),
    ],
)
def test_a_network_that_gives_no_numbers_has_not_found_nothing(engine: SmallEngine, output: OutputSpec | None) -> None:
    run = Run(engine, [picture()] * 3, output=output).to_the_end()
    assert run.messages() == [] and run.stats.dropped() == {"no_number": 3}
    [(key, text)] = run.pipeline.news()
    assert key == "no_number" and "no finite numbers" in text and "3 so far" in text
    assert run.pipeline.news() == [], "it is said once"


@pytest.mark.parametrize(
    ("numbers", "odd"), [([24.0, 2.0, -3.0], "24"), ([-0.7, -3.0, 0.2], "-3"), ([0.2, 9.5, -8.0], "9.5")]
)
def test_a_classifier_that_leaves_an_activation_to_be_done_has_no_scores(numbers: list[float], odd: str) -> None:
    def run(output: OutputSpec) -> Run:
        return Run(SmallEngine([np.array([numbers], np.float32)]), [picture()] * 3, output=output).to_the_end()

    as_they_are = run(ClassifyOutput())
    assert as_they_are.messages() == [] and as_they_are.stats.dropped() == {"no_score": 3}
    [(key, text)] = as_they_are.pipeline.news()
    assert key == "no_score" and f"gives {odd} where a score is from 0 to 1" in text and "softmax" in text
    done = run(ClassifyOutput(activation="softmax"))
    assert len(done.messages()) == 3 and done.stats.dropped() == {}


def test_a_network_of_numbers_that_are_small_has_found_nothing() -> None:
    run = Run(SmallEngine([np.array([[-np.inf, 0.1, 0.2]], np.float32)]), [picture()] * 3, output=ClassifyOutput())
    run.to_the_end()
    assert [m["classes"] for m in run.messages()] == [[], [], []] and run.stats.dropped() == {}
    assert run.pipeline.news() == []
    trained_on_0_and_1 = Run(
        SmallEngine([np.array([[1.2, -0.3, 0.1]], np.float32)]), [picture()], output=ClassifyOutput()
    )
    assert len(trained_on_0_and_1.to_the_end().messages()) == 1


def test_what_was_found_of_numbers_is_reported_beside_what_is_none() -> None:
    run = Run(detector([0.9, NAN], [0, 1]), [picture()]).to_the_end()
    [message] = run.messages()
    assert [o["label"] for o in message["objects"]] == ["cat"] and run.stats.dropped() == {}


@pytest.mark.parametrize(("class_ids", "odd"), [([0, 7, 3], "7"), ([0, -1, -2], "-1"), ([0, NAN, 3], "nan")])
def test_objects_of_a_class_without_a_label_are_counted_and_told(class_ids: list[float], odd: str) -> None:
    run = Run(detector([0.9, 0.8, 0.7], class_ids), [picture()] * 2).to_the_end()
    assert [[o["label"] for o in m["objects"]] for m in run.messages()] == [["cat"]] * 2
    assert run.stats.dropped() == {"no_label": 4}
    [(key, text)] = run.pipeline.news()
    assert key == "no_label" and "labels do not fit the network" in text and "4 so far" in text
    assert "3 labels" in text and f"class {odd}" in text


def test_objects_below_the_threshold_need_no_label() -> None:
    run = Run(detector([0.9, 0.3], [0, 7]), [picture()]).to_the_end()
    assert run.stats.dropped() == {} and run.pipeline.news() == []


def test_what_is_wrong_with_every_frame_lasts_until_one_is_fit() -> None:
    small = [picture(2, 2)] * UNFIT_IN_A_ROW
    assert "found 2x2" in Run(detector([0.9], [0]), small).to_the_end().pipeline.unfit
    assert Run(detector([0.9], [0]), small[1:]).to_the_end().pipeline.unfit == "", "it may be the exception"
    assert Run(detector([0.9], [0]), [*small, picture()]).to_the_end().pipeline.unfit == ""


@pytest.mark.parametrize("label", ["x", "é" * 60, "\u20ac" * 200])
def test_a_message_stays_under_its_limit_and_says_what_was_cut(label: str) -> None:
    count = 1000
    engine = detector([1.0 - n / 2000 for n in range(count)], [0] * count)
    run = Run(engine, [picture()], output=PostprocessOutput(max_detections=count), labels=(label,)).to_the_end()
    [payload] = run.payloads()
    message = msgspec.json.decode(payload, type=DetectionsMessage)
    assert len(payload) <= MAX_PAYLOAD
    assert len(payload) > MAX_PAYLOAD * 0.5 or len(message.objects) == MAX_OBJECTS, "and is well used"
    assert message.cut == count - len(message.objects) > 0
    assert run.stats.dropped() == {"objects_cut": message.cut}
    assert [o.score for o in message.objects] == sorted((o.score for o in message.objects), reverse=True)
    assert message.objects[0].score == 1.0, "the best are kept"


def test_the_longest_names_fit_beside_a_full_body() -> None:
    name = "n" * 64
    body = b'{"x":"' + b"x" * (MAX_PAYLOAD - 1024 - 8) + b'"}'
    outbox = MemoryOutbox(2**53 - 1, max_messages=1, max_bytes=10**9)
    outbox.append(Stream(name, "detections"), clock.now_ns(), "unsynced", body)
    [entry] = outbox.batch(1, 0)
    assert len(render(entry, Topics("r" * 128, name), replay=False)) <= MAX_PAYLOAD


def test_a_classifiers_classes_are_named() -> None:
    engine = SmallEngine([np.array([[0.7, 0.2, 0.1]], np.float32)])
    run = Run(engine, [picture()], output=ClassifyOutput(), threshold=0.15).to_the_end()
    [message] = run.messages()
    assert [(c["label"], c["class_id"], c["score"]) for c in message["classes"]] == [("cat", 0, 0.7), ("dog", 1, 0.2)]
    assert "objects" not in message


def test_the_stages_are_all_there_and_add_up_to_the_total() -> None:
    run = Run(detector([0.9], [0]), [picture()] * 5).to_the_end()
    for message in run.messages():
        latency = message["latency_ms"]
        assert list(latency) == ["capture", "queue", "preprocess", "infer", "decode", "total"]
        assert all(value >= 0 for value in latency.values())
        assert latency["total"] == pytest.approx(sum(list(latency.values())[:-1]), abs=0.005)
        assert latency["capture"] == 1.0
    stages = run.stats.take(clock.now_ns(), 5).stages
    assert {stage: latency.count for stage, latency in stages.items()} == {
        "capture": 5, "queue": 5, "preprocess": 5, "infer": 5, "decode": 5, "total": 5, "sent": 0, "acknowledged": 0,
    }  # fmt: skip


def test_time_is_not_counted_twice() -> None:
    """From complete in memory to done is what the clock says between the two, at most."""
    begun = clock.now_ns()
    run = Run(detector([0.9], [0]), [picture()] * 20).to_the_end()
    ended = clock.now_ns()
    for message in run.messages():
        latency = message["latency_ms"]
        assert latency["total"] - latency["capture"] <= (ended - begun) / 1e6
        captured_ns = message["mono_us"] * 1000
        assert begun - 1000 <= captured_ns <= ended


def test_messages_that_a_full_outbox_drops_leave_a_gap_that_shows() -> None:
    run = Run(detector([0.9], [0]), [picture()] * 10, max_messages=4).to_the_end()
    assert [m["seq"] for m in run.messages()] == [1, 2, 3, 4]
    [row] = run.outbox.ledger()
    assert (row.last, row.dropped) == (10, 6) and row.balances


def test_an_engine_that_fails_ends_its_pipeline_with_the_reason() -> None:
    engine = detector([0.9], [0])
    engine.fault = EngineFaultError("the runtime failed", found="rubbish")
    run = Run(engine, [picture()] * 5).to_the_end()
    assert run.pipeline.fault is engine.fault
    assert run.messages() == []


def test_a_hung_engine_makes_no_turns_and_an_idle_one_does() -> None:
    engine = detector([0.9], [0])
    engine.go_on.clear()
    with Run(engine, [picture()] * 9) as run:
        assert engine.entered.acquire(timeout=DEADLINE_S)
        # the thread in the engine can make no turn any more, whatever the others do
        turned = run.pipeline.turned_ns
        before = clock.now_ns()
        wait_for("time to pass", lambda: clock.now_ns() - before > 700_000_000)
        assert run.pipeline.turned_ns == turned
        engine.go_on.set()
        wait_for("the next turn", lambda: run.pipeline.turned_ns > turned)
        assert run.pipeline.ended.wait(DEADLINE_S)


class Silent(FedSource):
    """Open, and never a frame."""

    live = True
    endless = True

    def __init__(self) -> None:
        super().__init__([])
        self.closing = threading.Event()

    def read(self, into: UInt8Array | None) -> Reading | None:
        self.closing.wait(60)
        return None


def test_a_pipeline_without_frames_makes_turns() -> None:
    source = Silent()
    run = Run(detector([0.9], [0]), [])
    run.grabber._grabber._source = source
    with run:
        for _ in range(2):
            turned = run.pipeline.turned_ns
            wait_for("a turn", lambda t=turned: run.pipeline.turned_ns > t)
        source.closing.set()


@pytest.fixture
def feeding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Pipeline], list[dict[str, str]]]]:
    """Service's rule for the watchdog, on any pipeline: what it tells the supervisor."""
    from vedette.service.service import Service

    def feed(pipeline: Pipeline) -> list[dict[str, str]]:
        sent: list[dict[str, str]] = []

        class Supervisor:
            watchdog_s = 2.0

            def send(self, **fields: str) -> None:
                sent.append(fields)

        service = Service.__new__(Service)
        service._notifier = Supervisor()  # type: ignore[assignment]
        service._pipelines = [pipeline]
        monkeypatch.setattr(Service, "_summary", lambda self: "summary")
        service._feed_watchdog()
        return sent

    yield feed


def test_a_hung_engine_starves_the_watchdog(feeding: Callable[[Pipeline], list[dict[str, str]]]) -> None:
    engine = detector([0.9], [0])
    with Run(engine, [picture()] * 3) as healthy:
        assert healthy.pipeline.ended.wait(DEADLINE_S)
        assert [m.get("WATCHDOG") for m in feeding(healthy.pipeline)] == ["1"], "a pipeline that ended hangs nothing"
    hung = detector([0.9], [0])
    hung.go_on.clear()
    with Run(hung, [picture()] * 9) as run:
        assert hung.entered.acquire(timeout=DEADLINE_S)
        assert [m.get("WATCHDOG") for m in feeding(run.pipeline)] == ["1"], "not yet"
        wait_for("half the watchdog's time", lambda: clock.now_ns() - run.pipeline.turned_ns > 1_100_000_000)
        assert not any("WATCHDOG" in m for m in feeding(run.pipeline))
        hung.go_on.set()
        assert run.pipeline.ended.wait(DEADLINE_S)
        assert [m.get("WATCHDOG") for m in feeding(run.pipeline)] == ["1"]


def test_stopping_does_not_wait_for_a_hung_engine() -> None:
    engine = detector([0.9], [0])
    engine.go_on.clear()
    run = Run(engine, [picture()] * 9)
    run.start()
    assert engine.entered.acquire(timeout=DEADLINE_S)
    run.grabber.stop()
    stopper = threading.Thread(target=run.pipeline.stop, args=(0.2,))
    stopper.start()
    stopper.join(DEADLINE_S)
    assert not stopper.is_alive()
    engine.go_on.set()
    assert run.pipeline.ended.wait(DEADLINE_S)


def test_detections_know_their_shapes() -> None:
    with pytest.raises(ValueError, match="boxes must have shape"):
        Detections(np.zeros((2, 4), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32))


def test_a_frame_knows_its_size() -> None:
    frame = Frame(1, 0, 0, picture(10, 20))
    assert (frame.width, frame.height) == (20, 10)


def test_a_fault_of_ours_ends_the_pipeline_and_is_its_fault(caplog: pytest.LogCaptureFixture) -> None:
    """Not a thread's silent death that passes for the end of the source."""
    engine = detector([0.9], [0])
    engine.fault = ZeroDivisionError("a bug")
    run = Run(engine, [picture()] * 5).to_the_end()
    assert run.pipeline.fault is not None and "ZeroDivisionError" in run.pipeline.fault.line()
    assert any("ZeroDivisionError" in record.getMessage() for record in caplog.records)


def test_a_detector_is_shown_the_views_of_a_region_and_speaks_of_the_frame() -> None:
    engine = detector([0.9], [0])  # in every view: 0.2 to 0.9 of its width, 0.1 to 0.6 of its height
    regions = Regions(RegionOptions(crop=(0.5, 0.0, 1.0, 1.0)))
    run = Run(engine, [picture(64, 128)] * 3, regions=regions).to_the_end()
    [box] = {tuple(m["objects"][0]["box"]) for m in run.messages()}
    assert box == (0.6, 0.1, 0.95, 0.6)


def test_every_view_is_inferred_and_one_message_comes_of_them() -> None:
    engine = detector([0.9], [0])
    regions = Regions(RegionOptions(tiles=(2, 1), overlap=0.0, whole=False))
    run = Run(engine, [picture(64, 128)] * 4, regions=regions).to_the_end()
    messages = run.messages()
    assert len(messages) == 4
    assert all(len(m["objects"]) == 2 for m in messages), "one in each tile"
    assert run.pipeline.seat.inferences == 4, "one turn a frame, whatever it is shown"
    entered = sum(1 for _ in iter(lambda: engine.entered.acquire(blocking=False), False))
    assert entered == 8


class Still:
    """A gate that lets every third frame pass."""

    def __init__(self) -> None:
        self.asked = 0

    def skip(self, pixels: UInt8Array, now_ns: int, *, busy: bool = False) -> bool:
        self.asked += 1
        return self.asked % 3 != 1


def test_what_the_gate_skips_is_counted_and_not_inferred() -> None:
    run = Run(detector([0.9], [0]), [picture()] * 30, gate=Still()).to_the_end()
    assert [m["frame"]["seq"] for m in run.messages()] == list(range(1, 31, 3))
    assert run.stats.dropped() == {"no_motion": 20}
    assert run.stats.take(clock.now_ns(), 30).unwanted == 20


class BreaksOff(FedSource):
    """A camera that is away after its pictures."""

    live = True
    endless = True

    def read(self, into: UInt8Array | None) -> Reading | None:
        reading = super().read(into)
        if reading is None:
            raise SourceError("the stream broke off")
        return reading


@pytest.mark.parametrize("why", ["off", "away"])
def test_who_was_there_is_not_there_for_ever_while_nobody_looks(why: str) -> None:
    tracker = Tracker(TrackOptions(keep_s=0.2), np.full(len(LABELS), 0.5, np.float32))
    following = FollowedScene(tracker, Scene(SceneOptions(min_duration_s=0.0, unseen_s=0.0), LABELS, {}, {}))
    frames = Paced([picture()] * (1000 if why == "off" else 10), 0.05)
    source = FedSource(frames) if why == "off" else BreaksOff(frames)
    with Run(detector([0.9], [0]), [], following=following, detections=False, source=source) as run:
        (began,) = wait_for("a track", run.messages)
        if why == "off":
            run.pipeline.enabled.clear()
        (ended,) = wait_for("its end", run.messages)
    assert (began["kind"], ended["kind"], ended["track"]) == ("track_began", "track_ended", began["track"])


def test_a_pipeline_that_is_off_takes_frames_and_looks_at_none() -> None:
    run = Run(detector([0.9], [0]), [picture()] * 10)
    run.pipeline.enabled.clear()
    run.to_the_end()
    assert run.messages() == []
    assert run.stats.dropped() == {"disabled": 10}


def test_two_pipelines_share_an_engine_and_each_keeps_its_order() -> None:
    engine = detector([0.9], [0])
    first, second = Run(engine, [picture()] * 40), Run(engine, [picture()] * 40)
    second.pipeline.seat = first.lane.seat("q")
    first.lane.start()
    for run in (first, second):
        run.grabber.start()
        run.pipeline.start()
    for run in (first, second):
        assert run.pipeline.ended.wait(DEADLINE_S)
        assert [m["frame"]["seq"] for m in run.messages()] == list(range(1, 41))
        run.grabber.stop()
    first.lane.stop()
    assert engine.overlaps == 0, "one inference at a time"


def test_where_there_is_time_one_thread_does_it_all_and_the_order_stays() -> None:
    engine = detector([0.9], [0])
    threads: list[str] = []
    invoke = engine.invoke

    def noted(*arguments: Any, **options: Any) -> None:
        threads.append(threading.current_thread().name)
        invoke(*arguments, **options)

    engine.invoke = noted  # type: ignore[method-assign]
    run = Run(engine, Paced([picture()] * 12, 0.05)).to_the_end()
    messages = run.messages()
    assert [m["seq"] for m in messages] == [m["frame"]["seq"] for m in messages] == list(range(1, 13))
    assert threads[0].startswith("infer-"), "how long it takes is not known yet"
    assert threads.count("prepare-p") >= 8, threads
    assert run.pipeline.fault is None and run.stats.dropped() == {}


def test_while_samples_come_fast_the_engine_has_a_thread_of_its_own() -> None:
    engine = detector([0.9], [0])
    threads: list[str] = []
    invoke = engine.invoke

    def noted(*arguments: Any, **options: Any) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(0.05)  # so long that waiting for a core, on a busy machine, is no leisure
        invoke(*arguments, **options)

    engine.invoke = noted  # type: ignore[method-assign]
    run = Run(engine, [picture()] * 30).to_the_end()
    assert len(run.messages()) == 30
    assert all(name.startswith("infer-") for name in threads)


def test_a_fault_where_there_is_time_ends_the_pipeline_as_any() -> None:
    engine = detector([0.9], [0])
    pictures = Paced([picture()] * 40, 0.05)
    run = Run(engine, pictures)
    with run:
        wait_for("some frames", lambda: run.stats.results >= 5)
        engine.fault = EngineFaultError("invoke failed", found="rubbish")
        assert run.pipeline.ended.wait(DEADLINE_S)
        assert run.pipeline.fault is engine.fault
    messages = run.messages()
    assert [m["seq"] for m in messages] == list(range(1, run.stats.results + 1))


class Uneven(SmallEngine):
    """Every other inference takes long."""

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        time.sleep(0.03 if int(inputs[0][0, 0, 0, 0]) % 2 else 0.0)
        super().invoke(inputs, outputs, deadline_s=deadline_s)


def numbered(count: int) -> list[UInt8Array]:
    return [np.full((48, 64, 3), number, np.uint8) for number in range(count)]


def test_inferences_abreast_are_reported_in_their_order() -> None:
    outputs = [np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32),
               np.ones(1, np.float32)]  # fmt: skip
    engines = [Uneven(outputs) for _ in range(3)]
    most, running, lock = 0, 0, threading.Lock()
    for engine in engines:
        invoke = engine.invoke

        def counted(*arguments: Any, invoke: Any = invoke, **options: Any) -> None:
            nonlocal most, running
            with lock:
                running += 1
                most = max(most, running)
            try:
                invoke(*arguments, **options)
            finally:
                with lock:
                    running -= 1

        engine.invoke = counted  # type: ignore[method-assign]
    run = Run(engines[0], numbered(40), more=engines[1:]).to_the_end()
    messages = run.messages()
    assert [message["frame"]["seq"] for message in messages] == list(range(1, 41))
    assert [message["seq"] for message in messages] == list(range(1, 41))
    assert most == 3, "at the same moment"
    assert [engine.overlaps for engine in engines] == [0, 0, 0]


def test_what_is_abreast_is_finished_before_something_is_done_between() -> None:
    engines = [detector([0.9], [0]) for _ in range(2)]
    run = Run(engines[0], numbered(200), more=engines[1:])
    under_way: list[tuple[int, int]] = []
    with run:
        for _ in range(5):
            run.pipeline.between(
                lambda: under_way.append((run.pipeline._submitted, run.pipeline._finished))
            ).result(DEADLINE_S)  # fmt: skip
        assert run.pipeline.ended.wait(DEADLINE_S)
    assert len(under_way) == 5 and all(submitted == finished for submitted, finished in under_way)
    assert run.stats.results == 200


def test_a_fault_of_one_abreast_ends_the_pipeline_after_what_came_before_it() -> None:
    engines = [detector([0.9], [0]) for _ in range(2)]
    run = Run(engines[0], numbered(50), more=engines[1:])
    with run:
        wait_for("results", lambda: run.stats.results > 5)
        engines[1].fault = EngineFaultError("broken")
        assert run.pipeline.ended.wait(DEADLINE_S)
    assert run.pipeline.fault is not None and "broken" in str(run.pipeline.fault)
    seqs = [message["frame"]["seq"] for message in run.messages()]
    assert seqs == list(range(1, len(seqs) + 1))


class Looker(NoAudience):
    """Looks at the pixels of every frame that is reported."""

    looks = True

    def __init__(self) -> None:
        self.pixels: list[int] = []

    def seen(self, frame: Frame, result: Any, followed: Any) -> None:
        self.pixels.append(int(frame.pixels[0, 0, 0]))


class Thrifty(FedSource):
    """Writes into memory that it is given, and counts what it had to make itself."""

    made = given = 0

    def read(self, into: UInt8Array | None) -> Reading | None:
        reading = super().read(None)
        if reading is None:
            return None
        self.given += 1
        if into is None:
            self.made += 1
            into = np.empty_like(reading.pixels)
        np.copyto(into, reading.pixels)
        return Reading(into, 0)


@pytest.mark.parametrize("looks", [False, True])
def test_pixels_are_held_for_whoever_looks_at_them_alone(looks: bool) -> None:
    engine = detector([0.9], [0])
    engine.go_on.clear()
    audience = Looker() if looks else NoAudience()
    source = Thrifty(numbered(8))
    run = Run(engine, [], source=source, audience=audience)
    with run:
        assert engine.entered.acquire(timeout=DEADLINE_S)
        wait_for("two under way, and two more read", lambda: run.pipeline._submitted == 2 and source.given == 4)
        assert (source.made == 4) is looks, "memory for all of them, or for those that the engine has not had yet"
        engine.go_on.set()
        assert run.pipeline.ended.wait(DEADLINE_S)
    assert [(m["frame"]["width"], m["frame"]["height"]) for m in run.messages()] == [(64, 48)] * 8
    if isinstance(audience, Looker):
        assert audience.pixels == list(range(8))
