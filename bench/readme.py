"""Writes the figures of ``bench/results/*.json`` into the README's table; ``--check`` says whether they are those."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- figures: bench/readme.py writes what is between these lines -->\n"
END = "<!-- end of figures -->"
COMMANDS = {
    "demo": "make bench-demo",
    "pipeline": "make bench-pipeline",
    "delivery": "make bench-delivery",
    "detector": "make bench-detector",
    "converter": "make bench-converter",
    "sensors": "make bench-sensors",
    "sensor_models": "make bench-sensor-models",
    "sharing": "make bench-sharing",
    "tracks": "make bench-tracks",
    "outbox": "make bench-outbox",
    "recovery": "make bench-recovery",
    "chaos": "make chaos",
}
COMPANIONS = (
    "ids that stood for two", "ids of which the subscriber", "that the source did not count", "windows of 256 cut",
    "growth of memory after the first tenth", "lost by the ledger",
)  # fmt: skip
"""Rows that say no more than that the one beside them can be believed; they stand in the results alone."""


def table() -> str:
    """Every row that makes a promise, with its command."""
    lines = ["| what | measured | promised | holds | command |", "| --- | ---: | --- | --- | --- |"]
    for name, command in COMMANDS.items():
        path = ROOT / "bench" / "results" / f"{name}.json"
        if not path.exists():
            continue
        for row in json.loads(path.read_text())["rows"]:
            if row["target"] is None or any(words in row["what"] for words in COMPANIONS):
                continue
            value = f"{row['value']:.4g}" if isinstance(row["value"], float) else str(row["value"])
            spread = row["spread"]
            if isinstance(spread, list):
                value += f" ({spread[0]:.4g} to {spread[1]:.4g})"
            holds = "yes" if row["holds"] else f"**no**: {row['reason'] or 'see the result'}"
            lines.append(f"| {row['what']} | {value} {row['unit']} | {row['target']} | {holds} | `{command}` |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """1 with ``--check`` when the README is not up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    new = head + BEGIN + table() + END + tail
    if "--check" in sys.argv:
        return int(new != text)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
