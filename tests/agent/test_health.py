"""What the agent says of its device, on one that is well and on one that has nothing left to look with."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from real import no_descriptors

from vedette.service import health
from vedette.service.health import read_health


def uptime_s() -> float:
    """As the kernel writes it, to the hundredth."""
    return float(Path("/proc/uptime").read_text().split()[0])


def test_this_machine_says_how_it_is(tmp_path: Path) -> None:
    before = uptime_s()
    seen = read_health(tmp_path)
    assert before <= seen.uptime_s < uptime_s() + 0.01
    assert seen.load_1m is not None and seen.load_1m >= 0
    assert seen.memory_available_bytes is not None and seen.memory_available_bytes > 1_000_000
    assert seen.agent_pss_bytes > 1_000_000
    assert seen.disk_free_bytes is not None and seen.disk_free_bytes > 0
    assert seen.threads is not None and seen.threads >= threading.active_count()
    assert seen.open_files is not None and seen.open_files >= 3


def test_without_a_descriptor_it_says_what_needs_none(tmp_path: Path) -> None:
    with no_descriptors():
        with pytest.raises(OSError):
            os.dup(2)
        seen = read_health(tmp_path)
    assert seen.uptime_s > 0
    nothing = replace(  # the load is left out: glibc asks the kernel for it since 2.34, and reads a file before
        seen, temperature_c=None, throttled=None, memory_available_bytes=None, agent_pss_bytes=0, threads=None,
        open_files=None,
    )  # fmt: skip
    assert seen == nothing


def test_a_sensor_that_went_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_THERMAL", tmp_path)
    for number in range(2):
        (tmp_path / f"thermal_zone{number}").mkdir()
    (tmp_path / "thermal_zone0/temp").write_text("41500\n")
    (tmp_path / "thermal_zone1/temp").symlink_to("gone")
    assert read_health(tmp_path).temperature_c == 41.5
    (tmp_path / "thermal_zone0/temp").write_text("9" * 400)
    assert read_health(tmp_path).temperature_c is None
    monkeypatch.setattr(health, "_THERMAL", tmp_path / "gone")
    assert read_health(tmp_path / "gone").temperature_c is None
