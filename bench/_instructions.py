"""How many instructions the agent spends on a frame outside of ``invoke()``, and how much memory a frame touches, as
valgrind's callgrind counts them.

They do not depend on who else uses the machine. Valgrind 3.19 shows programs a processor without AVX-512, so OpenCV and
numpy take their AVX2 paths there; Python's own instructions are the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import _stage_times
from _native import NotHereError
from _results import ROOT, Results

from vedette.demo.broker import loopback_broker

FRAMES = 20
LINE_BYTES = 64
# a second-level cache that keeps all of a frame, so that what misses it is touched for the first time since it was empty
_CACHES = ("--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=67108864,16,64")
STAGES = {**_stage_times.STAGES, "read": "read and decode the clip's frame"}


def rows(results: Results, model: str, clip: Path, folder: Path) -> None:
    """A row a stage, of instructions and of memory; where they cannot be counted, a row that says why."""
    try:
        instructions = {stage: counts["Ir"] / FRAMES for stage, counts in count(model, clip, folder, FRAMES).items()}
        touched = {
            stage: (counts["ILmr"], counts["DLmr"] + counts["DLmw"])
            for stage, counts in count(model, clip, folder, 1, _CACHES).items()
        }
    except NotHereError as error:
        results.row(what="instructions a frame outside invoke()", value="not counted", unit="", n=0, reason=str(error))
        return
    total = sum(instructions[stage] for stage in _stage_times.STAGES)
    for what, value in {
        "preprocess, decode, report and publish": total, **{STAGES[stage]: instructions[stage] for stage in STAGES},
    }.items():  # fmt: skip
        results.row(what=f"instructions a frame: {what}", value=round(value / 1e6, 3), unit="million", n=FRAMES)
    for stage in _stage_times.STAGES:
        for kind, lines in zip(("code", "data"), touched[stage], strict=True):
            kilobytes = lines * LINE_BYTES / 1000
            results.row(what=f"touched a frame: {STAGES[stage]}: {kind}", value=round(kilobytes, 1), unit="kB", n=1)


def count(model: str, clip: Path, folder: Path, frames: int, options: Sequence[str] = ()) -> dict[str, dict[str, int]]:
    """What callgrind counts of ``frames``, stage of ``_frame_work.py`` -> event -> number, caches empty when it begins.
    ``options``: of callgrind. Raises `NotHereError` without valgrind or a C compiler."""
    valgrind, compiler = shutil.which("valgrind"), shutil.which("cc")
    if valgrind is None or compiler is None:
        raise NotHereError(f"{'valgrind' if valgrind is None else 'cc'} is not installed")
    folder = folder / f"callgrind-{frames}"
    folder.mkdir()
    bench, marks, out = ROOT / "bench", folder / "marks.so", folder / "callgrind.out"
    made = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(marks), str(bench / "marks.c")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise NotHereError(f"valgrind's headers are not installed: {made.stderr.strip().splitlines()[0]}")
    callgrind = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", *options]
    with loopback_broker() as (_, port):
        program = [
            sys.executable, str(bench / "_frame_work.py"), str(marks), model, str(clip), str(port), str(frames),
            str(folder / "instructions"),
        ]  # fmt: skip
        for command in (program, [*callgrind, *program]):  # the first proves the bundle, which valgrind makes slow
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=300,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )  # fmt: skip
            if done.returncode:
                raise NotHereError(f"{Path(command[0]).name}: {done.stderr.strip().splitlines()[-1]}")
    found = {}
    for file in folder.glob("callgrind.out.*"):
        text = file.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (\w+)", text, re.MULTILINE)
        events = re.search(r"^events: (.+)", text, re.MULTILINE)
        totals = re.search(r"^totals: (.+)", text, re.MULTILINE)
        if name and events and totals:
            found[name[1]] = dict(zip(events[1].split(), map(int, totals[1].split()), strict=True))
    if set(found) != set(STAGES):
        raise NotHereError(f"callgrind counted {', '.join(sorted(found)) or 'nothing'}, expected {', '.join(STAGES)}")
    return found
