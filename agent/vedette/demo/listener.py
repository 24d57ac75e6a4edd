"""A subscriber that keeps account of what the broker delivers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
import paho.mqtt.client as paho
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from vedette.contract.errors import BrokerUnreachableError
from vedette.flow.stats import EMPTY, Latency
from vedette.mqtt.payloads import LedgerMessage, ModelMessage, SourceInfo, StatsMessage, StatusMessage
from vedette.mqtt.topics import Topics

_RATE_WINDOW_S = 3.0


class Heard:
    """What has been delivered so far of one pipeline; a kind of source adds its own. Read it under the listener's lock."""

    def __init__(self, topics: Mapping[str, type[Struct]]) -> None:
        """``topics``: of the pipeline, besides stats and model: the topic's last level, and what comes on it."""
        self.topics = topics
        self.received = 0
        """Messages that the agent kept until the broker had them."""
        self.samples = 0
        """Frames or windows that the source gave."""
        self.inferred = 0
        self.stages: dict[str, Latency] = {}
        self.dropped: dict[str, int] = {}
        self.arrivals: deque[float] = deque(maxlen=2000)
        self.model: ModelMessage | None = None
        self.status: StatusMessage | None = None
        self.ledger: LedgerMessage | None = None
        self.stats: StatsMessage | None = None
        """The last one."""
        self._seqs: set[tuple[str, int]] = set()

    def rate(self, now: float) -> float:
        """Results a second over the last three seconds. ``now``: time.monotonic()."""
        recent = [t for t in self.arrivals if now - t <= _RATE_WINDOW_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    @property
    def published(self) -> int:
        """How many messages the agent says it has given a seq."""
        if self.ledger is None:
            return 0
        return sum(row.last - row.first + 1 for row in self.ledger.streams if row.last is not None)

    @property
    def missing(self) -> int:
        """Of those, the ones that have not come."""
        return self.published - len(self._seqs)

    @property
    def silence(self) -> SourceInfo | None:
        """How the source is that has given nothing yet; None where all is well with it, or nothing known."""
        if self.received or self.stats is None or self.stats.source.outcome is None:
            return None
        return self.stats.source

    def note(self, topic: str, value: Any) -> None:
        """Takes a message. ``topic``: the last level of its topic."""
        if topic in self.topics:
            if (seq := getattr(value, "seq", None)) is not None:  # a state has none
                self.received += 1
                self._seqs.add((topic, seq))
            if topic == "detections":
                self.arrivals.append(time.monotonic())
        elif isinstance(value, StatsMessage):
            self.stats = value
            self.samples += value.frames
            self.inferred += value.inferred
            self.dropped = value.dropped
            for stage, latency in value.latency_ms.items():
                self.stages[stage] = self.stages.get(stage, EMPTY).merge(latency)
        elif isinstance(value, ModelMessage):
            self.model = value
        elif isinstance(value, LedgerMessage):
            self.ledger = value
        elif isinstance(value, StatusMessage):
            self.status = value


class Listener:
    """Subscribes to one device's topics. Every message is parsed by the very schema that is documented."""

    def __init__(self, host: str, port: int, topics: Topics, pipeline: str, heard: Heard) -> None:
        """Raises `BrokerUnreachableError`."""
        self.lock = threading.Lock()
        self._heard = heard
        self._subscribed = threading.Event()
        self.stopped = threading.Event()
        """The agent has said goodbye."""
        kinds = {**heard.topics, "stats": StatsMessage, "model": ModelMessage}
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {
            **{topics.pipeline(pipeline, name): msgspec.json.Decoder(kind) for name, kind in kinds.items()},
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
            self._heard.note(message.topic.rpartition("/")[2], value)
        if isinstance(value, StatusMessage) and value.state == "stopped":
            self.stopped.set()
