"""The agent in the demo: memory, start, frames a second, latency, from ``vedette demo --json``.

Once before it is measured, for Python to keep what it has compiled, as it does wherever it is installed; in a folder of the
benchmark's own, for an environment may forbid it (PYTHONDONTWRITEBYTECODE), and then every start compiles everything.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _results import Results

RUNS = 3
SECONDS = 10


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        runs = []
        for number in range(RUNS + 1):
            print(f"run {number} of {RUNS}" if number else "a run to compile", file=sys.stderr)
            done = subprocess.run(
                [sys.executable, "-m", "vedette", "demo", "--json", "--seconds", str(SECONDS if number else 3)],
                capture_output=True, text=True, check=True, env=environment,
            )  # fmt: skip
            runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    runs = runs[1:]
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
