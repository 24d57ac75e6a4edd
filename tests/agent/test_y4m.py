"""``exec:`` for pictures: a program's YUV4MPEG2, of real ffmpeg and of programs that do everything wrong."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real import CLIP, DEADLINE_S, wait_for
from test_pipeline import Run, detector

from vedette.config import parse_config
from vedette.contract.bgr import in_bgr
from vedette.contract.errors import ConfigError, SourceError, SourceLostError, SourceStalledError, VedetteError
from vedette.contract.types import Planes
from vedette.service.compose import prepare
from vedette.sources import Grabber, Outcome, Source, SourceOptions, make_source
from vedette.sources import running as running_module
from vedette.sources.base import Passing
from vedette.sources.process_group import end_group, exit_of
from vedette.sources.running import Complaints
from vedette.sources.y4m import Layout, read_header

WIDTH, HEIGHT = 32, 16
HEADER = f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F25:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL\n"
FRAME_BYTES = WIDTH * HEIGHT * 3 // 2


def program(code: str) -> str:
    """The URL of a Python program; ``out`` is its standard output, ``frame(grey)`` writes one."""
    before = (
        "import sys, time, os, signal\nout = sys.stdout.buffer\n"
        f"header = {HEADER.encode()!r}\n"
        "def frame(grey):\n"
        f"    out.write(b'FRAME\\n' + bytes([grey]) * {WIDTH * HEIGHT} + b'\\x80' * {WIDTH * HEIGHT // 2}); out.flush()\n"
    )
    return f"exec:{shlex.quote(sys.executable)} -c {shlex.quote(before + code)}"


@pytest.fixture
def opened() -> Iterator[Callable[..., Source]]:
    """Opens, and closes at the end."""
    sources: list[Source] = []

    def open_source(url: str, read_timeout_s: float = 30.0, **options: Any) -> Source:
        source = make_source(SourceOptions(url, read_timeout_s=read_timeout_s, **options))
        sources.append(source)
        source.open()
        return source

    yield open_source
    for source in sources:
        source.close()


def grey_of(source: Source) -> int:
    """Of the next frame."""
    reading = source.read(None)
    assert reading is not None and isinstance(reading.pixels, Planes) and 0 <= reading.capture_ns < 60e9
    return int(reading.pixels.luma[0, 0])


needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg, whose own streams are to be read")


@needs_ffmpeg
@pytest.mark.parametrize(("pixels", "full"), [("yuv420p", False), ("yuvj420p", True)])
def test_what_ffmpeg_writes_is_what_opencv_reads(opened: Callable[..., Source], pixels: str, full: bool) -> None:
    command = f"ffmpeg -loglevel error -i {shlex.quote(str(CLIP))} -pix_fmt {pixels} -strict -1 -f yuv4mpegpipe -"
    source, capture = opened(f"exec:{command}"), cv2.VideoCapture(str(CLIP))
    for _ in range(3):
        reading, (ok, expected) = source.read(None), capture.read()
        assert ok and reading is not None and isinstance(reading.pixels, Planes) and reading.pixels.full_range is full
        assert reading.pixels.shape == expected.shape
        assert np.abs(in_bgr(reading.pixels).astype(int) - expected).mean() < 3
    capture.release()


@needs_ffmpeg
def test_ffmpeg_may_scale_choose_and_leave_out_colour(opened: Callable[..., Source]) -> None:
    command = (
        f"ffmpeg -loglevel error -skip_frame nokey -i {shlex.quote(str(CLIP))} -vf scale=160:120 -pix_fmt gray "
        "-strict -1 -f yuv4mpegpipe -"
    )
    reading = opened(f"exec:{command}").read(None)
    assert reading is not None and isinstance(reading.pixels, Planes) and reading.pixels.shape == (120, 160, 3)
    bgr = in_bgr(reading.pixels).astype(int)
    assert bgr.std() > 10 and np.abs(bgr[:, :, 0] - bgr[:, :, 2]).max() <= 2, "no colour"


@needs_ffmpeg
def test_what_ffmpeg_says_of_its_failure_is_said(opened: Callable[..., Source]) -> None:
    source = opened("exec:ffmpeg -loglevel error -i /nowhere/x.mp4 -f yuv4mpegpipe -")
    with pytest.raises(SourceLostError, match=r"ffmpeg: the program ended: .*exit code .*No such file") as caught:
        source.read(None)
    assert "\n" not in str(caught.value)


def test_a_password_in_what_a_program_says_is_not_repeated(
    opened: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    words = "rtsp://admin:geheim@camera/live?token=geheim: Connection refused"
    source = opened(program(f"print({words!r}, file=sys.stderr); sys.exit(1)"))
    with pytest.raises(SourceLostError, match=r"rtsp://\*\*\*@camera/live") as caught:
        source.read(None)
    assert "geheim" not in str(caught.value) + caplog.text and "rtsp://***@camera/live" in caplog.text


@pytest.mark.parametrize(
    "words",
    [
        "x" * 100 + " rtsp://admin:geheim@camera/" + "y" * 60,  # the cut falls on the password
        "frame= 12 rtsp://admin:geheim@camera/live \r" * 5000,  # the cut falls on the URLs' beginnings
        "x" * 70_000,
    ],
)
def test_a_password_is_not_repeated_where_a_long_line_is_cut(caplog: pytest.LogCaptureFixture, words: str) -> None:
    complaints = Complaints("ffmpeg")
    for at in range(0, len(words), 7):
        complaints.hear(words[at : at + 7].encode())
    complaints.hear(b"")
    assert "gehe" not in complaints.last + caplog.text
    assert len(complaints.last) < 200


def test_a_program_that_is_started_and_complains_for_days_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(running_module.time, "monotonic", lambda: now_s[0])
    complaints = Complaints("ffmpeg")
    for _ in range(43_200):  # a day
        complaints.hear(b"no route to host\nno camera\n")
        complaints.flush()
        now_s[0] += 2.0
    assert len(caplog.records) < 1000
    caplog.clear()
    now_s[0] += 2 * running_module.STDERR_MOST_S
    for _ in range(60):
        complaints.hear(b"no route to host\n")
        now_s[0] += 1.0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) > running_module.STDERR_LINES and "more lines" in said[0], "it had been quiet"


def test_frames_come_in_order_and_are_passed_over(opened: Callable[..., Source]) -> None:
    source = opened(program("out.write(header)\nfor grey in range(9): frame(grey)\nout.flush(); time.sleep(60)"))
    assert isinstance(source, Passing)
    assert [grey_of(source) for _ in range(3)] == [0, 1, 2]
    assert source.pass_over() and source.pass_over()
    assert [grey_of(source) for _ in range(2)] == [5, 6]


def test_a_frame_that_is_held_stays_what_it_was(opened: Callable[..., Source]) -> None:
    source = opened(program("out.write(header)\nfor grey in range(20): frame(grey)\ntime.sleep(60)"))
    held = [source.read(None) for _ in range(8)]
    assert [int(reading.pixels.luma[3, 3]) for reading in held if reading] == list(range(8))  # type: ignore[union-attr]


def test_a_frames_line_may_say_more(opened: Callable[..., Source]) -> None:
    body = f"b'\\x07' * {FRAME_BYTES}"
    source = opened(program(f"out.write(header + b'FRAME Ip XQUALITY=3\\n' + {body}); frame(8); time.sleep(60)"))
    assert [grey_of(source) for _ in range(2)] == [7, 8]


def test_a_stream_that_comes_in_small_pieces_is_put_together(opened: Callable[..., Source]) -> None:
    code = (
        f"data = header + (b'FRAME\\n' + b'\\x05' * {FRAME_BYTES}) * 2\n"
        "for at in range(0, len(data), 37): out.write(data[at:at+37]); out.flush()\ntime.sleep(60)"
    )
    source = opened(program(code))
    assert [grey_of(source) for _ in range(2)] == [5, 5]


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("out.write(b'hello\\n')", SourceError, "no YUV4MPEG2.*found 'hello'.*ffmpeg writes what is wanted"),
        ("out.write(b'x' * 5000)", SourceError, "no YUV4MPEG2.*without a line's end"),
        ("out.write(header.replace(b'W32 ', b''))", SourceError, "without a size"),
        ("out.write(header.replace(b'W32', b'W33'))", SourceError, "even sides.*found 33x16"),
        ("out.write(header.replace(b'W32', b'W99998').replace(b'H16', b'H99998'))", SourceError, "megapixels"),
        ("out.write(header.replace(b'H16', b'H4'))", SourceError, "found 32x4"),
        ("out.write(header.replace(b'C420jpeg', b'C420p10'))", SourceError, "4:2:0 or mono, of 8 bits.*found 420p10"),
        ("out.write(header.replace(b'C420jpeg', b'C444'))", SourceError, "found 444"),
        ("out.write(header.replace(b'Ip', b'It'))", SourceError, "interlaced video.*yadif"),
        ("out.write(header + b'GRAME\\n' + b'x' * 2000)", SourceLostError, "out of step: expected FRAME, found 'GRAME"),
        ("out.write(header + b'FRAMEx\\n')", SourceLostError, "out of step: expected FRAME, found 'FRAMEx'"),
        ("out.write(header + b'FRAME\\nhalf')", SourceLostError, "the program ended: found exit code 0"),
        ("print('lens cap', file=sys.stderr); sys.exit(3)", SourceLostError, "exit code 3, after 'lens cap'"),
        ("os.kill(os.getpid(), 9)", SourceLostError, "signal 9"),
    ],
)
def test_what_is_wrong_is_one_line(opened: Callable[..., Source], code: str, kind: Any, said: str) -> None:
    source = opened(program(code))
    with pytest.raises(kind, match=said) as caught:
        source.read(None)
    assert "\n" not in str(caught.value) and sys.executable in str(caught.value)


def test_a_program_that_falls_silent_has_stalled(opened: Callable[..., Source]) -> None:
    source = opened(program("out.write(header); frame(1)\nprint('no signal', file=sys.stderr); time.sleep(60)"), 1.0)
    assert grey_of(source) == 1
    with pytest.raises(
        SourceStalledError, match=r"no frame in time: found none .* for 1 s, after 'no signal'; raise stall_"
    ):
        source.read(None)


def test_a_first_frame_may_take_as_long_as_opening_and_that_is_what_is_said(opened: Callable[..., Source]) -> None:
    source = opened(program("out.write(header[:9])\nwhile True: out.flush(); time.sleep(.02)"), 0.2, open_timeout_s=1.0)
    with pytest.raises(SourceStalledError, match="whole for 1 s"):
        source.read(None)


@pytest.mark.parametrize("url", ["exec:", "exec:'", "exec:   "])
def test_a_command_that_is_none(url: str) -> None:
    with pytest.raises(SourceError, match="command"):
        make_source(SourceOptions(url))


def test_a_program_that_is_not_there(opened: Callable[..., Source]) -> None:
    with pytest.raises(SourceError, match="/nowhere/x: program cannot be run: found No such file"):
        opened("exec:/nowhere/x --fast")


def test_it_ends_with_all_that_it_has_started(opened: Callable[..., Source], tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        "import subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '600']); open({str(told)!r}, 'w').write(str(child.pid))\n"
        "out.write(header); frame(1); time.sleep(600)"
    )
    source = opened(program(code))
    assert grey_of(source) == 1
    pid = int(told.read_text())
    source.close()
    wait_for("its end", lambda: not Path(f"/proc/{pid}").exists())
    source.close()


def test_a_program_that_this_process_has_reaped_at_its_end_is_no_fault() -> None:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    end_group(process)
    assert exit_of(process, 0.1) is None
    waiting = subprocess.Popen(["true"], start_new_session=True)
    waiting.wait()
    assert exit_of(waiting, 0.1) is None


def test_a_grabber_loses_a_program_and_starts_it_again() -> None:
    said: list[tuple[Outcome | None, str]] = []
    source = make_source(
        SourceOptions(program("out.write(header)\nfor grey in range(3): frame(grey); time.sleep(.01)"))
    )
    reader = Grabber(source, name="test", stall_timeout_s=60.0, frozen_timeout_s=60.0, planes=True)
    grabber = reader.tap(lambda outcome, why: said.append((outcome, why)))
    grabber.start()
    try:
        wait_for("the loss", lambda: grabber.status().outcome is Outcome.LOST)
        wait_for("its return", lambda: grabber.status().reopened >= 1)
        frame = grabber.slot.get(DEADLINE_S)
        assert frame is not None and (frame.width, frame.height) == (WIDTH, HEIGHT)
        assert isinstance(frame.pixels, Planes)
    finally:
        grabber.stop()
    assert any(outcome is Outcome.LOST and "the program ended" in why for outcome, why in said)


def test_a_pipeline_looks_at_them_and_publishes_their_size() -> None:
    code = "out.write(header)\nfor grey in range(200): frame(grey); time.sleep(.005)\ntime.sleep(60)"
    source = make_source(SourceOptions(program(code), read_timeout_s=30.0))
    run = Run(detector([0.9], [0]), [], source=source)
    with run:
        wait_for("results", lambda: run.stats.results >= 5)
    assert {(m["frame"]["width"], m["frame"]["height"]) for m in run.messages()} == {(WIDTH, HEIGHT)}


@pytest.mark.parametrize("model", ["coco-ssdlite-mobilenet-v2", "watch-activity"])
def test_a_program_is_for_networks_of_both_kinds(model: str, tmp_path: Path) -> None:
    config = f'[pipeline.a]\nmodel = "{model}"\nsource = "exec:true"\n'
    [prepared] = prepare(parse_config(f'state_dir = "{tmp_path}"\n{config}'.encode(), Path("x.toml")), Path("x.toml"))
    assert type(prepared.source).__name__ == ("FrameProgramSource" if model.startswith("coco") else "ProgramSource")


def test_other_sources_of_readings_are_still_none_of_pictures(tmp_path: Path) -> None:
    config = '[pipeline.a]\nmodel = "coco-ssdlite-mobilenet-v2"\nsource = "udp://127.0.0.1:9000"\n'
    with pytest.raises(ConfigError, match="takes pictures"):
        prepare(parse_config(f'state_dir = "{tmp_path}"\n{config}'.encode(), Path("x.toml")), Path("x.toml"))


def test_a_header_of_little_is_enough() -> None:
    assert read_header(b"YUV4MPEG2 W8 H10", "x") == Layout(8, 10, False, False)
    assert read_header(b"YUV4MPEG2 H10 W8 C420mpeg2 XYSCSS=420MPEG2 XCOLORRANGE=LIMITED Ip", "x") == Layout(
        8, 10, False, False
    )
    assert read_header(b"YUV4MPEG2 W8 H10 Cmono XCOLORRANGE=FULL I?", "x") == Layout(8, 10, True, True)


@given(
    st.binary(max_size=80)
    | st.text("YUV4MPEG2 WHFICX0123456789pj", max_size=60).map(lambda t: b"YUV4MPEG2 " + t.encode())
)
def test_whatever_a_header_says_nothing_but_a_refusal_comes_of_it(line: bytes) -> None:
    try:
        layout = read_header(line, "x")
    except VedetteError as error:
        assert "\n" not in str(error)
    else:
        assert layout.planes(np.zeros(layout.size_bytes, np.uint8)).shape == (layout.height, layout.width, 3)
