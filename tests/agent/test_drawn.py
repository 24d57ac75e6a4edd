"""Where pictures that are drawn upon go: none over another, and whatever cannot be written is said before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from real import BUNDLE, TINY, run_cli

from vedette.cli.drawn import drawn_places
from vedette.contract.errors import UserError


def test_pictures_of_one_name_are_numbered(tmp_path: Path) -> None:
    files = [Path(name) for name in ("a.png", "a.jpg", "b/a.png", "A.bmp", "a-2.png", "b.png", "a.png")]
    names = [place.name for place in drawn_places(tmp_path / "o2", files)]
    assert names[:3] == ["a.jpg", "a-2.jpg", "a-3.jpg"] and names[5] == "b.jpg"
    assert len({name.casefold() for name in names}) == len(files)
    assert list(tmp_path.iterdir()) == [tmp_path / "o2"] and not list((tmp_path / "o2").iterdir())


def test_one_picture_goes_to_a_file_or_into_a_folder(tmp_path: Path) -> None:
    file = Path("x.png")
    (tmp_path / "v1.2").mkdir()
    assert drawn_places(tmp_path / "y.PNG", [file]) == [tmp_path / "y.PNG"]
    assert drawn_places(tmp_path / "y", [file]) == [tmp_path / "y/x.jpg"]
    assert drawn_places(tmp_path / "v1.2", [file, file]) == [tmp_path / "v1.2/x.jpg", tmp_path / "v1.2/x-2.jpg"]


@pytest.mark.parametrize(
    ("out", "count", "said"),
    [
        ("y.png", 2, "expected a folder, for 2 pictures"),
        ("y.xyz", 2, "expected a folder, for 2 pictures"),
        ("y.xyz", 1, "expected a picture's name"),
        ("taken", 1, "expected a folder that can be written to"),
        ("taken/y.png", 1, "expected a folder that can be written to"),
        ("in.jpg", 1, "would write over a picture that is read"),
        (".", 1, "would write over a picture that is read"),
    ],
)
def test_a_place_that_cannot_be_leaves_nothing_behind(tmp_path: Path, out: str, count: int, said: str) -> None:
    (tmp_path / "taken").touch()
    picture = tmp_path / "in.jpg"
    picture.touch()
    with pytest.raises(UserError) as caught:
        drawn_places(tmp_path / out, [picture] * count)
    assert said in caught.value.line() and "--draw" in caught.value.line()
    assert sorted(tmp_path.iterdir()) == [picture, tmp_path / "taken"]


def test_a_folder_that_bears_the_pictures_name(tmp_path: Path) -> None:
    (tmp_path / "o/x.jpg").mkdir(parents=True)
    with pytest.raises(UserError, match="--draw: expected a file that can be written"):
        drawn_places(tmp_path / "o", [Path("x.png")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", TINY, "--tune", "--seconds", "3600", "--state-dir", "/proc/none"), "the result cannot be kept"),
        (("bench", TINY, "--seconds", "3600", "--plot", "{}/none/x.png"), "x.png: cannot be written"),
        (("bench", TINY, "--seconds", "3600", "--plot", "{}"), "cannot be written: expected a name ending in"),
        (
            ("bench", TINY, "--seconds", "3600", "--plot", "{}/x.gif"),
            "x.gif: cannot be written: expected a name ending in",
        ),
        (("demo", "--seconds", "3600", "--picture", "{}/none/x.jpg"), "x.jpg: cannot be written"),
        (("demo", "--sensor", "--seconds", "3600", "--picture", "{}/x.txt"), "x.txt: cannot be written"),
        (("infer", BUNDLE, "{}/none.png", "--draw", "{}/file/o"), "--draw: expected a folder that can be written to"),
    ],
)
def test_nobody_works_for_what_cannot_be_written(
    tmp_path: Path, labels_file: Path, arguments: tuple[object, ...], said: str
) -> None:
    (tmp_path / "file").touch()
    plain = ("--decoder", "classify", "--labels", labels_file) if TINY in arguments else ()
    outcome = run_cli(*(str(part).replace("{}", str(tmp_path)) for part in arguments), *plain)
    assert outcome.returncode == 2 and outcome.stdout == "", outcome
    [line] = outcome.stderr.splitlines()
    assert said in line
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file", labels_file])
