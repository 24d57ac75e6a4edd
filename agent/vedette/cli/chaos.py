"""``vedette chaos -c FILE``"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path

from .looking import end_as_ctrl_c

HELP = "break things around an agent, and see what it makes of it"
DESCRIPTION = (
    "Runs the agent of a configuration as a child, under another device name, with its state in a temporary folder, and "
    "injects faults one after another: the broker goes, sources go, the agent is killed, its disk is full. A subscriber "
    "keeps account of every message. Ends with a table; the exit code is 1 when something was not as it must be."
)
EXAMPLES = """examples:
  vedette chaos -c my.toml
  vedette chaos -c /etc/vedette/vedette.toml --seconds 600 --seed 7
  vedette chaos -c my.toml --only broker --only "agent killed"
  vedette chaos -c my.toml --broker --json

Sources that only one program can have (cameras of this computer) must be free: stop the agent that uses them first.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="N", help="of faults (default 120)")
    parser.add_argument("--seed", type=int, metavar="S", help="which faults, when (default: another one each time)")
    parser.add_argument(
        "--broker", action="store_true",
        help="use the configured broker (default: one on loopback, for this run alone)",
    )  # fmt: skip
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="faults whose names begin so; more than once for more",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.chaos import report
    from vedette.chaos.run import perform
    from vedette.contract.errors import UserError

    if not 1 <= arguments.seconds <= 7 * 86400:
        raise UserError("--seconds", expected="1 to 604800", found=f"{arguments.seconds:g}")
    end_as_ctrl_c()  # broker and agent are stopped
    outcome = perform(
        arguments.config,
        seconds=arguments.seconds,
        seed=secrets.randbits(32) if arguments.seed is None else arguments.seed,
        own_broker=not arguments.broker,
        only=arguments.only,
        say=(lambda line: None) if arguments.json else lambda line: print(line, flush=True),
    )
    if arguments.json:
        print(json.dumps(report.document(outcome)))
    else:
        report.show(outcome)
    return 0 if outcome.passed else 1
