"""Networks as they are published -> one `Network` that the steps work on. One file a format, named in the recipe."""

from __future__ import annotations

from ..recipe.sources import (
    GraphDefSource,
    KerasSource,
    OnnxSource,
    SavedModelSource,
    Source,
    TfjsModelSource,
    TfjsSource,
    TfliteSource,
)
from ..source import SourceFiles
from .guess import guess_source
from .network import Network


def load_network(source: Source, files: SourceFiles, input_shape: tuple[int, ...] | None = None) -> Network:
    """Loads with the loader that ``source.format`` names.

    ``input_shape``: what the network is fed, batch 1 included, pictures as NHWC; None takes the network's own. Raises
    `ModelError` where the files are not what the source says, or hold what cannot be converted.
    """
    from . import graph_def, keras, onnx, saved_model, tfjs, tflite

    match source:
        case TfjsSource():
            return tfjs.load(source, files, input_shape)
        case TfjsModelSource():
            return tfjs.load_own(source, files, input_shape)
        case KerasSource():
            return keras.load(source, files, input_shape)
        case SavedModelSource():
            return saved_model.load(source, files, input_shape)
        case GraphDefSource():
            return graph_def.load(source, files, input_shape)
        case TfliteSource():
            return tflite.load(source, files, input_shape)
        case OnnxSource():
            return onnx.load(source, files, input_shape)


__all__ = ["Network", "guess_source", "load_network"]
