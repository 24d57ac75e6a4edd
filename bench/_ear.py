"""A subscriber that costs the machine it measures next to nothing.

Whoever listens on the same few cores takes from whom it listens to, and a subscriber is elsewhere in life. So this one only
reads the socket, and notes when; what was said is taken apart when somebody asks for it. It speaks as much of MQTT 3.1.1 as
that needs: CONNECT, one SUBSCRIBE at QoS 0, and no packet afterwards.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Final

from vedette import clock
from vedette.demo.broker import LOOPBACK

ANSWER_S: Final = 10.0
# a clean session; a keep-alive of 18 hours, for it never speaks (rumqttd, which iotcore has inside, takes none at all ill)
_CONNECT: Final = b"\x10\x0f\x00\x04MQTT\x04\x02\xff\xff\x00\x03ear"
_CONNACK: Final = b"\x20\x02\x00\x00"
_EVERYTHING: Final = b"vedette/#"
_SUBSCRIBE: Final = bytes((0x82, 5 + len(_EVERYTHING), 0, 1, 0, len(_EVERYTHING))) + _EVERYTHING + b"\x00"
_SUBACK: Final = b"\x90\x03\x00\x01\x00"
_PUBLISH: Final = 3  # the packet's type, its first four bits
_CHUNK: Final = 1 << 16
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)  # Linux has it


class Ear:
    """Hears everything below ``vedette/``."""

    def __init__(self, port: int) -> None:
        """``port``: of a broker on loopback. Raises RuntimeError where it does not answer as it should."""
        self._socket = socket.create_connection((LOOPBACK, port), timeout=ANSWER_S)
        for request, answer in ((_CONNECT, _CONNACK), (_SUBSCRIBE, _SUBACK)):
            self._socket.sendall(request)
            self._expect(answer)
        self._socket.settimeout(None)
        self._lock = threading.Lock()
        self._chunks: list[tuple[int, bytes]] = []  # under the lock: when read, and what
        self._begun = b""  # of a packet that has not come to its end
        self._thread = threading.Thread(target=self._listen, name="ear", daemon=True)
        self._thread.start()

    def take(self) -> list[tuple[int, str, bytes]]:
        """Since the last call: when the message had come (CLOCK_BOOTTIME, nanoseconds), topic, payload."""
        with self._lock:
            chunks, self._chunks = self._chunks, []
        heard = []
        for at_ns, chunk in chunks:
            self._begun += chunk
            whole = 0
            for kind, start, end in _packets(self._begun):
                if kind == _PUBLISH:  # at QoS 0: topic and payload, and nothing between them
                    cut = start + 2 + int.from_bytes(self._begun[start : start + 2])
                    heard.append((at_ns, self._begun[start + 2 : cut].decode(), self._begun[cut:end]))
                whole = end
            self._begun = self._begun[whole:]
        return heard

    def close(self) -> None:
        """Hangs up."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(ANSWER_S)
        self._socket.close()

    def _expect(self, answer: bytes) -> None:
        said = b""
        while len(said) < len(answer) and (more := self._socket.recv(len(answer) - len(said))):
            said += more
        if said != answer:
            raise RuntimeError(f"the broker does not answer a subscriber: {said.hex(' ') or 'nothing'}")

    def _listen(self) -> None:
        while chunk := self._socket.recv(_CHUNK):
            now = clock.now_ns()
            if _QUICKACK is not None:
                # or the broker, which has Nagle's algorithm on (RFC 896), would keep the next message back until the kernel
                # acknowledges this one, up to 40 ms later; the kernel forgets this option by itself, see tcp(7)
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            with self._lock:
                self._chunks.append((now, chunk))


def _packets(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each whole packet: its type, and where what follows its length begins and ends (MQTT 3.1.1, section 2.2)."""
    at = 0
    while True:
        length, shift, start = 0, 0, at + 1
        while True:
            if start >= len(data):
                return
            length |= (data[start] & 0x7F) << shift
            shift += 7
            start += 1
            if data[start - 1] < 0x80:
                break
        if start + length > len(data):
            return
        yield data[at] >> 4, start, start + length
        at = start + length
