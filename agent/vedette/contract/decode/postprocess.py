"""``TFLite_Detection_PostProcess``: a custom op that decodes and suppresses inside the network (TFLite's
``detection_postprocess.cc``); what is left is to read its four float tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..manifest import PostprocessOutput
from ..types import Detections, Tensor, TensorSpec
from ._tensors import MAX_COORDINATE, expect_shape, pick, to_score


class PostprocessDecoder:
    """See the module."""

    def __init__(
        self, spec: PostprocessOutput, tensors: Sequence[TensorSpec], score_threshold: float, labels: int
    ) -> None:
        for index, role in ((spec.boxes, "boxes"), (spec.classes, "classes"), (spec.scores, "scores")):
            pick(tensors, index, role)
        count = pick(tensors, spec.count, "count")
        # the op's outputs are often left without a shape until the first invoke
        boxes = tensors[spec.boxes]
        if boxes.shape not in ((), (0,)):
            expect_shape(boxes, "boxes", (1, None, 4))
            for index, role in ((spec.classes, "classes"), (spec.scores, "scores")):
                expect_shape(tensors[index], role, (1, boxes.shape[1]))
            expect_shape(count, "count", (1,))
        self._spec = spec
        self._threshold = score_threshold
        self._labels = labels
        self.unlabelled: tuple[float, ...] = ()
        """The classes without a label of what was left out last, in the op's order; NaN where it was no number."""

    @property
    def classes(self) -> None:
        """The op's tensors do not say how many classes there are."""
        return None

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Detections:
        """Boxes as fractions of the input tensor. Detections of a class that has no label are left out, and
        `unlabelled` says so."""
        spec = self._spec
        # the op fills its slots from the front; NaN and negative counts are a broken network's, and mean none
        slots = len(outputs[spec.scores].reshape(-1))
        n = int(np.clip(np.nan_to_num(outputs[spec.count].reshape(-1)[0], nan=0.0), 0, slots))
        scores = to_score(outputs[spec.scores].reshape(-1)[:n], "none")
        boxes = outputs[spec.boxes].reshape(-1, 4)[:n].astype(np.float32)[:, [1, 0, 3, 2]]
        classes = outputs[spec.classes].reshape(-1)[:n].astype(np.float32) + np.float32(spec.class_offset)
        chosen = (scores >= self._threshold) & (np.abs(boxes) < MAX_COORDINATE).all(axis=1)  # False for NaN
        known = (classes >= 0) & (classes < self._labels)  # False for NaN
        self.unlabelled = () if known.all() else tuple(classes[chosen & ~known].tolist())
        chosen &= known
        found = Detections(boxes[chosen], scores[chosen], classes[chosen].astype(np.int32))
        return found.take(np.argsort(-found.scores, kind="stable")[: spec.max_detections])
