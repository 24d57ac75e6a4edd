"""The gate before the model: still scenes are skipped, moving ones are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from real import CLIP

from vedette.contract.types import Planes
from vedette.flow.motion import MotionCounts, MotionGate, MotionOptions, shrink

SECOND = 1_000_000_000
FPS = 10
HEIGHT, WIDTH = 360, 640


def room(seed: int = 1) -> np.ndarray:
    """A picture with light and dark places, float32."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 200, (9, 16, 3)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


class Camera:
    """Frames of a scene with a sensor's noise, given to a gate ten times a second."""

    def __init__(self, options: MotionOptions | None = None, noise: float = 4.0) -> None:
        self.gate = MotionGate(options or MotionOptions())
        self.now_ns = 50 * SECOND
        rng = np.random.default_rng(7)
        self.noise = [rng.normal(0, noise, (HEIGHT, WIDTH, 3)).astype(np.float32) for _ in range(7)]

    def film(self, frames: int, scene: Callable[[int], np.ndarray], **more: Any) -> list[bool]:
        """Which of them were skipped."""
        skipped = []
        for k in range(frames):
            self.now_ns += SECOND // FPS
            noise = np.roll(self.noise[k % 7], 31 * k)
            pixels = np.clip(scene(k) + noise, 0, 255).astype(np.uint8)
            skipped.append(self.gate.skip(pixels, self.now_ns, **more))
        return skipped


ROOM = room()


def with_a_square(x: int, side: int = 40, colour: int = 250, y: int = 150) -> np.ndarray:
    picture = ROOM.copy()
    picture[y : y + side, x : x + side] = colour
    return picture


@pytest.mark.parametrize("noise", [0.0, 2.0, 8.0])
def test_a_still_scene_is_skipped_whatever_the_sensor_s_noise(noise: float) -> None:
    camera = Camera(noise=noise)
    skipped = camera.film(10 * FPS, lambda k: ROOM)
    assert not any(skipped[:FPS]), "the first picture is news"
    assert all(skipped[3 * FPS :])
    assert camera.gate.counts == MotionCounts(frames=10 * FPS, skipped=sum(skipped))


def test_who_walks_in_is_seen_in_the_first_frame_and_looked_at_for_a_while() -> None:
    camera = Camera(MotionOptions(hold_s=1.0))
    assert all(camera.film(5 * FPS, lambda k: ROOM)[-FPS:])
    assert not any(camera.film(FPS, lambda k: with_a_square(100 + 10 * k)))
    after = camera.film(8 * FPS, lambda k: ROOM)
    assert not any(after[: FPS - 1]) and all(after[-FPS:])


def test_a_quick_camera_s_still_scene_is_glanced_at_ten_times_a_second() -> None:
    camera = Camera(MotionOptions(hold_s=0.0))
    camera.film(2, lambda k: ROOM)
    camera.now_ns += 50_000_000 - SECOND // FPS
    assert camera.film(1, lambda k: with_a_square(100)) == [True], "20 frames a second: this one is not looked at"
    camera.now_ns += 50_000_000 - SECOND // FPS
    assert camera.film(1, lambda k: with_a_square(100)) == [False]


def test_what_stays_becomes_background() -> None:
    camera = Camera()
    camera.film(4 * FPS, lambda k: ROOM)
    skipped = camera.film(40 * FPS, lambda k: with_a_square(100))
    assert not any(skipped[:FPS])
    assert all(skipped[-5 * FPS :])
    assert not any(camera.film(5, lambda k: ROOM)), "and taking it away is a motion"


def test_the_light_changing_as_a_whole_is_no_motion() -> None:
    camera = Camera()
    camera.film(4 * FPS, lambda k: ROOM)
    assert all(camera.film(2 * FPS, lambda k: ROOM + 1.2 * k))
    assert all(camera.film(FPS, lambda k: ROOM + 25)), "at once, too"


def test_a_few_pixels_are_noise() -> None:
    camera = Camera()
    camera.film(4 * FPS, lambda k: ROOM)
    assert all(camera.film(FPS, lambda k: with_a_square(40 + 23 * k, side=4)))


def test_leaves_that_never_rest_become_noise_and_a_walker_beside_them_does_not() -> None:
    def tree(k: int) -> np.ndarray:
        picture = ROOM.copy()
        picture[60:160, 400:520] += 40 * np.float32(np.sin(np.arange(120) / 6 + k * 1.7))[None, :, None]
        return picture

    camera = Camera(MotionOptions(hold_s=0.2))
    camera.film(4 * FPS, lambda k: ROOM)
    assert not any(camera.film(FPS, tree)[2:])
    camera.film(100 * FPS, tree)
    assert sum(camera.film(4 * FPS, tree)) > 3 * FPS
    walked = camera.film(FPS, lambda k: np.where(with_a_square(100 + 10 * k) == 250, 250, tree(k)))
    assert not any(walked)


def test_a_look_is_taken_now_and_then_whatever_does_not_move() -> None:
    camera = Camera(MotionOptions(max_skip_s=2.0, hold_s=0.0))
    skipped = camera.film(20 * FPS, lambda k: ROOM)
    looks = [k for k, skip in enumerate(skipped) if not skip]
    assert len(looks) == 10
    assert np.diff(looks).max() <= 2 * FPS + 1


def test_who_follows_something_keeps_it_open() -> None:
    camera = Camera(MotionOptions(hold_s=1.0))
    camera.film(4 * FPS, lambda k: ROOM)
    assert not any(camera.film(2 * FPS, lambda k: ROOM, busy=True))
    skipped = camera.film(2 * FPS, lambda k: ROOM)
    assert not any(skipped[: FPS - 2]) and all(skipped[FPS + 1 :])


def test_motion_that_is_to_be_ignored() -> None:
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    camera = Camera(MotionOptions(ignore=(left,), hold_s=0.0))
    camera.film(4 * FPS, lambda k: ROOM)
    assert all(camera.film(FPS, lambda k: with_a_square(20 + 10 * k)))
    assert not any(camera.film(FPS, lambda k: with_a_square(360 + 10 * k)))


def test_another_size_of_picture_begins_anew() -> None:
    camera = Camera()
    camera.film(4 * FPS, lambda k: ROOM)
    assert not camera.gate.skip(np.zeros((48, 64, 3), np.uint8), camera.now_ns + SECOND)
    assert not camera.gate.skip(np.zeros((1, 1, 3), np.uint8), camera.now_ns + SECOND)


@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (576, 768), (480, 640), (90, 160), (50, 50), (3, 2), (1, 900)]
)
def test_the_small_picture_is_grey_and_about_as_bright(height: int, width: int) -> None:
    pixels = cv2.resize(room().astype(np.uint8), (width, height))
    small = shrink(pixels)
    assert small.dtype == np.float32 and small.shape[1] <= 128
    assert abs(small.mean() - cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY).mean()) < 4


def frames() -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(CLIP))
    while (read := capture.read())[0]:
        yield read[1]


def test_nothing_of_a_busy_square_is_skipped() -> None:
    gate = MotionGate(MotionOptions(hold_s=0.0))
    for k, pixels in enumerate(frames()):
        gate.skip(pixels, (k + 1) * SECOND // 10)
    assert gate.counts.frames > 100
    assert gate.counts.skipped == 0


@pytest.mark.parametrize(
    "table",
    [
        {"min_area": 1.5},
        {"min_change": 0},
        {"max_skip_s": 0},
        {"ignore": [[[0, 0], [1, 1]]]},
        {"ignore": [[0, 0], [1, 1], [1, 0]]},
    ],
)
def test_options_that_cannot_be(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, MotionOptions)


def test_planes_are_looked_at_by_their_luma() -> None:
    rng = np.random.default_rng(7)
    grey = np.asarray(cv2.resize(rng.integers(0, 256, (9, 12)).astype(np.uint8), (640, 480)), np.uint8)
    chroma = np.full((240, 320), 128, np.uint8)  # no colour
    of_planes = shrink(Planes(grey, chroma, chroma))
    of_bgr = shrink(np.dstack([grey] * 3))
    assert of_planes.shape == of_bgr.shape and of_planes.dtype == np.float32
    assert np.abs(of_planes - of_bgr).max() <= 1
    as_video = np.rint(16 + grey * (219 / 255)).astype(np.uint8)
    assert np.abs(shrink(Planes(as_video, chroma, chroma, full_range=False)) - of_bgr).max() <= 2
