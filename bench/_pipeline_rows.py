"""What a contest came to, as rows: first what was promised, then all that it rests on."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from _agent_turn import STAGES, quantile
from _contest import Contest, percentile, quartiles
from _results import Results

from vedette.flow.stats import merge_all

MISSED = "docs/performance.md says where the time goes"
AROUND = ("prepare", "finish", "link", "outbox")
"""The agent's threads that preprocess; decode and write the message; and publish."""


def write(results: Results, contest: Contest, *, small: str, camera: float) -> None:
    """All rows."""
    results.row(
        what="of the processors, taken by the machine's other guests meanwhile (steal)",
        value=round(contest.stolen * 100, 2), unit="%", n=1,
    )  # fmt: skip
    _promises(results, contest, small)
    _latency(results, contest, camera)
    _mediapipe(results, contest)
    _memory_and_start(results, contest)
    _around(results, contest)
    for name, words in (
        ("bare", "bare invoke()"), ("native", "native C"), ("tutorial", "tutorial loop"), ("agent", "agent"),
        ("small tutorial", f"{small}: tutorial loop"), ("small agent", f"{small}: agent"),
        ("all tutorial", "all cores: tutorial loop"), ("all agent", "all cores, autotuned: agent, one camera"),
        ("all agent, cameras", "all cores, autotuned: agent, a camera a core"),
        ("mediapipe", "MediaPipe"), ("mediapipe's agent", "MediaPipe's model: agent"),
    ):  # fmt: skip
        if contest.has(name):
            figure(results, f"{words}: throughput", contest.values(name, "fps"), "1/s")
            figure(results, f"{words}: CPU a frame", contest.values(name, "cpu_ms"), "ms")
    for name, words in (("agent", "flat out"), ("slow agent", "10 fps"), ("full agent", "full load")):
        if contest.has(name):
            _stages(results, contest, name, words)


def figure(
    results: Results,
    what: str,
    values: Sequence[float],
    unit: str,
    target: str | None = None,
    holds: Callable[[float], bool] | None = None,
) -> None:
    """A median with its quartiles."""
    value = statistics.median(values)
    kept = None if holds is None else holds(value)
    results.row(
        what=what, value=round(value, 4), unit=unit, n=len(values), target=target, holds=kept,
        spread=quartiles(list(values)), reason=MISSED if kept is False else None,
    )  # fmt: skip


def _fps(turn: Any) -> float:
    return float(turn.fps)


def _cpu(turn: Any) -> float:
    return float(turn.cpu_ms)


def _invoke(turn: Any) -> float:
    times = turn.stages["infer"] if hasattr(turn, "stages") else turn.invoke_ms
    return percentile(times, 50)


def _promises(results: Results, contest: Contest, small: str) -> None:
    figure(
        results, "pipeline's throughput over the bare invoke() loop's", contest.ratios("agent", "bare", _fps), "ratio",
        ">= 0.97", lambda x: x >= 0.97,
    )  # fmt: skip
    if contest.has("native"):
        figure(
            results, "infer, p50: agent by native C", contest.ratios("agent", "native", _invoke), "ratio", "<= 1.05",
            lambda x: x <= 1.05,
        )  # fmt: skip
        figure(results, "invoke(), p50: bare loop by native C", contest.ratios("bare", "native", _invoke), "ratio")
    elif "native" in contest.absent:
        _absent(results, "infer, p50: agent by native C", "<= 1.05", contest.absent["native"])
    if contest.has("tutorial"):
        figure(
            results, "throughput: agent by the tutorial loop", contest.ratios("agent", "tutorial", _fps), "ratio",
            ">= 1.2", lambda x: x >= 1.2,
        )  # fmt: skip
        figure(
            results, "CPU a frame: agent by the tutorial loop", contest.ratios("agent", "tutorial", _cpu), "ratio",
            "<= 1.0", lambda x: x <= 1.0,
        )  # fmt: skip
    if contest.has("small agent"):
        figure(
            results, f"throughput, {small}: agent by the tutorial loop",
            contest.ratios("small agent", "small tutorial", _fps), "ratio", ">= 1.5", lambda x: x >= 1.5,
        )  # fmt: skip
        figure(
            results, f"CPU a frame, {small}: agent by the tutorial loop",
            contest.ratios("small agent", "small tutorial", _cpu), "ratio",
        )  # fmt: skip
        tutorial = contest.turns["small tutorial"]
        infer = [percentile(turn.invoke_ms, 50) for turn in tutorial]
        figure(results, f"{small}: invoke() in the tutorial loop, p50", infer, "ms")
        figure(
            results, f"throughput, {small}: if nothing but that invoke() took time, by the tutorial loop",
            [1e3 / ms / turn.fps for ms, turn in zip(infer, tutorial, strict=True)], "ratio",
        )  # fmt: skip
    if contest.has("all agent"):
        cores = len(os.sched_getaffinity(0))
        several = (("all agent", "one camera"), ("all agent, cameras", "a camera a core"))
        for name, words in several:
            figure(
                results, f"all cores, autotuned, {words}: inferences a second by cores / CPU seconds a frame",
                [turn.fps * turn.cpu_ms / 1e3 / cores for turn in contest.turns[name]], "ratio", ">= 0.90",
                lambda x: x >= 0.90,
            )  # fmt: skip
        if contest.has("tutorial"):
            best = max(("tutorial", "all tutorial"), key=lambda name: statistics.median(contest.values(name, "fps")))
            for name, words in several:
                figure(
                    results, f"all cores: agent, autotuned, {words} by the tutorial loop at its best thread count",
                    contest.ratios(name, best, _fps), "ratio",
                )  # fmt: skip


def _latency(results: Results, contest: Contest, camera: float) -> None:
    """Capture to publish: until the message was given to the network; and on to the broker's acknowledgement."""
    for name, bare, words in (
        ("slow agent", "slow bare", "10 fps"), ("full agent", "full bare", f"full load (a camera {camera:g} times as fast)"),
    ):  # fmt: skip
        if not contest.has(name):
            continue
        for q, most in ((50, 2.0), (99, 5.0)):
            pairs = contest.pairs(name, bare)
            figure(
                results, f"{words}: capture to publish, beyond the bare invoke(), p{q}",
                [quantile(turn.sent, q / 100) - percentile(than.invoke_ms, q) for turn, than in pairs], "ms",
                f"<= {most:g}", lambda x, most=most: x <= most,
            )  # fmt: skip
            figure(
                results, f"{words}: capture to PUBACK, beyond the bare invoke(), p{q}",
                [quantile(turn.acknowledged, q / 100) - percentile(than.invoke_ms, q) for turn, than in pairs], "ms",
            )  # fmt: skip


def _mediapipe(results: Results, contest: Contest) -> None:
    ahead = "throughput: agent by MediaPipe Tasks, live stream, one model", ">= 1.0"
    cpu = "CPU a frame: agent by MediaPipe Tasks, live stream, one model", "<= 1.0"
    if contest.has("mediapipe"):
        ours, theirs = "mediapipe's agent", "mediapipe"
        figure(results, ahead[0], contest.ratios(ours, theirs, _fps), "ratio", ahead[1], lambda x: x >= 1.0)
        figure(results, cpu[0], contest.ratios(ours, theirs, _cpu), "ratio", cpu[1], lambda x: x <= 1.0)
    elif "mediapipe" in contest.absent:
        _absent(results, *ahead, contest.absent["mediapipe"])
        _absent(results, *cpu, contest.absent["mediapipe"])


def _absent(results: Results, what: str, target: str, why: str) -> None:
    results.row(what=what, value="not measured", unit="", n=0, target=target, holds=False, reason=why)


def _memory_and_start(results: Results, contest: Contest) -> None:
    # the first turn proves the bundle, which a device does once
    turns = [turn for name in ("agent", "slow agent", "full agent") for turn in contest.turns.get(name, [])]
    pss = [turn.pss_mb for turn in turns]
    ready = [turn.ready_s for turn in turns[1:] or turns]
    figure(results, "PSS with all children", pss, "MB", "<= 100", lambda _: max(pss) <= 100)
    figure(results, "start to READY, warm", ready, "s", "<= 1.0", lambda x: x <= 1.0)
    missing = sum(turn.missing for turn in turns)
    results.row(
        what="messages missing at the subscriber", value=missing, unit="messages",
        n=sum(len(turn.delivered) for turn in turns), target="== 0", holds=missing == 0,
    )  # fmt: skip


def _around(results: Results, contest: Contest) -> None:
    """CPU of whole threads, their waiting and waking included."""
    if contest.has("threads"):
        turns = contest.turns["threads"]
        around = [sum(turn.get(room, 0.0) for room in AROUND) for turn in turns]
        figure(
            results,
            "preprocess, decode and publish: CPU a frame at 768x576",
            around,
            "ms",
            "<= 0.8",
            lambda x: x <= 0.8,
        )
        for room in sorted({room for turn in turns for room in turn} - {"watch"}):
            figure(results, f"thread {room}: CPU a frame", [turn.get(room, 0.0) for turn in turns], "ms")
    if contest.has("tutorial"):
        figure(
            results, "tutorial loop: CPU a frame outside of reading and invoke()", contest.values("tutorial", "around_ms"),
            "ms",
        )  # fmt: skip


def _stages(results: Results, contest: Contest, name: str, words: str) -> None:
    turns = contest.turns[name]
    merged = {stage: [ms for turn in turns for ms in turn.stages[stage]] for stage in STAGES}
    merged["capture to a subscriber"] = [ms for turn in turns for ms in turn.delivered]
    for stage, times in merged.items():
        for q in (50, 90, 99):
            results.row(what=f"{words}: {stage} p{q}", value=percentile(times, q), unit="ms", n=len(times))
    for end, latencies in (
        ("publish", [turn.sent for turn in turns]), ("PUBACK", [turn.acknowledged for turn in turns]),
    ):  # fmt: skip
        latency = merge_all(latencies)
        for q in (50, 90, 99):
            value = round(quantile(latency, q / 100), 4)
            results.row(what=f"{words}: capture to {end} p{q}", value=value, unit="ms", n=latency.count)
