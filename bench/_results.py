"""The one shape of a benchmark's result: a table for people and ``bench/results/NAME.json`` for the rest.

A row that does not hold stays in, with its reason beside it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vedette", "ai-edge-litert", "tflite-runtime", "numpy", "opencv-python-headless", "paho-mqtt", "tensorflow")


@dataclass(frozen=True)
class Row:
    """One figure. ``target`` is text such as "<= 0.02"; ``holds`` is None where nothing was promised."""

    what: str
    value: float | int | str
    unit: str
    target: str | None
    holds: bool | None
    n: int
    spread: float | list[float] | None
    reason: str | None = None


OF_COMMIT: Final = "measured at"


class Results:
    """Collects rows; `write` prints the table and writes the file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[Row] = []

    def row(
        self,
        *,
        what: str,
        value: float | int | str,
        unit: str,
        n: int,
        target: str | None = None,
        holds: bool | None = None,
        spread: float | list[float] | None = None,
        reason: str | None = None,
    ) -> None:
        """Adds a figure. ``spread``: its interquartile range, or its interval as [low, high]; None for a count."""
        if (target is None) != (holds is None):
            raise ValueError(f"{what}: a target needs holds, and holds a target")
        self.rows.append(Row(what, value, unit, target, holds, n, spread, reason))

    def keep_earlier(self, words: str, why: str) -> None:
        """Takes over the last file's rows that have ``words`` in their names; each says of which commit it is, and of which
        machine where that was another."""
        path = ROOT / "bench" / "results" / f"{self.name}.json"
        if not path.is_file():
            return
        document = json.loads(path.read_text())
        there = "" if document["machine"] == machine() else f" on another machine ({document['machine']['cpu']})"
        for row in (Row(**row) for row in document["rows"] if words in row["what"]):
            if OF_COMMIT not in (row.reason or ""):
                said = f"{OF_COMMIT} {document['commit']}{there}: {why}"
                row = replace(row, reason=f"{row.reason}; {said}" if row.reason else said)
            self.rows.append(row)

    def write(self, *, keep: bool = True) -> bool:
        """True when every promise holds. Writes beside the others, prints to stdout. ``keep``: False to print alone."""
        path = ROOT / "bench" / "results" / f"{self.name}.json"
        path.parent.mkdir(exist_ok=True)
        document: dict[str, Any] = {
            "name": self.name,
            "commit": _commit(),
            "machine": machine(),
            "versions": versions(),
            "rows": [asdict(row) for row in self.rows],
        }
        if keep:
            path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        width = max(len(row.what) for row in self.rows)
        for row in self.rows:
            value = f"{row.value:.4g}" if isinstance(row.value, float) else str(row.value)
            verdict = "" if row.holds is None else f"  {row.target}: {'holds' if row.holds else 'DOES NOT HOLD'}"
            spread = "" if row.spread is None else f"  spread {_spread(row.spread)}"
            reason = f"  ({row.reason})" if row.reason else ""
            print(f"{row.what:<{width}}  {value:>9} {row.unit:<8} n={row.n}{spread}{verdict}{reason}")
        if keep:
            print(f"written to {path.relative_to(ROOT)}")
        return all(row.holds is not False for row in self.rows)


def _spread(spread: float | list[float]) -> str:
    return f"{spread[0]:.4g}..{spread[1]:.4g}" if isinstance(spread, list) else f"{spread:.3g}"


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    # results of the same run, and the table made of them, do not make a tree dirty
    changed = git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":!bench/results",
        ":!README.md",
        ":!docs/figures.md",
    )
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "arch": platform.machine(), "kernel": platform.release()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
