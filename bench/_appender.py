"""A program that appends to an outbox on disk and delivers it, for somebody else to kill. Says on stdout what was accepted.

Lines: ``open``; ``kept ID NONCE NANOSECONDS`` after each `append` that returned a key, CLOCK_MONOTONIC; ``ledger JSON``
now and then; ``drained``. SIGTERM: no more appends, everything is delivered, then it ends.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
import time
from pathlib import Path

from vedette import __version__, clock
from vedette.delivery import Stream
from vedette.demo.broker import LOOPBACK
from vedette.mqtt import Link, LinkOptions, Topics
from vedette.mqtt.payloads import StatusMessage, encode, ledger_message
from vedette.outbox import Bounds, open_outbox

TOPICS = Topics("vedette", "bench")
STREAMS = (Stream("door", "detections"), Stream("gate", "events"))
LEDGER_S = 0.2
DRAIN_S = 120.0


def say(line: bytes) -> None:
    """One write(2): whole, or not there."""
    os.write(1, line + b"\n")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--durable", choices=("spill", "always"), required=True)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="messages a second of each stream; 0: as fast as it goes"
    )
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    epoch, outbox = open_outbox(
        arguments.folder, STREAMS, Bounds(10_000_000, 1 << 32), durable=arguments.durable, max_memory_bytes=1 << 28,
        on_alert=lambda why: print(why, file=sys.stderr),
    )  # fmt: skip

    def ledger() -> None:
        message = ledger_message(outbox.ledger(), TOPICS.device, epoch.number, clock.wall_time(clock.now_ns()))
        say(b"ledger " + encode(message))

    ledger()
    say(b"open")
    since = clock.wall_time(clock.now_ns())
    will = encode(StatusMessage(1, "lost", epoch.number, since, "connection lost", __version__, [], []))
    link = Link(
        LinkOptions(LOOPBACK, arguments.port, "vedette-bench"), TOPICS, outbox, will=lambda: will,
        on_connected=lambda: None, on_acknowledged=lambda key, captured_ns: None,
        on_alert=lambda why: None,
    )  # fmt: skip
    link.start()

    def append(stream: Stream) -> None:
        begun = time.monotonic()
        number = 0
        while not stop.is_set():
            nonce = secrets.token_hex(8)
            key = outbox.append(
                stream, clock.now_ns(), "synced", b'{"nonce":"%s","x":"%s"}' % (nonce.encode(), b"y" * 300)
            )
            if key is not None:
                say(f"kept {TOPICS.message_id(key)} {nonce} {time.monotonic_ns()}".encode())
            number += 1
            if arguments.rate:
                stop.wait(max(0.0, begun + number / arguments.rate - time.monotonic()))

    threads = [threading.Thread(target=append, args=(stream,), daemon=True) for stream in STREAMS]
    for thread in threads:
        thread.start()
    while not stop.wait(LEDGER_S):
        ledger()
    for thread in threads:
        thread.join()
    outbox.close()
    if outbox.wait_empty(DRAIN_S):
        say(b"drained")
    ledger()
    link.stop()
    outbox.end()
    epoch.end(outbox.ledger())
    return 0


if __name__ == "__main__":
    sys.exit(main())
