"""Snapshots: what is taken, what is hidden in it, and where it goes, up to a disk that is really full."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real import wait_for

from vedette.contract.errors import StateError
from vedette.contract.types import Classes, Detections, Frame, Result, UInt8Array
from vedette.follow.events import Event
from vedette.follow.following import NOTHING, Followed
from vedette.pictures.album import Album
from vedette.pictures.blur import CELLS, blur_boxes, blur_polygons
from vedette.pictures.snapshots import MAX_MESSAGE, QUEUE, SnapshotOptions, Snapshots, crop, encode, encode_within

LABELS = ("person", "traffic light", "face")
SECOND = 1_000_000_000


def noise(height: int = 240, width: int = 320, seed: int = 1) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def frame(seconds: float = 100.0, pixels: UInt8Array | None = None, seq: int = 7) -> Frame:
    return Frame(seq, int(seconds * SECOND), 0, noise() if pixels is None else pixels)


def found(*rows: tuple[int, float, tuple[float, float, float, float]]) -> Detections:
    return Detections(
        np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([class_id for class_id, _, _ in rows], np.int32),
    )


def happened(kind: Any = "zone_entered", **fields: Any) -> Followed:
    return Followed(None, (Event(kind, 0, **fields),), None)


class Taken:
    """Snapshots, and what became of them."""

    def __init__(self, folder: Path | None, thresholds: tuple[float, ...] = (0.5, 0.5, 0.5), **options: Any) -> None:
        self.published: list[bytes] = []
        self.alerts: list[str] = []
        self.connected = True
        self.hold = threading.Event()
        self.hold.set()
        where = {"folder": "" if folder is None else str(folder)}
        self.snapshots = Snapshots(
            msgspec.convert({**where, **options}, SnapshotOptions), "door", LABELS,
            lambda: np.array(thresholds, np.float32), self._publish, self.alerts.append,
            unix_ns=lambda: 1_800_000_000 * SECOND,
        )  # fmt: skip

    def _publish(self, data: bytes) -> bool:
        self.hold.wait(30)
        self.published.append(data)
        return self.connected

    def __enter__(self) -> Taken:
        self.snapshots.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.snapshots.stop(30.0)

    def see(self, result: Result, followed: Followed = NOTHING, **of_frame: Any) -> None:
        self.snapshots.seen(frame(**of_frame), result, followed)

    def wait(self, **counts: int) -> None:
        wait_for(f"{counts}", lambda: self.snapshots.counts() == counts)


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "door").glob("vedette-*.jpg"))


def read(path: Path) -> UInt8Array:
    pixels = cv2.imread(str(path))
    assert pixels is not None
    return pixels  # type: ignore[return-value]


# what is taken


def test_an_event_is_kept_and_published_as_a_jpeg(tmp_path: Path) -> None:
    with Taken(tmp_path, mqtt=True) as taken:
        taken.see(found((0, 0.9, (0.2, 0.2, 0.6, 0.8))), happened(label="traffic light", zone="way-in"))
        taken.wait(kept=1, published=1)
    [path] = pictures(tmp_path)
    assert path.name == "vedette-20270115T080000.000000Z-7-zone-entered-traffic-light-way-in.jpg"
    assert read(path).shape == (240, 320, 3)
    [published] = taken.published
    assert cv2.imdecode(np.frombuffer(published, np.uint8), cv2.IMREAD_COLOR).shape == (240, 320, 3)
    assert taken.alerts == []
    assert list(tmp_path.rglob(".*")) == [], "nothing half written is left"


def test_what_is_not_asked_for_is_not_taken_and_costs_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Taken(tmp_path, events=["wire_crossed"], uncertain=0.0) as taken:
        monkeypatch.setattr("vedette.pictures.snapshots._Shot", None)  # whatever is taken would fail
        taken.see(found((0, 0.5, (0, 0, 1, 1))))
        taken.see(found((0, 0.9, (0, 0, 1, 1))), happened("track_began"))
    assert taken.snapshots.counts() == {}
    assert not tmp_path.joinpath("door").exists()


def test_events_are_not_taken_more_often_than_configured(tmp_path: Path) -> None:
    with Taken(tmp_path, events_every_s=2.0) as taken:
        for number, at_s in enumerate((100.0, 101.9, 102.0, 102.1, 110.0)):
            taken.see(found(), happened(), seconds=at_s, seq=number)
            wait_for("the queue", lambda: taken.snapshots._queue.empty())
        taken.wait(kept=3)
    assert [path.name.split("-")[2] for path in pictures(tmp_path)] == ["0", "2", "4"]


def test_the_uncertain_is_what_is_near_its_threshold_and_is_not_drawn_upon(tmp_path: Path) -> None:
    pixels = np.full((240, 320, 3), 90, np.uint8)
    with Taken(tmp_path, (0.5, 0.8, 2.0), uncertain=0.05, uncertain_every_s=60.0) as taken:
        for number, (class_id, score) in enumerate(((0, 0.56), (0, 0.44), (1, 0.5), (2, 0.99))):
            taken.see(found((class_id, score, (0, 0, 1, 1))), seq=number)
        assert taken.snapshots.counts() == {}
        taken.see(found((0, 0.9, (0, 0, 0.5, 1)), (1, 0.76, (0.2, 0.2, 0.8, 0.8))), seq=10, pixels=pixels)
        taken.see(found((0, 0.5, (0, 0, 1, 1))), seq=11, seconds=159.0)
        taken.see(found((0, 0.5, (0, 0, 1, 1))), seq=12, seconds=160.0)
        taken.wait(kept=2)
    first, second = pictures(tmp_path)
    assert first.name.endswith("-10-uncertain-traffic-light-0.76.jpg")
    assert second.name.endswith("-12-uncertain-person-0.50.jpg")
    assert np.abs(read(first).astype(int) - 90).max() <= 2


def test_a_classifier_is_uncertain_where_its_best_two_are_near(tmp_path: Path) -> None:
    def classes(*scores: float) -> Classes:
        return Classes(np.array(scores, np.float32), np.arange(len(scores), dtype=np.int32))

    with Taken(tmp_path, uncertain=0.1) as taken:
        for result in (classes(), classes(0.3), classes(0.6, 0.3)):
            taken.see(result)
        assert taken.snapshots.counts() == {}
        taken.see(classes(0.45, 0.4, 0.1))
        taken.wait(kept=1)
    assert pictures(tmp_path)[0].name.endswith("-uncertain-person-traffic-light-0.45.jpg")


def test_a_command_takes_the_next_frame_whatever_is_in_it() -> None:
    with Taken(None, mqtt=True) as taken:
        taken.see(found())
        taken.snapshots.ask()
        taken.see(found())
        taken.see(found())
        taken.wait(published=1)
        taken.connected = False
        taken.snapshots.ask()
        taken.see(found())
        taken.wait(published=1, unsent=1)


def test_the_pixels_are_those_of_the_moment_though_the_buffer_is_used_again(tmp_path: Path) -> None:
    pixels = np.full((120, 160, 3), 200, np.uint8)
    with Taken(tmp_path) as taken:
        taken.see(found(), happened(), pixels=pixels)
        pixels[:] = 0
        taken.wait(kept=1)
    assert read(pictures(tmp_path)[0]).min() > 190


def test_what_finds_the_queue_full_is_dropped_and_counted_and_nobody_waits() -> None:
    with Taken(None, mqtt=True, events_every_s=0.0) as taken:
        taken.hold.clear()
        taken.see(found(), happened())
        wait_for("the thread to be busy", taken.snapshots._queue.empty)
        for _ in range(QUEUE + 3):
            taken.see(found(), happened())
        assert taken.snapshots.counts() == {"queue": 3}
        taken.hold.set()
        taken.wait(published=QUEUE + 1, queue=3)


def test_what_is_drawn_is_what_is_reported(tmp_path: Path) -> None:
    grey = np.full((240, 320, 3), 90, np.uint8)
    with Taken(tmp_path, events_every_s=0.0) as taken:
        taken.see(found((0, 0.4, (0.2, 0.2, 0.6, 0.8))), happened(), pixels=grey, seq=1)
        taken.see(found((0, 0.9, (0.2, 0.2, 0.6, 0.8))), happened(), pixels=grey, seq=2)
        taken.wait(kept=2)
    plain, drawn = map(read, pictures(tmp_path))
    assert np.abs(plain.astype(int) - 90).max() <= 2
    assert np.abs(drawn.astype(int) - 90).max() > 50


def test_what_an_event_is_about_is_drawn_though_it_scores_too_little_to_be_reported(tmp_path: Path) -> None:
    grey = np.full((240, 320, 3), 90, np.uint8)
    both = found((0, 0.4, (0.1, 0.2, 0.4, 0.8)), (0, 0.3, (0.6, 0.2, 0.9, 0.8)))
    followed = Followed(np.array([3, 5], np.int32), (Event("track_began", 0, track=5),), None)
    with Taken(tmp_path) as taken:
        taken.see(both, followed, pixels=grey)
        taken.wait(kept=1)
    changed = np.abs(read(pictures(tmp_path)[0]).astype(int) - 90).max(axis=(0, 2)) > 50
    assert not changed[:160].any() and changed[190:].any()


def test_a_fault_while_developing_shows_nothing_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Taken(tmp_path, mqtt=True, events_every_s=0.0) as taken:
        with monkeypatch.context() as patched:
            patched.setattr("vedette.pictures.snapshots.blur_boxes", lambda *_: 1 / 0)
            taken.see(found(), happened())
            taken.wait(fault=1)
        taken.see(found(), happened())
        taken.wait(fault=1, kept=1, published=1)


@pytest.mark.parametrize("options", [{}, {"folder": "", "mqtt": False}, {"uncertain": 0.1}])
def test_a_picture_must_go_somewhere(options: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="a picture must go somewhere"):
        msgspec.convert(options, SnapshotOptions)


def test_a_polygon_without_an_inside_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="blur_zones: expected at least 3 corners"):
        msgspec.convert({"mqtt": True, "blur_zones": [[(0, 0), (1, 1)]]}, SnapshotOptions)


# what a picture holds


def test_a_crop_has_the_margin_and_stays_within_the_frame() -> None:
    pixels = noise(480, 640)
    assert crop(pixels, (0.25, 0.25, 0.75, 0.75), 0.25).shape == (360, 480, 3)
    assert crop(pixels, (0.0, 0.0, 0.01, 0.01), 0.25).shape == (96, 96, 3)
    assert crop(pixels, (0.9, 0.9, 1.2, 1.2), 0.5).shape == (288, 384, 3)
    assert crop(noise(50, 60), (0.4, 0.4, 0.5, 0.5), 0.25).shape == (50, 60, 3)


@given(
    box=st.tuples(*[st.floats(-1.0, 2.0, allow_nan=False)] * 4), margin=st.floats(0, 4), height=st.integers(1, 200),
    width=st.integers(1, 200),
)  # fmt: skip
def test_every_crop_is_a_picture(
    box: tuple[float, float, float, float], margin: float, height: int, width: int
) -> None:
    x0, y0, x1, y1 = box
    taken = crop(np.zeros((height, width, 3), np.uint8), (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), margin)
    assert 0 < taken.shape[0] <= height and 0 < taken.shape[1] <= width


def test_a_crop_of_an_event_is_of_its_box(tmp_path: Path) -> None:
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[:, 320:] = 255
    with Taken(tmp_path, crop=True, margin=0.0, draw=False) as taken:
        taken.see(found(), happened(box=(0.75, 0.25, 1.0, 0.75)), pixels=pixels)
        taken.wait(kept=1)
    picture = read(pictures(tmp_path)[0])
    assert picture.shape == (240, 160, 3) and picture.min() > 250


def test_a_large_frame_is_made_smaller(tmp_path: Path) -> None:
    with Taken(tmp_path, max_side=320) as taken:
        taken.see(found(), happened(), pixels=noise(720, 1280))
        taken.wait(kept=1)
    assert read(pictures(tmp_path)[0]).shape == (180, 320, 3)


def test_what_is_published_stays_under_128_kb_even_of_noise() -> None:
    pixels = noise(1080, 1920)
    assert len(encode(pixels, 85)) > 1_000_000
    data = encode_within(pixels, MAX_MESSAGE)
    assert data is not None and len(data) <= MAX_MESSAGE
    height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert height > 200 and abs(width / height - 16 / 9) < 0.02
    still = np.full((1080, 1920, 3), 128, np.uint8)
    same = encode_within(still, MAX_MESSAGE)
    assert same == encode(still, 85), "what fits is sent as it is"
    assert encode_within(pixels, 100) is None


def test_a_picture_that_cannot_be_made_small_enough_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedette.pictures.snapshots.MAX_MESSAGE", 100)
    with Taken(None, mqtt=True) as taken:
        taken.see(found(), happened())
        taken.wait(too_large=1)
    assert taken.published == []


# what is hidden


def information(pixels: UInt8Array) -> float:
    """How much of the detail is there: mean square of the difference between neighbours."""
    return float(np.square(np.diff(pixels.astype(np.float64), axis=1)).mean())


def test_a_blurred_box_keeps_nothing_but_a_few_averages() -> None:
    pixels = noise(400, 600)
    before = pixels.copy()
    blur_boxes(pixels, np.array([[0.25, 0.25, 0.5, 0.75]], np.float32))
    inside = pixels[100:300, 150:300]
    assert information(inside) < information(before[100:300, 150:300]) / 1000
    assert np.array_equal(pixels[:70], before[:70]) and np.array_equal(pixels[:, 320:], before[:, 320:])
    assert not np.array_equal(pixels[85:100, 140:150], before[85:100, 140:150]), "and a margin around it"
    # two regions with the same averages become the same: what made them differ is gone
    one, other = noise(200, 200, 1), noise(200, 200, 2)
    for cell in np.ndindex(CELLS, CELLS):
        rows, columns = (slice(40 * i, 40 * (i + 1)) for i in cell)
        for channel in range(3):  # the same values in another order
            values = one[rows, columns, channel].ravel()
            other[rows, columns, channel] = np.random.default_rng(3).permutation(values).reshape(40, 40)
    assert not np.array_equal(one, other)
    whole = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
    blur_boxes(one, whole)
    blur_boxes(other, whole)
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_text_in_a_blurred_box_has_no_strokes_left() -> None:
    pixels = np.full((120, 400, 3), 230, np.uint8)
    cv2.putText(pixels, "AB 1234", (10, 85), cv2.FONT_HERSHEY_SIMPLEX, 2.4, (20, 20, 20), 6)
    before = information(pixels)
    blur_boxes(pixels, np.array([[0.0, 0.0, 1.0, 1.0]], np.float32))
    assert information(pixels) < before / 200


def test_a_blurred_polygon_hides_its_inside_up_to_the_edge_and_nothing_far_from_it() -> None:
    pixels = noise(300, 300)
    before = pixels.copy()
    blur_polygons(pixels, [((0.2, 0.2), (0.8, 0.2), (0.2, 0.8))])
    mask = np.zeros((300, 300), np.uint8)
    cv2.fillPoly(mask, [np.array([(60, 60), (240, 60), (60, 240)], np.int32)], 1)
    changed = (pixels != before).any(axis=2)
    assert changed[mask > 0].mean() > 0.98
    assert not changed[cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0].any()
    assert information(pixels[70:100, 70:200]) < information(before[70:100, 70:200]) / 100


@given(
    boxes=st.lists(st.tuples(*[st.floats(-2.0, 3.0)] * 4), max_size=4), height=st.integers(1, 60), width=st.integers(1, 60)
)  # fmt: skip
def test_every_box_can_be_blurred(boxes: list[tuple[float, ...]], height: int, width: int) -> None:
    pixels = noise(height, width)
    blur_boxes(pixels, np.array(boxes, np.float32).reshape(-1, 4))
    assert pixels.shape == (height, width, 3)


def test_chosen_labels_and_zones_are_hidden_in_every_picture_unsure_ones_too(tmp_path: Path) -> None:
    with Taken(
        tmp_path, blur_labels=["face"], blur_zones=[[(0.0, 0.5), (0.4, 0.5), (0.4, 1.0), (0.0, 1.0)]], draw=False,
        quality=100,
    ) as taken:  # fmt: skip
        result = found((0, 0.9, (0.6, 0.6, 0.9, 0.9)), (2, 0.05, (0.1, 0.1, 0.4, 0.4)))
        taken.see(result, happened(), pixels=noise(400, 400))
        taken.wait(kept=1)
    picture = read(pictures(tmp_path)[0])
    detail = information(noise(400, 400))
    assert information(picture[40:160, 40:160]) < detail / 300, "a face, though the network was not sure of it"
    assert information(picture[210:390, 10:150]) < detail / 300, "the zone"
    assert information(picture[250:350, 250:350]) > detail / 3, "a person is nobody's secret here"


# the folder


def test_an_album_keeps_to_its_number_and_the_oldest_go(tmp_path: Path) -> None:
    album = Album(tmp_path, max_files=3, max_bytes=10**6)
    for number in range(7):
        album.add(str(number), b"x" * 10)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"vedette-{n}.jpg" for n in (4, 5, 6)]
    assert album.removed == 4


def test_an_album_keeps_to_its_bytes(tmp_path: Path) -> None:
    album = Album(tmp_path, max_files=100, max_bytes=1000)
    for number in range(20):
        album.add(f"{number:02}", b"x" * (number * 20))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    assert (tmp_path / "vedette-19.jpg").exists()
    with pytest.raises(StateError, match="larger than all may be: expected at most 1000 bytes, found 1001"):
        album.add("20", b"x" * 1001)


def test_an_album_goes_on_with_what_an_earlier_run_left_and_touches_nothing_else(tmp_path: Path) -> None:
    for number, name in enumerate(("vedette-b.jpg", "vedette-a.jpg", "holiday.jpg", "vedette-a.png", "notes.txt")):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (1000 + number, 1000 + number))
    (tmp_path / "vedette-folder.jpg").mkdir()
    (tmp_path / "vedette-link.jpg").symlink_to(tmp_path / "notes.txt")
    album = Album(tmp_path, max_files=2, max_bytes=10**6)
    album.add("c", b"x")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "vedette-a.jpg", "vedette-c.jpg", "holiday.jpg", "vedette-a.png", "notes.txt", "vedette-folder.jpg",
        "vedette-link.jpg",
    }  # fmt: skip
    (tmp_path / "vedette-a.jpg").unlink()
    album.add("d", b"x")
    assert (tmp_path / "vedette-c.jpg").exists()
    assert album.removed == 1, "what somebody else took out is not ours"


def test_a_folder_that_cannot_be_is_an_alert_told_once_until_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "door").write_text("a file where a folder should be")
    with Taken(tmp_path, events_every_s=0.0, mqtt=True) as taken:
        for _ in range(3):
            taken.see(found(), happened())
        taken.wait(disk=3, published=3)
        assert len(taken.alerts) == 1 and "a picture cannot be written" in taken.alerts[0]
        (tmp_path / "door").unlink()
        taken.see(found(), happened())
        taken.wait(disk=3, published=4, kept=1)
        assert len(taken.alerts) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount: a disk that is really full stays untested")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here ({mounted.stderr.strip()}): a disk that is really full stays untested")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_alert_and_no_half_picture_and_it_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 900_000)
    one = len(encode(noise(), 85))
    assert 40_000 < one < 120_000
    with Taken(small_disk, events_every_s=0.0, draw=False) as taken:

        def take(until: Callable[[dict[str, int]], bool]) -> dict[str, int]:
            for number in range(30):
                before = taken.snapshots.counts()
                taken.see(found(), happened(), seq=number)
                wait_for("it to be done", lambda b=before: taken.snapshots.counts() != b)
                if until(taken.snapshots.counts()):
                    return taken.snapshots.counts()
            pytest.fail(f"never: {taken.snapshots.counts()}")

        counts = take(lambda counts: counts.get("disk", 0) >= 3)
        assert counts["kept"] >= 1 and len(taken.alerts) == 1
        assert "No space left on device" in taken.alerts[0]
        kept = pictures(small_disk)
        assert len(kept) == counts["kept"]
        assert all(read(path).shape == (240, 320, 3) for path in kept), "every picture that is there is whole"
        assert not (small_disk / "door" / ".vedette-new").exists()
        ballast.unlink()
        more = take(lambda now: now["kept"] > counts["kept"])
        assert more["disk"] == counts["disk"] and len(taken.alerts) == 1
        ballast.write_bytes(b"x" * 500_000)
        take(lambda now: now["disk"] > counts["disk"])
        assert len(taken.alerts) == 2, "full again is news again"


def test_the_end_waits_for_what_is_under_way(tmp_path: Path) -> None:
    taken = Taken(tmp_path, events_every_s=0.0)
    taken.snapshots.start()
    for number in range(QUEUE):
        taken.see(found(), happened(), seq=number)
    taken.snapshots.stop(30.0)
    assert len(pictures(tmp_path)) == QUEUE
    Taken(tmp_path).snapshots.stop()  # never started


@pytest.mark.parametrize("count", [1, 3, QUEUE + 1])
def test_what_the_end_does_not_wait_for_is_counted(count: int) -> None:
    with Taken(None, mqtt=True, events_every_s=0.0) as taken:
        taken.hold.clear()
        for number in range(count):
            taken.see(found(), happened(), seconds=100.0 + number)
            if not number:
                wait_for("the first to be begun with", lambda: taken.snapshots._queue.empty())
        taken.snapshots.stop(0.05)
        assert taken.snapshots.counts() == {"unfinished": count}
