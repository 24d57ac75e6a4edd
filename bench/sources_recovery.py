"""Cameras and sensors that are killed, stopped and unplugged fifty times each, beside one another in one running agent.

What is measured is what a subscriber sees: from the fault to the status that names it (*noticed*), and from the moment the
source is there again to the next message of its pipeline (*back*). Half an hour; ``--rounds 3`` for a look.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _results import ROOT, Results

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests/agent"))
from outages import DYING, STEADY, HttpCamera, Outage, Program, RtspCamera, SerialPort, Site
from test_sources import system_python_has_rtsp

from vedette.chaos.usage import descendants
from vedette.demo.broker import loopback_broker

WITHIN_S = 5.0
AWAY_S = (0.0, 5.0)  # how long a source stays away after that was noticed
MAX_GROWTH = 2.0  # MiB; what allocators keep, however often a source comes and goes
WHAT = {
    "http": "HTTP camera",
    "rtsp": "RTSP camera",
    "serial": "serial port",
    "program": "exec: program",
}


def quartiles(values: list[float]) -> list[float] | None:
    """The first and the third."""
    if len(values) < 3:
        return None
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [round(first, 3), round(third, 3)]


def main() -> int:
    """Exit code 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="of every fault of every source (default 50)")
    arguments = parser.parse_args()
    luck = random.Random(11)
    results = Results("recovery")
    with tempfile.TemporaryDirectory() as name, loopback_broker() as (_, port):
        folder = Path(name)
        outages: list[Outage] = [HttpCamera(), Program(folder), SerialPort(folder)]
        if system_python_has_rtsp():
            outages.append(RtspCamera())
        else:
            print("no gst-rtsp-server: RTSP is left out", file=sys.stderr)
        with Site(folder, port, outages) as site:
            site.suffer(2, away_s=lambda: 1.0)
            site.forget()
            before, before_bytes = site.usage(), site.own_bytes()
            deaths = site.ear.stats[DYING]["source"]["reopened"]
            site.suffer(arguments.rounds, away_s=lambda: luck.uniform(*AWAY_S))
            after, after_bytes = site.settled(before), site.own_bytes()
            assert site.agent.process is not None
            children = len(descendants(site.agent.process.pid))
            for (source, fault), times in site.times.items():
                for what, found in (("noticed", times.noticed_s), ("back", times.back_s)):
                    if found:
                        worst = round(max(found), 3)
                        # what mends itself is noticed and back in one
                        bound = WITHIN_S * (1 if times.noticed_s else 2)
                        results.row(
                            what=f"{WHAT[source]} {fault}: {what}, the worst", value=worst, unit="s", n=len(found),
                            target=f"<= {bound:g}", holds=worst <= bound, spread=quartiles(found),
                        )  # fmt: skip
            faults = sum(len(times.back_s) for times in site.times.values())
            deaths = site.ear.stats[DYING]["source"]["reopened"] - deaths
            gaps = site.ear.longest_s
            results.row(
                what="a pipeline beside them: longest time without a message (10 a second)", value=round(gaps[STEADY], 3),
                unit="s", n=faults, target="<= 1", holds=gaps[STEADY] <= 1.0,
            )  # fmt: skip
            results.row(
                what="a program that dies every second: longest time without a message", value=round(gaps[DYING], 3),
                unit="s", n=deaths, target=f"<= {WITHIN_S:g}", holds=gaps[DYING] <= WITHIN_S,
            )  # fmt: skip
            for what, grown in (
                ("threads", after.threads - before.threads),
                ("descriptors", after.open_files - before.open_files),
                ("child processes beyond the two programs", children - 2),
            ):
                results.row(
                    what=f"left behind: {what}",
                    value=grown,
                    unit="",
                    n=faults + deaths,
                    target="<= 0",
                    holds=grown <= 0,
                )
            mib = (after_bytes - before_bytes) / 2**20
            results.row(
                what="left behind: anonymous memory of the agent", value=round(mib, 2), unit="MiB",
                n=faults + deaths, target=f"<= {MAX_GROWTH:g}", holds=mib <= MAX_GROWTH,
            )  # fmt: skip
    return 0 if results.write(keep=arguments.rounds >= 50) else 1


if __name__ == "__main__":
    sys.exit(main())
