"""Secrets: files that others may read, and whether one ever shows in a log, an error, a message."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real import Agent, Mosquitto, Subscriber, agent_config, needs_mosquitto, run_cli, wait_for, write_pictures

from vedette.config import load_config
from vedette.service.compose import link_options
from vedette.trust.exposure import exposures

SECRETS = ("hunter2-broker", "hunter3-camera", "hunter4-query", "hunter5-file", "hunter6-wrong")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Below no folder that is closed to others, as pytest's own are."""
    path = Path(tempfile.mkdtemp(prefix="vedette-exposure-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def config_with(folder: Path, mqtt: str = "", url: str = "rtsp://10.0.0.1/stream", top: str = "") -> Path:
    path = agent_config(folder, 1883, f'url = "{url}"', mqtt=mqtt, top=top)
    path.chmod(0o600)
    return path


def lines(path: Path) -> list[str]:
    return exposures(load_config(path), path)


PASSWORD = 'username = "anna"\npassword = "x"'


def test_the_files_of_a_sensors_broker_are_looked_at_too(folder: Path) -> None:
    path = config_with(folder)
    for name in ("secret", "ca.pem", "own.pem", "own.key"):
        (folder / name).write_text("x")
        (folder / name).chmod(0o646)
    path.write_text(
        path.read_text().replace(
            'url = "rtsp://10.0.0.1/stream"',
            f'url = "mqtts://u@h/t"\npassword_file = "{folder}/secret"\nca_file = "{folder}/ca.pem"\n'
            f'cert_file = "{folder}/own.pem"\nkey_file = "{folder}/own.key"',
        )
    )
    found = "\n".join(lines(path))
    assert f"{folder}/secret: holds a password" in found and f"{folder}/own.key: holds a private key" in found
    assert f"{folder}/ca.pem: says which broker is trusted, and everybody on this computer may change it" in found


@pytest.mark.parametrize(
    ("mqtt", "url"),
    [
        (PASSWORD, "rtsp://10.0.0.1/stream"),
        ("", "rtsp://anna:x@10.0.0.1/stream"),
        ("", "http://10.0.0.1/video?user=anna&pwd=x"),
    ],
)
def test_a_configuration_with_a_password_must_not_be_everybodys(folder: Path, mqtt: str, url: str) -> None:
    path = config_with(folder, mqtt, url)
    assert lines(path) == []
    path.chmod(0o640)
    assert lines(path) == []
    path.chmod(0o644)
    assert lines(path) == [f"{path}: holds a password, and everybody on this computer may read it; chmod o-r {path}"]
    folder.chmod(0o750)
    assert lines(path) == [], "nobody else gets there"


def test_one_without_a_password_may_be_read_and_not_changed(folder: Path) -> None:
    path = config_with(folder, url="http://10.0.0.1/video?channel=1")
    path.chmod(0o644)
    assert lines(path) == []
    path.chmod(0o646)
    assert [re.sub(r"^\S+ ", "", line)[:20] for line in lines(path)] == ["is the configuration"]


def test_files_that_it_names(folder: Path) -> None:
    for name in ("password", "key.pem", "cert.pem", "ca.pem", "site.pub"):
        (folder / name).touch(0o600)
    (folder / "keys").mkdir()
    (folder / "keys" / "other.pub").touch(0o600)
    mqtt = (
        f'username = "a"\npassword_file = "{folder}/password"\ntls = true\nca_file = "{folder}/ca.pem"\n'
        f'cert_file = "{folder}/cert.pem"\nkey_file = "{folder}/key.pem"'
    )
    path = config_with(folder, mqtt, top=f'[trust]\nkeys = ["{folder}/site.pub", "{folder}/keys"]')
    assert lines(path) == []
    for name in ("password", "key.pem", "cert.pem", "ca.pem", "site.pub", "keys/other.pub"):
        (folder / name).chmod(0o646)
    said = lines(path)
    assert [Path(line.split(":")[0]).name for line in said] == [
        "password",
        "key.pem",
        "ca.pem",
        "site.pub",
        "other.pub",
    ]
    assert all("\n" not in line for line in said)
    (folder / "keys" / "other.pub").unlink()
    (folder / "password").unlink()
    assert len(lines(path)) == 3


def test_check_warns_and_passes(folder: Path) -> None:
    path = config_with(folder, PASSWORD, write_pictures(folder / "pictures").as_posix())
    path.chmod(0o644)
    done = run_cli("check", "--offline", "-c", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(line.startswith("warn") for line in done.stdout.splitlines()) == 1


def test_no_secret_shows_in_what_is_printed_of_a_configuration(tmp_path: Path) -> None:
    path = config_with(tmp_path, f'username = "anna"\npassword = "{SECRETS[0]}"')
    options = link_options(load_config(path))
    assert options.password == SECRETS[0]
    assert SECRETS[0] not in repr(options) and SECRETS[0] not in str(options)


@needs_mosquitto
@pytest.mark.parametrize("wrong", [False, True])
def test_no_secret_shows_in_logs_errors_or_messages(tmp_path: Path, wrong: bool) -> None:
    """Passwords of broker, cameras and files, at the most talkative level, with all of them right and all of them wrong."""
    users, file = tmp_path / "users", tmp_path / "secret"
    users.write_text(f"anna:{SECRETS[3]}\n")
    subprocess.run(["mosquitto_passwd", "-U", users], check=True, capture_output=True)
    users.chmod(0o700)
    file.write_text(SECRETS[4] if wrong else SECRETS[3])
    with Mosquitto(tmp_path, f"password_file {users}\n") as mosquitto:
        path = agent_config(
            tmp_path, mosquitto.port, f'url = "rtsp://anna:{SECRETS[1]}@127.0.0.1:9/s?token={SECRETS[2]}"',
            mqtt=f'username = "anna"\npassword_file = "{file}"', top='log_level = "debug"',
        )  # fmt: skip
        checked = run_cli("check", "-c", path)
        said = checked.stdout + checked.stderr
        assert "source" in said and "broker" in said
        if wrong:
            with Agent(path) as agent:
                assert agent.wait() == 2
            assert "refuses" in agent.text()
        else:
            options = {"username": "anna", "password": SECRETS[3]}
            with Subscriber(mosquitto.port, options=options) as subscriber, Agent(path) as agent:
                subscriber.wait("/stats", lambda stats: stats["source"]["why"])
                wait_for("a line about the camera", lambda: "source lost" in agent.text())
                said += "".join(f"{m.topic} {m.payload.decode()}" for m in subscriber.messages())
        said += agent.text()
    assert len(said) > 500
    assert [secret for secret in SECRETS if secret in said] == []


@pytest.mark.parametrize(
    "where", ["password = 17", 'password = "hunter2-broker"\nusername = 17', 'passwort = "hunter2-broker"']
)
def test_no_secret_shows_in_an_error_about_it(tmp_path: Path, where: str) -> None:
    path = agent_config(tmp_path, 1883, 'url = "rtsp://10.0.0.1/s"', mqtt=where)
    done = run_cli("check", "-c", path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr and "17" not in done.stderr.partition("password")[2]
