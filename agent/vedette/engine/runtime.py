"""Which TFLite runtime: LiteRT, else its predecessor tflite-runtime.

LiteRT comes first for what was measured: tflite-runtime 2.14 does not hand int8 networks to XNNPACK and runs them
several times slower (`vedette bench MODEL --runtime tflite-runtime` shows it where both are installed).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from vedette.contract.errors import MissingPackageError
from vedette.contract.manifest import EngineClass

RuntimeName: TypeAlias = Literal["litert", "tflite-runtime"]
RUNTIMES: Final[tuple[RuntimeName, ...]] = ("litert", "tflite-runtime")

_PACKAGES: Final[dict[RuntimeName, str]] = {"litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
_INSTALL: Final[dict[RuntimeName, str]] = {
    "litert": "pip install ai-edge-litert (64-bit x86 or ARM)",
    "tflite-runtime": "pip install 'vedette[tflite-runtime]' (Python 3.11 or older)",
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """An imported runtime."""

    name: RuntimeName
    version: str
    module: Any  # its interpreter module: the runtimes ship no types

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def engine_class(self, input_dtype: np.dtype[np.generic]) -> EngineClass:
        """Whose kernels run a network with this input by default."""
        if self.name == "tflite-runtime" and input_dtype != np.float32:
            return "builtin"
        return "xnnpack"


def load_runtime(name: str = "auto") -> Runtime:
    """Imports the runtime of this name, or with ``"auto"`` the first there is.

    Raises `MissingPackageError` with the command that installs what is missing.
    """
    candidates = RUNTIMES if name == "auto" else tuple(r for r in RUNTIMES if r == name)
    if not candidates:
        raise MissingPackageError("engine.runtime", expected="auto, " + ", ".join(RUNTIMES), found=repr(name))
    problems = []
    for candidate in candidates:
        package = _PACKAGES[candidate]
        if (
            candidate == "tflite-runtime"
            and importlib.util.find_spec(package)
            and int(np.__version__.split(".")[0]) >= 2
        ):
            # asked before the import, which fails with pages of text under numpy 2
            raise MissingPackageError(
                "tflite-runtime does not run with numpy 2",
                expected="numpy below 2",
                found=np.__version__,
                fix="pip install 'vedette[tflite-runtime]', which pins it",
            )
        try:
            module = importlib.import_module(f"{package}.interpreter")
        except ImportError as error:
            problems.append(f"{candidate}: {error}")
            continue
        # both say it themselves, and importlib.metadata would be imported for nothing else
        return Runtime(candidate, str(sys.modules[package].__version__), module)
    raise MissingPackageError(
        "no TFLite runtime",
        expected=" or ".join(candidates),
        found="; ".join(problems),
        fix=_INSTALL[candidates[0]],
    )
