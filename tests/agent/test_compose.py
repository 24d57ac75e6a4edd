"""From a configuration to parts: what is refused because it means nothing, and what is shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from real import BUNDLE, CLIP, TINY

from vedette.config import Config, parse_config
from vedette.contract.errors import ConfigError, ModelError
from vedette.service.compose import Prepared, prepare
from vedette.service.lanes import load_models

PLAIN = """
[pipeline.NAME.plain]
labels_file = "LABELS"
[pipeline.NAME.plain.output]
decoder = "classify"
"""


def parsed(text: str, tmp_path: Path) -> Config:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    text = text.replace("LABELS", str(labels)).replace("BUNDLE", str(BUNDLE)).replace("TINY", str(TINY))
    return parse_config(text.replace("CLIP", str(CLIP)).encode(), Path("v.toml"))


def prepared(text: str, tmp_path: Path) -> list[Prepared]:
    return prepare(parsed(text, tmp_path), Path("v.toml"))


def camera(name: str, extra: str = "", *, model: str = "BUNDLE") -> str:
    plain = PLAIN.replace("NAME", name) if model == "TINY" else ""
    return f'[pipeline.{name}]\nmodel = "{model}"\nsource = "CLIP"\n{extra}{plain}\n'


@pytest.mark.parametrize(
    ("extra", "where"),
    [
        ("[pipeline.p.track]\n", "pipeline.p.track"),
        ("[pipeline.p.zones.yard]\npolygon = [[0, 0], [1, 0], [1, 1]]\n", "pipeline.p.track"),
        ("stride = 5\n", "pipeline.p.stride"),
    ],
)
def test_a_table_that_means_nothing_for_a_classifier_is_refused(extra: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="means nothing for this model") as error:
        prepared(camera("p", extra, model="TINY"), tmp_path)
    assert where in error.value.line()
    assert "'classify'" in error.value.line()


def test_a_steady_class_is_nothing_for_a_detector(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.p\.steady"):
        prepared(camera("p", "[pipeline.p.steady]\n"), tmp_path)


def test_a_score_above_one_is_for_anomalies_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected 0 to 1, found 1\.5"):
        prepared(camera("p", "threshold = 1.5\n"), tmp_path)


def test_a_sensor_for_a_network_of_pictures_is_refused(tmp_path: Path) -> None:
    text = '[pipeline.p]\nmodel = "BUNDLE"\nsource = "udp://127.0.0.1:9000"\n'
    with pytest.raises(ConfigError, match="takes pictures") as error:
        prepared(text, tmp_path)
    assert "pipeline.p.source" in error.value.line()


def test_labels_of_zones_must_be_the_models(tmp_path: Path) -> None:
    zone = '[pipeline.p.zones.yard]\npolygon = [[0, 0], [1, 0], [1, 1]]\nlabels = ["persn"]\n'
    with pytest.raises(ConfigError, match="did you mean 'person'") as error:
        prepared(camera("p", zone), tmp_path)
    assert "pipeline.p.zones.yard.labels" in error.value.line()


def test_a_tracker_wants_poorer_detections_than_are_reported(tmp_path: Path) -> None:
    plain, tracked = prepared(
        camera("a", "threshold = 0.6\n") + camera("b", "threshold = 0.6\n[pipeline.b.track]\nlow_score = 0.25\n"),
        tmp_path,
    )
    assert plain.decoded_from == pytest.approx(0.6)
    assert tracked.decoded_from == pytest.approx(0.25)


def test_pipelines_of_one_model_share_a_lane_and_others_do_not(tmp_path: Path) -> None:
    text = "[engine]\ninterpreters = 1\n" + camera("a", model="TINY") + camera("b", model="TINY")
    other = camera("c", model="TINY").replace('decoder = "classify"', 'decoder = "classify"\ntop_k = 1')
    config = parsed(text + other, tmp_path)
    ready = prepare(config, Path("v.toml"))
    loaded = load_models(ready, config.engine)
    assert loaded["a"].lane is loaded["b"].lane
    assert len(loaded["a"].lane.engines) == 1
    assert loaded["a"].model is not loaded["b"].model
    assert loaded["a"].model.engine is loaded["b"].model.engine
    assert loaded["c"].lane is not loaded["a"].lane, "other tables, another model"
    for lane in {id(found.lane): found.lane for found in loaded.values()}.values():
        lane.close()


@pytest.mark.parametrize(
    ("threads", "cores", "pipelines", "interpreters"), [(1, 4, 3, 3), (1, 2, 3, 2), (2, 4, 3, 2), (4, 2, 2, 1)]
)
def test_interpreters_are_as_many_as_can_run_at_once(
    threads: int, cores: int, pipelines: int, interpreters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    text = f"[engine]\nthreads = {threads}\n" + "".join(camera(f"p{n}", model="TINY") for n in range(pipelines))
    config = parsed(text, tmp_path)
    loaded = load_models(prepare(config, Path("v.toml")), config.engine)
    assert len(loaded["p0"].lane.engines) == interpreters
    loaded["p0"].lane.close()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"):
        prepared('[pipeline.p]\nmodel = "nothing-of-the-kind"\nsource = "CLIP"\n', tmp_path)
