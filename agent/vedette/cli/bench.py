"""``vedette bench MODEL``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plain import add_plain_arguments, plain_model

if TYPE_CHECKING:
    # --help must not import numpy and OpenCV
    from vedette.contract.types import Float32Array, UInt8Array
    from vedette.models.model import ModelSpec
    from vedette.power import Stretch

HELP = "measure a model's latency on this machine"
DESCRIPTION = (
    "Measures preprocess, infer and decode on one picture or window, again and again, the process's memory, and where the "
    "machine has a meter the energy. "
    "It is the bundle's own golden one, or noise for a plain model."
)
EXAMPLES = """examples:
  vedette bench coco-ssdlite-mobilenet-v2
  vedette bench coco-ssdlite-mobilenet-v2 --threads 4 --seconds 10
  vedette bench coco-ssdlite-mobilenet-v2 --json
  vedette bench coco-ssdlite-mobilenet-v2 --plot latency.png
  vedette bench coco-ssdlite-mobilenet-v2 --tune

--tune measures threads and interpreters in turns, says which are best for latency and for throughput, and keeps it for
engine.threads = "auto" in the agent's state folder: sudo -u vedette, or --state-dir, where that is another's.
--json prints one object: model, engine {runtime, delegate, threads}, runs, latency_ms by stage {mean, p50, p90, p99,
max}, fps (of all stages in turn), load_s, pss_bytes, energy by meter [{meter, joules_a_run, joules_above_idle_a_run,
watts, idle_watts}], empty where this machine has no meter that may be read (vedette doctor says which it has). With
--tune: model, runtime, cores, rows {threads, interpreters, latency_ms, rate, rounds}, latency and throughput {threads,
interpreters}, seconds, kept.
"""
SIZE = (768, 576)
SECONDS = 5.0
TUNE_SECONDS = 15.0
IDLE_SECONDS = 2.0  # what the machine takes without the model, where it has a meter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("model", metavar="MODEL", help="a name or a file")
    parser.add_argument("--threads", type=int, metavar="N", help="inference threads (default 1)")
    parser.add_argument(
        "--seconds", type=float, metavar="S",
        help=f"how long to measure (default {SECONDS:g}; with --tune {TUNE_SECONDS:g})",
    )  # fmt: skip
    parser.add_argument("--runtime", choices=("auto", "litert", "tflite-runtime"), default="auto")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the times of all stages together as a picture")
    parser.add_argument("--tune", action="store_true", help="find out how many threads are best, and keep it")
    parser.add_argument("--state-dir", metavar="FOLDER", help="where --tune keeps it (default: the agent's own)")
    add_plain_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    import os
    import shutil
    import sys
    import time

    import cv2
    import numpy as np
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Table

    from vedette.contract.errors import UserError
    from vedette.flow.stats import percentile
    from vedette.models.model import load_model, read_model
    from vedette.pictures.drawing import check_place, write_picture
    from vedette.power import Stretch, find_meters
    from vedette.service.health import pss_bytes
    from vedette.terminal import Console

    if arguments.seconds is None:
        arguments.seconds = TUNE_SECONDS if arguments.tune else SECONDS
    if not 0.1 <= arguments.seconds <= 3600:
        raise UserError("--seconds", expected="0.1 to 3600", found=str(arguments.seconds))
    if arguments.tune and (arguments.threads is not None or arguments.plot is not None):
        raise UserError("--tune", expected="neither --threads nor --plot beside it", found="one")
    if arguments.state_dir is not None and not arguments.tune:
        raise UserError("--state-dir", expected="--tune beside it", found="none")
    if arguments.plot is not None:
        check_place(arguments.plot)
    cv2.setNumThreads(1)
    spec = read_model(arguments.model, plain_model(arguments))
    if arguments.tune:
        from .tuning import tune

        return tune(arguments, spec)
    begun = time.perf_counter()
    model = load_model(
        spec, runtime=arguments.runtime, threads=arguments.threads if arguments.threads is not None else 1
    )
    load_s = time.perf_counter() - begun
    sample, what = _sample(spec)
    for _ in range(5):
        model(sample)
    meters, refused = find_meters(vcgencmd=shutil.which("vcgencmd"))
    with Stretch(meters) as idle:
        time.sleep(IDLE_SECONDS if meters else 0)
    stages: dict[str, list[float]] = {"preprocess": [], "infer": [], "decode": []}
    console = Console(stderr=True)
    columns = (TextColumn("measuring"), BarColumn(), TextColumn("{task.fields[ms]:.2f} ms"))
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress, Stretch(meters) as busy:
        task = progress.add_task("", total=arguments.seconds, ms=0.0)
        shown = begun = time.perf_counter()
        end = begun + arguments.seconds
        while (now := time.perf_counter()) < end:
            placement = model.preprocess(sample)
            a = time.perf_counter()
            model.infer()
            b = time.perf_counter()
            model.decode(placement)
            c = time.perf_counter()
            for stage, span in zip(stages, (a - now, b - a, c - b), strict=True):
                stages[stage].append(span * 1e3)
            if c - shown > 0.2:
                progress.update(task, completed=c - begun, ms=stages["infer"][-1])
                shown = c
    total = [sum(parts) for parts in zip(*stages.values(), strict=True)]
    figures = {
        stage: {
            "mean": float(np.mean(values)),
            **{f"p{q}": percentile(values, q / 100) for q in (50, 90, 99)},
            "max": max(values),
        }
        for stage, values in {**stages, "total": total}.items()
    }
    description = model.engine.description
    energy = _energy(idle, busy, len(total))
    memory = pss_bytes(os.getpid())
    document = {
        "model": {"name": spec.name, "version": spec.version, "sha256": spec.sha256},
        "engine": {"runtime": description.runtime, "delegate": description.delegate, "threads": description.threads},
        "runs": len(total),
        "latency_ms": {stage: {k: round(v, 4) for k, v in row.items()} for stage, row in figures.items()},
        "fps": round(1000 / float(np.mean(total)), 2),
        "load_s": round(load_s, 3),
        "pss_bytes": memory,
        "energy": energy,
    }
    if arguments.plot is not None:
        from vedette.pictures.latency_plot import plot_latency

        subtitle = f"{description.runtime}, {description.delegate}, threads {description.threads}; {len(total)} runs"
        title = f"{spec.name} {spec.version}: preprocess, infer, decode"
        write_picture(arguments.plot, plot_latency(total, title, subtitle))
    if arguments.json:
        print(json.dumps(document))
        return 0
    table = Table(
        title=f"{spec.name} {spec.version}: {description.runtime}, {description.delegate}, threads {description.threads}"
    )
    table.add_column("ms")
    for column in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="right")
    for stage, row in figures.items():
        table.add_row(stage, *(f"{value:.3f}" for value in row.values()))
    Console().print(table)
    size = f"{SIZE[0]}x{SIZE[1]}" if what == "pictures" else "x".join(map(str, sample.shape))
    print(
        f"{document['fps']} {what} a second one after another ({len(total)} runs of {size}), "
        f"loaded in {load_s:.2f} s, {memory / 1e6:.0f} MB"
    )
    for row in energy:
        scale, unit = (1e3, "mJ") if row["joules_a_run"] >= 1e-4 else (1e6, "µJ")
        print(
            f"energy: {row['joules_a_run'] * scale:.2f} {unit} a {what[:-1]}, of which "
            f"{row['joules_above_idle_a_run'] * scale:z.2f} above idle "
            f"({row['watts']:.2f} W, idle {row['idle_watts']:.2f} W; {row['meter']})"
        )
    if refused:
        print(f"energy: {', '.join(refused)} may be read by root alone: sudo", file=sys.stderr)
    return 0


def _energy(idle: Stretch, busy: Stretch, runs: int) -> list[dict[str, Any]]:
    """A row a meter that has answered in both stretches."""
    idle_watts = {taken.meter: taken.watts for taken in idle.taken()}
    return [
        {
            "meter": taken.meter,
            "joules_a_run": taken.joules / runs,
            "joules_above_idle_a_run": (taken.joules - idle_watts[taken.meter] * taken.seconds) / runs,
            "watts": taken.watts,
            "idle_watts": idle_watts[taken.meter],
        }
        for taken in busy.taken()
        if taken.meter in idle_watts
    ]


def _sample(spec: ModelSpec) -> tuple[UInt8Array | Float32Array, str]:
    """A picture of `SIZE`, or a window, and what it is called."""
    import cv2
    import numpy as np

    from vedette.contract import golden
    from vedette.contract.manifest import SeriesInput
    from vedette.contract.types import Readings
    from vedette.contract.window import WindowBuilder

    vectors = golden.decode(spec.bundle.read("golden.npz"), spec.path) if spec.bundle is not None else None
    rng = np.random.default_rng(0)
    if isinstance(spec.input, SeriesInput):
        shape = (spec.input.length, len(spec.input.channels))
        windows = []
        if vectors is not None and vectors.recording is not None and vectors.recording_times_ns is not None:
            readings = Readings(vectors.recording, vectors.recording_times_ns, 0, timed=True)
            windows = WindowBuilder(spec.input).push(readings)
        noise = rng.normal(spec.input.mean, spec.input.std, shape).astype(np.float32)
        return windows[0].values if windows else noise, "windows"
    if vectors is not None and vectors.picture is not None:
        return np.asarray(cv2.resize(vectors.picture, SIZE), np.uint8), "pictures"
    return rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8), "pictures"
