"""What the agent does with one frame outside of ``invoke()``, stage by stage, on one thread, for valgrind to count.

Arguments: MARKS (a library made of ``marks.c``), MODEL, CLIP, PORT of a broker, FRAMES, STATE (a folder). The objects are
the agent's own, put together by its own `make_pipeline`; only the threads that hand work on to one another are not there.
Prints how many objects were found in the frame.
"""

from __future__ import annotations

import ctypes
import sys
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

WARM = 5  # frames before counting
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


def main() -> None:
    """See the module."""
    marks, model_name, clip, port_text, frames_text, state = sys.argv[1:]
    port, frames = int(port_text), int(frames_text)
    valgrind = ctypes.CDLL(marks)
    cv2.setNumThreads(1)
    config = parse_config(
        f'[pipeline.b]\nmodel = "{model_name}"\n[pipeline.b.source]\nurl = "{clip}"\nloop = true\npace = "max"'.encode(),
        Path("instructions.toml"),
    )
    [prepared] = prepare(config, Path("instructions.toml"))
    loaded = load_models([prepared], config.engine, Proofs(Path(state)))["b"]
    outbox = MemoryOutbox(1, max_messages=frames + WARM, max_bytes=32 << 20)
    pipeline = make_pipeline(
        prepared, loaded, outbox, NoAudience(), clock_state=lambda: "synced", on_source=lambda *_: None
    )
    model, reporter, stats = pipeline.model, pipeline.reporter, pipeline.stats
    publish = Publisher(port, outbox)
    source = make_source(SourceOptions(clip, loop=True, pace="max"))
    source.open()
    reading = source.read(None)
    assert reading is not None
    frame = Frame(1, clock.now_ns(), reading.capture_ns, reading.pixels)
    placement = model.preprocess(frame)
    model.infer()
    found = model.decode(placement)
    assert isinstance(found, Detections)
    engine = model.engine.description

    def report() -> None:
        stats.inferred(LATENCY_MS)
        reporter(frame, found, LATENCY_MS, engine)

    def read() -> None:
        source.read(frame.pixels)

    stages: dict[str, Callable[[], object]] = {
        "preprocess": lambda: model.preprocess(frame), "decode": lambda: model.decode(placement), "report": report,
        "publish": publish, "read": read,
    }  # fmt: skip
    for name, stage in stages.items():
        for count in (WARM, frames):  # what "report" leaves in the outbox is what "publish" takes out
            if count == frames:
                valgrind.begin()
            for _ in range(count):
                stage()
        valgrind.end(name.encode())
    print(len(found))


if __name__ == "__main__":
    main()
