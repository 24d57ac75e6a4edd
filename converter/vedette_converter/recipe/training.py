"""What is done to a network before it is quantised: trained, pruned, distilled. Keras networks only."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from vedette.contract.manifest import Fraction, Positive, Text

from .quantisation import Seed

Share = Annotated[float, Meta(ge=0.0, lt=1.0)]
Epochs = Annotated[int, Meta(ge=1, le=10_000)]
Rate = Annotated[float, Meta(gt=0.0, le=10.0)]


IMAGE_NETWORKS: Final = frozenset({"resnet8", "resnet20"})


class ZooSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="format", tag="zoo"):
    """A network of `vedette_converter.zoo`, with random weights: ``[train]`` gives it better ones."""

    network: Literal["resnet8", "resnet20", "separable", "autoencoder"]
    """``resnet8``, ``resnet20``: residual networks for small pictures, arXiv 1512.03385: of MLPerf Tiny, and the paper's
    own. ``separable``: depthwise separable convolutions along time, for windows: classes or numbers. ``autoencoder``:
    dense layers that get narrower and wider again, for windows: anomalies."""
    filters: Annotated[int, Meta(ge=8, le=1024)] = 16
    """Channels of the first stage; the later ones have twice and four times as many. Of an autoencoder: the width of its
    first hidden layer; the next one has half."""
    code: Annotated[int, Meta(ge=1, le=1024)] = 4
    """Numbers that an autoencoder squeezes a window through."""
    dropout: Share = 0.0
    """Share of ``separable``'s features that is left out at random in training, before the last layer."""
    seed: Seed = 1
    """Of the first weights."""
    licence: Text = "Apache-2.0"
    """SPDX identifier of the trained weights' licence: yours to choose, as far as your pictures let you."""
    attribution: Text = "not stated"
    """Who trained them, and on what."""

    @property
    def url(self) -> str:
        """Where the weights come from: the recipe itself."""
        return f"zoo:{self.network}"


class Augment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens to pictures at random while training."""

    flip: bool = True
    """Left and right change places."""
    shift: Annotated[int, Meta(ge=0, le=256)] = 4
    """Pixels of the input, at most, in any direction."""
    brightness: Fraction = 0.0
    """Share of 255, at most, that is added or taken away."""


class Train(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fine-tuning, or training, with labels: the folder of ``--train`` has one folder a label. An autoencoder needs none,
    and a regression has its targets in columns of the recordings.

    What comes out is the float network that everything after is compared with.
    """

    epochs: Epochs
    """How many times each picture or window is looked at."""
    batch: Positive = 128
    """Pictures or windows a step."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Stochastic gradient descent with Nesterov's momentum 0.9, or Adam (arXiv 1412.6980), which wants a learning rate
    a hundred times lower and suits autoencoders."""
    learning_rate: Rate = 0.1
    """At its highest; it rises over the first tenth of all steps and falls along a cosine."""
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0025
    """Decoupled, on kernels, times the learning rate, a step."""
    label_smoothing: Share = 0.0
    """Share of the truth that is spread over all classes."""
    augment: Augment = Augment()
    seed: Seed = 1
    """Of the order and the augmentation."""


class Prune(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Channels that go. One of ``ratio`` and ``latency`` sets how many."""

    criterion: Literal["l1", "batch-norm-scale", "geometric-median", "taylor"] = "l1"
    """Which go first: the smallest filters, the smallest scales, those the others stand in for, or those whose loss
    changes least."""
    ratio: Share = 0.0
    """Share of each group of channels that goes (``scope = "uniform"``), or of all of them together (``global``)."""
    scope: Literal["uniform", "global"] = "uniform"
    """Each group of channels loses the same share, or those go that matter least anywhere."""
    latency: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    """Instead of ``ratio``: the pruned network's latency by the whole one's, both in int8, measured here."""
    layers: dict[str, Share] = {}
    """Layer -> the share of its own channels that goes, in place of the ratio; 0 leaves it whole."""
    multiple: Annotated[int, Meta(ge=1, le=64)] = 8
    """What stays is a multiple of it: kernels take so many channels at a time."""
    reconstruct: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """After each cut the layers behind it are fitted anew, by least squares, so that from what is left they make what they
    made before (arXiv 1707.06168): on so many samples; 0: not at all. Needs no label and no training; some hundreds do."""
    steps: Annotated[int, Meta(ge=1, le=100)] = 1
    """How many cuts lead there, with ``recover`` epochs of distillation after each."""
    recover: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Epochs of distillation after each cut but the last."""

    def __post_init__(self) -> None:
        if self.latency is not None and (self.ratio or self.layers):
            raise ValueError("latency: expected alone, found with ratio or layers, which say something else")
        if self.latency is None and not self.ratio and not any(self.layers.values()):
            raise ValueError("expected a ratio, a latency or layers, found none, so nothing would be pruned")


class Sparsify(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights that become zero while distilling: a smaller download. **No speed**: no kernel skips them.

    Zhu and Gupta, arXiv 1710.01878: the smallest magnitudes go, their share rising along a cubic."""

    sparsity: Annotated[float, Meta(gt=0.0, lt=1.0)]
    """Share of each kernel's weights that is zero in the end."""
    begin: Fraction = 0.0
    """Share of all steps before the first weights go."""
    end: Fraction = 0.75
    """Share of all steps after which the share no longer rises."""

    def __post_init__(self) -> None:
        if self.begin >= self.end:
            raise ValueError(f"begin: expected below end ({self.end:g}), found {self.begin:g}")


class Teacher(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network that teaches and is not shipped."""

    file: Text
    """Path of a ``.keras`` file."""
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] | None = None
    """What it wants taken off each pixel, as in ``[input]``; that one without it."""
    std: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] | None = None
    """What it wants each pixel divided by, as in ``[input]``; that one without it."""
    together: bool = False
    """Whether the source teaches with it: what is learned is the mean of both's outputs."""


class Distil(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fine-tuning against a teacher: the network as it was before it was pruned, or a larger one.

    With ``label_weight = 0`` no labels are needed: any pictures like those the device will see will do.
    """

    epochs: Epochs
    """How many times each picture is looked at after the last cut."""
    batch: Positive = 128
    """Pictures a step."""
    learning_rate: Rate = 0.05
    """At its highest; it rises over the first tenth of all steps and falls along a cosine."""
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0025
    """Decoupled, on kernels, times the learning rate, a step."""
    temperature: Annotated[float, Meta(gt=0.0, le=100.0)] = 3.0
    """What logits are divided by before they are compared (classifiers)."""
    label_weight: Fraction = 0.0
    """0: the teacher alone; 1: the labels alone."""
    rounded: Fraction = 0.0
    """Share of the epochs, the last ones, in which activations are rounded to eight bits as int8 will do it, so that the
    network learns to live with it (arXiv 1712.05877)."""
    views: Annotated[int, Meta(ge=1, le=1000)] = 4
    """How many looks each picture has; epochs go through them by turns, and the teacher is asked about each once."""
    teacher: Teacher | None = None
    """Another, larger network of the same input size and classes. Without it the source teaches."""
    control: bool = False
    """Whether the same small network is also trained from nothing, with the same teacher, data and epochs, and
    reported beside: what pruning is worth."""
    augment: Augment = Augment()
    seed: Seed = 1
    """Of the order and the augmentation."""
