"""10,000 detections at QoS 1 through a real broker: is every seq there, does the ledger balance, how fast?"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from vedette import clock
from vedette.delivery import Stream
from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.mqtt import Link, LinkOptions, Topics
from vedette.mqtt.results import (
    DetectedObject,
    DetectionsBody,
    DetectionsMessage,
    EngineRef,
    FrameInfo,
    FrameLatency,
    ModelRef,
)
from vedette.outbox import MemoryOutbox

sys.path.insert(0, str(Path(__file__).parent))
from _results import Results

STREAM = Stream("bench", "detections")


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--broker", choices=("auto", "mosquitto", "iotcore"), default="auto")
    arguments = parser.parse_args()
    wanted = arguments.messages
    body = msgspec.json.encode(
        DetectionsBody(
            FrameInfo(1, 768, 576),
            [DetectedObject("person", 0, 0.9, (0.1, 0.2, 0.3, 0.4))] * 3,
            ModelRef("m", "1", "0" * 64),
            EngineRef("litert", "xnnpack"),
            FrameLatency(1, 1, 1, 1, 1, 5),
        )
    )
    seqs: list[int] = []
    done = threading.Event()
    subscribed = threading.Event()
    decoder = msgspec.json.Decoder(DetectionsMessage)

    def on_message(client: Any, userdata: Any, message: Any) -> None:
        seqs.append(decoder.decode(message.payload).seq)
        if len(seqs) >= wanted:
            done.set()

    with loopback_broker(arguments.broker) as (broker, port):
        topics = Topics("vedette", "bench")
        subscriber = paho.Client(CallbackAPIVersion.VERSION2)
        subscriber.on_connect = lambda client, *_: client.subscribe(topics.stream(STREAM), qos=1)
        subscriber.on_subscribe = lambda *_: subscribed.set()
        subscriber.on_message = on_message
        subscriber.connect(LOOPBACK, port)
        subscriber.loop_start()
        subscribed.wait(10)
        outbox = MemoryOutbox(1, max_messages=wanted, max_bytes=256 << 20)
        link = Link(
            LinkOptions(LOOPBACK, port, "bench-link"), topics, outbox, will=lambda: b"{}", on_connected=lambda: None,
            on_acknowledged=lambda key, captured: None, on_alert=print,
        )  # fmt: skip
        link.start()
        begun = time.perf_counter()
        for _ in range(wanted):
            outbox.append(STREAM, clock.now_ns(), "synced", body)
        empty = outbox.wait_empty(120)
        acknowledged_s = time.perf_counter() - begun
        done.wait(30)
        row = outbox.ledger()[0]
        link.stop()
        subscriber.disconnect()
        subscriber.loop_stop()
    missing = wanted - len(set(seqs))
    results = Results("delivery")
    results.row(
        what=f"seqs missing at a subscriber of {broker}", value=missing, unit="messages", n=wanted, target="== 0",
        holds=missing == 0 and empty,
    )  # fmt: skip
    results.row(
        what="the ledger balances", value=f"{row.last} = {row.acknowledged}+{row.waiting}+{row.rejected}+{row.dropped}",
        unit="", n=wanted, target="balances", holds=row.balances and row.last == wanted,
    )  # fmt: skip
    results.row(what="delivered twice", value=len(seqs) - len(set(seqs)), unit="messages", n=wanted)
    results.row(what="acknowledged a second", value=round(wanted / acknowledged_s), unit="1/s", n=wanted)
    return 0 if results.write() else 1


if __name__ == "__main__":
    sys.exit(main())
