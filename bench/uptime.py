"""One agent for half an hour: does it end with the memory and the latency that it had after its first minute?

``vedette run`` in a process of its own, with a real broker on loopback and the shipped detector: the shipped clip again and
again at its 10 frames a second, tracks, a zone and a wire, so that detections, events and states are sent, statistics every
ten seconds. Every ten seconds memory (PSS), threads and descriptors are
looked at from outside, and the agent's own histograms taken; what it has written towards the disk is the kernel's account.

The first two minutes after the first one are held against the last two (of a shorter run, a quarter of it each).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _results import ROOT, Results
from _running import Running, Said, cpu_s, fit, running, stages_of, written_bytes

from vedette.chaos.usage import Usage, usage_of
from vedette.demo.broker import loopback_broker
from vedette.models.model import share_folder

EVERY_S = 10.0
WARM_S = 60.0
WINDOW_S = 120.0
MORE_MB = 2.0  # what allocators keep, however long an agent runs
P99 = 1.25  # times; ...
P99_MS = 1.0  # ... and so much, where it is small

TABLES = """
[pipeline.street]
model = "coco-ssdlite-mobilenet-v2"
labels = ["person"]
source = {{ url = "{clip}", loop = true }}
max_fps = {fps}
[pipeline.street.zones.path]
polygon = [[0.0, 0.3], [1.0, 0.3], [1.0, 1.0], [0.0, 1.0]]
[pipeline.street.wires.middle]
line = [[0.5, 0.0], [0.5, 1.0]]
"""


@dataclass(frozen=True)
class Sample:
    """One look. ``at``: seconds since the agent was ready; ``own_bytes``: its anonymous memory, which it shares with
    nobody; ``load``: of the machine; ``said``: statistics that came since the last one."""

    at: float
    usage: Usage
    own_bytes: int
    load: float
    cpu_s: float
    written_bytes: int
    said: list[Said]

    @property
    def p99_ms(self) -> float:
        """Of the whole way of a frame, in these ten seconds."""
        return stages_of(self.said)["total"].p99


MEMORY: dict[str, Callable[[Sample], int]] = {
    "PSS": lambda sample: sample.usage.pss_bytes,
    "memory of its own": lambda sample: sample.own_bytes,
}


def own_bytes(pid: int) -> int:
    """Anonymous memory: nothing of the libraries, of whose files a neighbour may come to share more or less."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def look(agent: Running, seconds: float) -> list[Sample]:
    """Samples until the end; prints one a minute."""
    begun = time.monotonic()
    samples: list[Sample] = []
    heard = 0
    for number in range(1, int(seconds / EVERY_S) + 1):
        time.sleep(max(0.0, begun + number * EVERY_S - time.monotonic()))
        pid = agent.agent.pid
        usage = usage_of(pid)
        if usage is None or agent.agent.exit_code() is not None:
            raise RuntimeError(f"the agent did not keep running: {agent.agent.last_words()}")
        said = agent.said_since(heard)
        heard += len(said)
        at = time.monotonic() - begun
        samples.append(
            Sample(at, usage, own_bytes(pid), os.getloadavg()[0], cpu_s(pid), written_bytes(pid), said),
        )
        agent.agent.drain()
        if number % 6 == 0:
            last = samples[-1]
            print(
                f"{last.at / 60:.0f} min: {usage.pss_bytes / 1e6:.1f} MB, p99 {last.p99_ms:.1f} ms, {usage.threads} threads,"
                f" {usage.open_files} descriptors, {last.written_bytes / 1e6:.2f} MB written",
                file=sys.stderr,
            )
    return samples


def compare(results: Results, samples: Sequence[Sample], seconds: float) -> None:
    """The first minutes against the last."""
    warm_s = min(WARM_S, seconds / 4)
    window_s = min(WINDOW_S, seconds / 4)
    first = [sample for sample in samples if warm_s < sample.at <= warm_s + window_s + EVERY_S / 2]
    last = [sample for sample in samples if sample.at > seconds - window_s + EVERY_S / 2]
    words = f"the last {window_s:g} s"
    early = f"the {window_s:g} s from {warm_s:g} s on"

    def spread(values: list[float]) -> list[float]:
        return [round(min(values), 3), round(max(values), 3)]

    def p99(part: Sequence[Sample]) -> float:
        return stages_of([said for sample in part for said in sample.said])["total"].p99

    settled = [sample for sample in samples if sample.at > warm_s]
    for what, bytes_of in MEMORY.items():
        before, after = ([bytes_of(sample) / 1e6 for sample in part] for part in (first, last))
        more = statistics.median(after) - statistics.median(before)
        for when, values in ((early, before), (words, after)):
            value = round(statistics.median(values), 2)
            results.row(what=f"{what}, {when}", value=value, unit="MB", n=len(values), spread=spread(values))
        results.row(
            what=f"{what}, growth from the one to the other", value=round(more, 2), unit="MB", n=len(samples),
            target=f"<= {MORE_MB:g}", holds=more <= MORE_MB,
        )  # fmt: skip
        line = fit([sample.at / 3600 for sample in settled], [bytes_of(sample) / 1e6 for sample in settled])
        results.row(
            what=f"{what}, slope of a line through all after {warm_s:g} s", value=round(line.slope, 3), unit="MB/h",
            n=len(settled), reason=f"residuals up to {100 * line.residual:.1f} %",
        )  # fmt: skip
    early_p99, late_p99 = p99(first), p99(last)
    bound = max(early_p99 * P99, early_p99 + P99_MS)
    results.row(
        what=f"p99 of a frame, {early}", value=early_p99, unit="ms", n=sum(s.stats.inferred for x in first for s in x.said),
        spread=spread([sample.p99_ms for sample in first]),
    )  # fmt: skip
    results.row(
        what=f"p99 of a frame, {words}", value=late_p99, unit="ms", n=sum(s.stats.inferred for x in last for s in x.said),
        target=f"<= {bound:.2f}", holds=late_p99 <= bound, spread=spread([sample.p99_ms for sample in last]),
        reason="load " + ", then ".join(f"{statistics.median(s.load for s in part):.1f}" for part in (first, last)),
    )  # fmt: skip
    for what, of in (("threads", lambda s: s.usage.threads), ("descriptors", lambda s: s.usage.open_files)):
        had, has = max(map(of, first)), max(map(of, last))
        results.row(what=f"{what}, {words}", value=has, unit="", n=len(last), target=f"<= {had}", holds=has <= had)
    span_s = samples[-1].at - samples[0].at
    frames = sum(said.stats.inferred for sample in samples[1:] for said in sample.said)
    used = samples[-1].cpu_s - samples[0].cpu_s
    results.row(what="CPU a frame", value=round(used / max(1, frames) * 1e3, 3), unit="ms", n=frames)
    results.row(what="frames a second", value=round(frames / span_s, 2), unit="1/s", n=frames)
    written = samples[-1].written_bytes - samples[0].written_bytes
    results.row(what="written to disk", value=written, unit="bytes", n=1, reason=f"in {span_s:.0f} s")
    results.row(what="written to disk a day", value=round(written / span_s * 86400 / 1e6, 2), unit="MB", n=1)


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="at least 1")
    parser.add_argument("--fps", type=float, default=10.0, help="frames a second at most; the clip has 10")
    parser.add_argument("--clip", type=Path, default=share_folder("media") / "people-walking.mp4")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="on the disk that is to be measured")
    parser.add_argument("--no-keep", action="store_true", help="print alone")
    arguments = parser.parse_args()
    if arguments.minutes < 1:
        parser.error(f"--minutes: expected at least 1, found {arguments.minutes:g}")
    seconds = arguments.minutes * 60
    arguments.folder.mkdir(exist_ok=True)
    results = Results("uptime")
    tables = TABLES.format(clip=arguments.clip, fps=arguments.fps)
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as temporary,
        loopback_broker() as (broker, port),
        running(tables, port, Path(temporary), EVERY_S) as agent,
    ):
        samples = look(agent, seconds)
        agent.close()
        verdict = agent.account.verdict()
    compare(results, samples, seconds)
    results.row(
        what=f"messages through {broker} that are not accounted for", value=verdict.missing + verdict.waiting,
        unit="messages", n=verdict.given, target="== 0", holds=verdict.holds,
    )  # fmt: skip
    return 0 if results.write(keep=not arguments.no_keep) else 1


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.exit(main())
