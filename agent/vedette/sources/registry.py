"""URL -> source."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from vedette.contract.errors import SourceError
from vedette.hosts import is_host

from .base import Source

Pace: TypeAlias = Literal["native", "max"]

LOCAL: Final = ("v4l2", "rpicam", "picamera2")
SCHEMES: Final = ("file", "images", "rtsp", "rtsps", "http", "https", *LOCAL)
PROGRAM: Final = "exec"
ASKED: Final = ("width", "height", "fourcc", "stride")  # of `LOCAL` cameras alone
STREAMS: Final = ("rtsp", "rtsps", "http", "https", PROGRAM)  # which come at a rate of their own


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is to be read. Times in seconds."""

    url: str
    loop: bool = False
    pace: Pace = "native"
    fps: float = 0.0  # of a folder of pictures at its native pace, or asked of a camera; 0: 1, or the camera's own
    width: int = 0  # pixels, asked of a camera; 0: its own
    height: int = 0
    fourcc: str = ""  # the pixel format asked of a V4L2 camera
    stride: int = 0  # bytes a row of an rpicam camera; 0: found by itself
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0


def is_program_url(url: str) -> bool:
    """Whether it names a program, which may give frames or readings."""
    return url.partition(":")[0].lower() == PROGRAM


def masked_url(url: str) -> str:
    """The URL without user, password and query (many cameras take a password there), for logs and messages.

    What is malformed is masked generously: a password may hold ``/``, ``@`` and ``?`` itself.
    """
    if is_program_url(url):
        return f"exec:{_masked_command(url[5:])}"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() in LOCAL:  # a camera of this computer asks for no password
        return url
    place, mark, query = re.match(r"(?s)([^?#]*)([?#]?)(.*)", rest).groups()  # type: ignore[union-attr]
    if "@" in query:
        return f"{scheme}://***"
    if "@" in place:
        place = "***@" + place.rpartition("@")[2]
    return f"{scheme}://{place}{mark}{'***' if query else ''}"


def _masked_command(command: str) -> str:
    """The program, and the files named right after it; any other argument may be a secret, or hold one."""
    words = command.split()
    shown = words[:1]
    for word in words[1:]:
        if not re.fullmatch(r"/[\w./+-]*", word):
            break
        shown.append(word)
    return " ".join([*shown, "***"] if len(shown) < len(words) else shown)


def make_source(options: SourceOptions) -> Source:
    """The source that reads this URL; a path without a scheme is a video file or a folder of pictures.

    Nothing is opened yet. Raises `SourceError` for a scheme nobody reads, a URL that is none or an option that means nothing
    for it, `MissingPackageError` where a kind of camera needs a package that is not there.
    """
    url = options.url
    _refuse_unheard(options)
    if is_program_url(url):
        from .y4m import FrameProgramSource

        return FrameProgramSource(options)
    scheme, separator, rest = url.partition("://")
    if not separator:
        device = re.fullmatch(r"(?:/dev/video)?([0-9]{1,3})", url)
        if device is not None and not Path(url).is_file() and not _is_folder(Path(url)):
            raise SourceError(
                "a camera's device is no file", where=url, expected="a video file, a folder of pictures, or a URL",
                fix=f'give "v4l2:///dev/video{device[1]}"',
            )  # fmt: skip
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
        if host is None or not is_host(host) or not url.isprintable():
            raise SourceError("malformed URL", where=masked_url(url), expected=f"{scheme}://HOST/PATH")
        from .stream import StreamSource

        return StreamSource(replace(options, url=f"{scheme}://{rest}"))  # FFmpeg knows no other way to write it
    if scheme == "v4l2":
        from .v4l2 import V4l2Source

        return V4l2Source(options)
    if scheme == "rpicam":
        from .rpicam import RpicamSource

        return RpicamSource(options)
    if scheme == "picamera2":
        from .picamera2 import Picamera2Source

        return Picamera2Source(options)
    raise SourceError(
        "unknown scheme", where=masked_url(url),
        expected="a path, " + ", ".join(f"{s}://" for s in SCHEMES) + ", or exec:",
        found=f"{scheme}://",
    )  # fmt: skip


def _refuse_unheard(options: SourceOptions) -> None:
    """What is asked of whom nobody asks: it would be believed to do something."""
    scheme = options.url.partition(":")[0].lower()
    fix = "set it in the camera" if scheme in STREAMS else "take it out"
    if scheme == PROGRAM:
        fix = "have the program do it, as ffmpeg does with -vf fps=5,scale=640:360"
    for key in ASKED if scheme not in LOCAL else ():
        if getattr(options, key):
            raise SourceError(f"{key} is asked of cameras of this device alone", where=masked_url(options.url), fix=fix)
    if options.fps and scheme in STREAMS:
        fix += "; max_fps of the pipeline is how often it looks"
        raise SourceError("fps means nothing for this source", where=masked_url(options.url), fix=fix)


def _is_folder(path: Path) -> bool:
    """False of a path that cannot be, too: whoever opens it says why."""
    try:
        return path.is_dir()
    except OSError:  # too long, say
        return False


def _path_source(path: Path, options: SourceOptions) -> Source:
    if _is_folder(path):
        from .images import ImagesSource

        return ImagesSource(path, options)
    from .video import VideoFileSource

    return VideoFileSource(path, options)
