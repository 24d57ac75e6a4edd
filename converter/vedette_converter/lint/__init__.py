"""Where a network's operations run on a target, why not, and what to change.

::

    report = lint(Path("detector.tflite"), "cpu")
    print(report.summary())  # 111 of 113 ops on XNNPACK in 2 partitions (100 % of 750 M multiply-adds); 2 on ...
    for verdict in report.fallen:
        print(verdict.op.index, verdict.op.kind, verdict.refusal)

    compiled = compile_edgetpu(graph.flatbuffer)  # where edgetpu_compiler is installed
"""

from .compiler import CompiledEdgeTpu, compile_edgetpu, find_compiler
from .graph import Graph, Op, Quantisation, Tensor, parse_graph, read_graph
from .hints import Finding
from .measure import Placement, measure
from .report import TARGETS, Report, Target, Verdict, lint
from .rule import Refusal

__all__ = [
    "TARGETS",
    "CompiledEdgeTpu",
    "Finding",
    "Graph",
    "Op",
    "Placement",
    "Quantisation",
    "Refusal",
    "Report",
    "Target",
    "Tensor",
    "Verdict",
    "compile_edgetpu",
    "find_compiler",
    "lint",
    "measure",
    "parse_graph",
    "read_graph",
]
