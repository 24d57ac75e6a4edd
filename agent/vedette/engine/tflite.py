"""An engine in this process: a TFLite interpreter.

The classic `Interpreter`, not LiteRT's `CompiledModel`: it releases the GIL in `invoke`, loads external delegates and
runs on every ARM core.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vedette.contract.errors import EngineFaultError, ModelError
from vedette.contract.types import Tensor, TensorSpec

from .base import EngineDescription
from .child import describe
from .native_log import captured_stderr
from .refusal import refusal
from .runtime import Runtime

Kernels = Literal["default", "builtin", "reference"]
MAX_THREADS = 64


class TfliteEngine:
    """See `vedette.engine.base.Engine`, which this is."""

    def __init__(
        self,
        path: Path,
        runtime: Runtime,
        *,
        threads: int = 1,
        kernels: Kernels = "default",
        content: bytes | None = None,
    ) -> None:
        """Loads the flatbuffer at the start of ``path`` and allocates its tensors.

        ``content``: the flatbuffer, as somebody has read and checked it; several engines may share it. None: the file is
        mapped into memory, so that it must not be written to while the engine is there.
        ``kernels``: ``default`` is XNNPACK where the runtime has it, ``builtin`` TFLite's own optimised kernels,
        ``reference`` its slow, plain ones. Raises `ModelError` when the runtime will not have the file.
        """
        if not 1 <= threads <= MAX_THREADS:
            raise ModelError("bad number of threads", expected=f"1 to {MAX_THREADS}", found=str(threads))
        module = runtime.module
        resolver = {
            "default": module.OpResolverType.AUTO,
            "builtin": module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": module.OpResolverType.BUILTIN_REF,
        }[kernels]
        native: list[str] = []
        try:
            with captured_stderr() as native:
                interpreter = module.Interpreter(
                    model_path=None if content is not None else os.fspath(path),
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=resolver,
                )
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError, TypeError, MemoryError) as error:
            raise refusal(f"{runtime} cannot load it", path, " ".join([str(error), *native])) from None
        self._interpreter: Any = interpreter
        self._inputs = tuple(_spec(detail) for detail in interpreter.get_input_details())
        if any(-1 in detail["shape_signature"][1:] for detail in interpreter.get_output_details()):
            self._find_sizes()
        self._outputs = tuple(_spec(detail) for detail in interpreter.get_output_details())
        if not self._inputs or not self._outputs:
            raise ModelError(
                "no network", where=path, expected="at least one input and one output",
                found=f"{len(self._inputs)} and {len(self._outputs)}",
            )  # fmt: skip
        self._input_indices = [detail["index"] for detail in interpreter.get_input_details()]
        self._output_views = [interpreter.tensor(detail["index"]) for detail in interpreter.get_output_details()]
        engine_class = runtime.engine_class(self._inputs[0].dtype) if kernels == "default" else kernels
        delegate = "xnnpack" if engine_class == "xnnpack" else "none"
        self._description = EngineDescription(str(runtime), delegate, threads, engine_class)

    def _find_sizes(self) -> None:
        """Runs it on zeros: of a batch that is left open, sizes further on may be computed from it, and are 1 until then."""
        with suppress(ValueError, RuntimeError):  # then what is declared may be what there is
            for detail, spec in zip(self._interpreter.get_input_details(), self._inputs, strict=True):
                self._interpreter.set_tensor(detail["index"], spec.allocate())
            self._interpreter.invoke()

    @property
    def description(self) -> EngineDescription:
        """Who runs the model."""
        return self._description

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The network's input tensors."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The network's output tensors."""
        return self._outputs

    @property
    def delegated(self) -> bool | None:
        """Whether the runtime handed parts of the network to XNNPACK; None where it does not say."""
        details = getattr(self._interpreter, "_get_ops_details", None)  # no public name for it in either runtime
        return None if details is None else any(detail.get("op_name") == "DELEGATE" for detail in details())

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        """Buffers of the tensors' sizes, for the caller to own."""
        return [spec.allocate() for spec in self._inputs], [spec.allocate() for spec in self._outputs]

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        """See `Engine.invoke`. In this process nothing can be interrupted: the deadline is the watchdog's."""
        interpreter = self._interpreter
        try:
            for index, data in zip(self._input_indices, inputs, strict=True):
                interpreter.set_tensor(index, data)
            interpreter.invoke()
            for view, out in zip(self._output_views, outputs, strict=True):
                # a view of the tensor must not outlive this line: the interpreter refuses to run while one does
                np.copyto(out, view().reshape(out.shape))
        except (ValueError, RuntimeError) as error:
            found = self._resized() or str(error)
            raise EngineFaultError(f"{self._description.runtime}: invoke failed", found=found) from None

    def _resized(self) -> str:
        """What cannot be copied out; "" for nothing: an output whose size depends on what the network is given."""
        for spec, detail in zip(self._outputs, self._interpreter.get_output_details(), strict=True):
            if (shape := describe(detail)["shape"]) != list(spec.shape):
                return f"output tensor {spec} that became {shape}: only outputs of one size can be read"
        return ""

    def close(self) -> None:
        """Lets the interpreter go, and its memory with it."""
        self._interpreter = None
        self._output_views = []  # each holds the interpreter


def _spec(detail: dict[str, Any]) -> TensorSpec:
    fields = describe(detail)
    return TensorSpec(**{**fields, "shape": tuple(fields["shape"]), "dtype": np.dtype(fields["dtype"])})
