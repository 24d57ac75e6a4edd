"""What systemd hears over its socket, whatever the status says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_agent import SYSTEMD_BYTES, Supervisor

from vedette.service.notify import Notifier


class Systemd:
    """An agent's notifier, and a supervisor that hears it."""

    def __init__(self, folder: Path) -> None:
        self.supervisor = Supervisor(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NOTIFY_SOCKET", self.supervisor.address)
            self.notifier = Notifier()

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.notifier._socket is not None
        self.notifier._socket.close()
        self.supervisor.__exit__()

    def heard(self, status: str) -> str:
        """What is made of this status, once the watchdog was fed beside it."""
        self.notifier.send(WATCHDOG="1", status=status)
        assert self.supervisor.wait("WATCHDOG") == {"WATCHDOG": "1"}, "on its own, so that nothing takes it along"
        return self.supervisor.wait_status("")


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    with Systemd(tmp_path_factory.mktemp("systemd")) as one:
        yield one


@pytest.mark.parametrize("letter", ["x", "é", "車", "\N{GRINNING FACE}"])
def test_a_status_of_any_length_is_heard_as_far_as_there_is_room(systemd: Systemd, letter: str) -> None:
    for ahead in range(4):  # so that each byte of a letter comes to lie at the end of the room
        status = "x" * ahead + letter * 5000
        said = systemd.heard(status)
        assert said.endswith(" ...") and status.startswith(said.removesuffix(" ..."))
        assert SYSTEMD_BYTES - 4 < len(f"STATUS={said}".encode()) <= SYSTEMD_BYTES


@pytest.mark.parametrize("status", ["ready; door: 12 frames", "é" * ((SYSTEMD_BYTES - len("STATUS=")) // 2)])
def test_a_status_that_fits_is_heard_as_it_is(systemd: Systemd, status: str) -> None:
    assert systemd.heard(status) == status


@given(status=st.text(st.characters(exclude_categories=[]), max_size=200))
def test_no_status_says_more_than_a_status(systemd: Systemd, status: str) -> None:
    """Neither a second line, which would be a field of its own, nor what is no UTF-8."""
    assert systemd.heard(f"{status}\nWATCHDOG=trigger\x00").isprintable()
