"""JPEG: its header read by hand, and pictures of it no larger than they are needed."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from test_planes import scene

from vedette.contract.bgr import in_bgr, own_bgr
from vedette.contract.errors import PictureError, UndecodableError
from vedette.contract.image import ImagePreprocessor
from vedette.contract.jpeg import decode, fingerprint, read_jpeg, reduction
from vedette.contract.manifest import ImageInput
from vedette.contract.types import Frame, Jpeg, TensorSpec, UInt8Array


def coded(bgr: UInt8Array, *options: int) -> UInt8Array:
    """As a camera would."""
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90, *options])
    assert ok
    return np.asarray(data.reshape(-1), np.uint8)


def jpeg_of(height: int, width: int) -> Jpeg:
    return read_jpeg(coded(scene(height, width)))


@pytest.mark.parametrize("size", [(480, 640), (8, 8), (65, 131), (1, 3000)])
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_header_says_the_size(size: tuple[int, int], progressive: int, channels: int) -> None:
    bgr = scene(*size) if channels == 3 else np.asarray(scene(*size)[:, :, 0])
    jpeg = read_jpeg(coded(bgr, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive))
    assert (jpeg.height, jpeg.width) == size and jpeg.shape == (*size, 3)
    assert in_bgr(jpeg).shape == (*size, 3)
    assert bytes(jpeg.data[:2]) == b"\xff\xd8" and 20 < jpeg.scan < len(jpeg.data)


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def test_what_may_stand_in_a_header_is_passed_over() -> None:
    data = coded(scene(36, 100)).tobytes()
    exif = segment(0xE1, b"Exif\0\0" + bytes(40_000))
    filled = b"\xff\xff\xff" + segment(0xFE, b"a comment with \xff\xda and \xff\xc0 in it")
    odd = np.frombuffer(data[:2] + exif + filled + b"\xff\x01" + data[2:], np.uint8)
    jpeg = read_jpeg(odd)
    assert (jpeg.height, jpeg.width) == (36, 100)
    assert jpeg.scan - len(odd) == read_jpeg(np.frombuffer(data, np.uint8)).scan - len(data)


def test_every_beginning_of_a_header_is_refused_in_one_line() -> None:
    data = coded(scene(36, 100))
    scan = read_jpeg(data).scan
    for end in range(scan - 12):  # of the scan's own header the length alone is read
        with pytest.raises(UndecodableError) as caught:
            read_jpeg(data[:end])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_stands_in_a_header_nothing_but_a_refusal_comes_of_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = coded(scene(36, 100))
    scan = read_jpeg(data).scan
    for _ in range(200):
        broken = data.copy()
        places = rng.integers(0, scan, rng.integers(1, 6))
        broken[places] = rng.integers(0, 256, len(places))
        try:
            decode(read_jpeg(broken), int(rng.choice([1, 2, 4, 8])))
        except PictureError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"RIFF1234AVI ", b"\x89PNG\r\n\x1a\n" + bytes(50)],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(UndecodableError, match="JPEG"):
        read_jpeg(np.frombuffer(data, np.uint8))


def test_a_header_without_a_size_is_refused() -> None:
    data = coded(scene(36, 100)).tobytes()
    at = data.index(b"\xff\xc0") + 5
    with pytest.raises(UndecodableError, match="without a size"):
        read_jpeg(np.frombuffer(data[:at] + b"\0\0" + data[at + 2 :], np.uint8))


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_one_that_cannot_be_decoded_says_so(factor: int) -> None:
    jpeg = jpeg_of(480, 640)
    with pytest.raises(UndecodableError, match="cannot be decoded"):
        decode(Jpeg(jpeg.data[: jpeg.scan - 14], jpeg.height, jpeg.width, jpeg.scan), factor)


def test_one_whose_header_lies_says_so() -> None:
    jpeg = jpeg_of(480, 640)
    with pytest.raises(UndecodableError, match="640x960"):
        decode(Jpeg(jpeg.data, 960, 640, jpeg.scan))


@pytest.mark.parametrize(
    ("have", "least", "factor"),
    [((480, 640), (300, 300), 1), ((600, 800), (300, 300), 2), ((599, 800), (300, 300), 1), ((720, 1280), (300, 300), 2),
     ((1080, 1920), (300, 300), 2), ((1200, 1920), (300, 300), 4), ((4000, 6000), (96, 96), 8), ((96, 96), (96, 96), 1),
     ((64, 64), (300, 300), 1)],
)  # fmt: skip
def test_how_much_smaller_it_may_be(have: tuple[int, int], least: tuple[int, int], factor: int) -> None:
    assert reduction(*have, *least) == factor


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_smaller_picture_is_the_mean_of_what_it_stands_for(factor: int) -> None:
    small = decode(jpeg_of(240, 320), factor)
    assert small.shape == (240 // factor, 320 // factor, 3)
    expected = cv2.resize(in_bgr(jpeg_of(240, 320)), (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    off = np.abs(small.astype(int) - expected)
    assert off.mean() < 2, off.mean()


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_what_is_over_at_the_edges_counts_as_a_pixel(factor: int) -> None:
    assert decode(jpeg_of(243, 325), factor).shape == (-(-243 // factor), -(-325 // factor), 3)


def test_it_is_decoded_once_for_all_who_need_it_in_that_size() -> None:
    jpeg = jpeg_of(480, 640)
    half = decode(jpeg, 2)
    assert decode(jpeg, 2) is half
    assert (decode(jpeg, 8) == decode(jpeg_of(480, 640), 8)).all(), "whatever was decoded before"
    whole = in_bgr(jpeg)
    assert whole.shape == (480, 640, 3) and in_bgr(jpeg) is whole
    mine = own_bgr(jpeg)
    assert mine is not whole and (mine == whole).all()


def test_who_needs_it_while_another_decodes_it_waits_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines that share a camera are woken by the same frame."""
    jpeg, together, others = jpeg_of(96, 128), threading.Barrier(4), threading.Event()
    imdecode, calls = cv2.imdecode, []

    def slow(data: Any, flags: int) -> Any:
        calls.append(flags)
        others.wait(0.2)  # nobody sets it: the others come meanwhile
        return imdecode(data, flags)

    def needs(_: int) -> UInt8Array:
        together.wait(60)
        return decode(jpeg, 2)

    monkeypatch.setattr(cv2, "imdecode", slow)
    with ThreadPoolExecutor(4) as threads:
        pictures = list(threads.map(needs, range(4)))
    assert len(calls) == 1 and all(picture is pictures[0] for picture in pictures)


def test_it_is_not_turned_by_what_its_exif_says() -> None:
    upright = coded(scene(36, 100)).tobytes()
    turned = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    jpeg = read_jpeg(np.frombuffer(upright[:2] + segment(0xE1, turned) + upright[2:], np.uint8))
    assert in_bgr(jpeg).shape == (36, 100, 3)


def test_the_same_picture_has_the_same_fingerprint_whatever_the_time_says() -> None:
    data, other = (coded(picture).tobytes() for picture in (scene(120, 160), np.roll(scene(120, 160), 1, axis=1)))
    said = {
        fingerprint(read_jpeg(np.frombuffer(data[:2] + segment(0xFE, comment) + data[2:], np.uint8)))
        for comment in (b"12:00:00", b"12:00:01, and longer")
    }
    assert len(said) == 1
    assert fingerprint(read_jpeg(np.frombuffer(other, np.uint8))) not in said


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (243, 325), (97, 120), (60, 60)])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center-crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "area"])
def test_a_network_sees_the_same(size: tuple[int, int], color: str, resize: str, interpolation: str) -> None:
    spec = ImageInput(
        height=97, width=120, color=color, resize=resize, pad_value=77, interpolation=interpolation,  # type: ignore[arg-type]
    )  # fmt: skip
    shape = (1, 97, 120, 1 if color == "gray" else 3)
    preprocess = ImagePreprocessor(spec, TensorSpec("x", shape, np.dtype(np.uint8), 1.0, 0))
    jpeg = jpeg_of(*size)
    of_bgr, of_jpeg = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    expected = preprocess(in_bgr(jpeg_of(*size)), of_bgr)
    for _ in range(2):
        placement = preprocess(jpeg, of_jpeg)
        off = np.subtract(
            (placement.offset_x, placement.offset_y, placement.scale_x, placement.scale_y),
            (expected.offset_x, expected.offset_y, expected.scale_x, expected.scale_y),
        )
        assert np.abs(off).max() < 0.02
    away = np.abs(of_jpeg.astype(float) - of_bgr)
    assert away.mean() <= 2 and np.quantile(away, 0.99) <= 12, (away.mean(), np.quantile(away, 0.99))
    [factor] = jpeg.decoded
    assert (factor > 1) is (min(size) >= 2 * 97)


def test_a_network_of_pixels_as_they_are_gets_those() -> None:
    spec = ImageInput(height=32, width=32, interpolation="nearest")
    preprocess = ImagePreprocessor(spec, TensorSpec("x", (1, 32, 32, 3), np.dtype(np.uint8), 1.0, 0))
    of_bgr, of_jpeg = (np.zeros((1, 32, 32, 3), np.uint8) for _ in range(2))
    jpeg = jpeg_of(480, 640)
    preprocess(jpeg, of_jpeg)
    preprocess(in_bgr(jpeg), of_bgr)
    assert (of_jpeg == of_bgr).all()


def test_what_is_too_small_is_refused() -> None:
    preprocess = ImagePreprocessor(
        ImageInput(height=96, width=96), TensorSpec("x", (1, 96, 96, 3), np.dtype(np.uint8), 1.0, 0)
    )
    with pytest.raises(PictureError, match="found 6x96"):
        preprocess(jpeg_of(96, 6), np.zeros((1, 96, 96, 3), np.uint8))


def test_a_tiny_network_gets_a_picture_that_is_large_enough() -> None:
    preprocess = ImagePreprocessor(
        ImageInput(height=4, width=4), TensorSpec("x", (1, 4, 4, 3), np.dtype(np.uint8), 1.0, 0)
    )
    preprocess(jpeg_of(48, 48), np.zeros((1, 4, 4, 3), np.uint8))


def test_a_frame_knows_its_size_and_lets_its_memory_go() -> None:
    frame = Frame(3, 5, 7, jpeg_of(36, 100))
    assert (frame.width, frame.height) == (100, 36)
    black = frame.without_pixels()
    assert (black.width, black.height) == (100, 36) and not in_bgr(black.pixels).any()
