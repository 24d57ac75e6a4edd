"""Passwords and certificates, against a real broker that asks for them."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from certificates import issue, openssl
from hypothesis import given
from hypothesis import strategies as st
from real import (
    DEADLINE_S,
    Agent,
    Mosquitto,
    agent_config,
    needs_mosquitto,
    run_cli,
    wait_for,
    write_pictures,
)
from test_link import CONNACK, Linked, put, row

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError
from vedette.demo.broker import LOOPBACK, free_port
from vedette.mqtt import LinkOptions
from vedette.mqtt.connection import check_credentials, try_connection
from vedette.trust.credentials import MAX_CERTIFICATE, MAX_PASSWORD, certificate_expires, days_left, read_password


@pytest.fixture(scope="module")
def device(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates for clients: good, stranger (another authority's), expired."""
    folder = tmp_path_factory.mktemp("device")
    issue(authority, folder, "good", common_name="dev-1", days=30)
    issue(authority, folder, "stranger", ca="other")
    issue(authority, folder, "expired", start="20200101000000Z", end="20200201000000Z")
    return folder


@pytest.fixture
def mutual(authority: Path, tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that wants a certificate of the authority from everyone."""
    lines = (
        f"allow_anonymous true\ncertfile {authority}/server.pem\nkeyfile {authority}/server.key\n"
        f"cafile {authority}/ca.pem\nrequire_certificate true\nuse_identity_as_username true\n"
    )
    with Mosquitto(tmp_path, lines) as mosquitto:
        yield mosquitto


def options(port: int, authority: Path, certificate: Path | None = None, **more: Any) -> LinkOptions:
    cert = {"cert_file": f"{certificate}.pem", "key_file": f"{certificate}.key"} if certificate else {}
    return LinkOptions("localhost", port, "c", tls=True, ca_file=str(authority / "ca.pem"), **{**cert, **more})


@needs_mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_certificate_opens_the_door(mutual: Mosquitto, authority: Path, device: Path, protocol: Any) -> None:
    right = options(mutual.port, authority, device / "good", protocol=protocol)
    assert "certificates valid for 2 more days" in try_connection(right)
    with Linked(
        mutual.port, **{name: getattr(right, name) for name in ("host", "tls", "ca_file", "cert_file", "key_file")}
    ) as linked:
        put(linked.outbox, 100)
        linked.wait_empty()
        assert row(linked.outbox).acknowledged == 100
        left = linked.link.certificate_days_left()
        assert left is not None and 1.9 < left <= 2, "the broker's own expires first"
    assert "u'dev-1'" in mutual.log.read_text()


@needs_mosquitto
def test_without_one_or_with_a_strangers_it_stays_shut_and_says_why(
    mutual: Mosquitto, authority: Path, device: Path
) -> None:
    for certificate in (None, device / "stranger"):
        with pytest.raises(BrokerRefusedError, match="does not accept this device's certificate") as caught:
            try_connection(options(mutual.port, authority, certificate))
        assert "mqtt.cert_file" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BrokerUnreachableError, match="this device's certificate has expired"):
        try_connection(options(mutual.port, authority, device / "expired"))


@needs_mosquitto
def test_a_renewed_certificate_counts_from_the_next_connection_on(
    mutual: Mosquitto, authority: Path, device: Path, tmp_path: Path
) -> None:
    for suffix in ("pem", "key"):
        shutil.copy(device / f"good.{suffix}", tmp_path / f"own.{suffix}")
    wanted = options(mutual.port, authority, tmp_path / "own")
    with Linked(
        mutual.port, **{n: getattr(wanted, n) for n in ("host", "tls", "ca_file", "cert_file", "key_file")}
    ) as linked:
        linked.wait_connected()
        for suffix in ("pem", "key"):
            (tmp_path / f"own.{suffix}").write_text("being written")
        put(linked.outbox)
        linked.wait_empty()
        assert linked.link.status().connections == 1, "a connection that is up stays up"
        mutual.kill()
        mutual.start()
        wait_for("the refusal", lambda: any("cannot be used" in alert for alert in linked.alerts))
        assert linked.link.refused is None
        issue(authority, tmp_path, "own", common_name="renewed", days=1)
        linked.wait_connected()
        put(linked.outbox)
        linked.wait_empty()
        left = linked.link.certificate_days_left()
        assert left is not None and 0.9 < left <= 1
    assert "u'renewed'" in mutual.log.read_text()


@needs_mosquitto
def test_a_password_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    users = tmp_path / "users"

    def allow(password: str) -> None:
        users.write_text(f"anna:{password}\n")
        users.chmod(0o700)
        subprocess.run(["mosquitto_passwd", "-U", users], check=True, capture_output=True)

    allow("first")
    with (
        Mosquitto(tmp_path, f"password_file {users}\n") as mosquitto,
        Linked(mosquitto.port, username="anna", password_file=str(file)) as linked,
    ):
        linked.wait_connected()
        mosquitto.kill()
        allow("second")
        mosquitto.start()
        wait_for("the refusal", lambda: any("refuses" in alert for alert in linked.alerts))
        file.write_text("second\n")
        linked.wait_connected()
        assert not any("first" in alert or "second" in alert for alert in linked.alerts)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff", b"x" * (MAX_PASSWORD + 1), None])
def test_password_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BrokerRefusedError, match="password") as caught:
        read_password(str(file))
    assert str(file) in str(caught.value) and "xxx" not in str(caught.value)


def test_a_password_file_has_an_end() -> None:
    with pytest.raises(BrokerRefusedError, match="more"):
        read_password("/dev/zero")


def test_certificates_and_keys_that_cannot_be_used(authority: Path, device: Path, tmp_path: Path) -> None:
    base = options(free_port(), authority, device / "good")
    openssl("pkey", "-in", device / "good.key", "-aes256", "-passout", "pass:x", "-out", tmp_path / "locked.key")
    (tmp_path / "empty.pem").touch()
    (tmp_path / "huge.pem").write_bytes(b"\n" * (MAX_CERTIFICATE + 1))
    for changes, expected in (
        ({"key_file": str(tmp_path / "locked.key")}, "encrypted"),
        ({"key_file": str(device / "stranger.key")}, "the key is another certificate's"),
        ({"key_file": ""}, "certificate and key cannot be used"),
        ({"cert_file": str(tmp_path / "missing.pem")}, "No such file"),
        ({"cert_file": str(tmp_path / "empty.pem")}, "certificate and key cannot be used"),
        ({"cert_file": str(tmp_path / "huge.pem")}, "too large"),
        ({"cert_file": "/dev/zero"}, "too large"),
        ({"cert_file": str(device / "good.key")}, "certificate and key cannot be used"),
    ):
        with pytest.raises(BrokerRefusedError, match=expected) as caught:
            check_credentials(replace(base, **changes))
        assert "\n" not in str(caught.value) and "mqtt." in str(caught.value)
    both = tmp_path / "both.pem"
    both.write_bytes((device / "good.pem").read_bytes() + (device / "good.key").read_bytes())
    check_credentials(replace(base, cert_file=str(both), key_file=""))


@needs_mosquitto
@pytest.mark.parametrize(
    ("start", "end", "said"),
    [("20200101000000Z", "20200201000000Z", "expired"), ("20990101000000Z", "20990201000000Z", "not yet valid")],
)
def test_a_certificate_of_another_time_is_tried_again_and_never_trusted(
    tmp_path: Path, authority: Path, start: str, end: str, said: str
) -> None:
    issue(authority, tmp_path, "server", common_name="localhost", start=start, end=end)
    lines = f"allow_anonymous true\ncertfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\n"
    with Mosquitto(tmp_path, lines) as mosquitto:
        wanted = options(mosquitto.port, authority)
        with pytest.raises(BrokerUnreachableError, match=said) as caught:
            try_connection(wanted)
        assert datetime.now(UTC).strftime("%Y-%m") in str(caught.value)
        assert ("not synchronised" in str(caught.value)) == (clock.clock_state() != "synced")
        with Linked(mosquitto.port, host="localhost", tls=True, ca_file=wanted.ca_file) as linked:
            wait_for("an attempt", lambda: linked.alerts)
            put(linked.outbox)
            assert linked.link.refused is None, "the agent would end"
            # the certificate is renewed, or the clock set: the same link connects by itself
            issue(authority, tmp_path, "server", common_name="localhost")
            mosquitto.kill()
            mosquitto.start()
            linked.wait_connected()
            linked.wait_empty()
        assert len([alert for alert in linked.alerts if said in alert]) == 1, "said once, not at each attempt"


def test_what_is_asked_for_by_alpn_is_what_the_broker_hears(authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    context.set_alpn_protocols(["http/1.1", "x-amzn-mqtt-ca"])
    heard: list[str | None] = []
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            for _ in range(2):
                peer, _ = server.accept()
                with context.wrap_socket(peer, server_side=True) as tls:
                    heard.append(tls.selected_alpn_protocol())
                    tls.recv(4096)
                    tls.sendall(CONNACK)
                    tls.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try_connection(options(port, authority, alpn=("x-amzn-mqtt-ca",)))
        try_connection(options(port, authority))
        thread.join(DEADLINE_S)
    assert heard == ["x-amzn-mqtt-ca", None]


# When certificates expire


def test_the_dates_are_openssls(authority: Path, device: Path, tmp_path: Path) -> None:
    issue(authority, tmp_path, "far", end="20991231235959Z")  # GeneralizedTime
    for file in (device / "good.pem", device / "expired.pem", authority / "ca.pem", tmp_path / "far.pem"):
        said = openssl("x509", "-in", file, "-noout", "-enddate").decode().strip().removeprefix("notAfter=")
        assert certificate_expires(str(file)) == ssl.cert_time_to_seconds(said)


def test_days_left_are_to_the_first() -> None:
    soon = time.time() + 86_400 * 3.5
    assert days_left(soon, time.time() + 86_400 * 9, None) == pytest.approx(3.5, abs=0.01)
    assert days_left(time.time() - 86_400) == pytest.approx(-1, abs=0.01)
    assert days_left(None, None) is None and days_left() is None


@given(content=st.binary(max_size=400), as_pem=st.booleans())
def test_no_bytes_crash_the_reader_of_dates(
    content: bytes, as_pem: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / f"fuzz-{os.getpid()}.pem"
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(content) + b"\n-----END CERTIFICATE-----\n"
    file.write_bytes(pem if as_pem else content)
    assert certificate_expires(str(file)) is None


@given(data=st.data())
def test_a_damaged_certificate_has_a_date_or_none(
    device: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert((device / "good.pem").read_text()))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(bytes(der)))
    assert certificate_expires(str(file)) is None or isinstance(certificate_expires(str(file)), float)


# Through configuration and agent


@needs_mosquitto
def test_an_agent_and_its_check_with_a_certificate(
    mutual: Mosquitto, authority: Path, device: Path, tmp_path: Path
) -> None:
    mqtt = (
        f'tls = true\nca_file = "{authority}/ca.pem"\ncert_file = "{device}/good.pem"\nkey_file = "{device}/good.key"'
    )
    config = agent_config(
        tmp_path, mutual.port, f'url = "{write_pictures(tmp_path / "pictures")}"\nloop = true\nfps = 20', mqtt=mqtt
    )
    config.write_text(config.read_text().replace(f'host = "{LOOPBACK}"', 'host = "localhost"'))
    checked = run_cli("check", "-c", config)
    assert checked.returncode == 0 and "more days" in checked.stdout, checked.stdout + checked.stderr
    with Agent(config) as agent:
        wait_for("a connection", lambda: "u'dev-1'" in mutual.log.read_text() and "ready" in agent.text())
    lines = config.read_text().replace(f'key_file = "{device}/good.key"', f'key_file = "{device}/stranger.key"')
    config.write_text(lines)
    refused = run_cli("check", "-c", config)
    assert refused.returncode == 2 and refused.stderr == ""
    [line] = [line for line in refused.stdout.splitlines() if line.startswith("bad")]
    assert f"{config}:" in line and "mqtt.cert_file" in line and "the key is another certificate's" in line
