"""Threads: the rule, what is kept, what an agent makes of "auto"; and the picture of latencies."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real import ROOT, TINY, Agent, BrokerAddress, Subscriber, agent_config, run_cli, write_pictures

from vedette.contract.errors import ModelError
from vedette.contract.manifest import ClassifyOutput
from vedette.engine import load_runtime
from vedette.models import tune
from vedette.models.model import ModelSpec, PlainModel, read_model
from vedette.models.tune import (
    Circumstances,
    Measured,
    Setting,
    Tunings,
    auto_threads,
    circumstances,
    conclude,
    measure,
    settings,
)
from vedette.pictures.latency_plot import HEIGHT, LEFT, RIGHT, WIDTH, plot_latency

HERE = Circumstances("0" * 64, "litert 2.3.0", "cpu", 4)


@pytest.fixture
def tiny(labels_file: Path) -> ModelSpec:
    return read_model(str(TINY), PlainModel(ClassifyOutput(), labels_file=labels_file))


def rows(*measured: tuple[int, int, float, float]) -> list[Measured]:
    return [Measured(Setting(threads, interpreters), ms, rate, 9) for threads, interpreters, ms, rate in measured]


# what is tried, and the rule


@given(st.integers(1, 128))
def test_settings_keep_to_the_cores(cores: int) -> None:
    tried = settings(cores)
    assert len(set(tried)) == len(tried)
    assert all(1 <= setting.busy <= cores for setting in tried)
    assert Setting(1, 1) in tried and (cores > 64 or Setting(cores, 1) in tried)
    assert all(setting.interpreters == 1 for setting in settings(cores, side_by_side=False))


def test_the_settings_of_a_raspberry_pi() -> None:
    assert settings(4) == [Setting(n, 1) for n in (1, 2, 3, 4)] + [Setting(1, 4), Setting(2, 2)]


def test_the_quickest_wins_and_ties_go_to_fewer_threads() -> None:
    tuning = conclude(
        HERE,
        rows((1, 1, 40.0, 25), (2, 1, 21.0, 48), (3, 1, 20.5, 49), (4, 1, 20.0, 50), (1, 4, 60, 66), (2, 2, 30, 65)),
        9,
    )
    assert tuning.latency == Setting(2, 1)
    assert tuning.throughput == Setting(1, 4)
    clear = conclude(HERE, rows((1, 1, 40.0, 25), (2, 1, 21.1, 47), (4, 1, 20.0, 50)), 9)
    assert (clear.latency, clear.throughput) == (Setting(4, 1), None)


def test_throughput_leaves_cores_free_that_bring_nothing() -> None:
    tuning = conclude(HERE, rows((1, 1, 10.0, 100), (2, 1, 9.9, 101), (1, 2, 20.0, 102), (1, 4, 40.0, 104)), 9)
    assert tuning.throughput == Setting(1, 1)


# measuring


def test_every_setting_is_measured_in_turns(tiny: ModelSpec) -> None:
    runtime = load_runtime()
    tried = [Setting(1, 1), Setting(2, 1), Setting(1, 2)]
    shares: list[float] = []
    measured = measure(tiny.path, runtime, tried, 0.3, shares.append)
    assert [row.setting for row in measured] == tried
    assert all(row.latency_ms > 0 and row.rate > 0 and row.rounds == len(shares) for row in measured)
    assert shares == sorted(shares) and shares[-1] <= 1.0


def test_no_time_at_all_is_a_round_of_one_inference_each(tiny: ModelSpec) -> None:
    [row] = measure(tiny.path, load_runtime(), [Setting(1, 1)], 1e-9)
    assert row.rounds == 1


def test_a_network_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "text.tflite"
    path.write_text("no network")
    with pytest.raises(ModelError):
        measure(path, load_runtime(), [Setting(1, 1)], 0.1)


# what is kept


def test_what_is_kept_is_found_again_for_the_same_circumstances_alone(tmp_path: Path) -> None:
    tuning = conclude(HERE, rows((1, 1, 4.0, 250)), 1.0)
    Tunings(tmp_path / "state").keep(tuning)
    kept = Tunings(tmp_path / "state")
    assert kept.find(HERE) == tuning
    for other in (
        Circumstances("1" * 64, HERE.runtime, HERE.cpu, HERE.cores),
        Circumstances(HERE.model, "litert 9", HERE.cpu, HERE.cores),
        Circumstances(HERE.model, HERE.runtime, "other", HERE.cores),
        Circumstances(HERE.model, HERE.runtime, HERE.cpu, 2),
    ):
        assert kept.find(other) is None


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    tunings = Tunings(tmp_path)
    for number in range(70):
        tunings.keep(conclude(Circumstances(f"{number}", "r", "c", 1), rows((1, 1, 4.0, 250)), 1.0))
    found = [Tunings(tmp_path).find(Circumstances(f"{number}", "r", "c", 1)) is not None for number in range(70)]
    assert found == [False] * 6 + [True] * 64


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_a_file_that_cannot_be_read_costs_a_measurement(
    tmp_path: Path, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / tune.FILE).write_bytes(raw)
    assert Tunings(tmp_path).find(HERE) is None
    assert "measured again" in caplog.text


# auto


def test_auto_measures_once_and_keeps_it(tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "cores", lambda: 2)
    runtime = load_runtime()
    first = auto_threads([tiny], runtime, Tunings(tmp_path), single=True, seconds=0.2)
    kept = Tunings(tmp_path).find(circumstances(tiny, runtime))
    assert kept is not None and kept.latency.threads == first and kept.throughput is None

    def never(*_: object, **__: object) -> list[Measured]:
        raise AssertionError("it was kept")

    with monkeypatch.context() as patch:
        patch.setattr(tune, "measure", never)
        assert auto_threads([tiny], runtime, Tunings(tmp_path), single=True) == first
    auto_threads([tiny, tiny], runtime, Tunings(tmp_path), single=False, seconds=0.2)
    kept = Tunings(tmp_path).find(circumstances(tiny, runtime))
    assert kept is not None and kept.throughput is not None


def test_auto_takes_latency_for_one_and_the_fewest_for_several(
    tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "cores", lambda: 4)
    runtime = load_runtime()
    other = replace(tiny, sha256="1" * 64)
    tunings = Tunings(tmp_path)
    for spec, threads in ((tiny, 2), (other, 3)):
        kept = conclude(circumstances(spec, runtime), rows((1, 1, 9, 9), (4, 1, 4, 99), (threads, 2, 8, 200)), 1.0)
        tunings.keep(kept)
    assert auto_threads([tiny], runtime, tunings, single=True) == 4
    assert auto_threads([tiny, other], runtime, tunings, single=False) == 2
    assert auto_threads([other], runtime, tunings, single=False) == 3
    assert auto_threads([], runtime, tunings, single=False) == 1


def test_one_core_needs_no_measurement(tiny: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "cores", lambda: 1)
    monkeypatch.setattr(tune, "measure", None)
    assert auto_threads([tiny], load_runtime(), None, single=True) == 1


def test_an_agent_with_auto_says_what_it_took(broker: BrokerAddress, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    config = agent_config(
        tmp_path, broker.port, f'url = "images://{pictures}"\npace = "max"', mqtt=f'protocol = "{broker.protocols[0]}"'
    )
    config.write_text(config.read_text().replace("[intervals]", '[engine]\nthreads = "auto"\n[intervals]'))
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        assert agent.wait() == 0
        message = subscriber.wait("door/model").json
    said = re.search(r"engine.threads = auto: (\d+) for tiny-uint8, measured now", agent.text())
    if tune.cores() > 1:
        assert said and int(said[1]) == message["threads"]
    else:
        assert message["threads"] == 1


# the command


def test_bench_tune_prints_and_keeps(labels_file: Path, tmp_path: Path) -> None:
    plain = ("--decoder", "classify", "--labels", labels_file)
    state = tmp_path / "state"
    outcome = run_cli("bench", TINY, "--tune", "--seconds", "0.5", "--state-dir", state, "--json", *plain)
    assert outcome.returncode == 0, outcome.stderr
    document = json.loads(outcome.stdout)
    assert document["kept"] == str(state / "tunings.json") and (state / "tunings.json").is_file()
    assert [(r["threads"], r["interpreters"]) for r in document["rows"]] == [
        (s.threads, s.interpreters) for s in settings(document["cores"])
    ]
    assert {"threads", "interpreters"} == set(document["latency"]) == set(document["throughput"])
    table = run_cli("bench", TINY, "--tune", "--seconds", "0.5", "--state-dir", state, *plain).stdout
    assert "latency" in table and "throughput" in table and f"Kept in {state}/tunings.json" in table


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tune", "--threads", "2"), "--tune: expected neither"),
        (("--tune", "--plot", "x.png"), "--tune: expected neither"),
        (("--state-dir", "/tmp"), "--state-dir: expected --tune"),
        (("--seconds", "0.1", "--plot", "/nowhere/x.png"), "cannot be written"),
        (("--tune", "--seconds", "0.1", "--state-dir", "/proc/nowhere"), "the result cannot be kept"),
    ],
)
def test_mistakes_are_one_line(labels_file: Path, options: tuple[str, ...], says: str) -> None:
    outcome = run_cli("bench", TINY, "--decoder", "classify", "--labels", labels_file, *options)
    assert outcome.returncode == 2
    [line] = outcome.stderr.splitlines()
    assert says in line


# the picture


def test_the_picture_shows_where_the_values_are() -> None:
    rng = np.random.default_rng(0)
    values = [*rng.normal(5.0, 0.2, 900), *rng.normal(9.0, 0.2, 100)]
    page = plot_latency(values, "a model", "litert")
    assert page.shape == (HEIGHT, WIDTH, 3) and page.dtype == np.uint8
    bars = (page == (196, 152, 92)).all(axis=2)
    columns = bars.sum(axis=0)
    inner = WIDTH - LEFT - RIGHT
    early, late = columns[LEFT : LEFT + inner // 3].sum(), columns[LEFT + 2 * inner // 3 :].sum()
    assert early > 3 * late > 0
    assert columns[LEFT + inner // 2 - 40 : LEFT + inner // 2 + 40].sum() == 0


@pytest.mark.parametrize("values", [[1.0], [2.0] * 50, [1e-4, 1e4], list(range(1, 2000))])
def test_any_values_make_a_picture(values: list[float]) -> None:
    assert plot_latency(values, "x").std() > 0


def test_bench_writes_a_picture(labels_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "latency.png"
    outcome = run_cli(
        "bench", TINY, "--decoder", "classify", "--labels", labels_file, "--seconds", "0.2", "--plot", target
    )
    assert outcome.returncode == 0 and outcome.stderr == ""
    assert cv2.imread(str(target)).shape == (HEIGHT, WIDTH, 3)


def test_the_documented_numbers_are_the_code_s() -> None:
    text = (ROOT / "systemd" / "vedette.toml").read_text()
    assert f"for about {tune.START_S:g} s" in text
