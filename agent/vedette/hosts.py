"""Names of hosts: what a resolver can be asked for at all, told before anybody asks it."""

from __future__ import annotations

import re
from ipaddress import IPv6Address


def is_host(text: str) -> bool:
    """A name that DNS can hold (RFC 1035, section 2.3.4; RFC 3490), or an address without brackets; fe80::1%eth0, too."""
    try:
        if ":" in text:
            IPv6Address(text)
            return True
        return re.fullmatch(rb"[A-Za-z0-9_-][A-Za-z0-9._-]{0,253}", text.encode("idna")) is not None
    except ValueError:  # UnicodeError is one: a label that is empty, or longer than 63
        return False
