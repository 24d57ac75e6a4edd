"""What every room's tests share: where data lies that is no part of the repository, and how long hypothesis may take."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# a shell starts what it runs in the background with SIGINT ignored, and programs inherit that: Ctrl-C stays untested then
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no deadline a single example: a busy machine is no failure; pytest-timeout bounds the test
settings.register_profile(
    "vedette",
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("vedette")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of pictures and networks beside the checkout; skips where there is none."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("../shared/data is absent")
    return path
