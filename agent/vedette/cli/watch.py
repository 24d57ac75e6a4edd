"""``vedette watch [URL]``"""

from __future__ import annotations

import argparse
import contextlib
import re

from .looking import add_broker_arguments, broker_of, end_as_ctrl_c

HELP = "follow what agents say, a line a message"
DESCRIPTION = (
    "Subscribes to every agent below a root topic and writes a line a message: detections, events, states, statistics, "
    "health. Says which numbers are missing, which come late or again, and which were kept and replayed. Follows through "
    "reconnections; ends with Ctrl-C."
)
EXAMPLES = """examples:
  vedette watch
  vedette watch mqtts://ops:secret@broker.example/plant-7/vedette --ca-file site.pem
  vedette watch 192.168.1.2 --device front-door --topic events --topic status
  vedette watch -c /etc/vedette/vedette.toml --pipeline door
  vedette watch --json --topic detections | jq -c '.payload.objects[].label'

A password in a URL can be seen by others on this computer (ps): --password-file has it in a file.
--json prints one object a line: topic, retained, received, payload (the message as it came; of what is no JSON bytes, its
size). What is noticed of missing messages goes to stderr then.
"""
TOPICS = (
    "detections", "events", "state", "stats", "model", "settings", "snapshot", "status", "health", "ledger", "cmd", "reply",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    add_broker_arguments(parser)
    parser.add_argument("--device", default="", metavar="NAME", help="of this agent alone")
    parser.add_argument("--pipeline", default="", metavar="NAME", help="of pipelines of this name alone")
    parser.add_argument(
        "--topic", action="append", default=[], choices=TOPICS, metavar="TOPIC",
        help=f"only this one; may be given more than once: {', '.join(TOPICS)}",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.contract.errors import ConfigError
    from vedette.monitor.listening import Listening
    from vedette.monitor.place import filters
    from vedette.monitor.watch import Watch

    for option in ("device", "pipeline"):
        name = getattr(arguments, option)
        if name and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ConfigError(f"bad --{option}", expected="1 to 64 letters, digits, - and _", found=repr(name))
    broker = broker_of(arguments)
    watch = Watch(broker.root, as_json=arguments.json)
    wanted = filters(broker.root, device=arguments.device, pipeline=arguments.pipeline, topics=arguments.topic)
    end_as_ctrl_c()
    with contextlib.suppress(KeyboardInterrupt):
        Listening(broker.options, wanted, watch.heard, watch.changed, protocol=arguments.protocol).run()
    return 0
