"""The agent in the demo: memory, start, frames a second, latency, from ``vedette demo --json``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _results import Results

RUNS = 3
SECONDS = 10


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    runs = []
    for number in range(RUNS):
        print(f"run {number + 1} of {RUNS}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, "-m", "vedette", "demo", "--json", "--seconds", str(SECONDS)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    results = Results("demo")
    pss = max(run["pss_bytes"] for run in runs)
    ready = statistics.median(run["ready_s"] for run in runs)
    results.row(
        what="agent's PSS with its children, largest seen", value=round(pss / 1e6, 1), unit="MB", n=RUNS,
        target="<= 150", holds=pss <= 150e6,
    )  # fmt: skip
    results.row(
        what="process start to READY, median", value=ready, unit="s", n=RUNS, target="<= 2", holds=ready <= 2.0,
        spread=[min(run["ready_s"] for run in runs), max(run["ready_s"] for run in runs)],
    )  # fmt: skip
    missing = sum(run["missing"] for run in runs)
    published = sum(run["published"] for run in runs)
    results.row(
        what="messages published and not received", value=missing, unit="messages", n=published, target="== 0",
        holds=missing == 0,
    )  # fmt: skip
    results.row(
        what="frames a second (the clip has 10)", value=statistics.median(r["fps"] for r in runs), unit="1/s", n=RUNS
    )
    for stage in runs[0]["latency_ms"]:
        for q in ("p50", "p99"):
            value = statistics.median(run["latency_ms"][stage][q] for run in runs)
            results.row(
                what=f"{stage} {q}", value=value, unit="ms", n=sum(r["latency_ms"][stage]["count"] for r in runs)
            )
    return 0 if results.write() else 1


if __name__ == "__main__":
    sys.exit(main())
