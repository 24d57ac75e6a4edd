"""How network cameras are opened and lost: nobody waits for another, and what is back is soon found."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from camera import CameraServer, Pusher
from real import DEADLINE_S
from test_sources import SECRET, Watched, stream

from vedette import clock
from vedette.contract.errors import SourceLostError, SourceStalledError
from vedette.demo.broker import LOOPBACK, free_port
from vedette.sources import Outcome, Source, SourceOptions, make_source
from vedette.sources import stream as stream_module
from vedette.sources.answer import NO_STREAM, Why, why_no_stream
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


# why there is no stream


@contextlib.contextmanager
def answering(*parts: bytes, pause_s: float = 0.0) -> Iterator[int]:
    """A server that sends these parts to whoever connects, whatever was asked, and hangs up."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # it is over
                # who has heard enough hangs up, and the next one is served
                with connection, contextlib.suppress(ConnectionError):
                    connection.recv(4096)
                    for part in parts:
                        connection.sendall(part)
                        time.sleep(pause_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE_S)


@pytest.mark.parametrize(
    ("url", "answer", "said"),
    [
        (
            "http://{}/x",
            "HTTP/1.1 401 Unauthorized",
            "found 401 Unauthorized; put the camera's user name and password into",
        ),
        (
            "http://a:b@{}/x",
            "HTTP/1.1 401 Unauthorized",
            "found 401 Unauthorized; look at the user name, the password and",
        ),
        ("http://a:b@{}/x", "HTTP/1.0 403", "found 403; look at the user name, the password and the path"),
        (
            "http://{}/x?pwd=" + SECRET,
            "HTTP/1.1 404 Not Found",
            "found 404 Not Found; look up the path of the camera's",
        ),
        ("http://{}", "HTTP/1.1 503 Too Many Users", "found 503 Too Many Users"),
        # a refusal's page, or a redirection's, is not what was asked for
        ("http://{}", "HTTP/1.1 503 Busy\r\nContent-Type: text/html", "found 503 Busy"),
        ("http://{}", "HTTP/1.1 302 Found\r\nContent-Type: text/html", "found no stream there"),
        ("http://{}", "HTTP/1.1 503 \x1b[31m\nx", r"found 503 \x1b[31m"),
        (
            "http://{}",
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8",
            "found text/html, which is no stream;",
        ),
        ("http://{}", "HTTP/1.1 200 OK\r\ncontent-type: video/x", "found no stream there"),
        ("http://{}", "HTTP/1.1 302 Found", "found no stream there"),
        (
            "rtsp://{}/x",
            "RTSP/1.0 401 Unauthorized",
            "found 401 Unauthorized; put the camera's user name and password into",
        ),
        ("rtsp://a:b@{}/x", "RTSP/1.0 404 Stream Not Found", "found 404 Stream Not Found; look up the path of the"),
        ("rtsp://{}/x", "RTSP/1.0 two hundred", "found no stream there"),
        ("rtsp://{}/x", "SSH-2.0-OpenSSH_9.2", "found no stream there"),
        ("rtsp://{}/x", "RTSP/1.0", "found no stream there"),
        ("rtsp://{}/x", "RTSP/1.0 200 OK\r\n" + "x: y\r\n" * 100_000, "found no stream there"),
    ],
)
def test_why_a_camera_has_no_stream_is_said(url: str, answer: str, said: str) -> None:
    with answering(f"{answer}\r\n\r\n".encode("latin-1")) as port:
        source = make_source(SourceOptions(url.format(f"{LOOPBACK}:{port}"), open_timeout_s=2.0))
        with pytest.raises(SourceLostError) as caught:
            source.open()
    assert f": cannot be opened: {said}" in str(caught.value)
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)


def test_an_answer_that_never_ends_is_not_waited_for() -> None:
    with answering(*[b"x"] * 100_000, pause_s=0.1) as port:  # hours of it
        assert why_no_stream(f"http://{LOOPBACK}:{port}/", 0.3) == Why("silence for 0.3 s")


def test_a_server_that_has_gone_is_said_to_be_gone() -> None:
    assert why_no_stream(f"rtsp://{LOOPBACK}:{free_port()}/", 0.3) == Why("Connection refused")
    source = make_source(SourceOptions(f"http://{LOOPBACK}:{free_port()}/x", open_timeout_s=2.0))
    with pytest.raises(SourceLostError, match="cannot be opened: found Connection refused"):
        source.open()


def test_a_server_without_tls_is_said_to_have_none() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        found, _ = why_no_stream(f"https://{LOOPBACK}:{port}/", 2.0)
    assert found.startswith("no stream there (") and "SSL" in found


def test_a_proxy_is_not_gone_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as port:
        assert why_no_stream(f"http://{LOOPBACK}:{port}/", 2.0) == NO_STREAM


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not to stderr."""


@pytest.mark.parametrize(
    ("file", "count", "found"), [("clip.avi", 5, "a file of 5 frames"), ("picture.jpg", 1, "a picture")]
)
def test_a_file_on_a_server_is_told_from_a_stream_that_breaks_off(
    tmp_path: Path, file: str, count: int, found: str
) -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "picture.jpg"), picture)
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (640, 480))
    for _ in range(5):
        writer.write(picture)
    writer.release()
    serve = http.server.ThreadingHTTPServer((LOOPBACK, 0), functools.partial(_Files, directory=tmp_path))
    threading.Thread(target=serve.serve_forever, args=(0.02,), daemon=True).start()
    try:
        source = make_source(SourceOptions(f"http://{LOOPBACK}:{serve.server_port}/{file}"))
        source.open()
        for _ in range(count):
            assert source.read(None) is not None
        with pytest.raises(SourceLostError, match=f"no stream: found {found}; give the path"):
            source.read(None)
        source.close()
    finally:
        serve.shutdown()
        serve.server_close()
