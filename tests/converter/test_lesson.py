"""A lesson: views of frames, batches, and a training that is stopped and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vedette.contract.errors import FaultError, UserError
from vedette_converter.distil import lesson as module
from vedette_converter.distil.lesson import Course, Lesson, learn, views
from vedette_converter.distil.ssd import SsdDistillation
from vedette_converter.progress import Silent
from vedette_converter.prune.calls import load_keras


def head(seed: int) -> Any:
    """Boxes and logits of two classes for each of 16 cells."""
    keras = load_keras()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 4, strides=4, activation="relu6")(x)
    return keras.Model(inputs, [layers.Reshape((16, n))(layers.Conv2D(n, 1)(x)) for n in (4, 2)])


@pytest.fixture
def lesson(tf: Any) -> Lesson:
    """What another head of the same kind answers."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    mean, std = np.array([127.5], np.float32), np.array([127.5], np.float32)
    boxes, logits = (np.asarray(output) for output in head(7)((pixels.astype(np.float32) - mean) / std))
    return Lesson(pixels, boxes, logits, mean, std)


class Stop(Silent):
    """Interrupts after some steps, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, step: str, total: int) -> Callable[[], None]:
        def advance() -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

        return advance


COURSE = Course(steps=30, seconds=1e6, batch=4, learning_rate=3e-3, seed=1)


def teach(model: Any, lesson: Lesson, folder: Path, course: Course = COURSE, progress: Any = None) -> float:
    return learn(
        model, lesson, SsdDistillation(), course, name="lesson", progress=progress or Silent(),
        checkpoint=folder / "lesson.npz",
    )  # fmt: skip


def test_a_stopped_lesson_ends_as_one_that_was_not(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    (tmp_path / "whole").mkdir()
    straight, stopped = head(3), head(3)
    before = [weight.numpy() for weight in straight.weights]
    teach(straight, lesson, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        teach(stopped, lesson, tmp_path, progress=Stop(11))
    again = head(99)  # a new process: nothing of the first is left but the file
    teach(again, lesson, tmp_path)
    assert max(float(np.abs(np.asarray(w) - b).max()) for w, b in zip(straight.weights, before, strict=True)) > 0.01
    for one, other in zip(straight.weights, again.weights, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=2e-4)
    assert not list(tmp_path.glob("*.part"))


def test_the_loss_falls_and_time_ends_it(lesson: Lesson, tmp_path: Path) -> None:
    model = head(3)
    (tmp_path / "a").mkdir()
    first = teach(model, lesson, tmp_path, Course(1, 1e6, 16, 3e-3, 1))
    last = teach(model, lesson, tmp_path / "a", Course(200, 1e6, 16, 3e-3, 1))
    assert last < first
    (tmp_path / "b").mkdir()
    done = np.load
    teach(head(3), lesson, tmp_path / "b", Course(10_000_000, 1.0, 4, 3e-3, 1))
    assert 0 < done(tmp_path / "b" / "lesson.npz")["done"][0] < 10_000_000


def test_another_networks_checkpoint_is_refused(lesson: Lesson, tmp_path: Path) -> None:
    keras = load_keras()
    teach(head(3), lesson, tmp_path)
    inputs = keras.Input((16, 16, 3))
    other = keras.Model(inputs, keras.layers.Conv2D(5, 3)(inputs))
    with pytest.raises(UserError, match="the kept state is not of this training"):
        teach(other, lesson, tmp_path)
    (tmp_path / "lesson.npz").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="the kept state is not of this training"):
        teach(head(3), lesson, tmp_path)


def test_a_loss_that_is_no_number_is_said(lesson: Lesson, tmp_path: Path) -> None:
    broken = Lesson(lesson.pixels, lesson.boxes * np.nan, lesson.logits, lesson.mean, lesson.std)
    with pytest.raises(FaultError, match="no number any more"):
        teach(head(3), broken, tmp_path)


def test_views_are_itself_its_mirror_image_and_neighbours_of_it() -> None:
    y, x = np.mgrid[0:60, 0:80]
    frame = np.stack([x * 3, y * 4, x + y], axis=-1).astype(np.uint8)
    seen = list(views(frame, 6, np.random.default_rng(1)))
    np.testing.assert_array_equal(seen[0], frame)
    np.testing.assert_array_equal(seen[1], frame[:, ::-1])
    for view in seen[2:]:
        assert view.shape == frame.shape and not np.array_equal(view, frame)
        rows = view[20:40, 40, 1].astype(float)
        assert 0.85 < np.polyfit(np.arange(20), rows / 4, 1)[0] < 1.15  # zoomed a little at most
    mirrored = [bool(view[30, 60, 0] < view[30, 20, 0]) for view in seen[2:]]
    assert len(set(mirrored)) == 2
    same = views(frame, 6, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(seen, same, strict=True))
