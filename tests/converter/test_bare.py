"""What is said of a plain ``.tflite``."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vedette_converter.bare import _speed
from vedette_converter.cli import main
from vedette_converter.train.kept import save_network


def test_what_became_slower_is_not_told_as_faster() -> None:
    assert _speed(0.25) == "4.00 times faster"
    assert _speed(1 / 0.58).startswith("1.72 times slower: `vedette-convert lint` says")


def test_a_second_input_is_named_where_a_classifier_is_expected(
    tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture, more = tf.keras.Input((8, 8, 3), name="picture"), tf.keras.Input((4,), name="more")
    mean = tf.keras.layers.GlobalAveragePooling2D()(picture)
    both = tf.keras.layers.Dense(3, name="classes")(tf.keras.layers.Concatenate()([mean, more]))
    save_network(tf.keras.Model([picture, more], both), tmp_path / "two.keras")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert main(["build", str(tmp_path / "two.keras"), "--data", str(tmp_path), "--evaluate", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert "--evaluate: there is no decoder for this network's results" in said
    assert "found picture float32[1, 8, 8, 3], more float32[1, 4] and classes float32[1, 3]; leave it out" in said


def test_a_size_is_stated_where_the_network_leaves_it_open(
    tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tf.keras.Input((None, None, 3))
    save_network(tf.keras.Model(picture, tf.keras.layers.Conv2D(2, 3)(picture)), tmp_path / "open.keras")
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), pixels)
    out = tmp_path / "open.tflite"
    asked = ["build", str(tmp_path / "open.keras"), "--data", str(tmp_path / "pictures"), "--out", str(out)]
    assert main(asked) == 2
    assert (
        "expected fixed dimensions, found [?, ?, ?, 3]; export it with fixed dimensions, or, of pictures, say --size"
        in (capsys.readouterr().err)
    )
    for text in ("12", "12x", "0x8", "12x8x3", "9000x1"):
        with pytest.raises(SystemExit):
            main([*asked, "--size", text])
    assert main([*asked, "--size", "12x8", "--quantise", "float32"]) == 0
    assert "| [1, 6, 10, 2] |" in capsys.readouterr().out


def test_a_grey_network_without_an_axis_for_channels_is_told_how_to_get_one(
    tf: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layers = tf.keras.layers
    first = tf.keras.Sequential([tf.keras.Input((28, 28)), layers.Flatten(), layers.Dense(10, activation="softmax")])
    save_network(first, tmp_path / "mnist.keras")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((28, 28, 3), np.uint8))
    assert main(["build", str(tmp_path / "mnist.keras"), "--data", str(tmp_path), "--evaluate", str(tmp_path)]) == 2
    assert "an axis for their channel: Reshape((28, 28)) behind Input((28, 28, 1))" in capfd.readouterr().err


@pytest.mark.parametrize(("offset", "noted"), [(1000.0, True), (0.0, False)])
def test_outputs_of_which_little_is_left_are_noted(
    tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], offset: float, noted: bool
) -> None:
    layers = tf.keras.layers
    numbers = tf.keras.Input((16,))
    far = layers.ReLU()(layers.Rescaling(1.0, offset=offset)(numbers))  # steps of four, for values of a few
    save_network(tf.keras.Model(numbers, layers.Rescaling(1.0, offset=-offset)(far)), tmp_path / "far.keras")
    np.save(tmp_path / "samples.npy", np.random.default_rng(1).normal(0, 1, (64, 16)).astype(np.float32))
    out = tmp_path / "far.tflite"
    assert main(["build", str(tmp_path / "far.keras"), "--data", str(tmp_path / "samples.npy"), "--out", str(out)]) == 0
    assert (
        "quantisation leaves little of what the network says: try --quantise mixed" in capsys.readouterr().out
    ) is noted


def test_scores_that_boxes_in_pixels_drown_are_noted(
    tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = tf.keras.layers
    numbers = tf.keras.Input((16, 4))
    scores = layers.Activation("sigmoid")(layers.Rescaling(1.0)(numbers))
    both = layers.Concatenate()([layers.Rescaling(100.0)(numbers), scores])
    save_network(tf.keras.Model(numbers, both), tmp_path / "yolo.keras")
    np.save(tmp_path / "samples.npy", np.random.default_rng(1).normal(0, 1, (64, 16, 4)).astype(np.float32))
    asked = ["build", str(tmp_path / "yolo.keras"), "--data", str(tmp_path / "samples.npy"), "--out"]
    assert main([*asked, str(tmp_path / "a.tflite")]) == 0
    said = capsys.readouterr().out
    assert "4 of the 8 along axis" in said and "never exceed its step of" in said and "try --quantise float16" in said
    assert main([*asked, str(tmp_path / "b.tflite"), "--quantise", "float16"]) == 0
    assert "never exceed" not in capsys.readouterr().out


def test_the_float_form_is_held_against_tensorflow(
    tf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = tf.keras.Input((16,))
    save_network(tf.keras.Model(numbers, tf.keras.layers.Dense(2)(numbers)), tmp_path / "net.keras")
    np.save(tmp_path / "samples.npy", np.ones((8, 16), np.float32))
    monkeypatch.setattr("vedette_converter.quantise.proof.MAX_FLOAT_ERROR", -1.0)
    out = tmp_path / "net.tflite"
    assert main(["build", str(tmp_path / "net.keras"), "--data", str(tmp_path / "samples.npy"), "--out", str(out)]) == 1
    assert "the float flatbuffer differs from TensorFlow" in capsys.readouterr().err and not out.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_for_what_is_made_on_the_way_is_one_line(
    tf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = tf.keras.Input((8, 8, 3))
    flat = tf.keras.layers.Flatten()(picture)
    save_network(tf.keras.Model(picture, tf.keras.layers.Dense(500)(flat)), tmp_path / "net.keras")  # 0.4 MB
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "vedette-test", str(disk)], check=True, capture_output=True
    )
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    try:
        code = main(["build", str(tmp_path / "net.keras"), "--data", str(tmp_path / "pictures")])
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert code == 2 and "disk: No space left on device; make room, or let TMPDIR name another folder" in line
