"""``vedette run -c FILE``"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

HELP = "run the agent of a configuration"
DESCRIPTION = "Runs every pipeline of a configuration until it is told to stop (SIGTERM, Ctrl-C) or its sources end."
EXAMPLES = """examples:
  vedette run -c /etc/vedette/vedette.toml
  vedette check -c my.toml && vedette run -c my.toml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.config import load_config

    config = load_config(arguments.config)
    root = logging.getLogger()
    root.setLevel(config.log_level.upper())

    from vedette.service import Service

    return Service(config, arguments.config).run()
