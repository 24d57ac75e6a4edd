"""``vedette-convert``: exit code 0 when all is well, 1 for a gate that does not hold or a fault of ours, 2 for a mistake.

One file a command, or two that belong together. Each has ``add(commands)``, which declares them with ``run(options)``,
which returns the exit code.
"""

from __future__ import annotations

import argparse
import errno
import sys
import tempfile
from collections.abc import Sequence

import cv2

import vedette
from vedette import interrupt, streams
from vedette.arguments import Help, Parser
from vedette.contract.errors import VedetteError

from . import build, lint, search, sign, specialise

COMMANDS = (build, lint, specialise, search, sign)

_EPILOG = """\
Exit codes: 0 all is well; 1 a gate does not hold, or a fault of ours; 2 something you can mend
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="vedette-convert",
        description="Makes small, fast, proven TFLite bundles for vedette.",
        epilog=f"{build.EXAMPLES}\n{_EPILOG}",
        formatter_class=Help,
    )
    top.add_argument("--version", action="version", version=f"vedette-convert {vedette.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; see the module for the exit code."""
    try:
        return streams.run(
            lambda: _run(arguments), lambda why: print(f"vedette-convert: error: {why}", file=sys.stderr)
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # what is written where the user says is named there; what is left are files on the way
        where = error.filename or tempfile.gettempdir()
        print(
            f"vedette-convert: error: {where}: {error.strerror}; make room, or let TMPDIR name another folder",
            file=sys.stderr,
        )
        return 2


def _run(arguments: Sequence[str] | None) -> int:
    # what OpenCV says of a picture that is none, we say ourselves, in one line and with the file's name
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    options = parser().parse_args(arguments)
    try:
        interrupt.is_heard()
        return int(options.run(options))
    except VedetteError as error:
        print(f"vedette-convert: error: {error.line()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("vedette-convert: interrupted", file=sys.stderr)
        return 130
