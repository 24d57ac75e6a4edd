"""How cost grows: with pipelines, with pixels, with objects. And what four pipelines get out of the cores together.

All of it is one real agent, ``vedette run`` in a process of its own, with a real broker on loopback and its shipped
defaults; pipelines share the shipped detector. Processor seconds are the kernel's, latencies the agent's own histograms
(capture included), memory is PSS. All points of a series take turns, round after round, and stand as medians.

*Pipelines and pixels.* The shipped clip, scaled by OpenCV and played at its own 10 frames a second. The line is a least
squares fit; "linear" means that the largest point costs at most 1.15 times what a line through all the others foretells.

*Objects.* No clip has ten thousand people a minute, so here the network is a stand-in: it copies its picture to its output
(a reshape and nothing else), and pictures of 8x64 pixels, 10 a second, are drawn so that they say which boxes are to be
detected. All after it is the agent's own: decoder, tracker, events, messages, outbox. Each object drifts for 0.6 s.

*Four pipelines flat out*, with the agent's own setting (an interpreter a core, of one thread) against one and two
interpreters of one and two threads, and against one pipeline alone; and then against the best of these alone, by turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from vedette.demo.broker import loopback_broker
from vedette.flow.lane import slots
from vedette.models.model import share_folder

sys.path.insert(0, str(Path(__file__).parent))
from _results import Results
from _running import Span, fit, foretold, running

MODEL = "coco-ssdlite-mobilenet-v2"
PIPELINES = (1, 2, 4, 8)
SIZES = ((160, 120), (320, 240), (640, 480), (1280, 720), (1920, 1080), (3840, 2160))
OBJECTS = (1, 1000, 3000, 10_000)  # a minute
FPS = 10  # the clip's
FRAMES = 40  # of the clip, again and again
LINEAR = 1.15
SHARE = 0.95
PAIRS = 8  # of the agent's own setting and the best other one

Measure = Callable[[str, int], Span]


def scaled_clip(clip: Path, size: tuple[int, int], folder: Path) -> Path:
    """The beginning of a clip in another size, as a video."""
    path = folder / f"{size[0]}x{size[1]}.mp4"
    capture = cv2.VideoCapture(str(clip))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, size)
    for _ in range(FRAMES):
        good, pixels = capture.read()
        if not good:
            raise SystemExit(f"{clip}: expected {FRAMES} frames")
        writer.write(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if size[0] < 768 else cv2.INTER_CUBIC))
    writer.release()
    return path


def table(name: str, clip: Path, pace: str = "native") -> str:
    """One pipeline."""
    return (
        f'[pipeline.{name}]\nmodel = "{MODEL}"\n'
        f'[pipeline.{name}.source]\nurl = "{clip}"\nloop = true\npace = "{pace}"\n'
    )


# objects that are drawn

WIDTH, HEIGHT = 8, 64  # pixels of three bytes, six bytes a candidate
CANDIDATES = WIDTH * HEIGHT * 3 // 6
COLUMNS, ROWS = 16, 12  # of cells, in which objects are by turns
LIFE = 6  # frames
SURE = 250  # of 255


def copying_network() -> bytes:
    """A flatbuffer that reshapes (1, height, width, 3) uint8 into (1, candidates, 6), both of scale 1/255."""

    def tensor(name: str, shape: list[int], kind: int, buffer: int, *, scaled: bool) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), shape, kind, buffer
        if scaled:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [1 / 255], [0]
        return made

    out_shape = [1, CANDIDATES, 6]
    uint8, int32 = schema.TensorType.UINT8, schema.TensorType.INT32
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("picture", [1, HEIGHT, WIDTH, 3], uint8, 0, scaled=True),
        tensor("shape", [3], int32, 1, scaled=False),
        tensor("candidates", out_shape, uint8, 0, scaled=True),
    ]
    reshape = schema.OperatorT()
    reshape.opcodeIndex, reshape.inputs, reshape.outputs = 0, [0, 1], [2]
    reshape.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    reshape.builtinOptions = schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = out_shape
    graph.operators, graph.inputs, graph.outputs = [reshape], [0], [2]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version = 1
    shape_buffer = schema.BufferT()
    shape_buffer.data = np.frombuffer(np.asarray(out_shape, np.int32).tobytes(), np.uint8)
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), shape_buffer]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def draw_objects(a_minute: int, folder: Path, seconds: int = 60) -> Path:
    """Pictures of so many objects a minute, evenly; each in a cell of its own."""
    folder.mkdir()
    per_frame = a_minute / 60 / FPS
    pictures = np.zeros((seconds * FPS, CANDIDATES, 6), np.uint8)
    for number in range(int(per_frame * len(pictures))):
        cell = number % (COLUMNS * ROWS)
        column, row = cell % COLUMNS, cell // COLUMNS
        born = int(number / per_frame)
        for age, picture in enumerate(pictures[born : born + LIFE]):
            picture[cell] = (column * 15 + 8 + age // 2, row * 21 + 10 + age // 2, 10, 14, SURE, SURE)
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number:04d}.png"), picture.reshape(HEIGHT, WIDTH, 3))
    return folder


def objects_table(network: Path, labels: Path, pictures: Path) -> str:
    """The pipeline that follows them."""
    return f"""
[pipeline.drawn]
model = "{network}"
source = {{ url = "images://{pictures}", loop = true, fps = {FPS} }}
[pipeline.drawn.plain]
labels_file = "{labels}"
input = {{ kind = "image", height = {HEIGHT}, width = {WIDTH}, color = "bgr", std = [255.0], interpolation = "nearest" }}
output = {{ decoder = "yolo", max_detections = {CANDIDATES} }}
[pipeline.drawn.track]
keep_s = 0.3
[pipeline.drawn.events]
min_duration_s = 0.2
"""


# series


def in_turns(rounds: int, points: Sequence[tuple[object, str, int]], measure: Measure) -> dict[object, list[Span]]:
    """Each point (its name, tables, pipelines) once a round, beginning with another one each time."""
    found: dict[object, list[Span]] = defaultdict(list)
    for number in range(rounds):
        shift = number % len(points)
        for name, tables, pipelines in [*points[shift:], *points[:shift]]:
            span = measure(tables, pipelines)
            found[name].append(span)
            said = f"{name[0]}x{name[1]}" if isinstance(name, tuple) else name
            print(
                f"round {number + 1}, {said}: {span.inferred / span.wall_s:.1f} frames a second, {span.cores:.3f} cores",
                file=sys.stderr,
            )
    return found


def row(results: Results, what: str, values: list[float], unit: str, digits: int = 3) -> float:
    """A median, with the least and the most beside it."""
    median = statistics.median(values)
    spread = [round(min(values), digits), round(max(values), digits)]
    results.row(what=what, value=round(median, digits), unit=unit, n=len(values), spread=spread)
    return median


def spans_rows(results: Results, what: str, spans: list[Span]) -> tuple[float, float, float, float]:
    """The rows of one point; medians of cores, processor milliseconds a frame, latency p50 (ms) and PSS (MB)."""
    cpu_ms = row(results, f"{what}: CPU a frame", [span.cpu_ms_frame for span in spans], "ms")
    total = row(results, f"{what}: latency p50", [span.stages["total"].p50 for span in spans], "ms")
    row(results, f"{what}: latency p99", [span.stages["total"].p99 for span in spans], "ms")
    pss = row(results, f"{what}: PSS", [span.pss_bytes / 1e6 for span in spans], "MB", 1)
    late = sum(span.frames - span.inferred for span in spans)
    if late > 0.02 * sum(span.frames for span in spans):  # more than what is under way at the ends
        results.row(what=f"{what}: frames that nobody had time for", value=late, unit="frames", n=len(spans))
    return statistics.median(span.cores for span in spans), cpu_ms, total, pss


def growth(results: Results, what: str, unit: str, xs: list[float], ys: list[float], *, promised: bool) -> None:
    """The line of a series and how well it fits; ``promised``: that it is one."""
    line = fit(xs, ys)
    results.row(
        what=f"{what}: the line's slope", value=float(f"{line.slope:.4g}"), unit=unit, n=len(xs),
        reason=f"{line.at_zero:.4g} at zero; residuals up to {100 * line.residual:.1f} % of the largest",
    )  # fmt: skip
    if promised:
        ratio = foretold(xs, ys)
        results.row(
            what=f"{what}: the largest, by what a line through the others foretells", value=round(ratio, 3), unit="ratio",
            n=len(xs), target=f"<= {LINEAR}", holds=ratio <= LINEAR,
        )  # fmt: skip


def pipelines_series(results: Results, clip: Path, rounds: int, measure: Measure) -> None:
    """1 to 8 of them."""
    points = [(n, "".join(table(f"p{k}", clip) for k in range(n)), n) for n in PIPELINES]
    found = in_turns(rounds, points, measure)
    rows = [spans_rows(results, f"{n} pipeline{'s' * (n > 1)}, {clip.stem}", found[n]) for n in PIPELINES]
    xs = [float(n) for n in PIPELINES]
    growth(results, "cores by pipelines", "cores", xs, [one[0] for one in rows], promised=True)
    growth(results, "PSS by pipelines", "MB", xs, [one[3] for one in rows], promised=True)


def pixels_series(results: Results, clips: dict[tuple[int, int], Path], rounds: int, measure: Measure) -> None:
    """160x120 to 4K."""
    found = in_turns(rounds, [(size, table("p0", clip), 1) for size, clip in clips.items()], measure)
    rows = [spans_rows(results, f"{width}x{height}", found[width, height]) for width, height in clips]
    xs = [width * height / 1e6 for width, height in clips]
    growth(results, "CPU a frame by megapixels", "ms", xs, [one[1] for one in rows], promised=True)
    growth(results, "latency p50 by megapixels", "ms", xs, [one[2] for one in rows], promised=False)
    growth(results, "PSS by megapixels", "MB", xs, [one[3] for one in rows], promised=False)


def objects_series(results: Results, folder: Path, rounds: int, measure: Measure) -> None:
    """1 to 10,000 a minute."""
    network, labels = folder / "copying.tflite", folder / "labels.txt"
    network.write_bytes(copying_network())
    labels.write_text("thing\n")
    points = [
        (n, objects_table(network, labels, draw_objects(n, folder / f"objects-{n}")), 1) for n in OBJECTS
    ]  # fmt: skip
    found = in_turns(rounds, points, measure)
    rows = []
    for n in OBJECTS:
        rows.append(spans_rows(results, f"{n} objects a minute", found[n]))
        told = [span.events["track_began"] / (span.inferred * n / 60 / FPS) for span in found[n]]
        if n >= 1000:  # of fewer, none or one comes while it is looked at
            share = statistics.median(told)
            results.row(
                what=f"{n} objects a minute: those that events tell of", value=round(share, 3), unit="ratio", n=len(told),
                target="0.95 to 1.05", holds=0.95 <= share <= 1.05, spread=[round(min(told), 3), round(max(told), 3)],
            )  # fmt: skip
    thousands = [n / 1000 for n in OBJECTS]
    growth(
        results, "cores by thousands of objects a minute", "cores", thousands, [one[0] for one in rows], promised=False
    )
    growth(
        results, "latency p50 by thousands of objects a minute", "ms", thousands, [o[2] for o in rows], promised=False
    )
    growth(results, "PSS by thousands of objects a minute", "MB", thousands, [one[3] for one in rows], promised=False)


def together(results: Results, clip: Path, rounds: int, measure: Measure) -> None:
    """Four pipelines flat out, by settings."""
    cores = len(os.sched_getaffinity(0))
    four = "".join(table(f"p{k}", clip, "max") for k in range(4))
    own = "four pipelines, the agent's own setting"
    points = [(own, four, 4)]
    for threads in (1, 2):
        alone = f"one pipeline, {threads} thread{'s' * (threads > 1)}"
        points.append((alone, _engine(threads, 0) + table("p0", clip, "max"), 1))
        for interpreters in (1, 2):
            if threads == 1 and interpreters == min(slots(1), 4):
                continue  # that is the agent's own setting
            name = f"four pipelines, {interpreters} interpreter{'s' * (interpreters > 1)} of {threads}"
            points.append((name, _engine(threads, interpreters) + four, 4))
    found = in_turns(rounds, points, measure)
    rates = {name: [span.inferred / span.wall_s for span in spans] for name, spans in found.items()}
    for setting, values in rates.items():
        row(results, f"{setting}: inferences a second", values, "1/s", 1)
        row(results, f"{setting}: CPU a frame", [span.cpu_ms_frame for span in found[setting]], "ms", 2)
    others = {name: statistics.median(values) for name, values in rates.items() if name != own}  # itself would be 1
    best = max(others, key=lambda name: others[name])
    # once more, and directly after one another: a shared machine is another one a minute later
    pair = in_turns(PAIRS, [point for point in points if point[0] in (own, best)], measure)
    ratios = [
        (mine.inferred / mine.wall_s) / (other.inferred / other.wall_s)
        for mine, other in zip(pair[own], pair[best], strict=True)
    ]
    ratio = statistics.median(ratios)
    results.row(
        what=f"four pipelines on {cores} cores: the agent's own setting by the best single setting", value=round(ratio, 3),
        unit="ratio", n=len(ratios), target=f">= {SHARE}", holds=ratio >= SHARE,
        spread=[round(quartile, 3) for quartile in statistics.quantiles(ratios, n=4)[::2]],
        reason=f"the best of the others: {best}; its own: {min(slots(1), 4)} of 1 thread"
        + ("" if ratio >= SHARE else "; docs/performance.md says where the time goes"),
    )  # fmt: skip


def _engine(threads: int, interpreters: int) -> str:
    return f"[engine]\nthreads = {threads}\ninterpreters = {interpreters}\n"


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=share_folder("media") / "people-walking.mp4")
    parser.add_argument("--rounds", type=int, default=2, help="of each series; the four pipelines get one more")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, at least 2")
    parser.add_argument("--only", choices=("pipelines", "pixels", "objects", "together"))
    parser.add_argument("--no-keep", action="store_true", help="print alone")
    arguments = parser.parse_args()
    results = Results("scale")
    with tempfile.TemporaryDirectory() as temporary, loopback_broker() as (_, port):
        folder = Path(temporary)
        clips = {size: scaled_clip(arguments.clip, size, folder) for size in SIZES}
        middle = clips[640, 480]

        def measure(tables: str, pipelines: int) -> Span:
            with running(tables, port, folder) as agent:
                return agent.span(
                    arguments.seconds, pipelines
                )  # from the first statistics on, a second after the start

        if arguments.only in (None, "pipelines"):
            pipelines_series(results, middle, arguments.rounds, measure)
        if arguments.only in (None, "pixels"):
            pixels_series(results, clips, arguments.rounds, measure)
        if arguments.only in (None, "objects"):
            objects_series(results, folder, arguments.rounds, measure)
        if arguments.only in (None, "together"):
            together(results, middle, arguments.rounds + 1, measure)
    return 0 if results.write(keep=arguments.only is None and not arguments.no_keep) else 1


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.exit(main())
