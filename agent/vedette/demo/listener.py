"""A subscriber that keeps account of what the broker delivers."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from vedette.contract.errors import BrokerUnreachableError
from vedette.mqtt.payloads import LedgerMessage, ModelMessage, StatsMessage, StatusMessage
from vedette.mqtt.results import DetectionsMessage
from vedette.mqtt.topics import Topics
from vedette.stats import EMPTY, Latency

_RATE_WINDOW_S = 3.0


@dataclass
class Heard:
    """What has been delivered so far. Owned by the `Listener`, read under its lock."""

    received: int = 0
    frames: int = 0
    inferred: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    stages: dict[str, Latency] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    newest: DetectionsMessage | None = None
    best: DetectionsMessage | None = None
    model: ModelMessage | None = None
    status: StatusMessage | None = None
    ledger: LedgerMessage | None = None
    seqs: set[int] = field(default_factory=set)

    def fps(self, now: float) -> float:
        """Messages a second over the last three seconds."""
        recent = [t for t in self.arrivals if now - t <= _RATE_WINDOW_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0


class Listener:
    """Subscribes to one device's topics. Every message is parsed by the very schema that is documented."""

    def __init__(self, host: str, port: int, topics: Topics, pipeline: str) -> None:
        self._topics = topics
        self._pipeline = pipeline
        self.lock = threading.Lock()
        self.heard = Heard()
        self._subscribed = threading.Event()
        self.stopped = threading.Event()
        """The agent has said goodbye."""
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {
            topics.pipeline(pipeline, "detections"): msgspec.json.Decoder(DetectionsMessage),
            topics.pipeline(pipeline, "stats"): msgspec.json.Decoder(StatsMessage),
            topics.pipeline(pipeline, "model"): msgspec.json.Decoder(ModelMessage),
            topics.status: msgspec.json.Decoder(StatusMessage),
            topics.ledger: msgspec.json.Decoder(LedgerMessage),
        }
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        self._client.on_connect = lambda client, *_: client.subscribe(topics.all, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        try:
            self._client.connect(host, port)
        except OSError as error:
            raise BrokerUnreachableError("no broker", where=f"{host}:{port}", found=str(error)) from None
        self._client.loop_start()
        if not self._subscribed.wait(10):
            raise BrokerUnreachableError("the broker does not take a subscription", where=f"{host}:{port}")

    def close(self) -> None:
        """Disconnects."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        decoder = self._decoders.get(message.topic)
        if decoder is None:
            return
        value = decoder.decode(message.payload)
        with self.lock:
            self._note(value)

    def _note(self, value: object) -> None:
        heard = self.heard
        if isinstance(value, DetectionsMessage):
            heard.received += 1
            heard.seqs.add(value.seq)
            heard.arrivals.append(time.monotonic())
            heard.newest = value
            heard.labels.update(o.label for o in value.objects)
            if value.objects and (heard.best is None or _total(value) > _total(heard.best)):
                heard.best = value
        elif isinstance(value, StatsMessage):
            heard.frames += value.frames
            heard.inferred += value.inferred
            heard.dropped = value.dropped
            for stage, latency in value.latency_ms.items():
                heard.stages[stage] = heard.stages.get(stage, EMPTY).merge(latency)
        elif isinstance(value, ModelMessage):
            heard.model = value
        elif isinstance(value, LedgerMessage):
            heard.ledger = value
        elif isinstance(value, StatusMessage):
            heard.status = value
            if value.state == "stopped":
                self.stopped.set()


def _total(message: DetectionsMessage) -> float:
    # how sure it is of how much; what is barely above the threshold adds little
    return sum(max(0.0, o.score - 0.5) for o in message.objects)
