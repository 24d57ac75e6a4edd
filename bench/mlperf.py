"""MLPerf's own LoadGen drives the agent's engine: SingleStream, MultiStream, Server and Offline, against a bare loop.

The system under test is what a device runs: `TfliteEngine`, as many interpreters of it as the rule of `vedette.flow.lane`
gives them, a lane that shares them by turns, and the agent's decoder. LoadGen's queries come to the lane as pipelines'
samples do, one seat an interpreter; pictures are tensors before the clock runs, as MLPerf has it, and a query is answered
when its results are decoded. The bare loop calls ``invoke()`` and nothing else, with one interpreter beside SingleStream and
with as many as the lane has beside the rest, before and after each run.

This is LoadGen's harness and LoadGen's verdict on runs of seconds. It is no MLPerf submission: that asks for runs of ten
minutes, MLPerf's own networks and data sets, and somebody who looks at it. Every setting is printed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from vedette.cli.run import SWITCH_INTERVAL_S
from vedette.contract.decode import make_decoder
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import ImageInput
from vedette.contract.types import Classes, Detections, Result, Tensor
from vedette.engine import Engine, TfliteEngine, load_runtime
from vedette.flow.lane import Lane, Seat, Turns, slots
from vedette.models.model import ModelSpec, read_model, share_folder
from vedette.pictures.drawing import read_picture

sys.path.insert(0, str(Path(__file__).parent))
from _results import ROOT, Results

try:
    import mlperf_loadgen as loadgen
except ImportError:
    loadgen = None

SCENARIOS = (
    "SingleStream",
    "MultiStream",
    "Offline",
    "Server",
)  # in this order: Server is asked what Offline has shown
STREAMS = 8  # samples a query of MultiStream, as MLPerf has it
ENOUGH = 662  # queries, from which LoadGen estimates a 99th percentile at all (its early stopping)
OFFERED = 0.5  # Server: the rate that is asked for, as a share of what Offline reached in the same round
# milliseconds, the 99th percentile that Server allows: those of MLPerf Inference's networks of the same tasks
SERVER_MS = {"detect": 100.0, "classify": 15.0}
IN_MEMORY = 64  # pictures of a performance run
QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}

Answer = Callable[[Sequence[Tensor], Sequence[Tensor]], np.ndarray]


@dataclass(frozen=True)
class Summary:
    """What LoadGen's summary says. ``latency_ms``: of a query, by quantile; ``rate``: samples a second."""

    valid: bool
    why: str
    latency_ms: dict[str, float]
    rate: float


@dataclass
class Found:
    """Of one scenario, over the rounds. ``bare``: the bare loop's p50 (ms) and rate around each of them."""

    runs: list[Summary] = field(default_factory=list)
    bare: list[tuple[float, float]] = field(default_factory=list)


class Sut:
    """The system under test, and the library of its samples: tensors, filled when LoadGen says so."""

    def __init__(self, spec: ModelSpec, count: int, picture: Callable[[int], Any], threads: int) -> None:
        """``picture``: of a sample's number, (height, width, 3) uint8 BGR. ``count``: how many there are."""
        runtime = load_runtime()
        number = slots(threads)
        self.engines: list[Engine] = [TfliteEngine(spec.path, runtime, threads=threads) for _ in range(number)]
        first = self.engines[0]
        assert isinstance(spec.input, ImageInput)
        self._preprocess = ImagePreprocessor(spec.input, first.inputs[0])
        self._picture = picture
        self._samples: dict[int, list[Tensor]] = {}
        self._lane = Lane(spec.name, self.engines, Turns(number))
        # each with a decoder of its own, for they decode side by side
        self._seats = [(self._lane.seat(f"s{n}"), first.allocate()[1], _answer(spec, first)) for n in range(number)]
        self._next = 0
        self.faults: list[str] = []
        self._lane.start()
        self._handle = loadgen.ConstructSUT(self._issue, lambda: None)
        self._library = loadgen.ConstructQSL(count, min(count, IN_MEMORY), self._load, self._unload)

    def run(self, settings: Any, folder: Path) -> None:
        """One test, LoadGen's logs in ``folder``."""
        output = loadgen.LogOutputSettings()
        output.outdir = str(folder)
        output.copy_summary_to_stdout = False
        log = loadgen.LogSettings()
        log.log_output = output
        log.enable_trace = False
        loadgen.StartTestWithLogSettings(self._handle, self._library, settings, log)
        if self.faults:
            raise RuntimeError(f"the engine failed: {self.faults[0]}")

    def direct(self, index: int) -> np.ndarray:
        """The answer to one sample by the engine called directly."""
        self._load([index])
        outputs = self.engines[0].allocate()[1]
        self.engines[0].invoke(self._samples[index], outputs)
        answer = self._seats[0][2](outputs, self._samples[index])
        self._unload([index])
        return answer

    def close(self) -> None:
        """Lets everything go."""
        loadgen.DestroyQSL(self._library)
        loadgen.DestroySUT(self._handle)
        self._lane.stop()
        self._lane.close()

    def _load(self, indices: Sequence[int]) -> None:
        for index in indices:
            tensors = self.engines[0].allocate()[0]
            self._preprocess(self._picture(index), tensors[0])
            self._samples[index] = tensors

    def _unload(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._samples.pop(index, None)

    def _issue(self, queries: Sequence[Any]) -> None:
        for query in queries:  # by turns, as a pipeline has one inference under way at most
            seat, outputs, answer = self._seats[self._next]
            self._next = (self._next + 1) % len(self._seats)
            self._submit(seat, outputs, answer, query.id, self._samples[query.index])

    def _submit(
        self, seat: Seat, outputs: list[Tensor], decoded: Answer, identity: int, inputs: list[Tensor]
    ) -> None:  # fmt: skip
        answers: list[np.ndarray] = []

        def run(engine: Engine) -> None:
            engine.invoke(inputs, outputs)
            answers.append(decoded(outputs, inputs))

        def done(fault: Exception | None) -> None:
            if fault is not None:
                self.faults.append(str(fault))
            answer = answers[0] if answers else np.empty(0, np.float32)
            response = loadgen.QuerySampleResponse(identity, answer.ctypes.data if answer.size else 0, answer.nbytes)
            loadgen.QuerySamplesComplete([response])

        seat.submit(run, done)


def _answer(spec: ModelSpec, engine: Engine) -> Answer:
    decode = make_decoder(
        spec.output, engine.outputs, len(spec.labels), inputs=engine.inputs, input_spec=spec.input
    )  # fmt: skip
    return lambda outputs, inputs: as_numbers(decode(outputs, inputs))


def as_numbers(result: Result) -> np.ndarray:
    """What goes back to LoadGen: the best class, or a row of class, score and box each detection; float32."""
    if isinstance(result, Classes):
        return np.asarray(result.class_ids[result.scores.argmax()][None], np.float32)
    assert isinstance(result, Detections)
    return np.ascontiguousarray(np.column_stack([result.class_ids, result.scores, result.boxes]), np.float32)


def settings(scenario: str, *, seconds: float, rate: float, parallel: float, offered: float, server_ms: float) -> Any:
    """Of a performance run. ``rate``, ``parallel``: samples a second of the bare loop, of one interpreter and of all.

    ``offered``: queries a second of Server, which come at random (Poisson), ``server_ms`` what 99 % of them may take.
    """
    made = loadgen.TestSettings()
    made.scenario = getattr(loadgen.TestScenario, scenario)
    made.mode = loadgen.TestMode.PerformanceOnly
    made.min_duration_ms = int(seconds * 1000)
    made.min_query_count = ENOUGH if scenario != "Offline" else 1
    made.single_stream_expected_latency_ns = int(1e9 / rate)
    made.multi_stream_samples_per_query = STREAMS
    made.multi_stream_expected_latency_ns = int(STREAMS * 1e9 / parallel)
    made.server_target_qps = offered
    made.server_target_latency_ns = int(server_ms * 1e6)
    made.offline_expected_qps = parallel * 1.2  # LoadGen makes so many samples: too few, and the run is too short
    return made


def read_summary(path: Path, scenario: str) -> Summary:
    """LoadGen's own words. Raises `ValueError` where it does not say what it should."""
    text = path.read_text()

    def number(pattern: str) -> float:
        found = re.search(pattern + r"\s*:\s*([0-9.]+)", text)
        if found is None:
            raise ValueError(f"{path}: LoadGen says nothing of {pattern}")
        return float(found[1])

    verdict = re.search(r"Result is : (\w+)", text)
    if verdict is None:
        raise ValueError(f"{path}: no verdict")
    latency = {name: number(rf"{value:.2f} percentile latency \(ns\)") / 1e6 for name, value in QUANTILES.items()}
    if scenario == "SingleStream":
        rate = number("QPS w/ loadgen overhead")
    elif scenario == "MultiStream":
        rate = STREAMS * 1e9 / number(r"Mean latency \(ns\)")  # the next query is issued when this one is complete
    else:
        rate = number(r"(?:Completed samples per second|Samples per second)")
    missed = re.findall(r"^  (.+?) satisfied ?: N[Oo]", text, re.MULTILINE)
    return Summary(verdict[1] == "VALID", ", ".join(missed), latency, rate)


def bare(path: Path, threads: int, interpreters: int, seconds: float) -> tuple[float, float]:
    """Median milliseconds of ``invoke()``, and how many a second, of so many interpreters side by side."""
    loops = [Interpreter(str(path), num_threads=threads) for _ in range(interpreters)]
    for loop in loops:
        loop.allocate_tensors()
        loop.invoke()
    spans: list[list[float]] = [[] for _ in loops]
    begun = time.perf_counter()

    def work(loop: Interpreter, took: list[float]) -> None:
        now = time.perf_counter()
        while now - begun < seconds:
            loop.invoke()
            before, now = now, time.perf_counter()
            took.append(now - before)

    workers = [threading.Thread(target=work, args=pair) for pair in zip(loops, spans, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    every = [span for took in spans for span in took]
    return statistics.median(every) * 1e3, len(every) / (time.perf_counter() - begun)


def perform(results: Results, model: str, pictures: Sequence[Any], arguments: argparse.Namespace) -> None:
    """All scenarios of one network, in turns with the bare loop."""
    spec = read_model(model)
    task = "detect" if spec.output.__struct_config__.tag != "classify" else "classify"
    sut = Sut(spec, len(pictures), pictures.__getitem__, arguments.threads)
    side_by_side = len(sut.engines)
    found = {scenario: Found() for scenario in SCENARIOS}
    _, rate = bare(spec.path, arguments.threads, 1, 1.0)
    _, parallel = bare(spec.path, arguments.threads, side_by_side, 1.0)
    server_ms = SERVER_MS[task]
    said = {
        "SingleStream": f"at least {arguments.seconds:g} s and {ENOUGH} queries",
        "MultiStream": f"{STREAMS} samples a query, at least {arguments.seconds:g} s and {ENOUGH} queries",
        "Offline": f"one query of what at least {arguments.seconds:g} s take",
        "Server": f"{OFFERED:g} of Offline's rate, 99 % within {server_ms:g} ms, at least {arguments.seconds:g} s and"
        f" {ENOUGH} queries",
    }
    print(f"{spec.name}: {side_by_side} interpreters of {arguments.threads} threads, {len(pictures)} samples in memory")
    print("\n".join(f"  {scenario}: {words}" for scenario, words in said.items()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(arguments.rounds):
            for scenario in SCENARIOS:
                shown = found["Offline"].runs[-1].rate if found["Offline"].runs else parallel
                wanted = settings(
                    scenario, seconds=arguments.seconds, rate=rate, parallel=parallel, offered=OFFERED * shown,
                    server_ms=server_ms,
                )  # fmt: skip

                interpreters = 1 if scenario == "SingleStream" else side_by_side
                before = bare(spec.path, arguments.threads, interpreters, arguments.seconds / 4)
                sut.run(wanted, folder)
                after = bare(spec.path, arguments.threads, interpreters, arguments.seconds / 4)
                found[scenario].runs.append(read_summary(folder / "mlperf_log_summary.txt", scenario))
                found[scenario].bare.append(((before[0] + after[0]) / 2, (before[1] + after[1]) / 2))
                if scenario == "SingleStream":
                    rate = max(rate, before[1], after[1])
                else:
                    parallel = max(parallel, before[1], after[1])
                last = found[scenario].runs[-1]
                verdict = "VALID" if last.valid else f"INVALID: {last.why} not satisfied"
                print(f"round {number + 1}, {scenario}: {last.rate:.1f} samples a second, {verdict}", file=sys.stderr)
    sut.close()
    for scenario in SCENARIOS:
        report(results, spec.name, scenario, found[scenario], side_by_side, said[scenario])


def report(results: Results, name: str, scenario: str, found: Found, interpreters: int, said: str) -> None:
    """The rows of one scenario. ``said``: its settings. Spreads are the least and the most of the rounds."""
    n = len(found.runs)
    valid = sum(run.valid for run in found.runs)
    missed = "; ".join(sorted({run.why for run in found.runs if not run.valid}))
    what = f"{name}, {scenario}"
    results.row(
        what=f"{what}: LoadGen says", value="VALID" if valid == n else f"INVALID, {n - valid} of {n}", unit="", n=n,
        target="VALID", holds=valid == n,
        reason=f"LoadGen's harness, no submission; {said}" + (f"; not satisfied: {missed}" if missed else ""),
    )  # fmt: skip

    def row(of: str, values: list[float], unit: str) -> None:
        results.row(
            what=f"{what}: {of}", value=round(statistics.median(values), 4), unit=unit, n=n,
            spread=[round(min(values), 4), round(max(values), 4)],
        )  # fmt: skip

    row("samples a second", [run.rate for run in found.runs], "1/s")
    if scenario != "Offline":  # there, all samples are asked for at once: latencies say how long the run was
        of = {"MultiStream": f"latency of a query of {STREAMS}"}.get(scenario, "latency of a query")
        for quantile in QUANTILES:
            row(f"{of}, {quantile}", [run.latency_ms[quantile] for run in found.runs], "ms")
    if scenario == "SingleStream":
        row(
            "latency p50 by the bare loop's",
            [run.latency_ms["p50"] / beside[0] for run, beside in zip(found.runs, found.bare, strict=True)], "ratio",
        )  # fmt: skip
    if scenario != "Server":  # whose rate is the one that is asked for
        words = "the bare loop's" if interpreters == 1 or scenario == "SingleStream" else f"{interpreters} bare loops'"
        row(
            f"samples a second by {words}",
            [run.rate / beside[1] for run, beside in zip(found.runs, found.bare, strict=True)], "ratio",
        )  # fmt: skip


def accuracy(results: Results, model: str, test: Path, threads: int, most: int) -> None:
    """LoadGen's accuracy mode over the test pictures, and the same pictures without LoadGen."""
    spec = read_model(model)
    files = sorted(file for file in test.glob("*/*") if file.suffix.lower() in (".jpg", ".png"))
    files = files[:: max(1, len(files) // most)]
    sut = Sut(spec, len(files), lambda index: read_picture(files[index]), threads)
    wanted = loadgen.TestSettings()
    wanted.scenario = loadgen.TestScenario.Offline
    wanted.mode = loadgen.TestMode.AccuracyOnly
    with tempfile.TemporaryDirectory() as temporary:
        sut.run(wanted, Path(temporary))
        logged = json.loads((Path(temporary) / "mlperf_log_accuracy.json").read_text())
    told = {entry["qsl_idx"]: int(np.frombuffer(bytes.fromhex(entry["data"]), np.float32)[0]) for entry in logged}
    truth = [spec.labels.index(file.parent.name) for file in files]
    direct = [int(sut.direct(index)[0]) for index in range(len(files))]
    sut.close()
    right = sum(told.get(index) == label for index, label in enumerate(truth))
    share = right / len(files)
    results.row(
        what=f"{spec.name}, accuracy mode: top-1", value=round(share, 4), unit="", n=len(files),
        spread=[round(share + side * 1.96 * (share * (1 - share) / len(files)) ** 0.5, 4) for side in (-1, 1)],
    )  # fmt: skip
    differ = sum(told.get(index) != label for index, label in enumerate(direct))
    results.row(
        what=f"{spec.name}, accuracy mode: pictures that the engine called directly answers otherwise", value=differ,
        unit="pictures", n=len(files), target="== 0", holds=differ == 0,
    )  # fmt: skip


def frames(clip: Path, count: int) -> list[Any]:
    """The first frames of a clip, (height, width, 3) uint8 BGR."""
    capture = cv2.VideoCapture(str(clip))
    found = [pixels for good, pixels in (capture.read() for _ in range(count)) if good]
    if not found:
        raise SystemExit(f"{clip}: no video that OpenCV can read")
    return found


def main() -> int:
    """Prints the table; 1 when a promise does not hold, 2 where LoadGen is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["coco-ssdlite-mobilenet-v2", "cifar10-resnet8"])
    parser.add_argument("--threads", type=int, default=1, help="of one inference")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds",
        type=float,
        default=4.0,
        help="of a run at least; a quarter for the loop before, and after",
    )
    parser.add_argument("--classifier", default="cifar10-resnet8", help="whose accuracy mode is run")
    parser.add_argument(
        "--cifar", type=Path, default=ROOT / "build" / "cifar10" / "test", help="CIFAR-10's test pictures"
    )
    parser.add_argument("--pictures", type=int, default=10_000, help="of them, at most")
    parser.add_argument("--no-keep", action="store_true", help="print alone")
    arguments = parser.parse_args()
    if loadgen is None:
        print(
            "vedette: error: no mlperf_loadgen: pip install mlcommons-loadgen (it has wheels for x86-64 alone)",
            file=sys.stderr,
        )
        return 2
    cv2.setNumThreads(1)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    results = Results("mlperf")
    pictures = frames(share_folder("media") / "people-walking.mp4", IN_MEMORY)
    for model in arguments.models:
        perform(results, model, pictures, arguments)
    if arguments.cifar.is_dir():
        accuracy(results, arguments.classifier, arguments.cifar, arguments.threads, arguments.pictures)
    else:
        print(f"{arguments.cifar}: not there, so the accuracy mode is left out", file=sys.stderr)
    return 0 if results.write(keep=not arguments.no_keep) else 1


if __name__ == "__main__":
    sys.exit(main())
