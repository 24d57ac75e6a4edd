"""Labels: ours are strict, other people's are read as they are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.errors import ModelError
from vedette.contract.labels import is_used, parse_labels, parse_third_party_labels

label_lists = st.lists(
    st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20).filter(lambda s: s[:3] != "???"),
    min_size=1, max_size=20, unique=True,
)  # fmt: skip


@given(label_lists, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_labels_come_back_line_by_line(labels: list[str], newline: str, mark: bool) -> None:
    raw = (("\ufeff" if mark else "") + newline.join(labels) + newline).encode()
    if labels[0][0] != "\ufeff":
        assert parse_labels(raw, "f") == tuple(labels)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"", "f:1: empty label: expected a label, or ??? for an unused class id"),
        (b"\n\n", "f:1: empty label: expected a label, or ??? for an unused class id"),
        (b"a\n \nb\n", "f:2: empty label: expected a label, or ??? for an unused class id"),
        (b"a\nb\na\n", "f:3: duplicate label: found 'a', which is line 1 too"),
        (b"a\xff\n", "f: labels are no text: expected UTF-8, found byte 0xff"),
        (b"a\x00b\n", "f:1: bad label: expected at most 200 printable characters"),
        (b"a\xe2\x80\xa8b\n", "f:1: bad label: expected at most 200 printable characters"),
        (b"a" * 201, "f:1: bad label: expected at most 200 printable characters"),
        (b"a\n" * 131073, "f: labels too large: expected at most 262144 bytes, found 262146"),
    ],
)
def test_bad_labels_are_refused_by_line(raw: bytes, line: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_labels(raw, "f")
    assert str(caught.value) == line


def test_unused_class_ids_may_repeat() -> None:
    labels = parse_labels(b"person\n???\n???\ncar\n", "f")
    assert [is_used(label) for label in labels] == [True, False, False, True]


@pytest.mark.parametrize(
    ("raw", "labels"),
    [
        (b"0  person\n2  car\n", ("person", "???", "car")),  # Coral's coco_labels.txt
        (b"1: person\n0: sky\n", ("sky", "person")),
        (b"\xef\xbb\xbf0 person\r\n1 traffic light\r\n", ("person", "traffic light")),
        (b"0 person\n\n1 car\n\n", ("person", "car")),
        (b"???\nperson\n\ncar\n", ("???", "person", "???", "car")),  # TFLite's labelmap.txt
        (b"person\ncar\n\n\n", ("person", "car")),
        (b"person\n2 cars\n", ("person", "2 cars")),  # one line without a number: none of them is one
        ("0 Tür\n".encode(), ("Tür",)),
        (b"12\n13\n", ("12", "13")),
        (b"0 crane\n1 crane\n", ("crane", "crane")),  # the bird and the machine
        (b"crane\nmaillot\ncrane\n", ("crane", "maillot", "crane")),
    ],
)
def test_other_peoples_labels(raw: bytes, labels: tuple[str, ...]) -> None:
    assert parse_third_party_labels(raw, "f") == labels


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"0 a\xff\n1 b\n", b"a\n\xffb\n"])
def test_other_peoples_bad_labels_are_refused(raw: bytes) -> None:
    with pytest.raises(ModelError, match=r"^f"):
        parse_third_party_labels(raw, "f")


@given(st.binary(max_size=100))
def test_any_bytes_are_labels_or_an_error(raw: bytes) -> None:
    for parse in (parse_labels, parse_third_party_labels):
        try:
            labels = parse(raw, "f")
        except ModelError:
            continue
        assert labels
        assert all(label.strip() == label and label.isprintable() for label in labels)
