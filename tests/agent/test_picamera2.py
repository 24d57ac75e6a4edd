"""``picamera2://`` with a module of that name that stands in for library and camera: neither is here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vedette.contract.errors import MissingPackageError, SourceError, SourceLostError, SourceStalledError
from vedette.sources import Source, SourceOptions, make_source

FAKE = Path(__file__).with_name("fake_picamera2")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No test sees another one's module."""
    sys.modules.pop("picamera2", None)
    yield
    sys.modules.pop("picamera2", None)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in."""
    monkeypatch.syspath_prepend(str(FAKE))
    return importlib.import_module("picamera2")


def source_of(url: str = "picamera2://0", **options: Any) -> Source:
    return make_source(SourceOptions(url, **options))


def test_frames_and_what_the_camera_is_asked_for(library: ModuleType) -> None:
    source = source_of("picamera2://1?width=320&fps=12.5", height=200)
    library.plan["cameras"] = 2
    source.open()
    camera = library.opened[-1]
    assert camera.number == 1
    assert camera.configuration == {"main": {"size": (320, 200), "format": "RGB888"}, "controls": {"FrameRate": 12.5}}
    for number in (1, 2, 3):
        reading = source.read(None)
        assert reading is not None and reading.pixels.shape == (200, 320, 3) and reading.pixels[0, 0, 0] == number
        assert reading.capture_ns >= 40_000_000, "from the sensor's own stamp on"
        assert camera.held == 0, "every request goes back to the camera"
    source.close()
    source.close()
    assert camera.closed
    assert source.live and source.endless


def test_a_size_of_its_own(library: ModuleType) -> None:
    source = source_of()
    source.open()
    assert library.opened[-1].configuration == {"main": {"size": (640, 480), "format": "RGB888"}, "controls": {}}
    source.close()


@pytest.mark.parametrize(
    ("plan", "error", "said"),
    [
        ({"frames": 1, "error": TimeoutError()}, SourceStalledError, "no frame for 5 s"),
        ({"frames": 1, "error": RuntimeError("Camera frontend has timed out")}, SourceLostError, "has timed out"),
        (
            {"channels": 4, "frames": 9},
            SourceLostError,
            r"expected \(height, width, 3\) uint8, found \(480, 640, 4\) uint8",
        ),
    ],
)
def test_a_camera_that_fails_while_it_is_read(
    library: ModuleType, plan: dict[str, Any], error: type[Exception], said: str
) -> None:
    library.plan.update(plan)
    source = source_of()
    source.open()
    if "channels" not in plan:
        source.read(None)
    with pytest.raises(error, match=said):
        source.read(None)
    assert library.opened[-1].held == 0
    source.close()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"cameras": 0}, "no such camera: found 0 cameras; rpicam-hello --list-cameras"),
        ({"busy": "Camera in use by another process"}, "picamera2://0: cannot be opened: found Camera in use"),
    ],
)
def test_a_camera_that_cannot_be_opened(library: ModuleType, plan: dict[str, Any], said: str) -> None:
    library.plan.update(plan)
    source = source_of()
    with pytest.raises(SourceLostError, match=said):
        source.open()
    source.close()


def test_no_library_says_what_to_do() -> None:
    with pytest.raises(MissingPackageError) as caught:
        source_of("picamera2://1")
    line = str(caught.value)
    assert "apt install python3-picamera2" in line and "numpy<2" in line and "rpicam://1" in line


def test_the_clash_with_numpy_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clash = "numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88"
    (tmp_path / "picamera2.py").write_text(f"raise ValueError({clash!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPackageError) as caught:
        source_of()
    line = str(caught.value)
    assert clash in line and "numpy 1" in line and "rpicam://0" in line


def test_the_library_is_not_imported_before_it_is_used(library: ModuleType) -> None:
    sys.modules.pop("picamera2")
    source_of("rpicam://0")
    assert "picamera2" not in sys.modules


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("picamera2://", "no number"),
        ("picamera2://imx219", "imx219"),
        ("picamera2://0?stride=640", "unknown key"),
        ("picamera2://0?width=641&height=480", "even width"),
    ],
)
def test_a_url_that_cannot_be(library: ModuleType, url: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        source_of(url)
