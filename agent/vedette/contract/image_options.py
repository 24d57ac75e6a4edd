"""What a user says of the pictures that a network without a manifest takes; the network says the rest."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .manifest import ImageInput

Side = Annotated[int, Meta(ge=1, le=8192)]
Values = Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)]


class ImageOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="image"):
    """The fields of `ImageInput`; None: as the network says, by its input tensor or its metadata."""

    height: Side | None = None
    width: Side | None = None
    color: Literal["rgb", "bgr", "gray"] | None = None
    """None: gray for a network of one channel, else rgb."""
    resize: Literal["stretch", "letterbox", "center-crop"] = "stretch"
    interpolation: Literal["bilinear", "area", "nearest"] = "bilinear"
    pad_value: Annotated[int, Meta(ge=0, le=255)] = 0
    mean: Values | None = None
    std: Values | None = None

    def __post_init__(self) -> None:
        count = max(len(self.mean or ()), len(self.std or ()))
        self.completed(1, 1, "gray" if self.color is None and count == 1 else "rgb", (0.0,), (1.0,))

    @property
    def normalised(self) -> bool:
        """Whether mean or std is stated; the other one is then 0 or 1."""
        return self.mean is not None or self.std is not None

    def completed(
        self, height: int, width: int, color: Literal["rgb", "gray"], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> ImageInput:
        """With what the network says in the place of what is None. Raises `ValueError`, as `ImageInput` does."""
        if self.normalised:
            mean, std = self.mean or (0.0,), self.std or (1.0,)
        return ImageInput(
            height=self.height or height, width=self.width or width, color=self.color or color, resize=self.resize,
            interpolation=self.interpolation, pad_value=self.pad_value, mean=mean, std=std,
        )  # fmt: skip
