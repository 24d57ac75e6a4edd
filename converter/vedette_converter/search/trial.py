"""One trial: a recipe built as ``vedette-convert build`` builds it, judged and timed against the float original.

Runs in a process of its own (`vedette_converter.search.builder`): a converter that crashes takes one trial with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.errors import FaultError, UserError, VedetteError
from vedette.contract.labels import parse_labels
from vedette.contract.manifest import ImageInput
from vedette.engine import TfliteEngine, load_runtime

from .. import coco
from ..build import Inputs, build
from ..evaluate import Accuracy, Pair, measure_accuracy
from ..latency import Timing, time_all
from ..load import load_network
from ..measured import Measured
from ..pictures import list_pictures, read_picture
from ..progress import Progress
from ..recipe import Recipe, RecipeFile
from ..recipe.training import ZooSource
from ..source import read_source
from ..subject import Classifier, Subject
from ..train import data as training_data

RESAMPLES: Final = 100  # of the bootstrap: nobody reads a trial's interval, and a detector's takes minutes
ORIGINAL: Final = "original"  # the float network that all are compared with


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for every trial of a search."""

    file: RecipeFile
    """The recipe that was given."""
    data: Path
    source: Path | None
    learn: Path | None
    """What is trained on; none of what is judged by is in it."""
    judge: tuple[Path, ...]
    """What is chosen by, as `Inputs` has ``annotated``; nothing where agreement over ``data`` takes its place."""
    work: Path
    """For finished steps, shared by all trials."""
    trials: Path
    """For bundles, one a network."""
    rounds: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a build of one recipe came to. Plain values: it goes through pipes and databases."""

    metric: str
    """``top-1``, ``mAP`` or ``agreement``."""
    accuracy: float
    """The network's own, 0..1."""
    agreement: float
    """Share of the confident results of the float network at this input size that it gives again."""
    own_drop: float
    """Accuracy of the float network at this input size less the network's; 0 where there are no labels."""
    own_ratio: float
    """Median latency by that of the float network at this input size."""
    ratio: float
    """Median latency by that of the float original, by turns."""
    p50_ms: float
    bytes: int
    sha256: str
    """Of the flatbuffer."""
    seconds: float
    host: str


@dataclass(frozen=True, slots=True)
class Remeasured:
    """A network of the front, measured again beside all others of it."""

    timing: Timing
    test: Accuracy | None
    """Against the float original, on the pictures of ``--evaluate``."""


def run_trial(setting: Setting, recipe: Recipe, stem: str, progress: Progress) -> Outcome:
    """Builds ``recipe`` into ``STEM.tflite`` of the setting's folder. ``stem``: `ORIGINAL` for what others are compared
    with, which must be there before any other.

    Raises what `build` raises.
    """
    start = time.monotonic()
    told: list[Measured] = []
    part = setting.trials / f".{stem}.{os.getpid()}.tflite"
    inputs = Inputs(
        setting.data, source=setting.source, annotated=setting.judge, training=setting.learn, out=part,
        work=setting.work,
    )  # fmt: skip
    quick = msgspec.structs.replace(recipe.evaluate, resamples=RESAMPLES)
    recipe = msgspec.structs.replace(recipe, evaluate=quick)
    file = RecipeFile(setting.file.path, hashlib.sha256(msgspec.json.encode(recipe)).hexdigest(), recipe)
    try:
        with _alone(setting, recipe):
            _, bundle = build(file, inputs, progress=progress, on_measured=told.append)
        measured = told[0]
        out = setting.trials / f"{stem}.tflite"
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    accuracy = measured.accuracy
    timings = _timings(setting, [setting.trials / f"{ORIGINAL}.tflite", out], setting.rounds)
    return Outcome(
        metric=accuracy.metric if accuracy is not None else "agreement",
        accuracy=accuracy.after if accuracy is not None else measured.agreement.share,
        agreement=measured.agreement.share,
        own_drop=accuracy.drop if accuracy is not None else 0.0,
        own_ratio=measured.latency.ratio,
        ratio=1.0 if stem == ORIGINAL else timings[1].p50_ms / timings[0].p50_ms,
        p50_ms=timings[1].p50_ms,
        bytes=bundle.manifest.flatbuffer_bytes,
        sha256=bundle.manifest.flatbuffer_sha256,
        seconds=round(time.monotonic() - start, 1),
        host=socket.gethostname(),
    )


def check_sizes(setting: Setting, sizes: tuple[tuple[int, int], ...], progress: Progress) -> None:
    """Raises `UserError` where the source cannot be built at one of (height, width)."""
    source = setting.file.recipe.source
    if isinstance(source, ZooSource):
        return
    files = read_source(source, setting.source, setting.file.resolve)
    advance = progress.begin("input sizes", len(sizes))
    for height, width in sizes:
        try:
            load_network(source, files, (1, height, width, setting.file.recipe.image.channels))
        except VedetteError as error:
            raise UserError(
                f"[search] sizes: the network cannot be built at {height}x{width}", where=error.where,
                expected=error.expected, found=error.found, fix="leave that size out",
            ) from None  # fmt: skip
        advance()


def measure_front(
    setting: Setting, stems: list[str], evaluate: tuple[Path, ...], progress: Progress
) -> list[Remeasured]:
    """The original and every network named, timed by turns in one run, and judged on the test pictures if there are any."""
    paths = [setting.trials / f"{stem}.tflite" for stem in (ORIGINAL, *stems)]
    advance = progress.begin("latency of the front", 1)
    timings = _timings(setting, paths, setting.rounds)
    advance()
    tests: list[Accuracy | None] = [None] * len(paths)
    if evaluate:
        tests = [_test(paths[0], path, setting, evaluate, progress) for path in paths]
    return [Remeasured(timing, test) for timing, test in zip(timings, tests, strict=True)]


def build_again(
    setting: Setting, file: RecipeFile, evaluate: tuple[Path, ...], out: Path, progress: Progress
) -> tuple[str, list[str]]:
    """The chosen network from its own recipe, gate and all. Returns the sha256 of its flatbuffer, and its findings.

    Raises `GateError` where the gate does not hold.
    """
    inputs = Inputs(
        setting.data, source=setting.source, annotated=evaluate or setting.judge, training=setting.learn, out=out,
        work=setting.work,
    )  # fmt: skip
    measured, bundle = build(file, inputs, progress=progress)
    return bundle.manifest.flatbuffer_sha256, list(measured.findings)


def _timings(setting: Setting, paths: list[Path], rounds: int) -> list[Timing]:
    """By turns, on a golden picture."""
    recipe = setting.file.recipe
    pixels = read_picture(list_pictures(setting.file.resolve(recipe.golden.pictures))[0])
    runtime = load_runtime()
    engines, samples = [], []
    try:
        for path in paths:
            bundle = open_bundle(path)
            engine = TfliteEngine(path, runtime)
            engines.append(engine)
            manifest = bundle.manifest
            subject = Subject(engine, _image(bundle), manifest.output, bundle.labels, score_threshold=0.5)
            samples.append(subject.preprocess(pixels)[None])
        return time_all(engines, samples, rounds)
    finally:
        for engine in engines:
            engine.close()


@dataclass(frozen=True, slots=True)
class _TwoSizes(Pair):
    """Two classifiers whose inputs differ in size."""

    later: ImageInput

    def classifiers(self) -> tuple[Classifier, Classifier]:
        """See `Pair`."""
        first = Classifier(self.before, self.input, self.output, self.labels, score_threshold=0.0)
        return first, Classifier(self.after, self.later, self.output, self.labels, score_threshold=0.0)


def _test(original: Path, path: Path, setting: Setting, evaluate: tuple[Path, ...], progress: Progress) -> Accuracy:
    recipe = setting.file.recipe
    runtime = load_runtime()
    bundles = [open_bundle(original), open_bundle(path)]
    engines = [TfliteEngine(bundle.path, runtime) for bundle in bundles]
    labels = bundles[0].labels
    try:
        pair = _TwoSizes(engines[0], engines[1], recipe.image, recipe.pictured, labels, _image(bundles[1]))
        if pair.classifies:
            return measure_accuracy(pair, training_data.list_labelled(evaluate[0], labels), recipe.evaluate, progress)
        return measure_accuracy(pair, coco.read_annotated(evaluate, labels), recipe.evaluate, progress)
    finally:
        for engine in engines:
            engine.close()


def _image(bundle: Bundle) -> ImageInput:
    found = bundle.manifest.input
    if not isinstance(found, ImageInput):
        raise FaultError("the search takes networks of pictures", found=type(found).__name__)
    return found


@contextlib.contextmanager
def _alone(setting: Setting, recipe: Recipe) -> Iterator[None]:
    """Waits for whoever trains the same network here, and then finds its finished steps.

    What trials share: the float network and its answers, by input size; a pruned and distilled network, by everything
    but the precision. The kernel lets go of a lock whose holder died.
    """
    if not recipe.trains:
        yield
        return
    spec = (recipe.input, recipe.train, recipe.source)
    own = (*spec, recipe.prune, recipe.distil, recipe.sparsify)
    with contextlib.ExitStack() as stack:
        done = [_hold(stack, setting.trials, name, parts) for name, parts in (("float", spec), ("steps", own))]
        yield
        if recipe.distil is not None or setting.file.recipe.distil is None:  # else there are no answers yet
            for path in done:
                path.touch()


def _hold(stack: contextlib.ExitStack, folder: Path, name: str, parts: tuple[object, ...]) -> Path:
    digest = hashlib.sha256(b"".join(msgspec.json.encode(part, order="deterministic") for part in parts)).hexdigest()
    done = folder / f"{name}-{digest[:16]}.done"
    if not done.exists():
        lock = stack.enter_context(done.with_suffix(".lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
    return done


def labels_of(file: RecipeFile) -> tuple[str, ...]:
    """The recipe's labels. Raises `UserError`."""
    path = file.resolve(file.recipe.labels.file)
    try:
        return parse_labels(path.read_bytes(), path)
    except OSError as error:
        raise UserError("labels cannot be read", where=path, found=error.strerror or str(error)) from None
