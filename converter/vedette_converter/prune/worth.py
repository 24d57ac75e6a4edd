"""What channels are worth: how much they matter, by what they cost to run.

Ranked by importance alone, the channels of wide, coarse layers go first, for there are many of them; those that cost the
time are the few of the early, fine maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from vedette.contract.errors import UserError

from .calls import Call, read_calls
from .channels import apply
from .cost import count
from .criteria import Criterion, Scores
from .graph import ChannelGraph, Group, analyse
from .planning import MULTIPLE, Plan, plan

MACS_PER_ELEMENT: Final = 31
"""Time that it takes to read or write one element of a feature map, in multiply-accumulates: int8, XNNPACK, x86-64 with
AVX-512, by least squares over eight sizes and prunings of the detector (docs/converter/specialise.md)."""
MACS_PER_RUN: Final = 130_000_000
"""The part of one inference that does not shrink with the channels, in the same measure."""
STEPS: Final = 10  # of the bisection: a thousandth of all channels


def work(model: Any) -> float:
    """What one inference costs, in multiply-accumulates: those, and the feature maps' reads and writes.

    No latency: a measure that is proportional to int8 latency within some 5 % among prunings of one network. Raises
    `ModelError` where a size is open.
    """
    elements = 0.0
    for call in read_calls(model).calls:
        if getattr(call.operation, "kernel", None) is not None:
            elements += math.prod(call.operation.input.shape[1:]) + math.prod(call.operation.output.shape[1:])
        elif type(call.operation).__name__ == "Add":
            elements += 3 * math.prod(call.operation.output.shape[1:])
    return count(model).macs + MACS_PER_ELEMENT * elements + MACS_PER_RUN


@dataclass(frozen=True, slots=True)
class Worth:
    """Another criterion's scores, each divided by what a unit of its group costs to run.

    As the latency-aware ranking of HALP (Shen et al., arXiv 2110.10811, section 3.2), with a linear cost in the place
    of its table of latencies.
    """

    criterion: Criterion

    def __call__(self, graph: ChannelGraph) -> Scores:
        """See `vedette_converter.prune.criteria.Criterion`."""
        scores = self.criterion(graph)
        costs = {group.name: _unit_cost(graph, group) for group in graph.groups if group.name in scores}
        return {name: scores[name] / max(cost, 1.0) for name, cost in costs.items()}


def _unit_cost(graph: ChannelGraph, group: Group) -> float:
    """Of one unit of a group while all others are there: its share of every call's work that reads or makes it."""
    own = {channel for channel, (name, _) in graph.units.items() if name == group.name}
    total = 0.0
    for call in graph.calls.calls:
        if getattr(call.operation, "kernel", None) is None:
            continue
        read, made = (_share(graph, number, own) for number in (call.inputs[0], call.outputs[0]))
        if read or made:
            total += _cost(call, read, made)
    return total / group.size


def _share(graph: ChannelGraph, value: int, own: set[int]) -> float:
    channels = graph.channels[value]
    return 0.0 if channels is None or not len(channels) else sum(int(c) in own for c in channels) / len(channels)


def _cost(call: Call, read: float, made: float) -> float:
    operation = call.operation
    places = math.prod(operation.output.shape[1:-1])
    macs = places * math.prod(operation.kernel.shape)
    depthwise = type(operation).__name__.startswith("Depthwise")
    elements = read * math.prod(operation.input.shape[1:]) + made * math.prod(operation.output.shape[1:])
    return float(macs * (read if depthwise else read + made) + MACS_PER_ELEMENT * elements)


def plan_for_work(model: Any, criterion: Criterion, *, ratio: float, floor: float, multiple: int = MULTIPLE) -> Plan:
    """The mildest cut of the least worthy channels, over all groups together, that leaves ``ratio`` of the `work`.

    ``ratio``: above 0, at most 1. ``floor``: the share that each group keeps at least. Raises `UserError` where so
    little work cannot be reached.
    """
    if not 0 < ratio <= 1:
        raise UserError("share of the work", expected="above 0, at most 1", found=ratio)
    scores = Worth(criterion)(analyse(model))
    whole = work(model)

    def attempt(share: float) -> tuple[Plan, float]:
        found = plan(model, lambda graph: scores, ratio=share, scope="global", floor=floor, multiple=multiple)
        return found, work(apply(model, found)) / whole

    low, high = 0.0, 1.0 - 2.0**-STEPS
    best, left = attempt(high)
    if left > ratio:
        raise UserError(
            "so little work cannot be reached by pruning", where=model.name, expected=f"{ratio:.3f} of the original's",
            found=f"{left:.3f} with each group at its floor of {floor:g}", fix="feed a smaller input, or ask for less",
        )  # fmt: skip
    for _ in range(STEPS):
        middle = (low + high) / 2
        found, left = attempt(middle)
        if left <= ratio:
            high, best = middle, found
        else:
            low = middle
    return best
