"""Contestants that take turns, round after round, and what their turns showed."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TURN_S = 120.0  # that a rival's whole turn may take


@dataclass(frozen=True)
class LoopTurn:
    """What a rival's program printed: see ``rivals/bare.py``. Milliseconds; lists have an entry a frame."""

    fps: float
    cpu_ms: float
    invoke_ms: list[float]
    latency_ms: list[float] = field(default_factory=list)
    around_ms: float = 0.0
    version: str = ""


def loop_turn(command: list[str]) -> LoopTurn:
    """Runs a rival's program. Raises RuntimeError with its last words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TURN_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-600:]}")
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    frames = said.get("frames") or len(said["invoke_ms"])
    more = {name: said[name] for name in ("latency_ms", "around_ms", "version") if name in said}
    return LoopTurn(frames / said["seconds"], said["cpu_s"] / frames * 1e3, said.get("invoke_ms", []), **more)


class Contest:
    """By name: a turn of each round it took part in. ``absent``: who cannot take part, and why. ``stolen``: the share of the
    processors that the machine's other guests took while it ran; NaN before."""

    def __init__(self) -> None:
        self.turns: dict[str, list[Any]] = {}
        self.absent: dict[str, str] = {}
        self.stolen = math.nan
        self._runs: dict[str, tuple[Callable[[], Any], int]] = {}
        self._groups: list[list[str]] = []

    def add(self, name: str, run: Callable[[], Any], *, every: int = 1, beside: str = "") -> None:
        """``every``: 2 takes part in every other round alone. ``beside``: who was added before and is compared with it:
        their turns follow one another, for a shared machine is another one a minute later."""
        self._runs[name] = (run, every)
        self.turns[name] = []
        if beside:
            next(group for group in self._groups if beside in group).append(name)
        else:
            self._groups.append([name])

    def run(self, rounds: int) -> None:
        """All rounds. Who is beside another keeps its place there; the groups change places."""
        before = _processors()
        for number in range(rounds):
            shift = number % len(self._groups)
            for name in itertools.chain(*self._groups[shift:], *self._groups[:shift]):
                run, every = self._runs[name]
                if number % every == 0:
                    self.turns[name].append(run())
                    print(f"round {number + 1}, {name}: {_words(self.turns[name][-1])}", file=sys.stderr)
        (stolen, everything), (stolen_before, everything_before) = _processors(), before
        self.stolen = (stolen - stolen_before) / (everything - everything_before)

    def has(self, *names: str) -> bool:
        """Whether all of them took part."""
        return all(self.turns.get(name) for name in names)

    def values(self, name: str, attribute: str) -> list[float]:
        """One figure of every turn."""
        return [getattr(turn, attribute) for turn in self.turns[name]]

    def pairs(self, name: str, other: str) -> list[tuple[Any, Any]]:
        """The turns of the rounds in which both took part."""
        step, other_step = self._runs[name][1], self._runs[other][1]
        ours = dict(zip(range(0, 10**6, step), self.turns[name], strict=False))
        theirs = dict(zip(range(0, 10**6, other_step), self.turns[other], strict=False))
        return [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]

    def ratios(self, name: str, other: str, measure: Callable[[Any], float]) -> list[float]:
        """``measure`` of one by that of the other, in each round in which both took part."""
        return [measure(turn) / measure(than) for turn, than in self.pairs(name, other)]


def quartiles(values: list[float]) -> list[float]:
    """25 % and 75 %."""
    return [round(float(value), 4) for value in np.percentile(values, [25, 75])]


def percentile(values: list[float], q: float) -> float:
    """0..100."""
    return round(float(np.percentile(values, q)), 4)


def _processors() -> tuple[float, float]:
    """Ticks of all processors since boot: those that a virtual machine was ready to use and did not get, and all
    (proc_stat(5))."""
    times = [float(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return times[7], sum(times)


def _words(turn: Any) -> str:
    fps = getattr(turn, "fps", None)
    return f"{fps:.1f} a second, {turn.cpu_ms:.2f} ms CPU each" if fps else "done"
