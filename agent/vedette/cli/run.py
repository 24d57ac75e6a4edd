"""``vedette run -c FILE``"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

HELP = "run the agent of a configuration"
DESCRIPTION = "Runs every pipeline of a configuration until it is told to stop (SIGTERM, Ctrl-C) or its sources end."
EXAMPLES = """examples:
  vedette run -c /etc/vedette/vedette.toml
  vedette check -c my.toml && vedette run -c my.toml
"""
SWITCH_INTERVAL_S = 0.0002


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.config import load_config

    config = load_config(arguments.config)
    root = logging.getLogger()
    root.setLevel(config.log_level.upper())

    # a thread that comes back from native code waits at most so long for one that runs Python (5 ms by default)
    sys.setswitchinterval(SWITCH_INTERVAL_S)

    from vedette.memory import share_one_arena

    share_one_arena()

    import cv2

    # lanes and grabbers are the parallelism; a pool that spins beside them only takes their cores
    cv2.setNumThreads(1)

    from vedette.service.service import Service

    return Service(config, arguments.config).run()
