"""What each import of the agent costs: milliseconds and megabytes, in fresh interpreters.

*Alone*: one import in an interpreter that has nothing yet, so that shared parts (numpy, mostly) are counted in each that
needs them. CPU time, which other processes do not lengthen, and PSS of the process before and after. *In the agent*: what
``-X importtime`` says of an agent's imports, each module's own time summed by package: these add up. All are medians; the
rounds take all of them in turns.

What Python has compiled is kept in a folder of this benchmark's own, filled in a round that does not count: so it is on a
device from the second start on, or from the first where pip compiled it. What the first start costs else is said, too. (An
environment with PYTHONDONTWRITEBYTECODE compiles everything at every start, and hides all of this.)
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _results import Results

ALONE = (
    "msgspec", "numpy", "cv2", "paho.mqtt.client", "ai_edge_litert.interpreter", "imagesize", "rich.console", "nacl.signing",
    "vedette.contract.manifest", "vedette.config", "vedette.engine", "vedette.mqtt", "vedette.outbox", "vedette.sources",
    "vedette.service.compose", "vedette.service.service",
)  # fmt: skip
AGENT = "import vedette.cli.run, vedette.cli, vedette.service.service, ai_edge_litert.interpreter"
"""What an agent imports until it is ready; tests/agent/test_imports.py says what it must not."""
SHOWN_MS = 1.0  # of a package's own time, from which on it has a row

CHILD = """
import sys, time
def pss():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
before, begun, cpu = pss(), time.perf_counter(), time.process_time()
__import__(sys.argv[1])
print((time.process_time() - cpu) * 1e3, (time.perf_counter() - begun) * 1e3, (pss() - before) * 1024 / 1e6)
"""
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)")


def environment(cache: str) -> dict[str, str]:
    """For a child that keeps there what it has compiled."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPYCACHEPREFIX": cache, "OPENCV_LOG_LEVEL": "SILENT"}


def alone(module: str, cache: str) -> tuple[float, float, float]:
    """CPU milliseconds, milliseconds, megabytes."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, module], capture_output=True, text=True, check=True, env=environment(cache)
    )
    cpu, wall, size = map(float, done.stdout.split())
    return cpu, wall, size


def together(cache: str) -> dict[str, float]:
    """Milliseconds of each package's own modules."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", AGENT], capture_output=True, text=True, check=True,
        env=environment(cache),
    )  # fmt: skip
    found: dict[str, float] = defaultdict(float)
    for microseconds, name in _LINE.findall(done.stderr):
        package = name.partition(".")[0]
        found[package if package in _packages() else "the standard library"] += int(microseconds) / 1e3
    return found


def _packages() -> set[str]:
    return {
        "numpy", "cv2", "msgspec", "paho", "ai_edge_litert", "imagesize", "vedette", "typing_extensions", "rich", "nacl",
        "tqdm", "flatbuffers", "backports",
    }  # fmt: skip


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    each: dict[str, list[tuple[float, float, float]]] = {module: [] for module in ALONE}
    packages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as cache:
        packages.append(together(cache))
        for number in range(arguments.rounds + 1):
            for module, found in each.items():
                found.append(alone(module, cache))
            packages.append(together(cache))
            print(f"round {number} of {arguments.rounds}", file=sys.stderr)
    results = Results("imports")
    for module, found in each.items():
        rows = found[1:]  # the first one filled the page cache
        cpu, wall, size = (statistics.median(row[index] for row in rows) for index in range(3))
        spread = _quartiles([row[0] for row in rows])
        reason = f"{size:.1f} MB, {wall:.0f} ms by the clock"
        results.row(
            what=f"import {module}, alone",
            value=round(cpu, 1),
            unit="ms CPU",
            n=len(rows),
            spread=spread,
            reason=reason,
        )
        results.row(
            what=f"import {module}, alone: memory", value=round(size, 2), unit="MB", n=len(rows),
            spread=_quartiles([row[2] for row in rows]),
        )  # fmt: skip
    names = {name for found in packages[2:] for name in found}
    medians = {name: statistics.median(found.get(name, 0.0) for found in packages[2:]) for name in names}
    for name, value in sorted(medians.items(), key=lambda item: -item[1]):
        if value >= SHOWN_MS:
            values = [found.get(name, 0.0) for found in packages[2:]]
            results.row(
                what=f"in the agent: {name}", value=round(value, 1), unit="ms", n=len(values), spread=_quartiles(values)
            )
    totals = [sum(found.values()) for found in packages[2:]]
    results.row(
        what="in the agent: all imports", value=round(statistics.median(totals), 1), unit="ms", n=len(totals),
        spread=_quartiles(totals),
    )  # fmt: skip
    results.row(
        what="in the agent: all imports, with nothing compiled yet",
        value=round(sum(packages[0].values()), 1),
        unit="ms",
        n=1,
    )
    return 0 if results.write() else 1


def _quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [round(values[0], 2)] * 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [round(low, 2), round(high, 2)]


if __name__ == "__main__":
    sys.exit(main())
