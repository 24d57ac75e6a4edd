"""Pictures of a fixed camera with a teacher's answers, and a student that learns them: resumable, bounded in time.

Adam (Kingma and Ba, arXiv 1412.6980) on weights whose batch normalisations are folded: the student starts close to its
teacher, so there are no statistics to learn, and nothing is refolded afterwards.
"""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from vedette.contract.errors import FaultError, UserError
from vedette.contract.types import Float32Array, UInt8Array

from ..progress import Progress
from ..tensorflow import load_tensorflow
from ..train.kept import save_arrays
from ..train.loop import computing_in_bfloat16

LEAST_RATE: Final = 0.02  # of the learning rate, at the end of the cosine
WARM_UP: Final = 40  # steps over which the rate rises: Adam's second moments know nothing yet
CLIP: Final = 5.0  # largest norm of all gradients together (Pascanu et al., arXiv 1211.5063)
SAVE_EVERY_S: Final = 30.0  # a checkpoint takes a tenth of a second
ZOOM: Final = 0.12  # of a view, at most, in or out, as a logarithm
SHIFT: Final = 0.06  # share of the picture's side, at most
JITTER: Final = 0.15  # see `Lesson.batch`


def views(pixels: UInt8Array, count: int, rng: np.random.Generator) -> Iterator[UInt8Array]:
    """``count`` looks of one frame: itself, its mirror image, then mirrored or not, zoomed and shifted at random.

    A fixed camera shows few backgrounds; the teacher is asked about each view anew, so its answers stay true.
    """
    height, width = pixels.shape[:2]
    for number in range(count):
        if number < 2:
            yield pixels if number == 0 else np.ascontiguousarray(pixels[:, ::-1])
            continue
        zoom = math.exp(rng.uniform(-ZOOM, ZOOM))
        down, across = rng.uniform(-SHIFT, SHIFT, 2) * (height, width)
        turn = zoom * (-1.0 if rng.random() < 0.5 else 1.0)
        matrix = np.array(
            [[turn, 0, width / 2 * (1 - turn) + across], [0, zoom, height / 2 * (1 - zoom) + down]], np.float64
        )
        yield np.asarray(cv2.warpAffine(pixels, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What is learned: pictures as the student takes them, before its arithmetic, and the teacher's answers to each."""

    pixels: UInt8Array
    """(n, height, width, 3)."""
    boxes: Float32Array
    """(n, anchors, 4)."""
    logits: Float32Array
    """(n, anchors, classes)."""
    mean: Float32Array
    """(3,) or (1,), of the student's input, pixel units; ``real = (pixel - mean) / std``."""
    std: Float32Array

    def batch(
        self, index: NDArray[np.intp], rng: np.random.Generator | None, jitter: float = JITTER
    ) -> tuple[Any, Any, Any]:
        """(pictures, boxes, logits) of these, float32; with an ``rng`` contrast is jittered by the share ``jitter``,
        brightness by half of it, each colour by an eighth."""
        pixels: NDArray[np.floating[Any]] = self.pixels[index].astype(np.float32)
        if rng is not None and jitter:
            size = (len(index), 1, 1, 1)
            pixels = (pixels - 128) * rng.uniform(1 - jitter, 1 + jitter, size) + 128
            pixels += 255 * rng.uniform(-jitter / 2, jitter / 2, size)
            pixels += 255 * rng.uniform(-jitter / 8, jitter / 8, (len(index), 1, 1, 3))
            pixels = np.clip(pixels, 0, 255)
        real = ((pixels - self.mean) / self.std).astype(np.float32)
        return real, self.boxes[index], self.logits[index]


@dataclass(frozen=True, slots=True)
class Course:
    """How long, and how fast."""

    steps: int
    seconds: float
    """Whichever is over first; the learning rate falls with the one that is nearer its end."""
    batch: int
    learning_rate: float
    seed: int
    jitter: float = JITTER
    """See `Lesson.batch`. The teacher was asked about the pictures without it."""


Loss = Callable[[tuple[Any, Any], tuple[Any, Any]], Any]


def learn(
    student: Any, lesson: Lesson, loss: Loss, course: Course, *, name: str, progress: Progress, checkpoint: Path
) -> float:
    """Trains a Keras network in place; the mean loss of the last hundred steps.

    ``checkpoint``: a file that is written every half minute, with the weights, Adam's moments, the steps and the seconds
    so far, and from which the training goes on where it is there. Raises `UserError` for a checkpoint of another
    network, `FaultError` where the loss is no number any more.
    """
    tf = load_tensorflow()
    import keras

    optimizer = keras.optimizers.Adam(course.learning_rate, beta_2=0.99)  # 0.999 would outlast so short a training
    variables = list(student.trainable_variables)
    optimizer.build(variables)
    kept = [*student.weights, *optimizer.variables]
    done, spent = _restore(checkpoint, kept) if checkpoint.exists() else (0, 0.0)

    def step(pictures: Any, boxes: Any, logits: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss((boxes, logits), student(pictures, training=True))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(value, variables), CLIP)
        optimizer.apply(gradients, variables)
        return value

    advance = progress.begin(name, course.steps)
    for _ in range(done):
        advance()
    recent: list[float] = []
    began = saved = time.monotonic()
    with computing_in_bfloat16(student):
        compiled = tf.function(step, reduce_retracing=True)
        while done < course.steps and spent + time.monotonic() - began < course.seconds:
            passed = max(done / course.steps, (spent + time.monotonic() - began) / course.seconds)
            optimizer.learning_rate.assign(_rate(course, done, passed))
            rng = np.random.default_rng([course.seed, done])
            index = rng.integers(0, len(lesson.pixels), course.batch)
            value = float(compiled(*(tf.constant(array) for array in lesson.batch(index, rng, course.jitter))))
            if not math.isfinite(value):
                raise FaultError(f"{name}: the loss is no number any more", where=f"step {done + 1}", found=f"{value}")
            done += 1
            recent = [*recent[-99:], value]
            advance()
            if done % 10 == 0:
                progress.note(f"loss {np.mean(recent):.3f}")
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(checkpoint, kept, done, spent + time.monotonic() - began)
                saved = time.monotonic()
    _save(checkpoint, kept, done, spent + time.monotonic() - began)
    return float(np.mean(recent)) if recent else 0.0


def _rate(course: Course, step: int, passed: float) -> float:
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, passed)))  # arXiv 1608.03983, without restarts
    return course.learning_rate * min(1.0, (step + 1) / WARM_UP) * (LEAST_RATE + (1 - LEAST_RATE) * falling)


def _save(path: Path, variables: list[Any], steps: int, seconds: float) -> None:
    arrays = {f"{number}": np.asarray(variable) for number, variable in enumerate(variables)}
    save_arrays(path, {**arrays, "done": np.array([steps, seconds])}, "the training's state")


def _restore(path: Path, variables: list[Any]) -> tuple[int, float]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for number, variable in enumerate(variables):
                found = arrays[f"{number}"]
                if found.shape != tuple(variable.shape):
                    raise ValueError(f"{variable.path}: {found.shape}")
                variable.assign(found)
            steps, seconds = arrays["done"]
            return int(steps), float(seconds)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            "the kept state is not of this training", where=path, found=str(error), fix="delete the file to start anew"
        ) from None
