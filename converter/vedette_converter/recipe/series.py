"""What a recipe says of recordings: how they are split, normalised and judged. ``[input] kind = "series"`` alone."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from vedette.contract.manifest import AnomalyOutput, Index

NORMAL, ANOMALY = "normal", "anomaly"
"""The folders of labelled recordings where anomalies are looked for."""

Name = Annotated[str, Meta(min_length=1, max_length=64)]


class Jitter(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens to windows at random while training, in normalised units; a new draw each epoch."""

    noise: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    """Standard deviation of what is added to each value."""
    scale: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Share by which a window becomes larger or smaller, at most."""


class Series(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How recordings become windows to train on and to judge by. Recordings are split, never windows."""

    normalise: Literal["auto", "given"] = "auto"
    """``auto``: each channel's mean and standard deviation over the training recordings take the place of ``[input]
    mean`` and ``std``, and stand in the manifest. ``given``: those of ``[input]``, which a network that is not trained
    here (``[train]``) was trained with."""
    group: Annotated[str, Meta(max_length=8)] = ""
    """Recordings whose files' names are alike before this text belong together: ``-`` makes one group, such as a
    person's, of ``p07-left.csv`` and ``p07-right.csv``. Empty: each recording by itself."""
    judged: tuple[Name, ...] = ()
    """Groups that ``--evaluate`` is narrowed to, and that nothing is trained, normalised or calibrated with. Empty:
    ``--evaluate`` has recordings of its own."""
    stride: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    """Samples from one training window to the next; that of ``[input]`` without."""
    time: Annotated[str, Meta(max_length=64)] = ""
    """The column or key with the time where it has another name than ``t``, ``time`` and ``timestamp``, which the agent
    knows; seconds, or ISO 8601. Without a time, samples are taken to be ``rate_hz`` apart."""
    held_back: Annotated[float, Meta(ge=0.05, le=0.9)] = 0.2
    """Anomalies: share of the training recordings (whole groups) that are not trained on, to find the threshold with."""
    target: Literal["last", "mean"] = "last"
    """Regression: which value of a window's target columns is to be estimated."""
    jitter: Jitter = Jitter()


class AnomalyHead(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="anomaly"):
    """An autoencoder's reconstruction of its own input; the score is how far it is off, in normalised units."""

    reconstruction: Index = 0
    """Which output tensor holds it; as many values as the input, in the same order."""
    error: Literal["mse", "mae"] = "mse"
    """Squared, or absolute."""
    quantile: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.99
    """The threshold is this quantile of the bundle's own scores on normal recordings that were held back from training:
    0.99 lets one normal window in a hundred count as an anomaly."""
    threshold: Annotated[float, Meta(gt=0.0, le=1e12)] | None = None
    """A threshold that is known already; ``quantile`` finds none then."""

    def decoded(self, threshold: float) -> AnomalyOutput:
        """The manifest's."""
        return AnomalyOutput(reconstruction=self.reconstruction, error=self.error, threshold=threshold)
