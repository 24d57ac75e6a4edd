"""Heads of detectors: what their output tensors mean. Part of the manifest."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

MAX_ANCHORS: Final = 1_000_000  # over all feature maps: 16 MB; real heads have some thousands

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
Index = Annotated[int, Meta(ge=0, le=1023)]


Side = Literal["x_min", "y_min", "x_max", "y_max", "x", "y", "width", "height"]


class SsdAnchors(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The anchors of an SSD head, as TensorFlow's object detection API generates them for a square input. Of another input
    their scales are shares of either side, the API's of the shorter one.

    ``multiple_grid_anchor_generator``; Liu et al., arXiv 1512.02325, section 2.2: one scale a feature map, evenly
    spaced from ``min_scale`` to ``max_scale``.
    """

    feature_maps: Annotated[tuple[tuple[Positive, Positive], ...], Meta(min_length=1, max_length=16)]
    """(rows, columns) of each feature map, finest first."""
    min_scale: Fraction = 0.2
    """Of the finest map's anchors, as a share of the input's side."""
    max_scale: Fraction = 0.95
    """Of the coarsest map's anchors."""
    aspect_ratios: Annotated[tuple[float, ...], Meta(min_length=1, max_length=16)] = (1.0, 2.0, 0.5, 3.0, 1 / 3)
    """Width by height, one anchor each, on every map but a reduced finest one."""
    interpolated_scale_aspect_ratio: Annotated[float, Meta(ge=0.0, le=100.0)] = 1.0
    """Aspect ratio of one more anchor, at the geometric mean of this scale and the next; 0 for none."""
    reduce_boxes_in_lowest_layer: bool = True
    """The finest map gets three anchors only: scale 0.1 at ratio 1, and its own scale at ratios 2 and 0.5."""

    def __post_init__(self) -> None:
        each = [len(self.aspect_ratios) + (self.interpolated_scale_aspect_ratio > 0)] * len(self.feature_maps)
        each[0] = 3 if self.reduce_boxes_in_lowest_layer else each[0]
        found = sum(rows * columns * n for (rows, columns), n in zip(self.feature_maps, each, strict=True))
        if found > MAX_ANCHORS:
            raise ValueError(f"feature_maps: expected at most {MAX_ANCHORS} anchors, found {found}")
        if not all(0.01 <= ratio <= 100 for ratio in self.aspect_ratios):
            raise ValueError(f"aspect_ratios: expected numbers from 0.01 to 100, found {list(self.aspect_ratios)}")
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale: expected at most max_scale {self.max_scale}, found {self.min_scale}")


class SsdPriors(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Square anchors of an SSD head, their sides in pixels of the input, as RetinaFace, UltraFace and others have them.

    Caffe's ``PriorBox`` without aspect ratios (Liu et al., arXiv 1512.02325): a map has a cell each ``stride`` pixels, the
    last ones reach over the edge, and each cell an anchor a size, in its middle.
    """

    strides: Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=16)]
    """Input pixels a cell of each feature map, finest first."""
    sizes: Annotated[tuple[Annotated[tuple[float, ...], Meta(min_length=1, max_length=16)], ...], Meta(min_length=1)]
    """Input pixels a side of the anchors of a cell, one list a feature map."""
    even: bool = False
    """Whether the cells of a map share the input's sides evenly where its last would reach over the edge (UltraFace)."""
    clip: bool = False
    """Whether a side longer than the input's counts as that one, and a centre beyond it as its edge."""

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.strides):
            raise ValueError(f"sizes: expected one list a stride, {len(self.strides)}, found {len(self.sizes)}")
        if not all(0 < size <= 1e6 for sizes in self.sizes for size in sizes):
            raise ValueError(f"sizes: expected numbers above 0, up to 1000000, found {[list(s) for s in self.sizes]}")


class SsdOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="ssd"):
    """Raw SSD heads: box encodings (1, anchors, 4) and class logits (1, anchors, classes), decoded on the CPU."""

    anchors: SsdAnchors | None = None
    priors: SsdPriors | None = None
    """One of the two says where the anchors are."""
    boxes: Index = 0
    """Which output tensor holds the encodings."""
    order: Literal["yxhw", "xywh"] = "yxhw"
    """Of the four encodings: ``ty, tx, th, tw``, or ``tx, ty, tw, th``."""
    sides: Literal["exp", "linear"] = "exp"
    """What makes the sides of ``th, tw``, by those of the anchor: ``exp``, or nothing but ``box_scale`` (BlazeFace,
    Bazarevsky et al., arXiv 1907.05047)."""
    key_points: Annotated[int, Meta(ge=0, le=64)] = 0
    """How many points, of two numbers each, follow the four of each anchor (BlazeFace: 6). They are passed over."""
    scores: Index = 1
    """Which output tensor holds the logits."""
    box_scale: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """What the encodings were multiplied by in training, ``y, x, height, width`` (Faster R-CNN's box coder): 1 by what
    others call their variance."""
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    """What makes scores of the logits."""
    background: bool = True
    """Whether the first logit is the background's; class 0 is the one after it."""
    score_threshold: Fraction = 0.5
    """Detections below it are left out."""
    nms_iou: Fraction = 0.6
    """Of two boxes of a class that overlap more, the one with the lower score goes."""
    max_detections: Positive = 100
    """The best so many are kept."""

    def __post_init__(self) -> None:
        if not all(0.001 <= scale <= 1000 for scale in self.box_scale):
            raise ValueError(f"box_scale: expected numbers from 0.001 to 1000, found {list(self.box_scale)}")
        if (self.anchors is None) == (self.priors is None):
            raise ValueError(f"anchors: expected them or priors, found {'neither' if self.anchors is None else 'both'}")


class PostprocessOutput(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="decoder",
    tag="tflite-detection-postprocess",
):
    """The four outputs of TFLite's custom op ``TFLite_Detection_PostProcess``: boxes ``y_min, x_min, y_max, x_max``."""

    boxes: Index = 0
    classes: Index = 1
    scores: Index = 2
    count: Index = 3
    class_offset: Annotated[int, Meta(ge=-1, le=1)] = 0
    """Added to the class that the network says, to get the line of ``labels.txt``."""
    score_threshold: Fraction = 0.5
    max_detections: Positive = 100


class YoloOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="yolo"):
    """One tensor of candidates: the box's centre x, y, its width and height, then objectness or not, then a score a class.

    YOLOv5's and YOLOX's rows have objectness; YOLOv8's columns have none. A candidate's score is that of its best class,
    times its objectness.
    """

    predictions: Index = 0
    """Which output tensor holds them."""
    layout: Literal["rows", "columns"] = "rows"
    """(1, candidates, numbers), or (1, numbers, candidates)."""
    objectness: bool = True
    """Whether the fifth number says how sure it is that there is anything."""
    units: Literal["fractions", "pixels"] = "fractions"
    """Of the input tensor; boxes that are still on the grid are neither."""
    strides: Annotated[tuple[Positive, ...], Meta(max_length=8)] = ()
    """Input pixels a cell of each feature map, in the order of the candidates, where the network leaves the boxes on the
    grid (YOLOX): ``x = (x + column) * stride``, ``width = exp(width) * stride``. Empty where it does not."""
    activation: Literal["none", "sigmoid"] = "none"
    """What makes scores of the class numbers and of the objectness."""
    score_threshold: Fraction = 0.25
    """Detections below it are left out."""
    nms_iou: Fraction = 0.45
    """Of two boxes of a class that overlap more, the one with the lower score goes."""
    max_detections: Positive = 100
    """The best so many are kept."""


class BoxesOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="boxes"):
    """Boxes that the network decodes itself, (1, candidates, 4), and their scores, (1, candidates, classes).

    What detectors exported with their post-processing end in, but for the suppression. Each candidate counts as its best
    class alone.
    """

    boxes: Index = 0
    """Which output tensor holds the boxes."""
    scores: Index = 1
    """Which output tensor holds the scores."""
    box: tuple[Side, Side, Side, Side] = ("x_min", "y_min", "x_max", "y_max")
    """What the four numbers of a box are, in their order: two corners, or ``x, y, width, height`` around its centre."""
    layout: Literal["rows", "columns"] = "rows"
    """Of both tensors: (1, candidates, numbers), or (1, numbers, candidates)."""
    units: Literal["fractions", "pixels"] = "fractions"
    """Of the input tensor."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """What makes scores of the numbers; ``softmax`` goes over the background, too."""
    background: Literal["none", "first", "last"] = "none"
    """Which of the scores says that there is nothing; the classes are the others."""
    score_threshold: Fraction = 0.5
    """Detections below it are left out."""
    nms_iou: Fraction = 0.45
    """Of two boxes of a class that overlap more, the one with the lower score goes; 1 where the network says each thing
    once."""
    max_detections: Positive = 100
    """The best so many are kept."""

    def __post_init__(self) -> None:
        if set(self.box) not in ({"x_min", "y_min", "x_max", "y_max"}, {"x", "y", "width", "height"}):
            raise ValueError(
                f"box: expected x_min, y_min, x_max and y_max, or x, y, width and height, found {list(self.box)}"
            )
