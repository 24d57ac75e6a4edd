"""A pipeline's source, put where it can be taken away: a camera behind a proxy, a file in a copy, a program as it is."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from vedette.config import SourceConfig
from vedette.sources import masked_url

from .proxy import Proxy

Kind = Literal["proxy", "file", "folder", "program", "none"]

_PORTS: Final = {"http": 80, "rtsp": 554, "mqtt": 1883}
_PROGRAMS: Final = ("exec", "rpicam")
_FILES: Final = ("file", "images", "csv", "ndjson")


@dataclass(frozen=True, slots=True)
class StagedSource:
    """``table``: the source's table as the agent gets it. ``why``: why nothing can be done to it, where it is ``none``.

    ``place``: the copy of a file, or the link that stands for a folder; ``original``: what they stand for.
    """

    pipeline: str
    kind: Kind
    table: dict[str, object]
    proxy: Proxy | None = None
    place: Path | None = None
    original: Path | None = None
    why: str = ""


def stage_source(
    pipeline: str, source: SourceConfig, table: dict[str, object], folder: Path, opened: ExitStack
) -> StagedSource:
    """``folder``: an empty one of its own. ``opened``: what is left when the stage is. Raises `OSError`."""
    url = source.url
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme in _PORTS and "://" in url:
        if scheme == "rtsp" and source.rtsp_transport == "udp":
            return StagedSource(pipeline, "none", table, why="RTSP over UDP does not go through a proxy")
        return _proxied(pipeline, url, scheme, table, opened)
    if scheme in _PROGRAMS:
        return StagedSource(pipeline, "program", table)
    if "://" not in url or scheme in _FILES:
        return _copied(pipeline, url, table, folder)
    return StagedSource(pipeline, "none", table, why=f"no program can take {masked_url(url)} away")


def _proxied(pipeline: str, url: str, scheme: str, table: dict[str, object], opened: ExitStack) -> StagedSource:
    parts = urlsplit(url)
    proxy = opened.enter_context(Proxy(parts.hostname or "localhost", parts.port or _PORTS[scheme]))
    user, at, _ = parts.netloc.rpartition("@")
    moved = urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}"))
    return StagedSource(pipeline, "proxy", {**table, "url": moved}, proxy=proxy)


def _copied(pipeline: str, url: str, table: dict[str, object], folder: Path) -> StagedSource:
    scheme, separator, rest = url.partition("://")
    path, mark, query = (rest, "", "") if separator else (url, "", "")
    if separator and scheme.lower() in ("csv", "ndjson"):
        path, mark, query = rest.partition("?")
    original = Path(unquote(path) if separator else path).expanduser().resolve()
    place = folder / original.name
    if original.is_dir():
        place.symlink_to(original)
    else:
        shutil.copyfile(original, place)
    moved = f"{scheme}://{quote(str(place))}{mark}{query}" if separator else str(place)
    kind: Kind = "folder" if original.is_dir() else "file"
    return StagedSource(pipeline, kind, {**table, "url": moved, "loop": True}, place=place, original=original)


def tear(staged: StagedSource, share: float) -> None:
    """Takes a folder away; cuts a file to a ``share`` of itself where it lies, as whoever copies another one over it."""
    assert staged.place is not None
    if staged.kind == "folder":
        staged.place.unlink()
    else:
        os.truncate(staged.place, int(staged.place.stat().st_size * share))


def mend(staged: StagedSource) -> None:
    """Puts the folder back; lets the copying come to its end, in the file that readers may still have open.

    What is whole stays so.
    """
    assert staged.place is not None and staged.original is not None
    if staged.kind == "folder":
        staged.place.unlink(missing_ok=True)
        staged.place.symlink_to(staged.original)
    else:
        shutil.copyfile(staged.original, staged.place)
