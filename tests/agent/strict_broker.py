"""A broker that says what Mosquitto cannot be made to say: reasons in PUBACK, small receive maxima and their enforcement,
slow acknowledgements. Written by hand after MQTT 5 and 3.1.1; everything else meets real brokers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Self

from vedette.demo.broker import LOOPBACK

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14
EXCEEDED = 0x93  # DISCONNECT: more at a time than the receive maximum (MQTT 5, section 3.14.2.1)
HANG_UP, SILENCE = -1, -2  # in a reason's place


@dataclass(frozen=True)
class Published:
    """One PUBLISH that came. ``connection``: which, from 1."""

    connection: int
    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass
class StrictBroker:
    """``answer``: the reason in PUBACK, or `HANG_UP`. ``receive_maximum``: told, and enforced. ``delay_s``: until PUBACK.
    ``refusal``: CONNACK's reason."""

    answer: Callable[[Published], int] = lambda published: 0
    receive_maximum: int = 0
    delay_s: float = 0.0
    refusal: int = 0
    published: list[Published] = field(default_factory=list)
    connections: int = 0
    exceeded: int = 0
    disconnects: list[int] = field(default_factory=list)
    """Reasons."""
    wills: int = 0
    """Connections that ended without DISCONNECT."""

    def __enter__(self) -> Self:
        self._server = socket.create_server((LOOPBACK, 0))
        self.port: int = self._server.getsockname()[1]
        self._peers: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for peer in list(self._peers):
            peer.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers.add(peer)
            self.connections += 1
            threading.Thread(target=self._serve, args=(peer, self.connections), daemon=True).start()

    def _serve(self, peer: socket.socket, number: int) -> None:
        stream = peer.makefile("rb")
        waiting: set[int] = set()
        try:
            if self._converse(peer, stream, number, waiting):
                return
        except OSError:
            pass
        finally:
            stream.close()
            peer.close()
            self._peers.discard(peer)
        self.wills += 1

    def _converse(self, peer: socket.socket, stream: BufferedReader, number: int, waiting: set[int]) -> bool:
        """Whether it ended with DISCONNECT, ours or theirs."""
        v5 = True
        while (packet := _packet(stream)) is not None:
            first, body = packet
            kind = first >> 4
            if kind == CONNECT:
                v5 = body[6] == 5
                told = struct.pack(">BH", 0x21, self.receive_maximum) if v5 and self.receive_maximum else b""
                answer = bytes([0, self.refusal]) + (bytes([len(told)]) + told if v5 else b"")
                peer.sendall(bytes([0x20, len(answer)]) + answer)
                if self.refusal:
                    return True
            elif kind == PUBLISH:
                published, mid = _publish(first, body, v5, number)
                self.published.append(published)
                if mid:
                    waiting.add(mid)
                    if self.receive_maximum and len(waiting) > self.receive_maximum:
                        self.exceeded += 1
                        peer.sendall(bytes([0xE0, 1, EXCEEDED]))
                        return True
                    reason = self.answer(published)
                    if reason == HANG_UP:
                        return False
                    if reason != SILENCE:
                        self._acknowledge(peer, mid, reason, waiting)
            elif kind == SUBSCRIBE:
                peer.sendall(bytes([0x90, 4, *body[:2], 0, 1]) if v5 else bytes([0x90, 3, *body[:2], 1]))
            elif kind == PINGREQ:
                peer.sendall(b"\xd0\0")
            elif kind == DISCONNECT:
                self.disconnects.append(body[0] if body else 0)
                return True
        return False

    def _acknowledge(self, peer: socket.socket, mid: int, reason: int, waiting: set[int]) -> None:
        def send() -> None:
            waiting.discard(mid)
            end = struct.pack(">HB", mid, reason) if reason else struct.pack(">H", mid)
            try:
                peer.sendall(bytes([0x40, len(end)]) + end)
            except OSError:
                return  # it has gone

        if not self.delay_s:
            send()
            return
        timer = threading.Timer(self.delay_s, send)
        timer.daemon = True
        timer.start()

    def topics(self, ending: str) -> list[Published]:
        """What was published on such topics."""
        return [one for one in list(self.published) if one.topic.endswith(ending)]


def _packet(stream: BufferedReader) -> tuple[int, bytes] | None:
    """The first byte and what follows the length; None at the end."""
    first = stream.read(1)
    if not first:
        return None
    length = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            return None
        length |= (byte[0] & 127) << shift
        shift += 7
        if not byte[0] & 128:
            break
    body = stream.read(length)
    return (first[0], body) if len(body) == length else None


def _publish(first: int, body: bytes, v5: bool, number: int) -> tuple[Published, int]:
    (length,) = struct.unpack_from(">H", body)
    topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
    qos, mid = (first >> 1) & 3, 0
    if qos:
        mid, rest = struct.unpack_from(">H", rest)[0], rest[2:]
    if v5:
        rest = rest[1 + rest[0] :]  # properties, of which there are few
    return Published(number, topic, rest, qos, bool(first & 1)), mid
