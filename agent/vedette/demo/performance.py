"""The demo from beginning to end, whatever is shown: broker, agent, view, summary, picture."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from rich.console import RenderableType
from rich.live import Live

from vedette.contract.errors import FaultError, SourceError
from vedette.flow.stats import STAGES
from vedette.models.model import ModelSpec
from vedette.mqtt.payloads import SourceInfo
from vedette.mqtt.topics import Topics
from vedette.terminal import Console

from .agent import AgentProcess
from .broker import LOOPBACK, loopback_broker
from .listener import Heard, Listener
from .view import LATENCY_NOTE, latency_table

READY_TIMEOUT_S: Final = 60.0
START_S: Final = 2.0  # that broker and agent may take of the demo's seconds; where they take longer, it ends later
LEAST_S: Final = 1.5  # that are shown in any case
DEVICE: Final = "demo"
REFRESH_HZ: Final = 10
LINE_S: Final = 1.0  # between two lines, where there is no terminal


class Show(Protocol):
    """What the demo of one kind of source has of its own. Owned by one thread, which holds the listener's lock meanwhile."""

    @property
    def pipeline(self) -> str:
        """Its name."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """The model that runs."""
        ...

    @property
    def source(self) -> str:
        """The source's URL, without secrets."""
        ...

    @property
    def heard(self) -> Heard:
        """What has been delivered."""
        ...

    def source_table(self) -> str:
        """The lines of ``[pipeline.NAME.source]``, and further tables of the pipeline."""
        ...

    def live(self, broker: str, seconds_left: float, size: tuple[int, int]) -> RenderableType:
        """This moment on a terminal of ``size``, columns and lines."""
        ...

    def lines(self) -> list[str]:
        """This moment where there is no terminal: what is new, and how it stands."""
        ...

    def summary(self, seconds: float) -> list[str]:
        """What it came to, in lines for people. ``seconds``: how long it ran."""
        ...

    def document(self, seconds: float) -> dict[str, Any]:
        """The same for ``--json``."""
        ...

    def picture(self) -> Path | None:
        """Leaves a picture of what was delivered; None where there is nothing to draw."""
        ...


def temporary_picture(name: str, suffix: str) -> Path:
    """Where the picture goes that was given no place: under a name that no other user's demo has, whose file could not be
    replaced."""
    return Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}{suffix}"


@dataclass(frozen=True)
class Outcome:
    """What the demo came to."""

    show: Show
    broker: str
    seconds: float
    ready_s: float
    pss_bytes: int
    picture: Path | None
    agent_exit: int

    @property
    def exit_code(self) -> int:
        """0 when results came through and the agent ended well."""
        return 0 if self.show.heard.received and self.agent_exit == 0 else 1

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        heard = self.show.heard
        return {
            **self.show.document(self.seconds),
            "inferred": heard.inferred,
            "published": heard.published,
            "received": heard.received,
            "missing": heard.missing,
            "latency_ms": {
                stage: {"count": latency.count, "p50": latency.p50, "p99": latency.p99}
                for stage in STAGES
                if (latency := heard.stages.get(stage)) is not None and latency.count
            },
            "pss_bytes": self.pss_bytes,
            "ready_s": round(self.ready_s, 3),
            "picture": str(self.picture) if self.picture else None,
            "dropped": heard.dropped,
            "seconds": round(self.seconds, 2),
            "broker": self.broker,
            "source": self.show.source,
            "model": heard.model.name if heard.model else None,
            "engine": heard.model.engine.runtime if heard.model else None,
        }

    def print(self) -> None:
        """The summary, for people."""
        console = Console(highlight=False)
        heard = self.show.heard
        console.print()
        console.print(latency_table(heard.stages))
        console.print(LATENCY_NOTE, style="dim")
        console.print()
        first, *more = self.show.summary(self.seconds)
        delivered = f"{heard.published} messages published, {heard.received} received, {heard.missing} missing"
        for line in (first, delivered, *more):
            console.print(line, soft_wrap=True, markup=False)
        console.print(
            f"agent: ready after {self.ready_s:.2f} s, {self.pss_bytes / 1e6:.0f} MB; broker: {self.broker} on {LOOPBACK}"
        )
        if self.picture:
            console.print(f"picture: [bold]{self.picture}[/]", soft_wrap=True)
        else:
            console.print("picture: none (nothing found, or a source that cannot be read again)")


def perform(show: Show, *, begun: float, seconds: float, threads: int, broker: str, quiet: bool) -> Outcome:
    """Runs it. ``begun``: time.monotonic() from which ``seconds`` count, for that is when a person began to wait.

    Raises `FaultError` where the agent does not come up, ends by itself, or delivers nothing; `SourceError` where that is
    because of the source: at once where it is lost before it gave anything.
    """
    with (
        tempfile.TemporaryDirectory(prefix="vedette-demo-") as name,
        loopback_broker(broker) as (broker_name, port),
    ):
        folder = Path(name)
        listener = Listener(LOOPBACK, port, Topics("vedette", DEVICE), show.pipeline, show.heard)
        ready = time.monotonic()
        config = _write_config(show, folder, broker_name, port, threads)
        with contextlib.closing(listener), AgentProcess(config, folder) as agent:
            try:
                agent.start()
                agent.wait_ready(READY_TIMEOUT_S)
                ready = time.monotonic()
                end = max(begun + seconds, ready + max(LEAST_S, seconds - START_S))
                pss = _watch(show, listener, agent, end, broker_name, quiet=quiet)
            except KeyboardInterrupt:
                pss = agent.pss_bytes()
            elapsed = time.monotonic() - ready
            words = agent.last_words()
            exit_code = agent.stop()
            listener.stopped.wait(3)
        if not show.heard.received:
            if (silence := show.heard.silence) is not None:
                raise _gives_nothing(silence)
            raise FaultError("not one message came through", found=words)
        return Outcome(show, broker_name, elapsed, agent.ready_s, pss, show.picture(), exit_code)


def _write_config(show: Show, folder: Path, broker: str, port: int, threads: int) -> Path:
    # iotcore speaks MQTT 5 only on a listener of its own
    protocol = "3.1.1" if broker == "iotcore" else "5"
    # a JSON string is a TOML string, but for surrogate pairs
    config = folder / "demo.toml"
    config.write_text(
        f"device = {json.dumps(DEVICE)}\n"
        f"state_dir = {json.dumps(str(folder / 'state'), ensure_ascii=False)}\n"
        f"[mqtt]\nhost = {json.dumps(LOOPBACK)}\nport = {port}\nprotocol = {json.dumps(protocol)}\n"
        f"[engine]\nthreads = {threads}\n"
        "[intervals]\nstats_s = 1.0\nledger_s = 5.0\nhealth_s = 5.0\n"
        f"[pipeline.{show.pipeline}]\n"
        f"model = {json.dumps(str(show.spec.path.resolve()), ensure_ascii=False)}\n"
        f"[pipeline.{show.pipeline}.source]\n{show.source_table()}",
        "utf-8",
    )
    return config


def _watch(show: Show, listener: Listener, agent: AgentProcess, end: float, broker: str, *, quiet: bool) -> int:
    """Shows what comes until ``end``; the largest PSS seen."""
    pss = 0
    console = Console(highlight=False)
    with _shower(show, console, broker, quiet=quiet) as refresh:
        measured = 0.0
        while (now := time.monotonic()) < end:
            if agent.exit_code() is not None:
                raise FaultError("the agent ended by itself", found=agent.last_words())
            agent.drain()
            if now - measured > 1.0:
                pss = max(pss, agent.pss_bytes())
                measured = now
            with listener.lock:
                refresh(end - now)
                silence = show.heard.silence
            if silence is not None and silence.outcome == "lost":
                raise _gives_nothing(silence)
            time.sleep(min(1 / REFRESH_HZ, max(0.0, end - now)))
    return pss


def _gives_nothing(silence: SourceInfo) -> SourceError:
    return SourceError(f"the source gives nothing: {silence.why}", fix="see to it, or name another with --source")


@contextlib.contextmanager
def _shower(show: Show, console: Console, broker: str, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """Live where there is a terminal, else lines; nothing when quiet. It is given the seconds that are left."""
    if quiet:
        yield lambda left: None
    elif console.can_rewrite:
        with Live(console=console, refresh_per_second=REFRESH_HZ, transient=True) as screen:
            yield lambda left: screen.update(show.live(broker, left, (console.width, console.height)))
    else:
        said = [0.0]

        def say(left: float) -> None:
            if time.monotonic() - said[0] >= LINE_S:
                said[0] = time.monotonic()
                for line in show.lines():
                    console.print(line, soft_wrap=True, markup=False)

        yield say
