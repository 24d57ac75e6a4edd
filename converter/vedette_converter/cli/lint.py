"""``vedette-convert lint``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vedette.arguments import Help
from vedette.contract.errors import UserError
from vedette.engine import RUNTIMES

if TYPE_CHECKING:
    from ..lint import Report, Verdict

EXAMPLES = """\
examples:
  vedette-convert lint coco-ssdlite-mobilenet-v2.tflite
  vedette-convert lint network.tflite --target edgetpu --out network_edgetpu.tflite
  vedette-convert lint network.tflite --strict --json

Exit codes: 0 it runs there; 1 it does not run there at all, or, with --strict, not with all its operations; 2 a bad file
"""
_MARKS = {"error": "red", "warning": "yellow", "hint": "cyan"}


def add(commands: Any) -> None:
    """Declares the command."""
    look = commands.add_parser(
        "lint",
        help="say where a network's operations run, and what to change",
        description="Reads a .tflite file or a bundle and says which operations run on the target, why others do not, "
        "and what to change. For cpu it asks the runtime installed here what XNNPACK really took; for edgetpu it goes "
        "by the documentation, and by edgetpu_compiler where that is on PATH.",
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    look.add_argument("model", type=Path, metavar="MODEL", help="a .tflite file or a bundle")
    look.add_argument("--target", choices=("cpu", "edgetpu"), default="cpu", help="default: cpu")
    look.add_argument(
        "--runtime", choices=("auto", *RUNTIMES), default="auto", help="whose XNNPACK (default: LiteRT's)"
    )
    look.add_argument("--all", action="store_true", help="list every operation, not only those off the target")
    look.add_argument("--out", type=Path, metavar="FILE", help="where to keep what edgetpu_compiler made")
    look.add_argument("--strict", action="store_true", help="exit code 1 where an operation falls off the target")
    look.add_argument("--json", action="store_true", help="print one JSON object, with every operation")
    look.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Lints, and prints the table."""
    from ..lint import lint

    if options.out is not None and options.target != "edgetpu":
        raise UserError("--out", expected="--target edgetpu beside it", found=f"--target {options.target}")
    report = lint(options.model, options.target, options.runtime)
    kept = _keep(report, options.out) if report.compiled is not None and options.out is not None else None
    if options.json:
        print(json.dumps({**report.as_object(), "kept": str(kept) if kept else None}))
    else:
        _print(report, options.all)
        if kept is not None:
            print(f"wrote {kept}")
    if not report.runs:
        return 1
    return 1 if options.strict and not report.clean else 0


def _keep(report: Report, out: Path) -> Path:
    """Writes the compiled file, never over the one it was made from."""
    if report.compiled is None:
        raise ValueError("nothing was compiled")
    if out.exists() and out.samefile(report.graph.path):
        raise UserError("--out", expected="another file than the model", found=str(out))
    try:
        out.write_bytes(report.compiled.flatbuffer)
    except OSError as error:
        raise UserError("cannot be written", where=out, found=error.strerror or str(error)) from None
    return out


def _print(report: Report, everything: bool) -> None:
    import rich.console
    from rich.table import Table
    from rich.text import Text

    from ..lint.report import place

    shown = report.verdicts if everything else report.fallen

    class Console(rich.console.Console):
        def on_broken_pipe(self) -> None:  # rich would end with exit code 1
            raise BrokenPipeError

    console = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
    if shown and sys.stdout.isatty():
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("op", "type", "output", "runs on", "why not", "what to change", "name"):
            table.add_column(heading, overflow="fold")
        for verdict in shown:
            table.add_row(*(Text(cell) for cell in _cells(verdict, place(report, verdict))))
        console.print(table)
    elif shown:
        rows = [_cells(verdict, place(report, verdict)) for verdict in shown]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if report.compiled is not None:
        for line in report.compiled.rows:
            print(f"edgetpu_compiler: {line.kind} x{line.count}: {line.status}")
    for finding in report.findings:
        told = Text(f"{finding.severity}: ", style=_MARKS[finding.severity])
        told.append(f"{finding.problem}{'; ' + finding.fix if finding.fix else ''} [{finding.rule}]", style="default")
        console.print(told)
    print(report.summary())


def _cells(verdict: Verdict, where: str) -> list[str]:
    op = verdict.op
    kind = op.kind if op.activation == "NONE" else f"{op.kind}+{op.activation}"
    outputs = ", ".join(tensor.kind for tensor in op.outputs)
    refusal = verdict.refusal
    name = op.outputs[0].label[1:-1] if op.outputs else ""
    cells = [
        str(op.index),
        kind,
        outputs,
        where,
        refusal.why if refusal else "",
        refusal.fix if refusal else "",
        name,
    ]
    return ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in cell) for cell in cells]
