"""What the stages around ``invoke()`` cost one thread, by what it did before each of them: see ``_frame_times.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from _results import ROOT, Results

from vedette.demo.broker import loopback_broker

FRAMES = 200
STAGES = {
    "preprocess": "preprocess", "decode": "decode", "report": "write the message into the outbox",
    "publish": "publish, and hear PUBACK",
}  # fmt: skip
BEFORE = {
    "together": "one after the other",
    "invoke": "each after an invoke()",
    "arithmetic": "each after as long an arithmetic on a few kB",
}


def rows(results: Results, model: str, clip: Path, folder: Path) -> None:
    """A row for each of what may come before a stage, and below most of them one for each stage."""
    with loopback_broker() as (_, port):
        done = subprocess.run(
            [
                sys.executable, str(ROOT / "bench" / "_frame_times.py"), model, str(clip), str(port), str(FRAMES),
                str(folder / "stages"),
            ],
            capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
    took: dict[str, dict[str, float]] = json.loads(done.stdout)
    around = ", ".join(list(STAGES)[:-1]) + " and publish"
    for before, stages in took.items():
        if before not in BEFORE:
            what = f"one thread, each after {before} ms of arithmetic on a few kB: {around}"
            results.row(what=what, value=round(sum(stages.values()), 4), unit="ms", n=FRAMES)
    for before, words in BEFORE.items():
        for stage, ms in {around: sum(took[before].values()), **took[before]}.items():
            what = f"one thread, {words}: {STAGES.get(stage, stage)}"
            results.row(what=what, value=round(ms, 4), unit="ms", n=FRAMES)
