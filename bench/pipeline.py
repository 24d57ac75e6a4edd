"""The agent's whole pipeline against a bare loop over ``invoke()``: same model, threads, clip and run, interleaved.

The pipeline reads the shipped clip flat out, decodes, preprocesses, infers, decodes boxes, filters, and delivers every
message at QoS 1 to a real broker in another process. The bare loop calls ``invoke()`` on one picture and nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from vedette import clock
from vedette.cli.run import SWITCH_INTERVAL_S
from vedette.config import parse_config
from vedette.delivery import Key, Stream
from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.flow.pipeline import Pipeline
from vedette.flow.stats import EMPTY, STAGES
from vedette.messages.reporter import DETECTIONS, NoAudience
from vedette.models.model import share_folder
from vedette.mqtt import Link, LinkOptions, Topics
from vedette.outbox import MemoryOutbox
from vedette.service.compose import load_models, make_pipeline, prepare

sys.path.insert(0, str(Path(__file__).parent))
from _results import Results


def bare_loop(path: Path, threads: int, seconds: float) -> float:
    """Inferences a second of the interpreter alone."""
    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    for _ in range(5):
        interpreter.invoke()
    count = 0
    begun = time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        interpreter.invoke()
        count += 1
    return count / (now - begun)


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="coco-ssdlite-mobilenet-v2")
    parser.add_argument("--source", default=str(share_folder("media") / "people-walking.mp4"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tables", default="", help="TOML of the pipeline besides, such as [pipeline.b.track]")
    parser.add_argument("--switch-interval", type=float, default=SWITCH_INTERVAL_S)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each half of a round")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sys.setswitchinterval(arguments.switch_interval)
    config = parse_config(
        f'[engine]\nthreads = {arguments.threads}\n[pipeline.b]\nmodel = "{arguments.model}"\n{arguments.tables}\n'
        f'[pipeline.b.source]\nurl = "{arguments.source}"\nloop = true\npace = "max"'.encode(),
        Path("pipeline.toml"),
    )
    bare: list[float] = []
    whole: list[float] = []
    cpu_ms: list[float] = []
    stages = dict.fromkeys(STAGES, EMPTY)
    with loopback_broker() as (broker, port):
        outbox = MemoryOutbox(1, max_messages=20_000, max_bytes=32 << 20)
        topics = Topics("vedette", "bench")
        acknowledging: list[Pipeline] = []  # the last one is the one that speaks

        def acknowledged(key: Key, captured_ns: int) -> None:
            acknowledging[-1].stats.acknowledged((clock.now_ns() - captured_ns) / 1e6)

        link = Link(
            LinkOptions(LOOPBACK, port, "bench"), topics, outbox, will=lambda: b"{}", on_connected=lambda: None,
            on_acknowledged=acknowledged, on_alert=print,
        )  # fmt: skip
        link.start()
        for number in range(arguments.rounds):
            [prepared] = prepare(config, Path("pipeline.toml"))
            bare.append(bare_loop(prepared.spec.path, arguments.threads, arguments.seconds))
            loaded = load_models([prepared], config.engine)["b"]
            pipeline = make_pipeline(
                prepared, loaded, outbox, NoAudience(), clock_state=lambda: "synced", on_source=lambda *_: None
            )
            acknowledging.append(pipeline)
            loaded.lane.start()
            pipeline.feed.start()
            pipeline.start()
            pipeline.first_result.wait(10)
            before = pipeline.seat.inferences
            cpu = time.process_time()
            begun = time.perf_counter()
            time.sleep(arguments.seconds)
            frames = pipeline.seat.inferences - before
            elapsed = time.perf_counter() - begun
            whole.append(frames / elapsed)
            cpu_ms.append((time.process_time() - cpu) / frames * 1e3)
            pipeline.feed.stop()
            pipeline.stop()
            loaded.lane.stop()
            loaded.lane.close()
            outbox.wait_empty(10)
            interval = pipeline.stats.take(clock.now_ns(), 0)
            stages = {stage: stages[stage].merge(interval.stages[stage]) for stage in STAGES}
            print(f"round {number + 1}: bare {bare[-1]:.1f}, pipeline {whole[-1]:.1f} a second", file=sys.stderr)
        outbox.wait_empty(10)
        row = next(r for r in outbox.ledger() if r.stream == Stream("b", DETECTIONS))
        link.stop()
    ratios = [w / b for w, b in zip(whole, bare, strict=True)]
    ratio = statistics.median(ratios)
    results = Results("pipeline")
    quartiles = np.percentile(ratios, [25, 75]).tolist()
    n = len(ratios)
    results.row(
        what="pipeline's throughput over the bare invoke() loop's", value=round(ratio, 4), unit="ratio", n=n,
        target=">= 0.90", holds=ratio >= 0.90, spread=quartiles,
    )  # fmt: skip
    results.row(what="bare loop", value=round(statistics.median(bare), 1), unit="1/s", n=n, spread=_iqr(bare))
    results.row(what="pipeline", value=round(statistics.median(whole), 1), unit="1/s", n=n, spread=_iqr(whole))
    results.row(what="CPU a frame", value=round(statistics.median(cpu_ms), 2), unit="ms", n=n, spread=_iqr(cpu_ms))
    for stage, latency in stages.items():
        results.row(what=f"{stage} p50", value=latency.p50, unit="ms", n=latency.count)
        results.row(what=f"{stage} p99", value=latency.p99, unit="ms", n=latency.count)
    results.row(
        what=f"messages not acknowledged by {broker}", value=(row.last or 0) - row.acknowledged, unit="messages",
        n=row.last or 0, target="== 0", holds=row.last == row.acknowledged,
    )  # fmt: skip
    return 0 if results.write() else 1


def _iqr(values: list[float]) -> float:
    low, high = np.percentile(values, [25, 75])
    return round(float(high - low), 3)


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.exit(main())
