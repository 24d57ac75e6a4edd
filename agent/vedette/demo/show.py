"""The demo from beginning to end: broker, agent, view, summary, picture."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.live import Live

from vedette.contract.errors import FaultError
from vedette.contract.types import Detections, UInt8Array
from vedette.model import read_model, share_folder
from vedette.mqtt.results import DetectionsMessage
from vedette.mqtt.topics import Topics
from vedette.pictures import draw, write_picture
from vedette.sources import SourceOptions, make_source, masked_url
from vedette.stats import STAGES

from .agent import AgentProcess
from .broker import LOOPBACK, loopback_broker
from .listener import Heard, Listener
from .view import latency_table, live, plain_line

READY_TIMEOUT_S: Final = 60.0
DEVICE: Final = "demo"
PIPELINE: Final = "clip"
CLIP: Final = "people-walking.mp4"
MAX_SEEK: Final = 20_000  # frames; to find the frame of the picture again


@dataclass(frozen=True)
class Outcome:
    """What the demo came to."""

    heard: Heard
    broker: str
    source: str
    seconds: float
    ready_s: float
    pss_bytes: int
    published: int
    picture: Path | None
    agent_exit: int

    @property
    def exit_code(self) -> int:
        """0 when detections came through and the agent ended well."""
        return 0 if self.heard.received and self.agent_exit == 0 else 1

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        heard = self.heard
        return {
            "frames": heard.frames,
            "inferred": heard.inferred,
            "published": self.published,
            "received": heard.received,
            "fps": round(heard.inferred / self.seconds, 2) if self.seconds else 0.0,
            "latency_ms": {
                stage: {"count": latency.count, "p50": latency.p50, "p99": latency.p99}
                for stage in STAGES
                if (latency := heard.stages.get(stage)) is not None and latency.count
            },
            "pss_bytes": self.pss_bytes,
            "ready_s": round(self.ready_s, 3),
            "picture": str(self.picture) if self.picture else None,
            "labels": dict(heard.labels.most_common()),
            "dropped": heard.dropped,
            "missing": self.published - len(heard.seqs),
            "seconds": round(self.seconds, 2),
            "broker": self.broker,
            "source": self.source,
            "model": heard.model.name if heard.model else None,
            "engine": heard.model.engine.runtime if heard.model else None,
        }

    def print(self) -> None:
        """The summary, for people."""
        console = Console(highlight=False)
        heard = self.heard
        console.print()
        console.print(latency_table(heard.stages))
        labels = ", ".join(f"{label} {count}" for label, count in heard.labels.most_common(5)) or "nothing"
        console.print(
            f"\n{heard.inferred} frames seen in {self.seconds:.1f} s ({heard.inferred / self.seconds:.1f} a second), "
            f"{self.published} messages published, {heard.received} received, "
            f"{self.published - len(heard.seqs)} missing",
            soft_wrap=True,
        )
        console.print(f"found: {labels}", soft_wrap=True)
        console.print(
            f"agent: ready after {self.ready_s:.2f} s, {self.pss_bytes / 1e6:.0f} MB; broker: {self.broker} on {LOOPBACK}"
        )
        if self.picture:
            console.print(f"picture: [bold]{self.picture}[/]", soft_wrap=True)


class Demo:
    """See the module."""

    def __init__(
        self, *, model: str, source: str | None, pace: str, threads: int, broker: str, picture: Path | None
    ) -> None:
        """Raises `UserError` where the model or the source cannot be."""
        self._begun = time.monotonic()  # the demo's seconds count from here, for that is when a person began to wait
        self._spec = read_model(model)
        self._source = source or str(share_folder("media") / CLIP)
        self._pace = pace
        self._threads = threads
        self._broker = broker
        self._picture = picture
        opened = make_source(SourceOptions(self._source))
        if source is None or "://" not in source:
            opened.open()  # a file that is not there is said now, not by the agent
            opened.close()

    def run(self, seconds: float, *, quiet: bool) -> Outcome:
        """Raises `FaultError` where the agent does not come up."""
        with (
            tempfile.TemporaryDirectory(prefix="vedette-demo-") as name,
            loopback_broker(self._broker) as (broker, port),
        ):
            folder = Path(name)
            listener = Listener(LOOPBACK, port, Topics("vedette", DEVICE), PIPELINE)
            begun = time.monotonic()
            end = self._begun + seconds
            with contextlib.closing(listener), AgentProcess(self._write_config(folder, broker, port), folder) as agent:
                try:
                    agent.start()
                    agent.wait_ready(READY_TIMEOUT_S)
                    begun = time.monotonic()
                    pss = self._watch(listener, agent, end, broker, quiet=quiet)
                except KeyboardInterrupt:
                    pss = agent.pss_bytes()
                elapsed = time.monotonic() - begun
                words = agent.last_words()
                exit_code = agent.stop()
                listener.stopped.wait(3)
            heard = listener.heard
            if not heard.received:
                raise FaultError("not one message came through", found=words)
            picture = self._annotate(heard)
            return Outcome(
                heard,
                broker,
                masked_url(self._source),
                elapsed,
                agent.ready_s,
                pss,
                _published(heard),
                picture,
                exit_code,
            )

    def _write_config(self, folder: Path, broker: str, port: int) -> Path:
        # iotcore speaks MQTT 5 only on a listener of its own
        protocol = "3.1.1" if broker == "iotcore" else "5"
        # a JSON string is a TOML string, for the characters that JSON escapes
        config = folder / "demo.toml"
        config.write_text(
            f"device = {json.dumps(DEVICE)}\n"
            f"state_dir = {json.dumps(str(folder / 'state'))}\n"
            f"[mqtt]\nhost = {json.dumps(LOOPBACK)}\nport = {port}\nprotocol = {json.dumps(protocol)}\n"
            f"[engine]\nthreads = {self._threads}\n"
            "[intervals]\nstats_s = 1.0\nledger_s = 5.0\nhealth_s = 5.0\n"
            f"[pipeline.{PIPELINE}]\nmodel = {json.dumps(str(self._spec.path.resolve()))}\n"
            f"[pipeline.{PIPELINE}.source]\nurl = {json.dumps(self._absolute_source())}\n"
            f"loop = true\npace = {json.dumps(self._pace)}\n"
        )
        return config

    def _absolute_source(self) -> str:
        return self._source if "://" in self._source else str(Path(self._source).resolve())

    def _watch(self, listener: Listener, agent: AgentProcess, end: float, broker: str, *, quiet: bool) -> int:
        """Shows what comes until ``end``; the largest PSS seen."""
        pss = 0
        console = Console(highlight=False)
        with _shower(console, quiet=quiet) as show:
            measured = 0.0
            while (now := time.monotonic()) < end:
                if agent.exit_code() is not None:
                    raise FaultError("the agent ended by itself", found=agent.last_words())
                agent.drain()
                if now - measured > 1.0:
                    pss = max(pss, agent.pss_bytes())
                    measured = now
                with listener.lock:
                    show(listener.heard, broker, end - now)
                time.sleep(min(0.1, max(0.0, end - now)))
        return pss

    def _annotate(self, heard: Heard) -> Path | None:
        """Draws the message with the most to see upon its very frame."""
        best = heard.best
        if best is None:
            return None
        pixels = self._frame(best)
        if pixels is None:
            return None
        found = Detections(
            np.array([o.box for o in best.objects], np.float32).reshape(-1, 4),
            np.array([o.score for o in best.objects], np.float32),
            np.array([o.class_id for o in best.objects], np.int32),
        )
        path = self._picture or Path(tempfile.gettempdir()) / "vedette-demo.jpg"
        write_picture(path, draw(pixels, found, self._spec.labels))
        return path.resolve()

    def _frame(self, message: DetectionsMessage) -> UInt8Array | None:
        """Reads a file's frame once more: its seq counts frames, from 1, round after round. None for a camera."""
        if "://" in self._source and not self._source.startswith(("file://", "images://")):
            return None
        source = make_source(SourceOptions(self._source, pace="max"))
        source.open()
        frames = 0
        while source.read(None) is not None and frames < MAX_SEEK:
            frames += 1
        source.close()
        wanted = (message.frame.seq - 1) % frames
        source.open()
        for _ in range(wanted):
            source.read(None)
        reading = source.read(None)
        source.close()
        return reading.pixels if reading else None


@contextlib.contextmanager
def _shower(console: Console, *, quiet: bool) -> Iterator[Callable[[Heard, str, float], None]]:
    """Live where there is a terminal, else a line a second; nothing when quiet."""
    if quiet:
        yield lambda heard, broker, left: None
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=10, transient=True) as screen:
            yield lambda heard, broker, left: screen.update(live(heard, broker, left, console.width))
    else:
        said = [0.0]

        def line(heard: Heard, broker: str, left: float) -> None:
            if time.monotonic() - said[0] >= 1.0:
                said[0] = time.monotonic()
                console.print(plain_line(heard), soft_wrap=True)

        yield line


def _published(heard: Heard) -> int:
    """How many the agent says it has given a seq."""
    if heard.ledger is None:
        return 0
    return sum(row.last - row.first + 1 for row in heard.ledger.streams if row.last is not None)
