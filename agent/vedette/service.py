"""The life of an agent.

::

    load models, self-test -> count the epoch up -> open sources -> connect -> READY
    -> every second: progress to the watchdog, status; now and then: stats, ledger, health
    -> SIGTERM: stop sources, flush the outbox, say goodbye

`vedette.compose` makes the parts of it, and these two are all that knows every room. Threads: this one (the main one), for
each pipeline its source's and two of its own, the lanes' and the link's.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from typing import Final

from . import __version__, clock, reports
from .clock import ClockState
from .compose import Loaded, Prepared, link_options, load_models, make_pipeline, prepare
from .condition import Condition, Said
from .config import Config
from .contract.errors import UserError
from .contract.types import Frame, Result
from .control import Control
from .delivery import Key, Outbox, Stream
from .event_bodies import state_message
from .facts import device_facts
from .feed import WindowFeed
from .following import Followed, State
from .health import read_health
from .lane import Lane
from .mqtt import Link, Subscription, Topics
from .mqtt import payloads as wire
from .mqtt.announcer import Announcer
from .mqtt.commands import Commands
from .mqtt.discovery import discovery, discovery_topic
from .mqtt.requests import Snapshot as SnapshotRequest
from .notify import Notifier
from .outbox import Bounds, Epoch, open_outbox
from .pipeline import Pipeline
from .reporter import DETECTIONS, EVENTS
from .snapshots import Snapshots
from .sources import Outcome, masked_url

log = logging.getLogger(__name__)

TICK_S: Final = 0.5
FLUSH_S: Final = 4.0  # at a clean stop; systemd's stop timeout must be longer
HANG_S: Final = 20.0  # a pipeline that has not finished a turn for so long hangs, where systemd names no watchdog time


class _ClockWatch:
    """The wall clock's state, looked up at most once a second: the kernel need not be asked for each frame."""

    def __init__(self) -> None:
        self._state: ClockState = clock.clock_state()

    def refresh(self) -> None:
        self._state = clock.clock_state()

    def __call__(self) -> ClockState:
        return self._state


class _PipelineAudience:
    """See `vedette.reporter.Audience`: what one pipeline tells the service, on the pipeline's thread."""

    def __init__(self, service: Service, pipeline: str, snapshots: Snapshots | None) -> None:
        self._service = service
        self._pipeline = pipeline
        self._snapshots = snapshots

    def state(self, state: State, captured_ns: int) -> None:
        """Remembered for the next connection, and published on this one."""
        self._service._states[self._pipeline] = (state, captured_ns)
        self._service._publish_state(self._pipeline, state, captured_ns)

    def seen(self, frame: Frame, result: Result, followed: Followed) -> None:
        """A picture may be taken."""
        if self._snapshots is not None:
            self._snapshots.seen(frame, result, followed)


class Service:
    """One agent. `run` is its life."""

    def __init__(self, config: Config, config_path: Path) -> None:
        """Reads the models. Raises `UserError` for everything a user can mend before anything is started."""
        self._config = config
        self._config_path = config_path
        self._topics = Topics(config.mqtt.root, config.device)
        self._prepared = prepare(config, config_path)
        self._link_options = link_options(config)
        self._notifier = Notifier()
        self._stop = threading.Event()
        self._clock = _ClockWatch()
        self._condition = Condition(self._publish_status)
        self._loaded: dict[str, Loaded] = {}
        self._lanes: list[Lane] = []
        self._pipelines: list[Pipeline] = []
        self._snapshots: dict[str, Snapshots] = {}
        self._shares: dict[str, float] = {}
        self._states: dict[str, tuple[State, int]] = {}  # by pipeline: what holds, and since which capture
        self._epoch: Epoch
        self._outbox: Outbox
        self._control: Control
        self._announcer: Announcer
        self._commands = Commands(
            self._topics,
            {
                "enable": lambda request: self._control.enable(request),
                "threshold": lambda request: self._control.threshold(request),
                "reload": lambda request: self._control.reload(request),
                "snapshot": self._snapshot,
            },
            self._reply,
            self._unanswerable,
            clock_state=self._clock,
        )
        self._link: Link

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until every source has come to its end. The process's exit code."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self._stop.set())
        self._loaded = load_models(self._prepared, self._config.engine)
        self._lanes = list({id(loaded.lane): loaded.lane for loaded in self._loaded.values()}.values())
        streams = [Stream(p.name, topic) for p in self._prepared for topic in (DETECTIONS, EVENTS)]
        outbox = self._config.outbox
        self._epoch, self._outbox = open_outbox(
            Path(self._config.state_dir),
            streams,
            Bounds(outbox.max_messages, outbox.max_bytes, outbox.max_age_s, outbox.when_full),
            durable=outbox.durable,
            max_memory_bytes=outbox.max_memory_bytes,
            on_alert=lambda why: self._note("outbox", why),
        )
        self._link = Link(
            self._link_options,
            self._topics,
            self._outbox,
            will=self._will,
            on_connected=self._connected,
            on_acknowledged=self._acknowledged,
            on_alert=self._link_alert,
            subscriptions=self._subscriptions(),
        )
        self._announcer = self._announce()
        self._condition.change("init")
        self._snapshots = {p.name: made for p in self._prepared if (made := self._take_pictures(p)) is not None}
        self._pipelines = [self._pipeline(p) for p in self._prepared]
        self._control = Control(
            self._config, self._config_path, self._prepared, self._pipelines, self._publish_settings
        )
        try:
            for snapshots in self._snapshots.values():
                snapshots.start()
            for pipeline in self._pipelines:
                pipeline.feed.start()
            self._link.start()
            for lane in self._lanes:
                lane.start()
            for pipeline in self._pipelines:
                pipeline.start()
            self._condition.change("ready")
            self._notifier.send(READY="1", STATUS=self._summary())
            log.info("ready: epoch %d, %s", self._epoch.number, self._summary())
            return self._watch()
        finally:
            self._shut_down()

    def _pipeline(self, prepared: Prepared) -> Pipeline:
        return make_pipeline(
            prepared,
            self._loaded[prepared.name],
            self._outbox,
            _PipelineAudience(self, prepared.name, self._snapshots.get(prepared.name)),
            clock_state=self._clock,
            on_source=lambda outcome, why: self._source_changed(prepared.name, outcome, why),
        )

    def _take_pictures(self, prepared: Prepared) -> Snapshots | None:
        options = prepared.config.snapshots
        if options is None:
            return None
        name, topic = prepared.name, self._topics.pipeline(prepared.name, "snapshot")
        return Snapshots(
            options,
            name,
            prepared.spec.labels,
            lambda: self._control.thresholds(name),
            lambda jpeg: self._link.publish(topic, jpeg, qos=0, retain=False),
            lambda why: self._note(f"{name} snapshots", f"{name}: {why}"),
        )

    def _snapshot(self, request: SnapshotRequest) -> None:
        """The next picture of a pipeline. Raises `UserError` where it takes none."""
        snapshots = self._snapshots.get(request.pipeline)
        options = next((p.config.snapshots for p in self._prepared if p.name == request.pipeline), None)
        if snapshots is None or options is None or not options.command:
            raise UserError(
                "no pictures of this pipeline", where=request.pipeline,
                fix=f"give it a table [pipeline.{request.pipeline}.snapshots], command = true",
            )  # fmt: skip
        snapshots.ask()

    def _subscriptions(self) -> list[Subscription]:
        wanted = [Subscription(self._topics.commands, self._commands.receive)]
        assistant = self._config.home_assistant
        if assistant.enabled:
            wanted.append(Subscription(f"{assistant.prefix}/status", lambda message: self._announcer.heard(message)))
        return wanted

    def _announce(self) -> Announcer:
        """Home Assistant is told of this device, or told to forget it where it no longer is to know."""
        assistant = self._config.home_assistant
        facts = device_facts(self._config, self._prepared)
        return Announcer(
            Path(self._config.state_dir),
            discovery_topic(assistant.prefix, self._topics),
            (lambda retired: discovery(facts, self._topics, retired)) if assistant.enabled else None,
            lambda topic, payload: self._link.publish(topic, payload, qos=1, retain=True),
            lambda why: self._note("home assistant", why),
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
            self._announcer.turn()
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
        """What is wrong now, for the status to tell."""
        problems = {}
        for pipeline in self._pipelines:
            status = pipeline.feed.status()
            if status.outcome is not None and status.outcome is not Outcome.END:
                problems[pipeline.name] = f"{pipeline.name}: source {status.outcome.value}: {status.why}"
            if pipeline.fault is not None:
                problems[pipeline.name] = f"{pipeline.name}: {pipeline.fault.line()}"
            if isinstance(pipeline.feed, WindowFeed):
                for key, text in pipeline.feed.news():
                    self._note(f"{pipeline.name} {key}", f"{pipeline.name}: {text}")
        problems.update(self._outbox.problems())
        for topic in self._link.status().unheard:
            problems[f"unheard {topic}"] = f"the broker does not let this agent hear {topic}"
        self._condition.review(problems, self._shares)

    def _source_changed(self, name: str, outcome: Outcome | None, why: str) -> None:
        text = "frames are back" if outcome is None else f"source {outcome.value}: {why}"
        level = logging.INFO if outcome in (None, Outcome.END) else logging.WARNING
        log.log(level, "pipeline %s: %s", name, text)

    def _will(self) -> bytes:
        return self._status(Said("lost", "connection lost", clock.wall_time(clock.now_ns()), ()))

    def _status(self, said: Said) -> bytes:
        return wire.encode(
            wire.StatusMessage(
                v=wire.VERSION,
                state=said.state,
                epoch=self._epoch.number,
                since=said.since,
                why=said.why,
                agent=__version__,
                pipelines=[p.name for p in self._prepared],
                degraded=list(said.degraded),
            )
        )

    def _publish_status(self, said: Said) -> None:
        self._link.publish(self._topics.status, self._status(said), qos=1, retain=True)

    def _reply(self, topic: str, payload: bytes) -> None:
        self._link.publish(topic, payload, qos=1, retain=False)

    def _link_alert(self, why: str) -> None:
        log.warning("%s", why)
        if self._link.status().connected:  # that there was no connection is no news to whoever hears of it
            self._condition.note("broker", why)

    def _unanswerable(self, why: str) -> None:
        self._note("command", why)

    def _note(self, key: str, why: str) -> None:
        """Something happened that the status tells for a while; the log has the first of its kind."""
        if self._condition.note(key, why):
            log.warning("%s", why)

    def _publish_settings(self, pipeline: str) -> None:
        message = self._control.settings(self._config.device, self._epoch.number, pipeline)
        self._link.publish(self._topics.pipeline(pipeline, "settings"), wire.encode(message), qos=1, retain=True)

    def _publish_state(self, pipeline: str, state: State, captured_ns: int) -> None:
        """Retained, and sent now or on the next connection: what holds then is what counts."""
        message = state_message(
            state, captured_ns, device=self._config.device, pipeline=pipeline, epoch=self._epoch.number
        )
        self._link.publish(self._topics.pipeline(pipeline, "state"), wire.encode(message), qos=1, retain=True)

    def _connected(self) -> None:
        """On the link's thread, at each connection: everything that is retained."""
        self._publish_status(self._condition.said)
        for pipeline in self._pipelines:
            topic = self._topics.pipeline(pipeline.name, "model")
            message = reports.model(self._origin, pipeline, self._loaded[pipeline.name].self_test)
            self._link.publish(topic, wire.encode(message), qos=1, retain=True)
            self._publish_settings(pipeline.name)
        for name, (state, captured_ns) in list(self._states.items()):
            self._publish_state(name, state, captured_ns)
        self._publish_ledger()
        self._publish_health()
        self._announcer.connected()

    def _acknowledged(self, key: Key, captured_ns: int) -> None:
        for pipeline in self._pipelines:
            if pipeline.name == key.stream.pipeline:
                pipeline.stats.acknowledged((clock.now_ns() - captured_ns) / 1e6)

    def _publish_stats(self) -> None:
        waiting = self._outbox.depth()
        rows = [row for row in self._outbox.ledger() if row.epoch == self._epoch.number]
        for pipeline in self._pipelines:
            url = masked_url(self._config.pipelines[pipeline.name].source_config.url)
            own = [row for row in rows if row.stream.pipeline == pipeline.name]
            snapshots = self._snapshots.get(pipeline.name)
            pictures = snapshots.counts() if snapshots else {}
            message = reports.stats(self._origin, pipeline, url, waiting, own, pictures)
            if message.load.share is not None:
                self._shares[pipeline.name] = message.load.share
            self._link.publish(self._topics.pipeline(pipeline.name, "stats"), wire.encode(message), qos=0, retain=False)

    def _ledger(self) -> bytes:
        return wire.encode(reports.ledger(self._origin, self._outbox.ledger()))

    def _publish_ledger(self) -> None:
        self._link.publish(self._topics.ledger, self._ledger(), qos=1, retain=True)

    def _publish_health(self) -> None:
        message = reports.health(
            self._origin, read_health(Path(self._config.state_dir)), self._clock(), self._commands.counts()
        )
        self._link.publish(self._topics.health, wire.encode(message), qos=0, retain=False)

    @property
    def _origin(self) -> reports.Origin:
        return reports.Origin(self._config.device, self._epoch.number)

    def _summary(self) -> str:
        """One line for ``systemctl status``."""
        parts = [f"{p.name}: {s.frames} frames" for p in self._pipelines for s in [p.feed.status()]]
        waiting = self._outbox.depth().messages
        said = self._condition.said
        return f"{said.state}; {', '.join(parts)}; {waiting} messages waiting" + (f"; {said.why}" if said.why else "")

    def _shut_down(self) -> None:
        """In order: no more frames, no more results, then everything that waits, then goodbye."""
        self._notifier.send(STOPPING="1")
        for pipeline in self._pipelines:
            pipeline.feed.stop(1.0)
        for pipeline in self._pipelines:
            pipeline.stop(2.0)
        for lane in self._lanes:
            lane.stop(1.0)
        for snapshots in self._snapshots.values():
            snapshots.stop(1.0)
        self._outbox.close()
        if self._link.status().connected:
            self._publish_stats()
            if not self._outbox.wait_empty(FLUSH_S):
                log.warning("stopping with %d messages not acknowledged", self._outbox.depth().messages)
            self._link.publish_and_wait(self._topics.ledger, self._ledger(), 1.0)
            last = Said("stopped", self._condition.said.why, clock.wall_time(clock.now_ns()), ())
            self._link.publish_and_wait(self._topics.status, self._status(last), 1.0)
        self._link.stop()
        self._outbox.end()
        self._epoch.end(self._outbox.ledger())
        for lane in self._lanes:
            lane.close()
