"""A folder of pictures, in the order of their names: at a rate or flat out, once or again and again."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from vedette.contract.errors import PictureError, SourceError
from vedette.contract.types import UInt8Array
from vedette.pictures.drawing import SUFFIXES, read_picture

from .base import Reading
from .pace import Pace
from .registry import SourceOptions

log = logging.getLogger(__name__)

DEFAULT_FPS: Final = 1.0


class ImagesSource:
    """See `vedette.sources.base.Source`. A picture that cannot be read is logged once, counted and passed over."""

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        self._folder = folder
        self._options = options
        self._files: list[Path] = []
        self._next = 0
        self._pace = Pace(0.0)
        self._good_since_start = 0
        self._undecodable = 0
        self._told: set[Path] = set()  # those that the log has

    @property
    def live(self) -> bool:
        """At a rate, a folder behaves as a camera does."""
        return self._options.pace == "native"

    @property
    def endless(self) -> bool:
        """A folder has an end."""
        return False

    @property
    def undecodable(self) -> int:
        """See `Flawed.undecodable`."""
        return self._undecodable

    def open(self) -> None:
        """Raises `SourceError` when the folder is missing or holds no picture."""
        try:
            if not self._folder.is_dir():
                raise SourceError("no such folder", where=self._folder)
            self._files = sorted(f for f in self._folder.iterdir() if f.suffix.lower() in SUFFIXES)
        except OSError as error:
            raise SourceError("cannot be opened", where=self._folder, found=error.strerror or str(error)) from None
        if not self._files:
            raise SourceError("no pictures", where=self._folder, expected="files named " + ", ".join(sorted(SUFFIXES)))
        self._next = 0
        self._good_since_start = 0
        self._pace = Pace(1.0 / (self._options.fps or DEFAULT_FPS), held=self.live)

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`. ``into`` is not used: pictures differ in size. Raises `SourceError` where none can be read."""
        while True:
            if self._next == len(self._files):
                if self._good_since_start == 0:
                    raise SourceError("not one picture could be read", where=self._folder)
                if not self._options.loop:
                    return None
                self._next = self._good_since_start = 0
            path = self._files[self._next]
            self._next += 1
            self._pace.wait()
            begun = time.perf_counter_ns()
            try:
                pixels = read_picture(path)
            except PictureError as error:
                self._undecodable += 1
                if path not in self._told:
                    self._told.add(path)
                    log.warning("picture passed over: %s", error)
                continue
            self._good_since_start += 1
            return Reading(pixels, time.perf_counter_ns() - begun, None if self.live else self._pace.elapsed_ns)

    def close(self) -> None:
        """See `Source.close`."""
        self._files = []
