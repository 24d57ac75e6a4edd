"""What a camera of this computer is asked for: size, rate and format, by the URL's query or the source's options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote

from vedette.contract.errors import SourceError
from vedette.contract.image import MAX_PIXELS, MIN_SIDE

from .registry import SourceOptions

MAX_SIDE: Final = 16384  # pixels; beyond every sensor on sale
MAX_FPS: Final = 1000.0
MAX_STRIDE: Final = 65536  # bytes


@dataclass(frozen=True, slots=True)
class CameraMode:
    """Size in pixels, frames a second, the pixel format's four letters, bytes a row; 0 and "": the camera's own choice."""

    width: int = 0
    height: int = 0
    fps: float = 0.0
    fourcc: str = ""
    stride: int = 0


def read_camera_url(options: SourceOptions, *, allowed: tuple[str, ...]) -> tuple[str, CameraMode]:
    """What stands between ``://`` and ``?``, and the mode. A key of the query goes before the option of that name.

    ``allowed``: the keys that this kind of camera knows. Raises `SourceError` for another one, or for a value that
    cannot be.
    """
    url = options.url
    place, _, query = url.partition("://")[2].partition("?")
    asked: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in allowed:
            raise SourceError("unknown key", where=url, expected="one of " + ", ".join(allowed), found=key)
        if key in asked:
            raise SourceError("key given twice", where=url, found=key)
        asked[key] = value
    mode = CameraMode(
        width=_whole(asked, "width", options.width, MAX_SIDE, url),
        height=_whole(asked, "height", options.height, MAX_SIDE, url),
        fps=_fps(asked, options.fps, url),
        fourcc=asked.get("fourcc", options.fourcc),
        stride=_whole(asked, "stride", options.stride, MAX_STRIDE, url),
    )
    if bool(mode.width) != bool(mode.height):
        raise SourceError("half a size", where=url, expected="width and height, or neither")
    if mode.width and (min(mode.width, mode.height) < MIN_SIDE or mode.width * mode.height > MAX_PIXELS):
        raise SourceError(
            "a size that cannot be", where=url, found=f"{mode.width}x{mode.height}",
            expected=f"{MIN_SIDE}x{MIN_SIDE} pixels to {MAX_PIXELS // 1_000_000} megapixels",
        )  # fmt: skip
    if mode.fourcc and not re.fullmatch(r"[A-Za-z0-9 ]{4}", mode.fourcc):
        raise SourceError("fourcc", where=url, expected="four letters or digits, such as MJPG", found=repr(mode.fourcc))
    return unquote(place), mode


def _whole(asked: dict[str, str], key: str, otherwise: int, most: int, url: str) -> int:
    text = asked.get(key, str(otherwise))
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) > most:
        raise SourceError(key, where=url, expected=f"a whole number up to {most}", found=repr(text))
    return int(text)


def _fps(asked: dict[str, str], otherwise: float, url: str) -> float:
    text = asked.get("fps", f"{otherwise:f}")
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{0,20})?", text) or float(text) > MAX_FPS:
        raise SourceError("fps", where=url, expected=f"a number up to {MAX_FPS:g}", found=repr(text))
    return float(text)


def camera_number(place: str, url: str) -> int:
    """Of ``rpicam://0``. Raises `SourceError`."""
    if not re.fullmatch(r"[0-9]{1,2}", place):
        raise SourceError(
            "malformed URL", where=url, expected=f"{url.partition('://')[0]}://NUMBER, the first camera is 0",
            found=place or "no number",
        )  # fmt: skip
    return int(place)
