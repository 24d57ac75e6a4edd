"""``vedette run -c FILE``, and every quarter of a second one line of JSON about what CPU each of its threads has used.

Arguments: CONFIG OUT. A line of OUT: {"at_ns": CLOCK_BOOTTIME, "cpu_ns": {thread: nanoseconds}}. Nothing of the agent is
changed; there is one more thread, which sleeps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from pathlib import Path

from vedette import clock
from vedette.cli.run import execute

EVERY_S = 0.25


def watch(out: Path) -> None:
    """Writes a line now and then, for ever."""
    with out.open("w") as file:
        while True:
            time.sleep(EVERY_S)
            used = {}
            for thread in threading.enumerate():
                # Linux, Documentation/scheduler/sched-stats: a thread's time on the CPU comes first
                with contextlib.suppress(FileNotFoundError):  # it has just ended, or not begun
                    spent = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]
                    used[thread.name] = int(spent)
            file.write(json.dumps({"at_ns": clock.now_ns(), "cpu_ns": used}) + "\n")
            file.flush()


if __name__ == "__main__":
    threading.Thread(target=watch, args=(Path(sys.argv[2]),), name="watch", daemon=True).start()
    sys.exit(execute(argparse.Namespace(config=Path(sys.argv[1]))))
