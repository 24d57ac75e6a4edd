"""Lines -> readings: whatever comes, nothing is made up, nothing vanishes uncounted, and nothing raises."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.sources.lines import EXAMPLE_CHARACTERS, MAX_LINE, LineCutter, LineParser, Tally

CHANNELS = ("x", "y")


def parse(text: str | bytes, **options: Any) -> tuple[list[list[float]], list[int] | None, Tally]:
    """One chunk through a new parser: values, times and what was refused."""
    tally = Tally()
    raw = text.encode() if isinstance(text, str) else text
    parsed = LineParser(options.pop("channels", CHANNELS), tally, **options).parse(raw)
    assert parsed.values.dtype == np.float32
    return parsed.values.tolist(), None if parsed.times_ns is None else parsed.times_ns.tolist(), tally


@pytest.mark.parametrize(
    "text",
    [
        '{"x": 1, "y": 2.5}\n{"y": 4, "x": 3}\n',
        '{"x": 1, "y": 2.5, "z": "ignored", "deep": {"a": [1]}}\n{"x": 3, "y": 4}\n',
        '{"values": [1, 2.5]}\n{"values": [3, 4]}\n',
        "[1, 2.5]\n[3, 4]\n",
        "[1, 2.5]\r\n[3, 4]\r\n",
        '{"x": 1, "y": 2.5}\n\n \n[3, 4]\n',
        "1,2.5\n3,4\n",
        "1;2.5\n3;4\n",
        "1\t2.5\n3\t4\n",
        " 1 , 2.5 \n 3 , 4 \n",
        "x,y\n1,2.5\n3,4\n",
        "y,x\n2.5,1\n4,3\n",
        '\ufeff"y", "note", "x"\n2.5,"a, b",1\n4,c,3\n',
        "y,other,x\r\n2.5,text,1\r\n4,,3\r\n",
        '1,2.5\n{"x": 3, "y": 4}\n',
    ],
)
def test_every_way_to_write_a_reading(text: str) -> None:
    values, times, tally = parse(text)
    assert (values, times, tally.malformed) == ([[1.0, 2.5], [3.0, 4.0]], None, {})


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ('{"t": 1.5, "x": 0, "y": 0}\n{"t": 2, "x": 0, "y": 0}\n', [1_500_000_000, 2_000_000_000]),
        ('{"time": -1.5, "values": [0, 0]}\n', [-1_500_000_000]),
        ('{"timestamp": "2026-11-22T15:04:05.123456Z", "x": 0, "y": 0}\n', [1_795_359_845_123_456_000]),
        ("t,x,y\n0.001,0,0\n0.002,0,0\n", [1_000_000, 2_000_000]),
        ("x,y,timestamp\n0,0,2026-11-22T15:04:05+01:00\n0,0,2026-11-22 14:04:06\n",
         [1_795_356_245_000_000_000, 1_795_356_246_000_000_000]),
    ],
)  # fmt: skip
def test_times_are_the_sensors_own(text: str, times: list[int]) -> None:
    values, found, tally = parse(text)
    assert (found, tally.malformed) == (times, {})
    assert len(values) == len(times)


def test_a_channel_that_begins_as_a_time_does_is_none() -> None:
    assert parse('{"temp": "warm", "t": 1}\n', channels=("temp",))[2].malformed == {"not_a_number": 1}


def test_a_channel_may_be_called_as_a_time_is() -> None:
    values, times, tally = parse('{"t": 20.5, "time": 3}\n', channels=("t",))
    assert (values, times, tally.malformed) == ([[20.5]], [3_000_000_000], {})


def test_columns_may_be_named_where_no_header_does() -> None:
    values, times, tally = parse("1,20,3\n", columns=("time", "y", "x"))
    assert (values, times, tally.malformed) == ([[3.0, 20.0]], [1_000_000_000], {})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not_json"),
        ('{"x": 1, "y": 2} {"x": 1, "y": 2}', "not_json"),
        ("{" + '"d":{' * 10_000 + "}" * 10_001, "not_json"),
        (b'\xff{"x": 1, "y": 2}', "not_a_number"),
        ('{"x": 1}', "missing_channel"),
        ('{"x": 1, "Y": 2}', "missing_channel"),
        ('{"values": [1, 2, 3]}', "wrong_count"),
        ("[1]", "wrong_count"),
        ("[]", "wrong_count"),
        ("1", "wrong_count"),
        ("1,2,3", "wrong_count"),
        ('{"x": "1", "y": 2}', "not_a_number"),
        ('{"x": true, "y": 2}', "not_a_number"),
        ('{"x": null, "y": 2}', "not_a_number"),
        ("[1, [2]]", "not_a_number"),
        ("1,two", "not_a_number"),
        ("1,", "not_a_number"),
        ("1,1_0", "not_a_number"),
        ("1,\u0663", "not_a_number"),
        (b"1,\xff", "not_a_number"),
        ("1,0x10", "not_a_number"),
        ('{"x": NaN, "y": 2}', "not_finite"),
        ('{"x": -Infinity, "y": 2}', "not_finite"),
        ('{"x": 1e999, "y": 2}', "not_finite"),
        ('{"x": 1e39, "y": 2}', "not_finite"),
        ("nan,2", "not_finite"),
        ("1,-inf", "not_finite"),
        ("1e39,2", "not_finite"),
        ("[1," + " " * MAX_LINE + "2]", "too_long"),
        ("1," + " " * MAX_LINE + "2", "too_long"),
    ],
)
def test_what_cannot_be_used_is_counted_by_reason_and_the_rest_goes_on(line: str | bytes, reason: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    values, _, tally = parse(b"7,8\n" + raw + b'\n{"x": 9, "y": 10}\n')
    assert tally.malformed == {reason: 1}
    assert values == [[7.0, 8.0], [9.0, 10.0]]
    example = tally.problems[reason]
    assert example.isprintable() and len(example) < EXAMPLE_CHARACTERS + 30


@pytest.mark.parametrize("time", ['"yesterday"', '""', "true", "[1]", "null", "1e10", "-1e10", '"9999-01-01"', "NaN"])
def test_a_time_that_cannot_be_is_refused(time: str) -> None:
    values, times, tally = parse(f'{{"t": 1, "x": 1, "y": 2}}\n{{"t": {time}, "x": 3, "y": 4}}\n')
    assert (values, times) == ([[1.0, 2.0]], [1_000_000_000])
    assert tally.malformed == {"not_finite" if time == "NaN" else "bad_time": 1}


def test_the_first_example_of_a_reason_is_kept() -> None:
    tally = parse("1,a\n1,b\n1,\x1b[31m\n")[2]
    assert (tally.malformed, tally.problems) == ({"not_a_number": 3}, {"not_a_number": "1,a"})
    assert parse("1,\x1b[31m\n")[2].problems == {"not_a_number": "1,\\x1b[31m"}


def test_a_reading_without_a_time_among_those_with_one_is_refused_and_the_other_way_round_it_is_ignored() -> None:
    values, times, tally = parse('{"t": 1, "x": 1, "y": 1}\n[2, 2]\n{"t": 3, "x": 3, "y": 3}\n')
    assert (len(values), times, tally.malformed) == (2, [1_000_000_000, 3_000_000_000], {"bad_time": 1})
    values, times, tally = parse('[2, 2]\n{"t": 3, "x": 3, "y": 3}\n')
    assert (len(values), times, tally.malformed) == (2, None, {})


def test_a_header_without_a_channel_is_refused_and_so_is_what_follows_until_a_better_one_comes() -> None:
    values, _, tally = parse("t,x\n1,2\nt,x,y\n1,2,3\n")
    assert (values, tally.malformed) == ([[2.0, 3.0]], {"missing_channel": 2})
    assert tally.problems["missing_channel"] == "t,x"


@pytest.mark.parametrize(("header", "refused"), [("x,y,x", True), ("t,x,y,t", True), ("x,note,y,note", False)])
def test_a_column_that_is_there_twice_is_refused_where_it_is_wanted(header: str, refused: bool) -> None:
    row = ",".join("1" for _ in header.split(","))
    values, _, tally = parse(f"{header}\n{row}\nx,y\n3,4\n")
    assert tally.malformed == ({"duplicate_column": 1, "missing_channel": 1} if refused else {})
    assert values[-1] == [3.0, 4.0]


def test_noise_before_the_first_line_settles_nothing() -> None:
    values, _, tally = parse("boot, ok\n\x00\x00\n1;2\n3;4\n")
    assert values == [[1.0, 2.0], [3.0, 4.0]]
    assert tally.total() == 2


def test_a_format_may_be_asked_for() -> None:
    assert parse("1,2\n", format="ndjson")[0] == []
    assert parse("[1,2]\n", format="csv")[0] == []


# -- whole chunks at once, and one by one --

NUMBERS = st.one_of(
    st.floats(width=32), st.integers(-(10**40), 10**40), st.sampled_from([math.nan, math.inf, 1e39, -0.0])
)
PIECES = st.one_of(
    st.builds(lambda x, y: json.dumps({"x": x, "y": y}), NUMBERS, NUMBERS),
    st.builds(lambda t, x, y: json.dumps({"t": t, "x": x, "y": y, "z": "z"}), NUMBERS, NUMBERS, NUMBERS),
    st.builds(lambda t, v: json.dumps({"time": t, "values": v}), NUMBERS, st.lists(NUMBERS, max_size=3)),
    st.builds(json.dumps, st.lists(NUMBERS, max_size=3)),
    st.builds(lambda v: ",".join(map(str, v)), st.lists(NUMBERS, max_size=4)),
    st.sampled_from(
        ["", " ", "x,y", "t,y,x", "t,x", '"y","x"', '"', "{", "]", "1,2,", "2026-11-22,1,2", "\r", "1\r,2"]
    ),
    st.text(max_size=20),
    st.builds(lambda raw: raw.decode("latin-1"), st.binary(max_size=12)),
)
LINES = st.lists(PIECES.map(lambda text: text.replace("\n", "").encode("latin-1", "replace")), max_size=12)


@given(LINES, st.sampled_from(["any", "csv", "ndjson"]))
def test_every_line_is_a_reading_or_refused_or_no_reading_by_right(lines: list[bytes], format: Any) -> None:
    chunk = b"".join(line + b"\n" for line in lines)
    tally = Tally()
    whole = LineParser(CHANNELS, tally, format=format)
    parsed = whole.parse(chunk)
    assert len(parsed) + tally.total() + whole.skipped == len(lines)
    assert np.isfinite(parsed.values).all() and parsed.values.shape == (len(parsed), 2)
    assert set(tally.problems) == set(tally.malformed)
    assert all(example.isprintable() for example in tally.problems.values())
    # and it is the same whether a chunk is taken at once or a line at a time
    tally_of_each = Tally()
    each = LineParser(CHANNELS, tally_of_each, format=format)
    rows = [each.parse(line + b"\n") for line in lines]
    assert [value for row in rows for value in row.values.tolist()] == parsed.values.tolist()
    assert tally_of_each.malformed == tally.malformed
    if parsed.times_ns is not None:
        assert [
            t for row in rows if row.times_ns is not None for t in row.times_ns.tolist()
        ] == parsed.times_ns.tolist()


@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False),
                          st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=1, max_size=30),
       st.sampled_from(["keyed", "listed", "bare", "csv", "header"]))  # fmt: skip
def test_good_readings_come_through_to_the_bit(rows: list[tuple[float, float]], form: str) -> None:
    write = {
        "keyed": lambda i, x, y: json.dumps({"t": i, "y": y, "x": x}),
        "listed": lambda i, x, y: json.dumps({"t": i, "values": [x, y]}),
        "bare": lambda i, x, y: json.dumps([x, y]),
        "csv": lambda i, x, y: f"{x!r},{y!r}",
        "header": lambda i, x, y: f"{y!r},{i},{x!r}",
    }[form]
    text = "y,t,x\n" * (form == "header") + "".join(f"{write(i, x, y)}\n" for i, (x, y) in enumerate(rows))
    values, times, tally = parse(text)
    assert tally.malformed == {}
    assert [struct.pack("2f", *row) for row in values] == [struct.pack("2f", *row) for row in rows]
    assert times == (None if form in ("bare", "csv") else [i * 1_000_000_000 for i in range(len(rows))])


# -- a stream of bytes, cut into lines --


@given(st.binary(max_size=200).map(lambda raw: raw.replace(b"\x00", b"\n")), st.lists(st.integers(1, 20), max_size=40))
def test_how_a_stream_is_cut_into_pieces_does_not_matter(raw: bytes, sizes: list[int]) -> None:
    cutter = LineCutter(Tally())
    whole, at = b"", 0
    for size in sizes:
        whole += cutter.feed(raw[at : at + size])
        at += size
    whole += cutter.feed(raw[at:])
    end = raw.rfind(b"\n") + 1
    assert whole == raw[:end]
    left = raw[end:]
    assert cutter.end(broken=False) == (left + b"\n" if left.strip() else b"")


@pytest.mark.parametrize("header", [b"t,x,y,note\n", b"t,x,y,temp \xb0C\n"])
def test_a_column_that_nobody_uses_may_be_no_text_however_the_stream_is_cut(header: bytes) -> None:
    lines = [header, *(b"%d,1,2,20 \xb0C\n" % n for n in range(5))]
    for pieces in (lines, [b"".join(lines)], [header, b"".join(lines[1:])]):
        tally = Tally()
        parser = LineParser(("x", "y"), tally)
        assert sum(len(parser.parse(piece)) for piece in pieces) == 5 and tally.malformed == {}
    assert len(parser.parse(b"5,1,\xb0,a\n")) == 0 and tally.malformed == {"not_a_number": 1}


def test_a_line_without_end_is_given_up_once_and_the_stream_goes_on() -> None:
    tally = Tally()
    cutter = LineCutter(tally)
    for _ in range(5):
        assert cutter.feed(b"x" * 40_000) == b""
    assert tally.malformed == {"too_long": 1}
    assert cutter.feed(b"yz\n1,2\n3") == b"1,2\n"
    assert cutter.feed(b",4\n") == b"3,4\n"
    assert tally.malformed == {"too_long": 1}


def test_half_a_line_at_a_breach_is_counted_not_used() -> None:
    tally = Tally()
    cutter = LineCutter(tally)
    assert cutter.feed(b"1,2\n3,4") == b"1,2\n"
    assert cutter.end(broken=True) == b""
    assert (tally.malformed, tally.problems) == ({"cut_off": 1}, {"cut_off": "3,4"})


@pytest.mark.parametrize(
    ("first", "used"),
    [
        (b"2.34,1\n", b""),
        (b"-2.34,1\r\n", b""),
        (b'{"x":1,"y":2}\n', b'{"x":1,"y":2}\n'),
        (b"[1,2]\n", b"[1,2]\n"),
        (b"x,y\n", b"x,y\n"),
        (b"\n", b"\n"),
    ],
)
def test_the_first_line_of_a_wire_joined_midway_is_used_only_where_its_beginning_shows(
    first: bytes, used: bytes
) -> None:
    tally = Tally()
    cutter = LineCutter(tally, joined_midway=True)
    assert cutter.feed(first[:2]) + cutter.feed(first[2:] + b"12.34,1\n") == used + b"12.34,1\n"
    assert tally.malformed == ({} if used else {"joined_midway": 1})
