"""Certificates as OpenSSL makes them: signed by the test's authority, of any time, with any name."""

from __future__ import annotations

import subprocess
from pathlib import Path

CONFIG = """
[ca]
default_ca = here
[here]
dir = {folder}
new_certs_dir = {folder}
database = {folder}/{name}.index
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = names
unique_subject = no
[any]
commonName = supplied
[names]
subjectAltName = DNS:localhost
"""


def issue(
    authority: Path, folder: Path, name: str, *, common_name: str = "", ca: str = "ca",
    start: str = "", end: str = "", days: int = 2,
) -> tuple[Path, Path]:  # fmt: skip
    """``name.pem`` and ``name.key``, signed by ``ca.pem`` of the authority. ``start``, ``end``: as 20200101000000Z."""
    certificate, key, request = (folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
    config = folder / f"{name}.cnf"
    config.write_text(CONFIG.format(folder=folder, name=name))
    (folder / f"{name}.index").write_text("")
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={common_name or name}", "-keyout", key, "-out", request
    )
    times = ["-startdate", start] if start else []
    times += ["-enddate", end] if end else ["-days", days]
    openssl("ca", "-batch", "-config", config, "-cert", authority / f"{ca}.pem", "-keyfile", authority / f"{ca}.key",
            "-in", request, "-out", certificate, "-notext", *times)  # fmt: skip
    for file in (certificate, key):
        file.chmod(0o644)
    return certificate, key


def openssl(*arguments: object) -> bytes:
    """Runs it; what it printed."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
