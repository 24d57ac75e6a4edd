"""Which figures got worse than the committed ones: ``bench/results/*.json`` as they are now against ``git show HEAD:...``.

Without names: those that differ from the committed ones; where none does, ``make bench-pipeline`` is run first. With names,
each of them, measured first with ``--run``. A figure is looked at where it made a promise, or is a ratio or a count of
instructions. It got *worse* when it moved away from what was promised by more than its spread (of both runs the wider one;
where it has none by more than 2 %); of a ratio that promised nothing nobody knows which way is worse, so both are told. A
promise *fell* when it got worse, or held in the committed run and does not now. The exit code is 1 when one fell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from readme import SOURCES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
WITHOUT_SPREAD = 0.02  # of the value: of figures that state none
LOWER_IS_BETTER = ("ms", "s", "MB", "MiB", "million", "messages", "bytes", "GB", "% core", "cores")
Verdict = Literal["same", "better", "worse", "fell", "moved", "new", "gone"]


@dataclass(frozen=True)
class Line:
    """One figure, then and now."""

    bench: str
    what: str
    old: Any
    new: Any
    spread: float
    unit: str
    verdict: Verdict

    def __str__(self) -> str:
        return (
            f"{self.verdict:<7} {_value(self.old):>9} -> {_value(self.new):<9} {self.unit:<8} {self.bench}: {self.what}"
        )


def main() -> int:
    """1 when a promise fell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of bench/results/NAME.json")
    parser.add_argument("--run", action="store_true", help="run make bench-NAME first")
    parser.add_argument("--against", default="HEAD", metavar="COMMIT", help="default HEAD")
    parser.add_argument("--all", action="store_true", help="print what stayed the same, too")
    arguments = parser.parse_args()
    names = arguments.names or _changed(arguments.against)
    run = arguments.run
    if not names:
        print("no result differs from the committed one, so the pipeline is measured now", file=sys.stderr)
        names, run = ["pipeline"], True
    lines: list[Line] = []
    for name in names:
        if run:  # 1: a promise does not hold, which is ours to say
            command = SOURCES[name].command if name in SOURCES else f"make bench-{name}"
            subprocess.run(command.split(), cwd=ROOT, check=False)
        lines += _compare(name, arguments.against)
    for line in lines:
        if arguments.all or line.verdict != "same":
            print(line)
    fell = sum(line.verdict == "fell" for line in lines)
    counts = {
        verdict: sum(line.verdict == verdict for line in lines) for verdict in ("same", "better", "worse", "moved")
    }
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + f"; promises that fell: {fell}")
    return 1 if fell else 0


def _changed(commit: str) -> list[str]:
    done = _git("diff", "--name-only", commit, "--", "bench/results")
    return [Path(name).stem for name in done.splitlines() if name.endswith(".json") and (ROOT / name).exists()]


def _compare(name: str, commit: str) -> list[Line]:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        sys.exit(f"vedette: error: {path.relative_to(ROOT)} is not there; run make bench-{name} first")
    text = _git("show", f"{commit}:bench/results/{name}.json")
    if not text:
        print(f"{name}: nothing was committed to compare with")
        return []
    old, new = json.loads(text), json.loads(path.read_text())
    print(f"{name}: {old['commit']} -> {new['commit']}")
    differ = [f"{key} {was} -> {new['machine'].get(key)}" for key, was in _facts(old) if new["machine"].get(key) != was]
    if differ:
        print(f"  another machine, so only ratios are looked at: {', '.join(differ)}")
    return compare_rows(name, old["rows"], new["rows"], ratios_only=bool(differ))


def _facts(document: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, document["machine"][key]) for key in ("cpu", "cores", "arch")]


def compare_rows(
    bench: str, old: list[dict[str, Any]], new: list[dict[str, Any]], *, ratios_only: bool = False
) -> list[Line]:
    """A line for each figure that is looked at, in the order of the new run; see the module."""
    if ratios_only:
        old, new = ([row for row in rows if row["unit"] == "ratio"] for rows in (old, new))
    before = {row["what"]: row for row in old}
    lines = []
    for row in new:
        was = before.pop(row["what"], None)
        if not (row["target"] or row["unit"] in ("ratio", "million") or (was and was["target"])):
            continue
        if was is None:
            lines.append(Line(bench, row["what"], "", row["value"], 0.0, row["unit"], "new"))
            continue
        spread = max(_spread(was), _spread(row))
        lines.append(
            Line(bench, row["what"], was["value"], row["value"], spread, row["unit"], _verdict(was, row, spread))
        )
    lines += [
        Line(bench, row["what"], row["value"], "", 0.0, row["unit"], "fell" if row["holds"] else "gone")
        for row in before.values()
        if row["target"]
    ]
    return lines


def _verdict(old: dict[str, Any], new: dict[str, Any], spread: float) -> Verdict:
    promised = bool(new["target"] or old["target"])
    lost = bool(old["holds"]) and not new["holds"]
    if lost:
        return "fell"
    if isinstance(old["value"], str) or isinstance(new["value"], str):
        return "same" if old["value"] == new["value"] else "moved"
    moved = new["value"] - old["value"]
    if abs(moved) <= spread:
        return "same"
    direction = _direction(new if new["target"] else old)
    if direction == 0:
        return "moved"
    if moved * direction > 0:
        return "better"
    return "fell" if promised else "worse"


def _direction(row: dict[str, Any]) -> int:
    """1 where more is better, -1 where less is, 0 where nobody knows."""
    target = str(row["target"] or "")
    if target.startswith((">", "<")):
        return 1 if target[0] == ">" else -1
    return -1 if row["unit"] in LOWER_IS_BETTER else 0


def _spread(row: dict[str, Any]) -> float:
    spread = row["spread"]
    if isinstance(spread, list):
        return abs(float(spread[1]) - float(spread[0]))
    if spread is None:
        return 0.0 if not isinstance(row["value"], float) else abs(row["value"]) * WITHOUT_SPREAD
    return float(spread)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:9]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
