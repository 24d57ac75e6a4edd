"""How many channels of each group go, and which: a `Plan`, to be looked at, kept and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from vedette.contract.errors import UserError
from vedette.contract.wording import nearest

from .criteria import Criterion, FloatArray
from .graph import ChannelGraph, Group, analyse

MULTIPLE: Final = 8  # channels: what SIMD kernels and the Edge TPU take at a time
FLOOR: Final = 0.25  # share of a group that a ranking over all groups leaves at least; below, layers collapse


@dataclass(frozen=True, slots=True)
class Cut:
    """What one group loses."""

    group: str
    layers: tuple[str, ...]
    size: int
    """Units before."""
    removed: tuple[int, ...]
    """Units that go, ascending; fewer than ``size``."""

    def __post_init__(self) -> None:
        if list(self.removed) != sorted(set(self.removed)) or not all(0 <= unit < self.size for unit in self.removed):
            raise ValueError(f"group {self.group}: units must ascend, from 0 to {self.size - 1}: {self.removed}")
        if len(self.removed) >= self.size:
            raise ValueError(f"group {self.group}: at least one of its {self.size} units must stay")

    @property
    def kept(self) -> int:
        """Units after."""
        return self.size - len(self.removed)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every group of a network, in order, also those that stay whole."""

    cuts: tuple[Cut, ...]

    @property
    def ratio(self) -> float:
        """The share of all units that goes."""
        return sum(len(cut.removed) for cut in self.cuts) / max(1, sum(cut.size for cut in self.cuts))

    @property
    def removed(self) -> Mapping[str, frozenset[int]]:
        """The units that go, by group."""
        return {cut.group: frozenset(cut.removed) for cut in self.cuts}


def plan(
    model: Any,
    criterion: Criterion,
    *,
    ratio: float,
    scope: Literal["uniform", "global"] = "uniform",
    multiple: int = MULTIPLE,
    min_channels: int = MULTIPLE,
    floor: float = FLOOR,
    overrides: Mapping[str, float] | None = None,
) -> Plan:
    """Chooses the units that matter least.

    ``ratio``: the share that goes, 0 to below 1, of each group (``uniform``) or of all groups together (``global``:
    units are ranked over the whole network, and each group keeps at least the share ``floor``). What stays is rounded
    to the nearest ``multiple``, at least ``min_channels`` and one ``multiple``; a group that is no larger stays whole.
    ``overrides``: layer -> ratio for its group, 0 to leave it whole. Groups that the criterion does not score stay whole.

    Raises `UserError` where a number cannot be, an override names no layer that can be pruned or contradicts another,
    or the network has nothing to prune.
    """
    graph = analyse(model)
    check_ratio("ratio", ratio)
    check_ratio("floor", floor)
    for name, value in (("multiple", multiple), ("min_channels", min_channels)):
        if value < 1:
            raise UserError(name, expected="at least 1", found=value)
    if scope not in ("uniform", "global"):
        raise UserError("scope", expected="uniform or global", found=scope)
    own = override_ratios(graph, overrides or {})
    expect_groups(graph)
    scores = criterion(graph)
    scored = [group for group in graph.groups if group.name in scores]
    targets = {group.name: group.size * (1 - own.get(group.name, ratio)) for group in scored}
    if scope == "global":
        ranked = [group for group in scored if group.name not in own]
        targets.update(_ranked_together(ranked, scores, ratio, floor))
    counts = {name: targets[name] for name in targets}
    return cut_to(graph, scores, counts, multiple, min_channels)


def cut_to(
    graph: ChannelGraph,
    scores: Mapping[str, FloatArray],
    targets: Mapping[str, float],
    multiple: int,
    min_channels: int,
) -> Plan:
    """A plan that leaves ``targets`` units by group, rounded; groups without a target stay whole."""
    cuts = []
    for group in graph.groups:
        kept = group.size
        if group.name in targets:
            kept = rounded(targets[group.name], group.size, multiple, min_channels)
        order = np.argsort(scores[group.name], kind="stable") if kept < group.size else np.zeros(0, np.int64)
        removed = tuple(sorted(int(unit) for unit in order[: group.size - kept]))
        cuts.append(Cut(group.name, group.layers, group.size, removed))
    return Plan(tuple(cuts))


def rounded(target: float, size: int, multiple: int, min_channels: int) -> int:
    """``target`` to the nearest ``multiple`` (half of one upwards), within what `plan` promises.

    A group whose target is not below its size stays whole, whatever its size is a multiple of.
    """
    if target >= size:
        return size
    least = max(multiple, -(-min_channels // multiple) * multiple)
    nearest = int(target / multiple + 0.5) * multiple
    return min(size, max(least, nearest))


def _ranked_together(
    groups: Sequence[Group], scores: Mapping[str, FloatArray], ratio: float, floor: float
) -> dict[str, float]:
    """Units that each group keeps when the lowest of all go, no group below its floor."""
    kept = {group.name: group.size for group in groups}
    least = {group.name: max(1, int(np.ceil(group.size * floor))) for group in groups}
    order = sorted(
        (float(score), group.name, unit) for group in groups for unit, score in enumerate(scores[group.name])
    )
    budget = int(ratio * sum(kept.values()))
    for _, name, _ in order:
        if budget == 0:
            break
        if kept[name] > least[name]:
            kept[name] -= 1
            budget -= 1
    return {name: float(count) for name, count in kept.items()}


def check_ratio(name: str, value: float) -> None:
    """Raises `UserError` where it is no share below one."""
    if not 0 <= value < 1:
        raise UserError(name, expected="0 to below 1", found=value)


def expect_groups(graph: ChannelGraph) -> None:
    """Raises `UserError` where nothing can be pruned, with the reasons."""
    if graph.groups:
        return
    reasons = [f"{layer}: {reason}" for layer, reason in {**graph.kept, **graph.unknown}.items()]
    raise UserError(
        "nothing can be pruned", where=graph.calls.model.name, expected="layers whose channels stay within the network",
        found="; ".join(reasons[:5]) or "no convolution and no dense layer",
    )  # fmt: skip


def override_ratios(graph: ChannelGraph, overrides: Mapping[str, float]) -> dict[str, float]:
    """Ratios by group, from ratios by layer. Raises `UserError`."""
    ratios: dict[str, tuple[str, float]] = {}
    for layer, ratio in overrides.items():
        check_ratio(f"overrides: {layer}", ratio)
        groups = [group for group in graph.groups if layer in group.layers]
        if not groups:
            if layer not in graph.calls.operations:
                near = nearest(layer, graph.calls.operations)
                raise UserError(
                    "overrides: no such layer", where=graph.calls.model.name, found=layer,
                    fix=f"perhaps {near}" if near else "",
                )  # fmt: skip
            if ratio == 0:
                continue
            reason = graph.kept.get(layer) or graph.unknown.get(layer) or "it makes no channels"
            raise UserError(f"overrides: {layer} cannot be pruned", where=graph.calls.model.name, found=reason)
        for group in groups:
            other, before = ratios.setdefault(group.name, (layer, ratio))
            if before != ratio:
                raise UserError(
                    f"overrides: {other} and {layer} go together", where=graph.calls.model.name, expected="one ratio",
                    found=f"{before:g} and {ratio:g}",
                )  # fmt: skip
    return {group: ratio for group, (_, ratio) in ratios.items()}
