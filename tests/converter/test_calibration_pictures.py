"""Which pictures a network is calibrated with, and what happens to those that are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from converter_project import write_pictures

from vedette.contract.errors import PictureError
from vedette.contract.manifest import ImageInput
from vedette_converter import calibrate, cli
from vedette_converter.pictures import dataset, draw, list_pictures, read_picture
from vedette_converter.train.data import list_labelled, list_unlabelled

SPEC = ImageInput(height=16, width=16, mean=(127.5,), std=(127.5,))


def test_a_draw_is_the_seeds(tmp_path: Path) -> None:
    pictures = [tmp_path / f"{n}.jpg" for n in range(100)]
    first = draw(pictures, 10, seed=1)
    assert len(set(first)) == 10
    assert first == draw(pictures, 10, seed=1)
    assert first != draw(pictures, 10, seed=2)
    assert first == sorted(first, key=pictures.index)
    assert draw(pictures, 1000, seed=1) == pictures


def test_samples_are_what_the_network_was_trained_on(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    cv2.imwrite(str(tmp_path / "p" / "blue.png"), np.full((20, 30, 3), (255, 0, 51), np.uint8))  # BGR
    calibration = calibrate.choose(tmp_path / "p", 160, seed=1)
    (sample,) = calibration.samples(SPEC)
    assert sample.shape == (1, 16, 16, 3) and sample.dtype == np.float32
    np.testing.assert_allclose(sample[0, 3, 3], [51 / 127.5 - 1, -1.0, 1.0], atol=1e-6)
    assert calibration.data.count == 1 and calibration.data.name == "p"


def test_a_data_set_is_its_files_not_its_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 3, seed=1)
    write_pictures(tmp_path / "b", 3, seed=1)
    write_pictures(tmp_path / "c", 3, seed=2)
    a, b, c = (dataset("x", list_pictures(tmp_path / name)) for name in "abc")
    assert a == b
    assert a.sha256 != c.sha256


def test_a_stray_picture_beside_folders_of_pictures_is_named(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        write_pictures(tmp_path / label, 3, seed=1)
    everything = list_pictures(tmp_path)
    assert len(everything) == 6 and list(list_unlabelled(tmp_path).files) == everything
    assert len(list_labelled(tmp_path, ["cat", "dog"]).files) == 6
    shutil.copy(everything[0], tmp_path / "stray.jpg")
    for read in (list_pictures, list_unlabelled):
        with pytest.raises(PictureError, match=r"pictures beside folders of pictures: .* found stray.jpg and cat/"):
            read(tmp_path)
    with pytest.raises(PictureError, match=r"stray.jpg: a picture without a label"):
        list_labelled(tmp_path, ["cat", "dog"])


def test_pictures_deeper_down_are_found_and_hidden_folders_left_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "monday" / "morning", 2, seed=1)
    write_pictures(tmp_path / "linked-from", 2, seed=2)
    (tmp_path / "monday" / "noon").symlink_to(tmp_path / "linked-from", target_is_directory=True)
    assert len(list_pictures(tmp_path / "monday")) == 4
    write_pictures(tmp_path / "linked-from" / ".thumbnails", 2, seed=3)
    assert len(list_pictures(tmp_path / "linked-from")) == 2


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no picture")
    with pytest.raises(PictureError, match=r"no pictures: expected files named .*\.jpg"):
        calibrate.choose(tmp_path, 160, seed=1)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="nowhere: folder cannot be read: found No such file"):
        calibrate.choose(tmp_path / "nowhere", 160, seed=1)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 no more than a head"])
def test_a_picture_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=r"broken\.jpg: no picture that can be decoded; take it out"):
        list(calibrate.choose(tmp_path, 160, seed=1).samples(SPEC))


def test_opencv_says_nothing_of_a_picture_that_we_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    capfd.readouterr()
    write_pictures(tmp_path / "cut", 1, seed=1)
    (path,) = list_pictures(tmp_path / "cut")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(PictureError, match="no picture that can be decoded"):
        read_picture(path)
    assert capfd.readouterr().err == ""


def test_a_picture_too_small_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(PictureError, match=r"dot\.png: picture too small"):
        list(calibrate.choose(tmp_path, 160, seed=1).samples(SPEC))


def test_grey_and_alpha_become_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((9, 9), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((9, 9, 4), 7, np.uint8))
    for path in list_pictures(tmp_path):
        assert read_picture(path).shape == (9, 9, 3)
