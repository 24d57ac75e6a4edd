"""What the agent says of itself, beside what the outbox delivers: status, states, settings, models, statistics, health.

All of it is sent now or never; what is retained is said again on each connection, for what holds then is what counts, and
when the clock was set.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vedette import __version__, clock
from vedette.clock import ClockState
from vedette.config import Config
from vedette.delivery import Outbox
from vedette.engine import SelfTest
from vedette.flow.pipeline import Pipeline
from vedette.follow.following import State
from vedette.mqtt import Link, Topics
from vedette.mqtt import payloads as wire
from vedette.mqtt.requests import SettingsMessage
from vedette.service.condition import Said
from vedette.service.health import read_health

from . import reports
from .event_bodies import state_message

LAST_WORDS_S = 1.0  # that each of the last messages may take to be acknowledged


class Voice:
    """Any thread may call anything, once `pipelines` and `link` are set."""

    link: Link
    pipelines: Sequence[Pipeline] = ()

    def __init__(
        self,
        config: Config,
        topics: Topics,
        epoch: int,
        outbox: Outbox,
        self_tests: Mapping[str, SelfTest | None],
        clock_state: Callable[[], ClockState],
    ) -> None:
        """``self_tests``: by pipeline, what its model's said here."""
        self._config = config
        self._topics = topics
        self._origin = reports.Origin(config.device, epoch)
        self._outbox = outbox
        self._self_tests = self_tests
        self._clock_state = clock_state
        self._states: dict[str, tuple[State, int]] = {}  # by pipeline: what holds, and since which capture
        self._telling = threading.Lock()  # of what holds now, which nothing older may follow

    def will(self) -> bytes:
        """What the broker says when this agent is lost."""
        return self._status(Said("lost", "connection lost", clock.now_ns(), ()))

    def status(self, said: Callable[[], Said]) -> None:
        """How the agent is at the moment when this is asked."""
        with self._telling:
            self.link.publish(self._topics.status, self._status(said()), qos=1, retain=True)

    def last_words(self, why: str | None) -> None:
        """The account as it is left, and goodbye; waits for both."""
        self.link.publish_and_wait(self._topics.ledger, self._ledger(), LAST_WORDS_S)
        last = Said("stopped", why, clock.now_ns(), ())
        self.link.publish_and_wait(self._topics.status, self._status(last), LAST_WORDS_S)

    def connected(self, said: Callable[[], Said], settings: Callable[[str], SettingsMessage]) -> None:
        """A connection has come up, or the clock was set: everything that is retained."""
        self.status(said)
        for pipeline in self.pipelines:
            self.model(pipeline)
            self.settings(settings(pipeline.name))
        with self._telling:
            for name, (state, captured_ns) in self._states.items():
                self._state(name, state, captured_ns)
        self.ledger()

    def model(self, pipeline: Pipeline) -> None:
        """What runs in a pipeline."""
        message = reports.model(self._origin, pipeline, self._self_tests[pipeline.name])
        self._retained(self._topics.pipeline(pipeline.name, "model"), message)

    def settings(self, message: SettingsMessage) -> None:
        """How a pipeline is set."""
        self._retained(self._topics.pipeline(message.pipeline, "settings"), message)

    def state(self, pipeline: str, state: State, captured_ns: int) -> None:
        """What holds from now on."""
        with self._telling:
            self._states[pipeline] = (state, captured_ns)
            self._state(pipeline, state, captured_ns)

    def stats(self, pictures: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        """The interval of every pipeline. Returns each one's share of what it wanted, where it can be said.

        ``pictures``: by pipeline, what became of its snapshots.
        """
        waiting = self._outbox.depth()
        rows = [row for row in self._outbox.ledger() if row.epoch == self._origin.epoch]
        shares = {}
        for pipeline in self.pipelines:
            url = self._config.pipelines[pipeline.name].source_config.url
            own = [row for row in rows if row.stream.pipeline == pipeline.name]
            message = reports.stats(self._origin, pipeline, url, waiting, own, pictures.get(pipeline.name, {}))
            if message.load.share is not None:
                shares[pipeline.name] = message.load.share
            topic = self._topics.pipeline(pipeline.name, "stats")
            self.link.publish(topic, wire.encode(message), qos=0, retain=False)
        return shares

    def ledger(self) -> None:
        """The account of every stream."""
        self.link.publish(self._topics.ledger, self._ledger(), qos=1, retain=True)

    def health(self, commands: dict[str, int]) -> None:
        """How the device is. ``commands``: by what became of them."""
        message = reports.health(
            self._origin, read_health(Path(self._config.state_dir)), self._clock_state(), commands,
            self.link.certificate_days_left(),
        )  # fmt: skip
        self.link.publish(self._topics.health, wire.encode(message), qos=0, retain=False)

    def reply(self, topic: str, payload: bytes) -> None:
        """The answer to a command."""
        self.link.publish(topic, payload, qos=1, retain=False, lasting=True)

    def picture(self, pipeline: str, jpeg: bytes) -> bool:
        """A snapshot; False without a connection."""
        return self.link.publish(self._topics.pipeline(pipeline, "snapshot"), jpeg, qos=0, retain=False)

    def _state(self, pipeline: str, state: State, captured_ns: int) -> None:
        origin = self._origin
        message = state_message(state, captured_ns, device=origin.device, pipeline=pipeline, epoch=origin.epoch)
        self._retained(self._topics.pipeline(pipeline, "state"), message)

    def _status(self, said: Said) -> bytes:
        return wire.encode(
            wire.StatusMessage(
                v=wire.VERSION,
                state=said.state,
                epoch=self._origin.epoch,
                since=clock.wall_time(said.since_ns),
                why=said.why,
                agent=__version__,
                pipelines=list(self._config.pipelines),
                degraded=list(said.degraded),
            )
        )

    def _ledger(self) -> bytes:
        return wire.encode(reports.ledger(self._origin, self._outbox.ledger()))

    def _retained(self, topic: str, message: Any) -> None:
        self.link.publish(topic, wire.encode(message), qos=1, retain=True)
