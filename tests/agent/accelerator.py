"""An accelerator without hardware: ``tests/engine_delegate/delegate.c``, a network compiled for it, a bundle that holds
both, and a file that tells it what to do.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from test_engine_selftest import golden_for

from tiny import DATA, LABELS, make_manifest
from vedette.contract import golden
from vedette.contract.bundle import write_bundle
from vedette.contract.manifest import Tolerance
from vedette.engine import Delegate

SOURCE = Path(__file__).resolve().parents[1] / "engine_delegate" / "delegate.c"
CUSTOM_OP = b"edgetpu-custom-op"


class TestDelegate:
    """The library, and the file that says what it does: ``w``orks, ``h``angs, ``c``rashes, answers ``r``ubbish, ``f``ails,
    or at its start ``H``angs, finds ``n``o device, cannot ``p``repare."""

    __test__ = False

    def __init__(self, folder: Path, *, name: str = "libtest.so") -> None:
        gcc = shutil.which("gcc")
        if gcc is None:
            pytest.skip("no gcc: delegates stay untested")
        self.library = folder / name
        self.command = folder / "command"
        self.does("w")
        subprocess.run([gcc, "-O1", "-shared", "-fPIC", "-o", str(self.library), str(SOURCE), "-lm"], check=True)

    def does(self, letter: str) -> None:
        """From the next run on."""
        new = self.command.with_suffix(".new")
        new.write_text(letter)
        new.replace(self.command)

    def delegate(self, name: str = "test") -> Delegate:
        """For an engine."""
        return Delegate(name, str(self.library), {"command": str(self.command)})


def compiled(kind: str, op_name: bytes = CUSTOM_OP) -> bytes:
    """The tiny network with its softmax in the place of an Edge TPU's op, or another, so that no CPU can run it."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((DATA / f"tiny-{kind}.tflite").read_bytes(), 0))
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.SOFTMAX:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = op_name
    for op in model.subgraphs[0].operators:
        if model.operatorCodes[op.opcodeIndex].builtinCode == schema.BuiltinOperator.CUSTOM:
            op.builtinOptions, op.builtinOptionsType = None, 0
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def accelerated_bundle(folder: Path, kind: str = "uint8", **changes: Any) -> Path:
    """A bundle of the tiny classifier with a network for the Edge TPU in it."""
    flatbuffer = (DATA / f"tiny-{kind}.tflite").read_bytes()
    members = {
        "labels.txt": LABELS,
        "golden.npz": golden.encode(golden_for(kind, "litert")),
        "edgetpu.tflite": compiled(kind),
    }
    close = Tolerance(min_agreement=0.9, max_mean_score_error=0.05)
    manifest = make_manifest(
        flatbuffer, members, **{"tolerances": {"xnnpack": close, "builtin": close}, "precision": "int8", **changes}
    )
    path = folder / f"accelerated-{kind}.tflite"
    write_bundle(path, flatbuffer, manifest, members)
    return path


def random_input(shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    """Of a network of this kind."""
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.uniform(0, 1, shape).astype(np.float32)
    info = np.iinfo(np.dtype(dtype).name)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)
