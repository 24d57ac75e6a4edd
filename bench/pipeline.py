"""The agent's whole pipeline against the bare interpreter, TFLite's C library, the tutorials' loop and MediaPipe Tasks.

Everybody gets the same model file, clip and threads, runs in a process of its own, and takes turns in one run; ratios are
made of turns that follow one another, and what is printed is their median with their quartiles. The agent is ``vedette
run``, which decodes the clip, finds and delivers at QoS 1 to a real broker; the tutorials' loop delivers at QoS 0,
MediaPipe's callback too; the other two deliver nothing. Parts: ``loops`` (the first four, and a small detector), ``cores``
(all cores, autotuned), ``latency`` (cameras of 10 frames a second, and of more than anybody can see), ``threads`` (where the
agent's CPU goes), ``stages`` (the same on one thread, by what it did before), ``mediapipe``, ``instructions`` (valgrind;
needs no quiet machine).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import _instructions
import _mediapipe
import _pipeline_rows as rows
import _stage_times
from _agent_turn import Camera, agent_turn, threads_turn
from _contest import Contest, loop_turn
from _ear import Ear
from _native import NotHereError, build
from _paced import describe, paced
from _results import Results

from vedette.demo.broker import loopback_broker
from vedette.models.model import find_model, share_folder

MODEL = "coco-ssdlite-mobilenet-v2"
SMALL = "vtest-person"
PARTS = ("loops", "cores", "latency", "threads", "stages", "mediapipe", "instructions")
SLOW_FPS = 10.0
SLOW_SECONDS = 2.5  # times as long as the others, for there are few frames in it
CAMERA = 3.0  # times as fast as the bare loop: a frame is then at most a third of an inference old when it is taken


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--small", default=SMALL, help="a detector of a few milliseconds")
    parser.add_argument("--source", type=Path, default=share_folder("media") / "people-walking.mp4")
    parser.add_argument("--rounds", type=int, default=6, help="of which some who take part are in every other alone")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--no-write", action="store_true", help="print alone")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vedette-bench-") as folder,
        # each start compiles everything where an environment forbids Python to keep it, which no installation does
        _bytecode(Path(folder) / "pycache"),
        loopback_broker() as (_, port),
    ):
        ear = Ear(port)
        contest = _contest(arguments, ear, Path(folder), port)
        contest.run(arguments.rounds)
        ear.close()
        results = Results("pipeline")
        results.row(what="clip", value=describe(arguments.source), unit="", n=1)
        rows.write(results, contest, small=arguments.small, camera=CAMERA)
        if "stages" in arguments.parts:
            _stage_times.rows(results, arguments.model, arguments.source, Path(folder))
        if "instructions" in arguments.parts:
            _instructions.rows(results, arguments.model, arguments.source, Path(folder))
    return 0 if results.write(keep=not arguments.no_write) else 1


class _bytecode:  # noqa: N801  reads as a function where it is used
    """A folder for what Python has compiled, for this process's children."""

    def __init__(self, folder: Path) -> None:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _contest(arguments: argparse.Namespace, ear: Ear, folder: Path, port: int) -> Contest:
    """Who takes part, and how often."""
    contest = Contest()
    clip = arguments.source.resolve()
    model, small = str(find_model(arguments.model).resolve()), str(find_model(arguments.small).resolve())
    seconds, cores = arguments.seconds, len(os.sched_getaffinity(0))
    rivals = Path(__file__).parent / "rivals"

    def python(name: str, file: str, threads: int, *more: str, seconds: float = seconds) -> Callable[[], object]:
        command = [sys.executable, str(rivals / f"{name}.py"), file, str(threads), str(seconds), *more]
        return lambda: loop_turn(command)

    def agent(
        cameras: list[Camera], state: str, threads: int | str = 1, seconds: float = seconds
    ) -> Callable[[], object]:
        return lambda: agent_turn(ear, folder / state, port, cameras, threads=threads, seconds=seconds)

    parts = arguments.parts
    contest.add("bare", python("bare", model, 1))
    if "loops" in parts:
        try:
            program = str(build())
            contest.add("native", lambda: loop_turn([program, model, "1", str(seconds)]), beside="bare")
        except NotHereError as error:
            contest.absent["native"] = str(error)
    contest.add("agent", agent([Camera(model, clip)], "one"), beside="bare")
    if "loops" in parts:
        contest.add("tutorial", python("tutorial", model, 1, str(clip), str(port)), beside="agent")
        contest.add("small tutorial", python("tutorial", small, 1, str(clip), str(port)))
        contest.add("small agent", agent([Camera(small, clip)], "small"), beside="small tutorial")
    if "cores" in parts:
        contest.add("all tutorial", python("tutorial", model, cores, str(clip), str(port)), every=2)
        contest.add("all agent", agent([Camera(model, clip)], "auto", "auto"), every=2, beside="all tutorial")
        contest.add(
            "all agent, cameras",
            agent([Camera(model, clip)] * cores, "cameras", "auto"),
            every=2,
            beside="all tutorial",
        )
    if "latency" in parts:
        slow = seconds * SLOW_SECONDS
        slow_clip = paced(clip, SLOW_FPS, folder)
        contest.add("slow bare", python("bare", model, 1, "--fps", str(SLOW_FPS), seconds=slow), every=2)
        contest.add(
            "slow agent", agent([Camera(model, slow_clip, "native")], "one", seconds=slow), every=2, beside="slow bare"
        )

        def full() -> object:
            camera = Camera(model, paced(clip, CAMERA * contest.turns["full bare"][-1].fps, folder), "native")
            return agent_turn(ear, folder / "one", port, [camera], seconds=seconds)

        contest.add("full bare", python("bare", model, 1))
        contest.add("full agent", full, beside="full bare")
    if "threads" in parts:
        contest.add("threads", lambda: threads_turn(ear, folder / "one", port, Camera(model, clip), seconds=seconds))
    if "mediapipe" in parts:
        try:
            command, camera = _mediapipe.prepare(model, clip, port, folder)
            contest.add("mediapipe", lambda: loop_turn([*command, str(seconds)]), every=2)
            contest.add("mediapipe's agent", agent([camera], "mediapipe"), every=2, beside="mediapipe")
        except NotHereError as error:
            contest.absent["mediapipe"] = str(error)
    return contest


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.exit(main())
