"""``vedette demo``"""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path

HELP = "watch the shipped detector on the shipped clip, through a real broker"
DESCRIPTION = (
    "Starts an MQTT broker on loopback and an agent beside it, and shows what the broker delivers: labels, boxes, "
    "frames a second, latency a stage. Works without a screen and over ssh; ends by itself."
)
EXAMPLES = """examples:
  vedette demo
  vedette demo --seconds 60
  vedette demo --source rtsp://camera.local/stream --seconds 30
  vedette demo --json | tail -n 1 | jq .latency_ms

--json prints one object on the last line: frames, inferred, published, received, fps, latency_ms (by stage: count,
p50, p99), pss_bytes (of the agent and its children), ready_s (process start to READY), picture, and more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("--seconds", type=float, default=15.0, metavar="N", help="how long (default 15)")
    parser.add_argument("--model", default="coco-ssdlite-mobilenet-v2", metavar="MODEL", help="a bundle's name or file")
    parser.add_argument("--source", metavar="URL", help="another video, folder or camera (default: the shipped clip)")
    parser.add_argument("--pace", choices=("native", "max"), default="native", help="max: as fast as it goes")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="inference threads (default 1)")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "iotcore"), default="auto")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="where the annotated picture goes")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.contract.errors import UserError
    from vedette.demo.show import Demo

    if not 1 <= arguments.seconds <= 86400:
        raise UserError("--seconds", expected="1 to 86400", found=f"{arguments.seconds:g}")
    for signum in (signal.SIGTERM, signal.SIGHUP):
        # a closed terminal ends the demo as Ctrl-C does: broker and agent are stopped
        signal.signal(signum, signal.default_int_handler)
    demo = Demo(
        model=arguments.model,
        source=arguments.source,
        pace=arguments.pace,
        threads=arguments.threads,
        broker=arguments.broker,
        picture=arguments.picture,
    )
    outcome = demo.run(arguments.seconds, quiet=arguments.json)
    if arguments.json:
        print(json.dumps(outcome.document()))
    else:
        outcome.print()
    return outcome.exit_code
