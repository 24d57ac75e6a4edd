"""A linted network: a verdict an operation, findings on the whole, one line in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vedette.contract.errors import ModelError

from . import edgetpu, hints
from .compiler import CompiledEdgeTpu, compile_edgetpu, find_compiler
from .graph import Graph, Op, read_graph
from .hints import Finding
from .measure import REFUSALS, Placement, measure
from .rule import Refusal
from .xnnpack import XnnpackRules

Target: TypeAlias = Literal["cpu", "edgetpu"]
TARGETS: tuple[Target, ...] = ("cpu", "edgetpu")
_NAMES = {"cpu": ("XNNPACK", "TFLite's own kernels"), "edgetpu": ("the Edge TPU", "the CPU")}
_UNKNOWN = Refusal("XNNPACK left it, and no rule here says why")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where one operation runs."""

    op: Op
    on_target: bool
    partition: int | None  # the delegate's, counted from 0, where it was measured
    refusal: Refusal | None  # of an operation that does not run on the target


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of a network on a target."""

    graph: Graph
    target: Target
    placement: Placement | None  # None: by the rules alone
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    compiled: CompiledEdgeTpu | None = None

    @property
    def fallen(self) -> tuple[Verdict, ...]:
        """Operations that do not run on the target."""
        return tuple(verdict for verdict in self.verdicts if not verdict.on_target)

    @property
    def homeless(self) -> tuple[Verdict, ...]:
        """Custom operations that no runtime here has a kernel for."""
        return tuple(v for v in self.fallen if v.op.custom and v.op.kind not in hints.KERNELS)

    @property
    def runs(self) -> bool:
        """Whether the network runs on the target at all, and may be shipped."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def clean(self) -> bool:
        """It runs, and every operation is on the target; as the compiler says, where it was asked."""
        off = self.compiled.ops_on_cpu if self.compiled else len(self.fallen)
        return self.runs and not off

    @property
    def macs_on_target(self) -> float:
        """Share of the multiply-adds that run on the target, 1 for a network without any."""
        return sum(v.op.macs for v in self.verdicts if v.on_target) / self.graph.macs if self.graph.macs else 1.0

    def summary(self) -> str:
        """One line: how many operations run where."""
        on, off = _NAMES[self.target]
        total = len(self.verdicts)
        text = f"{total - len(self.fallen)} of {total} ops on {on}"
        if self.placement is not None and self.placement.partitions:
            count = len(self.placement.partitions)
            text += f" in {count} partition{'s' if count != 1 else ''}"
        if self.graph.macs:
            text += f" ({_percent(self.macs_on_target)} of {self.graph.macs / 1e6:.4g} M multiply-adds)"
        homeless = {verdict.op.index for verdict in self.homeless}
        text += _listed([verdict for verdict in self.fallen if verdict.op.index not in homeless], off)
        text += _listed(self.homeless, "no kernel at all")
        if self.placement is not None:
            return f"{text} (measured with {self.placement.runtime})"
        if self.compiled is not None:
            version = f" {self.compiled.version}" if self.compiled.version else ""
            return (
                f"{self.compiled.ops_on_tpu} of {self.compiled.ops_on_tpu + self.compiled.ops_on_cpu} ops on {on} "
                f"(edgetpu_compiler{version}); by the rules here, {text}"
            )
        return f"{text} (by the rules, not measured)"

    def as_object(self) -> dict[str, Any]:
        """For ``--json``: every operation, findings, the summary."""
        return {
            "model": str(self.graph.path),
            "target": self.target,
            "summary": self.summary(),
            "clean": self.clean,
            "runs": self.runs,
            "measured": self.placement.runtime if self.placement else None,
            "partitions": len(self.placement.partitions) if self.placement else None,
            "ops": {
                "total": len(self.verdicts), "on_target": len(self.verdicts) - len(self.fallen), "off": len(self.fallen),
            },
            "macs": {"total": self.graph.macs, "on_target": round(self.macs_on_target, 6)},
            "operations": [_operation(verdict) for verdict in self.verdicts],
            "findings": [
                {"severity": f.severity, "rule": f.rule, "problem": f.problem, "fix": f.fix} for f in self.findings
            ],
            "compiled": None if self.compiled is None else {
                "version": self.compiled.version, "ops_on_tpu": self.compiled.ops_on_tpu,
                "ops_on_cpu": self.compiled.ops_on_cpu, "bytes": len(self.compiled.flatbuffer),
                "rows": [{"op": row.kind, "count": row.count, "status": row.status} for row in self.compiled.rows],
            },
        }  # fmt: skip


def lint(path: Path, target: Target = "cpu", runtime: str = "auto") -> Report:
    """Reads a network and says where its operations run on a target.

    ``cpu`` loads the file, in a child process first; ``edgetpu`` never does, and asks edgetpu_compiler where it is on
    PATH. Raises `ModelError` for a file that is damaged or that the runtime will not have or dies of.
    """
    graph = read_graph(path)
    return _on_cpu(graph, runtime) if target == "cpu" else _on_edgetpu(graph)


def _on_cpu(graph: Graph, runtime: str) -> Report:
    rules = XnnpackRules(graph)
    found = hints.findings(graph, cpu=True)
    placement = None
    try:
        placement = measure(graph, runtime)
    except ModelError as error:
        if error.problem not in REFUSALS or not hints.custom_without_kernel(graph):
            raise
        # it was to be expected, a finding says it; where the operations would run is still told by the rules
    home = placement.home if placement else {}
    verdicts = []
    for op in graph.ops:
        refusal = rules.refusal(op)
        taken = op.index in home if placement else refusal is None
        verdicts.append(Verdict(op, taken, home.get(op.index), None if taken else refusal or _UNKNOWN))
    if placement is not None and len(placement.partitions) > 1:
        found.append(
            Finding(
                "hint", "partitions",
                f"XNNPACK runs it in {len(placement.partitions)} partitions: values are handed over at each border",
                "mend the operations between them",
            )
        )  # fmt: skip
    return Report(graph, "cpu", placement, tuple(verdicts), tuple(found))


def _on_edgetpu(graph: Graph) -> Report:
    found = hints.findings(graph)
    guess = edgetpu.estimate(graph)
    verdicts = tuple(
        Verdict(op, op.index not in guess.refusals, None, guess.refusals.get(op.index)) for op in graph.ops
    )
    already = any(op.kind == edgetpu.CUSTOM_OP for op in graph.ops)
    if already:
        found = [finding for finding in found if finding.rule != "compiled"]
        found.append(Finding("hint", "compiled", "the file is compiled for the Edge TPU: what is left runs on the CPU"))
        return Report(graph, "edgetpu", None, verdicts, tuple(found))
    if not any(verdict.on_target for verdict in verdicts):
        found.insert(
            0,
            Finding(
                "error",
                "nothing-mapped",
                "no operation would run on the Edge TPU",
                "" if graph.quantised else "quantise it to int8, values too",
            ),
        )
    if guess.parameter_bytes > edgetpu.CACHE_BYTES:
        found.append(
            Finding(
                "warning", "cache",
                f"{guess.parameter_bytes / 2**20:.1f} MiB of weights, and the Edge TPU keeps less than "
                f"{edgetpu.CACHE_BYTES / 2**20:g} MiB on the chip: the rest is sent anew for each run",
                "use a smaller network, or prune channels",
            )
        )  # fmt: skip
    compiled = None
    if find_compiler() is None:
        found.append(
            Finding(
                "hint", "no-compiler", "edgetpu_compiler is not installed here: this is what its documentation says",
                "see https://coral.ai/docs/edgetpu/compiler/",
            )
        )  # fmt: skip
    else:
        compiled = compile_edgetpu(graph.flatbuffer, str(graph.path))
    return Report(graph, "edgetpu", None, verdicts, tuple(found), compiled)


def place(report: Report, verdict: Verdict) -> str:
    """``XNNPACK #2``, ``Edge TPU``, ``CPU``: for a table's column."""
    if report.target == "edgetpu":
        return "Edge TPU" if verdict.on_target else "CPU"
    if not verdict.on_target:
        return "nowhere" if verdict in report.homeless else "TFLite"
    return "XNNPACK" if verdict.partition is None else f"XNNPACK #{verdict.partition + 1}"


def _operation(verdict: Verdict) -> dict[str, Any]:
    op = verdict.op
    return {
        "index": op.index,
        "op": op.kind,
        "name": op.name,
        "inputs": [tensor.kind for tensor in op.inputs if tensor is not None],
        "outputs": [tensor.kind for tensor in op.outputs],
        "activation": op.activation,
        "macs": op.macs,
        "on_target": verdict.on_target,
        "partition": verdict.partition,
        "why": verdict.refusal.why if verdict.refusal else "",
        "fix": verdict.refusal.fix if verdict.refusal else "",
    }


def _listed(verdicts: Sequence[Verdict], where: str) -> str:
    kinds = Counter(verdict.op.kind for verdict in verdicts)
    names = ", ".join(f"{kind} x{count}" if count > 1 else kind for kind, count in kinds.most_common())
    return f"; {len(verdicts)} on {where}: {names}" if verdicts else ""


def _percent(share: float) -> str:
    """Never rounded up to 100: a share just below it is not all."""
    return "100 %" if share >= 1 else f"{min(share * 100, 99.99):.4g} %"
