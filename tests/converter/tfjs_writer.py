"""Writes small TensorFlow.js graph models for tests: TensorFlow's GraphDef out, the converter's loader in."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32  # pixels of the tiny detector's input
CELLS = 2  # its one feature map is 2x2, three anchors a cell
CLASSES = 2  # "bright", "dark", after the background
ANCHORS = CELLS * CELLS * 3


def tiny_detector(tf: Any) -> Any:
    """A GraphDef with the published network's peculiarities: a preprocessing part to cut off, AddN, computed shapes.

    Nodes: ``image`` -> ``Preprocessor/sub`` (float32, batch x 32 x 32 x 3, -1..1) -> ``boxes`` (batch, 12, 4) and
    ``logits`` (batch, 12, 3): class 1 is likely where a quarter of the picture is bright, class 2 where it is dark.
    """
    cell = SIDE // CELLS
    rng = np.random.default_rng(7)
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], "image")
        scaled = tf.multiply(tf.cast(image, tf.float32), 2 / 255, "Preprocessor/mul")
        x = tf.subtract(scaled, 1.0, "Preprocessor/sub")
        x = tf.ensure_shape(x, [None, SIDE, SIDE, 3])

        def conv(name: str, kernel: np.ndarray, bias: np.ndarray) -> Any:
            out = tf.nn.conv2d(x, kernel.astype(np.float32), cell, "VALID", name=f"{name}/conv")
            return tf.nn.bias_add(out, bias.astype(np.float32), name=f"{name}/bias")

        mean = np.ones((cell, cell, 3, 1)) / (cell * cell * 3)
        # per anchor: background, bright, dark
        slope = np.tile([0.0, 8.0, -8.0], 3)
        half = conv("half", mean * slope / 2, np.tile([-5.0, -1.0, -1.0], 3))
        other = conv("other", mean * slope / 2, np.zeros(9))
        logits = tf.raw_ops.AddN(inputs=[half, other], name="sum")
        boxes = conv("boxes_conv", rng.normal(0, 0.01, (cell, cell, 3, 12)), rng.normal(0, 0.5, 12))

        def flat(name: str, tensor: Any, last: int) -> Any:
            batch = tf.shape(tensor, name=f"{name}/Shape")[0]
            return tf.reshape(tensor, tf.stack([batch, ANCHORS, last]), name)

        flat("boxes", boxes, 4)
        flat("logits", logits, 1 + CLASSES)
    return graph.as_graph_def()


def write(tf: Any, graph: Any, folder: Path, *, shard_bytes: int = 4096) -> Path:
    """``model.json`` and its shards in ``folder``; returns the path of ``model.json``."""
    from google.protobuf import json_format

    weights, data = [], b""
    for node in graph.node:
        if node.op != "Const":
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        weights.append({"name": node.name, "shape": list(value.shape), "dtype": value.dtype.name})
        data += value.tobytes()
        tensor = node.attr["value"].tensor
        for field in ("tensor_content", "float_val", "int_val"):
            tensor.ClearField(field)
    topology = json_format.MessageToDict(graph)
    for node in topology["node"]:  # TensorFlow.js writes strings as lists of character codes
        for attribute in node.get("attr", {}).values():
            if "s" in attribute:
                attribute["s"] = list(base64.b64decode(attribute["s"]))
    names = []
    for start in range(0, len(data), shard_bytes):
        names.append(f"shard{len(names) + 1}")
        (folder / names[-1]).write_bytes(data[start : start + shard_bytes])
    manifest = [{"paths": names, "weights": weights}]
    path = folder / "model.json"
    path.write_text(json.dumps({"modelTopology": topology, "weightsManifest": manifest}))
    return path
