"""How float becomes integer, as a recipe says it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from vedette.contract.manifest import Positive

Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Precision = Literal["float32", "float16", "dynamic", "int8", "int16x8", "mixed"]
Dtype = Literal["int8", "uint8", "int16", "float32"]
Ranges = Literal["minmax", "percentile"]

_DTYPES: Final[dict[str, tuple[Dtype, ...]]] = {  # of inputs and outputs, by precision; the first is the default
    "float32": ("float32",),
    "float16": ("float32",),
    "dynamic": ("float32",),
    "int8": ("int8", "uint8", "float32"),
    "int16x8": ("int16", "float32"),
    "mixed": ("int8", "uint8", "float32"),
}
_CALIBRATED: Final = ("int8", "int16x8", "mixed")


class Quantise(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How float becomes integer, by TFLite's quantisation spec: weights per channel, activations per tensor.

    Options that contradict one another are refused.
    """

    precision: Precision = "int8"
    """``float32``: nothing changes. ``float16``: weights at half the size, arithmetic in float32. ``dynamic``: int8
    weights, float32 activations, quantised on the fly. ``int8``: everything in integers. ``int16x8``: int16
    activations, int8 weights. ``mixed``: int8, but for the layers that lose most, which stay float32."""
    input: Dtype | None = None
    """The input tensors' dtype; default int8 for ``int8`` and ``mixed``, int16 for ``int16x8``, else float32.

    float32 before an integer network costs a conversion of the whole picture on the device."""
    output: Dtype | None = None
    """The output tensors' dtype; default as for ``input``."""
    ranges: Ranges = "minmax"
    """What an activation's range is: the extremes that calibration saw, or ``percentile`` of the values."""
    percentile: Annotated[float, Meta(ge=99.0, lt=100.0)] | None = None
    """With ``ranges = "percentile"``: percent of a tensor's values at or below the range's upper end, and likewise at or
    above its lower end; the rest saturates. Default 99.99. Inputs and outputs of the network keep their extremes."""
    min_sqnr_db: Annotated[float, Meta(ge=0.0, le=120.0)] | None = None
    """With ``mixed``: the signal-to-quantisation-noise ratio (dB) that every output must reach on calibration samples,
    where the caller has no bound of its own. Default 20: noise at a tenth of the signal."""
    max_float_layers: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    """With ``mixed``: at most so many layers stay float32. Default 16."""
    pictures: Positive = 160
    """How many calibration pictures are drawn; fewer where the folder has fewer."""
    seed: Seed = 1
    """Of the draw."""

    def __post_init__(self) -> None:
        """Raises `ValueError` naming the two options that contradict one another."""
        possible = _DTYPES[self.precision]
        for name, dtype in (("input", self.input), ("output", self.output)):
            if dtype is not None and dtype not in possible:
                raise ValueError(
                    f"{name}: expected {' or '.join(possible)} with precision {self.precision}, found {dtype}"
                )
        if self.ranges == "percentile" and not self.calibrated:
            raise ValueError(f"ranges: precision {self.precision} has no calibrated ranges, found percentile")
        if self.percentile is not None and self.ranges != "percentile":
            raise ValueError(f'percentile: expected only with ranges = "percentile", found ranges = "{self.ranges}"')
        for name, value in (("min_sqnr_db", self.min_sqnr_db), ("max_float_layers", self.max_float_layers)):
            if value is not None and self.precision != "mixed":
                raise ValueError(f"{name}: expected only with precision mixed, found precision {self.precision}")

    @property
    def calibrated(self) -> bool:
        """Whether activations get ranges, and so calibration samples are needed."""
        return self.precision in _CALIBRATED

    @property
    def input_dtype(self) -> Dtype:
        """``input``, or what is usual for the precision."""
        return self.input or _DTYPES[self.precision][0]

    @property
    def output_dtype(self) -> Dtype:
        """``output``, or what is usual for the precision."""
        return self.output or _DTYPES[self.precision][0]

    @property
    def clip_percentile(self) -> float | None:
        """The percentile in use; None for extremes."""
        return None if self.ranges == "minmax" else self.percentile or 99.99

    @property
    def least_sqnr_db(self) -> float:
        """``min_sqnr_db``, or its default."""
        return 20.0 if self.min_sqnr_db is None else self.min_sqnr_db

    @property
    def most_float_layers(self) -> int:
        """``max_float_layers``, or its default."""
        return 16 if self.max_float_layers is None else self.max_float_layers
