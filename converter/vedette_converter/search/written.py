"""A recipe as TOML text, beside which its paths still lead where they led."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import msgspec

from vedette.contract.errors import MissingPackageError

from ..recipe import Gate, Recipe, RecipeFile
from ..recipe.sources import FileSource, SavedModelSource
from .trial import Outcome

MARGIN = 0.02  # of accuracy and agreement: another CPU may round otherwise


def as_toml(recipe: Recipe) -> str:
    """Every option spelled out, so that a default that changes does not change the network. Read back, it is the same."""
    try:
        import tomli_w
    except ImportError as error:
        raise MissingPackageError(
            "tomli-w is needed to write recipes", found=str(error), fix="pip install 'vedette[converter]'"
        ) from None
    return tomli_w.dumps(_without_none(msgspec.to_builtins(recipe)))


def moved(recipe: Recipe, file: RecipeFile, folder: Path) -> Recipe:
    """The recipe with its paths relative to ``folder`` instead of to ``file``."""

    def move(path: str) -> str:
        return os.path.relpath(file.resolve(path).resolve(), folder.resolve())

    source = recipe.source
    if isinstance(source, FileSource):
        source = msgspec.structs.replace(source, file=move(source.file))
    elif isinstance(source, SavedModelSource):
        source = msgspec.structs.replace(source, folder=move(source.folder))
    distil = recipe.distil
    if distil is not None and distil.teacher is not None:
        teacher = msgspec.structs.replace(distil.teacher, file=move(distil.teacher.file))
        distil = msgspec.structs.replace(distil, teacher=teacher)
    return msgspec.structs.replace(
        recipe, source=source, distil=distil, labels=msgspec.structs.replace(recipe.labels, file=move(recipe.labels.file)),
        golden=msgspec.structs.replace(recipe.golden, pictures=move(recipe.golden.pictures)),
    )  # fmt: skip


def promising(recipe: Recipe, own: Gate, outcome: Outcome, budget: float) -> Recipe:
    """The recipe with a gate that holds what was measured, with a margin: a build that comes out worse is refused.

    Limits of the original recipe's gate stay where the network meets them. Agreement decides what ``mixed`` makes, so
    there it stays.
    """
    agreement = recipe.gate.min_agreement
    if recipe.quantise.precision != "mixed":
        agreement = min(own.min_agreement, max(0.0, math.floor((outcome.agreement - MARGIN) * 100) / 100))
    drop = min(1.0, max(budget, math.ceil((outcome.own_drop + MARGIN) * 100) / 100))
    return msgspec.structs.replace(
        recipe,
        gate=Gate(
            max_drop=drop, min_agreement=agreement,
            max_bytes=own.max_bytes if own.max_bytes is not None and outcome.bytes <= own.max_bytes else None,
        ),
        latency=msgspec.structs.replace(recipe.latency, max_ratio=min(1000.0, round(outcome.own_ratio * 1.5 + 0.1, 2))),
    )  # fmt: skip


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list | tuple) else value
