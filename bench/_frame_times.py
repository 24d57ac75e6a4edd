"""What the stages of one frame cost one thread, by what it did before each of them.

Arguments: MODEL, CLIP, PORT of a broker, FRAMES, STATE (a folder). Before each stage comes nothing but the one before
(``together``), one ``invoke()`` (``invoke``), or arithmetic that keeps to a few kilobytes and so pushes nothing out of a
cache: for as long (``arithmetic``), and for each of `PAUSES_MS`, by its name. Prints JSON: what came before -> stage ->
milliseconds of CPU, the median.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _frame import Stages

WARM = 30  # frames before it counts
ROUNDS = 1000  # of PBKDF2, to see how long they take
PAUSES_MS = (0.1, 1, 4, 16)


def main() -> None:
    """See the module."""
    model, clip, port, frames, state = sys.argv[1:]
    stages = Stages(model, clip, int(port), Path(state))
    invoke_s = statistics.median(_seconds(stages.infer) for _ in range(WARM))
    per_round_s = statistics.median(_seconds(lambda: _arithmetic(ROUNDS)) for _ in range(WARM)) / ROUNDS

    def arithmetic(seconds: float) -> Callable[[], object]:
        return partial(_arithmetic, round(seconds / per_round_s))

    before: dict[str, Callable[[], object]] = {
        "together": lambda: None, "invoke": stages.infer, "arithmetic": arithmetic(invoke_s),
        **{f"{pause_ms:g}": arithmetic(pause_ms / 1e3) for pause_ms in PAUSES_MS},
    }  # fmt: skip
    took: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in stages.around} for name in before}
    for count in range(WARM + int(frames)):
        for name, work in before.items():  # by turns, so that what else the machine does meets all of them
            for stage in stages.around.values():
                stage()  # or the first of "together" would come after the last arithmetic
            for stage_name, stage in stages.around.items():
                work()
                begun = time.thread_time()
                stage()
                if count >= WARM:
                    took[name][stage_name].append((time.thread_time() - begun) * 1e3)
    print(json.dumps({name: {s: statistics.median(ms) for s, ms in row.items()} for name, row in took.items()}))


def _arithmetic(rounds: int) -> None:
    hashlib.pbkdf2_hmac("sha256", b"nothing", b"but numbers", rounds)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
