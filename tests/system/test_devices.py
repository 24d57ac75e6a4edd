"""Devices that only a kernel can make, in a guest of qemu: a camera (its test driver vivid), one of USB, meters of power."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import guest_checks
import power_checks
import pytest
import usb_camera
import uvc_checks
import v4l2_checks
from guest import Outcome, run_in_guest, why_not

MODULES = (v4l2_checks, uvc_checks, power_checks)
CHECKS = [name.removeprefix("check_") for module in MODULES for name in vars(module) if name.startswith("check_")]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One guest for all checks: most of its time is starting up."""
    modules = ["vivid", *usb_camera.MODULES, *power_checks.MODULES]
    reason = why_not(*(name.split(" ")[0] for name in modules))
    if reason:
        pytest.skip(reason)
    outcome = run_in_guest(
        tmp_path_factory.mktemp("guest"),
        [sys.executable, "-B", str(Path(guest_checks.__file__).resolve()), *(module.__name__ for module in MODULES)],
        modules=modules,
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
