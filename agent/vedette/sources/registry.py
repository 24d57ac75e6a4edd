"""URL -> source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from vedette.contract.errors import SourceError

from .base import Source

Pace: TypeAlias = Literal["native", "max"]

SCHEMES: Final = ("file", "images", "rtsp", "rtsps", "http", "https")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is to be read. Times in seconds."""

    url: str
    loop: bool = False
    pace: Pace = "native"
    fps: float = 1.0  # of a folder of pictures at its native pace
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0


def masked_url(url: str) -> str:
    """The URL without user, password and query (many cameras take a password there), for logs and messages.

    What is malformed is masked generously: a password may hold ``/``, ``@`` and ``?`` itself.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    place, mark, query = re.match(r"(?s)([^?#]*)([?#]?)(.*)", rest).groups()  # type: ignore[union-attr]
    if "@" in query:
        return f"{scheme}://***"
    if "@" in place:
        place = "***@" + place.rpartition("@")[2]
    return f"{scheme}://{place}{mark}{'***' if query else ''}"


def make_source(options: SourceOptions) -> Source:
    """The source that reads this URL; a path without a scheme is a video file or a folder of pictures.

    Nothing is opened yet. Raises `SourceError` for a scheme nobody reads or a URL that is none.
    """
    url = options.url
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _path_source(Path(url), options)
    scheme = scheme.lower()
    if scheme in ("file", "images"):
        path = Path(unquote(rest))
        if scheme == "images":
            from .images import ImagesSource

            return ImagesSource(path, options)
        return _path_source(path, options)
    if scheme in ("rtsp", "rtsps", "http", "https"):
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            # the error's own text would repeat a part of the URL, which may be the password's
            raise SourceError("malformed URL", where=masked_url(url), expected=f"{scheme}://HOST:PORT/PATH") from None
        if not host:
            raise SourceError("malformed URL", where=masked_url(url), expected=f"{scheme}://HOST/PATH")
        from .stream import StreamSource

        return StreamSource(options)
    raise SourceError(
        "unknown scheme", where=masked_url(url), expected="a path, or " + ", ".join(f"{s}://" for s in SCHEMES),
        found=f"{scheme}://",
    )  # fmt: skip


def _path_source(path: Path, options: SourceOptions) -> Source:
    if path.is_dir():
        from .images import ImagesSource

        return ImagesSource(path, options)
    from .video import VideoFileSource

    return VideoFileSource(path, options)
