"""Pruning to a latency that was measured, for multiply-accumulates are no clock.

Each group is cut alone, once, and the network measured: what that saves is the group's sensitivity. One strength t then
sets all ratios, r_g = min(max_ratio, t * s_g / max(s)), so that groups which cost the most time lose the most; t is
found by bisection, the network rebuilt and measured at each step. (NetAdapt, Yang et al., arXiv 1804.03230, also goes by
measured latencies, layer by layer; this measures groups once and so needs a few dozen measurements, not thousands.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vedette.contract.errors import UserError

from .channels import apply
from .criteria import Criterion
from .graph import analyse
from .planning import MULTIPLE, Plan, check_ratio, cut_to, expect_groups

STEPS: Final = 7  # of the bisection: strengths to some 5 %; channel counts are rounded more coarsely
PROBE: Final = 0.5  # share of a group that is cut to measure its sensitivity
NOISE: Final = 0.01  # of the original's latency: a group that saves less is left whole
_MILDEST: Final = 0.02  # a strength at which no group of usual size loses a channel


@dataclass(frozen=True, slots=True)
class LatencyPlan:
    """The mildest plan found that reaches the target, and what was measured on the way."""

    plan: Plan
    before_ms: float
    after_ms: float
    saved_ms: Mapping[str, float]
    """Group -> what cutting `PROBE` of it alone saved."""
    tried: tuple[tuple[float, float], ...]
    """(strength, ms) of each step, in order."""


def plan_for_latency(
    model: Any,
    criterion: Criterion,
    measure: Callable[[Any], float],
    *,
    target_ms: float | None = None,
    ratio: float | None = None,
    max_ratio: float = 0.75,
    multiple: int = MULTIPLE,
    min_channels: int = MULTIPLE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyPlan:
    """Prunes as little as reaches a latency.

    ``measure``: network -> ms, the same way each time; called once for the original, once a group, then at most
    `STEPS` + 1 times. ``target_ms``, or ``ratio`` of the original's latency (0.5: twice as fast): one of the two.
    ``max_ratio``: the largest share that any group loses. ``progress`` is told measurements done, and how many there
    are at most.

    Raises `UserError` where the target is not reached with every group cut to ``max_ratio``, with the latency that is.
    """
    if (target_ms is None) == (ratio is None):
        raise UserError("latency target", expected="target_ms or ratio, one of them", found="both or none")
    check_ratio("max_ratio", max_ratio)
    if ratio is not None:
        check_ratio("ratio", ratio)
    graph = analyse(model)
    expect_groups(graph)
    scores = criterion(graph)
    groups = [group for group in graph.groups if group.name in scores]
    total = len(groups) + STEPS + 2
    done = 0

    def clock(shares: Mapping[str, float]) -> tuple[Plan, float]:
        nonlocal done
        targets = {group.name: group.size * (1 - shares[group.name]) for group in groups if group.name in shares}
        cut = cut_to(graph, scores, targets, multiple, min_channels)
        taken_ms = measure(apply(model, cut)) if cut.ratio else measure(model)
        done += 1
        progress(done, total)
        return cut, taken_ms

    whole, before_ms = clock({})
    limit_ms = target_ms if target_ms is not None else before_ms * (ratio or 0.0)
    if limit_ms >= before_ms:
        return LatencyPlan(whole, before_ms, before_ms, {}, ())
    saved = {group.name: before_ms - clock({group.name: min(PROBE, max_ratio)})[1] for group in groups}
    heard = {name: ms for name, ms in saved.items() if ms > NOISE * before_ms}
    # every group stays in the race: where none is heard, all are cut alike
    weights = {name: ms / max(heard.values()) for name, ms in heard.items()} or dict.fromkeys(saved, 1.0)

    def attempt(strength: float) -> tuple[Plan, float]:
        return clock({name: min(max_ratio, strength * weight) for name, weight in weights.items()})

    strongest = max_ratio / min(weights.values())
    best, reached_ms = attempt(strongest)
    tried = [(strongest, reached_ms)]
    if reached_ms > limit_ms:
        raise UserError(
            "the latency cannot be reached by pruning", where=graph.calls.model.name, expected=f"{limit_ms:.3f} ms",
            found=f"{reached_ms:.3f} ms of {before_ms:.3f} ms with {max_ratio:g} of the channels gone where it helps",
            fix="raise max_ratio, quantise, or feed a smaller input",
        )  # fmt: skip
    low, high = min(_MILDEST, strongest), strongest
    for _ in range(STEPS):
        middle = math.sqrt(low * high)  # by ratio, for the strongest may be far above what is needed
        candidate, taken_ms = attempt(middle)
        tried.append((middle, taken_ms))
        if taken_ms <= limit_ms:
            high, best, reached_ms = middle, candidate, taken_ms
        else:
            low = middle
    return LatencyPlan(best, before_ms, reached_ms, saved, tuple(tried))
