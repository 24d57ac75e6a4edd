"""From a result to messages: filtered, followed, and left in the outbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from vedette.clock import ClockState
from vedette.contract.types import Classes, Detections, Frame, Int32Array, Poses, Result, Segments, Window
from vedette.delivery import Outbox, Stream
from vedette.engine import EngineDescription
from vedette.flow.selection import LabelFilter, RateCap
from vedette.flow.stats import PipelineStats
from vedette.follow.following import Followed, Following, State
from vedette.follow.steady import SensorState
from vedette.mqtt.results import EngineRef, FrameInfo, ModelRef, WindowInfo

from .bodies import BodyWriter
from .event_bodies import event_body

DETECTIONS: Final = "detections"
EVENTS: Final = "events"
_COUNTABLE = (Detections, Classes, Poses, Segments)  # results of any number of things, none included


class Audience(Protocol):
    """Who hears of one pipeline what is not kept for the broker. Called on the pipeline's thread; must not wait."""

    @property
    def looks(self) -> bool:
        """Whether `seen` looks at pixels. They are not kept for it where it does not."""
        ...

    def state(self, state: State, captured_ns: int) -> None:
        """What holds from now on."""
        ...

    def seen(self, frame: Frame, result: Result, followed: Followed) -> None:
        """A frame and all that was found in it, what is not reported included. The pixels, black where nobody `looks`, are
        the pipeline's again when this returns."""
        ...


class NoAudience:
    """Nobody."""

    looks = False

    def state(self, state: State, captured_ns: int) -> None:
        """See `Audience`."""

    def seen(self, frame: Frame, result: Result, followed: Followed) -> None:
        """See `Audience`."""


class Reporter:
    """Used by one thread of its pipeline at a time, but ``label_filter`` may be replaced by any."""

    def __init__(
        self,
        pipeline: str,
        writer: BodyWriter,
        model: ModelRef,
        label_filter: LabelFilter,
        following: Following,
        outbox: Outbox,
        stats: PipelineStats,
        audience: Audience,
        *,
        detections: bool,
        max_detections_hz: float,
        publish_empty: bool,
        clock_state: Callable[[], ClockState],
    ) -> None:
        self._writer = writer
        self._model = model
        self._filter = label_filter
        self._retuned = False
        self._following = following
        self._outbox = outbox
        self._stats = stats
        self._audience = audience
        self._detections = detections
        self._cap = RateCap(max_detections_hz)
        self._publish_empty = publish_empty
        self._clock_state = clock_state
        self._detections_stream = Stream(pipeline, DETECTIONS)
        self._events_stream = Stream(pipeline, EVENTS)
        self._held_ns = 0
        self._ahead_ns = 0  # see `Frame.ahead_ns`
        self.busy = False
        """Whether something moves that must not be lost sight of. Any thread may read it."""

    @property
    def label_filter(self) -> LabelFilter:
        """What is reported."""
        return self._filter

    @label_filter.setter
    def label_filter(self, chosen: LabelFilter) -> None:
        self._filter = chosen
        self._retuned = True

    @property
    def looks(self) -> bool:
        """Whether a frame's pixels are asked for when it is reported."""
        return self._audience.looks

    @property
    def last_id(self) -> int:
        """The newest id of a track; 0 where there is none."""
        return self._following.last_id

    def change(
        self, writer: BodyWriter, model: ModelRef, label_filter: LabelFilter, following: Following | None, now_ns: int
    ) -> None:
        """From the next result on, those of another model. ``following``: what is open ends, and this one begins; None: the
        labels are the same, and so are the things that they were given to. No result may be on its way."""
        if following is not None:
            self.end(now_ns)
            self._following = following
        self._writer = writer
        self._model = model
        self.label_filter = label_filter

    def hold(self, until_ns: int) -> None:
        """Nothing moved until then, of the scene's time (`Frame.scene_ns`), and nobody looked. Any thread may call it."""
        self._held_ns = until_ns

    def unseen(self, now_ns: int) -> None:
        """Nobody looks, for the source is away or the pipeline off: who was there is not known to be there any more."""
        self._keep_up()
        self._tell(self._following.unseen(now_ns + self._ahead_ns), now_ns)
        self.busy = self._following.busy

    def __call__(
        self,
        sample: Frame | Window,
        result: Result,
        latency_ms: Mapping[str, float],
        engine: EngineDescription | None = None,
    ) -> None:
        """Takes what was found in a sample. ``latency_ms``: a stage's name -> milliseconds. ``engine``: who ran it; None:
        the writer's own.
        """
        captured_ns = sample.captured_ns
        label_filter = self._keep_up()
        self._ahead_ns = sample.ahead_ns if isinstance(sample, Frame) else 0
        followed = self._following(result, captured_ns + self._ahead_ns)
        self.busy = self._following.busy
        reported, ids = label_filter.select(result, followed.ids)
        self._tell(followed, captured_ns)
        if self._detections and self._is_due(captured_ns):
            self._append_detections(sample, reported, latency_ms, ids, engine)
        if isinstance(sample, Frame):
            self._audience.seen(sample, result, followed)

    def end(self, now_ns: int) -> None:
        """Nothing more comes: what is open ends."""
        self._tell(self._following.end(now_ns + self._ahead_ns), now_ns)

    def _keep_up(self) -> LabelFilter:
        """What others asked for since the last sample; what is reported from here on."""
        label_filter = self._filter
        if self._retuned:
            self._retuned = False
            self._following.retune(label_filter.thresholds)
        if self._held_ns:
            self._following.hold(self._held_ns)
            self._held_ns = 0
        return label_filter

    def _is_due(self, captured_ns: int) -> bool:
        if self._cap.due(captured_ns):
            return True
        self._stats.drop("detections_cap")
        return False

    def _append_detections(
        self,
        sample: Frame | Window,
        reported: Result,
        latency_ms: Mapping[str, float],
        ids: Int32Array | None,
        engine: EngineDescription | None,
    ) -> None:
        if not self._publish_empty and isinstance(reported, _COUNTABLE) and not len(reported):
            return
        if isinstance(sample, Frame):
            origin: FrameInfo | WindowInfo = FrameInfo(sample.seq, sample.width, sample.height)
        else:
            origin = WindowInfo(sample.seq, len(sample.values), sample.first_ns // 1000, sample.last_ns // 1000)
        tracks = None if ids is None else [track or None for track in ids.tolist()]
        who = None if engine is None else EngineRef(engine.runtime, engine.delegate)
        body = self._writer(reported, origin, latency_ms, tracks, engine=who)
        self._stats.drop("objects_cut", body.cut)
        self._outbox.append(self._detections_stream, sample.captured_ns, self._clock_state(), body.json)

    def _tell(self, followed: Followed, captured_ns: int) -> None:
        for event in followed.events:
            body = event_body(event, captured_ns + self._ahead_ns, self._model)
            self._outbox.append(self._events_stream, captured_ns, self._clock_state(), body)
        state = followed.state
        if state is not None:
            state = state.earlier(self._ahead_ns) if isinstance(state, SensorState) else state
            self._audience.state(state, captured_ns)
