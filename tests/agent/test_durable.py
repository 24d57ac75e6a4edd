"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vedette.durable import replacing


def test_takes_the_files_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "network.tflite"
    path.write_bytes(b"old")
    with replacing(path) as half:
        half.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("raised", [OSError("full"), KeyboardInterrupt()])
def test_is_gone_where_anything_goes_wrong(tmp_path: Path, raised: BaseException) -> None:
    path = tmp_path / "network.tflite"
    path.write_bytes(b"old")
    with pytest.raises(type(raised)), replacing(path) as half:
        half.write_bytes(b"ne")
        raise raised
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_removed_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    path = tmp_path / f"{'r' * 250}.html"  # of 255 characters, and its half has more
    with pytest.raises(OSError, match="File name too long"), replacing(path) as half:
        half.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == []
