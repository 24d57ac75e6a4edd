"""What was prepared -> parts: feeds, reporters, pipelines. With `vedette.service.service` all that knows every room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vedette import clock
from vedette.clock import ClockState
from vedette.config import Config, Places, SourceConfig
from vedette.contract.errors import BrokerRefusedError, ConfigError
from vedette.contract.manifest import ImageInput, SeriesInput
from vedette.delivery import Outbox
from vedette.flow.feed import Feed, FrameFeed, WindowFeed
from vedette.flow.lane import Seat
from vedette.flow.motion import MotionGate
from vedette.flow.pipeline import BUFFERS, Pipeline
from vedette.flow.regions import Regions
from vedette.flow.stats import PipelineStats
from vedette.follow.events import Scene, SceneOptions
from vedette.follow.following import FollowedScene, FollowedSignal, Following, Unfollowed
from vedette.follow.steady import Steady, SteadyOptions
from vedette.follow.track import Tracker
from vedette.messages.bodies import BodyWriter
from vedette.messages.reporter import Audience, Reporter
from vedette.models.model import Model
from vedette.mqtt import LinkOptions
from vedette.mqtt.connection import check_credentials
from vedette.mqtt.results import EngineRef, ModelRef
from vedette.sources import Grabber, Outcome, Tap

from .prepared import Prepared as Prepared
from .prepared import Preparing as Preparing
from .prepared import acceleration as acceleration
from .prepared import prepare as prepare
from .prepared import remember_versions as remember_versions
from .prepared import view_count

if TYPE_CHECKING:
    from .lanes import Loaded


def link_options(config: Config, config_path: Path | None = None) -> LinkOptions:
    """What the configuration says of the broker. Raises `ConfigError` where a file it names cannot be used.

    ``config_path``: of its file, for messages.
    """
    mqtt = config.mqtt
    options = LinkOptions(
        host=mqtt.host,
        port=mqtt.port,
        client_id=f"vedette-{config.device}",
        protocol=mqtt.protocol,
        username=mqtt.username,
        password=mqtt.password,
        password_file=mqtt.password_file,
        tls=mqtt.tls,
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        alpn=tuple(mqtt.alpn),
        keepalive_s=mqtt.keepalive_s,
        in_flight=mqtt.in_flight,
        replay_age_s=config.outbox.replay_age_s,
    )
    try:
        check_credentials(options)
    except BrokerRefusedError as error:
        where = error.where
        if config_path is not None:
            named = where if where != mqtt.password_file else f"mqtt.password_file: {where}"
            key, _, file = named.removeprefix("mqtt.").partition(": ")
            where = f"{Places.of(config_path).at(('mqtt', key))}: {file}"
        raise ConfigError(
            error.problem, where=where, expected=error.expected, found=error.found, fix=error.fix
        ) from None
    return options


@dataclass(frozen=True, slots=True)
class Fitting:
    """What of a pipeline is its model's. ``models``: as `vedette.flow.pipeline.Pipeline` takes them."""

    prepared: Prepared
    models: Sequence[Sequence[Model]]
    seat: Seat
    model_ref: ModelRef
    writer: BodyWriter


def make_fitting(prepared: Prepared, loaded: Loaded) -> Fitting:
    """Buffers, and a seat in the model's lane."""
    spec, model = prepared.spec, loaded.model
    views = view_count(prepared.config)
    sets = [[model.sibling() for _ in range(views)] for _ in range(BUFFERS + loaded.abreast - 1)]
    sets[0][0] = model
    description = model.engine.description
    model_ref = ModelRef(spec.name, spec.version, spec.sha256)
    writer = BodyWriter(spec.labels, model_ref, EngineRef(description.runtime, description.delegate))
    seat = loaded.lane.seat(prepared.name, prepared.config.weight, loaded.abreast)
    return Fitting(prepared, sets, seat, model_ref, writer)


def refit(pipeline: Pipeline, old: Prepared, fitting: Fitting) -> None:
    """Another model in a running pipeline, in an action of its `between`. What is followed goes on where the labels are the
    same; else it ends, and what comes begins anew, with ids that were never given."""
    new = fitting.prepared
    following = None
    if new.spec.labels != old.spec.labels:
        following = make_following(new, pipeline.reporter.last_id)
    now_ns = clock.now_ns()
    pipeline.reporter.change(fitting.writer, fitting.model_ref, new.label_filter, following, now_ns)
    pipeline.equip(fitting.models, fitting.seat)


def make_pipeline(
    prepared: Prepared,
    loaded: Loaded,
    outbox: Outbox,
    audience: Audience,
    *,
    clock_state: Callable[[], ClockState],
    on_source: Callable[[Outcome | None, str], None],
    cameras: Cameras | None = None,
) -> Pipeline:
    """One pipeline, ready to start. ``audience``: who hears of its state and its frames. ``on_source``: of its source.
    ``cameras``: those of all pipelines; None for one that shares none."""
    config = prepared.config
    stats = PipelineStats(clock.now_ns(), config.deadline_ms)
    fitting = make_fitting(prepared, loaded)
    reporter = Reporter(
        prepared.name,
        fitting.writer,
        fitting.model_ref,
        prepared.label_filter,
        make_following(prepared),
        outbox,
        stats,
        audience,
        detections=config.detections,
        max_detections_hz=config.max_detections_hz,
        publish_empty=config.publish_empty,
        clock_state=clock_state,
    )
    return Pipeline(
        prepared.name,
        _feed(prepared, cameras or Cameras([prepared]), on_source),
        fitting.models,
        fitting.seat,
        reporter,
        stats,
        max_fps=config.max_fps,
        regions=Regions(config.region) if config.region is not None else None,
        gate=MotionGate(config.motion, _looked_at(prepared, loaded.model)) if config.motion is not None else None,
    )


class Cameras:
    """Who reads what gives pictures: once for all pipelines whose source is the same, where the newest frame wins."""

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        """Of all that may ask."""
        self._grabbers: dict[SourceConfig, Grabber] = {}
        self.shared: dict[SourceConfig, list[str]] = {}
        """Which pipelines share one, of those that do."""
        watched: dict[SourceConfig, list[Prepared]] = {}
        for pipeline in prepared:
            if not isinstance(pipeline.spec.input, SeriesInput) and pipeline.source.live:
                watched.setdefault(pipeline.config.source_config, []).append(pipeline)
        self.shared = {source: [p.name for p in sharing] for source, sharing in watched.items() if len(sharing) > 1}
        # regions are parts of BGR, which is made once for all where nobody takes planes
        self._in_bgr = {s for s, sharing in watched.items() if all(p.config.region is not None for p in sharing)}

    def tap(self, prepared: Prepared, on_source: Callable[[Outcome | None, str], None]) -> Tap:
        """A pipeline's own."""
        source = prepared.config.source_config
        grabber = self._grabbers.get(source) if source in self.shared else None
        if grabber is None:
            grabber = Grabber(
                prepared.source,
                name=prepared.name,
                stall_timeout_s=source.stall_timeout_s,
                frozen_timeout_s=source.frozen_timeout_s,
                planes=source not in self._in_bgr,
            )
            if source in self.shared:
                self._grabbers[source] = grabber
        return grabber.tap(on_source)


def _feed(prepared: Prepared, cameras: Cameras, on_source: Callable[[Outcome | None, str], None]) -> Feed:
    source, spec = prepared.config.source_config, prepared.spec.input
    if not isinstance(spec, SeriesInput):
        return FrameFeed(cameras.tap(prepared, on_source))
    return WindowFeed(
        prepared.source,
        spec,
        name=prepared.name,
        stride=prepared.config.stride,
        stall_timeout_s=source.stall_timeout_s,
        on_change=on_source,
    )


def _looked_at(prepared: Prepared, model: Model) -> tuple[int, int]:
    """Height and width of what the network is shown; (0, 0) where that are regions of a frame."""
    spec = model.input
    if isinstance(spec, ImageInput) and prepared.config.region is None:
        return spec.height, spec.width
    return 0, 0


def make_following(prepared: Prepared, last_id: int = 0) -> Following:
    """What becomes of results over time: nothing, unless the configuration or the kind of result asks for it. ``last_id``:
    the newest id of a track that was given before."""
    config, spec = prepared.config, prepared.spec
    if prepared.follows is not None:
        tracker = Tracker(prepared.follows, prepared.label_filter.thresholds, last_id=last_id)
        return FollowedScene(tracker, Scene(config.events or SceneOptions(), spec.labels, config.zones, config.wires))
    if config.steady is not None or isinstance(spec.input, SeriesInput):
        return FollowedSignal(Steady(config.steady or SteadyOptions(), spec.labels))
    return Unfollowed()
