"""A run's outcome, for people and for programs."""

from __future__ import annotations

import statistics
from typing import Any

from rich.markup import escape
from rich.table import Table

from vedette.terminal import Console

from .run import WITHOUT_GROWTH, Outcome
from .usage import Usage


def document(outcome: Outcome) -> dict[str, Any]:
    """What ``--json`` prints. Times in seconds."""
    verdict = outcome.verdict
    return {
        "passed": outcome.passed,
        "failures": outcome.failures,
        "seed": outcome.seed,
        "seconds": outcome.seconds,
        "broker": outcome.broker,
        "durable": outcome.durable,
        "lives": outcome.lives,
        "faults": [
            {"name": tried.name, "times": len(tried.back_s), "back_s": [round(s, 3) for s in tried.back_s],
             "wrong": tried.wrong}
            for tried in outcome.tried
        ],
        "not_tried": [{"name": one.name, "why": one.why} for one in outcome.not_tried],
        "messages": None if verdict is None else {
            "given": verdict.given, "received": verdict.received, "received_again": verdict.twice,
            "accounted": dict(verdict.accounted), "missing": verdict.missing, "waiting": verdict.waiting,
            "ids_for_two": verdict.conflicts, "unknown_streams": verdict.unknown, "examples": list(verdict.examples),
        },
        "growth": {"lives": outcome.growth.lives, **outcome.growth.most._asdict()},
    }  # fmt: skip


def show(outcome: Outcome) -> None:
    """The tables, and the verdict as the last line."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for name, justify in (("fault", "left"), ("times", "right"), ("back after, s", "right"), ("most", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("")
    for tried in outcome.tried:
        mid = f"{statistics.median(tried.back_s):.1f}" if tried.back_s else "never"
        most = f"{max(tried.back_s):.1f}" if tried.back_s else ""
        wrong = f"[red]{escape(tried.wrong[0])}[/]" if tried.wrong else ""
        table.add_row(tried.name, str(len(tried.back_s)), mid, most, wrong)
    console.print()
    console.print(table)
    for one in outcome.not_tried:
        console.print(f"not tried: {escape(one.name)}: {escape(one.why)}", soft_wrap=True)
    console.print()
    for line in _lines(outcome):
        console.print(line, soft_wrap=True)
    for failure in outcome.failures:
        console.print(f"[red]FAILED[/] {escape(failure)}", soft_wrap=True)
    seed = f"seed {outcome.seed}"
    console.print(f"[green]passed[/] ({seed})" if outcome.passed else f"[red]failed[/] ({seed})")


def _lines(outcome: Outcome) -> list[str]:
    lines = []
    verdict = outcome.verdict
    if verdict is not None:
        accounted = ", ".join(f"{count} {reason}" for reason, count in verdict.accounted.items()) or "none"
        lines.append(
            f"messages: {verdict.given} given a number, {verdict.received} received, {verdict.missing} missing; the ledger"
            f" accounts for others: {accounted}; {verdict.twice} came again, {verdict.conflicts} ids for two"
        )
        if verdict.unknown:
            lines.append(
                f"of {verdict.unknown} streams nobody knows how many messages they had: they were in memory alone"
            )
    growth = outcome.growth
    if growth.lives:
        grown = ", ".join(_grown(n, f, a) for n, f, a in zip(Usage._fields, growth.most, WITHOUT_GROWTH, strict=True))
        lines.append(f"growth of the agent within one life, {growth.lives} looked at: {grown}")
    else:
        lines.append("growth: no life of the agent was long enough to say")
    lines.append(f"agent started: {outcome.lives}; seconds of faults: {outcome.seconds:g}; broker: {outcome.broker}")
    return lines


def _grown(name: str, found: int, allowed: int) -> str:
    if name == "pss_bytes":
        return f"{found / 1e6:.1f} of at most {allowed / 1e6:.0f} MB"
    return f"{found} of at most {allowed} {name.replace('_', ' ')}"
