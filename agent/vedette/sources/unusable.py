"""What to say of lines of which no reading came, or one without its time: what was expected, and what it looks like."""

from __future__ import annotations

import re
from typing import Final

from vedette.contract.errors import SourceError

from .lines import Tally, shown

MOST_NAMES: Final = 8  # of columns, in one message
_DECIMAL_COMMA: Final = re.compile(r'([;"]|\\t)\s*-?\d+,\d+|\d+,\d+\s*([;"]|\\t)')  # a tab is shown as \\t


def unusable(tally: Tally, where: object = "", problem: str = "no reading can be used") -> SourceError:
    """Of the reason that came most often; there must be one."""
    malformed = dict(tally.malformed)  # its thread goes on
    reason = max(malformed, key=malformed.__getitem__)
    example = tally.problems[reason]
    return SourceError(
        f"{problem} ({reason.replace('_', ' ')})", where=where, expected=", ".join(tally.wanted),
        found=repr(example), fix=advice(reason, example, len(tally.wanted)),
    )  # fmt: skip


def unusable_lines(tally: Tally) -> str:
    """The same with how many there were, to be put behind something else; empty where all could be used."""
    count = tally.total()
    if not count:
        return ""
    problem = f"{count} line{'s' if count > 1 else ''} could not be used"
    return f"; {unusable(tally, problem=problem).line()}"


def untimed_lines(tally: Tally) -> str:
    """What to say of readings without a time; empty where they have one, or nothing that could be it."""
    if not tally.untimed:
        return ""
    names = ", ".join(repr(shown(name.encode())) for name in tally.untimed[:MOST_NAMES])
    return (
        f"no column or key is called t, time or timestamp, so readings count as evenly spaced; not used: {names}; "
        "where one is the time, call it t, in seconds or ISO 8601"
    )


def advice(reason: str, example: str, channels: int) -> str:
    """What a line that was refused looks like; empty where nobody knows. ``channels``: how many the model wants."""
    if reason in ("wrong_count", "not_a_number"):
        twice = example.count(",") + 1 in (2 * channels, 2 * (channels + 1)) and ";" not in example
        if _DECIMAL_COMMA.search(example) or (reason == "wrong_count" and twice and "." not in example):
            return "decimal comma? write 0.5 for 0,5"
    if reason == "not_json" and example[:1] not in ("{", "["):
        return 'a reading is a line of JSON here, such as {"t": 0.5, "x": 0.1}'
    if reason == "bad_time" and (match := re.search(r"\d{11,}", example)):
        unit = "milliseconds" if len(match[0]) <= 13 else "microseconds" if len(match[0]) <= 16 else "nanoseconds"
        return f"t is in seconds: is it in {unit} here?"
    if reason in ("cut_off", "too_long") and "\\r" in example:
        return "end each line with \\n, or \\r\\n"
    if reason == "joined_midway":
        return "the first line after opening may be half of one: raise stall_timeout_s where lines come less often"
    return "t is a number, in seconds, or text with date and time, in ISO 8601" if reason == "bad_time" else ""
