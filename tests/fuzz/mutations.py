"""Good inputs, changed as hypothesis likes: it shortens what fails to its core."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from malformed import TOKENS

_PIECES = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=16))


@st.composite
def _edit(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    until = draw(st.integers(at, min(len(data), at + 64)))
    match draw(st.integers(0, 4)):
        case 0:
            return data[:at] + draw(_PIECES) + data[until:]
        case 1:
            return data[:at] + data[until:]
        case 2:
            return data[:at] + data[at:until] * draw(st.sampled_from((2, 3, 50))) + data[until:]
        case 3:
            return data[:at]
        case _:
            flipped = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1])
            return data[:at] + flipped + data[at + 1 :]


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with one to six changes; now and then noise."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=600))
    data = draw(st.sampled_from(list(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        data = draw(_edit(data))
    return data
