"""Small projects with recordings of sensors: two motions of four persons, a machine that hums, a value to estimate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vedette_converter.recipe import RecipeFile, read_recipe

RATE_HZ = 50
SECONDS = 4
PERSONS = ("p1", "p2", "p3", "p4")
MOTIONS = {"slow": 1.5, "fast": 6.0}  # Hz
INPUT = """
[input]
kind = "series"
length = 32
stride = 16
rate_hz = 50.0

[[input.channels]]
name = "x"
unit = "g"
[[input.channels]]
name = "y"
unit = "g"
"""
REST = """
[quantise]
pictures = 40

[evaluate]
resamples = 100

[latency]
rounds = 5
max_ratio = 1000.0

[gate]
max_drop = 0.5
min_agreement = 0.5
"""
TRAIN = """
[train]
epochs = 20
batch = 16
optimizer = "adam"
learning_rate = 0.01
weight_decay = 0.0
"""


def write_csv(path: Path, names: str, rows: NDArray[np.float64]) -> None:
    """A line of names, then a reading a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, delimiter=",", header=names, comments="", fmt="%.5f")


def motion(hz: float, rng: np.random.Generator, *, offset: float = 0.0) -> NDArray[np.float64]:
    """(readings, 3): time in seconds, x and y."""
    time = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    phase = rng.uniform(0, 6)
    x, y = np.sin(2 * np.pi * hz * time + phase), np.cos(2 * np.pi * hz * time + phase)
    noise = rng.normal(0, 0.05, (2, len(time)))
    return np.column_stack([time, x + noise[0] + offset, y + noise[1] + offset])


@dataclass(frozen=True)
class Project:
    """A recipe, and folders of recordings."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """Its file."""
        return self.folder / "tiny.toml"

    @property
    def data(self) -> Path:
        """All recordings, or those that are learned from."""
        return self.folder / "data"

    @property
    def test(self) -> Path:
        """Recordings to judge by, where they are apart."""
        return self.folder / "test"

    def read(self) -> RecipeFile:
        """The recipe, parsed."""
        return read_recipe(self.recipe)

    def edit(self, old: str, new: str, name: str = "edited.toml") -> Path:
        """A copy of the recipe beside it, one passage changed."""
        text = self.recipe.read_text()
        assert text.count(old) == 1, old
        path = self.folder / name
        path.write_text(text.replace(old, new))
        return path


def motions(folder: Path) -> Project:
    """Tells two motions apart; the fourth person is judged, and carries an offset that nobody else has."""
    project = Project(folder)
    rng = np.random.default_rng(1)
    for name, hz in MOTIONS.items():
        for person in PERSONS:
            for side in ("left", "right"):
                offset = 0.3 if person == "p4" else 0.0
                write_csv(project.data / name / f"{person}-{side}.csv", "time,x,y", motion(hz, rng, offset=offset))
    (folder / "labels.txt").write_text("slow\nfast\n")
    project.recipe.write_text(
        """
name = "motions"
version = "1.0"
task = "classify"

[source]
format = "zoo"
network = "separable"
filters = 8
dropout = 0.1

[output]
decoder = "classify"
top_k = 2

[labels]
file = "labels.txt"

[series]
group = "-"
judged = ["p4"]

[series.jitter]
noise = 0.05
scale = 0.1
"""
        + INPUT + TRAIN + REST
    )  # fmt: skip
    return project


def hum(folder: Path) -> Project:
    """Learns a slow motion as normal; a fast one is an anomaly."""
    project = Project(folder)
    rng = np.random.default_rng(2)
    for number in range(6):
        write_csv(project.data / f"day-{number}.csv", "time,x,y", motion(1.5, rng))
    for number in range(3):
        write_csv(project.test / "normal" / f"later-{number}.csv", "time,x,y", motion(1.5, rng))
        write_csv(project.test / "anomaly" / f"broken-{number}.csv", "time,x,y", motion(6.0, rng))
    project.recipe.write_text(
        """
name = "hum"
version = "1.0"
task = "anomaly"

[source]
format = "zoo"
network = "autoencoder"
filters = 16
code = 4

[output]
decoder = "anomaly"
quantile = 0.9

[series]
held_back = 0.34
"""
        + INPUT + TRAIN.replace("epochs = 20", "epochs = 40") + REST
    )  # fmt: skip
    return project


def scale(folder: Path) -> Project:
    """Estimates how strong a motion is, which stands in a column of its own."""
    project = Project(folder)
    rng = np.random.default_rng(3)
    for number in range(12):
        strength = 0.5 + 1.5 * (number * 5 % 12) / 11  # spread evenly over both folders
        rows = motion(3.0, rng)
        rows[:, 1:] *= strength
        rows = np.column_stack([rows, np.full(len(rows), 10 * strength)])
        target = project.test if number % 3 == 0 else project.data
        write_csv(target / f"run-{number:02d}.csv", "time,x,y,load", rows)
    project.recipe.write_text(
        """
name = "scale"
version = "1.0"
task = "regress"

[source]
format = "zoo"
network = "separable"
filters = 8

[output]
decoder = "regress"
scale = [10.0]

[[output.quantities]]
name = "load"
unit = "kg"

[series]
target = "mean"
"""
        + INPUT + TRAIN.replace("epochs = 20", "epochs = 25") + REST
    )  # fmt: skip
    return project
