"""Makes ``postprocess.npz``: ``python record_postprocess.py MODEL.tflite PICTURE...``

What the op ``TFLite_Detection_PostProcess`` of Coral's mobilenet_ssd_v2_coco_quant_postprocess.tflite answered, by the
bare interpreter, for scikit-image's ``astronaut.png`` (NASA, public domain), ``chelsea.png`` and ``coffee.png`` (CC0):
twenty rows each. Neither the network nor the pictures are in the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(model: str, pictures: list[str]) -> None:
    """Writes the file beside this one."""
    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_output_details()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("boxes", "classes", "scores", "count")}
    for picture in pictures:
        pixels = cv2.resize(cv2.imread(picture), (300, 300))[None, :, :, ::-1]
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
        interpreter.invoke()
        for name, detail in zip(rows, details, strict=True):
            rows[name].append(interpreter.get_tensor(detail["index"]))
    arrays = {name: np.stack(values) for name, values in rows.items()}
    np.savez_compressed(Path(__file__).with_name("postprocess.npz"), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
