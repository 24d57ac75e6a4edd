"""Which operations XNNPACK really takes, asked of the runtime on this machine.

The interpreter does not say it in so many words. It does say which tensors each delegate node reads and which it hands
out. Nothing else of a partition is ever seen outside it, so its operations are exactly those met on the way back from
the tensors it hands out to those it reads.

XNNPACK decides by operation, types, shapes and quantisation, the same on x86 and ARM; this machine stands in for the
device as far as both have the same runtime.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vedette.contract.errors import FaultError, ModelError
from vedette.engine import load_runtime, probe
from vedette.engine.native_log import captured_stderr
from vedette.engine.refusal import COMPILED, LACKING

from .graph import Graph

_REFUSED: Final = "cannot be run"
REFUSALS: Final = (_REFUSED, COMPILED, LACKING)
"""The problems of a `ModelError` where the runtime says no; one where it dies has another."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each operation runs."""

    runtime: str  # "litert 2.3.0"
    partitions: tuple[tuple[int, ...], ...]  # operations by index, one tuple a delegate node, in the order they run

    @property
    def home(self) -> dict[int, int]:
        """Operation -> its partition, for those that the delegate took."""
        return {op: number for number, ops in enumerate(self.partitions) for op in ops}


def measure(graph: Graph, runtime: str = "auto") -> Placement:
    """Loads the file, in a child process first, and asks where its operations went.

    Raises `ModelError` where the runtime will not have the file, or dies of it; `MissingPackageError` without a runtime.
    """
    loaded = load_runtime(runtime)
    probe(graph.path, runtime)
    with captured_stderr():
        try:
            interpreter: Any = loaded.module.Interpreter(model_path=os.fspath(graph.path), num_threads=1)
            interpreter.allocate_tensors()
            details: Sequence[Mapping[str, Any]] = interpreter._get_ops_details()
        except (ValueError, RuntimeError) as error:
            raise ModelError(_REFUSED, where=graph.path, found=" ".join(str(error).split())) from None
        except AttributeError:
            raise FaultError(
                "the runtime does not tell its operations", expected="Interpreter._get_ops_details", found=str(loaded)
            ) from None
    delegates = [detail for detail in details if detail["op_name"] == "DELEGATE"]
    if len(details) - len(delegates) != len(graph.ops):
        raise FaultError(
            "the runtime counts other operations than the file", where=graph.path, expected=str(len(graph.ops)),
            found=str(len(details) - len(delegates)),
        )  # fmt: skip
    return Placement(str(loaded), tuple(sorted((_inside(graph, node) for node in delegates), key=_first)))


def _inside(graph: Graph, node: Mapping[str, Any]) -> tuple[int, ...]:
    """The operations between what a delegate node reads and what it hands out."""
    producers = graph.producers
    read = {int(tensor) for tensor in node["inputs"]}
    todo = [int(tensor) for tensor in node["outputs"]]
    seen: set[int] = set()
    ops: set[int] = set()
    while todo:
        tensor = todo.pop()
        if tensor in read or tensor in seen or tensor not in producers:
            continue
        seen.add(tensor)
        op = producers[tensor]
        ops.add(op.index)
        todo += [source.index for source in op.inputs if source is not None]
    # whatever reads a value that is never handed out is inside as well: an operation whose own result nobody reads
    kept = seen - {int(tensor) for tensor in node["outputs"]}
    for op in graph.ops:
        if op.index not in ops and any(source is not None and source.index in kept for source in op.inputs):
            ops.add(op.index)
            kept.update(out.index for out in op.outputs)
    return tuple(sorted(ops))


def _first(ops: tuple[int, ...]) -> int:
    return ops[0] if ops else -1
