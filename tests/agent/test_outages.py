"""Sources that die, hang, are unplugged and come back, all in one agent: what it notices, what it loses, what it leaks.

``VEDETTE_OUTAGES=50`` does each of them fifty times; ``bench/sources_recovery.py`` writes down how long things take.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from outages import DYING, STEADY, HttpCamera, Outage, Program, RtspCamera, SerialPort, Site
from real import BrokerAddress, wait_for
from test_sources import system_python_has_rtsp

from vedette.chaos.usage import descendants

ROUNDS = int(os.environ.get("VEDETTE_OUTAGES", "1"))
WITHIN_S = 5.0  # a loss is noticed, and a source that is back is read again
BUSY = 2.0  # a busy machine is no failure; what was wrong before took three times as long
MAX_GROWTH = 4 * 1024 * 1024  # bytes of anonymous memory; what allocators keep


@pytest.mark.slow
@pytest.mark.timeout(120 + 40 * ROUNDS)
def test_every_source_comes_back_and_nothing_is_left_behind(tmp_path: Path, broker: BrokerAddress) -> None:
    luck = random.Random(5)
    outages: list[Outage] = [HttpCamera(), Program(tmp_path), SerialPort(tmp_path)]
    if system_python_has_rtsp():
        outages.append(RtspCamera())
    with Site(tmp_path, broker.port, outages) as site:
        site.suffer(1, away_s=lambda: 0.0)  # so that everything has been loaded that a loss needs
        site.forget()
        before, before_bytes = site.usage(), site.own_bytes()
        deaths = site.ear.stats[DYING]["source"]["reopened"]

        site.suffer(ROUNDS, away_s=lambda: luck.uniform(0.0, 3.0))

        for (name, fault), times in site.times.items():
            worst = max(times.noticed_s + times.back_s)
            assert worst < WITHIN_S * BUSY, f"{name} {fault}: {times}"
            assert len(times.back_s) == ROUNDS
        assert site.ear.longest_s[STEADY] < WITHIN_S * BUSY, "the other pipeline went on"
        assert site.ear.longest_s[DYING] < WITHIN_S * BUSY, "a program that dies every second is begun every second"
        wait_for("it to die on", lambda: site.ear.stats[DYING]["source"]["reopened"] > deaths + 3)

        after = site.settled(before)
        assert after.threads <= before.threads
        assert after.open_files <= before.open_files
        assert site.own_bytes() < before_bytes + MAX_GROWTH
        assert site.agent.process is not None
        assert len(descendants(site.agent.process.pid)) <= 2, "the two programs, and no zombie"
