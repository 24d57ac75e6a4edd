"""``bench/fuzz.py`` finds a bug that is planted, and says which."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLANTED = """
import vedette.config as config
parse = config.parse_config
def parse_config(raw, path):
    if raw.count(b"[") > 3:
        raise ZeroDivisionError("planted")
    return parse(raw, path)
config.parse_config = parse_config
"""


HANGS = """
import time, vedette.config as config
def parse_config(raw, path):
    time.sleep(1000)
config.parse_config = parse_config
"""


def fuzz(folder: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(code)
    command = [
        sys.executable,
        str(ROOT / "bench" / "fuzz.py"),
        "--inputs",
        "60",
        "--kept",
        str(folder / "kept"),
        *options,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=150, env={**os.environ, "PYTHONPATH": str(folder)}
    )


def test_what_is_planted_is_found_by_both(tmp_path: Path) -> None:
    done = fuzz(tmp_path, PLANTED, "--only", "configuration")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = {line.partition("  ")[0].rpartition(" ")[2]: line for line in done.stdout.splitlines()}
    assert "DOES NOT HOLD" in rows["hypothesis"] and "ZeroDivisionError: planted" in rows["hypothesis"]
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("no atheris: fuzzing that is led by coverage stays untested")
    assert "DOES NOT HOLD" in rows["atheris"] and "ZeroDivisionError: planted" in rows["atheris"]
    [crash] = (tmp_path / "kept" / "configuration" / "crashes").iterdir()
    assert crash.read_bytes().count(b"[") > 3


@pytest.mark.slow
def test_a_hang_is_a_find(tmp_path: Path) -> None:
    done = fuzz(tmp_path, HANGS, "--only", "configuration", "--hang", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = {line.partition("  ")[0].rpartition(" ")[2]: line for line in done.stdout.splitlines()}
    assert "an input took more than 1 s" in rows["hypothesis"]
    if "atheris" in rows and "not tried" not in rows["atheris"]:
        assert "DOES NOT HOLD" in rows["atheris"]


def test_a_corpus_grows_and_a_crash_is_tried_again(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    crashes = tmp_path / "kept" / "keys" / "crashes"
    crashes.mkdir(parents=True)
    (crashes / "crash-of-old").write_bytes(b"what once was one")
    done = fuzz(tmp_path, "", "--only", "keys")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "keys: malformed inputs by atheris" in done.stdout and "branches by what was known" in done.stdout
    assert len(list((tmp_path / "kept" / "keys" / "corpus").iterdir())) >= 4
