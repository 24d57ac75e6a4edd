"""``vedette top [URL]``"""

from __future__ import annotations

import argparse
import contextlib
import re

from .looking import add_broker_arguments, broker_of, end_as_ctrl_c

HELP = "how every agent is now, in a table that is written anew each second"
DESCRIPTION = (
    "Shows each device and pipeline below a root topic: state, frames in and out, share of the frames it wanted, latency "
    "p50 and p99 a stage with its histogram, what was dropped and why, what waits, temperature, power, memory, clock; "
    "problems at the bottom. q quits. Without a terminal it prints a table a second."
)
EXAMPLES = """examples:
  vedette top
  vedette top mqtts://ops@broker.example --password-file ~/.mqtt --ca-file site.pem
  vedette top 192.168.1.2 --device front-door
  vedette top --count 15 | tail -n 20

Stages cover the last minute, merged from the histograms that the agents publish; each row of bars goes from the fastest to
the slowest, on a logarithmic axis. A count in brackets is that of the last interval.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    add_broker_arguments(parser)
    parser.add_argument("--device", default="", metavar="NAME", help="of this agent alone")
    parser.add_argument("-n", "--count", type=int, metavar="N", help="end after so many tables")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.contract.errors import ConfigError
    from vedette.monitor.top import Top

    if arguments.device and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", arguments.device):
        raise ConfigError("bad --device", expected="1 to 64 letters, digits, - and _", found=repr(arguments.device))
    if arguments.count is not None and arguments.count < 1:
        raise ConfigError("bad --count", expected="1 or more", found=arguments.count)
    top = Top(broker_of(arguments), protocol=arguments.protocol, device=arguments.device)
    end_as_ctrl_c()
    with contextlib.suppress(KeyboardInterrupt):
        top.run(arguments.count)
    return 0
