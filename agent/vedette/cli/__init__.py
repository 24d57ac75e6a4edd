"""The command line: ``vedette run | demo | infer | bench | check | doctor | show | verify | command | watch | top | chaos``.

One file a command, imported when it is called.

Exit codes: 0 good, 2 the user's mistake (one line that says what and where), a broker that does not answer included; 1 a
fault of ours or of this machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from vedette import __version__, interrupt, journal, streams
from vedette.arguments import Help, Parser
from vedette.contract.errors import BrokerUnreachableError, UserError, VedetteError

COMMANDS: Final = (
    "run", "demo", "infer", "bench", "check", "doctor", "show", "verify", "command", "watch", "top", "chaos",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point. Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return streams.run(lambda: _run(words), lambda why: _say(f"fault: {why}"))


def _run(words: Sequence[str]) -> int:
    # FFmpeg inside OpenCV prints to stderr what we say ourselves, in one line and with the file's name
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    if words[:1] and words[0] == "run":
        # a reload that is asked for while an agent starts waits in the kernel until `Service` heeds it, and ends nothing
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        # an agent need not import what the other commands are made of
        parser, commands = _parser(words[:1] if words[:1] and words[0] in COMMANDS else COMMANDS)
        arguments = parser.parse_args(words)
        if arguments.command is None:
            parser.print_help()
            return 0
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(journal.Formatter())
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        if arguments.command != "run":  # which heeds signals itself, once it has something to put in order
            interrupt.is_heard()
        return commands[arguments.command](arguments)
    except (UserError, BrokerUnreachableError) as error:
        # whoever named a broker that does not answer can mend that as well as one that refuses
        _say(f"error: {error}")
        return 2
    except VedetteError as error:
        _say(f"fault: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _say(what: str) -> None:
    print(f"{journal.prefix(journal.ERROR)}vedette: {what}", file=sys.stderr)


def _parser(
    names: Sequence[str] = COMMANDS,
) -> tuple[argparse.ArgumentParser, dict[str, Callable[[argparse.Namespace], int]]]:
    """``names``: the commands it is to know."""
    parser = Parser(
        prog="vedette",
        description="Run TFLite models on a camera, on the device, and publish what they see over MQTT.",
        epilog="Exit codes: 0 good, 2 yours to mend (one line says what and where), 1 a fault of ours.",
    )
    parser.add_argument("--version", action="version", version=f"vedette {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands: dict[str, Callable[[argparse.Namespace], int]] = {}
    for name in names:
        module = import_module(f".{name}", __name__)
        sub = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=Help,
        )
        module.add_arguments(sub)
        commands[name] = module.execute
    return parser, commands
