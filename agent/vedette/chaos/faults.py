"""The faults: each is injected, lasts a while, and is mended. None goes on by itself."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from vedette.contract.errors import RetryableError
from vedette.demo.agent import AgentProcess
from vedette.mqtt.requests import ReplyMessage
from vedette.mqtt.send import send_command

from .clock import WallClock
from .proxy import Conditions, Proxy
from .sources import StagedSource, mend, tear
from .stage import Stage
from .usage import descendants

READY_S: Final = 60.0
REPLY_S: Final = 10.0
ENGINE_CHILD: Final = "/engine/child.py"


class Fault(Protocol):
    """``lasts_s``: least and most seconds between `inject` and `heal`. ``restarts``: whether it ends the agent."""

    name: str
    lasts_s: tuple[float, float]
    restarts: bool

    def inject(self, luck: random.Random) -> str:
        """Does it; in words. Raises `FaultError` where what must happen does not."""
        ...

    def heal(self) -> None:
        """Mends it, as far as it does not mend itself."""
        ...

    def check(self) -> str:
        """Once the agent is heard of again: what is wrong with how it took it; empty for nothing."""
        ...


class _Unchecked:
    """That messages come again is all that there is to see."""

    def check(self) -> str:
        return ""


@dataclass
class _Network(_Unchecked):
    """Something is the matter with the way between the agent and who it talks to."""

    name: str
    proxy: Proxy
    conditions: Conditions
    words: str
    lasts_s: tuple[float, float] = (1.0, 3.0)
    restarts: bool = False

    def inject(self, luck: random.Random) -> str:
        self.proxy.become(self.conditions)
        return self.words

    def heal(self) -> None:
        self.proxy.heal()


@dataclass
class _Broken(_Unchecked):
    """Connections end, and new ones are taken at once."""

    name: str
    proxy: Proxy
    reset: bool
    lasts_s: tuple[float, float] = (0.0, 0.0)
    restarts: bool = False

    def inject(self, luck: random.Random) -> str:
        (self.proxy.reset if self.reset else self.proxy.cut)()
        return "connections reset" if self.reset else "connections closed"

    def heal(self) -> None:
        """There is nothing to mend."""


@dataclass
class _Torn(_Unchecked):
    """A source's file or folder is taken away while it is read."""

    name: str
    source: StagedSource
    lasts_s: tuple[float, float] = (1.0, 3.0)
    restarts: bool = False

    def inject(self, luck: random.Random) -> str:
        share = luck.uniform(0.0, 0.9)
        tear(self.source, share)
        return "folder taken away" if self.source.kind == "folder" else f"file cut to {share:.0%}"

    def heal(self) -> None:
        mend(self.source)


@dataclass
class _Child(_Unchecked):
    """A program that the agent has started is killed, or stopped without a word."""

    name: str
    agent: AgentProcess
    hangs: bool
    engine: bool
    lasts_s: tuple[float, float] = (1.0, 3.0)
    restarts: bool = False
    _stopped: list[int] = field(default_factory=list)

    def inject(self, luck: random.Random) -> str:
        children = descendants(self.agent.pid)
        found = [pid for pid, command in children.items() if (ENGINE_CHILD in command) == self.engine]
        number = signal.SIGSTOP if self.hangs else signal.SIGKILL
        for pid in found:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it has ended meanwhile
            if self.hangs:
                self._stopped.append(pid)
        return f"{number.name} to {len(found)} {'engine' if self.engine else 'program'}(s)"

    def heal(self) -> None:
        for pid in self._stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue  # the agent has ended it, as it should
        self._stopped.clear()


@dataclass
class _Killed(_Unchecked):
    """The agent itself, with SIGKILL, and started again."""

    agent: AgentProcess
    name: str = "agent killed"
    lasts_s: tuple[float, float] = (0.0, 1.5)
    restarts: bool = True

    def inject(self, luck: random.Random) -> str:
        self.agent.kill()
        return "SIGKILL"

    def heal(self) -> None:
        self.agent.start()
        self.agent.wait_ready(READY_S)


@dataclass
class _Full(_Unchecked):
    """The state folder takes nothing more, and the broker is away, so that there is something to be kept."""

    stage: Stage
    agent: AgentProcess
    name: str = "disk full"
    lasts_s: tuple[float, float] = (2.0, 4.0)
    restarts: bool = False

    def inject(self, luck: random.Random) -> str:
        words = self.stage.disk.fill(self.agent.pid)
        if self.stage.link is None:
            return words
        self.stage.link.become(Conditions(refused=True))
        return f"{words}, and the broker away"

    def heal(self) -> None:
        self.stage.disk.empty(self.agent.pid)
        if self.stage.link is not None:
            self.stage.link.heal()


@dataclass
class _TornModel:
    """A model file is cut short under the agent, which is then told to reload: it must say so, and go on."""

    stage: Stage
    copy: Path
    original: Path
    name: str = "model torn"
    lasts_s: tuple[float, float] = (0.5, 2.0)
    restarts: bool = False
    _wrong: str = ""

    def inject(self, luck: random.Random) -> str:
        share = luck.uniform(0.0, 0.99)
        os.truncate(self.copy, int(self.copy.stat().st_size * share))
        reply = self._reload()
        silent = reply is not None and reply.ok and not (reply.result or {}).get("needs_restart")
        self._wrong = f"reload: not a word of a model that was cut to {share:.0%}" if silent else ""
        said = "not heard" if reply is None else "needs a restart" if reply.ok else "refused"
        return f"{self.copy.name} cut to {share:.0%}; reload: {said}"

    def heal(self) -> None:
        new = self.copy.with_suffix(".new")
        shutil.copyfile(self.original, new)
        new.replace(self.copy)

    def check(self) -> str:
        reply = self._reload() or self._reload()
        if reply is None:
            return "no reply to the command reload"
        refused = "" if reply.error is None else f"it refuses the whole model again: {reply.error.message}"
        return self._wrong or refused

    def _reload(self) -> ReplyMessage | None:
        """None without a reply: another fault may be in the way."""
        try:
            return send_command(self.stage.broker, self.stage.topics, "reload", {}, timeout_s=REPLY_S)
        except RetryableError:
            return None


@dataclass
class _Jump(_Unchecked):
    """The agent's wall clock jumps, and jumps back."""

    clock: WallClock
    name: str = "clock jumps"
    lasts_s: tuple[float, float] = (2.0, 4.0)
    restarts: bool = False

    def inject(self, luck: random.Random) -> str:
        days = luck.choice((-9000, -400, -1, 1, 400))
        self.clock.jump(days)
        return f"{days:+d} days"

    def heal(self) -> None:
        self.clock.jump(0)


@dataclass(frozen=True)
class NotTried:
    """A fault that cannot be injected here, and why not."""

    name: str
    why: str


def faults_for(stage: Stage, agent: AgentProcess, clock: WallClock | str) -> tuple[Sequence[Fault], Sequence[NotTried]]:
    """Everything that can be done to this agent on this machine, and what cannot. ``clock``: or why there is none."""
    faults: list[Fault] = []
    not_tried: list[NotTried] = []
    if stage.link is not None:
        faults += _of_the_link(stage.link)
    else:
        not_tried.append(NotTried("broker", stage.link_why))
    for source in stage.sources:
        faults += _of_a_source(source)
        if source.kind == "none":
            not_tried.append(NotTried(f"source {source.pipeline}", source.why))
    if any(source.kind == "program" for source in stage.sources):
        faults += [
            _Child("programs killed", agent, hangs=False, engine=False),
            _Child("programs hang", agent, hangs=True, engine=False),
        ]
    if stage.delegate:
        faults += [
            _Child("engine killed", agent, hangs=False, engine=True),
            _Child("engine hangs", agent, hangs=True, engine=True),
        ]
    else:
        not_tried.append(NotTried("engine", "no delegate is configured, and the CPU's engine is a part of the agent"))
    faults += [_Killed(agent), _Full(stage, agent)]
    faults += [_TornModel(stage, copy, original) for original, copy in stage.models.items()]
    if isinstance(clock, str):
        not_tried.append(NotTried("clock jumps", clock))
    else:
        faults.append(_Jump(clock))
    return faults, not_tried


def _of_the_link(proxy: Proxy) -> list[Fault]:
    return [
        _Broken("broker closes", proxy, reset=False),
        _Broken("broker resets", proxy, reset=True),
        _Network("broker away", proxy, Conditions(refused=True), "connections refused"),
        _Network("broker silent", proxy, Conditions(silent=True), "nothing goes through", (1.0, 4.0)),
        _Network("broker swallows", proxy, Conditions(swallowed=True), "everything is taken, nothing arrives"),
        _Network(
            "broker slow", proxy, Conditions(delay_s=0.2, loss=0.3), "0.2 s each way, 30 % sent again", (3.0, 5.0)
        ),
    ]


def _of_a_source(source: StagedSource) -> list[Fault]:
    name = f"source {source.pipeline}"
    if source.kind in ("file", "folder"):
        return [_Torn(f"{name} torn", source)]
    if source.proxy is None:
        return []
    return [
        _Broken(f"{name} resets", source.proxy, reset=True),
        _Network(f"{name} away", source.proxy, Conditions(refused=True), "connections refused"),
        _Network(f"{name} silent", source.proxy, Conditions(silent=True), "nothing goes through", (1.0, 8.0)),
    ]
