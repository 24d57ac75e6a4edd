"""What it costs to keep an accelerator at arm's length, how soon the CPU takes over, and what a proof saves a start.

The accelerator is the tests' delegate (``tests/engine_delegate/delegate.c``; needs gcc): it claims nothing of an ordinary
network, so that the same kernels run it in the child and in this process, and the difference is the way there and back.
Starts are of fresh processes that load the shipped detector, as the agent does: with its self-test each time, with a proof
that has yet to be made, and with one that is there. All variants take turns in one run.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _results import ROOT, Results

from vedette.engine import IsolatedEngine, TfliteEngine, load_runtime
from vedette.models.acceleration import Acceleration, accelerate
from vedette.models.model import find_model, read_model

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "agent")]
accelerator = importlib.import_module("accelerator")

MODEL = "coco-ssdlite-mobilenet-v2"
START = """
import sys, time
begun = time.perf_counter()
from pathlib import Path
from vedette.service.compose import prepare
from vedette.service.lanes import load_models
from vedette.config import parse_config
from vedette.models.proofs import Proofs
source = 'source = "' + sys.argv[2] + '"'
config = parse_config(f'[pipeline.door]\\nmodel = "{sys.argv[1]}"\\n{source}\\n'.encode(), Path("x.toml"))
load_models(prepare(config, Path("x.toml")), config.engine, Proofs(Path(sys.argv[3])) if sys.argv[3] else None)
print((time.perf_counter() - begun) * 1000)
"""
KEPT = """
import sys
from pathlib import Path
from vedette.engine import TfliteEngine, load_runtime
def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024
runtime, before = load_runtime(), private()
engine = TfliteEngine(Path(sys.argv[1]), runtime)
engine.invoke(*engine.allocate())
print(private() - before)
"""


def main() -> int:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    results = Results("isolation")
    with tempfile.TemporaryDirectory() as folder:
        device = accelerator.TestDelegate(Path(folder), name="libedgetpu.so.1")
        measure_runs(results, device, rounds)
        measure_take_over(results, device, Path(folder), rounds)
        measure_starts(results, Path(folder), rounds)
    return 0 if results.write() else 1


def measure_runs(results: Results, device: Any, rounds: int) -> None:
    """One inference here and in the child, and what the child takes."""
    path, runtime = find_model(MODEL), load_runtime()
    here = TfliteEngine(path, runtime)
    inputs, outputs = here.allocate()
    here.invoke(inputs, outputs)
    begun = time.perf_counter()
    child = IsolatedEngine(path, device.delegate("another"), runtime)
    started = (time.perf_counter() - begun) * 1000
    extra = []
    for _ in range(rounds):
        times: dict[str, list[float]] = {"here": [], "child": []}
        for _ in range(100):
            for name, engine in (("here", here), ("child", child)):
                begun = time.perf_counter()
                engine.invoke(inputs, outputs)
                times[name].append((time.perf_counter() - begun) * 1000)
        extra.append(statistics.median(times["child"]) - statistics.median(times["here"]))
    row(results, f"{MODEL}: a run in a process of its own, more than in this one", extra, "ms")
    results.row(what=f"{MODEL}: the child's private memory", value=private_mib(str(child.pid)), unit="MiB", n=1)
    kept = [float(run(KEPT, str(path))) for _ in range(rounds)]
    row(results, f"{MODEL}: an interpreter kept loaded for a take-over", kept, "MiB")
    results.row(what=f"{MODEL}: start of the child", value=started, unit="ms", n=1)
    child.close()


def measure_take_over(results: Results, device: Any, folder: Path, rounds: int) -> None:
    """From handing in a sample that the accelerator hangs or dies at, to the CPU's result of it; deadline 2 s."""
    spec, runtime = read_model(str(accelerator.accelerated_bundle(folder))), load_runtime()
    for letter, what in (("h", "hangs"), ("c", "crashes")):
        seconds = []
        for _ in range(rounds):
            device.does("w")
            acceleration = Acceleration(device.delegate("edgetpu"), first_s=60.0, check_s=0.0)
            engine = accelerate(spec, TfliteEngine(spec.path, runtime), runtime, acceleration)
            inputs, outputs = engine.allocate()
            engine.invoke(inputs, outputs)
            assert engine.description.delegate == "edgetpu"
            device.does(letter)
            begun = time.perf_counter()
            engine.invoke(inputs, outputs)
            seconds.append(time.perf_counter() - begun)
            assert engine.description.delegate != "edgetpu"
            engine.close()
        worst = max(seconds)
        results.row(
            what=f"the accelerator {what}: the CPU's result of the same sample, the latest of all", value=worst, unit="s",
            n=rounds, target="<= 5", holds=worst <= 5,
        )  # fmt: skip


def measure_starts(results: Results, folder: Path, rounds: int) -> None:
    """A fresh process that imports, reads and loads."""
    took: dict[str, list[float]] = {"each time": [], "new": [], "proved": []}
    for number in range(rounds):
        state = str(folder / f"state-{number}")
        for name, proofs in (("each time", ""), ("new", state), ("proved", state)):
            took[name].append(start(proofs))
    row(results, f"{MODEL}: imports and loading, self-tested each time", took["each time"], "ms")
    row(results, f"{MODEL}: the same, self-tested in a child, for it is new here", took["new"], "ms")
    row(results, f"{MODEL}: the same, proved before", took["proved"], "ms")
    slower = [b / a for a, b in zip(took["each time"], took["proved"], strict=True)]
    row(
        results,
        f"{MODEL}: a start that is proved before, by one that tests",
        slower,
        "ratio",
        lambda x: x <= 1.0,
        "<= 1",
    )


def start(proofs: str) -> float:
    """Milliseconds."""
    clip = str(ROOT / "examples" / "media" / "people-walking.mp4")
    return float(run(START, str(find_model(MODEL)), clip, proofs))


def run(code: str, *arguments: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def row(
    results: Results, what: str, values: list[float], unit: str, holds: Callable[[float], bool] | None = None,
    target: str | None = None,
) -> None:  # fmt: skip
    """The median, and the quartiles."""
    value = statistics.median(values)
    spread = [round(float(x), 4) for x in np.percentile(values, [25, 75])]
    more: dict[str, Any] = {} if holds is None else {"target": target, "holds": holds(value)}
    results.row(what=what, value=value, unit=unit, n=len(values), spread=spread, **more)


def private_mib(pid: str) -> float:
    """What nobody else has a share in."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


if __name__ == "__main__":
    sys.exit(main())
