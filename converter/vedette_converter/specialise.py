"""A fixed camera's own small detector, learned from its own frames without any label.

The published float network is the teacher: what it answers on the camera's first frames is what a smaller network
learns, one that knows the kept classes alone, takes the camera's own proportions and lost its least worthy channels, a
cut at a time with lessons between. What it reached is measured on the last frames, which nothing was learned from, by
the engine and the decoder of the agent. Below the gate there is no bundle.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import msgspec
import numpy as np

from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.errors import UserError
from vedette.contract.golden import Golden
from vedette.contract.image import ImagePreprocessor
from vedette.contract.labels import is_used
from vedette.contract.manifest import EngineClass, Evaluation, ImageInput, Manifest, Metric, SsdOutput
from vedette.contract.types import Float32Array, TensorSpec, UInt8Array
from vedette.contract.verdict import CONFIDENT, Verdict
from vedette.engine import Runtime, TfliteEngine, load_runtime

from . import package, prune, quantise, reference
from .distil.grid import Regrid
from .distil.lesson import Course, Lesson, learn, views
from .distil.ssd import SeenObjects, SsdDistillation
from .footage import Footage, read_footage, split
from .gate import GateRow, enforce
from .latency import Latency, time_both
from .load import load_network, tfjs
from .package import LEAST_INPUTS
from .progress import Progress, Silent
from .prune.worth import plan_for_work, work
from .recipe import Evaluate, GoldenVectors, Labels, Recipe, RecipeFile, read_recipe
from .recipe import Latency as LatencyOptions
from .recipe.sources import TfjsSource
from .reference import Against
from .source import SourceFiles, read_source
from .subject import Detector
from .tensorflow import load_tensorflow
from .train.work import Step, Work, default_folder
from .zoo import ssdlite
from .zoo.network import as_network

VIEWS: Final = 4  # of each frame: itself, mirrored, two more
CUTS: Final = 2
FIRST_SHARE: Final = 0.3  # of all lessons, before the last cut; the network that stays learns the longest
FLOOR: Final = 0.2  # share of its channels that each layer keeps at least
MARGIN: Final = 1.06  # by which the network is made faster than asked, for a clock wavers
STEPS: Final = 3000
BATCH: Final = 16
LEARNING_RATE: Final = 1e-3
TAYLOR_FRAMES: Final = 24
CALIBRATION: Final = 160  # frames
JUDGING_S: Final = 120.0  # kept for quantising and judging, of the whole time
LEAST_LESSON_S: Final = 60.0
ROUNDS: Final = 100  # of the latency that is reported
LOOKS: Final = 5  # at the latency
MOST_SIDE: Final = 1280  # pixels of the input; larger ones train for days
CELL: Final = 16  # pixels of the finest feature map's cells: inputs are a multiple
RAW: Final = 4  # golden inputs whose raw outputs are kept
GOLDEN_SCORE: Final = 0.3
GOLDEN_VIEWS: Final = 6  # of each frame, at most


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. Everything that the result depends on, but the files' contents."""

    bundle: Path
    """The shipped detector's: its recipe names the weights, its labels the classes."""
    source: Path | None
    """The recipe's package."""
    frames: Path
    """A clip, or a folder of pictures in the order of their names."""
    keep: tuple[str, ...]
    """Labels."""
    out: Path
    recipe: Path | None = None
    """The bundle's; looked for beside it without one."""
    name: str | None = None
    """Of the new bundle; from ``out`` without one."""
    held_back: float = 0.4
    """Share of the frames, the last ones, that judge."""
    speedup: float = 4.0
    """Of one inference, against the float network."""
    min_ap: float = 0.85
    minutes: float = 25.0
    """For everything, about."""
    seed: int = 1
    size: tuple[int, int] | None = None
    """(height, width) of the input, pixels; fitted to the camera's proportions without one."""
    most: int = 1200
    """Frames that are looked at, at most: every k-th."""
    work: Path | None = None
    """Where it is kept what was done."""


@dataclass(frozen=True, slots=True)
class Specialised:
    """Everything that was found out."""

    name: str
    labels: tuple[str, ...]
    learned: int
    """Frames."""
    size: tuple[int, int]
    int8: Against
    float32: Against
    """The small network before it was quantised."""
    latency: Latency
    """The float teacher's and the int8 network's."""
    bytes_before: int
    bytes_after: int
    cost_before: prune.Cost
    cost_after: prune.Cost
    rows: tuple[GateRow, ...]
    verdicts: dict[EngineClass, Verdict]
    """By kernels; empty where the gate does not hold."""
    seconds: float


def specialise(
    wanted: Wanted,
    *,
    progress: Progress | None = None,
    on_measured: Callable[[Specialised], None] = lambda found: None,
) -> tuple[Specialised, Bundle]:
    """Makes one bundle, or none at all; goes on where an earlier run with the same arguments was stopped.

    ``on_measured`` is told the figures before the gate judges them. Raises `UserError` for what the user can mend,
    `GateError` where accuracy or speed are not reached, `FaultError` for the rest.
    """
    progress = progress or Silent()
    began = time.monotonic()
    _check(wanted)
    teacher = _Teacher.read(wanted)
    frames = read_footage(wanted.frames, wanted.most)
    learned, held = split(frames, wanted.held_back)
    size = wanted.size or fitted(next(iter(learned)).shape[:2], teacher.input)
    name = wanted.name or _name(wanted.out)
    load_tensorflow(fast=True)
    with tempfile.TemporaryDirectory(prefix="vedette-specialise-") as folder:
        room = _Room(wanted, teacher, size, Path(folder), load_runtime(), progress)
        room.expect_objects(held)
        lesson = room.prepare(learned)
        student = room.shrink(lesson, frames.sha256, until=began + 60 * wanted.minutes - JUDGING_S)
        return room.finish(student, lesson, learned, held, name, began, on_measured)


def fitted(frame: tuple[int, ...], spec: ImageInput) -> tuple[int, int]:
    """(height, width) in the camera's proportions, its longer side the network's, each a multiple of `CELL`, rounded.

    ``frame``: (height, width) in pixels. The published network stretches every picture to a square; on a wide one that is
    work without information.
    """
    height, width = frame
    long = max(spec.height, spec.width)
    scale = long / max(height, width)
    return tuple(  # type: ignore[return-value]
        long if side == max(height, width) else max(ssdlite.LEAST_SIDE, round(side * scale / CELL) * CELL)
        for side in (height, width)
    )


def _check(wanted: Wanted) -> None:
    for name, value, low, high in (
        ("--held-back", wanted.held_back, 0.05, 0.95), ("--speedup", wanted.speedup, 1.0, 50.0),
        ("--min-ap", wanted.min_ap, 0.0, 1.0), ("--minutes", wanted.minutes, 1.0, 10_000.0),
    ):  # fmt: skip
        if not low <= value <= high:
            raise UserError(name, expected=f"{low:g} to {high:g}", found=f"{value:g}")
    for side in wanted.size or ():
        if not ssdlite.LEAST_SIDE <= side <= MOST_SIDE:
            raise UserError("--size", expected=f"sides of {ssdlite.LEAST_SIDE} to {MOST_SIDE} pixels", found=side)
    if wanted.most < 2 * LEAST_INPUTS:
        raise UserError("--most", expected=f"at least {2 * LEAST_INPUTS}", found=wanted.most)
    if not wanted.out.parent.is_dir() or wanted.out.is_dir():
        raise UserError("bundle cannot be written", where=wanted.out, expected="a file in a folder that exists")
    if wanted.name is None:
        _name(wanted.out)


def _name(out: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", out.stem.lower()).strip("._-")[:64]
    if not name:
        raise UserError("the bundle's name", where=out, expected="letters and digits", fix="--name NAME")
    return name


@dataclass(frozen=True, slots=True)
class _Teacher:
    """The published float network, and what stands around it."""

    recipe: RecipeFile
    output: SsdOutput
    files: SourceFiles
    labels: tuple[str, ...]
    class_ids: tuple[int, ...]
    """Of the kept classes."""

    @classmethod
    def read(cls, wanted: Wanted) -> _Teacher:
        bundle = open_bundle(wanted.bundle)
        output = bundle.manifest.output
        if not isinstance(output, SsdOutput):
            raise UserError(
                "no detector that can be specialised", where=wanted.bundle, expected="an SSD with anchors",
                found=bundle.manifest.output.__struct_config__.tag,
            )  # fmt: skip
        path = wanted.recipe or _recipe_beside(bundle)
        recipe = read_recipe(path)
        source = recipe.recipe.source
        if recipe.sha256 != bundle.manifest.recipe_sha256:
            raise UserError(
                "not the recipe that the bundle was made by", where=path, expected=f"sha256 {bundle.manifest.recipe_sha256}",
                found=recipe.sha256, fix="--recipe FILE",
            )  # fmt: skip
        if not isinstance(source, TfjsSource):
            raise UserError("no weights to start from", where=path, expected='source.format = "tfjs"')
        class_ids = _class_ids(wanted.keep, bundle)
        files = read_source(source, wanted.source, recipe.resolve)
        return cls(recipe, output, files, bundle.labels, class_ids)

    @property
    def input(self) -> ImageInput:
        """As published."""
        return self.recipe.recipe.image

    @property
    def source(self) -> TfjsSource:
        """Where the weights come from."""
        source = self.recipe.recipe.source
        assert isinstance(source, TfjsSource)  # `read` looked
        return source

    def flatbuffer(self) -> bytes:
        """The published graph itself, float32."""
        shape = (1, self.input.height, self.input.width, self.input.channels)
        return quantise.to_float32(load_network(self.source, self.files, shape))

    def model(self) -> Any:
        """The same as a Keras network."""
        where = self.source.model
        weights = tfjs.read_weights(json.loads(self.files.contents[where]), self.files.contents, where)
        model = ssdlite.build(self.input.height, self.input.width, classes=len(self.labels) + 1)
        ssdlite.load_published(model, weights, where)
        return model


def _recipe_beside(bundle: Bundle) -> Path:
    path = bundle.path.parent / "recipes" / bundle.manifest.recipe
    if not path.is_file():
        raise UserError("the bundle's recipe is not there", where=path, fix="--recipe FILE")
    return path


def _class_ids(keep: Sequence[str], bundle: Bundle) -> tuple[int, ...]:
    known = [label for label in bundle.labels if is_used(label)]
    for label in keep:
        if label not in known:
            near = difflib.get_close_matches(label, known, 1, cutoff=0.5)
            raise UserError(
                "--keep", where=bundle.path, expected="one of its labels", found=label,
                fix=f"did you mean {near[0]}?" if near else "known: " + ", ".join(known),
            )  # fmt: skip
    if not keep or len(set(keep)) != len(keep):
        raise UserError("--keep", expected="at least one label, each once", found=", ".join(keep) or "none")
    return tuple(bundle.labels.index(label) for label in keep)


@dataclass(frozen=True, slots=True)
class _Room:
    """One run: what is asked for, and where it is done."""

    wanted: Wanted
    teacher: _Teacher
    size: tuple[int, int]
    folder: Path
    runtime: Runtime
    progress: Progress

    @property
    def input(self) -> ImageInput:
        """Of the small network."""
        return msgspec.structs.replace(self.teacher.input, height=self.size[0], width=self.size[1])

    @property
    def output(self) -> SsdOutput:
        """Of the small network."""
        anchors = msgspec.structs.replace(self.teacher.output.anchors, feature_maps=ssdlite.feature_maps(*self.size))
        return msgspec.structs.replace(self.teacher.output, anchors=anchors)

    def engine(self, flatbuffer: bytes, name: str, threads: int = 1) -> TfliteEngine:
        """A flatbuffer in an engine, proved."""
        path = self.folder / f"{name}.tflite"
        path.write_bytes(flatbuffer)
        return quantise.load_proven(path, self.runtime, threads=threads)

    def prepare(self, learned: Footage) -> Lesson:
        """The frames' views as the small network takes them, and the teacher's answers to each."""
        engine = self.engine(self.teacher.flatbuffer(), "teacher", threads=_cores())
        inputs, outputs = engine.allocate()
        ask = ImagePreprocessor(self.teacher.input, engine.inputs[0])
        plain = msgspec.structs.replace(self.input, mean=(0.0,), std=(1.0,))
        height, width = self.size
        shrink = ImagePreprocessor(plain, TensorSpec("lesson", (1, height, width, 3), np.dtype(np.uint8), 1.0, 0))
        regrid = Regrid(
            self.teacher.output.anchors, self.output.anchors, self.output.box_scale, background=self.output.background
        )
        columns = [0, *(i + 1 for i in self.teacher.class_ids)] if self.output.background else self.teacher.class_ids
        pixels = np.empty((len(learned) * VIEWS, height, width, 3), np.uint8)
        boxes: list[Float32Array] = []
        logits: list[Float32Array] = []
        rng = np.random.default_rng(self.wanted.seed)
        step = self.progress.begin("teacher", len(learned))
        for frame in learned:
            for view in views(frame, VIEWS, rng):
                shrink(view, pixels[len(boxes) : len(boxes) + 1])
                ask(view, inputs[0])
                engine.invoke(inputs, outputs)
                answers = regrid(outputs[self.output.boxes][0], outputs[self.output.scores][0][:, columns])
                boxes.append(np.array(answers[0]))
                logits.append(np.array(answers[1]))
            step()
        engine.close()
        if not any((1 / (1 + np.exp(-some[:, 1:].max(initial=-50))) >= reference.SURE) for some in logits):
            raise UserError(
                "the teacher sees none of the kept classes", where=learned.path, expected=", ".join(self.wanted.keep),
                fix="give frames in which they are",
            )  # fmt: skip
        mean, std = (np.asarray(value, np.float32) for value in (self.input.mean, self.input.std))
        return Lesson(pixels, np.stack(boxes), np.stack(logits), mean, std)

    def shrink(self, lesson: Lesson, frames_sha256: str, until: float) -> Any:
        """The small network, trained. ``until``: on `time.monotonic`, when the lessons are over."""
        whole = ssdlite.resized(ssdlite.select_classes(self.teacher.model(), self.teacher.class_ids), *self.size)
        kept = Work(self.wanted.work or default_folder("specialise"))
        asked = (
            frames_sha256, self.teacher.files.sha256, self.teacher.class_ids, self.size, self.wanted.held_back,
            self.wanted.speedup, self.wanted.minutes, self.wanted.seed, self.wanted.most, VIEWS, CUTS, STEPS, BATCH,
        )  # fmt: skip
        with _alone(kept.step("run", *asked).stem.with_suffix(".lock")):
            return self._lessons(whole, lesson, kept, asked, max(LEAST_LESSON_S, until - time.monotonic()))

    def _lessons(self, whole: Any, lesson: Lesson, kept: Work, asked: tuple[object, ...], seconds: float) -> Any:
        student = whole
        left = self._work_left(whole, lesson, kept.step("speed", *asked))
        cuts = CUTS if left < 1 else 1
        first = FIRST_SHARE / max(1, cuts - 1)
        shares = [*[first] * (cuts - 1), 1 - first * (cuts - 1)]
        loss = SsdDistillation(background=self.output.background)
        for number, share in enumerate(shares, start=1):
            lessons = kept.step(f"lesson-{number}", *asked)
            done = lessons.load()
            if done is not None:
                student = done
                continue
            cut = kept.step(f"cut-{number}", *asked)
            smaller = cut.load()
            if smaller is None:
                smaller = self._cut(student, whole, lesson, left ** (number / cuts)) if left < 1 else student
                cut.keep(smaller)
            student = smaller
            course = Course(round(STEPS * share), seconds * share, BATCH, LEARNING_RATE, self.wanted.seed)
            learn(
                student, lesson, loss, course, name=f"lesson {number} of {cuts}", progress=self.progress,
                checkpoint=lessons.checkpoint,
            )  # fmt: skip
            lessons.keep(student)
        return student

    def _work_left(self, whole: Any, lesson: Lesson, step: Step) -> float:
        """The share of the whole small network's work that may be left; kept, for a clock never says the same twice."""
        path = step.stem.with_suffix(".json")
        if path.is_file():
            return float(json.loads(path.read_bytes()))
        teacher = self.engine(self.teacher.flatbuffer(), "teacher")
        other = self.engine(quantise.to_int8(as_network(whole), self._calibration(lesson, 2)), "whole")
        # what each takes where nothing else runs: the cut is made once, and a busy machine flatters the smaller network
        before_ms, after_ms = _least_ms((teacher, other))
        already = before_ms / after_ms
        share = min(1.0, already / (self.wanted.speedup * MARGIN))
        half = path.with_suffix(".part")
        half.write_text(json.dumps(share))
        half.replace(path)
        return share

    def _latency(self, teacher: TfliteEngine, other: TfliteEngine) -> Latency:
        """Of several looks the one with the least gain: on a busy machine the larger network suffers the more."""
        samples = teacher.inputs[0].allocate(), other.inputs[0].allocate()
        return max((time_both(teacher, other, samples, ROUNDS) for _ in range(LOOKS)), key=lambda look: look.ratio)

    def _cut(self, student: Any, whole: Any, lesson: Lesson, share: float) -> Any:
        """``student`` with so many channels less that ``share`` of the work of ``whole`` is left."""
        tf = load_tensorflow()
        rng = np.random.default_rng(self.wanted.seed)
        frames = rng.choice(len(lesson.pixels) // VIEWS, min(TAYLOR_FRAMES, len(lesson.pixels) // VIEWS), replace=False)
        batches = [
            tuple(tf.constant(array) for array in lesson.batch(np.array([frame * VIEWS]), None)) for frame in frames
        ]
        seen = SeenObjects(background=self.output.background)
        taylor = prune.Taylor(batches, lambda model, batch: seen((batch[1], batch[2]), model(batch[0], training=False)))
        ratio = min(1.0, share * work(whole) / work(student))
        found = plan_for_work(student, taylor, ratio=ratio, floor=FLOOR)
        return prune.apply(student, found)

    def _calibration(self, lesson: Lesson, count: int) -> Iterator[Float32Array]:
        """Frames as they are, one input each."""
        frames = np.unique(np.linspace(0, len(lesson.pixels) // VIEWS - 1, count).astype(np.intp))
        for frame in frames:
            yield lesson.batch(np.array([frame * VIEWS]), None)[0]

    def finish(
        self, student: Any, lesson: Lesson, learned: Footage, held: Footage, name: str, began: float,
        on_measured: Callable[[Specialised], None],
    ) -> tuple[Specialised, Bundle]:  # fmt: skip
        """Quantises, judges and packs."""
        wanted = self.wanted
        network = as_network(student)
        step = self.progress.begin("calibration", CALIBRATION)

        def samples() -> Iterator[Float32Array]:
            for sample in self._calibration(lesson, CALIBRATION):
                step()
                yield sample

        original = self.teacher.flatbuffer()
        teacher = self.engine(original, "teacher")
        float32 = self.engine(quantise.to_float32(network), "float32")
        flatbuffer = quantise.to_int8(network, samples())
        int8 = self.engine(flatbuffer, "int8")
        truth = Detector(
            teacher, self.teacher.input, self.teacher.output, self.teacher.labels, score_threshold=reference.SURE
        )
        small = [
            Detector(engine, self.input, self.output, wanted.keep, score_threshold=reference.LEAST_SCORE)
            for engine in (float32, int8)
        ]
        judging = self.progress.begin("judging", len(held))
        before, after = reference.compare(truth, small, held, self.teacher.class_ids, held.dataset(), judging)
        latency = self._latency(teacher, int8)
        rows = (
            GateRow("AP50 against the float network", after.ap50, f">= {wanted.min_ap:g}", after.ap50 >= wanted.min_ap),
            GateRow("times faster", 1 / latency.ratio, f">= {wanted.speedup:g}", 1 / latency.ratio >= wanted.speedup),
        )

        def found(verdicts: dict[EngineClass, Verdict]) -> Specialised:
            return Specialised(
                name, wanted.keep, len(learned), self.size, after, before, latency, len(original), len(flatbuffer),
                prune.count(self.teacher.model()), prune.count(student), rows, verdicts, time.monotonic() - began,
            )  # fmt: skip

        if not all(row.holds for row in rows):
            on_measured(found({}))  # nothing is packed, so nothing need be proved on every kernel
            enforce(rows)
        golden = self._golden(float32, int8, held)
        labels = "".join(f"{label}\n" for label in wanted.keep).encode()
        evaluation = _evaluation(before, after, held)
        data = learned.part(learned.numbers[:: max(1, len(learned) // CALIBRATION)]).dataset()
        file = self._recipe(name, learned)
        content = package.Content(
            flatbuffer, labels, golden, [evaluation], data, self.teacher.files.sha256, file.recipe.image,
            file.recipe.pictured,
        )  # fmt: skip
        members = {
            "labels.txt": labels,
            "golden.npz": package.encode_golden(golden),
            "measurements.json": package.measurements(latency, len(flatbuffer), len(original)),
        }
        manifest = package.make_manifest(file, content, members)
        manifest = self._with_extension(manifest, learned, held, student)
        manifest, verdicts = package.with_tolerances(
            manifest, self.folder / "int8.tflite", golden, len(wanted.keep), self.runtime, file
        )
        specialised = found(verdicts)
        on_measured(specialised)
        package.write(wanted.out, content, manifest, members)
        return specialised, open_bundle(wanted.out)

    def _golden(self, float32: TfliteEngine, int8: TfliteEngine, held: Footage) -> Golden:
        """Of frames held back, spread over their time, in which the small float network is sure of something.

        Where too few are, their mirror images and neighbours too: any picture proves a device that is told the same.
        """
        before, after = (
            Detector(engine, self.input, self.output, self.wanted.keep, score_threshold=GOLDEN_SCORE)
            for engine in (float32, int8)
        )
        folder = self.folder / "golden"
        folder.mkdir()
        sure: list[tuple[int, int]] = []  # view, frame
        for view in range(GOLDEN_VIEWS):
            if len(sure) < LEAST_INPUTS:
                sure += [(view, n) for n, frame in self._views(held, view) if _is_sure(before, frame)]
        if len(sure) < LEAST_INPUTS:
            raise UserError(
                "too few frames to prove the network with", where=held.path,
                expected=f"{LEAST_INPUTS} views of those held back with a detection of score >= {CONFIDENT:g}",
                found=f"{len(sure)}", fix="give more frames",
            )  # fmt: skip
        chosen = {sure[i] for i in np.unique(np.linspace(0, len(sure) - 1, LEAST_INPUTS).astype(int))}
        for view in sorted({view for view, _ in chosen}):
            numbers = {n for own, n in chosen if own == view}
            for n, frame in self._views(held, view):
                if n in numbers:
                    cv2.imwrite(str(folder / f"{view}-{n:08d}.png"), frame)
        return package.make_golden(before, after, folder, RAW, classifies=False)

    def _views(self, held: Footage, view: int) -> Iterator[tuple[int, UInt8Array]]:
        """One view of every frame, with the frame's number."""
        for number, frame in zip(held.numbers, held, strict=True):
            rng = np.random.default_rng([self.wanted.seed, number])
            yield number, list(views(frame, view + 1, rng))[view]

    def expect_objects(self, held: Footage) -> None:
        """Raises `UserError` where there is nothing to judge by, before hours were spent on it."""
        teacher = self.engine(self.teacher.flatbuffer(), "teacher", threads=_cores())
        truth = Detector(
            teacher, self.teacher.input, self.teacher.output, self.teacher.labels, score_threshold=reference.SURE
        )
        looking = self.progress.begin("held back", len(held))
        objects = 0
        for frame in held:
            objects += len(reference.kept(truth(frame), self.teacher.class_ids))
            looking()
        teacher.close()
        if not objects:
            raise UserError(
                "the teacher sees none of the kept classes in the frames held back", where=held.path,
                expected=", ".join(self.wanted.keep), fix="give more frames, or --held-back more of them",
            )  # fmt: skip

    def _recipe(self, name: str, learned: Footage) -> RecipeFile:
        """What stands for a recipe in the manifest: the command's own arguments and sources, by digest."""
        wanted = self.wanted
        asked = {
            "source": self.teacher.recipe.sha256, "frames": learned.sha256, "keep": wanted.keep, "size": self.size,
            "held_back": wanted.held_back, "speedup": wanted.speedup, "minutes": wanted.minutes, "seed": wanted.seed,
            "most": wanted.most,
        }  # fmt: skip
        recipe = Recipe(
            name=name, version="1.0.0", task="detect", source=self.teacher.source, input=self.input, output=self.output,
            labels=Labels(file="labels.txt"), golden=GoldenVectors(pictures="frames held back", raw=RAW),
            evaluate=Evaluate(seed=wanted.seed),
            latency=LatencyOptions(max_ratio=1 / wanted.speedup),
        )  # fmt: skip
        digest = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()
        return RecipeFile(Path("vedette-convert specialise"), digest, recipe)

    def _with_extension(self, manifest: Manifest, learned: Footage, held: Footage, student: Any) -> Manifest:
        about = {
            "teacher": self.teacher.recipe.recipe.name,
            "definition": reference.DEFINITION,
            "learned_from": msgspec.to_builtins(learned.dataset()),
            "held_back": msgspec.to_builtins(held.dataset()),
            "licence_of_frames": "the user's own; 32 of them are inside as golden inputs",
            "multiply_accumulates": prune.count(student).macs,
        }
        return msgspec.structs.replace(manifest, extensions={"specialise": about})


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel lets go of however the process ends. Raises `UserError` where another one has it."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                "another process is at the same work", where=path, fix="wait for it, or give another --work"
            ) from None
        yield


def _is_sure(detector: Detector, frame: UInt8Array) -> bool:
    return bool((detector(frame).scores >= CONFIDENT).any())


def _evaluation(before: Against, after: Against, held: Footage) -> Evaluation:
    metrics = [
        Metric(name=f"{what}: {reference.DEFINITION}; before: this network in float32", before=round(first, 4),
               after=round(second, 4))
        for what, first, second in (("AP50", before.ap50, after.ap50), ("AP 0.50:0.95", before.map, after.map))
    ]  # fmt: skip
    return Evaluation(data=held.dataset(), metrics=metrics)


def _least_ms(engines: Sequence[TfliteEngine]) -> list[float]:
    """The least that one inference of each takes, by turns, milliseconds."""
    buffers = [engine.allocate() for engine in engines]
    least = [math.inf] * len(engines)
    for _ in range(ROUNDS * LOOKS):
        for number, (engine, (inputs, outputs)) in enumerate(zip(engines, buffers, strict=True)):
            start = time.perf_counter_ns()
            engine.invoke(inputs, outputs)
            least[number] = min(least[number], (time.perf_counter_ns() - start) / 1e6)
    return least


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))
