"""A network camera as a program: JPEG over HTTP (multipart/x-mixed-replace), so many frames a second, coded beforehand.

Arguments: CLIP WIDTH HEIGHT FPS. Prints its port once it listens.
"""

from __future__ import annotations

import http.server
import sys
import time
from pathlib import Path

import cv2

from vedette.demo.broker import LOOPBACK

FRAMES = 60  # of the clip, again and again
QUALITY = 85  # of 4:2:2, as USB cameras have it; they are what is served like this


def coded(clip: Path, size: tuple[int, int]) -> list[bytes]:
    """The clip's first frames, each a part of the stream."""
    capture = cv2.VideoCapture(str(clip))
    parts = []
    options = [
        cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    ]  # fmt: skip
    while len(parts) < FRAMES:
        ok, frame = capture.read()
        if not ok:
            break
        _, data = cv2.imencode(".jpg", cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), options)
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        parts.append(head.encode() + data.tobytes() + b"\r\n")
    capture.release()
    return parts


def main() -> None:
    """See the module."""
    clip, width, height, fps = sys.argv[1:]
    parts = coded(Path(clip), (int(width), int(height)))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            due = time.monotonic()
            number = 0
            try:
                while True:
                    self.wfile.write(parts[number % len(parts)])
                    number += 1
                    due += 1 / float(fps)
                    time.sleep(max(0.0, due - time.monotonic()))
            except OSError:
                return  # who looked has gone

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
