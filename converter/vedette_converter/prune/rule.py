"""How channels pass through each kind of operation, and how the operation shrinks when some of them go.

A tensor's last axis is a vector of channel numbers (`Channels`). A convolution makes new numbers, a residual addition
ties the numbers of its operands together, a concatenation puts vectors one after the other, a flattened picture repeats
its vector H*W times. Everything that couples layers follows from that.

What stands in no rule is not guessed at: the channels that enter it and those that leave it are kept whole
(`Kept`, with the reason), which is right for any operation at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .calls import Call

IntArray: TypeAlias = npt.NDArray[np.int64]
Channels: TypeAlias = IntArray | None
"""Channel numbers along a tensor's last axis; None where the tensor has no last axis of known size."""
Weights: TypeAlias = Mapping[str, npt.NDArray[Any]]


class Ties(Protocol):
    """What rules tell of channels."""

    def new(self, layer: str, size: int) -> IntArray:
        """Channels that this layer makes; asked again for the same layer, the same ones."""
        ...

    def tie(self, a: IntArray, b: IntArray) -> None:
        """Channels ``a[i]`` and ``b[i]`` go together or stay together."""
        ...

    def keep(self, channels: IntArray, reason: str) -> None:
        """These channels are never pruned."""
        ...


class Kept(Exception):  # noqa: N818 - no error: the rule's verdict that this call's channels stay
    """Raised by a rule that cannot follow this call."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Of one call's tensors, batch axis included, None where a size is open."""

    inputs: tuple[tuple[int | None, ...], ...]
    output: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What an operation becomes: changed entries of its config, and its weights by name."""

    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)


class Rule(Protocol):
    """One family of operations."""

    @property
    def bound(self) -> bool:
        """Whether the operation itself holds something sized by its channels, so that its calls share them."""
        ...

    @property
    def makes(self) -> bool:
        """Whether the operation makes new channels."""
        ...

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        """The output's channels. Raises `Kept` with the reason, before anything is tied."""
        ...

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        """``taken``, ``left``: the places along the first input's and the output's last axis that remain."""
        ...


ELEMENTWISE: Final = frozenset(
    {
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "hard_silu"),
        *("hard_swish", "hard_sigmoid", "sigmoid", "tanh", "softplus", "softsign", "exponential", "mish", "squareplus"),
        *("log_sigmoid", "hard_tanh", "hard_shrink", "soft_shrink", "tanh_shrink", "threshold", "sparse_plus"),
        "sparse_sigmoid",
    }
)


def activation_name(operation: Any) -> str:
    """Of one of Keras's own activation functions; "" for any other callable."""
    activation = getattr(operation, "activation", None)
    if activation is None:
        return "linear"
    own = getattr(activation, "__module__", "").startswith("keras.src.activations")
    return str(getattr(activation, "__name__", "")) if own else ""


def keep_mixed(call: Call, channels: IntArray, ties: Ties) -> None:
    """A fused softmax sees all channels at once; so does, perhaps, a function of the user's."""
    name = activation_name(call.operation)
    if name not in ELEMENTWISE:
        ties.keep(channels, f"{call.name}: its activation {name or '(none of Keras)'} may mix channels")
