"""Valid inputs, broken by chance: the same ones for the same seed, so that whatever fails can be done again."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Final

TRIES: Final = int(os.environ.get("VEDETTE_FUZZ", "200"))
"""How many inputs of each kind; VEDETTE_FUZZ=2000 for a thorough run."""

TOKENS: Final = (
    b"\0", b"\xff", b"\xfe\xff", b"\n", b"\r\n", b"\\u0000", b'"', b"'", b"{", b"}", b"[", b"]", b"=", b",", b":", b"#",
    b"-1", b"0", b"1e999", b"-1e999", b"nan", b"NaN", b"inf", b"Infinity", b"null", b"true", b"9" * 400, b"0x7fffffff",
    b"2147483648", b"18446744073709551616", b"-9223372036854775809", b"0.1e-400", b"%s%n", b"../../etc/passwd", b"$(id)",
    b"[" * 3000, b'{"a":' * 1500, b"A" * 70_000, "\u202e\U0001f600\ud7ff".encode(), b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
)  # fmt: skip


def broken(seeds: Sequence[bytes], *, name: str, tries: int = TRIES) -> Iterator[bytes]:
    """``tries`` inputs made of these; one in ten is nothing but noise. ``name``: another one, other inputs."""
    rng = random.Random(f"vedette {name}")
    for _ in range(tries):
        if rng.random() < 0.1:
            yield rng.randbytes(rng.randrange(600))
            continue
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            _break(data, rng, seeds)
        yield bytes(data)


def _break(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    until = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 200)))
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            del data[at:until]
        case 2:
            data[at:at] = rng.choice(TOKENS)
        case 3:
            data[at:until] = rng.choice(TOKENS)
        case 4:
            data[at:at] = data[at:until] * rng.choice((1, 2, 50))
        case 5:
            del data[at:]
        case 6:
            data[at:until] = rng.randbytes(until - at)
        case _:
            other = rng.choice(seeds)
            begin = rng.randrange(len(other) + 1)
            data[at:until] = other[begin : begin + rng.randrange(1, 100)]
