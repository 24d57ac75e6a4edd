"""What ``vedette-convert search`` may try, as a recipe's ``[search]`` says it. ``build`` reads over it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .quantisation import Precision, Seed
from .training import Epochs, Share

Side = Annotated[int, Meta(ge=1, le=8192)]


class Search(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The values of each choice; the search tries some of their combinations."""

    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1)] = (
        "float32", "float16", "dynamic", "int8", "int16x8", "mixed",
    )  # fmt: skip
    """Which are tried; `[quantise]` says more of each."""
    ratios: Annotated[tuple[Share, ...], Meta(min_length=1)] | None = None
    """What ``[prune] ratio`` may be; 0 leaves the network whole. Where the recipe's ``[prune]`` names layers and no
    ratio, it is the share of those layers. Default: 0, 0.125, 0.25, ... 0.75 with ``[distil]``, which mends what was
    cut; else 0 alone."""
    scopes: Annotated[tuple[Literal["uniform", "global"], ...], Meta(min_length=1)] | None = None
    """What ``[prune] scope`` may be. Default: the recipe's own."""
    sizes: Annotated[tuple[tuple[Side, Side], ...], Meta(min_length=1)] | None = None
    """(height, width) of the input. Default: the recipe's own. Others need a network that can be built at them: one of
    the zoo, or a Keras network whose file leaves height and width open."""
    epochs: Annotated[tuple[Epochs, ...], Meta(min_length=1)] | None = None
    """What ``[distil] epochs`` may be. Default: the recipe's own."""
    share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2
    """Of each label's pictures in ``--train``: held back from training, to choose by. ``--judge`` takes its place."""
    rounds: Annotated[int, Meta(ge=5, le=100_000)] = 200
    """Inferences that are timed of each network, by turns with the float original."""
    sampler: Literal["tpe", "nsga2"] = "tpe"
    """Who proposes: the tree-structured Parzen estimator for several objectives (Ozaki et al., GECCO 2020), good with
    few trials, or NSGA-II (Deb et al., 2002), which takes hundreds."""
    seed: Seed = 1
    """Of the proposals and of what is held back."""
