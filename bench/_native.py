"""TFLite's own C library, driven by a C program that is compiled here: what an inference costs without Python.

The library comes out of the wheel ``pyopen-wakeword``, which carries ``libtensorflowlite_c.so``; it is downloaded once into
``build/native`` and installed nowhere.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from _results import ROOT

WHEEL = "pyopen-wakeword==1.1.0"
LIBRARY = "pyopen_wakeword/lib/libtensorflowlite_c.so"
FOLDER = ROOT / "build" / "native"
SOURCE = ROOT / "bench" / "rivals" / "native.c"


class NotHereError(Exception):
    """A rival that cannot be had on this machine, and why in one line."""


def build() -> Path:
    """The program; see ``bench/rivals/native.c``. Raises `NotHereError` without a wheel for this machine or a compiler."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    library = FOLDER / LIBRARY
    if not library.exists():
        wheel = download(WHEEL, FOLDER)
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(LIBRARY, FOLDER)
    program = FOLDER / "native"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = shutil.which("cc")
        if compiler is None:
            raise NotHereError("no C compiler (cc) on the PATH")
        command = [
            compiler, "-O2", "-o", str(program), str(SOURCE), str(library), f"-Wl,-rpath,{library.parent}",
        ]  # fmt: skip
        _run(command, "the C program does not compile")
    return program


def download(requirement: str, folder: Path) -> Path:
    """One wheel by pip, without what it depends on. Raises `NotHereError`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*command, "--only-binary=:all:", "--dest", str(folder), requirement], f"pip has no {requirement}")
    name = requirement.split("==")[0].replace("-", "_")
    return next(folder.glob(f"{name}-*.whl"))


def _run(command: list[str], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise NotHereError(f"{problem}: {lines[-1]}")
