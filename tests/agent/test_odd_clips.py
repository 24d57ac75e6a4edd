"""Videos as they come from elsewhere: interlaced, damaged, of a codec nobody decodes, of frames at odd times."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real import Agent, BrokerAddress, Subscriber, agent_config, run_cli, wait_for, write_pictures
from test_pipeline import Run, detector
from test_sources import Watched, read_all

from vedette.contract.errors import SourceError, SourceLostError
from vedette.contract.types import Frame, Result
from vedette.demo.broker import LOOPBACK, free_port
from vedette.follow.events import Event
from vedette.follow.following import Followed, State, Unfollowed
from vedette.follow.steady import SensorState
from vedette.messages.reporter import NoAudience
from vedette.sources import UNDECODABLE, Outcome, Source, SourceOptions, make_source, video
from vedette.sources import pace as pace_module
from vedette.sources.capture import open_capture
from vedette.sources.interlaced import allows_interlaced, may_be_interlaced
from vedette.sources.pace import Pace

SIZE = (64, 96)  # height, width
FPS = 20

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A clip that FFmpeg makes: its name, and what it is told between input and output."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("ffmpeg is not installed: it makes the clips")
    folder = tmp_path_factory.mktemp("clips")

    def clip(name: str, *options: str, seconds: float = 1.0) -> Path:
        source = f"testsrc2=size={SIZE[1]}x{SIZE[0]}:rate={FPS}:duration={seconds}"
        command = [program, "-y", "-loglevel", "error", "-f", "lavfi", "-i", source, *options, str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"this ffmpeg does not make {name}: {done.stderr.strip()[-200:]}")
        return folder / name

    return clip


MPEG2 = ("-pix_fmt", "yuv420p", "-c:v", "mpeg2video", "-q:v", "2")


@pytest.fixture(scope="module")
def interlaced(make: Make) -> Path:
    return make("interlaced.ts", *MPEG2, "-flags", "+ilme+ildct", seconds=10.0)


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not to stderr."""


@contextlib.contextmanager
def serving(file: Path) -> Iterator[str]:
    """Its address; a camera is played by a file that is served."""
    handler = functools.partial(QuietFiles, directory=str(file.parent))
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}/{file.name}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def served(interlaced: Path) -> Iterator[str]:
    with serving(interlaced) as url:
        yield url


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_a_clip_over_http_begins_with_its_first_frame(make: Make, name: str) -> None:
    clip = make(name, "-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "10")
    frames: list[Any] = []
    with serving(clip) as url, contextlib.closing(make_source(SourceOptions(url, open_timeout_s=10.0))) as source:
        source.open()
        with pytest.raises(SourceLostError, match=r"broke off|no stream: found a file of \d+ frames"):
            while (reading := source.read(None)) is not None:
                frames.append(reading.pixels)
    local = opened(clip)
    assert len(frames) == FPS
    assert all((ours == theirs).all() for ours, theirs in zip(frames, read_all(local), strict=True))
    local.close()


def opened(clip: object) -> Source:
    source = make_source(SourceOptions(str(clip), pace="max"))
    source.open()
    return source


def test_interlaced_video_is_seen_or_refused_in_words(interlaced: Path, make: Make) -> None:
    """OpenCV from 4.13 on hands out memory that nobody wrote to, and says that all went well."""
    progressive = opened(make("progressive.ts", *MPEG2))
    expected = progressive.read(None)
    progressive.close()
    assert expected is not None
    try:
        source = opened(interlaced)
    except SourceError as error:
        assert "interlaced video" in error.found and "progressive" in error.fix
    else:
        seen = source.read(None)
        source.close()
        assert seen is not None
        assert np.abs(seen.pixels.astype(int) - expected.pixels.astype(int)).mean() < 16


@pytest.fixture
def unseen(interlaced: Path) -> Path:
    try:
        opened(interlaced).close()
    except SourceError:
        return interlaced
    pytest.skip("this OpenCV makes pictures of interlaced video")


def test_an_interlaced_camera_is_lost_until_it_is_set_otherwise(unseen: Path, served: str) -> None:
    with Watched(make_source(SourceOptions(served))) as watched:
        wait_for("the loss", lambda: watched.outcome() is Outcome.LOST)
        assert watched.grabber.slot.empty
        assert "set the camera to progressive" in watched.grabber.status().why


def test_check_finds_interlaced_video(unseen: Path, tmp_path: Path) -> None:
    outcome = run_cli("check", "-c", agent_config(tmp_path, free_port(), f'url = "{unseen}"'))
    assert (outcome.returncode, outcome.stderr) == (2, "")
    assert outcome.stdout.splitlines()[3].endswith("pip install 'opencv-python-headless<4.13'"), outcome.stdout


H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt")


@pytest.mark.parametrize("name", ["mp4", "ts"])
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ((*H264, "yuv420p", "-flags", "+ilme+ildct"), True),
        ((*H264, "yuv444p", "-flags", "+ilme+ildct", "-x264-params", "cqm=jvt"), True),
        ((*H264, "yuv420p"), False),
        ((*H264, "yuv444p", "-x264-params", "cqm=jvt"), False),
        ((*H264, "yuv420p", "-profile:v", "high", "-x264-params", "cqm=jvt:8x8dct=1"), False),
        (MPEG2, False),
        ((*MPEG2, "-flags", "+ilme+ildct"), True),
        (("-c:v", "mpeg4"), False),
        (("-c:v", "libx265", "-x265-params", "log-level=error"), False),
    ],
)
def test_a_header_says_whether_frames_may_be_interlaced(
    make: Make, name: str, options: tuple[str, ...], allowed: bool
) -> None:
    clip = make(f"header.{name}", *options, seconds=0.5)
    capture = open_capture(str(clip))
    assert capture is not None
    assert may_be_interlaced(capture) is allowed
    capture.release()


@pytest.mark.parametrize(
    "header",
    [b"", b"\x00\x00\x01\x67", b"\x01\x64\x00\x1f\xff\xe1\x00\x17\x67\x64", b"\x00\x00\x01\xb5\x14", bytes(64)],
)
def test_a_malformed_header_allows_nothing(header: bytes) -> None:
    assert not allows_interlaced(header)


# --- Damaged ---

DAMAGED = (5, 6, 7, 13)  # frames of `damaged`, from 0


@pytest.fixture(scope="module")
def damaged(make: Make) -> Path:
    """A second of pictures, some of which are none."""
    whole = make("whole.avi", "-c:v", "mjpeg", "-q:v", "3")
    content = bytearray(whole.read_bytes())
    begins = [found.start() for found in re.finditer(rb"00dc.{4}\xff\xd8\xff", content, re.DOTALL)]
    assert len(begins) == FPS
    for number in DAMAGED:
        content[begins[number] + 8 : begins[number] + 600] = bytes(592)
    clip = whole.with_name("damaged.avi")
    clip.write_bytes(content)
    return clip


def test_what_cannot_be_decoded_is_passed_over_counted_and_said_once(
    damaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Watched(make_source(SourceOptions(str(damaged), pace="max"))) as watched:
        frames = watched.all_frames()
        status = watched.grabber.status()
    assert [frame.seq for frame in frames] == list(range(1, FPS - len(DAMAGED) + 1))
    assert watched.grabber.passed(UNDECODABLE) == len(DAMAGED)
    assert (status.frames, status.outcome) == (FPS, Outcome.END)
    assert status.why == f"read to its end; {len(DAMAGED)} could not be decoded"
    assert caplog.text.count("damaged.avi") == 1


@pytest.mark.parametrize("pace", ["native", "max"])
def test_a_damaged_clip_goes_round_again(damaged: Path, pace: Any) -> None:
    with Watched(make_source(SourceOptions(str(damaged), loop=True, pace=pace))) as watched:
        wait_for("two rounds", lambda: watched.frame().seq > 2 * FPS)
        assert watched.grabber.passed(UNDECODABLE) >= 2 * len(DAMAGED)
        assert watched.said == []


def test_a_damaged_spot_longer_than_the_bound_is_the_end(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_BROKEN", 2)
    source = opened(damaged)
    assert len(read_all(source)) == DAMAGED[0]
    source.close()


def test_what_a_source_could_not_decode_is_in_the_statistics(damaged: Path) -> None:
    source = make_source(SourceOptions(str(damaged), pace="max"))
    run = Run(detector([0.9], [0]), [], source=source).to_the_end()
    assert run.stats.dropped() == {"undecodable": len(DAMAGED)}


@pytest.fixture
def partly(tmp_path: Path) -> Path:
    """A folder of four pictures, one of which is none."""
    write_pictures(tmp_path, 4)
    (tmp_path / "002.png").write_bytes(b"rubbish")
    return tmp_path


def test_pictures_passed_over_are_in_the_statistics(partly: Path) -> None:
    run = Run(detector([0.9], [0]), [], source=make_source(SourceOptions(str(partly), pace="max"))).to_the_end()
    assert run.stats.dropped() == {"undecodable": 1}
    status = run.grabber.status()
    assert (status.frames, status.why) == (4, "read to its end; 1 could not be decoded")


def test_pictures_passed_over_are_counted_each_time(partly: Path) -> None:
    with Watched(make_source(SourceOptions(str(partly), pace="max", loop=True))) as watched:
        wait_for("two rounds", lambda: watched.frame().seq > 6)
        assert watched.grabber.passed(UNDECODABLE) >= 2


# --- Nothing in it that can be decoded ---


@pytest.fixture(scope="module")
def undecodable(make: Make) -> Path:
    """A video without one frame that can be decoded, as of a codec that nobody knows here."""
    whole = make("unknown.avi", "-c:v", "mjpeg", "-q:v", "3")
    content = whole.read_bytes()
    clip = whole.with_name("undecodable.avi")
    clip.write_bytes(
        re.sub(rb"(00dc.{4})\xff\xd8\xff.{300}", lambda found: found[1] + bytes(303), content, flags=re.DOTALL)
    )
    return clip


@pytest.fixture(params=["video", "folder"])
def nothing(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A source that can be opened and gives nothing."""
    if request.param == "video":
        clip: Path = request.getfixturevalue("undecodable")
        return clip
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"rubbish")
    return tmp_path


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("pace", ["native", "max"])
def test_a_source_of_nothing_is_lost_not_read_to_its_end(nothing: Path, loop: bool, pace: Any) -> None:
    with Watched(make_source(SourceOptions(str(nothing), loop=loop, pace=pace, fps=1000.0))) as watched:
        wait_for("the loss", lambda: watched.outcome() is not None)
        status = watched.grabber.status()
    assert (status.outcome, watched.grabber.slot.empty) == (Outcome.LOST, True)
    assert "not one" in status.why and str(nothing) in status.why


def test_check_finds_a_video_that_nobody_decodes(undecodable: Path, tmp_path: Path) -> None:
    outcome = run_cli("check", "-c", agent_config(tmp_path, free_port(), f'url = "{undecodable}"'))
    assert outcome.returncode == 2
    assert "not one frame could be decoded: " in outcome.stdout and "MJPG" in outcome.stdout


# --- Frames at odd times ---


class FakeTime:
    """Time that passes while somebody sleeps, and at no other time."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def played(clip: Path, monkeypatch: pytest.MonkeyPatch, *, frames: int = 1000, loop: bool = False) -> list[int]:
    """When its frames come at its own pace, milliseconds after the first."""
    passing = FakeTime()
    monkeypatch.setattr(pace_module, "time", passing)
    source = make_source(SourceOptions(str(clip), loop=loop))
    source.open()
    came_ns = []
    while len(came_ns) < frames and source.read(None) is not None:
        came_ns.append(passing.now_ns)
    source.close()
    return [round((at_ns - came_ns[0]) / 1e6) for at_ns in came_ns]


CHOSEN = (0, 1, 2, 3, 7, 14)  # frames of `uneven`, of those that come evenly


@pytest.fixture(scope="module")
def uneven(make: Make) -> Path:
    chosen = "+".join(f"eq(n\\,{number})" for number in CHOSEN)
    return make("uneven.mkv", "-vf", f"select={chosen}", "-fps_mode", "vfr", "-c:v", "mjpeg", "-q:v", "3")


def test_a_video_of_uneven_frames_is_played_at_its_own_speed(uneven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert played(uneven, monkeypatch) == [number * 1000 // FPS for number in CHOSEN]


def test_what_cannot_be_decoded_takes_its_time_all_the_same(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [number * 1000 // FPS for number in range(FPS)]
    assert played(damaged, monkeypatch) == [at for number, at in enumerate(whole) if number not in DAMAGED]


def test_a_video_that_begins_again_goes_on_after_a_frames_time(uneven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = played(uneven, monkeypatch, frames=2 * len(CHOSEN), loop=True)[len(CHOSEN) :]
    assert [at - again[0] for at in again] == [number * 1000 // FPS for number in CHOSEN]
    assert again[0] > CHOSEN[-1] * 1000 // FPS


def test_a_video_without_times_is_played_at_its_rate(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make("timeless.m2v", *MPEG2, "-r", "25")
    came = played(clip, monkeypatch)
    assert len(came) >= FPS
    assert came == pytest.approx([number * 40 for number in range(len(came))], abs=2)


@pytest.mark.parametrize("jump_s", [-3.0, 0.0, 100_000.0])
def test_a_time_that_jumps_is_not_believed(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a recording was cut, or the 33 bits of an MPEG transport stream's clock begin again."""
    passing = FakeTime()
    monkeypatch.setattr(pace_module, "time", passing)
    pace = Pace(0.04)
    came_ns = []
    for at_s in (5.0, 5.1, 5.1 + jump_s, 5.3 + jump_s):
        pace.wait(round(at_s * 1e9))
        came_ns.append(passing.now_ns)
    assert [(at_ns - came_ns[0]) // 1_000_000 for at_ns in came_ns] == [0, 100, 140, 340]


# --- Read flat out ---


def moments(frames: list[Frame]) -> list[int]:
    """Milliseconds of the scene's time since the first."""
    return [(frame.scene_ns - frames[0].scene_ns) // 1_000_000 for frame in frames]


def test_flat_out_the_scene_has_its_own_time(uneven: Path) -> None:
    with Watched(make_source(SourceOptions(str(uneven), pace="max"))) as watched:
        frames = watched.all_frames()
    assert moments(frames) == [number * 1000 // FPS for number in CHOSEN]
    assert frames[0].ahead_ns == 0
    assert frames[-1].without_pixels().scene_ns == frames[-1].scene_ns


def test_flat_out_the_scenes_time_goes_on_where_the_file_begins_again(uneven: Path) -> None:
    with Watched(make_source(SourceOptions(str(uneven), pace="max", loop=True))) as watched:
        came = moments([watched.frame() for _ in range(2 * len(CHOSEN))])
    again = came[len(CHOSEN) :]
    assert again[0] > CHOSEN[-1] * 1000 // FPS
    assert [at - again[0] for at in again] == [number * 1000 // FPS for number in CHOSEN]


def test_pictures_of_a_folder_flat_out_are_as_far_apart_as_at_their_pace(partly: Path) -> None:
    with Watched(make_source(SourceOptions(str(partly), pace="max", fps=4.0))) as watched:
        assert moments(watched.all_frames()) == [0, 250, 750]


def test_at_its_own_pace_the_scenes_time_is_the_clocks(uneven: Path) -> None:
    with Watched(make_source(SourceOptions(str(uneven)))) as watched:
        assert {frame.ahead_ns for frame in watched.all_frames()} == {0}


class Noting(Unfollowed):
    """Says of each frame after the first that something began at the first."""

    def __init__(self) -> None:
        self.heard_ns: list[int] = []

    def __call__(self, result: Result, captured_ns: int) -> Followed:
        self.heard_ns.append(captured_ns)
        state = SensorState("cat", 0.9, since_ns=self.heard_ns[0])
        events = (Event("class_changed", self.heard_ns[0], "cat", previous=None),)
        return Followed(None, events if len(self.heard_ns) > 1 else (), state)


class Stated(NoAudience):
    """Hears since when states hold, in milliseconds."""

    def __init__(self) -> None:
        self.ago_ms: list[int] = []

    def state(self, state: State, captured_ns: int) -> None:
        assert isinstance(state, SensorState) and state.since_ns is not None
        self.ago_ms.append((captured_ns - state.since_ns) // 1_000_000)


def test_flat_out_events_and_states_go_by_the_scenes_time(uneven: Path) -> None:
    following, audience = Noting(), Stated()
    source = make_source(SourceOptions(str(uneven), pace="max"))
    run = Run(detector([0.9], [0]), [], source=source, following=following, audience=audience).to_the_end()
    due = [number * 1000 // FPS for number in CHOSEN]
    assert [(at_ns - following.heard_ns[0]) // 1_000_000 for at_ns in following.heard_ns] == due
    assert audience.ago_ms == due
    told = [message["ago_s"] for message in run.messages() if "kind" in message]
    assert told == [at / 1000 for at in due[1:]]


# --- Too small ---


@pytest.fixture(scope="module")
def tiny(make: Make) -> Path:
    return make("tiny.mkv", "-vf", "scale=2:2", "-c:v", "ffv1")


def test_check_finds_a_video_that_no_model_takes(tiny: Path, tmp_path: Path) -> None:
    outcome = run_cli("check", "-c", agent_config(tmp_path, free_port(), f'url = "{tiny}"'))
    assert outcome.returncode == 2
    assert "at least 8x8 pixels, found 2x2" in outcome.stdout.splitlines()[3]


def test_a_source_whose_every_frame_is_unfit_is_an_alert(tiny: Path, tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(
        tmp_path, broker.port, f'url = "{tiny}"\nloop = true', mqtt=f'protocol = "{broker.protocols[0]}"'
    )
    with Subscriber(broker.port) as subscriber, Agent(config):
        why = subscriber.wait("/status", lambda status: status["state"] == "alert").json["why"]
    assert why == "door: no frame can be used: picture too small: expected at least 8x8 pixels, found 2x2"
