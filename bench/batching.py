"""What inference of several cameras' frames at once would save: batches of 1 to 8, against one after another.

The shipped networks, made for batches here: their graphs say 1. On one thread, and with all cores, where an interpreter a
core with a frame each stands against one interpreter whose threads share a batch. By turns, and the outputs compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _results import ROOT, Results

MODELS = ("coco-ssdlite-mobilenet-v2", "vtest-person", "cifar10-resnet8", "watch-activity")
BATCHES = (2, 4, 8)
TURN_S = 0.1
RESHAPE = 22  # BuiltinOperator


def batched(path: Path, size: int) -> bytes:
    """The same network for so many samples: every first dimension that says 1, and every shape that is a constant."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        constant = model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data) > 0
        if not constant and tensor.shape is not None and len(tensor.shape) and tensor.shape[0] == 1:
            tensor.shape = np.array([size, *tensor.shape[1:]], np.int32)
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) != RESHAPE:
            continue
        buffer = model.buffers[graph.tensors[op.inputs[1]].buffer]
        shape = np.frombuffer(bytes(bytearray(buffer.data)), np.int32).copy()
        if shape[0] == 1:
            shape[0] = size
            buffer.data = np.frombuffer(shape.tobytes(), np.uint8)
        options = op.builtinOptions
        if getattr(options, "newShape", None) is not None and len(options.newShape):
            options.newShape = np.array([size, *options.newShape[1:]], np.int32)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


class Network:
    """One interpreter, with noise for its input."""

    def __init__(self, flatbuffer: bytes, threads: int, size: int) -> None:
        """``size``: of the batch, all of whose samples are the same."""
        from ai_edge_litert.interpreter import Interpreter

        self.size = size
        self.interpreter: Any = Interpreter(model_content=flatbuffer, num_threads=threads)
        self.interpreter.allocate_tensors()
        given = self.interpreter.get_input_details()[0]
        sample = np.random.default_rng(0).integers(-100, 100, (1, *given["shape"][1:])).astype(given["dtype"])
        self.interpreter.set_tensor(given["index"], np.repeat(sample, size, 0))
        self.invoke()

    def invoke(self) -> None:
        """Of the whole batch."""
        self.interpreter.invoke()

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        """Of every output."""
        return [self.interpreter.get_tensor(output["index"]) for output in self.interpreter.get_output_details()]


def rate(network: Network, seconds: float) -> float:
    """Samples a second."""
    count, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        network.invoke()
        count += network.size
    return count / spent


def rate_together(networks: list[Network], seconds: float) -> float:
    """Of all of them at once, each on a thread of its own."""
    rates = [0.0] * len(networks)

    def run(index: int) -> None:
        rates[index] = rate(networks[index], seconds)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(networks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def by_turns(ways: dict[int, Callable[[], float]], rounds: int) -> dict[int, list[float]]:
    """Samples a second of each by those of way 1 in the same round."""
    found: dict[int, list[float]] = {way: [] for way in ways if way != 1}
    for _ in range(rounds):
        rates = {way: measure() for way, measure in ways.items()}
        for way, ratios in found.items():
            ratios.append(rates[way] / rates[1])
    return found


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="of all ways")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    results = Results("batching")
    for name in MODELS:
        path = ROOT / "models" / f"{name}.tflite"
        made = {size: batched(path, size) for size in (1, *BATCHES)}
        alone = {size: Network(flatbuffer, 1, size) for size, flatbuffer in made.items()}
        for size in BATCHES:
            for one, many in zip(alone[1].outputs(), alone[size].outputs(), strict=True):
                assert (many == one).all(), f"{name}: another answer in a batch of {size}"
        many = [Network(made[1], 1, 1) for _ in range(cores)]
        shared = {size: Network(made[size], cores, size) for size in BATCHES}
        for what, ways in (
            ("one thread: a batch of {} by one after another", {
                size: (lambda alone=alone, size=size: rate(alone[size], TURN_S)) for size in (1, *BATCHES)}),
            (f"{cores} cores: a batch of {{}} on an interpreter of {cores} threads by one each on {cores} interpreters", {
                1: lambda many=many: rate_together(many, TURN_S),
                **{size: (lambda shared=shared, size=size: rate(shared[size], TURN_S)) for size in BATCHES}}),
        ):  # fmt: skip
            for size, ratios in by_turns(ways, options.rounds).items():
                low, middle, high = statistics.quantiles(ratios, n=4)
                results.row(what=f"{name}: {what.format(size)}: samples a second", value=middle, unit="ratio",
                            n=len(ratios), spread=[low, high])  # fmt: skip
    results.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
