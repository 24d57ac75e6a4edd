"""What cameras cost. Such as give JPEG, as USB cameras and many network cameras do, first.

One frame: the network's input from a picture decoded no larger than it has to be, against one decoded in full, as OpenCV
gives it: CPU by the thread's own clock, both ways by turns, each after a copy of 16 MB, after which the core's own caches
hold nothing of the frame. And how much of the one is found in the other, beside how much is found again in full where the
picture is moved by a pixel, which changes no more than where a network's grid lies.

The whole agent on such a camera at 30 frames a second, over HTTP: its processor seconds a second, all threads, against the
loop of `rivals/tutorial.py`, which has OpenCV read each frame; both look at as many frames, and both publish what they find.

H.264, of a file that is played as a camera: the whole agent where OpenCV decodes each frame, and where it is ffmpeg that
does, scales and chooses (``exec:``), all frames or key frames alone; ffmpeg's processor seconds are counted, too. And two
pipelines that look at one such camera, which they share, against two that have one each.
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
        name = f"{size[0]}x{size[1]}, JPEG"
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
    for size in SIZES[2:]:
        name = f"{size[0]}x{size[1]}, JPEG at {FPS} fps"
        with tempfile.TemporaryDirectory() as folder, loopback_broker() as (_, port), camera(options.clip, size) as url:
            for every in (6, 1):
                config = _config(Path(folder), port, model, url, FPS / every if every > 1 else 0.0)
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


def h264(results: Results, options: argparse.Namespace) -> None:
    """Rows of who decodes it; one that says so where there is no ffmpeg that codes it."""
    name = f"1920x1080, H.264 at {FPS} fps, a key frame a second"
    with tempfile.TemporaryDirectory() as folder, loopback_broker() as (_, port):
        film = Path(folder) / "film.mp4"
        if not _coded(options.clip, film):
            results.row(what=name, value="not measured", unit="", n=0, target="ffmpeg with libx264", holds=False,
                        reason="there is none")  # fmt: skip
            return
        ffmpeg = "exec:ffmpeg -nostdin -loglevel error -threads 1 {choice} -re -stream_loop -1 -i {film} -vf {filter} "
        ffmpeg = ffmpeg.replace("{film}", str(film)) + "-pix_fmt yuv420p -f yuv4mpegpipe -"
        ways = {
            "5 a second looked at: OpenCV decodes": (str(film), 5.0),
            "5 a second looked at: ffmpeg decodes, and scales those": (
                ffmpeg.format(choice="", filter="fps=5,scale=640:360"), 0.0
            ),
            "1 a second looked at: OpenCV decodes": (str(film), 1.0),
            "1 a second looked at: ffmpeg decodes key frames, and scales them": (
                ffmpeg.format(choice="-skip_frame nokey", filter="scale=640:360 -fps_mode passthrough"), 0.0
            ),
        }  # fmt: skip
        other = Path(folder) / "other.mp4"
        other.symlink_to(film)
        two = {
            "two pipelines of one camera, 5 a second each": film,
            "two pipelines of a camera each, 5 a second each": other,
        }
        used: dict[str, list[float]] = {way: [] for way in (*ways, *two)}
        for _ in range(options.rounds):
            for way in used:
                url, most_fps = ways.get(way, (str(film), 5.0))
                config = _config(Path(folder), port, options.model, url, most_fps)
                if way in two:
                    table = config.read_text()
                    again = table[table.index("[pipeline") :].replace("pipeline.camera", "pipeline.other")
                    config.write_text(table + again.replace(str(film), str(two[way])))
                seen = watch(config, port, options.seconds)
                used[way].append(seen.cores * 1e3)
                print(f"{way}: {seen.inferences:.2f} a second, {used[way][-1]:.1f} ms of CPU a second", file=sys.stderr)
        for way, values in used.items():
            results.row(what=f"{name}; {way}: CPU a second", value=statistics.median(values), unit="ms", n=len(values),
                        spread=quartiles(values))  # fmt: skip
        _, _, every, key, one, each = used.values()
        for what, ours, theirs in (
            ("1 a second looked at: CPU, key frames by all frames", key, every),
            ("two pipelines: CPU, one camera by a camera each", one, each),
        ):
            ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
            ratio = statistics.median(ratios)
            results.row(what=f"{name}; {what}", value=ratio, unit="ratio", n=len(ratios), target="< 1", holds=ratio < 1,
                        spread=quartiles(ratios))  # fmt: skip


def _coded(clip: Path, film: Path) -> bool:
    """Some seconds of the clip as a camera would send them; whether there is an ffmpeg that can."""
    command = [
        "ffmpeg", "-nostdin", "-loglevel", "error", "-stream_loop", "5", "-i", str(clip), "-t", "20", "-vf",
        f"fps={FPS},scale=1920:1080", "-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", str(FPS),
        "-keyint_min", str(FPS), "-sc_threshold", "0", "-b:v", "4M", "-an", str(film),
    ]  # fmt: skip
    try:
        return subprocess.run(command, check=False).returncode == 0
    except OSError:
        return False


def _config(folder: Path, port: int, model: str, url: str, most_fps: float) -> Path:
    config = folder / "vedette.toml"
    config.write_text(
        f'device = "cameras"\nstate_dir = {json.dumps(str(folder))}\n[mqtt]\nhost = "{LOOPBACK}"\nport = {port}\n'
        f"[intervals]\nstats_s = 1.0\n[pipeline.camera]\nmodel = {json.dumps(model)}\nmax_fps = {most_fps}\n"
        f"[pipeline.camera.source]\nurl = {json.dumps(url)}\n" + ("" if ":" in url else "loop = true\n")
    )
    return config


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--frames", type=int, default=200, help="rounds of both ways, of one frame")
    parser.add_argument("--rounds", type=int, default=3, help="of agent and loop")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    results = Results("cameras")
    one_frame(results, frames(options.clip), options.model, options.frames)
    whole_agent(results, options)
    h264(results, options)
    results.write()
    return 0 if all(row.holds in (None, True) for row in results.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
