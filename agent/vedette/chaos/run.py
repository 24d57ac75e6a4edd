"""A run: an agent in a child, faults in rounds, and what it made of them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vedette import clock
from vedette.contract.errors import BrokerUnreachableError, FaultError, UserError, VedetteError
from vedette.demo.agent import AgentProcess
from vedette.monitor.listening import Listening
from vedette.mqtt.connection import Connection
from vedette.mqtt.inbox import Incoming

from .account import Account, Verdict
from .clock import wall_clock
from .faults import READY_S, Fault, NotTried, faults_for
from .stage import Stage, set_stage
from .usage import Usage, usage_of

FIRST_S: Final = 60.0  # for the first message of each pipeline
RECOVERY_S: Final = 90.0  # for all pipelines to be heard of again; a link's back-off ends at 60 s
SETTLE_S: Final = 5.0  # of quiet before the agent's memory is measured
QUIET_S: Final = (0.5, 1.5)  # between two rounds, least and most
DRAIN_S: Final = 60.0  # for what waits, at the end
BACKLOG: Final = 200  # messages; with no more waiting, stopping can deliver them
WITHOUT_GROWTH: Final = Usage(threads=2, open_files=4, pss_bytes=32_000_000)
"""How much more an agent may use at its end than when it had settled: caches, and what libraries keep."""
NOTHING: Final = Usage(0, 0, 0)
LIFE_S: Final = 10.0  # one that was shorter after it had settled says nothing of leaks


@dataclass(slots=True)
class Tried:
    """One fault over the run. ``back_s``: from its end until every pipeline was heard of again, each time."""

    name: str
    back_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Growth:
    """The most that any of an agent's lives used at its end beyond what it used when it had settled; over ``lives``."""

    lives: int = 0
    most: Usage = NOTHING

    def note(self, before: Usage, after: Usage) -> None:
        """One life."""
        self.lives += 1
        self.most = Usage(*(max(most, b - a) for most, a, b in zip(self.most, before, after, strict=True)))


@dataclass(slots=True)
class Outcome:
    """What a run came to. ``failures``: one line each; none is good. ``lives``: how often the agent was started.
    ``seconds``: of faults, as they were in the end.

    ``samples``: what the agent used after each round, and when, in seconds from the start.
    """

    seed: int
    seconds: float
    broker: str
    durable: str
    tried: list[Tried] = field(default_factory=list)
    not_tried: list[NotTried] = field(default_factory=list)
    verdict: Verdict | None = None
    growth: Growth = field(default_factory=Growth)
    lives: int = 1
    samples: list[tuple[float, Usage]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


Say = Callable[[str], None]


def perform(
    config: Path, *, seconds: float, seed: int, own_broker: bool = True, only: Sequence[str] = (),
    without: Sequence[str] = (), at_once: int = 1, say: Say = lambda line: None,
) -> Outcome:  # fmt: skip
    """Injects faults for so long. ``only``: those whose names begin so, ``without``: but none of these. ``at_once``: how
    many together in each round.

    Ctrl-C ends it early, with the account of what was tried; again, at once. Raises `UserError` for what the user can
    mend.
    """
    with set_stage(config, own_broker=own_broker) as stage:
        wall = wall_clock(stage.folder)
        environment = {} if isinstance(wall, str) else wall.environment
        with AgentProcess(stage.config, stage.folder, environment) as agent, _listening(stage) as (account, listening):
            faults, not_tried = faults_for(stage, agent, wall)
            chosen = [
                fault for fault in faults
                if (not only or fault.name.startswith(tuple(only))) and not fault.name.startswith(tuple(without))
            ]  # fmt: skip
            if not chosen:
                names = ", ".join(fault.name for fault in faults)
                raise UserError("no such fault here", expected=f"one of {names}", found=", ".join(only))
            outcome = Outcome(seed, seconds, stage.broker_name, stage.durable, not_tried=list(not_tried))
            play = _Play(stage, agent, account, outcome, random.Random(seed), say)
            try:
                try:
                    play.begin()
                    play.rounds(chosen, seconds, at_once)
                except KeyboardInterrupt:
                    say("no more faults; what waits is delivered")
                    _heal_all(chosen, agent)
                play.end()
            except VedetteError as error:
                outcome.failures.append(error.line())
            finally:
                _heal_all(chosen, agent)
                agent.stop()
            outcome.verdict = account.verdict()
            outcome.failures += _judge(outcome, outcome.verdict, listening)
            if not own_broker:
                _clear_retained(stage)
        return outcome


def _heal_all(faults: Sequence[Fault], agent: AgentProcess) -> None:
    """Whatever is broken just now; an agent that is dead stays so."""
    for fault in faults:
        if not fault.restarts and agent.exit_code() is None:
            fault.heal()


@contextmanager
def _listening(stage: Stage) -> Iterator[tuple[Account, Listening]]:
    """Straight to the broker. Raises what connecting raises."""
    account = Account(stage.topics)
    connected = threading.Event()
    ended: list[VedetteError] = []

    def heard(message: Incoming) -> None:
        account.hear(message.topic, message.payload, retained=message.retained)

    def changed(why: str | None) -> None:
        if why is None:
            connected.set()

    listening = Listening(stage.broker, [stage.topics.all], heard, changed, protocol=stage.broker.protocol)

    def run() -> None:
        try:
            listening.run()
        except VedetteError as error:
            ended.append(error)
            connected.set()

    thread = threading.Thread(target=run, name="listening", daemon=True)
    thread.start()
    try:
        connected.wait(30)
        if ended or not connected.is_set():
            raise ended[0] if ended else BrokerUnreachableError("no answer in time", where=stage.broker_name)
        yield account, listening
    finally:
        listening.stop()
        thread.join(5)


class _Play:
    """The agent's lives, one after another. One thread."""

    def __init__(
        self, stage: Stage, agent: AgentProcess, account: Account, outcome: Outcome, luck: random.Random, say: Say
    ) -> None:
        self._stage = stage
        self._agent = agent
        self._account = account
        self._outcome = outcome
        self._luck = luck
        self._say = say
        self._begun = time.monotonic()
        self._settled: Usage | None = None
        self._settled_at = 0.0
        self._tried: dict[str, Tried] = {}

    def begin(self) -> None:
        """Until every pipeline was heard of."""
        since = clock.now_ns()
        self._agent.start()
        self._agent.wait_ready(READY_S)
        if self._back_s(since, FIRST_S) is None:
            silent = ", ".join(sorted(set(self._stage.pipelines) - self._account.fresh_since(since)))
            raise FaultError(
                "no message within a minute, before any fault", where=silent, found=self._agent.last_words()
            )
        self._settle()

    def rounds(self, faults: Sequence[Fault], seconds: float, at_once: int) -> None:
        """All of them in a random order, again and again; those for which there was no time are not tried."""
        begun = time.monotonic()
        try:
            self._go_round(faults, begun + seconds, at_once)
        finally:
            self._outcome.seconds = round(time.monotonic() - begun, 1)
        untried = [fault.name for fault in faults if fault.name not in self._tried]
        self._outcome.not_tried += [NotTried(name, "no time was left for it") for name in untried]

    def _go_round(self, faults: Sequence[Fault], deadline: float, at_once: int) -> None:
        waiting: list[Fault] = []
        while time.monotonic() < deadline:
            if len(waiting) < at_once:
                again = list(faults)
                self._luck.shuffle(again)
                waiting += [fault for fault in again if fault not in waiting]
            now, waiting = waiting[:at_once], waiting[at_once:]
            self._round(now)
            self._pause(self._luck.uniform(*QUIET_S))

    def _round(self, faults: Sequence[Fault]) -> None:
        restarts = any(fault.restarts for fault in faults)
        if restarts:
            self._end_of_life()
        words = []
        for fault in sorted(faults, key=lambda fault: fault.restarts):  # the others need a process
            words.append(f"{fault.name}: {fault.inject(self._luck)}")
            self._pause(self._luck.uniform(0.0, 0.5) if len(faults) > 1 else 0.0, ends=restarts)
        self._pause(self._luck.uniform(*max(fault.lasts_s for fault in faults)), ends=restarts)
        for fault in sorted(faults, key=lambda fault: fault.restarts):  # a start needs what was broken
            fault.heal()
        healed = clock.now_ns()
        back_s = self._back_s(healed, RECOVERY_S)
        if (used := usage_of(self._agent.pid)) is not None:
            self._outcome.samples.append((time.monotonic() - self._begun, used))
        for fault in faults:
            tried = self._tried.setdefault(fault.name, Tried(fault.name))
            if tried not in self._outcome.tried:
                self._outcome.tried.append(tried)
            if back_s is not None:
                tried.back_s.append(back_s)
        at = f"{time.monotonic() - self._begun:7.1f} s  {'; '.join(words)}"
        if back_s is None:
            self._say(f"{at}: NOT BACK within {RECOVERY_S:g} s")
            silent = ", ".join(sorted(set(self._stage.pipelines) - self._account.fresh_since(healed)))
            raise FaultError(
                f"nothing more was heard within {RECOVERY_S:g} s of the end of: {', '.join(f.name for f in faults)}",
                where=silent, found=self._agent.last_words(),
            )  # fmt: skip
        wrong = {fault.name: said for fault in faults if (said := fault.check())}
        for name, said in wrong.items():
            self._tried[name].wrong.append(said)
        self._say(f"{at}: back after {back_s:.1f} s" + "".join(f"; WRONG: {text}" for text in wrong.values()))
        if restarts:
            self._outcome.lives += 1
            self._settle()

    def end(self) -> None:
        """What waits is delivered, and the agent says goodbye."""
        if self._agent.exit_code() is not None:  # interrupted in the middle of a kill
            self._agent.start()
            self._agent.wait_ready(READY_S)
        self._end_of_life()
        deadline = time.monotonic() + DRAIN_S
        while self._account.backlog > BACKLOG and time.monotonic() < deadline:
            self._pause(0.2)
        if self._agent.stop(20.0) != 0:
            self._outcome.failures.append(f"the agent did not end well: {self._agent.last_words()}")
        if not self._account.stopped.wait(10):
            self._outcome.failures.append(f"the agent did not say goodbye: {self._agent.last_words()}")

    def _back_s(self, since_ns: int, timeout_s: float) -> float | None:
        """Until something was heard of each pipeline that was captured after that; None where it was not in time."""
        wanted = set(self._stage.pipelines)
        deadline_ns = clock.now_ns() + int(timeout_s * 1e9)
        while not wanted <= self._account.fresh_since(since_ns):
            if clock.now_ns() > deadline_ns:
                return None
            self._pause(0.02)
        return (clock.now_ns() - since_ns) / 1e9

    def _pause(self, seconds: float, *, ends: bool = False) -> None:
        """Looks after the agent meanwhile. ``ends``: it has been killed."""
        end = time.monotonic() + seconds
        while True:
            self._agent.drain()
            if not ends and self._agent.exit_code() is not None:
                raise FaultError("the agent ended by itself", found=self._agent.last_words())
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(0.1, left_s))

    def _settle(self) -> None:
        self._pause(SETTLE_S)
        self._settled, self._settled_at = usage_of(self._agent.pid), time.monotonic()

    def _end_of_life(self) -> None:
        """Measures, once what the last fault left behind is gone."""
        if self._settled is None or time.monotonic() - self._settled_at < LIFE_S:
            return
        self._pause(SETTLE_S)
        after = usage_of(self._agent.pid)
        if after is not None:
            self._outcome.growth.note(self._settled, after)
        self._settled = None


def _judge(outcome: Outcome, verdict: Verdict, listening: Listening) -> list[str]:
    failures = [f"{tried.name}: {text}" for tried in outcome.tried for text in tried.wrong]
    if listening.connections > 1:
        failures.append("the listener's own connection broke: what came meanwhile was not heard, and says nothing")
    for text, count in (
        ("messages are missing, and no ledger says why", verdict.missing),
        ("messages still wait in the agent", verdict.waiting),
        ("ids stood for two messages", verdict.conflicts),
        ("messages are not what docs/WIRE.md says", verdict.malformed),
        ("rows of the ledger do not balance", verdict.unbalanced),
    ):
        if count:
            failures.append(f"{count} {text}: {verdict.examples[0] if verdict.examples else ''}")
    if outcome.durable == "always" and (lost := verdict.accounted.get("lost with a crash", 0)):
        failures.append(f'{lost} messages were lost with a crash, although durable = "always"')
    for name, found, allowed in zip(Usage._fields, outcome.growth.most, WITHOUT_GROWTH, strict=True):
        if found > allowed:
            failures.append(f"the agent uses more and more {name}: {found:,} more in one life, {allowed:,} are allowed")
    return failures


def _clear_retained(stage: Stage) -> None:
    """Of a device that will not come back."""
    topics = stage.topics
    names = [topics.status, topics.ledger]
    names += [topics.pipeline(name, last) for name in stage.pipelines for last in ("model", "settings", "state")]
    left: set[int | None] = set()
    connection = Connection(stage.broker, None, settled=lambda mid, reason: left.discard(mid))
    try:
        connection.connect()
        left |= {connection.publish(name, b"", qos=1, retain=True) for name in names}
        deadline = time.monotonic() + 5
        while left and not connection.closed and time.monotonic() < deadline:
            connection.poll(0.1)
    finally:
        connection.close(politely=True)
