"""A published histogram as a row of bars, one character each."""

from __future__ import annotations

import math
from typing import Final

from vedette.flow.stats import Buckets

BLOCKS: Final = "▁▂▃▄▅▆▇█"
ASCII: Final = ".:-=+*#@"
"""For terminals that have no others."""


def bars(buckets: Buckets, columns: int, blocks: str = BLOCKS) -> str:
    """From the fastest value to the slowest, on a logarithmic axis, at most ``columns`` wide. The highest bar is the
    fullest; where there is a bar at all, there was a value."""
    counts = buckets.counts
    if not counts or columns < 1:
        return blocks[-1] if buckets.zero_count and columns > 0 else ""
    each = math.ceil(len(counts) / columns)
    sums = [sum(counts[at : at + each]) for at in range(0, len(counts), each)]
    highest = max(sums)
    if not highest:
        return ""
    return "".join(" " if not count else blocks[(count * len(blocks) - 1) // highest] for count in sums)
