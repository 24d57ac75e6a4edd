"""The composition root: the only file that wires the rooms together, and the life of an agent.

::

    load models, self-test -> count the epoch up -> open sources -> connect -> READY
    -> every second: progress to the watchdog, status; now and then: stats, ledger, health
    -> SIGTERM: stop sources, flush the outbox, say goodbye

Threads: this one (the main one), for each pipeline its grabber's and its own, the link's and paho's.
"""

from __future__ import annotations

import difflib
import logging
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import __version__, clock, reports
from .clock import ClockState
from .config import Config, PipelineConfig
from .contract.errors import ConfigError
from .contract.labels import is_used
from .delivery import Key, Stream
from .engine import SelfTest
from .health import read_health
from .model import Model, ModelSpec, PlainModel, load_model, read_model, self_test
from .mqtt import Link, LinkOptions, Topics
from .mqtt import payloads as wire
from .notify import Notifier
from .outbox import Epoch, MemoryOutbox, next_epoch
from .pipeline import TOPIC, Pipeline, make_filter
from .sources import Grabber, Outcome, SourceOptions, make_source, masked_url
from .stats import PipelineStats

log = logging.getLogger(__name__)

TICK_S: Final = 0.5
MAX_PASSWORD: Final = 1024  # characters, as of one in the configuration
FLUSH_S: Final = 4.0  # at a clean stop; systemd's stop timeout must be longer
HANG_S: Final = 20.0  # a pipeline that has not finished a turn for so long hangs, where systemd names no watchdog time


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pipeline's parts that can be checked without starting anything."""

    name: str
    config: PipelineConfig
    spec: ModelSpec
    threshold: float


def prepare(config: Config, config_path: Path) -> list[Prepared]:
    """Reads and checks every model against what the configuration says of it. Raises `UserError`s."""
    return [_prepare(name, pipeline, config_path) for name, pipeline in config.pipelines.items()]


def _prepare(name: str, config: PipelineConfig, config_path: Path) -> Prepared:
    plain = None
    if config.plain is not None:
        labels_file = Path(config.plain.labels_file) if config.plain.labels_file else None
        plain = PlainModel(config.plain.output, config.plain.input, labels_file)
    spec = read_model(config.model, plain)
    known = [label for label in spec.labels if is_used(label)]
    where = f"{config_path}: pipeline.{name}"
    for key, names in (("labels", config.labels), ("thresholds", list(config.thresholds))):
        for label in names:
            if label not in known:
                near = difflib.get_close_matches(label, known, n=1)
                raise ConfigError(
                    "unknown label", where=f"{where}.{key}", found=repr(label),
                    expected=f"one of the {len(known)} labels of {spec.name}",
                    fix=f"did you mean {near[0]!r}?" if near else f"vedette show {config.model} lists them",
                )  # fmt: skip
    threshold = config.threshold if config.threshold is not None else spec.output.score_threshold
    return Prepared(name, config, spec, threshold)


def source_options(config: PipelineConfig) -> SourceOptions:
    """What the configuration says of a pipeline's source."""
    source = config.source_config
    return SourceOptions(
        url=source.url,
        loop=source.loop,
        pace=source.pace,
        fps=source.fps,
        rtsp_transport=source.rtsp_transport,
        open_timeout_s=source.open_timeout_s,
        read_timeout_s=source.stall_timeout_s,
    )


def link_options(config: Config) -> LinkOptions:
    """What the configuration says of the broker. Raises `ConfigError` where the password file cannot be read."""
    mqtt = config.mqtt
    password = mqtt.password
    if mqtt.password_file:
        try:
            password = Path(mqtt.password_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("password file cannot be read", where=mqtt.password_file, found=str(error)) from None
        if len(password) > MAX_PASSWORD:
            raise ConfigError(
                "password too long", where=mqtt.password_file, expected=f"at most {MAX_PASSWORD} characters"
            )
    return LinkOptions(
        host=mqtt.host,
        port=mqtt.port,
        client_id=f"vedette-{config.device}",
        protocol=mqtt.protocol,
        username=mqtt.username,
        password=password,
        tls=mqtt.tls,
        ca_file=mqtt.ca_file,
        keepalive_s=mqtt.keepalive_s,
        in_flight=mqtt.in_flight,
        replay_age_s=config.outbox.replay_age_s,
    )


class _ClockWatch:
    """The wall clock's state, looked up at most once a second: the kernel need not be asked for each frame."""

    def __init__(self) -> None:
        self._state: ClockState = clock.clock_state()

    def refresh(self) -> None:
        self._state = clock.clock_state()

    def __call__(self) -> ClockState:
        return self._state


class Service:
    """One agent. `run` is its life."""

    def __init__(self, config: Config, config_path: Path) -> None:
        """Reads the models. Raises `UserError` for everything a user can mend before anything is started."""
        self._config = config
        self._topics = Topics(config.mqtt.root, config.device)
        self._prepared = prepare(config, config_path)
        self._link_options = link_options(config)
        self._sources = {p.name: make_source(source_options(p.config)) for p in self._prepared}
        self._notifier = Notifier()
        self._stop = threading.Event()
        self._clock = _ClockWatch()
        self._lock = threading.Lock()
        self._alerts: dict[str, str] = {}
        self._state: wire.State = "init"
        self._why: str | None = None
        self._since = ""
        self._pipelines: list[Pipeline] = []
        self._self_tests: dict[str, SelfTest | None] = {}
        self._epoch: Epoch
        self._outbox: MemoryOutbox
        self._link: Link

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until every source has come to its end. The process's exit code."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self._stop.set())
        models = {p.name: self._load(p) for p in self._prepared}
        streams = [Stream(p.name, TOPIC) for p in self._prepared]
        self._epoch = next_epoch(Path(self._config.state_dir), streams)
        outbox = self._config.outbox
        self._outbox = MemoryOutbox(
            self._epoch.number,
            max_messages=outbox.max_messages,
            max_bytes=outbox.max_bytes,
            when_full=outbox.when_full,
            lost=self._epoch.lost,
        )
        self._link = Link(
            self._link_options,
            self._topics,
            self._outbox,
            will=self._will,
            on_connected=self._connected,
            on_acknowledged=self._acknowledged,
            on_alert=lambda why: log.warning("%s", why),
        )
        self._change("init", None)
        self._pipelines = [self._pipeline(p, models[p.name]) for p in self._prepared]
        try:
            for pipeline in self._pipelines:
                pipeline.grabber.start()
            self._link.start()
            for pipeline in self._pipelines:
                pipeline.start()
            self._change("ready", None)
            self._notifier.send(READY="1", STATUS=self._summary())
            log.info("ready: epoch %d, %s", self._epoch.number, self._summary())
            return self._watch()
        finally:
            self._shut_down()

    def _load(self, prepared: Prepared) -> Model:
        engine = self._config.engine
        chosen = make_filter(
            prepared.spec.labels, prepared.config.labels, prepared.threshold, prepared.config.thresholds
        )
        model = load_model(prepared.spec, runtime=engine.runtime, threads=engine.threads, score_threshold=chosen.lowest)
        self._self_tests[prepared.name] = self_test(model)  # also warms the network up
        return model

    def _pipeline(self, prepared: Prepared, model: Model) -> Pipeline:
        config = prepared.config
        stats = PipelineStats(clock.now_ns())
        source = config.source_config
        grabber = Grabber(
            self._sources[prepared.name],
            name=prepared.name,
            stall_timeout_s=source.stall_timeout_s,
            frozen_timeout_s=source.frozen_timeout_s,
            on_change=lambda outcome, why: self._source_changed(prepared.name, outcome, why),
        )
        return Pipeline(
            prepared.name,
            grabber,
            model,
            make_filter(prepared.spec.labels, config.labels, prepared.threshold, config.thresholds),
            self._outbox,
            stats,
            max_fps=config.max_fps,
            publish_empty=config.publish_empty,
            clock_state=self._clock,
        )

    def _watch(self) -> int:
        intervals = self._config.intervals
        due = {
            self._publish_stats: intervals.stats_s,
            self._publish_ledger: intervals.ledger_s,
            self._publish_health: intervals.health_s,
        }
        begun = time.monotonic()
        next_at = {task: begun + seconds for task, seconds in due.items()}
        while not self._stop.wait(TICK_S):
            self._clock.refresh()
            if self._link.refused is not None:
                raise self._link.refused
            self._review()
            self._feed_watchdog()
            now = time.monotonic()
            for task, seconds in due.items():
                if now >= next_at[task]:
                    next_at[task] = now + seconds
                    task()
            if all(p.ended.is_set() for p in self._pipelines):
                return self._all_ended()
        log.info("stopping")
        return 0

    def _all_ended(self) -> int:
        faults = [p.fault for p in self._pipelines if p.fault is not None]
        if faults:
            raise faults[0]
        log.info("every source has come to its end")
        return 0

    def _feed_watchdog(self) -> None:
        """WATCHDOG=1 only while every pipeline's thread finishes its turns: an engine that hangs starves the watchdog."""
        limit_s = self._notifier.watchdog_s or HANG_S
        now = clock.now_ns()
        hanging = [p.name for p in self._pipelines if not p.ended.is_set() and (now - p.turned_ns) / 1e9 > limit_s / 2]
        if hanging:
            log.error("no progress in %s", ", ".join(hanging))
            return
        self._notifier.send(WATCHDOG="1", STATUS=self._summary())

    def _review(self) -> None:
        """Compares how the pipelines are with what was last said, and says what changed."""
        problems = {}
        for pipeline in self._pipelines:
            status = pipeline.grabber.status()
            if status.outcome is not None and status.outcome is not Outcome.END:
                problems[pipeline.name] = f"{pipeline.name}: source {status.outcome.value}: {status.why}"
            if pipeline.fault is not None:
                problems[pipeline.name] = f"{pipeline.name}: {pipeline.fault.line()}"
        # a stall's text counts seconds; only its beginning is news
        if set(problems) != set(self._alerts):
            self._alerts = problems
            self._change("alert" if problems else "ready", "; ".join(problems.values()) or None)

    def _source_changed(self, name: str, outcome: Outcome | None, why: str) -> None:
        text = "frames are back" if outcome is None else f"source {outcome.value}: {why}"
        level = logging.INFO if outcome in (None, Outcome.END) else logging.WARNING
        log.log(level, "pipeline %s: %s", name, text)

    def _change(self, state: wire.State, why: str | None) -> None:
        with self._lock:
            self._state, self._why = state, why
            self._since = clock.wall_time(clock.now_ns())
        self._publish_status()

    def _will(self) -> bytes:
        return wire.encode(self._status("lost", "connection lost", clock.wall_time(clock.now_ns())))

    def _status(self, state: wire.State, why: str | None, since: str) -> wire.StatusMessage:
        return wire.StatusMessage(
            v=wire.VERSION,
            state=state,
            epoch=self._epoch.number,
            since=since,
            why=why,
            agent=__version__,
            pipelines=[p.name for p in self._prepared],
        )

    def _publish_status(self) -> None:
        with self._lock:
            message = self._status(self._state, self._why, self._since)
        self._link.publish(self._topics.status, wire.encode(message), qos=1, retain=True)

    def _connected(self) -> None:
        """On the link's thread, at each connection: everything that is retained."""
        self._publish_status()
        for pipeline in self._pipelines:
            topic = self._topics.pipeline(pipeline.name, "model")
            message = reports.model(self._origin, pipeline, self._self_tests[pipeline.name])
            self._link.publish(topic, wire.encode(message), qos=1, retain=True)
        self._publish_ledger()
        self._publish_health()

    def _acknowledged(self, key: Key, captured_ns: int) -> None:
        for pipeline in self._pipelines:
            if pipeline.name == key.stream.pipeline:
                pipeline.stats.acknowledged((clock.now_ns() - captured_ns) / 1e6)

    def _publish_stats(self) -> None:
        waiting = self._outbox.depth()
        rows = {row.stream.pipeline: row for row in self._outbox.ledger() if row.epoch == self._epoch.number}
        for pipeline in self._pipelines:
            url = masked_url(self._config.pipelines[pipeline.name].source_config.url)
            message = reports.stats(self._origin, pipeline, url, waiting, rows.get(pipeline.name))
            self._link.publish(self._topics.pipeline(pipeline.name, "stats"), wire.encode(message), qos=0, retain=False)

    def _ledger(self) -> bytes:
        return wire.encode(reports.ledger(self._origin, self._outbox.ledger()))

    def _publish_ledger(self) -> None:
        self._link.publish(self._topics.ledger, self._ledger(), qos=1, retain=True)

    def _publish_health(self) -> None:
        message = reports.health(self._origin, read_health(Path(self._config.state_dir)), self._clock())
        self._link.publish(self._topics.health, wire.encode(message), qos=0, retain=False)

    @property
    def _origin(self) -> reports.Origin:
        return reports.Origin(self._config.device, self._epoch.number)

    def _summary(self) -> str:
        """One line for ``systemctl status``."""
        parts = [f"{p.name}: {s.frames} frames" for p in self._pipelines for s in [p.grabber.status()]]
        waiting = self._outbox.depth().messages
        return f"{self._state}; {', '.join(parts)}; {waiting} messages waiting" + (
            f"; {self._why}" if self._why else ""
        )

    def _shut_down(self) -> None:
        """In order: no more frames, no more results, then everything that waits, then goodbye."""
        self._notifier.send(STOPPING="1")
        for pipeline in self._pipelines:
            pipeline.grabber.stop(1.0)
        for pipeline in self._pipelines:
            pipeline.stop(2.0)
        self._outbox.close()
        if self._link.status().connected:
            self._publish_stats()
            if not self._outbox.wait_empty(FLUSH_S):
                log.warning("stopping with %d messages not acknowledged", self._outbox.depth().messages)
            self._link.publish_and_wait(self._topics.ledger, self._ledger(), 1.0)
            message = wire.encode(self._status("stopped", self._why, clock.wall_time(clock.now_ns())))
            self._link.publish_and_wait(self._topics.status, message, 1.0)
        self._link.stop()
        self._epoch.end(self._outbox.ledger())
        for pipeline in self._pipelines:
            pipeline.model.engine.close()
