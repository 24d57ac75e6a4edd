"""Every precision of one float network: size, error at the outputs, time. Prints a Markdown table.

    python bench/precisions.py FLOAT.tflite --pictures DIR [--mean 127.5 --std 127.5]

The first half of the pictures drawn calibrates, the other half is compared with the float network. The networks are
timed by turns, one thread, on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vedette.contract.errors import VedetteError
from vedette.contract.manifest import ImageInput
from vedette.contract.types import TensorSpec
from vedette.engine import load_runtime
from vedette_converter import calibrate, quantise
from vedette_converter.load import Network
from vedette_converter.quantise.graph import GraphTensor, read_graph
from vedette_converter.quantise.trace import run_outputs, worst_output_sqnr_db
from vedette_converter.recipe.quantisation import Quantise

ROWS = {
    "float32": Quantise(precision="float32"),
    "float16": Quantise(precision="float16"),
    "dynamic": Quantise(precision="dynamic"),
    "int8": Quantise(),
    "int8, percentile 99.99": Quantise(ranges="percentile"),
    "int16x8": Quantise(precision="int16x8"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, metavar="FLOAT.tflite")
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR")
    parser.add_argument("--mean", type=float, default=0.0, help="of the pixels, 0..255")
    parser.add_argument("--std", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=200, help="pictures")
    parser.add_argument("--rounds", type=int, default=100, help="timings of each network")
    options = parser.parse_args()
    flatbuffer = options.network.read_bytes()
    graph = read_graph(flatbuffer)
    _, height, width, _ = graph.inputs[0].shape
    spec = ImageInput(height=height, width=width, mean=(options.mean,), std=(options.std,))
    drawn = [*calibrate.choose(options.pictures, options.count, 1).samples(spec)]
    shown, unseen = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    network = Network(_specs(graph.inputs), _specs(graph.outputs), None, None, flatbuffer)
    reference = run_outputs(flatbuffer, [*unseen])
    made = {
        name: quantise.convert(network, row, (lambda: iter(shown)) if row.calibrated else None)
        for name, row in ROWS.items()
    }
    times = _times(made, options.rounds)
    print(f"{options.network.name}, {len(unseen)} pictures, {load_runtime()}\n")
    print("| precision | KB | SQNR of the worst output, dB | median ms |\n| --- | ---: | ---: | ---: |")
    for name, bytes_ in made.items():
        sqnr = worst_output_sqnr_db(reference, run_outputs(bytes_, [*unseen]))
        print(f"| {name} | {len(bytes_) / 1000:.0f} | {sqnr:.1f} | {times[name]:.3f} |")
    return 0


def _specs(tensors: tuple[GraphTensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, t.shape, np.dtype(np.float32)) for t in tensors)


def _times(made: dict[str, bytes], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in made}
    with tempfile.TemporaryDirectory() as folder:
        engines = {}
        for number, (name, flatbuffer) in enumerate(made.items()):
            path = Path(folder) / f"{number}.tflite"
            path.write_bytes(flatbuffer)
            engines[name] = quantise.load_proven(path, load_runtime())
        buffers = {name: engine.allocate() for name, engine in engines.items()}
        for _ in range(rounds):
            for name, engine in engines.items():
                start = time.perf_counter_ns()
                engine.invoke(*buffers[name])
                taken[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VedetteError as error:
        sys.exit(f"error: {error.line()}")
