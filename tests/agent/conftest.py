"""Fixtures of the agent's tests; the parts they are made of stand in ``real.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real import BrokerAddress

from vedette.demo.broker import loopback_broker


@pytest.fixture
def broker() -> Iterator[BrokerAddress]:
    """Mosquitto, or the broker inside iotcore where there is none; both speak MQTT 3.1.1."""
    with loopback_broker() as (name, port):
        yield BrokerAddress(name, port)


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    """Labels of the tiny classifier."""
    path = tmp_path / "labels.txt"
    path.write_text("ash\nbirch\ncedar\nelm\n")
    return path
