"""``labels.txt``: one label a line, line number = class id, UTF-8.

A line that starts with ``???`` is a class id without a meaning (COCO has ten of them): it is never reported.
"""

from __future__ import annotations

import re
from typing import Final

from .errors import ModelError

MAX_BYTES: Final = 256 * 1024
MAX_LABEL: Final = 200  # characters
UNUSED: Final = "???"

_NUMBERED = re.compile(r"^\s*(\d{1,5})[\s:,]+(\S.*)$")


def is_used(label: str) -> bool:
    """Whether a class of this label is reported."""
    return not label.startswith(UNUSED)


def parse_labels(raw: bytes, where: object, *, unique: bool = True) -> tuple[str, ...]:
    """Parses strictly. Raises `ModelError` naming the file and the line.

    ``unique``: whether one label may stand for one class id only.
    """
    if len(raw) > MAX_BYTES:
        raise ModelError("labels too large", where=where, expected=f"at most {MAX_BYTES} bytes", found=f"{len(raw)}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(
            "labels are no text", where=where, expected="UTF-8", found=f"byte {error.object[error.start]:#04x}"
        ) from None
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    seen: dict[str, int] = {}
    labels = []
    for number, line in enumerate(lines, start=1):
        label = line.strip()
        place = f"{where}:{number}"
        if not label:
            raise ModelError("empty label", where=place, expected=f"a label, or {UNUSED} for an unused class id")
        if len(label) > MAX_LABEL or not label.isprintable():
            raise ModelError("bad label", where=place, expected=f"at most {MAX_LABEL} printable characters")
        if unique and is_used(label) and label in seen:
            raise ModelError("duplicate label", where=place, found=f"{label!r}, which is line {seen[label]} too")
        seen[label] = number
        labels.append(label)
    return tuple(labels)


def parse_third_party_labels(raw: bytes, where: object, *, unique: bool = False) -> tuple[str, ...]:
    """As `parse_labels`, and also reads files whose every line is ``ID LABEL`` (Coral's): gaps become ``???``.

    An empty line between others is an unused class id as well. Unless ``unique``, a label may stand twice: ImageNet's
    files have two cranes, the bird and the machine; what is said of that label is then said of both.
    """
    try:
        lines = raw.decode("utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError:
        return parse_labels(raw, where, unique=unique)  # names the bad byte
    matches = [_NUMBERED.match(line) for line in lines if line.strip()]
    if matches and all(matches):
        numbered = {int(m[1]): m[2].strip() for m in matches if m}
        if len(numbered) == len(matches) and max(numbered) < 10_000:
            lines = [numbered.get(i, UNUSED) for i in range(max(numbered) + 1)]
    if any(line.strip() for line in lines):
        lines = [line if line.strip() else UNUSED for line in lines]
    return parse_labels("\n".join(lines).encode(), where, unique=unique)
