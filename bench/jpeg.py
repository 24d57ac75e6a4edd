"""A camera that gives JPEG, as USB cameras and many network cameras do: what it costs to look at it.

One frame: the network's input from a picture decoded no larger than it has to be, against one decoded in full, as OpenCV
gives it: CPU by the thread's own clock, both ways by turns, each after a copy of 16 MB, after which the core's own caches
hold nothing of the frame. And how much of the one is found in the other, beside how much is found again in full where the
picture is moved by a pixel, which changes no more than where a network's grid lies.

The whole agent on such a camera at 30 frames a second, over HTTP: its processor seconds a second, all threads, against the
loop of `rivals/tutorial.py`, which has OpenCV read each frame; both look at as many frames, and both publish what they find.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _contest import loop_turn, quartiles
from _process import watch
from _results import Results
from planes import CLIP, MODEL, SIZES, by_turns, frames

from vedette.contract.bgr import in_bgr
from vedette.contract.jpeg import read_jpeg
from vedette.contract.types import Detections, Jpeg, Picture, UInt8Array
from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.models.model import Model, find_model, load_model, read_model
from vedette_converter.agreement import compare

FPS = 30
QUALITY = 85


def jpeg_of(bgr: UInt8Array, size: tuple[int, int]) -> Jpeg:
    """4:2:2, as USB cameras have it."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    ]  # fmt: skip
    _, data = cv2.imencode(".jpg", cv2.resize(bgr, size, interpolation=cv2.INTER_CUBIC), options)
    return read_jpeg(np.asarray(data.reshape(-1), np.uint8))


def anew(jpeg: Jpeg) -> Jpeg:
    """As it came, with nothing decoded."""
    return read_jpeg(jpeg.data)


def one_frame(results: Results, clip: list[UInt8Array], model_name: str, rounds: int) -> None:
    """Rows of all sizes."""
    model = load_model(read_model(model_name), score_threshold=0.2)
    for size in SIZES:
        name = f"{size[0]}x{size[1]}"
        jpeg = jpeg_of(clip[0], size)
        small, full = by_turns(
            [lambda jpeg=jpeg: model.preprocess(anew(jpeg)),  # type: ignore[misc]
             lambda jpeg=jpeg: model.preprocess(in_bgr(anew(jpeg)))], rounds,
        )  # fmt: skip
        looked_at = anew(jpeg)
        model.preprocess(looked_at)
        [factor] = looked_at.decoded
        for what, times in ((f"decoded to 1/{factor}", small), ("decoded in full", full)):
            low, middle, high = statistics.quantiles(times, n=4)
            results.row(what=f"{name}: {what}, and the network's input: CPU a frame", value=middle, unit="ms",
                        n=len(times), spread=[low, high])  # fmt: skip
            if factor == 1:
                break
        if factor == 1:
            continue
        ratio = statistics.median(small) / statistics.median(full)
        results.row(what=f"{name}: decoded to 1/{factor} by in full", value=ratio, unit="ratio", n=rounds, target="< 1",
                    holds=ratio < 1)  # fmt: skip
        pictures = [jpeg_of(pixels, size) for pixels in clip]
        whole = [detections(model, in_bgr(anew(picture))) for picture in pictures]
        for what, others in (
            (f"1/{factor}", [detections(model, anew(picture)) for picture in pictures]),
            ("full, moved by a pixel", [detections(model, in_bgr(picture)[1:, 1:]) for picture in pictures]),
        ):
            same = compare(whole, others, confident=0.5, partner_score=0.4, iou=0.5)
            results.row(what=f"{name}: detections in full (score >= 0.5) found again in {what} (0.4, IoU >= 0.5)",
                        value=same.share, unit="", n=same.confident)  # fmt: skip


def detections(model: Model, pixels: Picture) -> Detections:
    """Of a detector."""
    found = model(pixels)
    assert isinstance(found, Detections)
    return found


@contextlib.contextmanager
def camera(clip: Path, size: tuple[int, int]) -> Iterator[str]:
    """The URL of a camera in a process of its own."""
    program = Path(__file__).with_name("_jpeg_camera.py")
    command = [sys.executable, str(program), str(clip), str(size[0]), str(size[1]), str(FPS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://{LOOPBACK}:{int(process.stdout.readline())}/"
    finally:
        process.kill()
        process.wait()


def whole_agent(results: Results, options: argparse.Namespace) -> None:
    """Rows of the agent and the loop, by turns."""
    tutorial = Path(__file__).parent / "rivals" / "tutorial.py"
    model = str(find_model(options.model))
    for size in SIZES[1:]:
        name = f"{size[0]}x{size[1]} at {FPS} fps"
        with tempfile.TemporaryDirectory() as folder, loopback_broker() as (_, port), camera(options.clip, size) as url:
            for every in (6, 1):
                config = Path(folder) / f"every{every}.toml"
                config.write_text(
                    f'device = "jpeg"\nstate_dir = {json.dumps(folder)}\n[mqtt]\nhost = "{LOOPBACK}"\nport = {port}\n'
                    f"[intervals]\nstats_s = 1.0\n[pipeline.camera]\nmodel = {json.dumps(model)}\n"
                    f'max_fps = {FPS / every if every > 1 else 0.0}\n[pipeline.camera.source]\nurl = "{url}"\n'
                )
                ours, theirs, ratios = [], [], []
                for _ in range(options.rounds):
                    used = watch(config, port, options.seconds)
                    command = [sys.executable, str(tutorial), model, "1", str(options.seconds), url, str(port)]
                    loop = loop_turn([*command, "--every", str(every)])
                    # of as many frames as the other looked at
                    ours.append(used.cores / used.inferences * 1e3)
                    theirs.append(loop.cpu_ms)
                    ratios.append(ours[-1] / theirs[-1])
                    print(f"{name}, 1 of {every}: agent {used.inferences:.1f} a second, {ours[-1]:.1f} ms each; "
                          f"loop {loop.fps:.1f}, {theirs[-1]:.1f}", file=sys.stderr)  # fmt: skip
                looks = "each frame looked at" if every == 1 else f"one frame of {every} looked at"
                for who, values in (("agent", ours), ("tutorial loop", theirs)):
                    results.row(what=f"{name}, {looks}: {who}: CPU a frame that is looked at",
                                value=statistics.median(values), unit="ms", n=len(values),
                                spread=quartiles(values))  # fmt: skip
                ratio = statistics.median(ratios)
                results.row(what=f"{name}, {looks}: CPU, agent by the tutorial loop", value=ratio, unit="ratio",
                            n=len(ratios), target="<= 1.0", holds=ratio <= 1.0, spread=quartiles(ratios))  # fmt: skip


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--frames", type=int, default=200, help="rounds of both ways, of one frame")
    parser.add_argument("--rounds", type=int, default=3, help="of agent and loop")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    results = Results("jpeg")
    one_frame(results, frames(options.clip), options.model, options.frames)
    whole_agent(results, options)
    results.write()
    return 0 if all(row.holds in (None, True) for row in results.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
