"""Every entrance takes what is good and refuses what is not: no traceback, no hang. No fuzzer is needed.

A few dozen inputs of each kind; VEDETTE_FUZZ=2000 for a thorough run. ``make fuzz`` adds what atheris finds.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from entrances import ENTRANCES, UnfitError, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutated

from vedette.contract.errors import ConfigError, UserError, VedetteError

EXAMPLES = int(os.environ.get("VEDETTE_FUZZ", "25"))
UNHURRIED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", ENTRANCES)
def test_what_is_good_and_what_is_not(name: str, tmp_path: Path) -> None:
    entrance = ENTRANCES[name]
    for part in ("seeds", "used"):
        (tmp_path / part).mkdir()
    seeds = entrance.seeds(tmp_path / "seeds")
    take = entrance.made(tmp_path / "used")
    for raw in (b"", *seeds):
        take(raw)

    @UNHURRIED
    @given(mutated(seeds))
    def take_what_hypothesis_likes(data: bytes) -> None:
        take(data)

    take_what_hypothesis_likes()


def _broken_schema(folder: Path) -> bytes:
    return ENTRANCES["outbox.sqlite"].seeds(folder)[0].replace(b"captured_ns INTEGER", b'captured\xb7" INTEGE')


BOMB = base64.b64decode(
    "/9j/4AABKAAAAQAA/9sAQwACAQEBAQECAQEBAgICAgIDAQICAgUEBAMEBgUGBgY9BQY9BgYAAD0AAAAA/fn39PcJCgoKCgoGCAsMCwoMCQoK"
    "Cv/bAEMBAgICAk0CBQkDBQoHBgcKbnVsbAoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCv/AABEITmFOAAMB"
    "IgACEQEDEQE9xAAf/9oADAMBAAIRAxEIGEkj/9k="
)
"""A JPEG of 19,968 x 20,065 pixels, by what OpenCV makes of it."""


def _huge_account(folder: Path) -> bytes:
    return ENTRANCES["epoch.json"].seeds(folder)[1].replace(b'"waiting":1', b'"waiting":%d' % 2**70)


def _huge_tally(folder: Path) -> bytes:
    raw = bytearray(ENTRANCES["outbox.tally"].seeds(folder)[1])  # which is sealed anew
    raw[64 + 8 : 64 + 16] = b"\xff" * 8
    return bytes(raw)


FINDS = {
    "a command line that is no UTF-8": ("url", lambda folder: b"mqtt://u\xffs:p@host/a\xff"),
    "a path that is too long": ("url", lambda folder: b"s" * 5000),
    "a schema that is no UTF-8": ("outbox.sqlite", _broken_schema),
    "a message that is no UTF-8": ("heard", lambda folder: b'\x04{"\xed":1}'),
    "a key with an end of line": ("epoch.json", lambda folder: b'{"a\nb":1}'),
    # the loss was noticed when the time to answer was over, and here that is longer than a test may take
    "a message before SUBACK": ("mqtt packets", lambda folder: b"\x07" + bytes.fromhex("3207 0001 74 0001 7b7d")),
    "a picture that would take 2.4 GB": ("picture", lambda folder: BOMB),
    "an account of an endless number": ("epoch.json", _huge_account),
    "a tally of an endless number": ("outbox.tally", _huge_tally),
    "deep nesting": ("state files", lambda folder: b"\1" + b"[" * 100_000),
}
"""What was a traceback, or two lines, when it was first tried."""


@pytest.mark.parametrize("find", FINDS)
def test_what_was_found_once(find: str, tmp_path: Path) -> None:
    name, make = FINDS[find]
    for part in ("seeds", "used"):
        (tmp_path / part).mkdir()
    ENTRANCES[name].made(tmp_path / "used")(make(tmp_path / "seeds"))


def test_opencv_refuses_what_is_too_large_before_it_asks_for_memory(tmp_path: Path) -> None:
    from vedette.contract.errors import PictureError
    from vedette.pictures.drawing import read_picture

    # in a process of its own: OpenCV reads its limit once, when it is imported, and a test may have done that before vedette
    code = "import sys, vedette, cv2, numpy; cv2.imdecode(numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8), -1)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_IO")}
    done = subprocess.run([sys.executable, "-c", code], input=BOMB, capture_output=True, env=environment, check=False)
    assert done.returncode == 1 and b"CV_IO_MAX_IMAGE_PIXELS" in done.stderr, done.stderr
    (tmp_path / "a.jpg").write_bytes(BOMB)
    with pytest.raises(PictureError, match="a head that says no size"):
        read_picture(tmp_path / "a.jpg")


def test_the_seeds_are_what_an_entrance_lets_pass(tmp_path: Path) -> None:
    """Or nothing behind it would be tried."""
    from entrances import SAID, _sayings

    from vedette.config import parse_config
    from vedette.monitor.lines import line
    from vedette.monitor.place import place_of

    for seed in ENTRANCES["configuration"].seeds(tmp_path):
        assert parse_config(seed, Path("x.toml")).pipelines
    for seed in _sayings(tmp_path):
        topic, names = SAID[seed[0]]
        place = place_of(f"vedette/{topic}", "vedette")
        assert place is not None and "not as documented" not in line(place, seed[1:], retained=False).plain, names


def test_an_error_of_another_kind_is_a_find() -> None:
    def fails_with(error: Exception) -> None:
        raise error

    assert refused(lambda: fails_with(ConfigError("a")), UserError) == "ConfigError"
    for error in (VedetteError("a fault"), UserError("of the wrong class")):
        with pytest.raises(UnfitError):
            refused(lambda error=error: fails_with(error), ConfigError)
    with pytest.raises(ValueError, match="a bug"):
        refused(lambda: fails_with(ValueError("a bug")), VedetteError)


@settings(UNHURRIED, max_examples=50)
@given(st.data())
def test_mutations_change_something_now_and_then(data: st.DataObject) -> None:
    assert isinstance(data.draw(mutated([b"abc", b"def"])), bytes)
