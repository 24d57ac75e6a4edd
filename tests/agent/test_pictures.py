"""Picture files: the right pixels, or one clear error."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.errors import PictureError
from vedette.contract.types import Detections, Poses, Segments
from vedette.pictures.captions import place_captions
from vedette.pictures.drawing import SUFFIXES, draw, read_picture, write_picture

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (24, 32, 3), np.uint8)


def save(path: Path, pixels: Any) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def test_what_is_no_file_is_no_picture_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for name in ("a.png", "b.png"):
        with pytest.raises(PictureError, match="expected a regular file, found a device or pipe"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_colour_comes_back_as_bgr(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(read_picture(save(tmp_path / f"a{suffix}", COLOUR)), COLOUR)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_back_nearly(tmp_path: Path, suffix: str) -> None:
    smooth = np.tile(np.linspace(40, 200, 64, dtype=np.uint8), (48, 1))
    pixels = np.dstack([smooth, smooth[:, ::-1], smooth])
    assert np.abs(read_picture(save(tmp_path / f"a{suffix}", pixels)).astype(int) - pixels).mean() < 5


@pytest.mark.parametrize("suffix", [".png", ".pgm", ".bmp"])
def test_grey_is_spread(tmp_path: Path, suffix: str) -> None:
    pixels = read_picture(save(tmp_path / f"a{suffix}", COLOUR[:, :, 0]))
    assert np.array_equal(pixels, np.dstack([COLOUR[:, :, 0]] * 3))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    with_alpha = np.dstack([COLOUR, RNG.integers(0, 256, COLOUR.shape[:2], np.uint8)])
    assert np.array_equal(read_picture(save(tmp_path / "a.png", with_alpha)), COLOUR)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight(tmp_path: Path, channels: int) -> None:
    deep = RNG.integers(0, 65536, (16, 16, channels), np.uint16)
    pixels = read_picture(save(tmp_path / "a.png", deep))
    expected = (deep >> 8).astype(np.uint8)
    assert pixels.dtype == np.uint8 and pixels.shape == (16, 16, 3)
    assert np.array_equal(pixels, np.dstack([expected[:, :, 0]] * 3) if channels == 1 else expected[:, :, :3])


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}  # fmt: skip
"""What each of Exif's orientations asks for: which row and column of the scene the first ones stored are."""
OF_WEBP = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 12), reason="OpenCV reads a WebP's Exif from 4.12 on"
)


def held(path: Path, orientation: int) -> Path:
    """A picture whose file says how its camera was held: its first quarter is red, the rest green, grey and blue."""
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    data = save(path, quarters()).read_bytes()
    if path.suffix == ".jpg":
        app1 = b"Exif\0\0" + exif
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + data[2:]
    elif path.suffix == ".png":
        chunk = b"eXIf" + exif
        data = data[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    else:
        head = struct.pack("<4sII", b"VP8X", 10, 8) + (32 - 1).to_bytes(3, "little") + (24 - 1).to_bytes(3, "little")
        body = b"WEBP" + head + data[12:] + struct.pack("<4sI", b"EXIF", len(exif)) + exif
        data = b"RIFF" + struct.pack("<I", len(body)) + body
    path.write_bytes(data)
    return path


def quarters() -> Any:
    scene = np.zeros((24, 32, 3), np.uint8)
    scene[:12, :16] = (0, 0, 250)
    scene[:12, 16:] = (0, 250, 0)
    scene[12:, :16] = (120, 120, 120)
    scene[12:, 16:] = (250, 0, 0)
    return scene


@pytest.mark.parametrize(
    ("suffix", "orientation"),
    [*((".jpg", orientation) for orientation in UPRIGHT), (".png", 6), pytest.param(".webp", 6, marks=OF_WEBP)],
)
def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path: Path, suffix: str, orientation: int) -> None:
    pixels = read_picture(held(tmp_path / f"a{suffix}", orientation))
    upright = UPRIGHT[orientation](quarters())
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright)[2:10, 2:10].max() < 40, "its first corner"
    assert np.abs(pixels.astype(int) - upright).mean() < 25


def png(width: int, height: int, data: bytes | None = None) -> bytes:
    """A valid grey PNG, of zeros unless told otherwise; large ones deflate to little."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    if data is None:
        deflate = zlib.compressobj(1)
        row = bytes(1 + (width + 7) // 8)  # 1 bit a pixel
        data = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(path: Path) -> PictureError:
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    line = str(caught.value)
    assert str(path) in line and line.isprintable()
    return caught.value


def test_a_picture_of_400_megapixels_is_refused_by_its_head(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png(20_000, 20_000))
    assert path.stat().st_size < 1_000_000
    error = refused(path)
    assert (error.problem, error.found) == ("picture too large", "20000x20000")


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tif", ".webp"])
def test_a_head_that_promises_too_much_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", COLOUR)
    data = bytearray(path.read_bytes())
    if suffix == ".bmp":
        data[18:26] = struct.pack("<ii", 30_000, 30_000)
    elif suffix == ".ppm":
        data = bytearray(b"P6\n30000 30000\n255\n" + bytes(100))
    else:
        data[-40:] = b"\xff" * 40
    path.write_bytes(data)
    try:
        read_picture(path)
    except PictureError as error:
        assert str(path) in str(error)
    else:
        assert suffix in (".tif", ".webp"), "a damaged end may still be decoded"


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (7, 7)])
def test_a_picture_too_small_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    error = refused(save(tmp_path / "a.png", np.zeros((*size, 3), np.uint8)))
    assert error.problem == "picture too small" and error.found == f"{size[1]}x{size[0]}"


def test_the_least_size_is_read(tmp_path: Path) -> None:
    assert read_picture(save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.jpg", b"this is no picture\n" * 10),
        ("svg.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='10'"),
        ("svg2.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='100' height='100'></svg>"),
        ("xml.png", b"<?xml version='1.0'?><svg"),
        ("magic.png", b"\x89PNG\r\n\x1a\n"),
        ("magic.jpg", b"\xff\xd8\xff"),
        ("magic.gif", b"GIF89a"),
        ("magic.webp", b"RIFF\x10\0\0\0WEBPVP8 "),
        ("magic.tif", b"II*\0\x08\0\0\0\xff\xff"),
        ("magic.tif2.tif", b"MM\0*\xff\xff\xff\xff"),
        ("magic.ppm", b"P6\n"),
        ("magic2.ppm", b"P6\nx y\n"),
        ("magic.bmp", b"BM"),
        ("jp2.png", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 20),
        ("heif.png", b"\0\0\0\x18ftypheic" + b"\0" * 20),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in str(refused(tmp_path / "none.png"))
    refused(tmp_path)


def test_a_file_that_never_ends_is_refused() -> None:
    refused(Path("/dev/zero"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"])
def test_a_truncated_picture_is_refused_or_read_but_never_a_traceback(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", COLOUR)
    data = path.read_bytes()
    for length in sorted({1, 2, 4, 8, 12, 16, 20, 24, 26, 30, 40, 50, len(data) // 2, len(data) - 1}):
        path.write_bytes(data[:length])
        try:
            assert read_picture(path).shape[2] == 3
        except PictureError as error:
            assert str(path) in str(error)


HEADS = [
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x10\0\0\0WEBPVP8X", b"II*\0", b"MM\0*", b"P6\n",
    b"P5 ", b"BM", b"\0\0\0\x0cjP  \r\n\x87\n", b"<svg ", b"<?xml ", b"8BPS", b"\0\0\0\x18ftypavif", b"",
]  # fmt: skip


@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(head + tail)
    try:
        assert read_picture(path).shape[2] == 3
    except PictureError as error:
        assert str(path) in str(error)


def found(count: int = 3) -> Detections:
    boxes = np.array([[0.1, 0.1, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.7, 0.7, 0.7, 0.7]], np.float32)[:count]
    return Detections(boxes, np.array([0.9, 0.5, 0.3], np.float32)[:count], np.array([0, 1, 2], np.int32)[:count])


LABELS = ["person", "a very long label " * 10, "é\u20ac"]


@pytest.mark.parametrize("size", [(8, 8), (48, 64), (600, 800)])
def test_drawing_leaves_the_picture_alone_and_changes_its_copy(size: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (*size, 3), np.uint8)
    before = pixels.copy()
    pixels.setflags(write=False)
    drawn = draw(pixels, found(), LABELS)
    assert np.array_equal(pixels, before)
    assert drawn.shape == pixels.shape and not np.array_equal(drawn, pixels)


def test_a_box_is_drawn_where_it_is() -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    box = Detections(np.array([[0.5, 0.5, 0.9, 0.9]], np.float32), np.array([0.9], np.float32), np.array([0], np.int32))
    drawn = draw(pixels, box, ["x"])
    ys, xs = np.nonzero(drawn.any(axis=2))
    assert abs(int(xs.max()) - 270) <= 2 and abs(int(ys.max()) - 270) <= 2
    assert abs(int(xs.min()) - 150) <= 2
    assert not drawn[160:260, 160:260].any(), "the inside is left to be seen"


def test_key_points_are_drawn_where_they_are_and_rings_where_unsure() -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    points = np.array([[[0.2, 0.1, 0.9], [0.6, 0.5, 0.1], [0.9, 0.9, 0.9], [-1e5, np.float32(3e5), 0.9]]], np.float32)
    drawn = draw(pixels, Poses(np.ones(1, np.float32), points), ["nose", "knee", "???", "far"]).any(axis=2)
    assert drawn[30, 60], "a point"
    assert drawn[150 - 2 : 153, 180 - 2 : 183].any() and not drawn[150, 180], "a ring"
    assert not drawn[270, 270], "a point without a name"
    ys, xs = np.nonzero(drawn)
    assert xs.min() >= 57 and xs.max() <= 184 and ys.max() <= 154, "and nothing else"


def test_poses_with_boxes_and_segments_have_theirs_drawn() -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    box = np.array([[0.5, 0.5, 0.9, 0.9]], np.float32)
    pose = Poses(np.ones(1, np.float32), np.full((1, 1, 3), 0.7, np.float32), box)
    segment = Segments(np.zeros(1, np.int32), np.full(1, 0.16, np.float32), box, np.full((1, 2), 0.7, np.float32))
    for found in (pose, segment):
        drawn = draw(pixels, found, ["x"]).any(axis=2)
        assert drawn[200, 150] and drawn[270, 200] and drawn[210, 210]
        assert not drawn[160:200, 160:200].any()


def test_a_worse_box_never_lies_over_a_better_one() -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    boxes = np.array([[0.3, 0.3, 0.7, 0.7], [0.5, 0.3, 0.9, 0.7]], np.float32)  # their lower edges share 150 to 210
    shared = []
    for scores in ([0.9, 0.4], [0.4, 0.9]):
        found = Detections(boxes, np.array(scores, np.float32), np.array([0, 1], np.int32))
        drawn = draw(pixels, found, ["", ""])
        alone = [draw(pixels, Detections(*(part[n : n + 1] for part in (found.boxes, found.scores, found.class_ids))),
                      ["", ""]) for n in (0, 1)]  # fmt: skip
        apart = [np.abs(drawn.astype(int) - one)[205:215, 160:200].max() for one in alone]
        shared.append(int(np.argmin(apart)))
    assert shared == [0, 1]


def test_captions_make_room_for_each_other() -> None:
    boxes = [(100, 100, 130, 200), (110, 102, 140, 202), (120, 104, 150, 204), (0, 0, 20, 20), (290, 290, 300, 300)]
    places = place_captions(boxes, [(60, 12)] * len(boxes), (300, 300))
    assert places[0] == (100, 88, 160, 100), "the best has its own corner"
    for number, (left, top, right, bottom) in enumerate(places):
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 300
        assert not any(a < right and left < c and b < bottom and top < d for a, b, c, d in places[:number])


def test_captions_without_room_stay_at_their_boxes() -> None:
    places = place_captions([(10, 10, 20, 20)] * 20, [(30, 12)] * 20, (32, 24))
    assert all(0 <= left <= 2 and 0 <= top <= 12 for left, top, _, _ in places)
    assert places[-1] == places[0], "over its own box, under the better ones"
    assert place_captions([(5, 5, 9, 9)], [(99, 12)], (32, 24)) == [(0, 0, 99, 12)]


def test_nothing_found_draws_nothing() -> None:
    assert np.array_equal(draw(COLOUR, Detections.none(), []), COLOUR)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pgm"}))
def test_what_is_written_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    pixels = np.full((16, 16, 3), 120, np.uint8)
    write_picture(path, pixels)
    assert np.abs(read_picture(path).astype(int) - pixels).max() <= 3
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["out", "out.txt", "out.mp4", "none/out.png", "folder.png"])
def test_what_cannot_be_written_is_one_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PictureError, match="cannot be written") as caught:
        write_picture(tmp_path / name, COLOUR)
    assert str(tmp_path) in str(caught.value)
    assert [f.name for f in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize(("name", "size"), [("a.webp", (8, 20_000)), ("a.pgm", (8, 8))])
def test_a_picture_that_its_format_cannot_hold_is_one_error(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    with pytest.raises(PictureError, match="cannot be written"):
        write_picture(tmp_path / name, np.zeros((*size, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
