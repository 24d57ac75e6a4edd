"""Writes the figures of ``bench/results/*.json``: a choice into the README, all of them into ``docs/figures.md``.

``--check`` says whether they are those. The README names what a reader asks first, and every promise that does not hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- figures: bench/readme.py writes what is between these lines -->\n"
END = "<!-- end of figures -->"


class Source(NamedTuple):
    """A results file: the command that writes it, and what it is about."""

    command: str
    title: str


SOURCES = {
    "pipeline": Source("make bench-pipeline", "The pipeline against the bare interpreter and what people use today"),
    "demo": Source("make bench-demo", "The agent in the demo"),
    "sharing": Source("make bench-sharing", "Many cameras, one detector"),
    "scale": Source("make bench-scale", "How cost grows"),
    "uptime": Source("make bench-uptime", "Half an hour of one agent"),
    "mlperf": Source("make bench-mlperf", "MLPerf's LoadGen drives the engine"),
    "imports": Source("make bench-imports", "What the agent imports"),
    "planes": Source("make bench-planes", "A camera's planes against BGR"),
    "cameras": Source("make bench-cameras", "What cameras cost"),
    "batching": Source("make bench-batching", "Batches of several cameras' frames"),
    "isolation": Source("make bench-isolation", "An accelerator at arm's length"),
    "detector": Source("make bench-detector", "The shipped detector, int8 against float"),
    "converter": Source("make bench-converter", "Shipped networks against their float originals"),
    "pruned_detector": Source("make bench-pruned-detector", "How far the general detector can be pruned"),
    "smaller_detector": Source("make bench-smaller-detector", "The general detector on smaller pictures"),
    "sensors": Source("make bench-sensors", "Readings through every source"),
    "sensor_models": Source("make bench-sensor-models", "The sensor networks on data never seen"),
    "tracks": Source("make bench-tracks", "Identities, and the motion gate"),
    "delivery": Source("make bench-delivery", "10,000 messages at QoS 1"),
    "outbox": Source("make bench-mqtt", "Messages a second through outbox and broker"),
    "recovery": Source("make bench-recovery", "Sources killed, stalled and unplugged, fifty times each"),
    "chaos": Source("make chaos", "The fault suite"),
    "fuzz": Source("make fuzz", "Malformed input"),
}


class Headline(NamedTuple):
    """A row of the README. ``row``: the row's own text, or how it begins where one alone begins so."""

    source: str
    row: str
    says: str


HEADLINES = (
    Headline("pipeline", "pipeline's throughput over the bare invoke() loop's",
             "throughput, capture to broker, over that of a loop that only calls `invoke()`"),
    Headline("pipeline", "infer, p50: agent by native C", "inference in the agent over TFLite's C library alone, p50"),
    Headline("pipeline", "throughput: agent by the tutorial loop", "throughput by that of the loop that tutorials have"),
    Headline("pipeline", "throughput, vtest-person: agent by", "the same with vtest-person, a small detector"),
    Headline("pipeline", "throughput: agent by MediaPipe Tasks", "throughput by that of MediaPipe Tasks, the same model"),
    Headline("pipeline", "all cores, autotuned, one camera: inf", "all cores, one clip: inferences by the CPUs' time"),
    Headline("pipeline", "start to READY, warm", "start to READY, a bundle that has proved itself here before"),
    Headline("pipeline", "PSS with all children", "memory of the agent with the shipped detector (PSS)"),
    Headline("demo", "agent's PSS with its children", "the same in the demo"),
    Headline("demo", "process start to READY", "the first start: the bundle proves itself in a child"),
    Headline("scale", "four pipelines on 2 cores: the agent's own setting",
             "four pipelines on two cores: throughput by the best single setting"),
    Headline("sharing", "four cameras on one detector, one interpreter: throughput",
             "four cameras on one interpreter: throughput by that of one camera"),
    Headline("sharing", "four cameras on one detector, one interpreter: Jain", "how evenly they share it (Jain's index)"),
    Headline("cameras", "1920x1080, JPEG at 30 fps, one frame of 6 looked at: CPU, agent",
             "a JPEG camera of 1920x1080, one frame of six looked at: CPU by the tutorial loop's"),
    Headline("cameras", "1920x1080, H.264 at 30 fps, a key frame a second; two pipelines: CPU",
             "two pipelines on one H.264 camera: CPU by that of a camera each"),
    Headline("converter", "COCO SSDLite, int8: times faster", "the shipped COCO detector, int8: times faster than float"),
    Headline("detector", "mAP drop", "the same: mAP lost, with its 95 % interval"),
    Headline("converter", "ours ahead of Coral's, times faster", "the same: times faster than Coral's SSD MobileNetV2"),
    Headline("converter", "ours ahead of Coral's, mAP", "the same: mAP above Coral's"),
    Headline("converter", "ResNet-20, double width, channels + distillation + int8: times faster",
             "ResNet-20, half of its channels gone, distilled, int8: times faster than float"),
    Headline("converter", "ResNet-20, double width, channels + distillation + int8: top-1 drop",
             "the same: top-1 lost on 10,000 pictures, with its 95 % interval"),
    Headline("converter", "specialised for vtest.avi, person: times faster",
             "a detector specialised for one camera, without labels: times faster than float"),
    Headline("converter", "specialised for vtest.avi, person: AP50", "the same: AP50 against the full float network"),
    Headline("sensors", "udp://, NDJSON, 1 a datagram: share", "10,000 readings a second over UDP, windows included"),
    Headline("sensor_models", "shuttle: AUC, int8", "anomalies of the Shuttle data, unseen: AUC, int8, 8.6 KB"),
    Headline("tracks", "MOTA, mean of all, vedette", "identities of people in crowds: MOTA"),
    Headline("tracks", "whole agent, still scene: CPU gated by ungated",
             "a still scene: CPU with the motion gate over CPU without"),
    Headline("outbox", "spill, 1 thread: acknowledged by mosquitto", "messages a second at QoS 1, outbox and Mosquitto"),
    Headline("outbox", "always, 1 thread: acknowledged by mosquitto", "the same, each on disk and synced first"),
    Headline("chaos", '"always", 200 times SIGKILL: accepted', "200 kills, synced first: accepted messages missing"),
    Headline("chaos", '"spill", 200 times SIGKILL: age', "200 kills, the default: age of the oldest message lost"),
    Headline("chaos", "864,000 messages while no broker is there, 1000 MB: delivered",
             "a day without a broker: delivered afterwards"),
    Headline("chaos", "broker killed 20 times, away up to 2 s: longest", "broker killed 20 times: longest until live again"),
    Headline("chaos", "three faults at a time for 30 min: messages", "three faults at a time for 30 min: messages missing"),
    Headline("recovery", "RTSP camera unplugged: noticed", "RTSP camera unplugged 50 times: noticed, the worst"),
    Headline("recovery", "RTSP camera unplugged: back", "the same: back after its return, the worst"),
)  # fmt: skip


def read(name: str) -> dict[str, Any]:
    """A results file; empty where it was never written."""
    path = ROOT / "bench" / "results" / f"{name}.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return document


def line(row: dict[str, Any], says: str, command: str | None = None) -> str:
    """A row of a table."""
    value = f"{row['value']:.4g}" if isinstance(row["value"], float) else str(row["value"])
    if isinstance(row["spread"], list):
        value += " ({:.4g} to {:.4g})".format(*row["spread"])
    value = f"{value} {row['unit']}".strip()
    reason = f": {row['reason']}" if row["reason"] else ""
    holds = {None: reason.lstrip(": "), True: f"yes{reason}", False: f"**no**{reason}"}[row["holds"]]
    cells = [says, value, row["target"] or "", holds, *([f"`{command}`"] if command else [])]
    return f"| {' | '.join(cells)} |"


def chosen() -> str:
    """The README's table: the headlines, and every promise that does not hold."""
    lines = ["| what | measured | promised | holds | command |", "| --- | ---: | --- | --- | --- |"]
    shown = set()
    for headline in HEADLINES:
        rows = [row for row in read(headline.source)["rows"] if row["what"].startswith(headline.row)]
        rows = [row for row in rows if row["what"] == headline.row] or rows
        if len(rows) != 1:
            raise SystemExit(f"{headline.source}.json: expected one row {headline.row!r}, found {len(rows)}")
        shown.add((headline.source, rows[0]["what"]))
        lines.append(line(rows[0], headline.says, SOURCES[headline.source].command))
    for name, source in SOURCES.items():
        lines += [
            line(row, row["what"], source.command)
            for row in read(name).get("rows", [])
            if row["holds"] is False and (name, row["what"]) not in shown
        ]
    return "\n".join(lines) + "\n"


def everything() -> str:
    """The page of all figures."""
    parts = [
        "# Figures\n\nEvery figure that a command of this project has printed; `bench/readme.py` writes this page from "
        "`bench/results/`.\nA promise that does not hold stands here like the others. `make bench-compare` says which got "
        "worse than it was.\n"
    ]
    for name, source in SOURCES.items():
        if document := read(name):
            machine, versions = document["machine"], document["versions"]
            litert = f", LiteRT {versions['ai-edge-litert']}" if "ai-edge-litert" in versions else ""
            parts.append(
                f"\n## {source.title}\n\n`{source.command}`, commit {document['commit']}, {machine['cores']} cores of "
                f"{machine['cpu']}, Python {versions['python']}{litert}\n\n| what | measured | promised | holds |\n"
                "| --- | ---: | --- | --- |\n"
            )
            parts += [line(row, row["what"]) + "\n" for row in document["rows"]]
    return "".join(parts)


def main() -> int:
    """1 with ``--check`` when a page is not up to date."""
    readme = ROOT / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    _, tail = rest.split(END)
    pages = {readme: head + BEGIN + chosen() + END + tail, ROOT / "docs" / "figures.md": everything()}
    if "--check" in sys.argv:
        return int(any(not path.exists() or path.read_text() != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
