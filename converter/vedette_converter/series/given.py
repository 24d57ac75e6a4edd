"""Which recordings of the command line are for what: to learn from, to find a threshold with, to calibrate, to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput

from ..recipe import Recipe
from ..recipe.series import ANOMALY, NORMAL, AnomalyHead
from .recordings import Recording, digest_of, list_labelled, list_recordings
from .windows import split


@dataclass(frozen=True, slots=True)
class Given:
    """Recordings by their purpose; each may be empty but ``compared`` and ``calibrated``."""

    learned: tuple[Recording, ...]
    """What is trained on."""
    held_back: tuple[Recording, ...]
    """Normal ones that are not trained on: an anomaly's threshold is found with them."""
    normalised: tuple[Recording, ...]
    """What mean and standard deviation are of, where the recipe leaves them open."""
    calibrated: tuple[Recording, ...]
    compared: tuple[Recording, ...]
    """Everything in ``--data``."""
    judged: tuple[Recording, ...]
    """What is in ``--evaluate``."""


def sort_out(
    recipe: Recipe, labels: tuple[str, ...], data: Path, annotated: Sequence[Path], train: Path | None
) -> Given:
    """Raises `UserError` where folders do not fit the recipe, or what is judged by would be learned from."""
    options = recipe.series
    compared = list_recordings(data, options.group)

    def unjudged(recordings: Sequence[Recording], folder: Path) -> tuple[Recording, ...]:
        left = tuple(one for one in recordings if one.group not in options.judged)
        if not left:
            raise UserError("no recordings but those of [series] judged", where=folder, expected="others too")
        return left

    usual = unjudged(_usual(recipe, data), data)
    given_train = train or data
    learned: tuple[Recording, ...] = ()
    held: tuple[Recording, ...] = ()
    if recipe.trains:
        if isinstance(recipe.output, ClassifyOutput) and _needs_labels(recipe):
            listed = list_labelled(given_train, labels, options.group)
        else:
            listed = _usual(recipe, given_train)
        learned = unjudged(listed, given_train)
    if isinstance(recipe.output, AnomalyHead) and recipe.output.threshold is None:
        if learned:
            kept, back = split(learned, options.held_back, recipe.quantise.seed, given_train)
            learned, held = tuple(kept), tuple(back)
        else:
            held = unjudged(_usual(recipe, given_train), given_train)
    judged = _judged(recipe, labels, annotated)
    _expect_apart(judged, (*learned, *held), annotated)
    return Given(learned, held, learned or usual, usual, tuple(compared), tuple(judged))


def _needs_labels(recipe: Recipe) -> bool:
    needs = recipe.train is not None or (recipe.distil is not None and recipe.distil.label_weight > 0)
    return needs or (recipe.prune is not None and recipe.prune.criterion == "taylor")


def _usual(recipe: Recipe, folder: Path) -> list[Recording]:
    """Every recording in a folder; where anomalies are looked for, those in its folder ``normal``, if it has one."""
    if recipe.task == "anomaly":
        if (folder / NORMAL).is_dir():
            return list_recordings(folder / NORMAL, recipe.series.group)
        if (folder / ANOMALY).is_dir():
            raise UserError(
                "anomalies are not learned from", where=folder / ANOMALY, expected=f"a folder {NORMAL} beside it"
            )
    return list_recordings(folder, recipe.series.group)


def _judged(recipe: Recipe, labels: tuple[str, ...], annotated: Sequence[Path]) -> list[Recording]:
    if not annotated:
        if recipe.series.judged:
            raise UserError("[series] judged names groups of --evaluate", expected="--evaluate FOLDER", found="none")
        return []
    if len(annotated) > 1:
        raise UserError("--evaluate", expected="one folder of recordings", found=f"{len(annotated)}")
    folder, options = annotated[0], recipe.series
    if recipe.task == "regress":
        listed = list_recordings(folder, options.group)
    else:
        listed = list_labelled(folder, labels if recipe.task == "classify" else (NORMAL, ANOMALY), options.group)
    if not options.judged:
        return listed
    groups = {one.group for one in listed}
    if missing := [name for name in options.judged if name not in groups]:
        raise UserError(
            f"[series] judged: no recording of {missing[0]}", where=folder, expected="a group of --evaluate",
            found=", ".join(sorted(groups)[:20]),
        )  # fmt: skip
    return [one for one in listed if one.group in options.judged]


def _expect_apart(judged: Sequence[Recording], learned: Sequence[Recording], annotated: Sequence[Path]) -> None:
    """By content: a copy under another name is the same recording."""
    if not judged or not learned:
        return
    known = {digest_of(one.path): one for one in learned}
    for one in judged:
        if (same := known.get(digest_of(one.path))) is not None:
            raise UserError(
                "is learned from, so nothing can be judged by it", where=one.path, expected="another recording",
                found=f"the same in --train: {same.path}",
                fix="[series] judged names groups (persons, machines) to keep apart, or give other folders",
            )  # fmt: skip
