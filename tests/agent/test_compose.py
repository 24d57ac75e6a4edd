"""From a configuration to parts: what is refused because it means nothing, and what is shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from real import BUNDLE, CLIP, TINY

from vedette.config import Config, load_config, parse_config
from vedette.contract.errors import ConfigError, ModelError, UserError
from vedette.service.compose import Prepared, link_options, make_fitting, prepare
from vedette.service.lanes import load_models

PLAIN = """
[pipeline.NAME.plain]
labels_file = "LABELS"
[pipeline.NAME.plain.output]
decoder = "classify"
"""
TRIANGLE = "polygon = [[0, 0], [1, 0], [1, 1]]\n"


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
        ("[pipeline.p.zones.yard]\npolygon = [[0, 0], [1, 0], [1, 1]]\n", "pipeline.p.zones"),
        ("[pipeline.p.wires.gate]\nline = [[0, 0], [1, 0]]\n", "pipeline.p.wires"),
        ("[pipeline.p.events]\n", "pipeline.p.events"),
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


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ("thresholds = { cat = 0.4 }\n", "thresholds"),
        (f'[pipeline.p.zones.yard]\n{TRIANGLE}labels = ["person", "cat"]\n', "zones.yard.labels"),
        ('[pipeline.p.wires.gate]\nline = [[0, 0], [1, 1]]\nlabels = ["cat"]\n', "wires.gate.labels"),
        ('[pipeline.p.events]\nlabels = ["cat"]\n', "events.labels"),
    ],
)
def test_what_is_said_of_a_label_that_is_not_reported_is_refused(extra: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not report") as error:
        prepared(camera("p", 'labels = ["person"]\n' + extra), tmp_path)
    assert error.value.where == f"v.toml: pipeline.p.{key}"
    assert (error.value.expected, error.value.found) == ("one of its labels, person", "'cat'")
    assert prepared(camera("p", extra), tmp_path), "without labels every one is reported"


@pytest.mark.parametrize("table", [f"zones.yard]\n{TRIANGLE}", "wires.gate]\nline = [[0, 0], [1, 1]]\n"])
def test_what_events_leave_out_no_zone_or_wire_can_see(table: str, tmp_path: Path) -> None:
    extra = f'[pipeline.p.{table}labels = ["person", "cat"]\n[pipeline.p.events]\nlabels = '
    with pytest.raises(ConfigError, match="events leave out") as error:
        prepared(camera("p", extra + '["person"]\n'), tmp_path)
    assert error.value.where == f"v.toml: pipeline.p.{table.split(']')[0]}.labels"
    assert (error.value.expected, error.value.found) == ("one of events.labels, person", "'cat'")
    assert prepared(camera("p", extra + '["person", "cat"]\n'), tmp_path)


def test_what_is_not_reported_may_be_blurred(tmp_path: Path) -> None:
    extra = 'labels = ["dog"]\n[pipeline.p.snapshots]\nfolder = "x"\nblur_labels = ["person"]\n'
    assert prepared(camera("p", extra), tmp_path)


@pytest.mark.parametrize(
    ("line", "key", "says"),
    [
        ("threshold = 50", "threshold", "expected 0 to 1"),
        ('labels = ["persn"]', "labels", "did you mean 'person'"),
        ("stride = 5", "stride", "means nothing for this model"),
        ('source = "ftp://a/b"', "source", "unknown scheme"),
        ('source = "udp://127.0.0.1:9000"', "source", "takes pictures"),
        ('model = "nope"', "model", "nope: no such model"),
        (f'model = "/{"n" * 300}"', "model", "cannot be looked for: found File name too long"),
        (f'model = "{"n" * 250}"', "model", "cannot be looked for: found File name too long"),
        ('model = "~nobody-here/m.tflite"', "model", "cannot be looked for"),
        ("steady = {}", "steady", "means nothing for this model"),
    ],
)
def test_what_a_model_shows_to_be_wrong_has_file_line_and_key(line: str, key: str, says: str, tmp_path: Path) -> None:
    pipeline = {"model": f'model = "{BUNDLE}"', "source": f'source = "{CLIP}"', key: line}
    path = tmp_path / "v.toml"
    path.write_text("# a comment\n[pipeline.p]\n" + "\n".join(pipeline.values()) + "\n")
    with pytest.raises(UserError, match=says) as error:
        prepare(load_config(path), path)
    number = path.read_text().splitlines().index(line) + 1
    assert error.value.line().startswith(f"{path}:{number}: pipeline.p.{key}: ")


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('[trust]\nkeys = ["/none.pub"]', "trust.keys"),
        (f'[trust]\nkeys = ["/{"n" * 300}"]', "trust.keys"),
        ('[engine]\ndelegate = "/none.so"', "engine.delegate"),
        (f'[engine]\ndelegate = "/{"n" * 300}"', "engine.delegate"),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_key(lines: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    path.write_text(f'{lines}\n[pipeline.p]\nmodel = "{BUNDLE}"\nsource = "{CLIP}"\n')
    with pytest.raises(UserError) as error:
        prepare(load_config(path), path)
    assert error.value.line().startswith(f"{path}:2: {key}: ")


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('username = "u"\npassword_file = "/none"', "password_file"),
        ('tls = true\nca_file = "/none"', "ca_file"),
        ('tls = true\ncert_file = "/none"', "cert_file"),
    ],
)
def test_a_file_about_the_broker_is_named_with_its_key(lines: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    path.write_text(f'[mqtt]\n{lines}\n[pipeline.p]\nmodel = "{BUNDLE}"\nsource = "{CLIP}"\n')
    with pytest.raises(ConfigError) as error:
        link_options(load_config(path), path)
    assert error.value.line().startswith(f"{path}:3: mqtt.{key}: /none: ")


def test_a_network_that_is_none_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "none.tflite").write_bytes(b"nothing")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    path = tmp_path / "v.toml"
    path.write_text(
        f'[pipeline.p]\nmodel = "{tmp_path}/none.tflite"\nsource = "{CLIP}"\n'
        f'plain = {{ labels_file = "{tmp_path}/labels.txt", output = {{ decoder = "classify" }} }}\n'
    )
    config = load_config(path)
    with pytest.raises(ModelError) as error:
        load_models(prepare(config, path), config.engine)
    assert error.value.line().startswith(f"{path}:2: pipeline.p.model: {tmp_path}/none.tflite: ")


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
    ("source", "engine", "abreast", "interpreters"),
    [
        ("", "", 1, 1),
        ('pace = "max"', "", 4, 4),
        ('pace = "max"', "threads = 2", 2, 2),
        ('pace = "max"', "interpreters = 3", 3, 3),
        ('pace = "max"', "threads = 3", 1, 1),
        ("", "parallel = 2", 2, 2),
        ('pace = "max"', "parallel = 1", 1, 1),
        ("", "parallel = 9", 4, 4),
    ],
)
def test_inferences_abreast_are_as_many_as_is_asked_or_a_file_read_flat_out_can_have(
    source: str, engine: str, abreast: int, interpreters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    parallel = engine if engine.startswith("parallel") else ""
    text = f'[engine]\n{"" if parallel else engine}\n[pipeline.a]\nmodel = "TINY"\n{parallel}\n'
    text += f'[pipeline.a.source]\nurl = "CLIP"\n{source}\n' + PLAIN.replace("NAME", "a")
    config = parsed(text, tmp_path)
    [pipeline] = prepare(config, Path("v.toml"))
    loaded = load_models([pipeline], config.engine)["a"]
    assert (loaded.abreast, len(loaded.lane.engines)) == (abreast, interpreters)
    assert len(make_fitting(pipeline, loaded).models) == 1 + abreast
    loaded.lane.close()


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
