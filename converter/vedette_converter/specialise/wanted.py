"""What is asked for, and what was found out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette.contract.errors import UserError
from vedette.contract.manifest import EngineClass, ImageInput
from vedette.contract.verdict import Verdict

from .. import prune
from ..gate import GateRow
from ..latency import Latency
from ..package import LEAST_INPUTS
from ..reference import Against
from ..zoo import ssdlite

MOST_SIDE: Final = 1280  # pixels of the input; larger ones train for days
CELL: Final = 16  # pixels of the finest feature map's cells: inputs are a multiple


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. Everything that the result depends on, but the files' contents."""

    bundle: Path
    """The shipped detector's: its recipe names the weights, its labels the classes."""
    source: Path | None
    """The recipe's package."""
    frames: Path
    """A clip, or a folder of pictures in the order of their names."""
    keep: tuple[str, ...]
    """Labels."""
    out: Path
    recipe: Path | None = None
    """The bundle's; looked for beside it without one."""
    name: str | None = None
    """Of the new bundle; from ``out`` without one."""
    held_back: float = 0.4
    """Share of the frames, the last ones, that judge."""
    speedup: float = 4.0
    """Of one inference, against the float network."""
    min_ap: float = 0.85
    minutes: float = 25.0
    """For everything, about."""
    seed: int = 1
    size: tuple[int, int] | None = None
    """(height, width) of the input, pixels; fitted to the camera's proportions without one."""
    most: int = 1200
    """Frames that are looked at, at most: every k-th."""
    work: Path | None = None
    """Where it is kept what was done."""


@dataclass(frozen=True, slots=True)
class Specialised:
    """Everything that was found out."""

    name: str
    labels: tuple[str, ...]
    learned: int
    """Frames."""
    size: tuple[int, int]
    int8: Against
    float32: Against
    """The small network before it was quantised."""
    latency: Latency
    """The float teacher's and the int8 network's."""
    bytes_before: int
    bytes_after: int
    cost_before: prune.Cost
    cost_after: prune.Cost
    rows: tuple[GateRow, ...]
    verdicts: dict[EngineClass, Verdict]
    """By kernels; empty where the gate does not hold."""
    seconds: float


def fitted(frame: tuple[int, ...], spec: ImageInput) -> tuple[int, int]:
    """(height, width) in the camera's proportions, its longer side the network's, each a multiple of `CELL`, rounded.

    ``frame``: (height, width) in pixels. The published network stretches every picture to a square; on a wide one that is
    work without information.
    """
    height, width = frame
    long = max(spec.height, spec.width)
    scale = long / max(height, width)
    return tuple(  # type: ignore[return-value]
        long if side == max(height, width) else max(ssdlite.LEAST_SIDE, round(side * scale / CELL) * CELL)
        for side in (height, width)
    )


def check(wanted: Wanted) -> None:
    for name, value, low, high in (
        ("--held-back", wanted.held_back, 0.05, 0.95), ("--speedup", wanted.speedup, 1.0, 50.0),
        ("--min-ap", wanted.min_ap, 0.0, 1.0), ("--minutes", wanted.minutes, 1.0, 10_000.0),
    ):  # fmt: skip
        if not low <= value <= high:
            raise UserError(name, expected=f"{low:g} to {high:g}", found=f"{value:g}")
    for side in wanted.size or ():
        if not ssdlite.LEAST_SIDE <= side <= MOST_SIDE:
            raise UserError("--size", expected=f"sides of {ssdlite.LEAST_SIDE} to {MOST_SIDE} pixels", found=side)
    if wanted.most < 2 * LEAST_INPUTS:
        raise UserError("--most", expected=f"at least {2 * LEAST_INPUTS}", found=wanted.most)
    if not wanted.out.parent.is_dir() or wanted.out.is_dir():
        raise UserError("bundle cannot be written", where=wanted.out, expected="a file in a folder that exists")
    if wanted.name is None:
        bundle_name(wanted.out)


def bundle_name(out: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", out.stem.lower()).strip("._-")[:64]
    if not name:
        raise UserError("the bundle's name", where=out, expected="letters and digits", fix="--name NAME")
    return name
