"""A day's messages into an outbox on disk while no broker is there, and out again: one JSON object of what was seen."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from vedette import clock
from vedette.delivery import Stream
from vedette.outbox import Bounds, open_outbox
from vedette.service.health import pss_bytes

STREAM = Stream("door", "detections")
STEP = 2000  # messages between two looks at memory and clock
WARM = 0.1  # share of the messages after which memory is to stay as it is: the smaller bound is reached by then


def main() -> int:
    """Prints it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--max-bytes", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="messages a second, at most")
    arguments = parser.parse_args()
    count, wanted = arguments.messages, int(arguments.messages * WARM)
    alerts: list[str] = []
    memory: list[int] = []
    own = int(Path("/proc/self/stat").read_text().split()[0])
    with tempfile.TemporaryDirectory() as folder:
        _, outbox = open_outbox(
            Path(folder), [STREAM], Bounds(10_000_000, arguments.max_bytes), durable="spill",
            max_memory_bytes=32 << 20, on_alert=alerts.append,
        )  # fmt: skip
        begun = time.perf_counter()
        for number in range(count):
            if number % STEP == 0:
                time.sleep(max(0.0, begun + number / arguments.rate - time.perf_counter()))
                if number >= wanted:
                    memory.append(pss_bytes(own))
            outbox.append(STREAM, clock.now_ns(), "synced", b'{"n":%d,"x":"%s"}' % (number + 1, b"y" * 230))
        appended_s = time.perf_counter() - begun
        row = next(row for row in outbox.ledger() if row.stream == STREAM)
        [*dropped] = row.dropped_ranges
        first, last, out_of_order = 0, 0, 0
        got = 0
        begun = time.perf_counter()
        while entries := outbox.batch(64, 0):
            for entry in entries:
                first = first or entry.key.seq
                out_of_order += entry.key.seq <= last or b'"n":%d,' % entry.key.seq not in entry.body
                last = entry.key.seq
            got += len(entries)
            outbox.accept([entry.key for entry in entries])
            if got % STEP < 64:
                memory.append(pss_bytes(own))
        drained_s = time.perf_counter() - begun
        after = next(row for row in outbox.ledger() if row.stream == STREAM)
        outbox.end()
    print(
        json.dumps(
            {
                "appended_s": appended_s,
                "drained_s": drained_s,
                "got": got,
                "first": first,
                "last": last,
                "out_of_order": out_of_order,
                "waited": row.waiting,
                "balances": row.balances and after.balances,
                "acknowledged": after.acknowledged,
                "dropped": row.dropped,
                "ranges_cut": row.ranges_cut,
                "ranges": [[d.first, d.last, d.reason] for d in dropped],
                "alerts": alerts,
                "growth_bytes": max(memory) - memory[0],
                "memory_bytes": memory[0],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
