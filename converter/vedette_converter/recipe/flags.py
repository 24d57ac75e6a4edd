"""A recipe out of a command line's flags, for the common case. What nobody stated is assumed, and said."""

from __future__ import annotations

import hashlib
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput, ImageInput, Name
from vedette.contract.types import TensorSpec

from . import ANY_RATIO, NAME_IN_WORDS, Gate, GoldenVectors, Labels, Latency, Recipe, RecipeFile
from .quantisation import Quantise
from .sources import Source

FLAGS: Final = Path("flags")
"""The place of a recipe's file, where flags were given in its stead."""


@dataclass(frozen=True, slots=True)
class Flags:
    """What a command line may say of a network; None where it does not."""

    quantise: Quantise
    name: str | None = None
    labels: Path | None = None
    size: tuple[int, int] | None = None
    """Width and height of the pictures it is fed, where it leaves them open."""
    color: Literal["rgb", "bgr", "gray"] | None = None
    resize: Literal["stretch", "letterbox", "center-crop"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    max_drop: float | None = None
    min_speedup: float | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None


def input_shape(flags: Flags) -> tuple[int, ...] | None:
    """Of pictures, batch and channels included, where a size is stated."""
    if flags.size is None:
        return None
    width, height = flags.size
    return (1, height, width, 1 if flags.color == "gray" else 3)


def image_input(spec: TensorSpec, flags: Flags) -> tuple[ImageInput, list[str]] | None:
    """How pictures become an input of shape (1, height, width, 1 or 3), and what was assumed; None for other shapes."""
    if len(spec.shape) != 4 or spec.shape[3] not in (1, 3) or min(spec.shape[1:3]) < 2:
        return None
    grey = spec.shape[3] == 1
    if flags.color is not None and grey != (flags.color == "gray"):
        raise UserError("--color", expected="gray" if grey else "rgb or bgr", found=flags.color)
    assumed = []
    if flags.color is None and not grey:
        assumed.append("channels in the order RGB (--color)")
    if flags.mean is None and flags.std is None:
        assumed.append("pixels as they are, 0..255 (--mean, --std)")
    if flags.resize is None:
        assumed.append("pictures stretched to the input's size (--resize)")
    try:
        made = ImageInput(
            height=spec.shape[1], width=spec.shape[2], color=flags.color or ("gray" if grey else "rgb"),
            resize=flags.resize or "stretch", mean=flags.mean or (0.0,), std=flags.std or (1.0,),
        )  # fmt: skip
    except ValueError as error:
        raise UserError("--mean, --std", found=str(error)) from None
    return made, [f"assumed: {what}" for what in assumed]


def looks_like_classifier(outputs: tuple[TensorSpec, ...]) -> bool:
    """One output, one score a class."""
    return len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].shape[1] >= 2


def recipe_from_flags(
    model: Path, source: Source, image: ImageInput, classes: int, data: Path, flags: Flags, logit: float | None = None
) -> tuple[RecipeFile, list[str]]:
    """A classifier's recipe, and what was assumed. The golden pictures are parts of ``data``'s own.

    ``logit``: what the network says that is no score, if anything.

    Raises `UserError` where labels and classes do not fit together.
    """
    assumed = ["the self-test's pictures are parts of --data and go into the bundle: mind their licence"]
    left: Literal["softmax", "sigmoid"] = "softmax" if classes > 1 else "sigmoid"
    activation = flags.activation or ("none" if logit is None else left)
    if flags.activation is None:
        assumed.append(
            f"the network's numbers are scores, its {left} is its own (--activation)" if logit is None
            else f"a {left} is left to be done, for the network says {logit:.3g} (--activation)"
        )  # fmt: skip
    labels = flags.labels
    if labels is None:
        raise UserError(
            "the classes need names", fix="--labels FILE, one label a line" + _folders(data, classes),
            expected=f"{classes} labels",
        )  # fmt: skip
    _check(flags)
    recipe = Recipe(
        name=flags.name or _name(model),
        version="1.0.0",
        task="classify",
        source=source,
        input=image,
        output=ClassifyOutput(activation=activation, top_k=min(5, max(2, classes))),
        labels=Labels(file=str(labels.resolve())),
        golden=GoldenVectors(pictures=str(data.resolve())),
        quantise=flags.quantise,
        latency=Latency(max_ratio=ANY_RATIO),
        gate=Gate(
            max_drop=0.02 if flags.max_drop is None else flags.max_drop, min_speedup=flags.min_speedup,
            max_bytes=flags.max_bytes, max_latency_ms=flags.max_latency_ms,
        ),
    )  # fmt: skip
    encoded = msgspec.json.encode(recipe, order="deterministic")
    return RecipeFile(FLAGS, hashlib.sha256(encoded).hexdigest(), recipe), [f"assumed: {a}" for a in assumed]


def _check(flags: Flags) -> None:
    """Raises `UserError` for a flag that no recipe may say."""
    if flags.name is not None and not re.fullmatch(typing.get_args(Name)[1].pattern, flags.name):
        raise UserError("--name", expected=NAME_IN_WORDS, found=repr(flags.name))
    if flags.max_drop is not None and not 0 <= flags.max_drop <= 1:
        raise UserError("--max-drop", expected="a share, 0 to 1", found=f"{flags.max_drop:g}")
    for option, value in (
        ("--min-speedup", flags.min_speedup), ("--max-bytes", flags.max_bytes), ("--max-latency-ms", flags.max_latency_ms),
    ):  # fmt: skip
        if value is not None and not 0 < value < float("inf"):
            raise UserError(option, expected="a number above 0", found=f"{value:g}")


def _folders(data: Path, classes: int) -> str:
    folders = [path.name for path in sorted(data.iterdir()) if path.is_dir()] if data.is_dir() else []
    return f"; the {classes} folders in {data} may be their names" if len(folders) == classes else ""


def _name(model: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", model.stem.lower()).strip("-._")[:64]
    return name or "network"


def size(text: str) -> tuple[int, int]:
    """``320x240``, width first. Raises `ValueError`."""
    width, height = (int(part) for part in text.lower().split("x"))
    if not (0 < width <= 8192 and 0 < height <= 8192):
        raise ValueError(text)
    return width, height
