"""What a page shows beyond the figures: layers, pictures, the recipe, who made it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from vedette.contract.errors import VedetteError

from ..evaluate import Pair
from ..package import tool_versions
from ..progress import Progress
from ..prune import Plan
from ..quantise import Samples
from ..recipe import RecipeFile
from .layers import Layers, layers
from .samples import Look, sample_pictures

PICTURES: Final = 8  # on the page


@dataclass(frozen=True, slots=True)
class Extras:
    """Every part may be missing; ``notes`` then say why."""

    layers: Layers | None = None
    look: Look | None = None
    plan: Plan | None = None
    recipe: str = ""
    recipe_name: str = ""
    tools: Mapping[str, str] | None = None
    """Package -> version, of those that had a part in it."""
    flatbuffer_sha256: str = ""
    """Of the product."""
    confident: float = 0.5
    """The score from which results are shown."""
    partner_score: float = 0.3
    """The least score of a result that is taken for the same as the other network's."""
    notes: tuple[str, ...] = ()


def gather(
    file: RecipeFile, pair: Pair, base: bytes, product: bytes, *, samples: Samples | None, pictures: Sequence[Path],
    plan: Plan | None = None, progress: Progress | None = None,
) -> Extras:  # fmt: skip
    """`describe` for networks of pictures."""

    def look() -> Look:
        return sample_pictures(pair, pictures, PICTURES, file.recipe.evaluate, progress)

    return describe(file, base, product, samples=samples, look=look, plan=plan)


def describe(
    file: RecipeFile, base: bytes, product: bytes, *, samples: Samples | None, look: Callable[[], Look],
    plan: Plan | None = None,
) -> Extras:  # fmt: skip
    """Looks once more at what a build made: the float original and the product in engines, and their flatbuffers.

    ``base``: the float flatbuffer that ``product`` was quantised of, so the pruned one of a pruned network. ``samples``:
    for calibration. ``look``: what both make of some samples. ``plan``: what pruning took. A report is no reason for a
    build to fail: what raises a `VedetteError` here becomes a note.
    """
    notes: list[str] = []
    options = file.recipe.evaluate
    looked: Look | None = None
    try:
        looked = look()
    except VedetteError as error:
        notes.append(f"no pictures: {error.line()}")
    return Extras(
        layers=layers(base, product, samples, notes),
        look=looked,
        plan=plan,
        recipe=_text(file),
        recipe_name=file.path.name,
        tools={"python": platform.python_version(), **tool_versions()},
        flatbuffer_sha256=hashlib.sha256(product).hexdigest(),
        confident=options.confident,
        partner_score=options.partner_score,
        notes=tuple(notes),
    )


def _text(file: RecipeFile) -> str:
    """As it was read; a recipe made of flags has no file, and is shown as JSON."""
    try:
        raw = file.path.read_bytes()
    except OSError:
        raw = b""
    if hashlib.sha256(raw).hexdigest() == file.sha256:
        return raw.decode("utf-8", "replace")
    return msgspec.json.format(msgspec.json.encode(file.recipe), indent=2).decode()
