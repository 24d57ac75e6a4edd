"""The small network against its teacher, on frames held back; and the bundle, where the gate holds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import msgspec
import numpy as np

from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.errors import UserError
from vedette.contract.golden import Golden
from vedette.contract.manifest import EngineClass, Evaluation, Manifest, Metric
from vedette.contract.types import Float32Array, UInt8Array
from vedette.contract.verdict import CONFIDENT, Verdict
from vedette.engine import TfliteEngine

from .. import package, prune, quantise, reference
from ..distil.lesson import Lesson, views
from ..footage import Footage
from ..gate import GateRow, enforce, failing
from ..latency import Latency, time_both
from ..package import LEAST_INPUTS
from ..recipe import Evaluate, GoldenVectors, Labels, Recipe, RecipeFile
from ..recipe import Latency as LatencyOptions
from ..reference import Against
from ..subject import Detector
from ..zoo.network import as_network
from .lessons import calibration, spread
from .room import Room, cores
from .wanted import Specialised

CALIBRATION: Final = 160  # frames
ROUNDS: Final = 100  # of the latency that is reported
LOOKS: Final = 5  # at the latency
RAW: Final = 4  # golden inputs whose raw outputs are kept
GOLDEN_SCORE: Final = 0.3
GOLDEN_VIEWS: Final = 6  # of each frame, at most


def expect_objects(room: Room, held: Footage) -> None:
    """Raises `UserError` where there is nothing to judge by, before hours were spent on it."""
    teacher = room.engine(room.teacher.flatbuffer, "teacher", threads=cores())
    truth = Detector(
        teacher, room.teacher.input, room.teacher.output, room.teacher.labels, score_threshold=reference.SURE
    )
    looking = room.progress.begin("held back", len(held))
    objects = 0
    for frame in held:
        objects += len(reference.kept(truth(frame), room.teacher.class_ids))
        looking()
    teacher.close()
    if not objects:
        raise UserError(
            "the teacher sees none of the kept classes in the frames held back", where=held.path,
            expected=", ".join(room.wanted.keep), fix="give more frames, or --held-back more of them",
        )  # fmt: skip


def finish(
    room: Room, student: Any, lesson: Lesson, learned: Footage, held: Footage, name: str, began: float,
    on_measured: Callable[[Specialised], None],
) -> tuple[Specialised, Bundle]:  # fmt: skip
    """Quantises, judges and packs."""
    wanted = room.wanted
    network = as_network(student)
    step = room.progress.begin("calibration", CALIBRATION)

    def samples() -> Iterator[Float32Array]:
        for sample in calibration(room, lesson, CALIBRATION):
            step()
            yield sample

    original = room.teacher.flatbuffer
    teacher = room.engine(original, "teacher")
    float32 = room.engine(quantise.to_float32(network), "float32")
    flatbuffer = quantise.to_int8(network, samples())
    int8 = room.engine(flatbuffer, "int8")
    truth = Detector(
        teacher, room.teacher.input, room.teacher.output, room.teacher.labels, score_threshold=reference.SURE
    )
    small = [
        Detector(engine, room.input, room.output, wanted.keep, score_threshold=reference.LEAST_SCORE)
        for engine in (float32, int8)
    ]
    judging = room.progress.begin("judging", len(held))
    before, after = reference.compare(truth, small, held, room.teacher.class_ids, held.dataset(), judging)
    latency = _latency(room, teacher, int8)
    rows = (
        GateRow(
            "AP50 against the float network",
            after.ap50,
            f">= {wanted.min_ap:g}",
            after.ap50 >= wanted.min_ap,
            "--min-ap",
        ),
        GateRow(
            "times faster",
            1 / latency.ratio,
            f">= {wanted.speedup:g}",
            1 / latency.ratio >= wanted.speedup,
            "--speedup",
        ),
    )

    def found(verdicts: dict[EngineClass, Verdict]) -> Specialised:
        return Specialised(
            name, wanted.keep, len(learned), room.size, after, before, latency, len(original), len(flatbuffer),
            prune.count(room.teacher.model()), prune.count(student), rows, verdicts, time.monotonic() - began,
        )  # fmt: skip

    if failing(rows):
        on_measured(found({}))  # nothing is packed, so nothing need be proved on every kernel
        enforce(rows)
    golden = _golden(room, float32, int8, held)
    labels = "".join(f"{label}\n" for label in wanted.keep).encode()
    evaluation = _evaluation(before, after, held)
    data = learned.part([learned.numbers[place] for place in spread(len(learned), CALIBRATION)]).dataset()
    file = _recipe(room, name, learned)
    content = package.Content(
        flatbuffer, labels, golden, [evaluation], data, room.teacher.files.sha256, file.recipe.image,
        file.recipe.pictured,
    )  # fmt: skip
    members = {
        "labels.txt": labels,
        "golden.npz": package.encode_golden(golden),
        "measurements.json": package.measurements(latency, len(flatbuffer), len(original)),
    }
    manifest = package.make_manifest(file, content, members)
    manifest = _with_extension(room, manifest, learned, held, student)
    manifest, verdicts, _ = package.with_tolerances(
        manifest, room.folder / "int8.tflite", golden, len(wanted.keep), room.runtime, file
    )
    specialised = found(verdicts)
    on_measured(specialised)
    package.write(wanted.out, content, manifest, members)
    return specialised, open_bundle(wanted.out)


def _golden(room: Room, float32: TfliteEngine, int8: TfliteEngine, held: Footage) -> Golden:
    """Of frames held back, spread over their time, in which the small float network is sure of something.

    Where too few are, their mirror images and neighbours too: any picture proves a device that is told the same.
    """
    before, after = (
        Detector(engine, room.input, room.output, room.wanted.keep, score_threshold=GOLDEN_SCORE)
        for engine in (float32, int8)
    )
    folder = room.folder / "golden"
    folder.mkdir()
    sure: list[tuple[int, int]] = []  # view, frame
    for view in range(GOLDEN_VIEWS):
        if len(sure) < LEAST_INPUTS:
            sure += [(view, n) for n, frame in _views(room, held, view) if _is_sure(before, frame)]
    if len(sure) < LEAST_INPUTS:
        raise UserError(
            "too few frames to prove the network with", where=held.path,
            expected=f"{LEAST_INPUTS} views of those held back with a detection of score >= {CONFIDENT:g}",
            found=f"{len(sure)}", fix="give more frames",
        )  # fmt: skip
    chosen = {sure[i] for i in np.unique(np.linspace(0, len(sure) - 1, LEAST_INPUTS).astype(int))}
    for view in sorted({view for view, _ in chosen}):
        numbers = {n for own, n in chosen if own == view}
        for n, frame in _views(room, held, view):
            if n in numbers:
                cv2.imwrite(str(folder / f"{view}-{n:08d}.png"), frame)
    return package.make_golden(before, after, folder, RAW, classifies=False)


def _views(room: Room, held: Footage, view: int) -> Iterator[tuple[int, UInt8Array]]:
    """One view of every frame, with the frame's number."""
    for number, frame in zip(held.numbers, held, strict=True):
        rng = np.random.default_rng([room.wanted.seed, number])
        yield number, list(views(frame, view + 1, rng))[view]


def _latency(room: Room, teacher: TfliteEngine, other: TfliteEngine) -> Latency:
    """Of several looks the one with the least gain: on a busy machine the larger network suffers the more."""
    samples = teacher.inputs[0].allocate(), other.inputs[0].allocate()
    return max((time_both(teacher, other, samples, ROUNDS) for _ in range(LOOKS)), key=lambda look: look.ratio)


def _recipe(room: Room, name: str, learned: Footage) -> RecipeFile:
    """What stands for a recipe in the manifest: the command's own arguments and sources, by digest."""
    wanted = room.wanted
    asked = {
        "source": room.teacher.recipe.sha256, "frames": learned.sha256, "keep": wanted.keep, "size": room.size,
        "held_back": wanted.held_back, "speedup": wanted.speedup, "minutes": wanted.minutes, "seed": wanted.seed,
        "most": wanted.most,
    }  # fmt: skip
    recipe = Recipe(
        name=name, version="1.0.0", task="detect", source=room.teacher.source, input=room.input, output=room.output,
        labels=Labels(file="labels.txt"), golden=GoldenVectors(pictures="frames held back", raw=RAW),
        evaluate=Evaluate(seed=wanted.seed),
        latency=LatencyOptions(max_ratio=1 / wanted.speedup),
    )  # fmt: skip
    digest = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()
    return RecipeFile(Path("vedette-convert specialise"), digest, recipe)


def _with_extension(room: Room, manifest: Manifest, learned: Footage, held: Footage, student: Any) -> Manifest:
    about = {
        "teacher": room.teacher.recipe.recipe.name,
        "definition": reference.DEFINITION,
        "learned_from": msgspec.to_builtins(learned.dataset()),
        "held_back": msgspec.to_builtins(held.dataset()),
        "licence_of_frames": "the user's own; 32 of them are inside as golden inputs",
        "multiply_accumulates": prune.count(student).macs,
    }
    return msgspec.structs.replace(manifest, extensions={"specialise": about})


def _is_sure(detector: Detector, frame: UInt8Array) -> bool:
    return bool((detector(frame).scores >= CONFIDENT).any())


def _evaluation(before: Against, after: Against, held: Footage) -> Evaluation:
    metrics = [
        Metric(name=f"{what}: {reference.DEFINITION}; before: this network in float32", before=round(first, 4),
               after=round(second, 4))
        for what, first, second in (("AP50", before.ap50, after.ap50), ("AP 0.50:0.95", before.map, after.map))
    ]  # fmt: skip
    return Evaluation(data=held.dataset(), metrics=metrics)
