"""How network cameras are opened and lost: nobody waits for another, and what is back is soon found."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from camera import CameraServer, Pusher
from real import DEADLINE_S
from test_sources import SECRET, Watched, stream

from vedette import clock
from vedette.contract.errors import SourceLostError, SourceStalledError
from vedette.demo.broker import LOOPBACK, free_port
from vedette.sources import Outcome, Source, SourceOptions, make_source
from vedette.sources import stream as stream_module
from vedette.sources.stream import StreamSource
from vedette.sources.supervise import BACKOFF_MAX_S, BACKOFF_MIN_S, SourceThread

ANSWER_S = 0.5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is found out sooner."""
    monkeypatch.setattr(stream_module, "ANSWER_S", ANSWER_S)


@pytest.fixture
def camera() -> Iterator[CameraServer]:
    with CameraServer() as server:
        yield server


class Silent:
    """Takes connections and says nothing."""

    def __enter__(self) -> Silent:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self._taken: list[socket.socket] = []
        return self

    def taken(self, count: int) -> None:
        """Waits for so many connections."""
        while len(self._taken) < count:
            self._taken.append(self._listener.accept()[0])

    def __exit__(self, *_: object) -> None:
        for connection in (*self._taken, self._listener):
            connection.close()


def opening(source: Source) -> threading.Thread:
    """A try to open it, on a thread of its own."""

    def give_up() -> None:
        with contextlib.suppress(SourceLostError):
            source.open()

    thread = threading.Thread(target=give_up)
    thread.start()
    return thread


def test_a_silent_camera_keeps_no_other_from_being_opened(camera: CameraServer) -> None:
    """OpenCV opens one stream at a time."""
    with Silent() as silent, Pusher(camera):
        source = make_source(SourceOptions(f"rtsp://{LOOPBACK}:{silent.port}/live", open_timeout_s=DEADLINE_S))
        for number in range(3):
            thread = opening(source)
            silent.taken(number + 1)
            with Watched(stream(camera)) as watched:
                watched.frame()
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "it did not wait for OpenCV's answer"


def test_an_http_camera_is_asked_first_once_it_was_silent() -> None:
    with Silent() as silent:
        source = make_source(SourceOptions(f"http://{LOOPBACK}:{silent.port}/video", open_timeout_s=ANSWER_S))
        with pytest.raises(SourceLostError, match="cannot be opened"):
            source.open()
        for _ in range(2):
            with pytest.raises(SourceLostError, match=r"does not answer: found silence for 0\.5 s"):
                source.open()


def test_an_http_camera_that_serves_one_connection_is_not_asked(camera: CameraServer) -> None:
    """As ``ffmpeg -listen 1`` does; and where asking took the one there was, the next try goes without."""
    source = make_source(SourceOptions(camera.url, open_timeout_s=DEADLINE_S))
    assert isinstance(source, StreamSource)
    connections: list[str] = []
    camera.on_connection = connections.append
    with Pusher(camera):
        source.open()
        source.close()
        assert connections == ["GET"]
        source._was_silent = True
        for _ in range(2):
            source.open()
            source.close()
        assert connections == ["GET", "HEAD", "GET", "GET"]


def test_what_the_decoder_had_left_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grab that is given up at the end of its time hands out a frame of before the stall."""
    now = [0.0]

    class Capture:
        def grab(self) -> bool:
            now[0] += 2.0
            return True

    source = StreamSource(SourceOptions("rtsp://camera/live", read_timeout_s=2.0))
    source._capture = Capture()  # type: ignore[assignment]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.raises(SourceStalledError, match="no frame for 2 s"):
        source.read(None)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (f"rtsp://admin:{SECRET}@{LOOPBACK}:PORT/live?pwd={SECRET}", "Connection refused"),
        ("rtsp://camera.invalid/live", "[Nn]ame"),
    ],
)
def test_a_camera_that_cannot_be_reached_is_a_loss_that_says_why(url: str, found: str) -> None:
    source = make_source(SourceOptions(url.replace("PORT", str(free_port()))))
    with pytest.raises(SourceLostError, match=f"cannot be reached: found .*{found}") as caught:
        source.open()
    assert SECRET not in str(caught.value)


class Pauses(threading.Event):
    """Notes how long is waited, and waits for nothing."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._most = most

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        if len(self.seconds) == self._most:
            self.set()
        return self.is_set()


class Away:
    """Cannot be opened, and takes its time to say so."""

    live = endless = True

    def __init__(self, tries_s: list[float]) -> None:
        self.now_ns = 0
        self._tries_s = iter(tries_s)

    def open(self) -> None:
        self.now_ns += int(next(self._tries_s) * 1e9)
        raise SourceLostError("away")

    def close(self) -> None:
        """Nothing is open."""


class Tried(SourceThread):
    """Never gets to read."""

    def _read_to_end(self) -> tuple[Outcome, str]:
        raise AssertionError

    def _no_more(self) -> None:
        """Nobody waits."""


def test_a_pause_is_from_the_beginning_of_one_try_to_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 10.0])
    monkeypatch.setattr(clock, "now_ns", lambda: away.now_ns)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    thread = Tried(away, name="away", thing="frame", stall_timeout_s=60.0, on_change=lambda *_: None)
    pauses = thread._stop = Pauses(7)
    thread.start()
    thread._thread.join(DEADLINE_S)
    assert pauses.seconds[:4] == [BACKOFF_MIN_S, 2 * BACKOFF_MIN_S, BACKOFF_MAX_S, BACKOFF_MAX_S]
    assert pauses.seconds[5:] == [BACKOFF_MAX_S - 1.0, BACKOFF_MIN_S]
