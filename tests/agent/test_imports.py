"""The agent never drags in the converter or TensorFlow: seen in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

# also what the contract must not need; cv2 and numpy are its only heavy imports
FORBIDDEN = ("tensorflow", "keras", "tf_keras", "vedette_converter")
NOT_IN_CONTRACT = (*FORBIDDEN, "ai_edge_litert", "tflite_runtime", "paho", "rich", "vedette.engine", "vedette.sources")

WALK = """
import importlib, pkgutil, sys
names = []
for root in sys.argv[2:]:
    package = importlib.import_module(root)
    names += [root, *(m.name for m in pkgutil.walk_packages(package.__path__, root + "."))]
for name in names:
    if name.rpartition(".")[2] not in ("__main__", "cli"):
        importlib.import_module(name)
forbidden = sys.argv[1].split(",")
print(len(names), sorted(m for m in sys.modules if any(m == f or m.startswith(f + ".") for f in forbidden)))
"""


def walk(forbidden: tuple[str, ...], *packages: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WALK, ",".join(forbidden), *packages],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, _, found = done.stdout.strip().partition(" ")
    return int(count), found


def test_the_contract_is_pure() -> None:
    count, found = walk(NOT_IN_CONTRACT, "vedette.contract")
    assert count >= 13
    assert found == "[]"


def test_the_engine_needs_no_tensorflow() -> None:
    count, found = walk(FORBIDDEN, "vedette.contract", "vedette.engine")
    assert count >= 20
    assert found == "[]"


def test_the_whole_agent_needs_no_tensorflow() -> None:
    # the agent's own packages must be there to be walked
    for needed in ("paho", "rich"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    _, found = walk(FORBIDDEN, "vedette")
    assert found == "[]"


def test_the_walk_would_notice() -> None:
    assert "'vedette.engine'" in walk(("vedette.engine",), "vedette.engine")[1]


# what an agent has no use for until it is told to: other commands, tuning, signatures, picture files, single sources
SPARED = (
    "rich", "imagesize", "nacl", "serial", "picamera2", "vedette.models.tune", "vedette.monitor", "vedette.doctor",
    "vedette.demo", "vedette.cli.bench", "vedette.cli.watch", "vedette.pictures.latency_plot", "xml", "asyncio",
)  # fmt: skip
START = """
import sys
from vedette.cli import main
try:
    main(["run", "-c", "/nowhere"])
finally:
    import vedette.service.service, ai_edge_litert.interpreter
    spared = sys.argv[1].split(",")
    print(sorted({s for s in spared for m in sys.modules if m == s or m.startswith(s + ".")}))
"""


def test_an_agent_imports_only_what_it_needs() -> None:
    for needed in ("paho", "ai_edge_litert"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", START, ",".join(SPARED)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
