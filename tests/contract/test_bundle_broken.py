"""Bundles that are broken: each is refused with one error of one line that names the file, and quickly."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import FAKE_FLATBUFFER, LABELS, Parts, fake_parts, golden_arrays, make_manifest, npz, sha256
from vedette.contract import golden as golden_module
from vedette.contract.bundle import open_bundle
from vedette.contract.errors import BundleError, ModelError

VALID = fake_parts(manifest_sig=b"s" * 64).bytes()
NAMES = ("manifest.json", "labels.txt", "golden.npz", "measurements.json", "manifest.sig")


# --- A second writer of such archives, with every field in reach ---


def zip_bytes(
    members: list[tuple[str, bytes]],
    *,
    offset: int,
    gap: bytes = b"",
    comment: bytes = b"",
    local: Callable[[int, dict[str, int]], None] = lambda index, fields: None,
    central: Callable[[int, dict[str, int]], None] = lambda index, fields: None,
    end: Callable[[dict[str, int]], None] = lambda fields: None,
    extra: bytes = b"",
    between: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """An archive by APPNOTE.TXT 4.3, to stand at ``offset``; the callbacks change fields of its headers."""
    body = bytearray(gap)
    directory = bytearray()
    for index, (name, data) in enumerate(members):
        fields = {"flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(data), "packed": len(data)}
        fields |= {"size": len(data), "attributes": 0o100644 << 16, "offset": offset + len(body), "version": 20}
        fields |= {"disk": 0, "internal": 0}
        raw, here, there = name.encode(), dict(fields), dict(fields)
        local(index, here)
        central(index, there)
        body += struct.pack(
            "<4s5H3I2H", b"PK\3\4", here["version"], here["flags"], here["method"], here["time"], here["date"],
            here["crc"], here["packed"], here["size"], len(raw), len(extra),
        ) + raw + extra + data + between  # fmt: skip
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", (3 << 8) | 20, there["version"], there["flags"], there["method"], there["time"],
            there["date"], there["crc"], there["packed"], there["size"], len(raw), len(extra), 0, there["disk"],
            there["internal"], there["attributes"], there["offset"],
        ) + raw + extra  # fmt: skip
    body += behind
    fields = {"disk": 0, "start": 0, "here": len(members), "total": len(members)}
    fields |= {"size": len(directory), "offset": offset + len(body), "comment": len(comment)}
    end(fields)
    tail = struct.pack(
        "<4s4H2IH", b"PK\5\6", fields["disk"], fields["start"], fields["here"], fields["total"], fields["size"],
        fields["offset"], fields["comment"],
    )  # fmt: skip
    return bytes(body + directory) + tail + comment


def all_members(parts: Parts | None = None) -> list[tuple[str, bytes]]:
    parts = parts or fake_parts(manifest_sig=b"s" * 64)
    with zipfile.ZipFile(io.BytesIO(parts.bytes())) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def archive(members: list[tuple[str, bytes]] | None = None, **options: Any) -> bytes:
    return FAKE_FLATBUFFER + zip_bytes(members or all_members(), offset=len(FAKE_FLATBUFFER), **options)


def setting(index: int, **values: int) -> Callable[[int, dict[str, int]], None]:
    def change(at: int, fields: dict[str, int]) -> None:
        if at == index:
            fields.update(values)

    return change


def with_manifest(raw: bytes) -> bytes:
    return archive([("manifest.json", raw), *all_members()[1:]])


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The valid manifest's JSON after ``change``."""
    content = json.loads(all_members()[0][1])
    change(content)
    return with_manifest(json.dumps(content).encode())


def replaced(name: str, data: bytes) -> bytes:
    """A member changed without telling the manifest."""
    return archive([(n, data if n == name else d) for n, d in all_members()])


def test_the_second_writer_makes_what_ours_makes() -> None:
    # or else the cases below would be refused for the wrong reason
    assert archive() == VALID


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def put(value: Any, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def nan(raw: bytes) -> bytes:
    assert b'"before": 0.9' in raw
    return raw.replace(b'"before": 0.9', b'"before": NaN')


MANIFEST = all_members()[0][1]
SWAPPED = [all_members()[i] for i in (0, 2, 1, 3, 4)]
BIG = 300 * 1024 * 1024

# name -> (the file, a part of the message that says what is wrong)
CASES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "found an empty file"),
    "text named .tflite": (b"hello, this is no model at all\n", "no TFLite model"),
    "seven bytes": (VALID[:7], "no TFLite model"),
    "flatbuffer alone": (FAKE_FLATBUFFER, "no archive at its end"),
    "head of a flatbuffer alone": (FAKE_FLATBUFFER[:8], "truncated"),
    "zip alone": (zip_bytes(all_members(), offset=0), "no TFLite model"),
    "one byte short": (VALID[:-1], "no archive at its end"),
    "one byte more": (VALID + b"\0", "no archive at its end"),
    "a newline more": (VALID + b"\n", "no archive at its end"),
    "twice over": (VALID + VALID, "central directory"),
    "zip comment": (archive(comment=b"hello"), "no archive at its end"),
    "zip comment like an end record": (archive(comment=VALID[-22:]), "central directory"),
    "comment length alone": (archive(end=lambda f: f.update(comment=7)), "no comment"),
    "two disks": (archive(end=lambda f: f.update(disk=1)), "one disk"),
    "no members": (FAKE_FLATBUFFER + b"PK\5\6" + bytes(18), "1 to 6 members"),
    "65535 members": (archive(end=lambda f: f.update(here=65535, total=65535)), "1 to 6 members"),
    "more members than headers": (archive(end=lambda f: f.update(here=6, total=6)), "6 central headers"),
    "fewer members than headers": (archive(end=lambda f: f.update(here=4, total=4)), "bytes of directory"),
    "directory beyond the file": (archive(end=lambda f: f.update(offset=0xFFFFFFFF)), "central directory"),
    "directory of 4 GB": (archive(end=lambda f: f.update(size=0xFFFFFFFF)), "central directory"),
    "duplicate member": (archive([*all_members()[:4], all_members()[1]]), "duplicate name"),
    "wrong order": (archive(SWAPPED), "in order"),
    "unknown member": (archive([*all_members(), ("notes.txt", b"x")]), "unknown member"),
    "path as a name": (archive([*all_members()[:4], ("../../etc/passwd", b"x")]), "'../../etc/passwd'"),
    "empty name": (archive([*all_members()[:4], ("", b"x")]), "unknown member"),
    "name that is no ASCII": (archive([*all_members()[:4], ("läbels.txt", b"x")]), "unknown member"),
    "compressed member": (archive(local=setting(1, method=8), central=setting(1, method=8)), "labels.txt"),
    "encrypted member": (archive(local=setting(1, flags=1), central=setting(1, flags=1)), "labels.txt"),
    "another date": (archive(local=setting(2, date=99), central=setting(2, date=99)), "golden.npz"),
    "another mode": (archive(central=setting(2, attributes=0o120777 << 16)), "golden.npz"),
    "extra field": (archive(extra=b"\xfe\xca\0\0"), "without extra fields"),
    "local header at odds with directory": (archive(local=setting(1, crc=1)), "bad local header"),
    "wrong CRC": (archive(local=setting(3, crc=1), central=setting(3, crc=1)), "measurements.json: damaged"),
    "gap in front of the archive": (archive(gap=b"\0" * 8), "gap between flatbuffer and archive"),
    "gap between members": (archive(between=b"\0"), "gap in the archive"),
    "gap behind the last member": (archive(behind=b"\0"), "gap in the archive: expected central directory at"),
    "offset before the flatbuffer's head": (archive(central=setting(0, offset=4)), "behind the flatbuffer"),
    "two members at one place": (archive(central=setting(2, offset=len(FAKE_FLATBUFFER))), "gap in the archive"),
    "member beyond the archive": (
        archive(local=setting(4, size=4000, packed=4000), central=setting(4, size=4000, packed=4000)),
        "bad local header",
    ),
    "claims 4 GB of labels": (
        archive(local=setting(1, size=2**32 - 1, packed=2**32 - 1), central=setting(1, size=2**32 - 1, packed=2**32 - 1)),
        "labels.txt: member too large",
    ),
    "claims 300 MB of manifest": (
        archive(local=setting(0, size=BIG, packed=BIG), central=setting(0, size=BIG, packed=BIG)),
        "manifest.json: member too large",
    ),
    "packed size at odds": (archive(central=setting(1, packed=3)), "labels.txt"),
    "no manifest": (archive(all_members()[1:]), "expected manifest.json"),
    "no labels": (archive([m for m in all_members() if m[0] != "labels.txt"]), "expected labels.txt"),
    "no golden vectors": (archive([m for m in all_members() if m[0] != "golden.npz"]), "expected golden.npz"),
    "flatbuffer tampered": (VALID[:60] + b"\xff" + VALID[61:], "flatbuffer: digest does not match"),
    "flatbuffer one byte longer": (FAKE_FLATBUFFER + b"\0" + VALID[len(FAKE_FLATBUFFER) :], "directory"),
    "labels tampered": (replaced("labels.txt", LABELS.replace(b"elm", b"oak")), "labels.txt: digest does not match"),
    "golden vectors tampered": (
        replaced("golden.npz", npz(**golden_arrays(scores=np.array([0.1, 0.2], np.float32)))),
        "golden.npz: digest does not match",
    ),
    "member that the manifest does not name": (
        archive([*all_members()[:3], ("edgetpu.tflite", b"x"), *all_members()[3:]]), "$.members"
    ),
    "member that only the manifest names": (edited(put("3" * 64, "members", "edgetpu.tflite")), "$.members"),
    "manifest names itself": (edited(put("3" * 64, "members", "manifest.json")), "$.members"),
    "manifest empty": (with_manifest(b""), "manifest.json: bad manifest"),
    "manifest no JSON": (with_manifest(b"name: tiny\n"), "JSON is malformed"),
    "manifest cut": (with_manifest(MANIFEST[:100]), "bad manifest"),
    "manifest with something behind": (with_manifest(MANIFEST + b"{}"), "bad manifest"),
    "manifest a list": (with_manifest(b"[]"), "Expected `object`"),
    "manifest not UTF-8": (with_manifest(MANIFEST.replace(b"ramps", b"ramp\xff")), "manifest.json"),
    "manifest with a lone surrogate": (with_manifest(MANIFEST.replace(b"ramps", b"ramp\\ud800")), "manifest.json"),
    "manifest nested deep": (
        with_manifest(MANIFEST.replace(b'"extensions": {', b'"extensions": {"x": ' + b"[" * 100_000 + b"]" * 100_000)),
        "bad manifest",
    ),
    "unknown field": (edited(put(1, "colour")), "unknown field `colour`"),
    "unknown field inside": (edited(put(1, "input", "colour")), "unknown field `colour` - at `$.input`"),
    "missing field": (edited(drop("recipe")), "missing required field `recipe`"),
    "missing field inside": (edited(drop("source", "licence")), "missing required field `licence` - at `$.source`"),
    "wrong type": (edited(put("16", "input", "height")), "Expected `int`, got `str` - at `$.input.height`"),
    "null": (edited(put(None, "name")), "Expected `str`, got `null` - at `$.name`"),
    "NaN": (with_manifest(nan(MANIFEST)), "JSON is malformed"),
    "infinite number": (with_manifest(MANIFEST.replace(b'"before": 0.9', b'"before": 1e999')), "out of range"),
    "format of the future": (edited(put(2, "format")), "Invalid enum value 2 - at `$.format`"),
    "unknown decoder": (edited(put("yolo9000", "output", "decoder")), "'yolo9000'"),
    "unknown kind of input": (edited(put("smell", "input", "kind")), "'smell'"),
    "task at odds with the decoder": (edited(put("detect", "task")), "does not go with the decoder 'classify'"),
    "std of zero": (edited(put([0.0], "input", "std")), "std: expected numbers above 0"),
    "two values for three channels": (edited(put([1, 2], "input", "mean")), "mean: expected 1 or 3 values for rgb"),
    "name as a path": (edited(put("../tiny", "name")), "$.name"),
    "name with a newline at its end": (edited(put("tiny\n", "name")), "$.name"),
    "digest with a newline at its end": (edited(put("1" * 64 + "\n", "recipe_sha256")), "$.recipe_sha256"),
    "version with a newline at its end": (edited(put("1.0\n", "version")), "$.version"),
    "anchors beyond memory": (
        edited(lambda m: m.update(task="detect", output={
            "decoder": "ssd", "anchors": {"feature_maps": [[1_000_000, 1_000_000]]}})),
        "feature_maps: expected at most 1000000 anchors",
    ),
    "flatbuffer_bytes of another file": (edited(put(100, "flatbuffer_bytes")), "$.flatbuffer_bytes"),
    "labels twice": (fake_parts(labels_txt=b"ash\nelm\nash\n").bytes(), "labels.txt:3: duplicate label"),
    "labels with an empty line": (fake_parts(labels_txt=b"ash\n\nelm\n").bytes(), "labels.txt:2: empty label"),
    "labels empty": (fake_parts(labels_txt=b"").bytes(), "labels.txt:1: empty label"),
    "labels in Latin-1": (fake_parts(labels_txt="ash\nmüll\n".encode("latin-1")).bytes(), "expected UTF-8"),
    "labels with escape sequences": (fake_parts(labels_txt=b"ash\n\x1b[31mred\n").bytes(), "labels.txt:2: bad label"),
    "label too long": (fake_parts(labels_txt=b"a" * 201 + b"\n").bytes(), "labels.txt:1: bad label"),
}  # fmt: skip


def assert_refused(path: Path, says: str = "") -> None:
    started = time.process_time()
    with pytest.raises(ModelError) as caught:
        open_bundle(path)
    assert time.process_time() - started < 2.0  # of CPU: a busy machine is no failure
    line = str(caught.value)
    assert path.name in line
    assert says in line
    assert line.isprintable()  # so it is one line too
    assert len(line) < 2000


@pytest.mark.parametrize("case", CASES)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    data, says = CASES[case]
    path = tmp_path / "broken.tflite"
    path.write_bytes(data)
    assert_refused(path, says)


def test_a_missing_file_a_folder_and_an_unreadable_place_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "gone.tflite", "No such file")
    folder = tmp_path / "folder.tflite"
    folder.mkdir()
    assert_refused(folder, "Is a directory")
    (tmp_path / "file").touch()
    assert_refused(tmp_path / "file" / "below.tflite", "Not a directory")


def test_a_huge_file_of_holes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "holes.tflite"
    with path.open("wb") as file:
        file.write(FAKE_FLATBUFFER)
        file.truncate(4 << 30)
    assert_refused(path, "file too large")


def test_a_file_name_with_control_characters_stays_one_line(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[31m.tflite"
    path.write_bytes(VALID[:-1])
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    assert str(caught.value).isprintable()
    assert "two\\nlines\\x1b[31m.tflite" in str(caught.value)


def boundaries() -> list[int]:
    found = {0, 1, 4, 8, 16, len(FAKE_FLATBUFFER), len(VALID) - 22}
    for marker in (b"PK\3\4", b"PK\1\2", b"PK\5\6", *(name.encode() for name in NAMES)):
        at = VALID.find(marker)
        while at >= 0:
            found |= {at, at + len(marker)}
            at = VALID.find(marker, at + 1)
    near = {edge + step for edge in found for step in (-1, 0, 1)}
    return sorted(n for n in near if 0 <= n < len(VALID))


def test_a_truncation_at_any_seam_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    for keep in boundaries():
        path.write_bytes(VALID[:keep])
        assert_refused(path)


# --- Any damage whatever ---


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "damaged.tflite"


def test_every_byte_counts(scratch: Path) -> None:
    # all of them, not a sample: a flip of one bit anywhere
    for position in range(len(VALID)):
        bit = 1 << (position % 8)
        scratch.write_bytes(VALID[:position] + bytes([VALID[position] ^ bit]) + VALID[position + 1 :])
        with pytest.raises(ModelError, match=r"damaged\.tflite"):
            open_bundle(scratch)


@given(position=st.integers(0, len(VALID) - 1), mask=st.integers(1, 255))
def test_any_changed_byte_is_refused(scratch: Path, position: int, mask: int) -> None:
    scratch.write_bytes(VALID[:position] + bytes([VALID[position] ^ mask]) + VALID[position + 1 :])
    assert_refused(scratch)


@given(keep=st.integers(0, len(VALID) - 1))
def test_any_truncation_is_refused(scratch: Path, keep: int) -> None:
    scratch.write_bytes(VALID[:keep])
    assert_refused(scratch)


@given(position=st.integers(0, len(VALID)), data=st.binary(min_size=1, max_size=64))
def test_any_insertion_is_refused(scratch: Path, position: int, data: bytes) -> None:
    scratch.write_bytes(VALID[:position] + data + VALID[position:])
    assert_refused(scratch)


@given(start=st.integers(0, len(VALID) - 1), length=st.integers(1, 200))
def test_any_cut_out_piece_is_missed(scratch: Path, start: int, length: int) -> None:
    scratch.write_bytes(VALID[:start] + VALID[start + length :])
    assert_refused(scratch)


@given(data=st.binary(max_size=400))
def test_rubbish_behind_a_flatbuffers_head_is_refused(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(FAKE_FLATBUFFER[:8] + data)
    assert_refused(scratch)


# --- Golden vectors ---


UNPICKLED: list[str] = []


def take_over() -> None:
    UNPICKLED.append("it ran")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (take_over, ())


def pickled() -> bytes:
    out = io.BytesIO()
    np.savez(out, **golden_arrays(inputs=np.array([Evil()], object)))  # type: ignore[arg-type]
    assert b"take_over" in out.getvalue()
    return out.getvalue()


def npz_with(raw: bytes, name: str = "inputs.npy", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Golden vectors of which one member has these bytes."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", compression) as target,
        zipfile.ZipFile(io.BytesIO(npz(**golden_arrays()))) as source,
    ):
        for entry in source.namelist():
            if entry != name:
                target.writestr(entry, source.read(entry))
        target.writestr(name, raw)
    return out.getvalue()


def npy(shape: str, descr: str = "'|u1'", data: bytes = b"", tail: str = "") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}{tail}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


F32 = np.float32
GOLDEN: dict[str, bytes] = {
    "empty": b"",
    "no zip": b"hello" * 100,
    "a pickle alone": pickle.dumps([1, 2, 3]),
    "pickled array": pickled(),
    "cut": npz(**golden_arrays())[:-30],
    "a bomb": npz_with(npy("(300000000,)") + bytes(300_000_000)),
    "a bomb that hides its size": npz_with(npy("(300000000,)") + bytes(1_000_000)),
    "shape of 8 TB": npz_with(npy("(1000000, 8000000)")),
    "shape of 2**70": npz_with(npy(f"({2**70},)")),
    "negative shape": npz_with(npy("(-4,)", data=bytes(4))),
    "header no Python": npz_with(npy("(2,", tail="((((")),
    "header nested deep": npz_with(npy("(" * 3000 + ")" * 3000)),
    "header without an end": npz_with(npy("(2,)", tail="'''")),
    "member that is no npy": npz_with(b"plain text"),
    "offsets that are no npy": npz_with(b"plain text", "offsets.npy"),
    "empty member": npz_with(b""),
    "array missing": npz(**golden_arrays(offsets=None)),
    "unknown array": npz(**golden_arrays(more=np.zeros(3))),
    "raw outputs with a hole": npz(**golden_arrays(raw_2=np.zeros(3))),
    "raw output called otherwise": npz(**golden_arrays(raw_x=np.zeros(3))),
    "no inputs": npz(**golden_arrays(inputs=np.empty((0, 4, 4, 3), np.uint8), offsets=np.zeros(1, np.int32))),
    "inputs a number": npz(**golden_arrays(inputs=np.uint8(3))),
    "offsets too short": npz(**golden_arrays(offsets=np.array([0, 2], np.int32))),
    "offsets of floats": npz(**golden_arrays(offsets=np.array([0, 1, 2], F32))),
    "offsets falling": npz(**golden_arrays(offsets=np.array([0, 3, 2], np.int32))),
    "offsets beyond the rows": npz(**golden_arrays(offsets=np.array([0, 1, 9], np.int32))),
    "boxes of three": npz(**golden_arrays(boxes=np.zeros((2, 3), F32))),
    "boxes of another count": npz(**golden_arrays(boxes=np.zeros((1, 4), F32))),
    "boxes of NaN": npz(**golden_arrays(boxes=np.full((2, 4), np.nan, F32))),
    "scores of NaN": npz(**golden_arrays(scores=np.array([0.5, np.nan], F32))),
    "scores of text": npz(**golden_arrays(scores=np.array(["a", "b"]))),
    "scores of float64": npz(**golden_arrays(scores=np.array([0.5, 0.5]))),
    "class ids of floats": npz(**golden_arrays(class_ids=np.array([1, 2], F32))),
    "too few class ids": npz(**golden_arrays(class_ids=np.array([1], np.int32))),
    "grey picture": npz(**golden_arrays(picture=np.zeros((8, 8), np.uint8))),
    "picture of floats": npz(**golden_arrays(picture=np.zeros((8, 8, 3), F32))),
    "picture tensor of another shape": npz(**golden_arrays(picture_tensor=np.zeros((4, 5, 3), np.uint8))),
    "picture tensor of another dtype": npz(**golden_arrays(picture_tensor=np.zeros((4, 4, 3), np.int8))),
}


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
def test_broken_golden_vectors_are_refused(case: str) -> None:
    started = time.process_time()
    with pytest.raises(BundleError) as caught:
        golden_module.decode(GOLDEN[case], "door.tflite: golden.npz")
    assert time.process_time() - started < 2.0  # of CPU: a busy machine is no failure
    line = str(caught.value)
    assert line.startswith("door.tflite: golden.npz: ")
    assert line.isprintable()
    assert not UNPICKLED


COMPRESSED = {
    method: npz_with(npz(a=np.arange(3)), "x.npy", method) for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
} | {zipfile.ZIP_STORED: npz(**golden_arrays())}


@given(method=st.sampled_from(sorted(COMPRESSED)), where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
def test_damaged_golden_vectors_raise_nothing_else(method: int, where: float, mask: int) -> None:
    data = bytearray(COMPRESSED[method])
    data[int(where * len(data))] ^= mask
    with contextlib.suppress(BundleError):
        golden_module.decode(bytes(data), "x")


def test_golden_vectors_are_not_read_when_a_bundle_is_opened(tmp_path: Path) -> None:
    # a device opens many bundles and tests itself once; the digest is checked all the same
    path = tmp_path / "a.tflite"
    path.write_bytes(fake_parts(golden_npz=b"no golden vectors").bytes())
    opened = open_bundle(path)
    with pytest.raises(BundleError, match="bad golden vectors"):
        golden_module.decode(opened.read("golden.npz"), path)


def test_a_manifest_for_another_flatbuffer_is_refused(tmp_path: Path) -> None:
    other = FAKE_FLATBUFFER[:-1] + b"!"
    parts = fake_parts()
    path = tmp_path / "swapped.tflite"
    path.write_bytes(Parts(other, make_manifest(FAKE_FLATBUFFER, parts.members), parts.members).bytes())
    assert_refused(path, f"expected sha256 {sha256(FAKE_FLATBUFFER)}, found {sha256(other)}")
