"""``vedette bench MODEL --tune``: threads and interpreters, measured and kept."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vedette.models.model import ModelSpec
    from vedette.models.tune import Tuning, Tunings


def tune(arguments: argparse.Namespace, spec: ModelSpec) -> int:
    """Measures, prints and keeps. The exit code."""
    from rich.progress import BarColumn, Progress, TextColumn

    from vedette.config import default_state_dir
    from vedette.engine import load_runtime, probe
    from vedette.models.tune import Tunings, circumstances, conclude, cores, measure, settings
    from vedette.terminal import Console

    tunings = Tunings(Path(arguments.state_dir or default_state_dir()))
    with _keeping(tunings):
        tunings.prepare()  # whoever waits for a measurement is not told afterwards that it is lost
    runtime = load_runtime(arguments.runtime)
    if spec.bundle is None:
        probe(spec.path, runtime.name)  # nobody vouches for the file: a child has to survive it first
    tried = settings(cores())
    console = Console(stderr=True)
    columns = (TextColumn(f"{len(tried)} settings in turns"), BarColumn())
    begun = time.perf_counter()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        rows = measure(
            spec.path, runtime, tried, arguments.seconds, lambda share: progress.update(task, completed=share)
        )
    tuning = conclude(circumstances(spec, runtime), rows, time.perf_counter() - begun)
    _print(arguments, spec, tuning, tunings)
    with _keeping(tunings):
        tunings.keep(tuning)
    return 0


@contextmanager
def _keeping(tunings: Tunings) -> Iterator[None]:
    """An `OSError` within is a `StateError`, which says what to do."""
    from vedette.contract.errors import StateError

    try:
        yield
    except OSError as error:
        raise StateError(
            "the result cannot be kept", where=tunings.path, found=error.strerror or str(error),
            fix="sudo -u vedette, or --state-dir with a folder of yours",
        ) from None  # fmt: skip


def _print(arguments: argparse.Namespace, spec: ModelSpec, tuning: Tuning, tunings: Tunings) -> None:
    import msgspec
    from rich.table import Table

    from vedette.models.tune import TIE
    from vedette.terminal import Console

    best = {"latency": tuning.latency, "throughput": tuning.throughput}
    if arguments.json:
        document = {
            "model": {"name": spec.name, "version": spec.version, "sha256": spec.sha256},
            "runtime": tuning.circumstances.runtime,
            "cores": tuning.circumstances.cores,
            "rows": [
                {
                    **msgspec.to_builtins(row.setting),
                    "latency_ms": row.latency_ms,
                    "rate": row.rate,
                    "rounds": row.rounds,
                }
                for row in tuning.rows
            ],
            **{purpose: msgspec.to_builtins(setting) for purpose, setting in best.items()},
            "seconds": tuning.seconds,
            "kept": str(tunings.path),
        }
        print(json.dumps(document))
        return
    where = tuning.circumstances
    table = Table(title=f"{spec.name} {spec.version}: {where.runtime}")
    for column in ("threads", "interpreters", "ms, median", "a second"):
        table.add_column(column, justify="right")
    table.add_column("best for")
    for row in tuning.rows:
        purposes = [purpose for purpose, setting in best.items() if setting == row.setting]
        style = "bold green" if purposes else ""
        numbers = (f"{row.setting.threads}", f"{row.setting.interpreters}", f"{row.latency_ms:.3f}", f"{row.rate:.1f}")
        table.add_row(*numbers, ", ".join(purposes), style=style)
    Console().print(table)
    print(
        f"{tuning.rows[0].rounds} rounds on {where.cores} cores. Within {TIE:.0%} of the best, fewer threads win.\n"
        f'engine.threads = "auto" takes latency with one pipeline, throughput with several. Kept in {tunings.path}.'
    )
