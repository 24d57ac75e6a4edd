"""The life of an agent.

::

    load models, self-test -> count the epoch up -> open sources -> connect -> READY
    -> every second: progress to the watchdog, status; now and then: stats, ledger, health
    -> SIGHUP, or a command: what the files say now, see `vedette.service.reload`
    -> SIGTERM: stop sources, flush the outbox, say goodbye

`vedette.service.compose` makes the parts of it, and these two are all that knows every room. Threads: this one (the main
one), for each pipeline its source's and two of its own, the lanes' and the link's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from vedette import clock
from vedette.clock import ClockWatch
from vedette.config import Config
from vedette.contract.errors import UserError, VedetteError
from vedette.contract.types import Frame, Result
from vedette.delivery import Key, Outbox, Stream
from vedette.engine import SelfTest
from vedette.flow.feed import stop_all
from vedette.flow.governor import Governor, Heat
from vedette.flow.pipeline import Pipeline
from vedette.follow.following import Followed, State
from vedette.messages.facts import device_facts
from vedette.messages.reporter import DETECTIONS, EVENTS
from vedette.messages.voice import Voice
from vedette.models.proofs import Proofs
from vedette.mqtt import Link, Subscription, Topics
from vedette.mqtt.announcer import Announcer
from vedette.mqtt.commands import Answer, Commands
from vedette.mqtt.discovery import discovery, discovery_topic
from vedette.mqtt.requests import SettingsMessage
from vedette.outbox import Bounds, Epoch, open_outbox
from vedette.pictures.snapshots import Snapshots
from vedette.sources import Outcome, masked_url
from vedette.trust.exposure import exposures

from .asked import Asked
from .compose import Cameras, link_options, make_pipeline
from .condition import Condition
from .control import Control
from .diagnosis import Diagnosis
from .heat import Thermometer
from .lanes import Lanes, threads_for
from .notify import Notifier
from .pictures import Pictures
from .prepared import Prepared, prepare, remember_versions
from .reload import Reload

log = logging.getLogger(__name__)

TICK_S: Final = 0.5
GOVERN_S: Final = 1.0
RELOAD_S: Final = 1.0  # how long a reload may hold a stop up; a model that is being proved is left alone
SOURCES_S: Final = 1.0  # for sources that are about to say something, at a stop
FLUSH_S: Final = 4.0  # at a clean stop; systemd's stop timeout must be longer
HANG_S: Final = 20.0  # a pipeline that has not finished a turn for so long hangs, where systemd names no watchdog time


class _PipelineAudience:
    """See `vedette.messages.reporter.Audience`: what one pipeline tells the service, on the pipeline's thread."""

    def __init__(self, voice: Voice, pipeline: str, snapshots: Snapshots | None) -> None:
        self._voice = voice
        self._pipeline = pipeline
        self._snapshots = snapshots

    @property
    def looks(self) -> bool:
        """Whether pictures are taken."""
        return self._snapshots is not None

    def state(self, state: State, captured_ns: int) -> None:
        """Remembered for the next connection, and published on this one."""
        self._voice.state(self._pipeline, state, captured_ns)

    def seen(self, frame: Frame, result: Result, followed: Followed) -> None:
        """A picture may be taken."""
        if self._snapshots is not None:
            self._snapshots.seen(frame, result, followed)


class Service:
    """One agent. `run` is its life."""

    def __init__(self, config: Config, config_path: Path, read_heat: Callable[[], Heat] | None = None) -> None:
        """Reads the models. Raises `UserError` for everything a user can mend before anything is started.

        ``read_heat``: how hot the board is; None: this one's /sys says it.
        """
        self._config = config
        self._config_path = config_path
        self._topics = Topics(config.mqtt.root, config.device)
        self._prepared = prepare(config, config_path)
        self._link_options = link_options(config, config_path)
        self._notifier = Notifier()
        self._asked = Asked()
        self._clock = ClockWatch()
        self._read_heat = read_heat or Thermometer(config.governor.max_celsius).read
        self._condition = Condition(lambda _: self._voice.status(lambda: self._condition.said))
        self._lanes: Lanes
        self._self_tests: dict[str, SelfTest | None] = {}
        self._pipelines: list[Pipeline] = []
        self._pictures: Pictures
        self._shares: dict[str, float] = {}
        self._epoch: Epoch
        self._outbox: Outbox
        self._voice: Voice
        self._governor: Governor
        self._diagnosis: Diagnosis
        self._control: Control
        self._reload: Reload
        self._announcer: Announcer
        self._commands = Commands(
            self._topics,
            {
                "enable": lambda request: self._control.enable(request),
                "threshold": lambda request: self._control.threshold(request),
                "reload": lambda request: self._reload.begin(),
                "snapshot": lambda request: self._pictures.ask(request),
            },
            lambda topic, payload: self._voice.reply(topic, payload),
            lambda why: self._note("command", why),
            clock_state=self._clock,
        )
        self._link: Link

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until every source has come to its end. The process's exit code."""
        self._asked.heed()
        state_dir = Path(self._config.state_dir)
        proofs = Proofs(state_dir)
        threads = threads_for(self._prepared, self._config.engine, proofs, state_dir)
        self._lanes = Lanes(self._config.engine, threads, proofs)
        unfit: dict[str, VedetteError] = {}
        for name, loaded in self._lanes.load(self._prepared, unfit.__setitem__).items():
            self._lanes.take(name, loaded)
            self._self_tests[name] = loaded.self_test
        fit = [p for p in self._prepared if p.name not in unfit]
        if not fit:
            raise next(iter(unfit.values()))
        for name, error in unfit.items():
            log.error("pipeline %s is left out: %s", name, error)
        remember_versions(self._config, fit)
        for line in exposures(self._config, self._config_path):
            log.warning("%s", line)
        streams = [Stream(p.name, topic) for p in fit for topic in (DETECTIONS, EVENTS)]
        outbox = self._config.outbox
        self._epoch, self._outbox = open_outbox(
            Path(self._config.state_dir),
            streams,
            Bounds(outbox.max_messages, outbox.max_bytes, outbox.max_age_s, outbox.when_full),
            durable=outbox.durable,
            max_memory_bytes=outbox.max_memory_bytes,
            on_alert=lambda why: self._note("outbox", why),
        )
        self._voice = Voice(self._config, self._topics, self._epoch.number, self._outbox, self._self_tests, self._clock)
        self._link = self._voice.link = Link(
            self._link_options,
            self._topics,
            self._outbox,
            will=self._voice.will,
            on_connected=self._connected,
            on_sent=self._sent,
            on_acknowledged=self._acknowledged,
            on_alert=self._link_alert,
            subscriptions=self._subscriptions(),
        )
        self._announcer = self._announce()
        self._condition.change("init")
        self._pictures = Pictures(
            fit,
            lambda name: self._control.thresholds(name),
            self._voice.picture,
            lambda name, why: self._note(f"{name} snapshots", f"{name}: {why}"),
        )
        cameras = Cameras(fit)
        for source, sharing in cameras.shared.items():
            log.info("one source for %s: %s", " and ".join(sharing), masked_url(source.url))
        self._pipelines = self._voice.pipelines = [self._pipeline(p, cameras) for p in fit]
        max_fps = {p.name: p.config.max_fps for p in fit}
        self._governor = Governor(self._config.governor, self._read_heat, max_fps, clock.now_ns())
        self._diagnosis = Diagnosis(self._pipelines, unfit, self._lanes, self._governor, self._outbox, self._link)
        self._control = Control(fit, self._pipelines, lambda name: self._voice.settings(self._settings(name)))
        self._reload = Reload(
            self._config, self._config_path, self._pipelines, self._control, self._lanes,
            on_exchange=self._exchanged, on_taken=self._taken, on_alert=lambda why: self._note("reload", why),
        )  # fmt: skip
        try:
            self._pictures.start()
            for pipeline in self._pipelines:
                pipeline.feed.start()
            self._link.start()
            self._lanes.start()
            for pipeline in self._pipelines:
                pipeline.start()
            self._condition.change("ready")
            self._notifier.send(READY="1", status=self._summary())
            log.info("ready: epoch %d, %s", self._epoch.number, self._summary())
            return self._watch()
        finally:
            self._shut_down()

    def _pipeline(self, prepared: Prepared, cameras: Cameras) -> Pipeline:
        return make_pipeline(
            prepared,
            self._lanes[prepared.name],
            self._outbox,
            _PipelineAudience(self._voice, prepared.name, self._pictures.of(prepared.name)),
            clock_state=self._clock,
            on_source=lambda outcome, why: self._source_changed(prepared.name, outcome, why),
            cameras=cameras,
        )

    def _subscriptions(self) -> list[Subscription]:
        wanted = [Subscription(self._topics.commands, self._commands.receive)]
        assistant = self._config.home_assistant
        if assistant.enabled:
            wanted.append(Subscription(f"{assistant.prefix}/status", lambda message: self._announcer.heard(message)))
        return wanted

    def _announcement(self) -> Callable[[dict[str, str]], dict[str, Any]]:
        """What Home Assistant is told of this device."""
        facts = device_facts(self._config, self._prepared)
        return lambda retired: discovery(facts, self._topics, retired)

    def _announce(self) -> Announcer:
        """Home Assistant is told of this device, or told to forget it where it no longer is to know."""
        assistant = self._config.home_assistant
        return Announcer(
            Path(self._config.state_dir),
            discovery_topic(assistant.prefix, self._topics),
            self._announcement() if assistant.enabled else None,
            lambda topic, payload: self._link.publish(topic, payload, qos=1, retain=True),
            lambda why: self._note("home assistant", why),
        )

    def _watch(self) -> int:
        intervals = self._config.intervals
        due = {
            self._govern: GOVERN_S,
            self._tell_stats: intervals.stats_s,
            self._voice.ledger: intervals.ledger_s,
            self._tell_health: intervals.health_s,
        }
        begun = time.monotonic()
        next_at = {task: begun + seconds for task, seconds in due.items()}
        while not self._asked.wait(TICK_S):
            if step_ns := self._clock.refresh():
                self._clock_set(step_ns)
            if self._link.refused is not None:
                raise self._link.refused
            self._review()
            self._announcer.turn()
            if self._asked.reload():
                self._hung_up()
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

    def _hung_up(self) -> None:
        """SIGHUP: nobody waits for a reply, so the log has it, and the status where it went wrong."""

        def tell(done: Future[Answer]) -> None:
            error = done.exception()
            if error is None:
                log.info("reloaded: %s", done.result())
            elif isinstance(error, VedetteError):
                self._note("reload", f"not reloaded: {error.line()}")
            else:
                log.error("not reloaded: a fault of ours", exc_info=error)
                self._note("reload", f"not reloaded: a fault of ours: {error!r}"[:500])

        try:
            self._reload.begin().add_done_callback(tell)
        except UserError as error:
            self._note("reload", f"not reloaded: {error.line()}")

    def _exchanged(self, prepared: Prepared) -> None:
        """A pipeline has another model, from its next sample on. On the pipeline's thread."""
        self._self_tests[prepared.name] = self._lanes[prepared.name].self_test
        self._pictures.relabel(prepared)

    def _taken(self, name: str, exchanged: bool) -> None:
        """A pipeline's settings, or its model, are others now; everybody who was told hears of it."""
        now = self._control.prepared(name)
        self._prepared = [now if now is not None and p.name == name else p for p in self._prepared]
        if exchanged:
            self._voice.model(next(pipeline for pipeline in self._pipelines if pipeline.name == name))
            self._voice.settings(self._settings(name))
        if self._config.home_assistant.enabled:
            self._announcer.change(self._announcement())

    def _all_ended(self) -> int:
        if faults := self._diagnosis.faults:
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
        self._notifier.send(WATCHDOG="1", status=self._summary())

    def _review(self) -> None:
        """Acts on what is wrong, and has the status tell it."""
        for pipeline in self._pipelines:
            if pipeline.fault is not None:
                pipeline.feed.stop(0.0)  # nobody looks at it any more; the other pipelines go on
        for pipeline in self._diagnosis.accelerated_anew():
            self._voice.model(pipeline)
        for key, why in self._diagnosis.news():
            self._note(key, why)
        self._condition.review(self._diagnosis.problems(), self._shares)

    def _govern(self) -> None:
        """Cameras are looked at less often while the board is too hot or results come too late."""
        self._governor.turn(clock.now_ns(), self._pipelines)

    def _clock_set(self, step_ns: int) -> None:
        """What is retained says when it began to be so, and is dated anew; what waits is dated when it is sent."""
        why = clock.step_in_words(step_ns)
        log.warning("%s", why)
        self._condition.note(f"clock {'forward' if step_ns > 0 else 'back'}", why)
        self._voice.connected(lambda: self._condition.said, self._settings)

    def _source_changed(self, name: str, outcome: Outcome | None, why: str) -> None:
        text = "frames are back" if outcome is None else f"source {outcome.value}: {why}"
        level = logging.INFO if outcome in (None, Outcome.END) else logging.WARNING
        log.log(level, "pipeline %s: %s", name, text)

    def _link_alert(self, why: str) -> None:
        log.warning("%s", why)
        if self._link.status().connected:  # that there was no connection is no news to whoever hears of it
            self._condition.note("broker", why)

    def _note(self, key: str, why: str) -> None:
        """Something happened that the status tells for a while; the log has the first of its kind."""
        if self._condition.note(key, why):
            log.warning("%s", why)

    def _settings(self, pipeline: str) -> SettingsMessage:
        return self._control.settings(self._config.device, self._epoch.number, pipeline)

    def _connected(self) -> None:
        """On the link's thread, at each connection."""
        self._voice.connected(lambda: self._condition.said, self._settings)
        self._tell_health()
        self._announcer.connected()

    def _sent(self, key: Key, captured_ns: int, sent_ns: int) -> None:
        for pipeline in self._pipelines:
            if pipeline.name == key.stream.pipeline:
                pipeline.stats.sent((sent_ns - captured_ns) / 1e6)

    def _acknowledged(self, key: Key, captured_ns: int) -> None:
        for pipeline in self._pipelines:
            if pipeline.name == key.stream.pipeline:
                pipeline.stats.acknowledged((clock.now_ns() - captured_ns) / 1e6)

    def _tell_stats(self) -> None:
        self._shares.update(self._voice.stats(self._pictures.counts()))

    def _tell_health(self) -> None:
        self._voice.health(self._commands.counts())

    def _summary(self) -> str:
        """One line for ``systemctl status``."""
        parts = [f"{p.name}: {s.frames} frames" for p in self._pipelines for s in [p.feed.status()]]
        waiting = self._outbox.depth().messages
        said = self._condition.said
        return f"{said.state}; {', '.join(parts)}; {waiting} messages waiting" + (f"; {said.why}" if said.why else "")

    def _shut_down(self) -> None:
        """In order: no more frames, no more results, then everything that waits, then goodbye."""
        self._notifier.send(STOPPING="1")
        self._reload.stop(RELOAD_S)
        stop_all([pipeline.feed for pipeline in self._pipelines], SOURCES_S)
        for pipeline in self._pipelines:
            pipeline.stop(2.0)
        self._lanes.stop(1.0)
        self._pictures.stop(1.0)
        self._outbox.close()
        if self._link.status().connected:
            self._tell_stats()
            if not self._outbox.wait_empty(FLUSH_S):
                log.warning("stopping with %d messages not acknowledged", self._outbox.depth().messages)
            self._voice.last_words(self._condition.said.why)
        self._link.stop()
        self._epoch.end(self._outbox.ledger())
        self._outbox.end()  # from now on the state folder may be another agent's
        self._lanes.close()
