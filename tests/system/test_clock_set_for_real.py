"""An agent while the kernel's own clock is set, in a guest of qemu: this machine's is not ours to set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import clock_checks
import pytest
from guest import run_in_guest, why_not

from vedette.demo.broker import mosquitto_path

DATA = Path(__file__).resolve().parents[1] / "contract" / "data"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_kernels_clock_is_set_under_an_agent(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    reason = why_not() or (None if mosquitto_path() else "needs mosquitto")
    if reason:
        pytest.skip(f"{reason}: a kernel whose clock is set stays untried")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(1)
    for number in range(3):
        cv2.imwrite(str(pictures / f"{number}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    (tmp_path / "labels.txt").write_text("ash\nbirch\ncedar\nelm\n")
    outcome = run_in_guest(
        tmp_path,
        [
            sys.executable, "-B", str(Path(clock_checks.__file__).resolve()), str(DATA / "tiny-uint8.tflite"),
            str(tmp_path / "labels.txt"), str(pictures), str(mosquitto_path()),
        ],
        modules=[],
        environment={"OPENCV_LOG_LEVEL": "SILENT", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout_s=360,
    )  # fmt: skip
    print(outcome.text)
    assert outcome.exit_code == 0, outcome.text[-6000:]
