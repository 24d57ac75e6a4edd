"""One published network in three formats: all give the same outputs.

``VEDETTE_BASIC_PITCH`` points to basic_pitch-0.4.0-py2.py3-none-any.whl (``pip download --no-deps basic-pitch==0.4.0``).
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from loading import load

from vedette_converter.load import onnx

FOLDER = "basic_pitch/saved_models/icassp_2022/"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with ``nmp/``, ``nmp.onnx`` and ``nmp.tflite``."""
    wheel = os.environ.get("VEDETTE_BASIC_PITCH")
    if not wheel:
        pytest.skip("VEDETTE_BASIC_PITCH does not point to basic_pitch-0.4.0-py2.py3-none-any.whl")
    folder = tmp_path_factory.mktemp("basic-pitch")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(FOLDER)])
    return folder / FOLDER


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nmp.tflite", "nmp.onnx"])
def test_the_formats_agree(tf: object, published: Path, name: str) -> None:
    if name.endswith(".onnx") and not os.environ.get(onnx.VARIABLE):
        pytest.skip(f"{onnx.VARIABLE} does not name an interpreter with onnx2tf=={onnx.PINNED}")
    saved, other = load(published / "nmp", outputs=("onset", "note", "contour")), load(published / name)
    assert saved.input.shape == other.input.shape == (1, 43844, 1)
    sample = np.random.default_rng(0).random(saved.input.shape).astype(np.float32)
    for a, b in zip(saved.run(sample), other.run(sample), strict=True):
        assert a.shape == b.shape and np.ptp(a) > 0.1
        assert np.abs(a - b).max() <= 1e-3 * np.abs(a).max()
