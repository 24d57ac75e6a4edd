"""What the tests of loading share: a source for a file, and what a network gives for noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vedette_converter.load import Network, guess_source, load_network
from vedette_converter.source import read_source


def load(path: Path, shape: tuple[int, ...] | None = None, **changes: Any) -> Network:
    """As a command line without a recipe would; ``changes`` are fields of the source."""
    import msgspec

    source = msgspec.structs.replace(guess_source(path), **changes)
    return load_network(source, read_source(source, None), shape)


def noise(*shape: int, seed: int = 7) -> Any:
    """Standard normal, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def expect_close(found: Any, expected: Any, share: float = 1e-5) -> None:
    """Within a share of the largest expected value; the expected must not be all the same."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.ptp(expected) > 0
    assert np.abs(found - expected).max() <= share * np.abs(expected).max()
