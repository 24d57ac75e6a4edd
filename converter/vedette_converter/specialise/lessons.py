"""From a camera's frames to the small network: the teacher's answers, cuts, and lessons between them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from vedette.contract.errors import UserError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.types import Float32Array, TensorSpec
from vedette.engine import TfliteEngine

from .. import prune, quantise, reference
from ..distil.grid import Regrid
from ..distil.lesson import Course, Lesson, learn, views
from ..distil.ssd import SeenObjects, SsdDistillation
from ..footage import Footage
from ..lock import alone
from ..prune.worth import plan_for_work, work
from ..tensorflow import load_tensorflow
from ..train.work import Step, Work, default_folder
from ..zoo import ssdlite
from ..zoo.network import as_network
from .room import Room, cores

VIEWS: Final = 4  # of each frame: itself, mirrored, two more
CUTS: Final = 2
FIRST_SHARE: Final = 0.3  # of all lessons, before the last cut; the network that stays learns the longest
FLOOR: Final = 0.2  # share of its channels that each layer keeps at least
MARGIN: Final = 1.12  # by which the network is made faster than asked, for a clock wavers
STEPS: Final = 3000
BATCH: Final = 16
LEARNING_RATE: Final = 1e-3
TAYLOR_FRAMES: Final = 24
LEAST_LESSON_S: Final = 60.0
TURNS: Final = 500  # of each network, while the work that may be left is looked for


def prepare(room: Room, learned: Footage) -> Lesson:
    """The frames' views as the small network takes them, and the teacher's answers to each."""
    engine = room.engine(room.teacher.flatbuffer, "teacher", threads=cores())
    inputs, outputs = engine.allocate()
    ask = ImagePreprocessor(room.teacher.input, engine.inputs[0])
    plain = msgspec.structs.replace(room.input, mean=(0.0,), std=(1.0,))
    height, width = room.size
    resize = ImagePreprocessor(plain, TensorSpec("lesson", (1, height, width, 3), np.dtype(np.uint8), 1.0, 0))
    regrid = Regrid(room.teacher.anchors, room.anchors, room.output.box_scale, background=room.output.background)
    columns = [0, *(i + 1 for i in room.teacher.class_ids)] if room.output.background else room.teacher.class_ids
    pixels = np.empty((len(learned) * VIEWS, height, width, 3), np.uint8)
    boxes: list[Float32Array] = []
    logits: list[Float32Array] = []
    rng = np.random.default_rng(room.wanted.seed)
    step = room.progress.begin("teacher", len(learned))
    for frame in learned:
        for view in views(frame, VIEWS, rng):
            resize(view, pixels[len(boxes) : len(boxes) + 1])
            ask(view, inputs[0])
            engine.invoke(inputs, outputs)
            answers = regrid(outputs[room.output.boxes][0], outputs[room.output.scores][0][:, columns])
            boxes.append(np.array(answers[0]))
            logits.append(np.array(answers[1]))
        step()
    engine.close()
    if not any((1 / (1 + np.exp(-some[:, 1:].max(initial=-50))) >= reference.SURE) for some in logits):
        raise UserError(
            "the teacher sees none of the kept classes", where=learned.path, expected=", ".join(room.wanted.keep),
            fix="give frames in which they are",
        )  # fmt: skip
    mean, std = (np.asarray(value, np.float32) for value in (room.input.mean, room.input.std))
    return Lesson(pixels, np.stack(boxes), np.stack(logits), mean, std)


def shrink(room: Room, lesson: Lesson, frames_sha256: str, until: float) -> Any:
    """The small network, trained. ``until``: on `time.monotonic`, when the lessons are over."""
    whole = ssdlite.resized(ssdlite.select_classes(room.teacher.model(), room.teacher.class_ids), *room.size)
    kept = Work(room.wanted.work or default_folder("specialise"))
    asked = (
        frames_sha256, room.teacher.files.sha256, room.teacher.class_ids, room.size, room.wanted.held_back,
        room.wanted.speedup, room.wanted.minutes, room.wanted.seed, room.wanted.most, VIEWS, CUTS, STEPS, BATCH,
    )  # fmt: skip
    path = kept.step("run", *asked).stem.with_suffix(".lock")
    with alone(path, "another process is at the same work", "wait for it, or give another --work"):
        return _lessons(room, whole, lesson, kept, asked, max(LEAST_LESSON_S, until - time.monotonic()))


def _lessons(room: Room, whole: Any, lesson: Lesson, kept: Work, asked: tuple[object, ...], seconds: float) -> Any:
    student = whole
    left = _work_left(room, whole, lesson, kept.step("speed", *asked))
    cuts = CUTS if left < 1 else 1
    first = FIRST_SHARE / max(1, cuts - 1)
    shares = [*[first] * (cuts - 1), 1 - first * (cuts - 1)]
    loss = SsdDistillation(background=room.output.background)
    for number, share in enumerate(shares, start=1):
        lessons = kept.step(f"lesson-{number}", *asked)
        done = lessons.load()
        if done is not None:
            student = done
            continue
        cut = kept.step(f"cut-{number}", *asked)
        smaller = cut.load()
        if smaller is None:
            smaller = _cut(room, student, whole, lesson, left ** (number / cuts)) if left < 1 else student
            cut.keep(smaller)
        student = smaller
        course = Course(round(STEPS * share), seconds * share, BATCH, LEARNING_RATE, room.wanted.seed)
        learn(
            student, lesson, loss, course, name=f"lesson {number} of {cuts}", progress=room.progress,
            checkpoint=lessons.checkpoint,
        )  # fmt: skip
        lessons.keep(student)
    return student


def _work_left(room: Room, whole: Any, lesson: Lesson, step: Step) -> float:
    """The share of the whole small network's work that may be left; kept, for a clock never says the same twice."""
    path = step.stem.with_suffix(".json")
    if path.is_file():
        return float(json.loads(path.read_bytes()))
    teacher = room.engine(room.teacher.flatbuffer, "teacher")
    other = room.engine(quantise.to_int8(as_network(whole), calibration(room, lesson, 2)), "whole")
    # what each takes where nothing else runs: the cut is made once, and a busy machine flatters the smaller network
    before_ms, after_ms = _least_ms((teacher, other))
    already = before_ms / after_ms
    share = min(1.0, already / (room.wanted.speedup * MARGIN))
    half = path.with_suffix(".part")
    half.write_text(json.dumps(share))
    half.replace(path)
    return share


def _cut(room: Room, student: Any, whole: Any, lesson: Lesson, share: float) -> Any:
    """``student`` with so many channels less that ``share`` of the work of ``whole`` is left."""
    tf = load_tensorflow()
    rng = np.random.default_rng(room.wanted.seed)
    frames = rng.choice(len(lesson.pixels) // VIEWS, min(TAYLOR_FRAMES, len(lesson.pixels) // VIEWS), replace=False)
    batches = [tuple(tf.constant(array) for array in lesson.batch(np.array([frame * VIEWS]), None)) for frame in frames]
    seen = SeenObjects(background=room.output.background)
    taylor = prune.Taylor(batches, lambda model, batch: seen((batch[1], batch[2]), model(batch[0], training=False)))
    ratio = min(1.0, share * work(whole) / work(student))
    found = plan_for_work(student, taylor, ratio=ratio, floor=FLOOR)
    return prune.apply(student, found)


def spread(frames: int, count: int) -> list[int]:
    """``count`` places among so many frames, or all where there are fewer, from the first to the last."""
    return [int(place) for place in np.unique(np.linspace(0, frames - 1, count).astype(np.intp))]


def calibration(room: Room, lesson: Lesson, count: int) -> Iterator[Float32Array]:
    """Frames as they are, one input each."""
    for frame in spread(len(lesson.pixels) // VIEWS, count):
        yield lesson.batch(np.array([frame * VIEWS]), None)[0]


def _least_ms(engines: Sequence[TfliteEngine]) -> list[float]:
    """The least that one inference of each takes, by turns, milliseconds."""
    buffers = [engine.allocate() for engine in engines]
    least = [math.inf] * len(engines)
    for _ in range(TURNS):
        for number, (engine, (inputs, outputs)) in enumerate(zip(engines, buffers, strict=True)):
            start = time.perf_counter_ns()
            engine.invoke(inputs, outputs)
            least[number] = min(least[number], (time.perf_counter_ns() - start) / 1e6)
    return least
