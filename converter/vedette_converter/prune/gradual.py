"""Several cuts on the way to one goal, with time to recover between them.

A network that loses half its channels at once may not come back; one that loses a few at a time often does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .criteria import Criterion
from .graph import analyse
from .planning import Plan, cut_to


def goal(found: Plan) -> dict[str, int]:
    """Group -> units that stay."""
    return {cut.group: cut.kept for cut in found.cuts}


def step_towards(
    model: Any, criterion: Criterion, kept: Mapping[str, int], step: int, steps: int, *, multiple: int
) -> Plan:
    """The cut that brings ``model``, after ``step - 1`` of ``steps`` cuts, one nearer to ``kept``; the last one reaches it.

    Which units go is chosen anew at each step, by the weights as they are then. Each step takes an equal share of what
    is still to go, rounded to ``multiple``.
    """
    graph = analyse(model)
    scores = criterion(graph)
    left = steps - step + 1
    targets = {
        group.name: group.size - (group.size - kept[group.name]) / left
        for group in graph.groups
        if group.name in scores and kept.get(group.name, group.size) < group.size
    }
    rounding = multiple if left > 1 else 1
    return cut_to(graph, scores, targets, rounding, 1)
