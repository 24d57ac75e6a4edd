"""The one shape that an input is fed with: batch 1, every dimension known, pictures as NHWC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vedette.contract.errors import ModelError

Shape: TypeAlias = tuple[int, ...]
Declared: TypeAlias = Sequence[int | None]
"""As a network states a shape: None (or a number below 1) where it takes any."""

TO_CHANNELS_FIRST: Final = (0, 3, 1, 2)  # NHWC -> NCHW
TO_CHANNELS_LAST: Final = (0, 2, 3, 1)  # NCHW -> NHWC
_FIX: Final = "export it with fixed dimensions, or, of pictures, say --size, or [input] height and width in a recipe"
_PICTURE: Final = (1, 3)  # channels of grey and colour
_NO_CHANNELS: Final = (1, 3, 4)  # a last dimension that may be channels makes the layout ambiguous


@dataclass(frozen=True, slots=True)
class Fed:
    """How an input is fed."""

    shape: Shape
    """Batch 1 included. Pictures are (1, height, width, channels)."""
    channels_first: bool = False
    """The network itself wants (1, channels, height, width): what is fed is transposed before it."""

    @property
    def inner(self) -> Shape:
        """The shape in the network's own layout."""
        return tuple(self.shape[axis] for axis in TO_CHANNELS_FIRST) if self.channels_first else self.shape


def fix_shape(name: str, declared: Declared | None, given: Shape | None, where: str) -> Fed:
    """The shape an input gets. ``declared``: the network's own, None where it states none; ``given``: the recipe's.

    A picture that the network wants as (1, 1 or 3, height, width) is fed as NHWC. Raises `ModelError` where the two do
    not fit, or a dimension stays unknown.
    """
    if declared is None:
        if given is None:
            raise ModelError(f"input {name}", where=where, expected="a shape", found="none stated", fix=_FIX)
        return Fed(given)
    dims = tuple(None if dim is None or dim < 1 else int(dim) for dim in declared)
    if not dims:
        raise ModelError(f"input {name}", where=where, expected="a batch of 1", found="a scalar")
    if dims[0] not in (None, 1):
        raise ModelError(
            f"input {name}", where=where, expected="a batch of 1", found=_text(dims), fix="export it with batch 1"
        )
    if given is not None:
        if _fits(dims, given):
            return Fed(given)
        if len(dims) == 4 and len(given) == 4 and _fits(dims, tuple(given[axis] for axis in TO_CHANNELS_FIRST)):
            return Fed(given, channels_first=True)
        raise ModelError(
            f"input {name}", where=where, expected=_text(dims), found=f"{_text(given)} by [input] or --size"
        )
    known = (1, *dims[1:])
    if None in known:
        raise ModelError(f"input {name}", where=where, expected="fixed dimensions", found=_text(dims), fix=_FIX)
    shape = tuple(int(dim) for dim in known if dim is not None)
    if looks_channels_first(shape):
        return Fed(tuple(shape[axis] for axis in TO_CHANNELS_LAST), channels_first=True)
    return Fed(shape)


def looks_channels_first(shape: Shape) -> bool:
    """Whether a shape is (1, 1 or 3, height, width) and cannot be NHWC."""
    return len(shape) == 4 and shape[1] in _PICTURE and shape[2] > 4 and shape[3] not in _NO_CHANNELS


def only_given(names: Sequence[str], given: Shape | None, where: str) -> Shape | None:
    """The recipe's shape, which is for a network of one input. Raises `ModelError` where there are several."""
    if given is not None and len(names) != 1:
        raise ModelError(
            "several inputs", where=where, expected="one, for [input] or --size", found=", ".join(names) or "none"
        )
    return given


def _fits(declared: tuple[int | None, ...], shape: Shape) -> bool:
    return len(declared) == len(shape) and all(
        want is None or want == have for want, have in zip(declared, shape, strict=True)
    )


def _text(shape: Declared) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
