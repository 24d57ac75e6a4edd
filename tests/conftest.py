"""What every room's tests share: where data lies that is no part of the repository, and how long hypothesis may take."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# what is dear to set up and used by several tests is set up once, so these run in one process: a guest with a kernel of its
# own, a booted machine, an emulated one, Home Assistant, a walk, what an agent said, a network trained and converted. By
# file: pytest-xdist 3.8 reads no `xdist_group` under pytest 9.2
TOGETHER: Final = {
    "tests/agent/test_discovery.py": "home-assistant",
    "tests/agent/test_follow_agent.py": "walk",
    "tests/agent/test_pump_and_door.py": "pump-and-door",
    "tests/agent/test_wire.py": "wire",
    "tests/converter/test_build.py": "build",
    "tests/converter/test_series_build.py": "series-build",
    "tests/converter/test_student.py": "student",
    "tests/converter/test_zoo_ssdlite.py": "ssdlite",
    "tests/system/test_arm64.py": "arm64",
    "tests/system/test_clock_set_for_real.py": "guest",
    "tests/system/test_systemd.py": "booted",
    "tests/system/test_devices.py": "guest",
}

# a shell starts what it runs in the background with SIGINT ignored, and programs inherit that: Ctrl-C stays untested then
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no deadline a single example: a busy machine is no failure; pytest-timeout bounds the test. The same examples at each run,
# so that what fails is what changed; `make properties` looks for others
EXAMPLES: Final = int(os.environ.get("VEDETTE_EXAMPLES", "0"))
settings.register_profile(
    "vedette",
    deadline=None,
    derandomize=not EXAMPLES,
    max_examples=EXAMPLES or 150,
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes the slow tests of a room come first: one that began last would keep one process busy alone.

    The machines come before all else. The converter stays behind the agent, whose tests are slowed by TensorFlow's many
    objects in their process.
    """

    def turn(item: pytest.Item) -> tuple[bool, str, bool]:
        room = item.path.relative_to(ROOT / "tests").parts[0]
        return room != "system", room, item.get_closest_marker("slow") is None

    if hasattr(config, "workerinput"):
        items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests go to whichever process is free, one by one, but for those that belong `TOGETHER`."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        """Scopes are single tests or the groups."""

        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER.get(nodeid.split("::")[0], nodeid)

    config.option.loadscopereorder = False  # or the groups would all be first, the converter's among them
    return Scheduler(config, log)
