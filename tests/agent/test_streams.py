"""Both programs, started with standard streams that are closed, full, or of a small alphabet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from real import BUNDLE, write_pictures

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def shell(command: str, module: str = "vedette", **environment: str) -> subprocess.CompletedProcess[str]:
    """``$V`` is the program."""
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "V": f"{sys.executable} -m {module}", **environment},
    )  # fmt: skip


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_fault(closed: str, tmp_path: Path) -> None:
    picture = next(write_pictures(tmp_path).iterdir())
    for words in ("show", f"infer {BUNDLE} {picture}"):
        outcome = shell(f"$V {words} {closed}")
        assert outcome.returncode == 0 and outcome.stderr == "", outcome
    assert shell(f"$V infer {BUNDLE} /nowhere.jpg {closed}").returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_onto_a_full_disk_is_one_line(unbuffered: str) -> None:
    outcome = shell("$V show >/dev/full", PYTHONUNBUFFERED=unbuffered)
    expected = "vedette: fault: output cannot be written: found No space left on device\n"
    assert (outcome.returncode, outcome.stderr) == (1, expected)


def test_what_an_alphabet_lacks_is_written_as_its_code(tmp_path: Path) -> None:
    [picture] = write_pictures(tmp_path, count=1).iterdir()
    picture = picture.rename(tmp_path / "Straße.png")
    outcome = shell(f"$V infer {BUNDLE} {picture}", **ASCII)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome
    outcome = shell(f"$V show {BUNDLE}", **ASCII)
    assert outcome.returncode == 0 and "\\u2026" in outcome.stdout, outcome
