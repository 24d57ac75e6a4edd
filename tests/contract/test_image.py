"""Preprocessing against a second implementation: plain loops of numpy in float64, written from the documentation."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vedette.contract.errors import ModelError, PictureError
from vedette.contract.image import ImagePreprocessor, Placement, as_bgr, pixel_table
from vedette.contract.manifest import ImageInput
from vedette.contract.types import TensorSpec


def tensor(height: int, width: int, channels: int = 3, dtype: str = "uint8", **quantisation: Any) -> TensorSpec:
    return TensorSpec("input", (1, height, width, channels), np.dtype(dtype), **quantisation)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def naive_bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, edges repeated, no antialiasing: what OpenCV documents for INTER_LINEAR; float64."""
    out = np.empty((height, width, pixels.shape[2]))
    for i in range(height):
        for j in range(width):
            y = (i + 0.5) * pixels.shape[0] / height - 0.5
            x = (j + 0.5) * pixels.shape[1] / width - 0.5
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            total = np.zeros(pixels.shape[2])
            for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                    inside = pixels[min(max(yy, 0), pixels.shape[0] - 1), min(max(xx, 0), pixels.shape[1] - 1)]
                    total += wy * wx * inside
            out[i, j] = total
    return out


def naive_color(bgr: np.ndarray, color: str) -> np.ndarray:
    if color == "rgb":
        return bgr[..., ::-1].astype(np.float64)
    if color == "bgr":
        return bgr.astype(np.float64)
    return (0.114 * bgr[..., 0] + 0.587 * bgr[..., 1] + 0.299 * bgr[..., 2])[..., None]  # ITU-R BT.601


def naive_raw(pixels: np.ndarray, spec: ImageInput, to: TensorSpec) -> np.ndarray:
    """``round((p - mean) / std / scale) + zero_point``, half away from zero, saturated."""
    real = (pixels - np.array(spec.mean)) / np.array(spec.std)
    if to.dtype == np.float32:
        return real.astype(np.float32)
    steps = real / to.scale if to.scale else real
    rounded = np.sign(steps) * np.floor(np.abs(steps) + 0.5) + to.zero_point
    info = np.iinfo(to.dtype.name)
    return np.clip(rounded, info.min, info.max).astype(to.dtype)


# --- Colour and quantisation: exact, on frames that need no resizing ---

EXACT = [
    pytest.param("uint8", {}, {}, id="uint8 as it is"),
    pytest.param("uint8", {}, {"scale": 1.0}, id="uint8 quantised by 1"),
    pytest.param("uint8", {"mean": (127.5,), "std": (127.5,)}, {"scale": 1 / 128, "zero_point": 128}, id="Coral"),
    pytest.param("uint8", {"std": (255.0,)}, {"scale": np.float32(1 / 255).item()}, id="uint8 0..1"),
    pytest.param("int8", {"std": (255.0,)}, {"scale": np.float32(1 / 255).item(), "zero_point": -128}, id="int8 0..1"),
    pytest.param("int8", {"mean": (128.0,)}, {"scale": 1.0}, id="int8 -128..127"),
    pytest.param("int8", {"mean": (128.0,)}, {}, id="int8 not quantised"),
    pytest.param("int8", {"mean": (10.0,), "std": (20.0,)}, {"scale": 0.03, "zero_point": 5}, id="int8 saturating"),
    pytest.param("int16", {"mean": (127.5,), "std": (127.5,)}, {"scale": 1 / 32768}, id="int16"),
    pytest.param("int16", {}, {}, id="int16 not quantised"),
    pytest.param("float32", {}, {}, id="float32 0..255"),
    pytest.param("float32", {"mean": (127.5,), "std": (127.5,)}, {}, id="float32 -1..1"),
]


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize(("dtype", "values", "quantisation"), EXACT)
def test_colour_and_quantisation_are_exact(dtype: str, values: Any, quantisation: Any, color: Any) -> None:
    spec = ImageInput(height=19, width=31, color=color, **values)
    to = tensor(19, 31, spec.channels, dtype, **quantisation)
    frame = picture(19, 31)
    out = np.full(to.shape, 77, to.dtype)
    assert ImagePreprocessor(spec, to)(frame, out) == Placement(0, 0, 1, 1)
    wanted = naive_color(frame, color)
    if color == "gray":
        # whichever way the grey value is rounded
        low, high = (naive_raw(np.clip(np.rint(wanted) + d, 0, 255), spec, to) for d in (-1, 1))
        assert (out[0] >= low).all()
        assert (out[0] <= high).all()
    else:
        np.testing.assert_array_equal(out[0], naive_raw(wanted, spec, to))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "float32"])
def test_each_channel_has_its_own_mean_and_std(color: Any, dtype: str) -> None:
    spec = ImageInput(height=9, width=8, color=color, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    scale = {"uint8": 0.02, "int8": 0.02, "int16": 1e-4, "float32": 0.0}[dtype]
    to = tensor(9, 8, 3, dtype, scale=scale, zero_point={"uint8": 110, "int8": -14}.get(dtype, 0))
    frame = picture(9, 8)
    out = to.allocate()
    ImagePreprocessor(spec, to)(frame, out)
    np.testing.assert_array_equal(out[0], naive_raw(naive_color(frame, color), spec, to))


def test_a_grey_picture_stays_exactly_as_grey_as_it_was() -> None:
    frame = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    spec = ImageInput(height=16, width=16, color="gray")
    out = np.zeros((1, 16, 16, 1), np.uint8)
    ImagePreprocessor(spec, tensor(16, 16, 1))(frame, out)
    np.testing.assert_array_equal(out[0], frame[:, :, :1])


@pytest.mark.parametrize("std", [127.5, 127.0, 128.0, 129.5])
@pytest.mark.parametrize("zero_point", [-2, -1, 0])
def test_every_pixel_value_becomes_what_the_table_says(std: float, zero_point: int) -> None:
    """Scales about those of networks trained on -1..1, whose tables are nearly ``p - 128``: by more than one way of
    filling the tensor."""
    spec = ImageInput(height=16, width=16, color="bgr", mean=(127.5,), std=(std,))
    to = tensor(16, 16, 3, "int8", scale=2 / 255, zero_point=zero_point)
    frame = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    out = to.allocate()
    ImagePreprocessor(spec, to)(frame, out)
    np.testing.assert_array_equal(out[0], np.repeat(pixel_table(spec, to).reshape(16, 16, 1), 3, axis=2))


def test_a_half_rounds_away_from_zero() -> None:
    spec = ImageInput(height=1, width=1, mean=(2.0,), std=(2.0,))
    table = pixel_table(spec, tensor(1, 1, 3, "int8", scale=1.0, zero_point=3))
    # (0-2)/2 = -1, -0.5, 0, 0.5, 1, 1.5; and 3 more
    assert table[:6, 0].tolist() == [2, 2, 3, 4, 4, 5]


# --- Resizing: within a grey level of the arithmetic ---

SIZES = [(24, 40), (40, 24), (33, 17), (8, 8), (61, 8), (10, 57), (12, 20)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(16, 16), (12, 20), (21, 9)])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_stretching_is_bilinear(size: tuple[int, int], target: tuple[int, int], color: Any) -> None:
    frame = picture(*size)
    spec = ImageInput(height=target[0], width=target[1], color=color)
    out = np.zeros((1, *target, spec.channels), np.uint8)
    placement = ImagePreprocessor(spec, tensor(*target, spec.channels))(frame, out)
    assert placement == Placement(0, 0, 1, 1)
    wanted = naive_color(naive_bilinear(frame, *target), color)
    assert np.abs(out[0] - wanted).max() <= (1.5 if color == "rgb" else 2.0)


def rectangle(placement: Placement, width: int, height: int) -> tuple[int, int, int, int]:
    """Where the whole frame lies in a tensor of this size, pixels: what the placement says, solved for the tensor."""
    x0, y0 = placement.offset_x * width, placement.offset_y * height
    x1 = (1 / placement.scale_x + placement.offset_x) * width
    y1 = (1 / placement.scale_y + placement.offset_y) * height
    whole = [round(v) for v in (x0, y0, x1, y1)]
    assert np.allclose(whole, [x0, y0, x1, y1], atol=1e-6)
    return whole[0], whole[1], whole[2], whole[3]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(16, 16), (12, 20), (21, 9)])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_a_letterbox_keeps_the_aspect_ratio_and_pads_the_rest(
    size: tuple[int, int], target: tuple[int, int], color: Any
) -> None:
    frame = picture(*size)
    spec = ImageInput(height=target[0], width=target[1], color=color, resize="letterbox", pad_value=114)
    out = np.zeros((1, *target, spec.channels), np.uint8)
    placement = ImagePreprocessor(spec, tensor(*target, spec.channels))(frame, out)
    x0, y0, x1, y1 = rectangle(placement, target[1], target[0])
    factor = min(target[0] / size[0], target[1] / size[1])
    assert abs((x1 - x0) - size[1] * factor) <= 1
    assert abs((y1 - y0) - size[0] * factor) <= 1
    assert abs(x0 - (target[1] - x1)) <= 1  # centred
    assert abs(y0 - (target[0] - y1)) <= 1
    wanted = np.full((*target, spec.channels), 114.0)
    wanted[y0:y1, x0:x1] = naive_color(naive_bilinear(frame, y1 - y0, x1 - x0), color)
    assert np.abs(out[0] - wanted).max() <= (2.0 if color == "gray" else 1.5)
    outside = np.ones(target, bool)
    outside[y0:y1, x0:x1] = False
    assert (out[0][outside] == 114).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(16, 16), (12, 20), (21, 9)])
def test_a_center_crop_shows_the_middle(size: tuple[int, int], target: tuple[int, int]) -> None:
    frame = picture(*size)
    spec = ImageInput(height=target[0], width=target[1], color="bgr", resize="center-crop")
    out = np.zeros((1, *target, 3), np.uint8)
    placement = ImagePreprocessor(spec, tensor(*target))(frame, out)
    # the frame's pixels at the tensor's corners
    height, width = size
    x0, x1 = (-placement.offset_x * placement.scale_x * width, (1 - placement.offset_x) * placement.scale_x * width)
    y0, y1 = (-placement.offset_y * placement.scale_y * height, (1 - placement.offset_y) * placement.scale_y * height)
    edges = [round(v) for v in (x0, y0, x1, y1)]
    assert np.allclose(edges, [x0, y0, x1, y1], atol=1e-6)
    left, top, right, bottom = edges
    factor = min(width / target[1], height / target[0])
    assert abs((right - left) - target[1] * factor) <= 1
    assert abs((bottom - top) - target[0] * factor) <= 1
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    assert left == 0 or top == 0  # it is the largest there is
    wanted = naive_bilinear(frame[top:bottom, left:right], *target)
    assert np.abs(out[0] - wanted).max() <= 1.5


def test_nearest_and_area() -> None:
    frame = picture(24, 32)
    for interpolation, wanted in (
        ("nearest", frame[::4, ::4]),
        ("area", np.rint(frame.reshape(6, 4, 8, 4, 3).mean(axis=(1, 3)))),
    ):
        spec = ImageInput(height=6, width=8, color="bgr", interpolation=interpolation)  # type: ignore[arg-type]
        out = np.zeros((1, 6, 8, 3), np.uint8)
        ImagePreprocessor(spec, tensor(6, 8))(frame, out)
        assert np.abs(out[0].astype(int) - wanted).max() <= (0 if interpolation == "nearest" else 1)


# --- A thing that is somewhere in the frame is found there again ---

sides = st.integers(8, 90)
resizes = st.sampled_from(["stretch", "letterbox", "center-crop"])


@given(sides, sides, st.integers(24, 60), st.integers(24, 60), resizes)
def test_what_is_seen_in_the_tensor_is_found_in_the_frame(h: int, w: int, th: int, tw: int, resize: Any) -> None:
    # a bright rectangle in the middle third
    frame = np.zeros((h, w, 3), np.uint8)
    box = (w // 3, h // 3, w - w // 3, h - h // 3)
    frame[box[1] : box[3], box[0] : box[2]] = 255
    spec = ImageInput(height=th, width=tw, resize=resize)
    out = np.zeros((1, th, tw, 3), np.uint8)
    placement = ImagePreprocessor(spec, tensor(th, tw))(frame, out)
    # fewer than four pixels of it would only be seen as a blur
    assume((box[2] - box[0]) / w / placement.scale_x * tw >= 4)
    assume((box[3] - box[1]) / h / placement.scale_y * th >= 4)
    ys, xs = np.nonzero(out[0, :, :, 0] >= 128)
    seen = np.array([[xs.min() / tw, ys.min() / th, (xs.max() + 1) / tw, (ys.max() + 1) / th]], np.float32)
    found = placement.to_frame(seen)[0]
    if resize == "center-crop" and (seen[0, 0] == 0 or seen[0, 1] == 0):
        return  # the rectangle was cropped
    # a pixel of either picture
    tolerance = np.array([1 / w + placement.scale_x / tw, 1 / h + placement.scale_y / th] * 2)
    wanted = np.array([box[0] / w, box[1] / h, box[2] / w, box[3] / h])
    assert (np.abs(found - wanted) <= tolerance + 1e-6).all()


@given(sides, sides, sides, sides, resizes, hnp.arrays(np.float64, 4, elements=st.floats(0, 1)))
def test_boxes_go_to_the_tensor_and_back(h: int, w: int, th: int, tw: int, resize: Any, corners: np.ndarray) -> None:
    spec = ImageInput(height=th, width=tw, resize=resize)
    placement = ImagePreprocessor(spec, tensor(th, tw))(
        np.zeros((h, w, 3), np.uint8), np.zeros((1, th, tw, 3), np.uint8)
    )
    scale = np.array([placement.scale_x, placement.scale_y] * 2)
    offset = np.array([placement.offset_x, placement.offset_y] * 2)
    in_tensor = (corners / scale + offset).astype(np.float32)
    back = placement.to_frame(in_tensor[None])
    assert back.dtype == np.float32
    assert np.abs(back[0] - corners).max() <= 1e-4


def test_boxes_are_cut_off_at_the_frames_edges() -> None:
    boxes = np.array([[-1, 0.2, 0.5, 3]], np.float32)
    assert Placement(0, 0.25, 1, 2).to_frame(boxes).tolist() == [[0, 0, 0.5, 1]]
    assert Placement(0, 0, 1, 1).to_frame(np.empty((0, 4), np.float32)).shape == (0, 4)


# --- Buffers ---


@given(
    st.lists(st.tuples(st.integers(8, 40), st.integers(8, 40)), min_size=2, max_size=5),
    st.integers(1, 24), st.integers(1, 24), resizes, st.sampled_from(["rgb", "bgr", "gray"]),
    st.sampled_from([("uint8", 0.0, 0), ("uint8", 0.7, 3), ("int8", 1.0, -128), ("int16", 0.5, 0), ("float32", 0.0, 0)]),
    st.booleans(),
)  # fmt: skip
def test_nothing_of_an_earlier_frame_is_left(
    frames: list[tuple[int, int]], height: int, width: int, resize: Any, color: Any, kind: tuple[str, float, int],
    signed: bool,
) -> None:  # fmt: skip
    # it is also how a result is noticed that OpenCV put elsewhere: the buffer would keep what was in it
    spec = ImageInput(height=height, width=width, resize=resize, color=color, pad_value=9)
    if signed and kind[0] == "int8":  # -1..1, where values fall behind by one from the middle on
        spec, kind = msgspec.structs.replace(spec, mean=(127.5,), std=(127.5,)), ("int8", 1 / 127, -1)
    to = tensor(height, width, spec.channels, kind[0], scale=kind[1], zero_point=kind[2])
    used = ImagePreprocessor(spec, to)
    out = to.allocate()
    for seed, (h, w) in enumerate(size for size in frames for _ in range(2)):
        frame = picture(h, w, seed)
        before = frame.copy()
        out.fill(99)
        fresh = np.full(to.shape, 101, to.dtype)
        assert used(frame, out) == ImagePreprocessor(spec, to)(frame, fresh)
        np.testing.assert_array_equal(out, fresh)
        np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center-crop"])
def test_frames_that_are_views_work(resize: Any) -> None:
    large = picture(60, 80)
    spec = ImageInput(height=16, width=24, resize=resize)
    run = ImagePreprocessor(spec, tensor(16, 24))
    for view in (large[10:43, 5:70], large[::2, ::3], large[:, ::-1], large[..., ::-1], large.transpose(1, 0, 2)):
        assert not view.flags.c_contiguous
        out, wanted = (np.zeros((1, 16, 24, 3), np.uint8) for _ in range(2))
        run(view, out)
        ImagePreprocessor(spec, tensor(16, 24))(np.ascontiguousarray(view), wanted)
        np.testing.assert_array_equal(out, wanted)


def test_read_only_frames_work() -> None:
    frame = picture(20, 20)
    frame.flags.writeable = False
    out = np.zeros((1, 16, 16, 3), np.uint8)
    ImagePreprocessor(ImageInput(height=16, width=16), tensor(16, 16))(frame, out)
    assert out.any()


@pytest.mark.parametrize(
    "out", [np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 16, 15, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)]
)
@pytest.mark.parametrize("values", [{}, {"mean": (3.0,)}])
def test_a_buffer_that_does_not_fit_is_refused(out: np.ndarray, values: Any) -> None:
    to = tensor(16, 16, 3, "uint8", scale=2.0)
    with pytest.raises(ValueError, match=r"out must be uint8 with shape \(1, 16, 16, 3\), but got"):
        ImagePreprocessor(ImageInput(height=16, width=16, **values), to)(picture(20, 20), out)


# --- What is refused ---


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.zeros((16, 16), np.uint8), "not a frame"),
        (np.zeros((16, 16, 4), np.uint8), "not a frame"),
        (np.zeros((16, 16, 3), np.float32), "not a frame"),
        (np.zeros((20, 20, 3), np.uint16), "not a frame"),
        (np.zeros((7, 20, 3), np.uint8), "picture too small: expected at least 8x8 pixels, found 20x7"),
        (np.zeros((0, 0, 3), np.uint8), "picture too small"),
    ],
)
def test_what_is_no_frame_is_refused(pixels: np.ndarray, says: str) -> None:
    run = ImagePreprocessor(ImageInput(height=16, width=16), tensor(16, 16))
    out, wanted = (np.zeros((1, 16, 16, 3), np.uint8) for _ in range(2))
    run(picture(20, 20), wanted)  # and is refused too where a frame of its size came before
    with pytest.raises(PictureError, match=says):
        run(pixels, out)
    run(picture(20, 20), out)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize(
    ("to", "says"),
    [
        (tensor(16, 17), r"expected shape \[1, 16, 16, 3\], found \[1, 16, 17, 3\]"),
        (tensor(16, 16, 1), r"found \[1, 16, 16, 1\]"),
        (TensorSpec("x", (16, 16, 3), np.dtype(np.uint8)), r"input tensor x: expected shape"),
        (TensorSpec("x", (1, 3, 16, 16), np.dtype(np.uint8)), r"found \[1, 3, 16, 16\]"),
        (tensor(16, 16, 3, "float64"), "dtype uint8, int8, int16 or float32, found float64"),
        (tensor(16, 16, 3, "int8"), r"does not fit its dtype: expected -128..127 for int8, found 0..255"),
    ],
)
def test_a_tensor_that_does_not_fit_the_manifest_is_refused(to: TensorSpec, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        ImagePreprocessor(ImageInput(height=16, width=16), to)


# --- as_bgr ---


def test_any_decoded_picture_becomes_bgr() -> None:
    frame = picture(9, 11)
    alpha = np.dstack([frame, np.full((9, 11), 7, np.uint8)])
    grey = frame[:, :, 0]
    assert as_bgr(frame) is frame
    np.testing.assert_array_equal(as_bgr(alpha), frame)
    np.testing.assert_array_equal(as_bgr(grey), np.dstack([grey] * 3))
    np.testing.assert_array_equal(as_bgr(grey[:, :, None]), np.dstack([grey] * 3))
    deep = frame.astype(np.uint16) * 257  # 0..65535
    np.testing.assert_array_equal(as_bgr(deep), frame)
    np.testing.assert_array_equal(as_bgr(deep[:, :, 0]), np.dstack([grey] * 3))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 5), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 3), bool), np.zeros((1, 4, 4, 3), np.uint8), np.array(3, np.uint8),
    ],
    ids=lambda p: f"{p.shape} {p.dtype}",
)  # fmt: skip
def test_what_is_no_picture_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(PictureError, match="not a picture"):
        as_bgr(pixels)
