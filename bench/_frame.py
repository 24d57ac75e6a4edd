"""What the agent does with one frame outside of ``invoke()``, stage by stage, on one thread, to be counted and timed.

The objects are the agent's own, put together by its own `make_pipeline`; only the threads that hand work on to one another
are not there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from vedette import clock
from vedette.config import parse_config
from vedette.contract.types import Detections, Frame
from vedette.demo.broker import LOOPBACK
from vedette.messages.reporter import NoAudience
from vedette.models.proofs import Proofs
from vedette.mqtt import LinkOptions, Topics
from vedette.mqtt.connection import Connection
from vedette.mqtt.envelope import render
from vedette.outbox import MemoryOutbox
from vedette.service.compose import make_pipeline, prepare
from vedette.service.lanes import load_models
from vedette.sources import SourceOptions, make_source

MESSAGES = 1000  # that may wait between "report", which leaves them in the outbox, and "publish", which takes one out
LATENCY_MS = {"capture": 0.6, "queue": 0.3, "preprocess": 0.4, "infer": 7.5, "decode": 0.3, "total": 9.1}


class Publisher:
    """What the link does with a message: out of the outbox, into its envelope, to the broker, and its acknowledgement."""

    def __init__(self, port: int, outbox: MemoryOutbox) -> None:
        self._outbox = outbox
        self._topics = Topics("vedette", "instructions")
        self._waiting: dict[int, Any] = {}
        self._connection = Connection(LinkOptions(LOOPBACK, port, "instructions"), None, self._settled)
        self._connection.connect()

    def __call__(self) -> None:
        [entry] = self._outbox.batch(1, 0)
        payload = render(entry, self._topics, replay=False)
        mid = self._connection.publish(self._topics.stream(entry.key.stream), payload, qos=1)
        assert mid is not None
        self._waiting[mid] = entry
        while self._waiting:
            self._connection.poll(1.0)

    def _settled(self, mid: int, reason: int) -> None:
        self._outbox.accept([self._waiting.pop(mid).key])


class Stages:
    """``around``: what is done with a frame outside of ``invoke()``, by name, in its order: preprocess, decode, report,
    publish. `infer` is the ``invoke()`` between the first two, `read` what the source does before them.

    Everything is done to one frame of the clip; ``objects``: how many things are found in it.
    """

    def __init__(self, model_name: str, clip: str, port: int, state: Path) -> None:
        cv2.setNumThreads(1)
        config = parse_config(
            f'[pipeline.b]\nmodel = "{model_name}"\n[pipeline.b.source]\nurl = "{clip}"\nloop = true\n'
            'pace = "max"'.encode(),
            Path("frame.toml"),
        )  # fmt: skip
        [prepared] = prepare(config, Path("frame.toml"))
        loaded = load_models([prepared], config.engine, Proofs(state))["b"]
        outbox = MemoryOutbox(1, max_messages=MESSAGES, max_bytes=32 << 20)
        self._pipeline = make_pipeline(
            prepared, loaded, outbox, NoAudience(), clock_state=lambda: "synced", on_source=lambda *_: None
        )
        self._source = make_source(SourceOptions(clip, loop=True, pace="max"))
        self._source.open()
        reading = self._source.read(None)
        assert reading is not None
        model = self._pipeline.model
        self._frame = Frame(1, clock.now_ns(), reading.capture_ns, reading.pixels)
        self._placement = model.preprocess(self._frame)
        model.infer()
        found = model.decode(self._placement)
        assert isinstance(found, Detections)
        self._found = found
        self.objects = len(found)
        self.around: dict[str, Callable[[], object]] = {
            "preprocess": lambda: model.preprocess(self._frame), "decode": lambda: model.decode(self._placement),
            "report": self._report, "publish": Publisher(port, outbox),
        }  # fmt: skip
        self.infer: Callable[[], object] = model.infer

    def read(self) -> None:
        """The clip's next frame, into the same memory."""
        self._source.read(self._frame.pixels)

    def _report(self) -> None:
        self._pipeline.stats.inferred(LATENCY_MS)
        self._pipeline.reporter(self._frame, self._found, LATENCY_MS, self._pipeline.model.engine.description)
