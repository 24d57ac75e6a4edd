"""``vedette-convert build``: recipe -> load -> calibrate -> quantise -> evaluate -> gate -> bundle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.errors import UserError
from vedette.contract.golden import Verdict
from vedette.contract.labels import parse_labels
from vedette.contract.manifest import EngineClass
from vedette.contract.types import Tensor
from vedette.engine import load_runtime

from . import calibrate, coco, evaluate, gate, package, quantise
from .agreement import Agreement
from .detect import Detector
from .evaluate import Accuracy, Pair
from .gate import GateRow
from .latency import Latency, time_both
from .load import load_network
from .pictures import dataset, list_pictures, read_picture
from .progress import Progress, Silent
from .recipe import RecipeFile, read_recipe
from .source import read_source


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything a build found out, before and after quantisation."""

    name: str
    bytes_before: int
    bytes_after: int
    latency: Latency
    accuracy: Accuracy | None
    agreement: Agreement
    rows: tuple[GateRow, ...]
    verdicts: dict[EngineClass, Verdict]
    seconds: dict[str, float]
    """By step."""


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def build(
    recipe_path: Path,
    data: Path,
    *,
    source: Path | None,
    annotated: Sequence[Path],
    out: Path | None,
    progress: Progress | None = None,
    on_measured: Callable[[Measured], None] = lambda measured: None,
) -> tuple[Measured, Bundle]:
    """Makes one bundle, or none at all.

    ``data``: a folder of pictures to calibrate with, and to compare the networks on. ``annotated``: folders in COCO's
    format. ``out``: the bundle's file; NAME.tflite in the current folder without one. ``on_measured`` is told the
    figures before the gate judges them. Raises `UserError` for what the user can mend, `GateError` where a promise of
    the recipe does not hold, `FaultError` for the rest.
    """
    progress = progress or Silent()
    clock = _Clock()
    file = read_recipe(recipe_path)
    recipe = file.recipe
    out = out or Path(f"{recipe.name}.tflite")
    if not out.parent.is_dir() or out.is_dir():
        raise UserError("bundle cannot be written", where=out, expected="a file in a folder that exists")
    label_bytes, labels = _labels(file)
    calibration = calibrate.choose(data, recipe.quantise.pictures, recipe.quantise.seed)
    truth = coco.read_annotated(annotated, labels) if annotated else None
    files = read_source(recipe.source, source)
    runtime = load_runtime()
    with tempfile.TemporaryDirectory(prefix="vedette-convert-") as folder:
        with clock.step("load"):
            shape = (1, recipe.input.height, recipe.input.width, recipe.input.channels)
            network = load_network(recipe.source, files, shape)
            original = quantise.to_float32(network)
            before_path = Path(folder) / "float32.tflite"
            before_path.write_bytes(original)
            before = quantise.load_proven(before_path, runtime)
            quantise.expect_same(before, network, next(calibration.samples(recipe.input)))
        with clock.step("quantise"):
            step = progress.begin("calibration", len(calibration.pictures))
            flatbuffer = quantise.to_int8(
                network, calibration.samples(recipe.input, step),
                input_dtype=recipe.quantise.input, output_dtype=recipe.quantise.output,
            )  # fmt: skip
            after_path = Path(folder) / f"{recipe.quantise.precision}.tflite"
            after_path.write_bytes(flatbuffer)
            after = quantise.load_proven(after_path, runtime)
        pair = Pair(before, after, recipe.input, recipe.output, labels)
        detectors = pair.detectors(recipe.golden.score_threshold)
        with clock.step("golden vectors"):
            golden = package.make_golden(*detectors, file.resolve(recipe.golden.pictures), recipe.golden.raw)
        with clock.step("latency"):
            latency = time_both(before, after, _samples(*detectors, file), recipe.latency.rounds)
        with clock.step("evaluate"):
            everything = list_pictures(data)
            agreement = evaluate.measure_agreement(pair, everything, recipe.evaluate, progress)
            accuracy = evaluate.measure_accuracy(pair, truth, recipe.evaluate, progress) if truth else None
            evaluation = evaluate.as_manifest(
                accuracy, agreement, dataset(data.name or "pictures", everything), recipe.evaluate
            )
        content = package.Content(flatbuffer, label_bytes, golden, evaluation, calibration.data, files.sha256)
        with clock.step("self-test on all kernels"):
            members = {
                "labels.txt": label_bytes,
                "golden.npz": package.encode_golden(golden),
                "measurements.json": package.measurements(latency, len(flatbuffer), len(original)),
            }
            manifest = package.make_manifest(file, content, members)
            manifest, verdicts = package.with_tolerances(manifest, after_path, golden, len(labels), runtime, file)
    rows = gate.judge(recipe.gate, recipe.latency.max_ratio, accuracy, agreement, latency)
    measured = Measured(
        recipe.name, len(original), len(flatbuffer), latency, accuracy, agreement, tuple(rows), verdicts, clock.seconds
    )  # fmt: skip
    on_measured(measured)
    gate.enforce(rows)
    package.write(out, content, manifest, members)
    return measured, open_bundle(out)


def _labels(file: RecipeFile) -> tuple[bytes, tuple[str, ...]]:
    path = file.resolve(file.recipe.labels.file)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            "labels cannot be read", where=path, found=error.strerror or str(error), fix=f"{file.path}: labels.file"
        ) from None
    return raw, parse_labels(raw, path)


def _samples(before: Detector, after: Detector, file: RecipeFile) -> tuple[Tensor, Tensor]:
    pixels = read_picture(list_pictures(file.resolve(file.recipe.golden.pictures))[0])
    return before.preprocess(pixels)[None], after.preprocess(pixels)[None]
