"""Pictures as planes: what is made of them is what is made of the same picture in BGR, a few levels aside."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vedette.contract.bgr import in_bgr, own_bgr
from vedette.contract.errors import PictureError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import ImageInput
from vedette.contract.planes import PlanesToBgr
from vedette.contract.types import Frame, Planes, TensorSpec, UInt8Array

PADDING = 48  # bytes a row of Y


def scene(height: int, width: int) -> UInt8Array:
    """A picture in colour, as smooth as what a lens gives."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(40, 216, (9, 12, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def planes_of(bgr: UInt8Array) -> Planes:
    """By JFIF's formulas, which are none of ours; each chroma value the mean of four pixels, rows padded with 255."""
    height, width = bgr.shape[:2]
    blue, green, red = np.moveaxis(bgr.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue

    def halved(chroma: np.ndarray) -> np.ndarray:
        return np.asarray(chroma.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) + 128)

    padded = np.full((height, width + PADDING), 255, np.uint8)
    padded[:, :width] = np.rint(luma)
    chroma = np.full((2, height // 2, (width + PADDING) // 2), 255, np.uint8)
    chroma[0, :, : width // 2] = np.rint(halved((blue - luma) / 1.772))
    chroma[1, :, : width // 2] = np.rint(halved((red - luma) / 1.402))
    return Planes(padded[:, :width], chroma[0, :, : width // 2], chroma[1, :, : width // 2])


@pytest.mark.parametrize(
    ("size", "mean"), [((240, 320), 3), ((480, 640), 1.5), ((1080, 1920), 1)]
)  # finer: less blurred
def test_a_whole_picture_comes_out_in_its_colours(size: tuple[int, int], mean: float) -> None:
    bgr = scene(*size)
    into = np.empty_like(bgr)
    convert = PlanesToBgr()
    assert convert(planes_of(bgr), into) is into
    off = np.abs(into.astype(int) - bgr)
    assert off.mean() <= mean, off.mean()
    other = convert(planes_of(scene(16, 24)), into)
    assert other is not into and other.shape == (16, 24, 3)


def test_every_colour_of_full_range_comes_out() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        color = rng.integers(0, 256, 3).astype(np.uint8)
        bgr = np.broadcast_to(color, (8, 16, 3)).copy()
        assert np.abs(in_bgr(planes_of(bgr)).astype(int) - bgr).max() <= 3, color


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (242, 318), (300, 300), (240, 300)])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center-crop"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_a_network_sees_the_same(size: tuple[int, int], color: str, resize: str, dtype: type) -> None:
    spec = ImageInput(height=97, width=120, color=color, resize=resize, pad_value=77)  # type: ignore[arg-type]
    shape = (1, 97, 120, 1 if color == "gray" else 3)
    scale, zero = (1.0, -128 if dtype is np.int8 else 0)
    tensor = TensorSpec("x", shape, np.dtype(dtype), 0.0 if dtype is np.float32 else scale, zero)
    planes = planes_of(scene(*size))
    bgr = in_bgr(planes)
    of_bgr, of_planes = np.zeros(shape, dtype), np.zeros(shape, dtype)
    preprocess = ImagePreprocessor(spec, tensor)
    expected = preprocess(bgr, of_bgr)
    for _ in range(2):  # by turns, for a buffer may be shared
        assert preprocess(planes, of_planes) == expected
        assert preprocess(bgr, of_bgr) == expected
    off = np.abs(of_planes.astype(float) - of_bgr)
    assert off.mean() <= 1.5 and np.quantile(off, 0.99) <= 6, (off.mean(), off.max())


def as_video(planes: Planes) -> Planes:
    """The same in the range of video, by BT.601's formulas."""
    luma, blue, red = (
        np.rint(low + (plane.astype(np.float64) - zero) * steps / 255).astype(np.uint8)
        for plane, low, zero, steps in (
            (planes.luma, 16, 0, 219), (planes.blue, 128, 128, 224), (planes.red, 128, 128, 224)
        )
    )  # fmt: skip
    return Planes(luma, blue, red, full_range=False)


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_planes_in_the_range_of_video_show_the_same(color: str) -> None:
    planes = planes_of(scene(480, 640))
    video = as_video(planes)
    assert np.abs(in_bgr(planes).astype(int) - in_bgr(video)).max() <= 6
    spec = ImageInput(height=96, width=96, color=color)  # type: ignore[arg-type]
    of_full, of_video = (np.zeros((1, 96, 96, spec.channels), np.uint8) for _ in range(2))
    preprocess = ImagePreprocessor(spec, TensorSpec("x", of_full.shape, np.dtype(np.uint8), 1.0, 0))
    preprocess(planes, of_full)
    preprocess(video, of_video)
    off = np.abs(of_full.astype(int) - of_video)
    assert off.mean() < 1 and off.max() <= 6, (off.mean(), off.max())


def test_what_is_beyond_the_range_of_video_is_cut_off() -> None:
    for luma, grey in ((0, 0), (16, 0), (235, 255), (255, 255)):
        planes = Planes(
            *(np.full(shape, value, np.uint8) for shape, value in (((16, 16), luma), ((8, 8), 128), ((8, 8), 128))),
            False,
        )
        out = np.zeros((1, 8, 8, 1), np.uint8)
        spec = ImageInput(height=8, width=8, color="gray")
        ImagePreprocessor(spec, TensorSpec("x", out.shape, np.dtype(np.uint8), 1.0, 0))(planes, out)
        assert (out == grey).all() and abs(int(in_bgr(planes)[0, 0, 0]) - grey) <= 1


def test_bars_stay_what_they_are() -> None:
    for color in ("rgb", "gray"):
        spec = ImageInput(height=96, width=96, color=color, resize="letterbox", pad_value=9)  # type: ignore[arg-type]
        tensor = TensorSpec("x", (1, 96, 96, spec.channels), np.dtype(np.uint8), 1.0, 0)
        out = np.zeros(tensor.shape, np.uint8)
        preprocess = ImagePreprocessor(spec, tensor)
        for _ in range(3):
            preprocess(planes_of(scene(48, 96)), out)
            assert (out[0, :24] == 9).all() and (out[0, 72:] == 9).all() and out[0, 24:72].mean() > 30


def test_what_is_too_small_is_refused() -> None:
    spec = ImageInput(height=96, width=96)
    preprocess = ImagePreprocessor(spec, TensorSpec("x", (1, 96, 96, 3), np.dtype(np.uint8), 1.0, 0))
    with pytest.raises(PictureError, match="found 6x96"):
        preprocess(planes_of(scene(96, 6)), np.zeros((1, 96, 96, 3), np.uint8))


@pytest.mark.parametrize(
    ("luma", "blue", "red"), [((7, 8), (3, 4), (3, 4)), ((8, 8), (4, 4), (4, 5)), ((8, 8), (8, 8), (8, 8))]
)
def test_planes_that_do_not_fit(luma: tuple[int, int], blue: tuple[int, int], red: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="half of it"):
        Planes(*(np.zeros(shape, np.uint8) for shape in (luma, blue, red)))


def test_a_frame_knows_its_size_and_lets_its_memory_go() -> None:
    frame = Frame(3, 5, 7, planes_of(scene(36, 100)))
    assert (frame.width, frame.height) == (100, 36)
    black = frame.without_pixels()
    assert (black.seq, black.width, black.height) == (3, 100, 36) and not in_bgr(black.pixels).any()


def test_a_picture_of_ones_own() -> None:
    bgr = scene(16, 24)
    assert in_bgr(bgr) is bgr
    mine = own_bgr(bgr)
    assert mine is not bgr and (mine == bgr).all()
    assert (own_bgr(planes_of(bgr)) == in_bgr(planes_of(bgr))).all()


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_a_network_that_was_trained_on_minus_one_to_one_sees_the_same(color: str) -> None:
    spec = ImageInput(height=60, width=80, color=color, mean=(127.5,), std=(127.5,))  # type: ignore[arg-type]
    tensor = TensorSpec("x", (1, 60, 80, spec.channels), np.dtype(np.int8), 0.007843137718737125, -1)
    planes = planes_of(scene(480, 640))
    of_planes, of_bgr = (np.zeros(tensor.shape, np.int8) for _ in range(2))
    preprocess = ImagePreprocessor(spec, tensor)
    assert preprocess._step is not None, "the way of the shipped detector"
    for _ in range(2):
        preprocess(planes, of_planes)
        preprocess(in_bgr(planes), of_bgr)
        off = np.abs(of_planes.astype(int) - of_bgr)
        assert off.mean() <= 1 and off.max() <= 8 and of_bgr.std() > 20, (off.mean(), off.max())
