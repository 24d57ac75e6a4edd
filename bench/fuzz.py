"""Malformed input at every entrance: by hypothesis, and by atheris (libFuzzer), which is led by the code it reaches.

Inputs that atheris found worth keeping stay in build/fuzz, and the next run begins with them; what crashed an entrance,
too. Both are seeded: hypothesis does the same each time, atheris with the same corpus and ``--seed``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from _results import ROOT, Results

FUZZ = ROOT / "tests" / "fuzz"
sys.path[:0] = [str(FUZZ.parent), str(FUZZ)]
from entrances import ENTRANCES, Entrance  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from mutations import mutated  # noqa: E402

MEMORY_MB = 2048
_PROGRESS = re.compile(r"^#(\d+)\s+(INITED|DONE|\w+)\s.*?cov: (\d+) ft: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Tried:
    """``failure``: empty where there was none."""

    inputs: int
    seconds: float
    failure: str
    detail: str


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="to each entrance by each of the two (default 2000)")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="of atheris an entrance, however many inputs that is"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=ENTRANCES, default=[], metavar="ENTRANCE")
    parser.add_argument("--hang", type=int, default=20, metavar="SECONDS", help="for one input (default 20)")
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "fuzz", help="inputs to begin with, and to keep")
    arguments = parser.parse_args()
    logging.disable()
    results = Results("fuzz")
    target = f">= {arguments.inputs}, none of them a traceback, a crash or a hang"
    for name in arguments.only or ENTRANCES:
        for how, tried in _both(ENTRANCES[name], arguments):
            print(
                f"{name}: {tried.inputs} by {how} in {tried.seconds:.1f} s {tried.failure}", file=sys.stderr, flush=True
            )
            good = not tried.failure and tried.inputs >= arguments.inputs
            results.row(
                what=f"{name}: malformed inputs by {how}", value=tried.inputs, unit="inputs", n=tried.inputs,
                target=target, holds=good, reason=tried.failure or f"{tried.detail}{tried.seconds:.1f} s",
            )  # fmt: skip
    if importlib.util.find_spec("atheris") is None:
        results.row(
            what="atheris",
            value="not tried",
            unit="",
            n=0,
            reason="no wheel for this Python on this machine is installed",
        )
    return 0 if results.write(keep=not arguments.only and arguments.inputs >= 2000) else 1


def _both(entrance: Entrance, arguments: argparse.Namespace) -> list[tuple[str, Tried]]:
    tried = [("hypothesis", _in_folder(lambda folder: by_hypothesis(entrance, folder, arguments)))]
    if importlib.util.find_spec("atheris") is not None:
        guided = _in_folder(lambda folder: by_atheris(entrance.name, folder, arguments))
        tried.append(("atheris", guided))
    return tried


def _in_folder(action: Callable[[Path], Tried]) -> Tried:
    memory = Path("/dev/shm")  # thousands of files are synced
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        return action(Path(name))


def by_hypothesis(entrance: Entrance, folder: Path, arguments: argparse.Namespace) -> Tried:
    """In this process."""
    for part in ("seeds", "used"):
        (folder / part).mkdir()
    take, seeds = entrance.made(folder / "used"), entrance.seeds(folder / "seeds")
    count = 0

    @seed(arguments.seed)
    @settings(
        max_examples=arguments.inputs, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutated(seeds))
    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        signal.alarm(arguments.hang)
        take(data)
        signal.alarm(0)

    def hangs(*_: object) -> NoReturn:
        raise TimeoutError(f"an input took more than {arguments.hang} s")

    begun = time.monotonic()
    failure = ""
    before = signal.signal(signal.SIGALRM, hangs)
    with _silent():
        try:
            run()
        except Exception as error:  # noqa: BLE001, that is what is looked for
            notes = " ".join(getattr(error, "__notes__", []))
            failure = f"{type(error).__name__}: {error} {notes}"[:500]
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    return Tried(count, time.monotonic() - begun, failure, "")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing is written to stderr meanwhile: decoders in C have their say about every picture."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def by_atheris(name: str, folder: Path, arguments: argparse.Namespace) -> Tried:
    """In a process of its own, which a crash ends."""
    place = arguments.kept.absolute() / name.replace(" ", "-")
    corpus, crashes = place / "corpus", place / "crashes"
    for part in (corpus, crashes):
        part.mkdir(parents=True, exist_ok=True)
    known = len(list(corpus.iterdir())) + len(list(crashes.iterdir()))
    # what is known is tried first, and counts for libFuzzer
    bound = f"-max_total_time={arguments.seconds:g}" if arguments.seconds else f"-runs={arguments.inputs + known + 100}"
    begun = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, str(FUZZ / "guided.py"), name, str(corpus), bound, f"-seed={arguments.seed}",
            f"-timeout={arguments.hang}", f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={crashes}/", str(crashes),
        ],
        capture_output=True, check=False, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    seconds = time.monotonic() - begun
    told = _PROGRESS.findall(done.stderr.decode(errors="replace"))
    inputs = int(told[-1][0]) if told else 0
    first = next((row for row in told if row[1] == "INITED"), None)
    detail = ""
    if first is not None:
        detail = f"{first[2]} branches by what was known, {told[-1][2]} now; {told[-1][3]} features; "
    failure = "" if done.returncode == 0 else _why(done, crashes)
    return Tried(inputs, seconds, failure, detail)


def _why(done: subprocess.CompletedProcess[bytes], crashes: Path) -> str:
    """The last error that the child told of, and where the input is."""
    text = (done.stdout + b"\n" + done.stderr).decode(errors="replace")
    found = re.search(r"=== Uncaught Python exception: ===\n(.*)", text) or re.search(r"ERROR: libFuzzer: (.*)", text)
    kept = re.search(r"Test unit written to (\S+)", text)
    where = kept[1] if kept else str(crashes)
    return f"{found[1][:300] if found else text.strip()[-300:]}; input: {os.path.relpath(where, ROOT)}"


if __name__ == "__main__":
    sys.exit(main())
