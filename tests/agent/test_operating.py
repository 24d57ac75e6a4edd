"""docs/operating.md: what it shows is what the commands print."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from real import ROOT
from test_doctor import NOBODY, board
from test_monitor import fleet_of, latency, stats, status
from test_monitor import health as health_message

from vedette.doctor.board import look_at_board
from vedette.doctor.devices import look_at_devices
from vedette.doctor.host import Host
from vedette.doctor.software import look_at_unit
from vedette.flow.stats import STAGES
from vedette.monitor import lines, screen, watch
from vedette.monitor.watch import Watch
from vedette.mqtt.inbox import Incoming

DOCUMENT = ROOT / "docs" / "operating.md"
DAY = "2026-11-22T"
NOW = datetime(2026, 11, 22, 15, 4, 8, tzinfo=UTC)


def block(name: str) -> str:
    """The text block that follows the marker of this name."""
    match = re.search(rf"<!-- checked: {name} -->\n```text\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert match, f"no block {name}"
    return match[1]


@pytest.fixture
def greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone that the document was written in."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("COLUMNS", "200")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def found(seq: int, at: str, *labels: str, **more: Any) -> bytes:
    objects = [{"label": label, "class_id": 0, "score": 0.91, "box": [0, 0, 1, 1], "track": 7} for label in labels]
    body = {"v": 1, "epoch": 41, "seq": seq, "ts": f"{DAY}{at}Z", "clock": "synced", "replay": False, "objects": objects,
            "latency_ms": {"infer": 13.8, "total": 19.3}, **more}  # fmt: skip
    return msgspec.json.encode(body)


def watched(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lines, "now", lambda: NOW)
    monkeypatch.setattr(watch, "now", lambda: NOW)
    door = "vedette/front-door/door"
    event = {"kind": "zone_entered", "label": "person", "track": 7, "score": 0.93, "zone": "yard"}
    dropped = [{"first": 813, "last": 814, "reason": "outbox full"}]
    ledger = {"ts": f"{DAY}15:04:09.000000Z", "streams": [{
        "epoch": 41, "pipeline": "door", "topic": "detections", "acknowledged": 812, "waiting": 0, "rejected": 0,
        "dropped": 2, "lost_at_crash": 0, "dropped_ranges": dropped}]}  # fmt: skip
    output = io.StringIO()
    with redirect_stdout(output):
        looking = Watch("vedette", as_json=False)
        looking.changed(None)
        for topic, payload in (
            (f"{door}/detections", found(812, "15:04:05.123456", "person")),
            (f"{door}/events", found(12, "15:04:05.123456", **event)),
            (f"{door}/state", msgspec.json.encode({"ts": f"{DAY}15:04:05.123456Z", "counts": {"person": 1, "dog": 0}})),
            (f"{door}/detections", found(816, "15:04:08.104221")),
            (f"{door}/detections", found(815, "15:04:06.733190", "person", replay=True)),
            ("vedette/front-door/ledger", msgspec.json.encode(ledger)),
        ):
            looking.heard(Incoming(topic, payload))
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())


def topped() -> str:
    scale = {
        "capture": 0.12,
        "queue": 0.02,
        "preprocess": 0.03,
        "infer": 1.0,
        "decode": 0.03,
        "total": 1.2,
        "sent": 1.3,
        "acknowledged": 1.4,
    }
    spans = [*(9.0 + 0.08 * n for n in range(40)), 14.0, 16.0, 31.0]
    one = {stage: latency(*(span * scale[stage] for span in spans)) for stage in STAGES}
    fleet = fleet_of(
        ("front-door/status", status()), ("front-door/health", health_message()),
        ("front-door/door/stats", stats({"stale": 10}, latency_ms=one)),
        ("front-door/door/stats", stats({"stale": 12}, latency_ms=one)),
        ("pump-house/status", status("alert", "pump: source lost: /dev/ttyUSB0 is gone")),
        ("pump-house/health", health_message(throttled=0x50005, temperature_c=71.4)),
        ("pump-house/pump/stats", stats({}, None, fps_in=0.0, fps_out=0.0, latency_ms={})),
    )  # fmt: skip
    rows = screen.lines(fleet, "broker:1883/vedette", width=80, height=24)
    return "".join(f"{row.plain.rstrip()}\n" for row in rows)


def examined(folder: Path) -> str:
    changes: dict[str, str | None] = {"/sys/devices/platform/soc/soc:firmware/get_throttled": "50005"}
    host: Host = board(folder, changes)
    assert host.uid == NOBODY
    findings = [*look_at_board(host, "unsynced"), *look_at_devices(host), *look_at_unit(host)]
    rows = [f"{f.verdict:<5} {f.area}: {f.what}{'; ' if f.fix else ''}{f.fix}\n" for f in findings]
    return "".join(rows)


def test_what_watch_shows(greenwich: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch) == block("watch")


def test_what_top_shows(greenwich: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "now", lambda: NOW)
    assert topped() == block("top")


def test_what_doctor_says(tmp_path: Path) -> None:
    if os.getegid() == 99999:
        pytest.skip("this group has the number that the board's file gives to root")
    assert examined(tmp_path) == block("doctor")
