"""Options that stand in for the manifest of a plain third-party ``.tflite`` file; shared by several commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vedette.arguments import numbers
from vedette.contract.errors import UserError

if TYPE_CHECKING:
    # --help must not import numpy and OpenCV
    from vedette.contract.image_options import ImageOptions
    from vedette.contract.manifest import OutputSpec
    from vedette.models.model import PlainModel

DECODERS = ("classify", "ssd", "tflite-detection-postprocess", "yolo", "boxes", "pose", "pose-heatmap", "segment")


def add_plain_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    group = parser.add_argument_group("for a .tflite without a manifest")
    group.add_argument(
        "--decoder", choices=DECODERS, metavar="NAME", help=f"what the output tensors mean: {', '.join(DECODERS)}"
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="one label a line, line number = class id")
    group.add_argument("--size", metavar="WxH", help="input size (default: the network's own)")
    group.add_argument(
        "--color",
        choices=("rgb", "bgr", "gray"),
        default=None,
        help="colour order (default rgb, of a network of one channel gray)",
    )
    group.add_argument(
        "--resize", choices=("stretch", "letterbox", "center-crop"), default=None, help="default stretch"
    )
    group.add_argument(
        "--pad-value", type=int, default=None, metavar="N", help="of letterbox's bars, 0 to 255 (default 0)"
    )
    group.add_argument(
        "--mean",
        type=numbers,
        metavar="M[,M,M]",
        help="real = (pixel - mean) / std, one number or one a channel (default: as the network says)",
    )
    group.add_argument("--std", type=numbers, metavar="S[,S,S]", help="see --mean")
    group.add_argument("--activation", choices=("sigmoid", "softmax", "none"), default=None, help="left to be done")
    group.add_argument(
        "--feature-maps", metavar="19x19,10x10,...", help="of an SSD head, finest first (rows x columns)"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another option of the decoder, named and written as in a configuration, such as --set layout=columns",
    )


def plain_model(arguments: argparse.Namespace) -> PlainModel | None:
    """What the options say, or None where none is given."""
    from vedette.models.model import PlainModel

    if not arguments.decoder:
        for option in ("set", "activation", "feature_maps"):
            if getattr(arguments, option):
                raise UserError(f"--{option.replace('_', '-')}", expected="--decoder NAME beside it", found="none")
    plain = PlainModel(_output(arguments) if arguments.decoder else None, _input(arguments), arguments.labels)
    return None if plain == PlainModel() else plain


def _output(arguments: argparse.Namespace) -> OutputSpec:
    from typing import get_args

    import msgspec

    from vedette.contract.manifest import OutputSpec
    from vedette.contract.wording import explained

    options = dict(_option(text) for text in arguments.set)
    if arguments.activation is not None:
        options["activation"] = arguments.activation
    if arguments.feature_maps and arguments.decoder != "ssd":
        raise UserError("--feature-maps", expected="--decoder ssd", found=arguments.decoder)
    if arguments.decoder == "ssd":
        anchors = options.get("anchors", {})
        if not isinstance(anchors, dict):
            raise UserError("--set anchors", expected="a table such as {min_scale = 0.1}", found=repr(anchors))
        if arguments.feature_maps:
            maps = [_pair(part, "--feature-maps") for part in arguments.feature_maps.split(",")]
            options["anchors"] = {**anchors, "feature_maps": maps}
        elif "feature_maps" not in anchors and "priors" not in options:
            raise UserError(
                "--decoder ssd", expected="--feature-maps, such as 19x19,10x10,5x5,3x3,2x2,1x1, or --set 'priors={...}'",
                found="none",
            )  # fmt: skip
    [kind] = [kind for kind in get_args(OutputSpec) if kind.__struct_config__.tag == arguments.decoder]
    for key in options:
        if key not in kind.__struct_fields__:
            raise UserError(
                f"--decoder {arguments.decoder} has no option {key}",
                expected="one of " + ", ".join(kind.__struct_fields__),
            )
    try:
        output: OutputSpec = msgspec.convert({**options, "decoder": arguments.decoder}, kind)
    except msgspec.ValidationError as error:
        where, expected, found = explained(error)
        raise UserError(f"--set {where}", expected=expected, found=found) from None
    return output


def _option(text: str) -> tuple[str, object]:
    """``KEY=VALUE``: numbers, lists and booleans as in TOML; what is none of these is a string."""
    import tomllib

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError("--set", expected="KEY=VALUE, such as layout=columns", found=repr(text))
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def _input(arguments: argparse.Namespace) -> ImageOptions:
    import msgspec

    from vedette.contract.image_options import ImageOptions
    from vedette.contract.wording import explained

    given: dict[str, object] = {
        name: getattr(arguments, name) for name in ("color", "resize", "pad_value", "mean", "std")
    }
    if arguments.size is not None:
        given["width"], given["height"] = _pair(arguments.size, "--size")
    stated = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert({**stated, "kind": "image"}, ImageOptions)
    except msgspec.ValidationError as error:
        where, expected, found = explained(error)
        raise UserError(
            f"--{where.replace('_', '-')}", expected=expected, found=found.strip("[]") or str(given[where])
        ) from None


def _pair(text: str, option: str) -> tuple[int, int]:
    first, _, second = text.lower().partition("x")
    if not (first.isdecimal() and second.isdecimal() and 0 < int(first) <= 8192 and 0 < int(second) <= 8192):
        raise UserError(option, expected="two numbers from 1 to 8192 such as 300x300", found=repr(text))
    return int(first), int(second)
