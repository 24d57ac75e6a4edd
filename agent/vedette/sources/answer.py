"""What a network camera's server answers: whether anything at all, and why there is no stream.

OpenCV keeps the reason to itself. So the same stream is asked for once more by hand, and the status of the answer says why:
RTSP 1.0 (RFC 2326, section 7.1) has those of HTTP (RFC 9110, section 15). No user's name and password go along: a camera
that locks its door after some wrong ones hears no more of them for our curiosity.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from vedette.contract.errors import SourceLostError

from .registry import masked_url

PORTS: Final = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}  # unless the URL says another one
_REDIRECTIONS, _REFUSALS = 300, 400  # and above
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_STREAMS: Final = ("multipart/", "video/", "image/", "application/")  # pages are text
_MAX_HEAD: Final = 16384  # bytes of an answer that are read


class Why(NamedTuple):
    """``found``, and what to do (``fix``), as `vedette.contract.errors.VedetteError` has them."""

    found: str
    fix: str = ""


NO_STREAM: Final = Why("no stream there")


def ask(url: str, timeout_s: float) -> None:
    """Whether whoever listens there answers, whatever it is: OpenCV takes long to find out.

    ``timeout_s``: for the connection, and again for an answer; of TLS the connection is enough. Raises `SourceLostError`.
    """
    parts = urlsplit(url)
    if _is_asked_of_a_proxy(parts):
        return
    host, port = _address(parts)
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            # neither needs a password, and a refusal is an answer
            if parts.scheme == "rtsp":
                connection.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
                connection.recv(1)
            elif parts.scheme == "http":
                connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                connection.recv(1)
    except TimeoutError:
        raise SourceLostError("does not answer", where=masked_url(url), found=f"silence for {timeout_s:g} s") from None
    except OSError as error:
        raise SourceLostError("cannot be reached", where=masked_url(url), found=error.strerror or str(error)) from None


def why_no_stream(url: str, timeout_s: float) -> Why:
    """What the server answers to whoever asks for the stream without a password. Raises nothing: `NO_STREAM` where nothing
    is known.

    ``timeout_s``: for the connection, and again for the answer.
    """
    parts = urlsplit(url)
    if _is_asked_of_a_proxy(parts):
        return NO_STREAM
    try:
        status, reason, kind = _answer(parts, timeout_s)
    except ssl.SSLError as error:
        return Why(f"no stream there ({error})")
    except TimeoutError:
        return Why(f"silence for {timeout_s:g} s")
    except OSError as error:
        return Why(error.strerror or str(error))
    except ValueError:
        return NO_STREAM  # what answers speaks something else
    answer = f"{status} {reason}".strip()
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        if parts.username is None:
            return Why(answer, "put the camera's user name and password into the URL: user:password@")
        return Why(answer, "look at the user name, the password and the path")
    if status == _NOT_FOUND:
        return Why(answer, "look up the path of the camera's stream in its manual")
    if status >= _REFUSALS:
        return Why(answer)
    if status < _REDIRECTIONS and kind and not kind.startswith(_STREAMS):
        return Why(f"{kind}, which is no stream", "look up the path of the camera's stream in its manual")
    return NO_STREAM


def _is_asked_of_a_proxy(parts: SplitResult) -> bool:
    """FFmpeg talks to the proxy then, who may reach what this computer does not."""
    return parts.scheme.startswith("http") and bool(os.environ.get("http_proxy"))


def _address(parts: SplitResult) -> tuple[str, int]:
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def _answer(parts: SplitResult, timeout_s: float) -> tuple[int, str, str]:
    """Status, reason, and the type of what would come."""
    host, port = _address(parts)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if parts.scheme.startswith("http"):
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = f"GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
    else:
        url = parts._replace(netloc=place).geturl()
        request = f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    with socket.create_connection((host, port), timeout_s) as plain:
        if parts.scheme in ("https", "rtsps"):
            with _trusting_anybody().wrap_socket(plain, server_hostname=host) as connection:
                head = _exchange(connection, request, timeout_s)
        else:
            head = _exchange(plain, request, timeout_s)
    protocol, status, *reason = head.partition("\r\n")[0].split(maxsplit=2)
    if not protocol.startswith(("HTTP/", "RTSP/")):
        raise ValueError(protocol)
    kind = re.search(r"(?im)^content-type:\s*([^;\s]+)", head)
    return int(status), " ".join(reason).strip(), kind[1].lower() if kind else ""


def _exchange(connection: socket.socket, request: str, timeout_s: float) -> str:
    """What is sent back before the first empty line. Raises `OSError`, where it is not all there in time, too."""
    connection.sendall(request.encode("utf-8"))
    until = time.monotonic() + timeout_s
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD:
        connection.settimeout(max(0.001, until - time.monotonic()))
        more = connection.recv(4096)
        if not more:
            break
        head += more
    return head.decode("latin-1")


def _trusting_anybody() -> ssl.SSLContext:
    """Certificates are checked as little as FFmpeg checks them, and nothing secret is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
