"""A fixed camera's own small detector, learned from its own frames without any label.

The published float network is the teacher: what it answers on the camera's first frames is what a smaller network
learns, one that knows the kept classes alone, takes the camera's own proportions and lost its least worthy channels, a
cut at a time with lessons between. What it reached is measured on the last frames, which nothing was learned from, by
the engine and the decoder of the agent. Below the gate there is no bundle.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vedette.contract.bundle import Bundle
from vedette.engine import load_runtime

from ..footage import read_footage, split
from ..progress import Progress, Silent
from ..tensorflow import load_tensorflow
from .judging import expect_objects, finish
from .lessons import prepare, shrink
from .room import Room
from .teacher import Teacher
from .wanted import Specialised, Wanted, bundle_name, check, fitted

__all__ = ["Specialised", "Wanted", "fitted", "specialise"]

JUDGING_S: Final = 120.0  # kept for quantising and judging, of the whole time


def specialise(
    wanted: Wanted,
    *,
    progress: Progress | None = None,
    on_measured: Callable[[Specialised], None] = lambda found: None,
) -> tuple[Specialised, Bundle]:
    """Makes one bundle, or none at all; goes on where an earlier run with the same arguments was stopped.

    ``on_measured`` is told the figures before the gate judges them. Raises `UserError` for what the user can mend,
    `GateError` where accuracy or speed are not reached, `FaultError` for the rest.
    """
    progress = progress or Silent()
    began = time.monotonic()
    check(wanted)
    teacher = Teacher.read(wanted)
    frames = read_footage(wanted.frames, wanted.most)
    learned, held = split(frames, wanted.held_back)
    size = wanted.size or fitted(next(iter(learned)).shape[:2], teacher.input)
    name = wanted.name or bundle_name(wanted.out)
    load_tensorflow(fast=True)
    with tempfile.TemporaryDirectory(prefix="vedette-specialise-") as folder:
        room = Room(wanted, teacher, size, Path(folder), load_runtime(), progress)
        expect_objects(room, held)
        lesson = prepare(room, learned)
        student = shrink(room, lesson, frames.sha256, until=began + 60 * wanted.minutes - JUDGING_S)
        return finish(room, student, lesson, learned, held, name, began, on_measured)
