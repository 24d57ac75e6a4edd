"""What may be chosen, and the recipe that a choice makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec

from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput

from ..recipe import ANY_RATIO, Gate, Recipe
from ..recipe.quantisation import Precision, Quantise
from ..recipe.search import Search
from ..recipe.sources import KerasSource
from ..recipe.training import Prune, ZooSource

Scope = Literal["uniform", "global"]
RATIOS: Final = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)  # of networks that are distilled after a cut
_NAME: Final = 64  # characters, at most


class Asker(Protocol):
    """Who proposes values: an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of them."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One combination. What a whole network does not use is None, so that equal networks are equal choices."""

    precision: Precision
    ratio: float
    scope: Scope | None
    height: int
    width: int
    epochs: int | None

    @property
    def words(self) -> str:
        """For names of files: ``int8-cut0.5-global-24x24-e4``."""
        parts = [
            self.precision,
            f"cut{self.ratio:g}" if self.ratio else "whole",
            self.scope,
            f"{self.height}x{self.width}",
        ]
        if self.epochs is not None:
            parts.append(f"e{self.epochs}")
        return "-".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Space:
    """Every value of every choice."""

    recipe: Recipe
    precisions: tuple[Precision, ...]
    ratios: tuple[float, ...]
    scopes: tuple[Scope, ...]
    sizes: tuple[tuple[int, int], ...]
    epochs: tuple[int, ...]
    """Empty without ``[distil]``."""

    def all(self) -> Iterator[Choice]:
        """Every combination once."""
        for precision, ratio, size in itertools.product(self.precisions, self.ratios, self.sizes):
            scopes: tuple[Scope | None, ...] = self.scopes if ratio else (None,)
            epochs: tuple[int | None, ...] = self.epochs if self._distils(ratio) and self.epochs else (None,)
            for scope, epoch in itertools.product(scopes, epochs):
                yield Choice(precision, ratio, scope, *size, epoch)

    def suggest(self, trial: Asker) -> Choice:
        """A choice of a sampler's. Ordered values are asked for by their place, so that near ones are near."""

        def place(name: str, values: tuple[Any, ...]) -> Any:
            return values[trial.suggest_int(name, 0, len(values) - 1)] if len(values) > 1 else values[0]

        precision = (
            trial.suggest_categorical("precision", self.precisions) if len(self.precisions) > 1 else self.precisions[0]
        )
        ratio = place("ratio", self.ratios)
        height, width = place("size", self.sizes)
        scope = None
        if ratio:
            scope = trial.suggest_categorical("scope", self.scopes) if len(self.scopes) > 1 else self.scopes[0]
        epochs = place("epochs", self.epochs) if self._distils(ratio) and self.epochs else None
        return Choice(precision, ratio, scope, height, width, epochs)

    def parameters(self, choice: Choice) -> dict[str, Any]:
        """What a sampler would have had to propose for this choice."""
        found: dict[str, Any] = {}
        if len(self.precisions) > 1:
            found["precision"] = choice.precision
        for name, values, value in (
            ("ratio", self.ratios, choice.ratio), ("size", self.sizes, (choice.height, choice.width)),
            ("epochs", self.epochs, choice.epochs),
        ):  # fmt: skip
            if len(values) > 1 and value is not None:
                found[name] = values.index(value)
        if len(self.scopes) > 1 and choice.scope is not None:
            found["scope"] = choice.scope
        return found

    def choice(self, parameters: Mapping[str, Any]) -> Choice | None:
        """The other way round; None where something is missing or is no part of the space."""
        try:
            return self.suggest(_Fixed(parameters))
        except (KeyError, IndexError):
            return None

    def first(self) -> list[Choice]:
        """What to try before anybody can propose anything: the whole network in every precision."""
        size = (self.recipe.image.height, self.recipe.image.width)
        chosen = [c for c in self.all() if (c.height, c.width) == size and c.ratio == min(self.ratios)]
        return list({c.precision: c for c in chosen}.values())

    def derive(self, choice: Choice) -> Recipe:
        """The recipe of a choice, whose gate lets everything through: a network that lost too much is a point as well.

        ``mixed`` keeps the promised agreement, which says how many of its layers stay float32.
        """
        recipe = self.recipe
        kept = recipe.gate.min_agreement if choice.precision == "mixed" else 0.0
        distil = recipe.distil if self._distils(choice.ratio) else None
        if distil is not None and choice.epochs is not None:
            distil = msgspec.structs.replace(distil, epochs=choice.epochs, control=False)
        return msgspec.structs.replace(
            recipe,
            name=_name(recipe.name, choice.words),
            input=msgspec.structs.replace(recipe.image, height=choice.height, width=choice.width),
            prune=_prune(recipe.prune, choice),
            distil=distil,
            quantise=_quantise(recipe.quantise, choice.precision),
            latency=msgspec.structs.replace(recipe.latency, max_ratio=ANY_RATIO),
            gate=Gate(max_drop=1.0, min_agreement=kept),
            search=None,
        )

    def original(self) -> Recipe:
        """The recipe of the float network that all are compared with: trained where the recipe trains, no more."""
        recipe = self.recipe
        return msgspec.structs.replace(
            recipe, prune=None, distil=None, sparsify=None, quantise=_quantise(recipe.quantise, "float32"), search=None,
            latency=msgspec.structs.replace(recipe.latency, max_ratio=ANY_RATIO), gate=Gate(max_drop=1.0, min_agreement=0.0),
        )  # fmt: skip

    def _distils(self, ratio: float) -> bool:
        """Whether [distil] has anything to do: a network learns nothing from itself."""
        distil = self.recipe.distil
        return distil is not None and bool(ratio or distil.teacher is not None or self.recipe.sparsify is not None)


class _Fixed:
    """An `Asker` that has been answered already."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """See `Asker`."""
        value = int(self._parameters[name])
        if not low <= value <= high:
            raise IndexError(name)
        return value

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """See `Asker`."""
        if self._parameters[name] not in choices:
            raise IndexError(name)
        return self._parameters[name]


def space_of(recipe: Recipe, options: Search, where: object) -> tuple[Space, list[str]]:
    """The space, and what is to be said of it. Raises `UserError` where an option does not go with the recipe."""
    own = (recipe.image.height, recipe.image.width)
    sizes = tuple(sorted(set(options.sizes or (own,))))
    ratios = tuple(sorted(set(options.ratios or (RATIOS if recipe.distil is not None else (0.0,)))))
    notes = []
    if sizes != (own,):
        if not isinstance(recipe.output, ClassifyOutput) or not isinstance(recipe.source, ZooSource | KerasSource):
            raise UserError(
                "[search] sizes", where=where, expected="a classifier of the zoo, or a Keras one with open height and width",
                found=f"task {recipe.task}, source {recipe.source.__struct_config__.tag}", fix="leave sizes out",
            )  # fmt: skip
    elif options.sizes is None:
        notes.append(f"the input's size is fixed at {own[1]}x{own[0]}: [search] sizes names no others")
    if any(ratios) and not isinstance(recipe.source, ZooSource | KerasSource):
        raise UserError(
            "[search] ratios", where=where, expected="a Keras network, which can be pruned",
            found=f"format {recipe.source.__struct_config__.tag}", fix="ratios = [0.0]",
        )  # fmt: skip
    if options.ratios is None and recipe.distil is None:
        notes.append("nothing is pruned: the recipe has no [distil] to mend a cut with ([search] ratios prunes anyway)")
    if options.epochs is not None and recipe.distil is None:
        raise UserError("[search] epochs", where=where, expected="a recipe with [distil]", found="none")
    own_scope: Scope = recipe.prune.scope if recipe.prune is not None else "uniform"
    space = Space(
        recipe, tuple(dict.fromkeys(options.precisions)), ratios, tuple(dict.fromkeys(options.scopes or (own_scope,))),
        sizes, tuple(sorted(set(options.epochs or ((recipe.distil.epochs,) if recipe.distil is not None else ())))),
    )  # fmt: skip
    return space, notes


def _prune(own: Prune | None, choice: Choice) -> Prune | None:
    if not choice.ratio:
        return None
    scope: Scope = choice.scope or "uniform"
    if own is None:
        return Prune(ratio=choice.ratio, scope=scope)
    if own.layers and not own.ratio:
        layers = {name: choice.ratio if share else 0.0 for name, share in own.layers.items()}
        return msgspec.structs.replace(own, layers=layers, scope=scope)
    return msgspec.structs.replace(own, ratio=choice.ratio, scope=scope, latency=None)


def _quantise(own: Quantise, precision: Precision) -> Quantise:
    """The recipe's own options as far as the precision has them."""
    if own.precision == precision:
        return own
    made = Quantise(precision=precision, pictures=own.pictures, seed=own.seed)
    if made.calibrated and own.ranges == "percentile":
        made = msgspec.structs.replace(made, ranges=own.ranges, percentile=own.percentile)
    for name in ("input", "output"):
        try:
            made = Quantise(**{**msgspec.structs.asdict(made), name: getattr(own, name)})
        except ValueError:
            continue  # a dtype that this precision has not
    return made


def _name(name: str, words: str) -> str:
    return f"{name[: _NAME - len(words) - 1]}-{words}"[:_NAME]
