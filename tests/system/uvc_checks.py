"""Checks for a guest whose kernel is shown a USB camera: see guest_checks.py and usb_camera.py."""

from __future__ import annotations

import time

import cv2
import numpy as np
from usb_camera import UsbCamera, number_of, picture
from v4l2_checks import await_that, frames, opened, refusal, warnings

from vedette import clock
from vedette.contract.bgr import in_bgr
from vedette.contract.errors import SourceError, SourceLostError, SourceStalledError, UndecodableError
from vedette.contract.types import Jpeg, Picture
from vedette.sources import STOPPED, Grabber, Outcome, Source, SourceOptions, Tap, make_source
from vedette.sources.v4l2 import DOUBTED, MAX_BROKEN, V4l2Source

CAMERA = UsbCamera()
SIZE = (320, 240)


def url(fourcc: str = "MJPG", fps: int = 20, size: tuple[int, int] = SIZE) -> str:
    """Of the camera, which sends what it has from here on."""
    CAMERA.send(None)
    CAMERA.send_instead()
    return f"v4l2://{CAMERA.devices()[0]}?width={size[0]}&height={size[1]}&fps={fps}&fourcc={fourcc}"


def numbers(pictures: list[Picture]) -> list[int]:
    """Of frames that were read, which ascend."""
    found = [number_of(in_bgr(shown)) for shown in pictures]
    assert found == sorted(set(found)), found
    return found


def hold(source: Source) -> None:
    """From here on the camera sends what it is told to, and all that it has sent was read."""
    shown = frames(source, 1)[0]
    CAMERA.send(0)
    try:
        while number_of(in_bgr(shown)) < max(CAMERA.sent):
            shown = frames(source, 1)[0]
    except SourceStalledError:
        """The newest one found no buffer that was free, and is not there."""


def next_one(source: Source) -> Picture:
    """The camera sends one more."""
    CAMERA.send(1)
    return frames(source, 1)[0]


def check_jpeg_is_left_as_it_came() -> None:
    """Also of those that were read before: nobody writes over them."""
    del warnings[:]
    with opened(url(size=(640, 480))) as source:
        seen = frames(source, 8)
        sent = dict(CAMERA.sent)
    for number, jpeg in zip(numbers(seen), seen, strict=True):
        assert isinstance(jpeg, Jpeg) and jpeg.shape == (480, 640, 3)
        assert jpeg.data.tobytes() == sent[number]
        shown = cv2.imdecode(np.frombuffer(sent[number], np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None and (in_bgr(jpeg) == shown).all()
    assert warnings == [], warnings


def check_the_camera_does_what_it_is_asked_for() -> None:
    """And what it does not have, is told."""
    del warnings[:]
    for fourcc, fps, size in (("MJPG", 20, (640, 480)), ("YUYV", 30, (320, 240)), ("MJPG", 10, (320, 240))):
        with opened(url(fourcc, fps, size)) as source:
            shown = frames(source, 1)[0]
            assert shown.shape == (size[1], size[0], 3) and isinstance(shown, Jpeg) is (fourcc == "MJPG")
            assert round(CAMERA.rate) == fps, CAMERA.rate
    assert warnings == [], warnings
    with opened(url("MJPG", 15, (320, 200))) as source:
        assert frames(source, 1)[0].shape == (240, 320, 3)
    assert len(warnings) == 1 and "asked for 320x200, 15 fps, the camera gives 320x240, 20 fps;" in warnings[0], (
        warnings
    )


def check_frames_are_passed_over() -> None:
    """Of JPEG and of YUV; the picture is that of the newest, and no frame is given twice."""
    for fourcc in ("MJPG", "YUYV"):
        with opened(url(fourcc)) as source:
            assert isinstance(source, V4l2Source)
            hold(source)
            for _ in range(4):
                CAMERA.send(1)
                source.pass_over()
            before = max(CAMERA.sent)
            reading = source.picture(None)
            assert reading is not None and isinstance(reading.pixels, Jpeg) is (fourcc == "MJPG")
            seen = [reading.pixels, next_one(source), next_one(source)]
            assert numbers(seen)[0] == before and number_of(in_bgr(seen[-1])) == max(CAMERA.sent)
            assert source.undecodable == 0


def check_unwanted_frames_are_let_go_and_counted() -> None:
    """Through the grabber: each frame has been given, replaced or let go."""
    grabber = _grabber()
    grabber.start()
    seen = [_taken(grabber), _taken(grabber)]
    grabber.not_before("rate_cap", clock.now_ns() + int(3600e9))
    await_that(lambda: grabber.passed("rate_cap") >= 10)
    grabber.not_before("rate_cap", 0)
    seen += [_taken(grabber) for _ in range(3)]
    grabber.stop()
    left = grabber.slot.get(0)
    numbers(seen + ([left.pixels] if left is not None else []))
    status, passed = grabber.status(), grabber.passed("rate_cap") + grabber.passed(STOPPED)
    print("   ", status, passed)
    assert status.frames == len(seen) + (left is not None) + status.stale + passed


def check_what_is_no_jpeg_is_passed_over_and_counted() -> None:
    """As long as it is not too many in a row."""
    del warnings[:]
    whole = cv2.imencode(".jpg", picture(0, *SIZE))[1].tobytes()
    with opened(url()) as source:
        assert isinstance(source, V4l2Source)
        hold(source)
        seen = [next_one(source)]
        for broken in (b"no JPEG", whole[:300]):
            CAMERA.send_instead(broken)
            CAMERA.send(2)
            seen += frames(source, 1)
        numbers(seen)
        assert source.undecodable == 2
        assert len(warnings) == 2 and all("a frame could not be decoded" in said for said in warnings), warnings
        CAMERA.send_instead(*[b"no JPEG"] * 10 * MAX_BROKEN)
        CAMERA.send(None)
        refusal(SourceLostError, f"could not be decoded: found {MAX_BROKEN + 1} in a row", lambda: frames(source, 1))


def check_what_breaks_off_is_given_and_cannot_be_decoded() -> None:
    """A JPEG is read as far as the picture begins; who looks at the picture finds out."""
    whole = cv2.imencode(".jpg", picture(0, *SIZE))[1].tobytes()
    with opened(url()) as source:
        assert isinstance(source, V4l2Source)
        hold(source)
        CAMERA.send_instead(whole[: len(whole) // 2])
        broken = next_one(source)
        assert isinstance(broken, Jpeg) and broken.shape == (240, 320, 3)
        refusal(UndecodableError, "a JPEG that cannot be decoded", lambda: in_bgr(broken))
        numbers([next_one(source)])
        assert source.undecodable == 0


def check_a_camera_that_leaves_out_the_end_of_each() -> None:
    """The marker, two bytes, without which OpenCV from 4.12 on decodes none. One that works is not taken for such a one."""
    whole = cv2.imencode(".jpg", picture(0, *SIZE))[1].tobytes()
    source = make_source(SourceOptions(url()))
    assert isinstance(source, V4l2Source)
    try:
        source.open()
        CAMERA.send_instead(b"OpenCV takes the first one", *[whole[:-2]] * (DOUBTED - 1))
        assert all(isinstance(shown, Jpeg) for shown in frames(source, 3))
        source.close()
        CAMERA.left_out = 2
        for _ in range(2):
            source.open()
            seen = frames(source, 3)
            numbers(seen)
            assert all(isinstance(shown, np.ndarray) and shown.shape == (240, 320, 3) for shown in seen)
            source.close()
        assert DOUBTED <= source.undecodable < 2 * DOUBTED, "the second time it was known"
    finally:
        source.close()
        CAMERA.left_out = 0


def check_a_camera_that_hangs() -> None:
    """And goes on."""
    with opened(url(), read_timeout_s=1.0) as source:
        seen = frames(source, 3)
        CAMERA.send(0)
        refusal(SourceStalledError, r"/dev/video\d+: no frame for 1 s", lambda: frames(source, 5))
        CAMERA.send(None)
        numbers(seen + frames(source, 3))


def check_a_camera_that_hangs_from_the_beginning() -> None:
    """And begins after all, without being opened again."""
    with opened(url(), read_timeout_s=2.0) as source:
        CAMERA.send(0)
        begun = time.monotonic()
        refusal(SourceStalledError, r"/dev/video\d+: no frame for 2 s", lambda: frames(source, 1))
        assert time.monotonic() - begun < 8, "OpenCV itself waits for 10 s"
        CAMERA.send(None)
        numbers(frames(source, 3))


def check_a_camera_that_refuses_to_stream() -> None:
    """As where the bus has no room for another one; it is there all the same."""
    with opened(url()) as source:
        CAMERA.refuses = True
        try:
            refusal(SourceLostError, r"/dev/video\d+: does not stream: found an error", lambda: frames(source, 1))
        finally:
            CAMERA.refuses = False


def check_a_usb_camera_unplugged_and_back() -> None:
    """Through the grabber; those who hold frames still have them."""
    grabber = _grabber()
    grabber.start()
    seen = [_taken(grabber) for _ in range(3)]
    CAMERA.unplug()
    await_that(lambda: grabber.status().outcome is Outcome.LOST)
    print("   ", grabber.status().why)
    assert not CAMERA.devices()
    numbers(seen)
    CAMERA.plug()
    await_that(lambda: grabber.status().outcome is None and grabber.status().reopened == 1)
    grabber.slot.get(0)  # of before
    numbers([_taken(grabber) for _ in range(3)])
    grabber.stop()
    assert grabber.passed("undecodable") == 0


def check_what_a_usb_camera_has_beside_pictures() -> None:
    """Another node, of the same name."""
    device = CAMERA.devices()[1]
    refusal(
        SourceError,
        "captures video, found another node of 'Vedette",
        make_source(SourceOptions(f"v4l2://{device}")).open,
    )


def _grabber() -> Tap:
    grabber = Grabber(make_source(SourceOptions(url())), name="usb", stall_timeout_s=60.0, frozen_timeout_s=10.0)
    return grabber.tap(lambda _outcome, why: print("   ", why))


def _taken(grabber: Tap) -> Picture:
    frame = grabber.slot.get(20)
    assert frame is not None and 0 <= clock.now_ns() - frame.captured_ns < 10e9
    return frame.pixels


def prepare() -> None:
    """The camera is plugged in."""
    CAMERA.plug()


def clear_up() -> None:
    """And pulled."""
    CAMERA.unplug()
