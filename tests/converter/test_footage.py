"""Frames of a camera: clips and folders, in order, sampled, split by time."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from vedette.contract.errors import PictureError
from vedette_converter.footage import read_footage, split
from vedette_converter.video import frames_of


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames, each 20 brighter than the last."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    for number in range(10):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def brightness(frames: object) -> list[int]:
    return [round(float(frame.mean()) / 20) for frame in frames]  # type: ignore[attr-defined]


def test_a_clips_frames_come_in_order_and_again(clip: Path) -> None:
    frames = read_footage(clip, 100)
    assert len(frames) == 10
    assert brightness(frames) == list(range(10)) == brightness(frames)


def test_every_kth_where_there_are_too_many(clip: Path) -> None:
    frames = read_footage(clip, 4)
    assert frames.numbers == (0, 3, 6, 9)
    assert brightness(frames) == [0, 3, 6, 9]


def test_the_last_frames_are_held_back(clip: Path) -> None:
    learned, held = split(read_footage(clip, 100), 0.4)
    assert brightness(learned) == [0, 1, 2, 3, 4, 5] and brightness(held) == [6, 7, 8, 9]
    assert held.dataset().count == 4 and held.dataset().sha256 == learned.dataset().sha256
    assert "from 6 to 9" in held.dataset().name
    with pytest.raises(PictureError, match="too few frames"):
        split(read_footage(clip, 1), 0.4)


def test_a_folders_pictures_are_frames_by_name(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), np.full((48, 64, 3), 20 * number, np.uint8))
    frames = read_footage(tmp_path, 100)
    assert brightness(frames) == [0, 1, 2]
    before = frames.sha256
    cv2.imwrite(str(tmp_path / "002.png"), np.full((48, 64, 3), 99, np.uint8))
    assert read_footage(tmp_path, 100).sha256 != before


def test_what_is_no_clip_is_named(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(PictureError, match=r"nothing\.mp4: frames cannot be read"):
        read_footage(tmp_path / "nothing.mp4", 10)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    with pytest.raises(PictureError, match=r"broken\.mp4: no clip that can be decoded"):
        read_footage(broken, 10)
    named = tmp_path / os.fsdecode(b"\xff.mp4")
    named.write_bytes(clip.read_bytes())
    with pytest.raises(PictureError, match="a video's name is no UTF-8"):
        read_footage(named, 10)
    with pytest.raises(PictureError, match="a video's name is no UTF-8"), frames_of(named, 10):
        pass
    frames = read_footage(clip, 100)
    clip.write_bytes(clip.read_bytes()[:6000])
    with pytest.raises(PictureError, match="the clip ends early"):
        list(frames)
