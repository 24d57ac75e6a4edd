"""The Edge TPU's compiler, where it is installed: what it maps, its log, and the file it makes.

Its use and its log: https://coral.ai/docs/edgetpu/compiler/. The log is a table, an operation and a status a line::

    Operator                       Count      Status

    CONV_2D                        52         Mapped to Edge TPU
    DEQUANTIZE                     2          Operation is working on an unsupported data type
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette.contract.errors import MissingPackageError, ModelError

COMPILER: Final = "edgetpu_compiler"
TIMEOUT_S: Final = 600  # its own default is 180 s and covers the compilation alone
MAPPED: Final = "Mapped to Edge TPU"
_ROW: Final = re.compile(r"^([A-Za-z0-9_.:-]+)[ \t]+(\d+)[ \t]+(\S.*?)\s*$")
_COUNTS: Final = re.compile(r"Number of operations that will run on (Edge TPU|CPU):\s*(\d+)")
_TOTAL: Final = re.compile(r"Total number of operations:\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the compiler's table."""

    kind: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        """Whether these run on the Edge TPU."""
        return self.status == MAPPED


@dataclass(frozen=True, slots=True)
class CompiledEdgeTpu:
    """What the compiler made: ``flatbuffer`` is what a bundle's ``edgetpu.tflite`` holds."""

    flatbuffer: bytes
    ops_on_tpu: int
    ops_on_cpu: int
    rows: tuple[Row, ...]
    log: str

    @property
    def version(self) -> str:
        """``16.0.384591198``, or empty where the log does not say."""
        found = re.search(r"Edge TPU Compiler version (\S+)", self.log)
        return found[1] if found else ""


def find_compiler() -> str | None:
    """The compiler on PATH, None where there is none."""
    return shutil.which(COMPILER)


def compile_edgetpu(flatbuffer: bytes, name: str = "model") -> CompiledEdgeTpu:
    """Compiles a fully quantised network for the Edge TPU.

    Raises `MissingPackageError` without a compiler, `ModelError` with the compiler's own words where it will not have
    the network, and where it makes none within `TIMEOUT_S`.
    """
    compiler = find_compiler()
    if compiler is None:
        raise MissingPackageError(
            f"no {COMPILER}", expected="it on PATH (x86-64 Debian or Ubuntu)",
            fix="see https://coral.ai/docs/edgetpu/compiler/",
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vedette-edgetpu-") as folder:
        source = Path(folder, "model.tflite")
        source.write_bytes(flatbuffer)
        command = [compiler, "--show_operations", "--out_dir", folder, str(source)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False, cwd=folder
            )
        except subprocess.TimeoutExpired:
            raise ModelError(f"{COMPILER} does not finish", where=name, expected=f"at most {TIMEOUT_S} s") from None
        except OSError as error:
            raise ModelError(f"{COMPILER} cannot be run", where=compiler, found=error.strerror or str(error)) from None
        made, log_file = Path(folder, "model_edgetpu.tflite"), Path(folder, "model_edgetpu.log")
        said = done.stdout + done.stderr
        if done.returncode or not made.is_file():
            raise ModelError(f"{COMPILER} does not take it", where=name, found=_last_words(said, done.returncode))
        log = log_file.read_text("utf-8", "replace") if log_file.is_file() else said
        return _read(made.read_bytes(), log, said, name)


def _last_words(said: str, code: int) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [
        line
        for line in lines
        if not line.startswith(("Edge TPU Compiler", "Started a compilation", "Compilation child"))
    ]
    return " / ".join(told[-2:]) if told else f"exit code {code}"


def _read(flatbuffer: bytes, log: str, said: str, name: str) -> CompiledEdgeTpu:
    rows = tuple(Row(m[1], int(m[2]), m[3]) for line in log.splitlines() if (m := _ROW.match(line)))
    if rows:
        on_tpu = sum(row.count for row in rows if row.mapped)
        on_cpu = sum(row.count for row in rows if not row.mapped)
    else:
        counts = {where: int(number) for where, number in _COUNTS.findall(said)}
        total = _TOTAL.search(said)
        if not counts and total is None:
            raise ModelError(
                f"{COMPILER}'s log is not understood", where=name, expected="a count of operations", found=log[:200]
            )
        # no count a place: all of them were mapped
        on_tpu, on_cpu = counts.get("Edge TPU", int(total[1]) if total else 0), counts.get("CPU", 0)
    return CompiledEdgeTpu(flatbuffer, on_tpu, on_cpu, rows, log if log == said else f"{said}\n{log}")
