"""What the documents say is so: links lead somewhere, commands parse, configurations load, figures are the measured ones."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from real import run_cli

from vedette.cli import _parser
from vedette.config import parse_config
from vedette.contract.errors import MissingPackageError
from vedette.mqtt.envelope import message_of
from vedette.mqtt.events import EventBody, StateMessage
from vedette.recordings import read_recording
from vedette.sources import SensorOptions, is_sensor_url, make_sensor_source
from vedette_converter.recipe.series import Series
from vedette_converter.series import recordings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples/mosquitto/README.md",
    ROOT / "examples/sensors/README.md",
    ROOT / "models/README.md",
]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_configurations_load(document: Path) -> None:
    for block in blocks(document, "toml"):
        assert parse_config(block.encode(), document).pipelines


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_commands_parse(document: Path) -> None:
    parser, _ = _parser()
    text = "\n".join(blocks(document, "")).replace("\\\n", " ")
    commands = [line.split("#")[0].split("|")[0].strip() for line in text.splitlines() if line.startswith("vedette ")]
    for command in commands:
        words = [word.rstrip(".") if word.endswith("...") else word for word in shlex.split(command)[1:]]
        parser.parse_args([word for word in words if word != "&&"])
    assert document.name != "README.md" or document.parent != ROOT or len(commands) >= 6


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make ([a-z][a-z-]+)", "\n".join(d.read_text() for d in DOCUMENTS)))
    missing = {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)}
    assert not missing & {t for t in named if t.startswith(("bench-", "demo", "test", "build-", "unit", "contracts"))}


def test_the_readmes_figures_are_the_measured_ones() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "bench/readme.py"), "--check"], check=False)
    assert done.returncode == 0, "run bench/readme.py"


SENSORS, EVENTS = ROOT / "docs/sensors.md", ROOT / "docs/events.md"
SHIPPED = [ROOT / "models" / f"{name}.tflite" for name in ("watch-activity", "shuttle-anomaly")]
needs_shipped = pytest.mark.skipif(
    not all(path.is_file() for path in SHIPPED),
    reason="the shipped sensor networks are absent: the pages about sensors and events stay untested",
)


def commands(document: Path) -> list[list[str]]:
    """What the page tells to type, in words."""
    lines = "\n".join(blocks(document, "")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(("vedette ", "python "))]


@needs_shipped
@pytest.mark.parametrize("words", commands(SENSORS), ids=lambda words: " ".join(words[:3]))
def test_what_the_page_about_sensors_tells_to_type_runs(words: list[str], tmp_path: Path) -> None:
    words = [word.replace("examples/", f"{ROOT}/examples/") for word in words]
    if words[1] == "demo":
        words += ["--seconds", "3", "--picture", str(tmp_path / "demo.png")]
        if "--source" not in words:
            words += ["--speed", "20", "--source", str(ROOT / "examples/media/shoulder-exercises.csv")]
    done = run_cli(*words[1:], VEDETTE_MODELS=str(ROOT / "models"))
    assert (done.returncode, done.stderr) == (0, ""), done


def test_files_that_commands_name_are_there() -> None:
    for document in (SENSORS, EVENTS):
        named = [word for words in commands(document) for word in words if word.startswith(("examples/", "bench/"))]
        assert all((ROOT / word).exists() for word in named)


def test_the_sensor_in_ten_lines_is_one(tmp_path: Path) -> None:
    (block,) = blocks(SENSORS, "python")
    assert len(block.strip().splitlines()) <= 10
    program = tmp_path / "read.py"
    program.write_text(block)
    source = make_sensor_source(SensorOptions(f"exec:{sys.executable} {program}", ("x", "y", "z")))
    source.open()
    try:
        got: list[float] = []
        while not got:
            readings = source.read(1.0)
            assert readings is not None
            got = [row[2] for row in readings.values.tolist()]
        assert got[0] == pytest.approx(9.81) and readings.timed and not source.tally.total()
    finally:
        source.close()


def test_what_the_page_tells_to_record_is_read_by_the_agent_and_the_converter(tmp_path: Path) -> None:
    (program,), (record,) = blocks(SENSORS, "python"), blocks(SENSORS, "sh")
    (tmp_path / "read.py").write_text(program)
    typed = record.replace("timeout 60", "timeout 3").replace("python3", sys.executable)
    assert subprocess.run(["bash", "-ec", typed], cwd=tmp_path, check=False).returncode == 124, "ended by timeout"
    (path,) = (tmp_path / "normal").iterdir()
    names = ("x", "y", "z")
    by_agent, by_converter = read_recording(path, names), recordings.read(path, names, Series().time)
    assert len(by_agent) > 20 and by_agent.timed and by_agent.values[:, 2] == pytest.approx(9.81)
    assert by_converter.values.tolist() == by_agent.values.tolist()
    assert by_converter.times_ns is not None and by_converter.times_ns.tolist() == by_agent.times_ns.tolist()


def test_urls_of_sensors_are_understood() -> None:
    urls = re.findall(r"^\| `([a-z]+:[^`]+)`", SENSORS.read_text(), re.MULTILINE)
    assert {url.partition(":")[0] for url in urls} == {"exec", "serial", "iio", "udp", "mqtts", "csv", "ndjson"}
    for url in urls:
        assert is_sensor_url(url)
        try:
            make_sensor_source(SensorOptions(url, ("x", "y", "z")))
        except MissingPackageError:
            assert url.startswith("serial:")


def test_options_of_sensors_are_understood() -> None:
    rows = re.findall(r"^\| `([a-z]+:[^`?]+)[^`]*`.*\|([^|]*)\|$", SENSORS.read_text(), re.MULTILINE)
    values = {"baud": "9600", "columns": "t,x,y,z", "rate": "10", "speed": "2", "channels": "a,b,c"}
    for url, options in rows:
        named = [name for name in values if re.search(rf"`{name}[`=]", options)]
        query = "&".join(f"{name}={values[name]}" for name in named)
        try:
            make_sensor_source(SensorOptions(f"{url}?{query}" if query else url, ("x", "y", "z")))
        except MissingPackageError:
            assert url.startswith("serial:")


def test_reasons_of_malformed_lines_are_all_explained() -> None:
    from vedette.sources.lines import Reason

    text = SENSORS.read_text()
    assert [reason for reason in get_args(Reason) if f"`{reason}`" not in text] == []


def test_messages_of_events_are_what_is_sent() -> None:
    whole = message_of(EventBody, "")
    shown = [json.loads(block) for block in blocks(EVENTS, "json")]
    kinds = set()
    for message in shown:
        kind = StateMessage if "kind" not in message else whole
        if kind is whole:
            kinds.add(message["kind"])
            head = dict.fromkeys(("id", "ts", "boot", "device", "pipeline"), "x")
            numbers = dict.fromkeys(("v", "epoch", "seq", "mono_us"), 1)
            model = {"name": "m", "version": "1.0.0", "sha256": "0"}
            message = {**head, **numbers, "clock": "synced", "replay": False, "model": model, **message}
        # back again the same: every key is one that there is
        assert json.loads(msgspec.json.encode(msgspec.convert(message, kind))) == message
    assert kinds >= {"track_began", "zone_left", "wire_crossed", "track_ended", "anomaly_began", "class_changed"}
