"""Writes into a network of raw SSD heads the metadata that MediaPipe Tasks asks for, by MediaPipe's own writer.

Runs in MediaPipe's environment. Arguments: NETWORK OUT, and on stdin what is to be written: mean, std, labels, anchors
(y_center, x_center, height, width, as fractions), box_scale (y, x, height, width).
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

# MediaPipe 1.2.3's wheel leaves out the one native function that its writer calls, which says the least version of a
# metadata parser; 1.5.0 is that of fields for raw detection heads (metadata_schema.fbs)
for name in ("cc", "cc.metadata", "cc.metadata.python"):
    sys.modules[f"mediapipe.tasks.{name}"] = types.ModuleType(name)
_version = types.ModuleType("_pywrap_metadata_version")
_version.GetMinimumMetadataParserVersion = lambda buffer: "1.5.0"
sys.modules["mediapipe.tasks.cc.metadata.python"]._pywrap_metadata_version = _version

from mediapipe.tasks.python.metadata.metadata_writers import metadata_writer, object_detector  # noqa: E402
from mediapipe.tasks.python.metadata.metadata_writers.metadata_info import RawDetectionOutputTensorsOrder  # noqa: E402


def main() -> None:
    """See the module."""
    network, out = (Path(argument) for argument in sys.argv[1:])
    said = json.load(sys.stdin)
    anchors = [object_detector.FixedAnchor(x, y, w, h) for y, x, h, w in said["anchors"]]
    y_scale, x_scale, h_scale, w_scale = said["box_scale"]
    decoding = object_detector.TensorsDecodingOptions(
        num_classes=len(said["labels"]), num_boxes=len(anchors), num_coords=4, keypoint_coord_offset=0, num_keypoints=0,
        num_values_per_keypoint=2, x_scale=x_scale, y_scale=y_scale, w_scale=w_scale, h_scale=h_scale,
        apply_exponential_on_box_size=True, sigmoid_score=True,
    )  # fmt: skip
    writer = object_detector.MetadataWriter.create_for_models_without_nms(
        bytearray(network.read_bytes()), said["mean"], said["std"], metadata_writer.Labels().add(said["labels"]),
        object_detector.SsdAnchorsOptions(object_detector.FixedAnchorsSchema(anchors)), decoding,
        RawDetectionOutputTensorsOrder.LOCATION_SCORE,
    )  # fmt: skip
    model, _ = writer.populate()
    out.write_bytes(model)


if __name__ == "__main__":
    main()
