"""Channel pruning of Keras 3 networks: channels that are really gone, in a smaller network that is really faster.

::

    removal = plan(model, L1Norm(), ratio=0.5)
    smaller = apply(model, removal)
    print(count(model), count(smaller))

Keras graph -> calls -> channel graph (what must go together) -> scores -> plan -> a new network.
"""

from .budget import LatencyPlan, plan_for_latency
from .channels import apply, masked
from .cost import Cost, count
from .criteria import BatchNormScale, Criterion, GeometricMedian, L1Norm, Taylor
from .graph import ChannelGraph, Group, analyse
from .planning import Cut, Plan, plan
from .reconstruct import HELD_BACK, RIDGES, Refit, reconstruct

__all__ = [
    "HELD_BACK",
    "RIDGES",
    "BatchNormScale",
    "ChannelGraph",
    "Cost",
    "Criterion",
    "Cut",
    "GeometricMedian",
    "Group",
    "L1Norm",
    "LatencyPlan",
    "Plan",
    "Refit",
    "Taylor",
    "analyse",
    "apply",
    "count",
    "masked",
    "plan",
    "plan_for_latency",
    "reconstruct",
]
