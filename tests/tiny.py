"""Small bundles for tests, valid ones: what a test breaks, it breaks itself.

`fake_*` has a flatbuffer that no runtime would run, and is a few kilobytes; the files in ``tests/contract/data`` are
real networks.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vedette.contract import bundle as bundle_module
from vedette.contract.manifest import (
    ClassifyOutput,
    Dataset,
    Evaluation,
    ImageInput,
    Manifest,
    Metric,
    Source,
    Tolerance,
)

DATA = Path(__file__).parent / "contract" / "data"
FAKE_FLATBUFFER = b"\x1c\0\0\0TFL3" + bytes(range(200))
LABELS = b"ash\nbirch\ncedar\nelm\n"


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def npz(**arrays: Any) -> bytes:
    """What ``numpy.savez`` writes."""
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def golden_arrays(**changes: Any) -> dict[str, Any]:
    """Two inputs of 4x4x3 with a result each; ``changes`` take the place of arrays, None takes one away."""
    arrays: dict[str, Any] = {
        "inputs": np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3),
        "offsets": np.array([0, 1, 2], np.int32),
        "boxes": np.empty((0, 4), np.float32),
        "scores": np.array([0.9, 0.8], np.float32),
        "class_ids": np.array([1, 3], np.int32),
        "picture": np.zeros((8, 8, 3), np.uint8),
        "picture_tensor": np.zeros((4, 4, 3), np.uint8),
        "raw_0": np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.uint8),
    }
    arrays.update(changes)
    return {name: array for name, array in arrays.items() if array is not None}


def make_manifest(flatbuffer: bytes, members: dict[str, bytes], **changes: Any) -> Manifest:
    """A manifest whose digests are right for these, worked out here with hashlib."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0",
        "task": "classify",
        "input": ImageInput(height=16, width=16, std=(255.0,)),
        "output": ClassifyOutput(),
        "evaluation": [
            Evaluation(
                data=Dataset(name="ramps", count=200, sha256="0" * 64),
                metrics=[Metric(name="top-1", before=0.9, after=0.8, difference_interval=(-0.2, 0.0))],
            )
        ],
        "precision": "int8",
        "recipe": "tiny",
        "recipe_sha256": "1" * 64,
        "source": Source(url="file:tiny", sha256="2" * 64, licence="Apache-2.0", attribution="nobody"),
        "tools": {"tensorflow": "2.21.0"},
        "flatbuffer_bytes": len(flatbuffer),
        "flatbuffer_sha256": sha256(flatbuffer),
        "members": {
            name: sha256(data) for name, data in members.items() if name not in ("measurements.json", "manifest.sig")
        },
        "tolerances": {name: Tolerance(min_agreement=0.9, max_mean_score_error=0.1) for name in ("xnnpack", "builtin")},
    }
    return Manifest(**{**fields, **changes})


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of."""

    flatbuffer: bytes
    manifest: Manifest
    members: dict[str, bytes]

    def bytes(self) -> bytes:
        """The bundle."""
        return bundle_module.pack(self.flatbuffer, self.manifest, self.members)


def fake_parts(**members: bytes | None) -> Parts:
    """A valid bundle around `FAKE_FLATBUFFER`. ``labels_txt=b"..."`` changes a member, None takes it away."""
    contents: dict[str, bytes | None] = {
        "labels.txt": LABELS,
        "golden.npz": npz(**golden_arrays()),
        "measurements.json": b'{"infer_ms": 0.1}\n',
    }
    for name, data in members.items():
        stem, _, suffix = name.rpartition("_")
        contents[f"{stem}.{suffix}"] = data
    kept = {name: data for name, data in contents.items() if data is not None}
    return Parts(FAKE_FLATBUFFER, make_manifest(FAKE_FLATBUFFER, kept), kept)
