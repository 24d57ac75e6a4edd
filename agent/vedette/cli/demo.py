"""``vedette demo``"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from .looking import end_as_ctrl_c

HELP = "watch a shipped model on a shipped clip or recording, through a real broker"
DESCRIPTION = (
    "Starts an MQTT broker on loopback and an agent beside it, and shows what the broker delivers: of a camera labels, "
    "boxes, frames a second; with --sensor the readings of a recording, the score of each window, what holds and what "
    "happens; latency a stage of both. Works without a screen and over ssh; ends by itself."
)
EXAMPLES = """examples:
  vedette demo
  vedette demo --sensor
  vedette demo --seconds 60
  vedette demo --source rtsp://camera.local/stream --seconds 30
  vedette demo --sensor --model pump.tflite --source serial:///dev/ttyUSB0
  vedette demo --json | tail -n 1 | jq .latency_ms

--json prints one object on the last line: inferred, published, received, missing, latency_ms (by stage: count, p50, p99),
pss_bytes (of the agent and its children), ready_s (process start to READY), picture, and more; of a camera frames, fps
and labels; of a sensor windows, speed, events (at_s: by the recording's clock), sensor (what became of its readings) and
state.
"""
CAMERA_S = 15.0
SENSOR_S = 22.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("--sensor", action="store_true", help="a sensor's recording in the place of a camera's clip")
    parser.add_argument(
        "--seconds", type=float, metavar="N", help=f"how long (default {CAMERA_S:g}, of a sensor {SENSOR_S:g})"
    )
    parser.add_argument("--model", metavar="MODEL", help="a bundle's name or file (default: the shipped one)")
    parser.add_argument(
        "--source",
        metavar="URL",
        help="another video, folder or camera; recording or sensor (default: the shipped one)",
    )
    parser.add_argument("--pace", choices=("native", "max"), default="native", help="max: as fast as it goes")
    parser.add_argument(
        "--speed", type=float, metavar="X",
        help="how many times faster a sensor's recording is played (default: so that all of it is shown, at least 1)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="inference threads (default 1)")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "iotcore"), default="auto")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="where the picture goes")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    begun = time.monotonic()
    from vedette.contract.errors import UserError
    from vedette.demo.camera import MODEL, CameraShow
    from vedette.demo.performance import Show, perform

    seconds = arguments.seconds if arguments.seconds is not None else SENSOR_S if arguments.sensor else CAMERA_S
    if not 1 <= seconds <= 86400:
        raise UserError("--seconds", expected="1 to 86400", found=f"{seconds:g}")
    if not 1 <= arguments.threads <= 64:
        raise UserError("--threads", expected="1 to 64", found=str(arguments.threads))
    for option in ("model", "source"):
        try:
            str(Path(getattr(arguments, option) or "").absolute()).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"--{option}",
                expected="a name in UTF-8, as the agent's configuration is",
                found=getattr(arguments, option),
            ) from None
    end_as_ctrl_c()  # broker and agent are stopped
    if arguments.picture is not None:
        from vedette.pictures.drawing import check_place

        check_place(arguments.picture)
    show: Show
    if arguments.sensor:
        from vedette.demo import sensor

        show = sensor.SensorShow(
            model=arguments.model or sensor.MODEL,
            source=arguments.source,
            pace=arguments.pace,
            speed=arguments.speed,
            seconds=seconds,
            picture=arguments.picture,
        )
    else:
        if arguments.speed is not None:
            raise UserError("--speed", expected="--sensor beside it", found="none")
        show = CameraShow(
            model=arguments.model or MODEL, source=arguments.source, pace=arguments.pace, picture=arguments.picture
        )
    outcome = perform(
        show, begun=begun, seconds=seconds, threads=arguments.threads, broker=arguments.broker, quiet=arguments.json
    )
    if arguments.json:
        print(json.dumps(outcome.document()))
    else:
        outcome.print()
    return outcome.exit_code
