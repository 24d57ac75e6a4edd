"""``vedette-convert search``."""

from __future__ import annotations

import argparse
import json
import typing
from pathlib import Path
from typing import Any

import msgspec

from vedette.arguments import Help
from vedette.contract.errors import FaultError, UserError, VedetteError

from ..recipe import read_recipe
from ..recipe.quantisation import Precision
from ..recipe.search import Search
from .bars import Bars

EXAMPLES = """\
examples:
  vedette-convert search RECIPE --data pictures/ --train labelled/ --evaluate test/ --out found/ --budget 0.01
  vedette-convert search RECIPE --data pictures/ --judge coco/val --out found/ --precisions float16,int8,mixed
  vedette-convert search RECIPE --data pictures/ --train labelled/ --out found/ --trials 200 \\
      --storage postgresql://user:password@host/searches

Killed at any moment, the same command goes on where it was. With --storage as many machines as like run it at once.
"""


def add(commands: Any) -> None:
    """Declares the command."""
    look = commands.add_parser(
        "search",
        help="try pruning, precisions and input sizes, and keep the front",
        description="Builds networks from one recipe: pruned more or less, in several precisions, at several input sizes. "
        "Shows those that no other one beats in accuracy, latency and size, each with its recipe, and builds the fastest "
        "that keeps the accuracy. Networks are chosen by labelled pictures held back from training (a fifth of each "
        "label's in --train, by seed: [search] share); --evaluate is looked at once, in the end. What may be tried stands "
        "in the recipe's [search]. The table goes to stdout, progress to stderr.",
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    look.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe's TOML file")
    look.add_argument("--data", type=Path, required=True, metavar="DIR", help="pictures to calibrate with")
    look.add_argument(
        "--train", type=Path, metavar="DIR",
        help="pictures to train on; one folder a label, then some of each are held back to choose by (default: --data)",
    )  # fmt: skip
    look.add_argument(
        "--judge", type=Path, action="append", default=[], metavar="DIR",
        help="pictures to choose by, in place of some of --train; detectors: COCO's format, may be given again",
    )  # fmt: skip
    look.add_argument(
        "--evaluate", type=Path, action="append", default=[], metavar="DIR",
        help="test pictures, for the front alone: nothing is chosen by them",
    )  # fmt: skip
    look.add_argument(
        "--out",
        type=Path,
        default=Path("found"),
        metavar="DIR",
        help="folder for what is found (default: found right here)",
    )
    look.add_argument(
        "--budget", type=float, default=0.01, metavar="DROP", help="accuracy that may be lost, 0..1 (default: 0.01)"
    )
    look.add_argument("--trials", type=int, default=40, metavar="N", help="networks to try, at most (default: 40)")
    look.add_argument("--minutes", type=float, metavar="M", help="begin no network after so long")
    look.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="networks built at once (default: 1, since they disturb one another's latency; the front's is measured again)",
    )  # fmt: skip
    look.add_argument(
        "--storage", metavar="URL",
        help="a database to share the search by: postgresql://..., sqlite:///FILE (default: in --work)",
    )  # fmt: skip
    look.add_argument("--source", type=Path, metavar="PATH", help="where the recipe's weights lie")
    look.add_argument("--work", type=Path, metavar="DIR", help="where steps are kept (default: in the user's cache)")
    look.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    space = look.add_argument_group("instead of the recipe's [search]")
    space.add_argument("--precisions", metavar="P,P", help=", ".join(typing.get_args(Precision)))
    space.add_argument("--ratios", metavar="R,R", help="shares of channels that are pruned, such as 0,0.25,0.5")
    space.add_argument("--sizes", metavar="HxW,HxW", help="the input's, such as 96x96,128x128")
    space.add_argument("--epochs", metavar="E,E", help="of distillation")
    space.add_argument("--sampler", choices=("tpe", "nsga2"), help="who proposes (default: tpe)")
    space.add_argument("--seed", type=int, metavar="N", help="of the proposals and of what is held back (default: 1)")
    look.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Searches, prints the table, and writes it with its picture."""
    from ..search import picture, table
    from ..search.search import NothingFoundError, Result, Wanted, search

    result: Result | None = None
    error: VedetteError | None = None
    try:
        wanted = Wanted(
            recipe=options.recipe, data=options.data, out=options.out, options=_options(options), source=options.source,
            train=options.train, judge=tuple(options.judge), evaluate=tuple(options.evaluate), budget=options.budget,
            trials=options.trials, minutes=options.minutes, jobs=options.jobs, storage=options.storage,
            work=options.work,
        )  # fmt: skip
        with Bars() as bars:
            result = search(wanted, progress=bars)
        if result.chosen is None:
            best = min(one.point.drop for one in result.front)
            raise NothingFoundError(
                "no network keeps the accuracy", expected=f"a drop of {options.budget:g} or less", found=f"{best:.4f}"
            )
        if result.bundle is None:
            raise FaultError("the chosen recipe makes no bundle", where=result.chosen.recipe, fix="the notes say why")
    except VedetteError as caught:
        error = caught
    document = json.dumps(table.as_object(result, error.line() if error else None))
    if result is not None:
        text = table.markdown(result)
        _write(options.out / "front.md", text + "\n")
        _write(options.out / "front.svg", picture.svg(result))
        _write(options.out / "front.json", document + "\n")
        if not options.json:
            print(text)
    if options.json:
        print(document)
    if error is not None:
        raise error
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError("cannot be written", where=path, found=error.strerror or str(error)) from None


def _options(options: argparse.Namespace) -> Search | None:
    """The recipe's ``[search]`` with the flags in its place; None where no flag is given. Raises `UserError`."""
    given: dict[str, Any] = {}
    for name, kind in (("precisions", str), ("ratios", float), ("epochs", int)):
        if (text := getattr(options, name)) is not None:
            given[name] = [_number(part, kind, f"--{name}") for part in text.split(",")]
    if options.sizes is not None:
        given["sizes"] = [
            [_number(side, int, "--sizes") for side in part.lower().split("x")] for part in options.sizes.split(",")
        ]
    for name in ("sampler", "seed"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    if not given:
        return None
    own = read_recipe(options.recipe).recipe.search or Search()
    try:
        return msgspec.convert({**msgspec.to_builtins(own), **given}, Search)
    except msgspec.ValidationError as error:
        flags = ", ".join(f"--{name}" for name in given)
        raise UserError("the flags say no [search]", where=flags, found=str(error)) from None


def _number(text: str, kind: type, flag: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(flag, expected="numbers with commas between, HEIGHTxWIDTH for sizes", found=text) from None
