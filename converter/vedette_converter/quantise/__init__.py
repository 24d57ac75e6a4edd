"""Network -> TFLite flatbuffers of every precision, each loaded and run before it is believed.

TFLite's quantisation spec: https://ai.google.dev/edge/litert/models/quantization_spec (weights symmetric per channel,
activations asymmetric per tensor, ranges from calibration). Two converters stand behind it: TensorFlow's for networks
that came with a graph, and ai-edge-quantizer for those that came as a float flatbuffer, for clipped ranges, for ``mixed``
and where TensorFlow's refuses or loses clearly more. What TFLite calls sparsity is never asked for: it makes nothing
faster, and some such files do not load.
"""

from __future__ import annotations

from .conversion import convert, to_float32, to_int8
from .findings import Peaks, calibration_findings, limits_of
from .layers import LayerError, layer_errors
from .mixed import Mixed, Sensitivity, mixed, sensitivities
from .proof import MAX_FLOAT_ERROR, expect_same, load_proven, prove
from .samples import Sample, Samples

__all__ = [
    "MAX_FLOAT_ERROR",
    "LayerError",
    "Mixed",
    "Peaks",
    "Sample",
    "Samples",
    "Sensitivity",
    "calibration_findings",
    "convert",
    "expect_same",
    "layer_errors",
    "limits_of",
    "load_proven",
    "mixed",
    "prove",
    "sensitivities",
    "to_float32",
    "to_int8",
]
