"""The two sensor networks, built anew from their recipes by the converter itself: float, and int8 as it is shipped.

    python bench/sensor_models.py [--data build/data]

Shuttle: an autoencoder that learned normal rows alone, judged on rows that nothing but this has seen. Watch: leave one
person out, ten times over; each fold learns, normalises and calibrates without the person it is judged on. The recipes
were fixed before the folds were run. ``build/data`` is made by ``bench/sensor_data.py`` where it is not there.

Prints the table and writes ``bench/results/sensor_models.json``; exit code 1 where a row does not hold. Some four
minutes of two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import sensor_data
from _results import ROOT, Results

from vedette.contract.bundle import open_bundle
from vedette_converter.build import Inputs, build
from vedette_converter.measured import Measured
from vedette_converter.recipe import Gate, RecipeFile, read_recipe

RECIPES = ROOT / "models" / "recipes"
MOST_BYTES = 100_000
LEAST_AUC = 0.99
MOST_DROP = 0.01  # of the mean over the folds
OPEN = Gate(max_drop=1.0, min_agreement=0.0)  # what a fold finds is a row here, whatever it is


def measure(results: Results, data: Path = ROOT / "build" / "data") -> None:
    """Adds every row."""
    if not all((data / name).is_dir() for name in ("shuttle", "watch")):
        sensor_data.main([str(data)])
    with tempfile.TemporaryDirectory(prefix="sensor-models-") as folder:
        shuttle(results, data / "shuttle", Path(folder))
        watch(results, data / "watch", Path(folder))
    for name in ("shuttle-anomaly", "watch-activity"):
        manifest = open_bundle(ROOT / "models" / f"{name}.tflite").manifest
        size = manifest.flatbuffer_bytes
        results.row(
            what=f"{name}: shipped flatbuffer, {manifest.precision}", value=size, unit="bytes", n=1, spread=None,
            target=f"<= {MOST_BYTES}, int8", holds=size <= MOST_BYTES and manifest.precision == "int8",
        )  # fmt: skip


def shuttle(results: Results, data: Path, folder: Path) -> None:
    """AUC and F1, float and int8, on the last four tenths of the rows."""
    file = _open(read_recipe(RECIPES / "shuttle-anomaly.toml"))
    found = _build(file, data / "train", data / "test", data / "train", folder)
    accuracy = found.accuracy
    assert accuracy is not None  # --evaluate was given
    count = accuracy.data.count
    for name, value in (("float", accuracy.before), ("int8", accuracy.after)):
        results.row(
            what=f"shuttle: AUC, {name}", value=value, unit="", n=count, spread=None, target=f">= {LEAST_AUC}",
            holds=value >= LEAST_AUC,
        )  # fmt: skip
    results.row(
        what="shuttle: AUC, int8 less float", value=accuracy.after - accuracy.before, unit="", n=count,
        spread=list(accuracy.interval), reason="interval: 95 %, paired bootstrap over recordings",
    )  # fmt: skip
    for figure in accuracy.more:
        for name, value in (("float", figure.before), ("int8", figure.after)):
            results.row(what=f"shuttle: {figure.name}, {name}", value=value, unit=figure.unit, n=count, spread=None)
    _cost(results, "shuttle", found)


def watch(results: Results, data: Path, folder: Path) -> None:
    """Top-1 and macro F1 of every person left out, and the means."""
    file = _open(read_recipe(RECIPES / "watch-activity.toml"))
    persons = sorted({path.stem.partition("-")[0] for path in data.rglob("*.csv")})
    folds: list[Measured] = []
    for person in persons:
        began = time.monotonic()
        recipe = msgspec.structs.replace(
            file.recipe, series=msgspec.structs.replace(file.recipe.series, judged=(person,))
        )
        found = _build(dataclasses.replace(file, recipe=recipe), data, data, data, folder)
        folds.append(found)
        accuracy = found.accuracy
        assert accuracy is not None  # --evaluate was given
        print(
            f"  without {person}: float {accuracy.before:.4f}, int8 {accuracy.after:.4f} on its {accuracy.data.count} "
            f"windows, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True,
        )  # fmt: skip
        for name, value in (("float", accuracy.before), ("int8", accuracy.after)):
            results.row(
                what=f"watch: top-1 on {person}, {name}", value=value, unit="", n=accuracy.data.count, spread=None
            )
    top = [(fold.accuracy.before, fold.accuracy.after) for fold in folds if fold.accuracy is not None]
    macro = [(fold.accuracy.more[0].before, fold.accuracy.more[0].after) for fold in folds if fold.accuracy is not None]
    for what, pairs in (("top-1", top), ("macro F1", macro)):
        for name, values in zip(("float", "int8"), zip(*pairs, strict=True), strict=True):
            low, high = np.percentile(values, [25, 75])
            results.row(
                what=f"watch: {what}, mean over the persons, {name}", value=float(np.mean(values)), unit="",
                n=len(values), spread=float(high - low),
            )  # fmt: skip
    drop = float(np.mean([before - after for before, after in top]))
    results.row(
        what="watch: top-1 lost by int8, mean over the persons", value=drop, unit="", n=len(top),
        spread=[min(before - after for before, after in top), max(before - after for before, after in top)],
        target=f"<= {MOST_DROP}", holds=drop <= MOST_DROP, reason="spread: the best and the worst person",
    )  # fmt: skip
    results.row(
        what="watch: training a fold", value=float(np.median([fold.seconds["train"] for fold in folds])), unit="s",
        n=len(folds), spread=None,
    )  # fmt: skip
    _cost(results, "watch", folds[-1])


def _cost(results: Results, name: str, found: Measured) -> None:
    results.row(
        what=f"{name}: flatbuffer, int8", value=found.after.bytes, unit="bytes", n=1, spread=None,
        target=f"<= {MOST_BYTES}", holds=found.after.bytes <= MOST_BYTES,
    )  # fmt: skip
    for stage in (found.before, found.after):
        timing = stage.timing
        results.row(
            what=f"{name}: latency, {stage.name}", value=timing.p50_ms, unit="ms", n=found.latency.rounds,
            spread=timing.p75_ms - timing.p25_ms,
        )  # fmt: skip


def _open(file: RecipeFile) -> RecipeFile:
    loose = msgspec.structs.replace(file.recipe.latency, max_ratio=1000.0)
    return dataclasses.replace(file, recipe=msgspec.structs.replace(file.recipe, gate=OPEN, latency=loose))


def _build(file: RecipeFile, data: Path, judged: Path, train: Path, folder: Path) -> Measured:
    print(f"{file.recipe.name}: training ...", file=sys.stderr, flush=True)
    found, _ = build(
        file, Inputs(data, annotated=(judged,), training=train, out=folder / "bundle.tflite", work=folder / "work")
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=ROOT / "build" / "data")
    results = Results("sensor_models")
    measure(results, options.parse_args(arguments).data)
    return 0 if results.write() else 1


if __name__ == "__main__":
    sys.exit(main())
