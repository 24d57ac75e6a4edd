"""What the wheel carries: every shipped bundle, the clip, the example configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "shared-data"
]


def test_every_bundle_is_shipped() -> None:
    bundles = {f"models/{path.name}" for path in (ROOT / "models").glob("*.tflite")}
    assert bundles
    assert bundles <= set(SHARED)


def test_what_is_shipped_is_there() -> None:
    assert all((ROOT / path).exists() for path in SHARED)
    assert (ROOT / "examples/media/people-walking.mp4").stat().st_size < 1_000_000
