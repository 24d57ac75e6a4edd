"""A model that MediaPipe Tasks and the agent can both run, and MediaPipe's environment.

MediaPipe's ObjectDetector takes neither int8 tensors nor a file without its metadata. So the shipped detector gets a
QUANTIZE in front, from uint8 pixels to its int8 ones, a DEQUANTIZE behind each output, and metadata by MediaPipe's own
writer; its weights and everything in between stay as they are. The agent runs the very same file as a plain model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import flatbuffers
from _agent_turn import Camera
from _native import NotHereError
from _results import ROOT
from ai_edge_litert import schema_py_generated as schema

from vedette.contract.decode.ssd import anchor_boxes
from vedette.contract.manifest import ImageInput, SsdOutput
from vedette.models.model import ModelSpec, read_model

ENVIRONMENT = ROOT / "build" / "venv-mediapipe"
REQUIREMENTS = ("mediapipe==1.2.3", "paho-mqtt==2.2.0")
RIVALS = Path(__file__).parent / "rivals"


def prepare(model: str, clip: Path, port: int, folder: Path) -> tuple[list[str], Camera]:
    """MediaPipe's command, but for the seconds, and the agent's camera. Raises `NotHereError` where it cannot be."""
    spec = read_model(model)
    output = spec.output
    if spec.bundle is None or not isinstance(spec.input, ImageInput) or not isinstance(output, SsdOutput):
        raise NotHereError(f"{spec.name} is no bundle of raw SSD heads, for which alone metadata are written here")
    python = _environment()
    network, path = folder / "network.tflite", folder / "mediapipe.tflite"
    network.write_bytes(_for_mediapipe(spec.bundle.flatbuffer()))
    metadata = {
        "mean": list(spec.input.mean), "std": list(spec.input.std), "labels": _labels(spec, output),
        "anchors": anchor_boxes(output.anchors).tolist(), "box_scale": list(output.box_scale),
    }  # fmt: skip
    done = subprocess.run(
        [str(python), str(RIVALS / "mediapipe_model.py"), str(network), str(path)],
        input=json.dumps(metadata), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotHereError(f"MediaPipe writes no metadata: {done.stderr.strip().splitlines()[-1]}")
    command = [
        str(python), str(RIVALS / "live_mediapipe.py"), str(path), str(clip), str(port), str(output.score_threshold),
        str(output.max_detections),
    ]  # fmt: skip
    trial = subprocess.run([*command, "0.1"], capture_output=True, text=True, check=False, timeout=60)
    if trial.returncode:
        raise NotHereError(f"MediaPipe does not run it: {trial.stderr.strip().splitlines()[-1]}")
    return command, Camera(str(path), clip, plain=_plain(spec, output, folder))


def _environment() -> Path:
    """Its Python, made where it is not there: some 600 MB, of which nothing is the project's."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / ".ready"
    if not done.exists():
        print(f"making {ENVIRONMENT}: {', '.join(REQUIREMENTS)} (about 600 MB)", file=sys.stderr)
        quiet = ["--quiet", "--no-compile", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", str(ENVIRONMENT)],
            [str(python), "-m", "pip", "install", *quiet, *REQUIREMENTS],
        ):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                raise NotHereError(f"MediaPipe cannot be installed: {made.stderr.strip().splitlines()[-1]}")
        done.touch()
    return python


def _labels(spec: ModelSpec, output: SsdOutput) -> list[str]:
    """As MediaPipe counts: a background's logit is a class like others, which is then told to be left out."""
    return ["background", *spec.labels] if output.background else list(spec.labels)


def _plain(spec: ModelSpec, output: SsdOutput, folder: Path) -> str:
    labels = folder / "labels.txt"
    labels.write_text("\n".join(spec.labels) + "\n")
    maps = [list(cells) for cells in output.anchors.feature_maps]
    return (
        f"[pipeline.NAME.plain]\nlabels_file = {json.dumps(str(labels))}\n"
        f'[pipeline.NAME.plain.output]\ndecoder = "ssd"\nbackground = {json.dumps(output.background)}\n'
        f"box_scale = {list(output.box_scale)}\nscore_threshold = {output.score_threshold}\n"
        f"nms_iou = {output.nms_iou}\n[pipeline.NAME.plain.output.anchors]\nfeature_maps = {maps}\n"
        f"aspect_ratios = {list(output.anchors.aspect_ratios)}\n"
    )


def _for_mediapipe(network: bytes) -> bytes:
    """uint8 in, float32 out; the network between them untouched."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(network), 0)
    graph = model.subgraphs[0]
    pixels = int(graph.inputs[0])
    if graph.tensors[pixels].type != schema.TensorType.INT8:
        raise NotHereError("the network does not take int8 pixels, for which alone it is adapted here")
    # raw int8 is raw uint8 less 128, so scales agree and zero points differ by 128
    zero_point = int(graph.tensors[pixels].quantization.zeroPoint[0]) + 128
    entry = _tensor(graph, pixels, schema.TensorType.UINT8, zero_point)
    graph.operators.insert(0, _operator(_code(model, schema.BuiltinOperator.QUANTIZE, 1), entry, pixels))
    graph.inputs = [entry]
    dequantize = _code(model, schema.BuiltinOperator.DEQUANTIZE, 2)  # version 2 is the first that takes int8
    exits = []
    for output in (int(index) for index in graph.outputs):
        exits.append(_tensor(graph, output, schema.TensorType.FLOAT32, None))
        graph.operators.append(_operator(dequantize, output, exits[-1]))
    graph.outputs = exits
    model.signatureDefs = None
    builder = flatbuffers.Builder(len(network) + (1 << 16))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _code(model: Any, builtin: int, version: int) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _tensor(graph: Any, like: int, dtype: int, zero_point: int | None) -> int:
    other, tensor = graph.tensors[like], schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = other.shape, dtype, 0
    tensor.name = other.name + b"_outside"
    if zero_point is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = list(other.quantization.scale), [zero_point]
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(code: int, source: int, target: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, [source], [target]
    return operator
