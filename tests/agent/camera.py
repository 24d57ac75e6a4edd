"""An HTTP camera of the standard library alone. As a program, ``camera.py PORT``, it is one that can be killed."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Callable

import cv2
import numpy as np

from vedette.demo.broker import LOOPBACK


class CameraServer:
    """MJPEG over HTTP, as many cameras speak it: pushes the parts that the test hands it."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[str] = []
        self._parts: list[bytes] = []
        self._changed = threading.Condition()
        self._hung_up = False
        self.status = 200
        self.asks_password = False
        self.greeting: list[bytes] = []
        """Pictures that whoever connects is sent first."""
        self.on_connection: Callable[[str], object] = str
        """Hears the method of each."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def parse_request(self) -> bool:
                parsed = super().parse_request()
                server.on_connection(self.command)
                return parsed

            def do_GET(self) -> None:
                server.requests.append(self.headers.get("Authorization", ""))
                if server.asks_password and not server.requests[-1]:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                self.send_response(server.status)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
                self.end_headers()
                if server.status == 200:
                    server.serve(self.wfile.write)

            def log_message(self, *_: object) -> None:
                """Not to stderr."""

        http.server.ThreadingHTTPServer.allow_reuse_address = True
        self._server = http.server.ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/video"

    def serve(self, write: Callable[[bytes], object]) -> None:
        sent = len(self._parts)
        for jpeg in self.greeting:
            write(part_of(jpeg))
        while True:
            with self._changed:
                while len(self._parts) == sent and not self._hung_up:
                    self._changed.wait(60)
                if self._hung_up:
                    return
                parts, sent = self._parts[sent:], len(self._parts)
            for part in parts:
                try:
                    write(part)
                except OSError:
                    return

    def push(self, grey: int) -> None:
        """One picture of one grey."""
        self.send(picture_of(grey))

    def send(self, jpeg: bytes) -> None:
        """Whatever it is, as a picture."""
        with self._changed:
            self._parts.append(part_of(jpeg))
            self._changed.notify_all()

    def hang_up(self) -> None:
        """Ends the connections that are open; new ones are taken."""
        with self._changed:
            self._hung_up = True
            self._changed.notify_all()

    def answer_again(self) -> None:
        """After `hang_up`."""
        self._hung_up = False

    def __enter__(self) -> CameraServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def part_of(jpeg: bytes) -> bytes:
    """Of the stream."""
    head = f"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
    return head + jpeg + b"\r\n"


def picture_of(grey: int, height: int = 64, width: int = 96) -> bytes:
    """One grey, as JPEG."""
    ok, jpeg = cv2.imencode(".jpg", np.full((height, width, 3), grey, np.uint8))
    assert ok
    return jpeg.tobytes()


class Pusher:
    """Keeps a camera moving at 50 frames a second: pictures of another grey each, unless it is frozen or stalled."""

    def __init__(self, camera: CameraServer) -> None:
        self.frozen = False
        self.stalled = False
        self._camera = camera
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.02):
            number += 0 if self.frozen else 1
            if not self.stalled:
                self._camera.push(20 + number % 10 * 20)

    def __enter__(self) -> Pusher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


if __name__ == "__main__":
    with CameraServer(int(sys.argv[1])) as _camera, Pusher(_camera):
        print("ready", flush=True)
        threading.Event().wait()
