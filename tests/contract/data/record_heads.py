"""Makes ``heads.npz``: ``python record_heads.py ddddocr.whl human-models.tgz mediapipe.whl``

What networks of other people answered for scikit-image's ``astronaut.png`` (NASA, public domain) and ``coffee.png`` (CC0),
and what the package of one of them makes of its answer. Neither networks nor pictures are in the file; ORIGIN.md says
where they come from. The networks of TensorFlow.js run in TensorFlow, in the environment for tests.
"""

from __future__ import annotations

import ast
import json
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from vedette_converter.load import tfjs
from vedette_converter.load.graph import as_network
from vedette_converter.load.shapes import Fed

PICTURES = Path(__file__).resolve().parents[3] / "models" / "golden"
MODELS = "package/models"


def letters() -> np.ndarray:
    """A cup of coffee with six letters on it, for a detector of letters."""
    picture = cv2.resize(cv2.imread(str(PICTURES / "coffee.jpg")), (480, 320))
    for letter, place, size, color in (
        ("W", (40, 80), 2.2, (20, 20, 200)), ("K", (150, 150), 2.0, (200, 60, 10)), ("7", (260, 90), 2.4, (10, 150, 30)),
        ("R", (330, 240), 2.1, (160, 20, 160)), ("3", (90, 270), 2.3, (0, 90, 220)), ("M", (400, 130), 1.8, (30, 30, 30)),
    ):  # fmt: skip
        cv2.putText(picture, letter, place, cv2.FONT_HERSHEY_DUPLEX, size, color, 6, cv2.LINE_AA)
    return picture


def astronaut(side: int, *, twice: bool = False) -> np.ndarray:
    """(1, side, side, 3) float32 RGB, 0..255; twice: beside her reflection, letterboxed."""
    picture = cv2.imread(str(PICTURES / "astronaut.jpg"))
    if twice:
        half = picture[:400, 40:400]
        both = cv2.resize(np.concatenate([half, cv2.flip(half, 1)], axis=1), (side, side * 400 // 720))
        picture = np.zeros((side, side, 3), np.uint8)
        top = (side - len(both)) // 2
        picture[top : top + len(both)] = both
    picture = cv2.resize(picture, (side, side))
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)[None].astype(np.float32)


def record_yolox(wheel: Path) -> dict[str, np.ndarray]:
    """The raw predictions, and the boxes (pixels of 416x416) and scores that the package's own code finds in them."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extract("ddddocr/common_det.onnx", folder)
        network = cv2.dnn.readNetFromONNX(f"{folder}/ddddocr/common_det.onnx")
        source = archive.read("ddddocr/core/detection_engine.py").decode()
    canvas = np.full((416, 416, 3), 114, np.uint8)
    canvas[69 : 69 + 277] = cv2.resize(letters(), (416, 277))
    network.setInput(canvas.transpose(2, 0, 1)[None].astype(np.float32))
    predictions = network.forward()
    # the class without its base, which wants ONNX Runtime: its decoding is NumPy
    [engine] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    engine.bases = []
    engine.body = [
        node for node in engine.body
        if isinstance(node, ast.FunctionDef) and node.name in ("demo_postprocess", "nms", "multiclass_nms_class_agnostic")
    ]  # fmt: skip
    names: dict[str, Any] = {"np": np}
    exec(compile(ast.Module([engine], []), str(wheel), "exec"), names)
    reference = names[engine.name]()
    rows = reference.demo_postprocess(predictions.copy(), (416, 416))[0]
    corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], axis=1)
    kept = reference.multiclass_nms_class_agnostic(corners, rows[:, 4:5] * rows[:, 5:], nms_thr=0.45, score_thr=0.1)
    return {"yolox": predictions, "yolox_boxes": kept[:, :4], "yolox_scores": kept[:, 4]}


def run_tfjs(package: Path, name: str, first: str, outputs: list[str], picture: np.ndarray) -> list[np.ndarray]:
    """A TensorFlow.js network's outputs."""
    where = f"{MODELS}/{name}.json"
    with tarfile.open(package) as archive:
        model = json.load(archive.extractfile(where))
        shards = [f"{MODELS}/{path}" for group in model["weightsManifest"] for path in group["paths"]]
        contents = {shard: archive.extractfile(shard).read() for shard in shards}
    graph = tfjs.build_graph(model, tfjs.read_weights(model, contents, where), where)
    network = as_network(graph, {first: (first, Fed(picture.shape))}, [(output, output) for output in outputs], name)
    return network.run(picture)


def record_blazepose(wheel: Path) -> dict[str, np.ndarray]:
    """Landmarks in pixels of 256x256, and how sure it is of a body."""
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read("mediapipe/modules/pose_landmark/pose_landmark_full.tflite")
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], astronaut(256) / 255)
    interpreter.invoke()
    landmarks, sure = (interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()[:2])
    return {"blazepose": landmarks, "blazepose_sure": sure}


def main(ddddocr: str, human_models: str, mediapipe: str) -> None:
    """Writes the file beside this one."""
    package = Path(human_models)
    heatmaps, offsets = run_tfjs(
        package, "posenet", "image", ["MobilenetV1/heatmap_2/BiasAdd", "MobilenetV1/offset_2/BiasAdd"],
        astronaut(385) / 127.5 - 1,
    )  # fmt: skip
    cast = "StatefulPartitionedCall/Cast"  # of the pixels, which come as integers
    np.savez_compressed(
        Path(__file__).with_name("heads.npz"),
        posenet_heatmaps=heatmaps,
        posenet_offsets=offsets,
        movenet=run_tfjs(package, "movenet-lightning", cast, ["Identity"], astronaut(192))[0],
        multipose=run_tfjs(package, "movenet-multipose", cast, ["Identity"], astronaut(256, twice=True))[0],
        **record_yolox(Path(ddddocr)),
        **record_blazepose(Path(mediapipe)),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
