"""Stands in for a Raspberry Pi's camera and its ``rpicam-vid``: writes frames as that does, and misbehaves on demand.

Its manners are those of rpicam-apps' sources: rows padded to an alignment, ``--save-pts`` a line after each frame, the
first one a comment, what it says on stderr. Frame n is of one grey, 40 + n in Y, its left half reddish; the padding is
of 255. What it must do stands in the environment (RPICAM: JSON), what it was asked for goes to the file named there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time


def main() -> int:
    """The exit code."""
    plan = json.loads(os.environ.get("RPICAM", "{}"))
    arguments = sys.argv[1:]
    if "log" in plan:
        with open(plan["log"], "a") as log:  # noqa: PTH123
            log.write(json.dumps({"pid": os.getpid(), "program": sys.argv[0], "arguments": arguments}) + "\n")
    print("[0:00:01] INFO Camera camera_manager.cpp:326 libcamera v0.5.1", file=sys.stderr, flush=True)
    if "refuses" in plan:
        print(f"ERROR: *** {plan['refuses']} ***", file=sys.stderr)
        return 255
    if plan.get("deaf"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        subprocess.Popen(["sleep", "600"])
    option = {name: arguments[index + 1] for index, name in enumerate(arguments[:-1]) if name.startswith("--")}
    width, height = int(option["--width"]), int(option["--height"])
    stride = -(-width // plan.get("align", 64)) * plan.get("align", 64)
    lines = open(option["--save-pts"], "w") if plan.get("lines", True) else None  # noqa: PTH123, SIM115
    if lines:
        lines.write("# timecode format v2\n")
    for number in range(plan.get("frames", 10_000)):
        luma = (bytes([40 + number % 200]) * width).ljust(stride, b"\xff") * height
        half = width // 2
        blue = (bytes([100]) * (half // 2) + bytes([128]) * (half - half // 2)).ljust(stride // 2, b"\xff")
        red = (bytes([160]) * (half // 2) + bytes([128]) * (half - half // 2)).ljust(stride // 2, b"\xff")
        sys.stdout.buffer.write(luma + blue * (height // 2) + red * (height // 2))
        sys.stdout.buffer.flush()
        if lines:
            lines.write(f"{number * 10}.000\n")
            lines.flush()
        time.sleep(plan.get("pause_s", 0.01))
    if plan.get("hangs"):
        signal.pause()
    if "last_words" in plan:
        print(plan["last_words"], file=sys.stderr)
    return int(plan.get("code", 0))


if __name__ == "__main__":
    sys.exit(main())
