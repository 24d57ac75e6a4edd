"""The configuration: every mistake has its file, line, key, what was expected and what was found."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vedette.config import (
    MAX_BYTES,
    RESERVED,
    Config,
    EngineConfig,
    IntervalsConfig,
    MqttConfig,
    OutboxConfig,
    PipelineConfig,
    Places,
    SourceConfig,
    default_device,
    default_state_dir,
    load_config,
    parse_config,
)
from vedette.contract.errors import ConfigError
from vedette.contract.manifest import ClassifyOutput
from vedette.service.compose import link_options
from vedette.trust.credentials import read_password

PATH = Path("v.toml")
SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
DOOR = '[pipeline.door]\nmodel = "m"\nsource = "clip.mp4"\n'


def parse(text: str | bytes) -> Config:
    return parse_config(text.encode() if isinstance(text, str) else text, PATH)


def refused(text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    line = str(caught.value)
    assert line.startswith("v.toml"), line
    assert line.isprintable(), "one line, nothing that a terminal would act upon"
    return caught.value


def test_the_least_configuration_has_the_structs_defaults() -> None:
    config = parse(DOOR)
    assert config.mqtt == MqttConfig()
    assert config.outbox == OutboxConfig()
    assert config.engine == EngineConfig()
    assert config.intervals == IntervalsConfig()
    assert config.device == default_device()
    assert config.state_dir == default_state_dir()
    assert config.log_level == "info"
    assert config.pipelines == {"door": PipelineConfig(source="clip.mp4", model="m")}
    assert config.pipelines["door"].source_config == SourceConfig(url="clip.mp4")


def test_everything_said_is_read() -> None:
    config = parse(
        """
device = "pi-7"
state_dir = "/var/lib/v"
log_level = "debug"
[mqtt]
host = "broker.local"
port = 8883
protocol = "3.1.1"
root = "plant-7/vedette"
username = "u"
password = "p"
tls = true
ca_file = "ca.pem"
keepalive_s = 60
in_flight = 10
[outbox]
max_messages = 5
max_bytes = 100000
when_full = "drop_newest"
replay_age_s = 3
[engine]
runtime = "litert"
threads = 4
[intervals]
stats_s = 1
health_s = 2.5
ledger_s = 3
[pipeline.door]
model = "m"
labels = ["a", "b"]
threshold = 1
thresholds = { a = 0.5, "b c" = 0 }
max_fps = 5
publish_empty = false
[pipeline.door.source]
url = "rtsp://cam/live"
loop = true
pace = "max"
fps = 2
width = 1280
height = 720
fourcc = "MJPG"
stride = 1408
rtsp_transport = "udp"
open_timeout_s = 1
stall_timeout_s = 2
frozen_timeout_s = 3
[pipeline.gate-2]
model = "n"
source = "x"
plain = { output = { decoder = "classify" }, labels_file = "l.txt" }
"""
    )
    assert (config.device, config.state_dir, config.log_level) == ("pi-7", "/var/lib/v", "debug")
    assert config.mqtt.root == "plant-7/vedette" and config.mqtt.port == 8883
    assert config.outbox == OutboxConfig(max_messages=5, max_bytes=100000, when_full="drop_newest", replay_age_s=3.0)
    assert config.engine.threads == 4
    door = config.pipelines["door"]
    assert (door.threshold, door.thresholds, door.publish_empty) == (1.0, {"a": 0.5, "b c": 0.0}, False)
    assert door.source_config.frozen_timeout_s == 3.0
    assert (door.source_config.width, door.source_config.fourcc, door.source_config.stride) == (1280, "MJPG", 1408)
    plain = config.pipelines["gate-2"].plain
    assert plain is not None and plain.output == ClassifyOutput()


@pytest.mark.parametrize(
    ("text", "line", "key", "near"),
    [
        ("devise = 'x'\n" + DOOR, 1, "devise", "device"),
        ("[mqtt]\nhots = 'x'\n" + DOOR, 2, "mqtt.hots", "host"),
        ("mqtt.prt = 1\n" + DOOR, 1, "mqtt.prt", "port"),
        ("mqtt = { usrname = 'x' }\n" + DOOR, 1, "mqtt.usrname", "username"),
        ("[outbox]\n\n# a comment\nmax_mesages = 3\n" + DOOR, 4, "outbox.max_mesages", "max_messages"),
        ("[engine]\nthread = 3\n" + DOOR, 2, "engine.thread", "threads"),
        ("[intervals]\nstat_s = 3\n" + DOOR, 2, "intervals.stat_s", "stats_s"),
        (DOOR + "treshold = 0.5\n", 4, "pipeline.door.treshold", "threshold"),
        ("[pipeline.door]\nmodel='m'\n[pipeline.door.source]\nurl='x'\nlop = true\n", 5, "pipeline.door.source.lop", "loop"),
        (DOOR + "[pipeline.door.plain]\nlabel_file = 'x'\noutput = {decoder='classify'}\n", 5,
         "pipeline.door.plain.label_file", "labels_file"),
        (DOOR + "[mqtts]\n", 4, "mqtts", "mqtt"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_right_name(text: str, line: int, key: str, near: str) -> None:
    error = refused(text)
    assert error.problem == "unknown key"
    assert error.where == f"v.toml:{line}: {key}"
    assert error.fix == f"did you mean '{near}'?"
    assert near in str(error.expected)


def test_an_unknown_key_far_from_all_lists_what_there_is() -> None:
    error = refused("[engine]\nzzz = 1\n" + DOOR)
    assert error.fix == ""
    assert error.expected == "one of " + ", ".join(EngineConfig.__struct_fields__)


BAD_VALUES = [
    ("[mqtt]\nport = '1883'\n", "v.toml:2: mqtt.port", "whole number", "'1883'"),
    ("[mqtt]\nport = 0\n", "v.toml:2: mqtt.port", ">= 1", "0"),
    ("[mqtt]\nport = 65536\n", "v.toml:2: mqtt.port", "<= 65535", "65536"),
    (f"[mqtt]\nport = {10**30}\n", "v.toml:2: mqtt.port", "", "1000"),
    ("[mqtt]\nport = true\n", "v.toml:2: mqtt.port", "whole number", "True"),
    ("[mqtt]\nport = 1.5\n", "v.toml:2: mqtt.port", "whole number", "1.5"),
    ("[mqtt]\nhost = ''\n", "v.toml:2: mqtt.host", "a name or address", "''"),
    ("[mqtt]\nhost = 'mqtt://a'\n", "v.toml:2: mqtt.host", "a name or address alone", "a URL in it"),
    ("[mqtt]\nhost = 'a:1883'\n", "v.toml:2: mqtt.host", "a name or address alone", "a port in it"),
    ("[mqtt]\nhost = 'a..b'\n", "v.toml:2: mqtt.host", "a name or address", "'a..b'"),
    ("[mqtt]\nhost = '[::1]'\n", "v.toml:2: mqtt.host", "of IPv6 without brackets", "'[::1]'"),
    ("[mqtt]\nhost = 'me@a'\n", "v.toml:2: mqtt.host", "a name or address", "'me@a'"),
    ("[mqtt]\nhost = ['a']\n", "v.toml:2: mqtt.host", "text", "a list"),
    ("[mqtt]\nprotocol = '4'\n", "v.toml:2: mqtt.protocol", "'3.1.1'", "'4'"),
    ("[mqtt]\nprotocol = 5\n", "v.toml:2: mqtt.protocol", "text", "5"),
    ("[mqtt]\nroot = '/a'\n", "v.toml:2: mqtt.root", "levels of a topic", "'/a'"),
    ("[mqtt]\nroot = 'a/'\n", "v.toml:2: mqtt.root", "levels of a topic", "'a/'"),
    ("[mqtt]\nroot = 'a/#'\n", "v.toml:2: mqtt.root", "levels of a topic", "'a/#'"),
    ("[mqtt]\nroot = '+'\n", "v.toml:2: mqtt.root", "levels of a topic", "'+'"),
    ('[mqtt]\nroot = "a\\nb"\n', "v.toml:2: mqtt.root", "levels of a topic", r"a\nb"),
    *(
        (f'{table}\n{key} = "a{letter}"\n', f"v.toml:2: {table[1:-1]}.{key}", "levels of a topic", "")
        for table, key in (("[mqtt]", "root"), ("[home_assistant]", "prefix"))
        for letter in ("\\n", "\\u007f", "\\u0085", "\\ufdd0", "\\uffff", "\\U0001fffe", "\\U0010ffff")
    ),
    ('[mqtt]\nusername = "a\\n"\n', "v.toml:2: mqtt.username", "control characters", r"a\n"),
    ('[mqtt]\nusername = "\\ufffe"\n', "v.toml:2: mqtt.username", "noncharacters", r"ufffe"),
    ("[mqtt]\nroot = '$SYS'\n", "v.toml:2: mqtt.root", "levels of a topic", "$SYS"),
    ("[mqtt]\nroot = ''\n", "v.toml:2: mqtt.root", "levels of a topic", "''"),
    ("[mqtt]\ntls = 'yes'\n", "v.toml:2: mqtt.tls", "true or false", "'yes'"),
    ("[mqtt]\nkeepalive_s = 1\n", "v.toml:2: mqtt.keepalive_s", ">= 5", "1"),
    ("mqtt = 'broker'\n", "v.toml:1: mqtt", "table", "'broker'"),
    ("[[mqtt]]\npassword = 's3cret'\n", "v.toml:1: mqtt", "table", "a list"),
    ("[mqtt]\nusername = 'a'\npassword = 53\n", "v.toml:3: mqtt.password", "text", "a secret"),
    ("[outbox]\nwhen_full = 'block'\n", "v.toml:2: outbox.when_full", "'drop_oldest'", "'block'"),
    ("[outbox]\nmax_messages = 0\n", "v.toml:2: outbox.max_messages", ">= 1", "0"),
    ("[outbox]\nmax_bytes = 10\n", "v.toml:2: outbox.max_bytes", ">= 65536", "10"),
    ("[outbox]\nreplay_age_s = 0\n", "v.toml:2: outbox.replay_age_s", "> 0", "0"),
    ("[engine]\nruntime = 'tf'\n", "v.toml:2: engine.runtime", "'litert'", "'tf'"),
    ("[engine]\nthreads = 0\n", "v.toml:2: engine.threads", ">= 1", "0"),
    ("[intervals]\nstats_s = -1\n", "v.toml:2: intervals.stats_s", "> 0", "-1"),
    ("[intervals]\nstats_s = nan\n", "v.toml:2: intervals.stats_s", "", "nan"),
    ("[intervals]\nstats_s = inf\n", "v.toml:2: intervals.stats_s", "<= 86400", "inf"),
    ("log_level = 'loud'\n", "v.toml:1: log_level", "'debug'", "'loud'"),
    ("state_dir = ''\n", "v.toml:1: state_dir", "some text", "''"),
    ('state_dir = "a\\u0000b"\n', "v.toml:1: state_dir", "", "a"),
    ("state_dir = '~/v'\n", "v.toml:1: state_dir", "the whole path", "'~/v'"),
    ("state_dir = 3\n", "v.toml:1: state_dir", "text", "3"),
    ("device = 'a b'\n", "v.toml:1: device", "letters", "'a b'"),
    ("device = ''\n", "v.toml:1: device", "letters", "''"),
    ("device = 5\n", "v.toml:1: device", "letters", "5"),
    ('device = "a\\n"\n', "v.toml:1: device", "letters", r"'a\n'"),
]


@pytest.mark.parametrize(("text", "where", "expected", "found"), BAD_VALUES)
def test_a_bad_value_says_where_what_was_expected_and_what_was_found(
    text: str, where: str, expected: str, found: str
) -> None:
    error = refused(text + DOOR)
    assert error.problem == "bad value"
    assert error.where == where
    assert expected in str(error.expected)
    assert found in str(error), str(error)


@pytest.mark.parametrize(
    ("lines", "key", "expected", "found"),
    [
        ("threshold = 1e13", "threshold", "<= 1000000000000", "10000000000000.0"),
        ("threshold = -0.1", "threshold", ">= 0.0", "-0.1"),
        ("threshold = nan", "threshold", "", "nan"),
        ("threshold = 'high'", "threshold", "number", "'high'"),
        ("thresholds = { cat = 0.5, dog = 1.5 }", "thresholds.dog", "<= 1.0", "1.5"),
        ("thresholds = { cat = 'x' }", "thresholds.cat", "number", "'x'"),
        ("thresholds = { cat = nan }", "thresholds.cat", "", "nan"),
        ("thresholds = [0.5]", "thresholds", "table", "a list"),
        ("labels = 'cat'", "labels", "list", "'cat'"),
        ("labels = ['cat', 3]", "labels", "text", "3"),
        ("max_fps = -1", "max_fps", ">= 0", "-1"),
        ("max_fps = nan", "max_fps", "", "nan"),
        ("publish_empty = 1", "publish_empty", "true or false", "1"),
        ("plain = 'classify'", "plain", "table", "'classify'"),
        ("plain = { output = { decoder = 'ssdd' } }", "plain.output.decoder", "'ssd', ", "'ssdd'"),
        ("plain = { output = { decoder = 'yolo' }, input = { kind = 'x' } }", "plain.input.kind", "'image'", "'x'"),
    ],
)
def test_a_bad_value_in_a_pipeline(lines: str, key: str, expected: str, found: str) -> None:
    error = refused(DOOR + lines + "\n")
    assert error.problem == "bad value", error
    assert str(error.where).startswith(f"v.toml:4: pipeline.door.{key}")
    assert expected in str(error.expected)
    assert found in str(error)


@pytest.mark.parametrize(
    ("source", "key", "found"),
    [
        ("url = ''", "url", "''"),
        ("url = 'x'\npace = 'fast'", "pace", "'fast'"),
        ("url = 'x'\nfps = -1", "fps", "-1"),
        ("url = 'x'\nfourcc = 'MJP'", "fourcc", "MJP"),
        ("url = 'x'\nwidth = -1", "width", "-1"),
        ("url = 'x'\nfps = nan", "fps", "nan"),
        ("url = 'x'\nloop = 'yes'", "loop", "'yes'"),
        ("url = 'x'\nrtsp_transport = 'sctp'", "rtsp_transport", "'sctp'"),
        ("url = 'x'\nstall_timeout_s = 0", "stall_timeout_s", "0"),
        ("url = 'x'\nfrozen_timeout_s = -1", "frozen_timeout_s", "-1"),
    ],
)
def test_a_bad_value_in_a_source(source: str, key: str, found: str) -> None:
    error = refused(f"[pipeline.door]\nmodel = 'm'\n[pipeline.door.source]\n{source}\n")
    assert f"pipeline.door.source.{key}" in str(error.where)
    assert found in str(error)


@pytest.mark.parametrize(("url", "expected"), [("", "some text"), ("a\\u0000b", "some text"), ("a" * 2049, "<= 2048")])
def test_a_source_in_one_word_is_checked_as_its_table_is(url: str, expected: str) -> None:
    error = refused(f'[pipeline.door]\nmodel = "m"\nsource = "{url}"\n')
    assert (error.problem, error.where) == ("bad value", "v.toml:3: pipeline.door.source")
    assert expected in str(error.expected)


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        ("[pipeline.door]\nsource = 'x'\n", "v.toml:1: pipeline.door", "model = ..."),
        ("[pipeline.door]\nmodel = 'x'\n", "v.toml:1: pipeline.door", "source = ..."),
        ("[pipeline.door]\nmodel = 'x'\nsource = {}\n", "v.toml:3: pipeline.door.source", "url = ..."),
        (DOOR + "plain = {}\n", "v.toml:4: pipeline.door.plain", "output = ..."),
    ],
)
def test_a_missing_key_is_named(text: str, where: str, expected: str) -> None:
    error = refused(text)
    assert (error.problem, error.where, error.expected) == ("missing key", where, expected)


@pytest.mark.parametrize("text", ["", "device = 'x'\n", "pipeline = 3\n", "[pipeline]\n", "[[pipeline]]\nmodel='m'\n"])
def test_without_a_pipeline_there_is_nothing_to_run(text: str) -> None:
    assert refused(text).problem == "no pipeline"


@pytest.mark.parametrize("name", [*RESERVED, "'a b'", "'a/b'", "''", "'#'", "'" + "x" * 65 + "'", "'é'", '"a\\n"'])
def test_a_pipeline_needs_a_name_that_fits_a_topic(name: str) -> None:
    error = refused(f"[pipeline.{name}]\nmodel = 'm'\nsource = 'x'\n")
    assert error.problem == "bad pipeline name"


def test_a_pipeline_that_is_no_table() -> None:
    error = refused("[pipeline]\ndoor = 5\n")
    assert error.where == "v.toml:2: pipeline.door" and "table" in str(error.expected)


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("password = 's3cret'", "username"),
        ("password_file = 'f'", "username"),
        ("username = 'u'\npassword = 's3cret'\npassword_file = 'f'", "password"),
        ("ca_file = 'f'", "ca_file"),
    ],
)
def test_what_does_not_go_together_in_mqtt(lines: str, key: str) -> None:
    error = refused(f"[mqtt]\n{lines}\n{DOOR}")
    assert str(error.where).endswith(f"mqtt.{key}")
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "9" * 5000,
        "a = [" * 5000,
        "a" * 100,
        "[mqtt\nhost = 1\n",
        "a = 1\na = 2\n",
        b"\xff\xfe = 1",
        b"a = '\xe9'",
        b"\xef\xbb\xbf\xe9",
        "a = '\x00'",
    ],
)
def test_what_is_no_toml_is_one_line(text: str | bytes) -> None:
    assert refused(text).problem in ("no TOML", "no text")


@pytest.mark.parametrize("url", ["rtsp://admin:s3cret@cam/" + "x" * 3000, "http://admin:s3cret@cam/?" + "y" * 2100])
def test_a_cameras_password_is_not_repeated_by_the_error_about_its_url(url: str) -> None:
    error = refused(f"[pipeline.door]\nmodel='m'\n[pipeline.door.source]\nurl = '{url}'\n")
    assert "s3cret" not in str(error)
    assert len(str(error)) < 500
    error = refused(f"[pipeline.door]\nmodel='m'\nsource = ['{url}']\n")
    assert "s3cret" not in str(error)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            load_config(path)
        assert str(path) in str(caught.value)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    path.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="too large"):
        load_config(path)


def test_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    for mark in ("", "\ufeff"):  # of a byte order, as editors of another system write it
        path.write_text(mark + DOOR, "utf-8")
        assert load_config(path) == parse(DOOR)
        assert Places.of(path).at(("pipeline", "door")) == f"{path}:1: pipeline.door"


def test_the_device_name_fits_a_topic_and_does_not_give_the_machine_id_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "gethostname", lambda: "rasp berry_pi.local")
    assert re.fullmatch(r"rasp-berry_pi-[0-9a-f]{6}", default_device())
    monkeypatch.setattr(socket, "gethostname", lambda: "x" * 200)
    assert len(default_device()) <= 64
    machine_id = Path("/etc/machine-id")
    if machine_id.is_file() and machine_id.read_text().strip():
        assert default_device().rsplit("-", 1)[1] not in machine_id.read_text()


def test_the_state_folder_is_systemds_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/vedette:/var/lib/other")
    assert default_state_dir() == "/var/lib/vedette"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    assert default_state_dir() == "/x/state/vedette"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert default_state_dir() == "/home/anna/.local/state/vedette"


def test_whoever_is_the_services_user_looks_at_the_services_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    [home] = re.findall(r'^u vedette .*" (\S+)$', (SYSTEMD / "vedette.sysusers.conf").read_text(), re.M)
    unit = (SYSTEMD / "vedette.service").read_text()
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    assert default_state_dir() == home == f"/var/lib/{re.findall('^StateDirectory=(.*)', unit, re.M)[0]}"


def test_the_password_file_is_read_without_mark_and_newline_and_must_be_one(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    config = parse(f"device = 'd'\n[mqtt]\nusername = 'u'\npassword_file = '{file}'\n{DOOR}")
    options = link_options(config)
    assert (options.username, options.password_file, options.client_id) == ("u", str(file), "vedette-d")
    assert read_password(options.password_file) == "s3cret"
    for content in (None, b"\n", b"\xff\xfe", b"x" * 2000):
        file.unlink(missing_ok=True)
        if content:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match="password"):
            link_options(config)


def check(raw: bytes) -> None:
    try:
        config = parse_config(raw, PATH)
    except ConfigError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(config, Config)


@settings(max_examples=300)
@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"[pipeline.door]\nsource='x'\nmodel=" + b"9" * 5000)
def test_any_bytes_are_a_configuration_or_one_line(raw: bytes) -> None:
    check(raw)


VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
        st.sampled_from(["5", "auto", "max", "classify", "ssd", "drop_newest", 0.5, 1883]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)  # fmt: skip
KEYS = st.sampled_from(
    [
        *MqttConfig.__struct_fields__, *OutboxConfig.__struct_fields__, *PipelineConfig.__struct_fields__,
        *SourceConfig.__struct_fields__, "decoder", "output", "input", "height", "width", "mean", "kind", "nonsense",
        "a.b", "", "a b",
    ]
)  # fmt: skip


def toml(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(repr(value), repr(value))
    return json.dumps(value) if isinstance(value, str) else str(value)


TABLE = st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(KEYS, VALUES, max_size=3)), max_size=4)


@settings(max_examples=400)
@given(
    table=st.sampled_from(["", "mqtt", "outbox", "engine", "intervals", "pipeline.door", "pipeline.door.source"]),
    content=TABLE,
)
@example(table="pipeline.door", content={"thresholds": {"a.b": 3}})
@example(table="pipeline.door", content={"source": {"url": 3}})
def test_any_toml_is_a_configuration_or_one_line(table: str, content: dict[str, Any]) -> None:
    lines = "".join(f"{toml(str(key))} = {toml(value)}\n" for key, value in content.items())
    head = f"[{table}]\n" if table else ""
    raw = f"{head}{lines}".encode("utf-8", "replace")
    check(raw)
    full = f"{lines}{DOOR}" if not table else f"{DOOR if 'pipeline' not in table else ''}{head}{lines}"
    check(full.encode("utf-8", "replace"))


def test_the_configurations_own_examples_are_toml() -> None:
    assert tomllib.loads(DOOR)
    assert os.fspath(PATH) == "v.toml"
