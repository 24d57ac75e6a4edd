"""Fixtures of the agent's tests; the parts they are made of stand in ``real.py``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from real import BrokerAddress

from vedette.demo.broker import loopback_broker


@pytest.fixture
def broker() -> Iterator[BrokerAddress]:
    """Mosquitto, or the broker inside iotcore where there is none (or VEDETTE_TEST_BROKER=iotcore asks for it)."""
    with loopback_broker(os.environ.get("VEDETTE_TEST_BROKER", "auto")) as (name, port):
        yield BrokerAddress(name, port)


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    """Labels of the tiny classifier."""
    path = tmp_path / "labels.txt"
    path.write_text("ash\nbirch\ncedar\nelm\n")
    return path
