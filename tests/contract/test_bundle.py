"""Bundles that are right: written, packed, read back, and read by others' tools."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tiny import DATA, FAKE_FLATBUFFER, LABELS, fake_parts, golden_arrays, make_manifest, npz, sha256
from vedette.contract import bundle as bundle_module
from vedette.contract import golden as golden_module
from vedette.contract.bundle import has_archive, open_bundle, third_party_archive, write_bundle
from vedette.contract.errors import BundleError, ModelError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.tflite"
    path.write_bytes(fake_parts().bytes())
    return path


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    parts = fake_parts(manifest_sig=b"signature")
    written = write_bundle(tmp_path / "a.tflite", parts.flatbuffer, parts.manifest, parts.members)
    opened = open_bundle(tmp_path / "a.tflite")
    assert opened == written
    assert opened.manifest == parts.manifest
    assert opened.labels == ("ash", "birch", "cedar", "elm")
    assert {name: opened.read(name) for name in parts.members} == parts.members
    assert opened.members == {name: len(opened.read(name)) for name in opened.members}
    assert list(opened.members) == ["manifest.json", "labels.txt", "golden.npz", "measurements.json", "manifest.sig"]
    with zipfile.ZipFile(tmp_path / "a.tflite") as archive:
        assert opened.sha256 == hashlib.sha256(archive.read("manifest.json")).hexdigest()


def test_pythons_zipfile_reads_the_same_members(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt") == LABELS
        assert {entry.filename: entry.file_size for entry in archive.infolist()} == dict(open_bundle(path).members)
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert stat.S_IMODE(entry.external_attr >> 16) == 0o644
            assert not entry.extra
            assert not entry.comment


def test_the_archive_lies_right_behind_the_flatbuffer(path: Path) -> None:
    data = path.read_bytes()
    assert data.startswith(FAKE_FLATBUFFER + b"PK\3\4")
    # the end record of APPNOTE.TXT 4.3.16: the directory's size and offset, at 12 and 16
    end = data[-22:]
    size, offset = (int.from_bytes(end[at : at + 4], "little") for at in (12, 16))
    assert offset + size == len(data) - 22
    assert data[offset : offset + 4] == b"PK\1\2"


def test_the_same_parts_make_the_same_bytes_in_another_process() -> None:
    code = "import hashlib, tiny; print(hashlib.sha256(tiny.fake_parts().bytes()).hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "TZ": "Asia/Tokyo"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sha256(fake_parts().bytes())
    shuffled = fake_parts()
    backwards = dict(reversed(shuffled.members.items()))
    assert bundle_module.pack(shuffled.flatbuffer, shuffled.manifest, backwards) == fake_parts().bytes()


def test_digests_leave_out_what_may_change_later() -> None:
    members = {"labels.txt": b"a\n", "golden.npz": b"g", "measurements.json": b"{}", "manifest.sig": b"s"}
    assert bundle_module.digests(members) == {"labels.txt": sha256(b"a\n"), "golden.npz": sha256(b"g")}


def test_packing_refuses_a_member_it_does_not_know() -> None:
    parts = fake_parts()
    with pytest.raises(ValueError, match=r"\.\./evil"):
        bundle_module.pack(parts.flatbuffer, parts.manifest, {**parts.members, "../evil": b""})


def test_a_bundle_that_would_be_refused_is_never_put_in_place(tmp_path: Path) -> None:
    target = tmp_path / "a.tflite"
    target.write_bytes(b"the old one")
    parts = fake_parts()
    wrong = make_manifest(parts.flatbuffer, {**parts.members, "labels.txt": b"others\n"})
    with pytest.raises(BundleError, match=r"labels\.txt"):
        write_bundle(target, parts.flatbuffer, wrong, parts.members)
    assert target.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [target]


def test_writing_takes_the_place_of_an_older_bundle(tmp_path: Path) -> None:
    target = tmp_path / "a.tflite"
    target.write_bytes(b"the old one")
    parts = fake_parts()
    write_bundle(target, parts.flatbuffer, parts.manifest, parts.members)
    assert target.read_bytes() == parts.bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["labels.txt", "measurements.json"])
def test_a_member_that_changes_while_the_bundle_is_open_is_noticed(path: Path, name: str) -> None:
    opened = open_bundle(path)
    data = path.read_bytes()
    old = opened.read(name)
    path.write_bytes(data.replace(old, old[:-2] + b"!\n"))
    with pytest.raises(BundleError, match=f"small.tflite: {name}"):
        opened.read(name)
    path.unlink()
    with pytest.raises(BundleError, match=r"small\.tflite: cannot be read"):
        opened.read(name)


def test_a_member_that_is_not_there_is_a_key_error(path: Path) -> None:
    with pytest.raises(KeyError):
        open_bundle(path).read("edgetpu.tflite")


def test_golden_vectors_come_out_of_a_bundle(path: Path) -> None:
    golden = golden_module.decode(open_bundle(path).read("golden.npz"), path)
    for name, array in golden_arrays().items():
        found = golden.raw[0] if name == "raw_0" else getattr(golden, name)
        assert found.dtype == array.dtype
        assert (found == array).all()
    again = golden_module.decode(golden_module.encode(golden), path)
    assert golden_module.encode(again) == golden_module.encode(golden)


# --- Files that are no bundles of ours ---


def test_has_archive_tells_a_bundle_from_a_plain_network(path: Path, tmp_path: Path) -> None:
    assert has_archive(path)
    assert not has_archive(DATA / "tiny-int8.tflite")
    named = tmp_path / "named.tflite"
    named.write_bytes(FAKE_FLATBUFFER + b"a tensor called manifest.json" + bytes(100))
    assert not has_archive(named)


def test_has_archive_still_knows_a_bundle_whose_end_is_gone(path: Path) -> None:
    data = path.read_bytes()
    for keep in (len(data) - 1, len(data) - 22, data.index(b"labels.txt"), len(FAKE_FLATBUFFER) + 43):
        path.write_bytes(data[:keep])
        assert has_archive(path), keep


@pytest.mark.parametrize("before", [0, 1, 20, 43, 100])
def test_has_archive_looks_over_the_seams_of_its_blocks(tmp_path: Path, before: int) -> None:
    # the header begins ``before`` bytes in front of the last 4 MiB
    archive = fake_parts().bytes()[len(FAKE_FLATBUFFER) :]
    tail = archive + bytes(4 * 1024 * 1024 - len(archive) + before)
    path = tmp_path / "large.tflite"
    path.write_bytes(FAKE_FLATBUFFER + bytes(3000) + tail)
    assert has_archive(path)


def test_has_archive_refuses_what_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "notes.tflite"
    path.write_text("manifest.json")
    with pytest.raises(ModelError, match=r"notes\.tflite: no TFLite model"):
        has_archive(path)
    with pytest.raises(ModelError, match=r"gone\.tflite: cannot be read: found No such file"):
        has_archive(tmp_path / "gone.tflite")


def append_zip(path: Path, members: dict[str, bytes], compression: int) -> None:
    path.write_bytes(FAKE_FLATBUFFER)
    with zipfile.ZipFile(path, "a", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_labels_that_somebody_else_appended_are_read(tmp_path: Path) -> None:
    path = tmp_path / "third.tflite"
    append_zip(path, {"labelmap.txt": b"cat\ndog\n", "picture.png": b"x", "a/b.txt": b"c"}, zipfile.ZIP_DEFLATED)
    assert third_party_archive(path) == {"labelmap.txt": b"cat\ndog\n", "a/b.txt": b"c"}
    assert third_party_archive(DATA / "tiny-int8.tflite") == {}
    assert third_party_archive(tmp_path / "gone.tflite") == {}


def test_a_third_partys_text_is_never_inflated_beyond_what_it_claims(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tflite"
    append_zip(path, {"labels.txt": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    claimed = (50_000_000).to_bytes(4, "little")
    assert data.count(claimed) == 2
    path.write_bytes(data.replace(claimed, (1000).to_bytes(4, "little")))
    import tracemalloc

    tracemalloc.start()
    try:
        found = third_party_archive(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(len(text) <= 1000 for text in found.values())
    assert peak < 5_000_000


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_third_partys_broken_archive_has_no_labels_and_no_traceback(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "third.tflite"
    append_zip(path, {"labels.txt": b"cat\ndog\n" * 5}, compression)
    data = path.read_bytes()
    for position in range(len(FAKE_FLATBUFFER), len(data)):
        for value in (0, 0xFF):
            path.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            assert isinstance(third_party_archive(path), dict), position


def test_a_small_npz_has_a_stable_form() -> None:
    # a bundle is only deterministic when its golden vectors are
    assert npz(**golden_arrays()) == npz(**golden_arrays())
