"""The interpreter alone: ``invoke()`` in a loop, flat out or so many a second, and what each run took.

Prints one line of JSON: seconds, cpu_s (of all threads), invoke_ms of every run.
"""

from __future__ import annotations

import argparse
import json
import time

from ai_edge_litert.interpreter import Interpreter

WARM = 30  # runs before it counts


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("threads", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--fps", type=float, default=0.0, help="0: flat out")
    arguments = parser.parse_args()
    interpreter = Interpreter(arguments.model, num_threads=arguments.threads)
    interpreter.allocate_tensors()
    for _ in range(WARM):
        interpreter.invoke()
    took: list[float] = []
    cpu = time.process_time()
    begun = due = time.perf_counter()
    while (now := time.perf_counter()) - begun < arguments.seconds:
        interpreter.invoke()
        took.append((time.perf_counter() - now) * 1e3)
        if arguments.fps:
            due += 1 / arguments.fps
            time.sleep(max(0.0, due - time.perf_counter()))
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "cpu_s": time.process_time() - cpu, "invoke_ms": took}))


if __name__ == "__main__":
    main()
