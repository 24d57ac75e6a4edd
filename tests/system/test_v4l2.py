"""``v4l2://`` on a real /dev/video0: the kernel's own test driver, vivid, in a guest of qemu."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import v4l2_checks
from guest import Outcome, run_in_guest, why_not

CHECKS = [name.removeprefix("check_") for name in vars(v4l2_checks) if name.startswith("check_")]
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One guest for all checks: most of its time is starting up."""
    reason = why_not("vivid")
    if reason:
        pytest.skip(reason)
    outcome = run_in_guest(
        tmp_path_factory.mktemp("guest"),
        [sys.executable, "-B", str(Path(v4l2_checks.__file__).resolve())],
        modules=["vivid"],
        environment={"OPENCV_LOG_LEVEL": "SILENT", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout_s=240,
    )
    print(outcome.text)
    return outcome


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", CHECKS)
def test_in_the_guest(guest: Outcome, check: str) -> None:
    verdict = re.search(rf"^CHECK {check} (\w+)", guest.text, re.MULTILINE)
    assert verdict and verdict[1] == "passed", guest.text[-6000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_else_went_wrong_in_the_guest(guest: Outcome) -> None:
    assert guest.exit_code == 0, guest.text[-6000:]
