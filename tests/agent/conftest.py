"""Fixtures of the agent's tests; the parts they are made of stand in ``real.py``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Mount
from real import BrokerAddress

from vedette.demo.broker import loopback_broker


@pytest.fixture
def broker() -> Iterator[BrokerAddress]:
    """Mosquitto, or the broker inside iotcore where there is none (or VEDETTE_TEST_BROKER=iotcore asks for it)."""
    with loopback_broker(os.environ.get("VEDETTE_TEST_BROKER", "auto")) as (name, port):
        yield BrokerAddress(name, port)


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    """Labels of the tiny classifier."""
    path = tmp_path / "labels.txt"
    path.write_text("ash\nbirch\ncedar\nelm\n")
    return path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a CA, a certificate of localhost signed by it, and another CA."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl: connections with TLS stay untested")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=test {name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    (folder / "san").write_text("subjectAltName=DNS:localhost\n")
    run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "san", "-out", "server.pem")  # fmt: skip
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)
    yield folder


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A place to mount a small disk at."""
    place = Mount(tmp_path / "disk")
    yield place
    place.unmount()
