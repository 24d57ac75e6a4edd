"""Text that a broker takes, as regular expressions: MQTT's strings (MQTT 5, section 1.5.4), which topics and user names are.

NUL and surrogates must not be in one. Control characters and Unicode's noncharacters should not, and Mosquitto closes the
connection of whoever sends them.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_LAST_TWO: Final = "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(17))
NOT_TAKEN: Final = r"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef" + _LAST_TWO
"""Characters, as the inside of a class."""

# $ alone would let an end of line pass
END: Final = r"$(?!\n)"
STRING: Final = f"^[^{NOT_TAKEN}]*{END}"
"""The whole of a string."""

MAX_BYTES: Final = 65_535
"""Of a string in UTF-8, and of a password."""

NAME: Final = rf"^[A-Za-z0-9_-]{{1,64}}{END}"
"""One level of a topic: a device's, a pipeline's or a command's own."""

_LEVEL: Final = f"[^+#/{NOT_TAKEN}]+"
ROOT: Final = rf"^(?!\$){_LEVEL}(/+{_LEVEL})*{END}"
"""What topics begin with: levels, without wildcards, and not the broker's own ($)."""


def is_string(text: str) -> bool:
    """Whether it can be sent as a string of MQTT's: a user name, a topic."""
    return re.search(STRING, text) is not None and len(text.encode()) <= MAX_BYTES


def is_password(text: str) -> bool:
    """Whether it can be sent as a password, which is bytes of any kind (MQTT 5, section 3.1.3.6)."""
    return not re.search("[\ud800-\udfff]", text) and len(text.encode()) <= MAX_BYTES


def from_url(text: str) -> str | None:
    """A part of a URL without its percent encoding; None where that is no UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None
