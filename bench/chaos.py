"""Faults of every kind, and what they leave: messages missing, ids used twice, recovery, memory.

The whole takes about an hour. Each part's rows are kept in build/chaos once it is done, and a run that was broken off goes
on with the next part; ``--afresh`` begins again. ``--short SECONDS`` does a little of each in about that time, and keeps
nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import _chaos_agent as agent
import _chaos_delivery as delivery
from _chaos_stage import Extent, Row
from _results import ROOT, Results

KEPT = ROOT / "build" / "chaos"
Part = Callable[[Extent, random.Random], list[Row]]
PARTS: dict[str, Part] = {
    "kills-always": partial(delivery.kills, "always"),
    "kills-spill": partial(delivery.kills, "spill"),
    "away": delivery.away,
    "restarts": delivery.restarts,
    "resets": delivery.resets,
    "silences": delivery.silences,
    "loss": delivery.loss,
    "engine": agent.engine,
    "jumps": agent.jumps,
    "together": agent.together,
}


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=float, metavar="SECONDS", help="a little of each part")
    parser.add_argument("--minutes", type=float, default=30.0, help="of everything at once, in the whole (default 30)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=PARTS, default=[])
    parser.add_argument("--afresh", action="store_true", help="forget what is kept of earlier runs")
    arguments = parser.parse_args()
    short = arguments.short is not None
    extent = Extent.short(arguments.short) if short else Extent.whole(arguments.minutes)
    results = Results("chaos")
    for name in arguments.only or PARTS:
        kept = KEPT / f"{name}-{arguments.seed}-{arguments.minutes:g}.json"
        if not short and kept.exists() and not arguments.afresh:
            rows = json.loads(kept.read_text())
        else:
            begun = time.monotonic()
            # a part's luck does not depend on which others run
            rows = PARTS[name](extent, random.Random(f"{arguments.seed} {name}"))
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            if not short:
                KEPT.mkdir(parents=True, exist_ok=True)
                new = kept.with_suffix(".new")
                new.write_text(json.dumps(rows))
                new.replace(kept)
        for row in rows:
            results.row(**row)
    return 0 if results.write(keep=not short and not arguments.only) else 1


if __name__ == "__main__":
    sys.exit(main())
