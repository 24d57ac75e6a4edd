"""Options on the command line that stand in for a manifest."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import numpy as np
import pytest
from real import DATA
from test_pipeline import SmallEngine

from vedette.cli.plain import DECODERS, add_plain_arguments, plain_model
from vedette.contract.errors import ModelError, UserError
from vedette.contract.image_options import ImageOptions
from vedette.contract.manifest import (
    BoxesOutput,
    ClassifyOutput,
    HeatmapOutput,
    ImageInput,
    OutputSpec,
    PoseOutput,
    PostprocessOutput,
    SegmentOutput,
    SsdAnchors,
    SsdOutput,
    SsdPriors,
    YoloOutput,
)
from vedette.contract.types import TensorSpec
from vedette.models.model import Model, ModelSpec, PlainModel


def parsed(line: str) -> PlainModel | None:
    parser = argparse.ArgumentParser()
    add_plain_arguments(parser)
    return plain_model(parser.parse_args(shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("--decoder classify --activation softmax", ClassifyOutput(activation="softmax")),
        ("--decoder tflite-detection-postprocess --set class_offset=1", PostprocessOutput(class_offset=1)),
        ("--decoder ssd --feature-maps 4x4,2x2", SsdOutput(anchors=SsdAnchors(feature_maps=((4, 4), (2, 2))))),
        (
            "--decoder ssd --feature-maps 4x4 --set 'anchors={min_scale=0.1}'",
            SsdOutput(anchors=SsdAnchors(feature_maps=((4, 4),), min_scale=0.1)),
        ),
        (
            "--decoder ssd --set 'anchors={feature_maps=[[4, 4]]}'",
            SsdOutput(anchors=SsdAnchors(feature_maps=((4, 4),))),
        ),
        (
            "--decoder yolo --set layout=columns --set objectness=false --set nms_iou=0.5",
            YoloOutput(layout="columns", objectness=False, nms_iou=0.5),
        ),
        ("--decoder yolo --set 'strides=[8, 16, 32]'", YoloOutput(strides=(8, 16, 32))),
        (
            """--decoder pose --set 'point=["x", "y", "-"]' --set score=1""",
            PoseOutput(point=("x", "y", "-"), score=1),
        ),
        ("--decoder pose-heatmap --set offsets=1 --set cells='corners'", HeatmapOutput(offsets=1, cells="corners")),
        (
            "--decoder ssd --set order=xywh --set 'priors={strides=[8, 16], sizes=[[10, 16.5], [32]]}'",
            SsdOutput(priors=SsdPriors(strides=(8, 16), sizes=((10.0, 16.5), (32.0,))), order="xywh"),
        ),
        (
            """--decoder boxes --set 'box=["x", "y", "width", "height"]' --activation softmax --set background=last""",
            BoxesOutput(box=("x", "y", "width", "height"), activation="softmax", background="last"),
        ),
        ("--decoder segment --activation sigmoid", SegmentOutput(activation="sigmoid")),
    ],
)
def test_a_decoder_with_its_options(line: str, output: OutputSpec) -> None:
    assert parsed(line) == PlainModel(output)


def test_every_decoder_can_be_named() -> None:
    for name in DECODERS:
        found = parsed(f"--decoder {name}" + (" --feature-maps 2x2" if name == "ssd" else ""))
        assert found is not None and found.output is not None


def test_how_pixels_become_the_input() -> None:
    found = parsed(
        "--decoder yolo --labels l.txt --size 416x320 --resize letterbox --pad-value 114 --color bgr --std 255"
    )
    spec = ImageOptions(width=416, height=320, resize="letterbox", pad_value=114, color="bgr", std=(255.0,))
    assert found == PlainModel(YoloOutput(), spec, Path("l.txt"))
    found = parsed("--decoder yolo --size 8x8 --mean 123.7,116.3,103.5 --std 58.4")
    assert found is not None and found.input == ImageOptions(width=8, height=8, mean=(123.7, 116.3, 103.5), std=(58.4,))


def test_nothing_said_is_no_plain_model() -> None:
    assert parsed("") is None
    assert parsed("--labels l.txt") == PlainModel(labels_file=Path("l.txt"))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--decoder yolo --set layout", "--set: expected KEY=VALUE, such as layout=columns, found 'layout'"),
        ("--decoder yolo --set layout=diagonal", "--set layout: found invalid enum value 'diagonal'"),
        ("--decoder yolo --set strides=[0]", "--set strides[0]: expected whole number >= 1"),
        ("--decoder yolo --set nms_iou=2", "--set nms_iou: expected number <= 1.0"),
        ("--decoder pose --set point=[]", "--set point: expected list of length >= 2"),
        ("""--decoder pose --set 'point=["x", "score"]'""", "--set point: expected x and y among them"),
        (
            "--decoder pose --activation none",
            "--decoder pose has no option activation: expected one of keypoints, point",
        ),
        ("--decoder ssd", "--decoder ssd: expected --feature-maps"),
        ("--decoder ssd --set 'anchors={min_scale=0.1}'", "--decoder ssd: expected --feature-maps"),
        ("--decoder ssd --set anchors=2", "--set anchors: expected a table such as {min_scale = 0.1}, found 2"),
        (
            "--decoder ssd --feature-maps 4x4 --set anchors={size=1}",
            "--set anchors: found object contains unknown field size",
        ),
        ("--decoder yolo --feature-maps 4x4", "--feature-maps: expected --decoder ssd, found yolo"),
        ("--decoder classify --std 0 --size 9x9", "--std: expected numbers above 0, found 0.0"),
        ("--decoder classify --pad-value 700", "--pad-value: expected whole number <= 255, found 700"),
        ("--activation softmax", "--activation: expected --decoder NAME beside it"),
        ("--decoder classify --mean 1,2 --size 9x9", "--mean: expected 1 or 3 values for rgb, found 2"),
    ],
)
def test_what_cannot_be_is_one_line(line: str, error: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(line)
    assert error in str(caught.value)


def taking(tensor: TensorSpec, said: ImageOptions = ImageOptions()) -> Model:  # noqa: B008 - frozen
    """A plain classifier whose input is this tensor, and of which ``said`` is said beside its labels and decoder."""
    engine = SmallEngine([np.zeros((1, 3), np.float32)])
    engine.inputs = (tensor,)
    spec = ModelSpec(
        DATA / "tiny-uint8.tflite", "small", "1", "0" * 64, ("a", "b", "c"), said, ClassifyOutput(), None,
    )  # fmt: skip
    return Model(spec, engine)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "low", "high"),
    [("uint8", 0.0, 0, 0, 255), ("uint8", 1 / 255, 0, 0, 255), ("int8", 2 / 255, -1, -128, 127)],
)
def test_pixels_of_eight_bits_are_taken_as_they_are(
    dtype: str, scale: float, zero_point: int, low: int, high: int
) -> None:
    model = taking(TensorSpec("in", (1, 16, 16, 3), np.dtype(dtype), scale, zero_point))
    for value, raw in ((0, low), (255, high), (100, low + 100)):
        model.preprocess(np.full((16, 16, 3), value, np.uint8))
        assert model._inputs[0].min() == model._inputs[0].max() == raw


@pytest.mark.parametrize(
    ("dtype", "scale", "advice"),
    [
        ("float32", 0.0, "--mean 0 --std 255 for 0..1"),
        ("int16", 3e-5, "--mean 0 --std 255 for 0..1"),
        ("int16", 0.0, "--mean 0 --std 1 for pixels as they are"),
        ("int8", 0.0, "--mean 128 --std 1 for pixel - 128"),
    ],
)
def test_pixels_whose_range_nobody_knows_are_asked_about(dtype: str, scale: float, advice: str) -> None:
    with pytest.raises(ModelError, match=f"takes {dtype} pixels, and nobody knows in which range") as caught:
        taking(TensorSpec("in", (1, 24, 16, 3), np.dtype(dtype), scale, 0))
    assert advice in caught.value.fix


def test_an_option_leaves_the_rest_to_the_network() -> None:
    coral = TensorSpec("in", (1, 16, 16, 3), np.dtype(np.uint8), 1 / 128, 128)
    model = taking(coral, ImageOptions(resize="letterbox", color="bgr", pad_value=9))
    picture = np.full((8, 16, 3), (10, 100, 200), np.uint8)
    model.preprocess(picture)
    assert (model._inputs[0][0, 4:12] == picture).all() and (model._inputs[0][0, :4] == 9).all()
    assert model.input == ImageInput(
        height=16, width=16, resize="letterbox", color="bgr", pad_value=9, mean=(128.0,), std=(128.0,)
    )
    with pytest.raises(ModelError, match="nobody knows in which range"):
        taking(TensorSpec("in", (1, 16, 16, 3), np.dtype(np.float32), 0.0, 0), ImageOptions(resize="letterbox"))


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1 / 255), ("int8", 1 / 128), ("float32", 0.0)])
def test_a_grey_network_may_do_without_an_axis_for_channels(dtype: str, scale: float) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (31, 40, 3), np.uint8)
    said = ImageOptions(color="gray", resize="letterbox", std=(255.0,) if dtype == "float32" else None)
    flat, whole = (
        taking(TensorSpec("in", shape, np.dtype(dtype), scale, 0), said) for shape in ((1, 16, 24), (1, 16, 24, 1))
    )
    for model in (flat, whole):
        model.preprocess(picture)
    assert flat.input == whole.input
    assert len(np.unique(flat._inputs[0])) > 20 and (flat._inputs[0] == whole._inputs[0][..., 0]).all()


@pytest.mark.parametrize("shape", [(1, 144000), (1, 1, 1, 1024), (1, 128, 6), (2, 16, 16, 3), (1, 16, 16, 4)])
def test_what_is_no_picture_is_said_to_be_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"input tensor is no picture: expected .* readings of a sensor are"):
        taking(TensorSpec("in", shape, np.dtype(np.uint8), 0.0, 0))


def test_a_network_of_several_inputs_is_refused_with_their_names() -> None:
    engine = SmallEngine([np.zeros((1, 3), np.float32)])
    engine.inputs = tuple(TensorSpec(name, (1, 16, 16, 3), np.dtype(np.uint8)) for name in ("picture", "init_lstm_c"))
    spec = ModelSpec(DATA / "tiny-uint8.tflite", "s", "1", "0" * 64, ("a",), ImageOptions(), ClassifyOutput(), None)
    with pytest.raises(ModelError, match=r"found 2: picture uint8\[1, 16, 16, 3\], init_lstm_c .*; nothing feeds"):
        Model(spec, engine)


def test_mean_and_std_go_together() -> None:
    model = taking(TensorSpec("in", (1, 16, 24, 1), np.dtype(np.float32), 0.0, 0), ImageOptions(std=(255.0,)))
    assert model.input == ImageInput(height=16, width=24, color="gray", std=(255.0,))
    with pytest.raises(
        ModelError, match=r"what is said of it does not fit input tensor .* found mean: expected 1 or 1"
    ):
        taking(TensorSpec("in", (1, 16, 24, 1), np.dtype(np.float32), 0.0, 0), ImageOptions(mean=(1.0, 2.0, 3.0)))


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "mean", "std", "left"),
    [("uint8", 1 / 128, 128, 0.0, 1.0, 2), ("int8", 1.0, 0, 127.5, 127.5, 3), ("uint8", 1 / 128, 128, 0.0, 0.01, 2)],
)
def test_pixels_of_which_next_to_nothing_is_left_are_refused(
    dtype: str, scale: float, zero_point: int, mean: float, std: float, left: int
) -> None:
    tensor = TensorSpec("in", (1, 16, 16, 3), np.dtype(dtype), scale, zero_point)
    with pytest.raises(ModelError, match=f"leaves {left} of a pixel's 256 values"):
        taking(tensor, ImageOptions(mean=(mean,), std=(std,)))


def test_pixels_of_a_dtype_that_is_not_written_are_refused() -> None:
    with pytest.raises(ModelError, match="expected dtype uint8, int8, int16 or float32, found int32"):
        taking(TensorSpec("in", (1, 16, 16, 3), np.dtype(np.int32), 0.0, 0))
