"""The report as one HTML page that needs nothing but itself: no script, no request, no font from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib import resources

from ..measured import Measured
from . import figures
from .extras import Extras
from .glance import cards, header
from .markup import Markup, element, section, table
from .operations import operations
from .seen import pictures
from .table import blame, stage_rows
from .words import bound, in_figures, percent, threads

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # whatever a name may smuggle in


def page(measured: Measured, extras: Extras) -> str:
    """Pictures and figures first, then the tables, then how it was made. Parts that ``extras`` has not are left out."""
    title = f"{measured.name}: {measured.after.name} beside {measured.before.name}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(_style())),
    )
    parts = [
        cards(measured),
        pictures(measured, extras) if extras.look is not None and extras.look.pictures else None,
        element("div", _latency(measured), _trade(measured), class_="halves"),
        element("div", _gate(measured), _self_test(measured), class_="halves"),
        _stages(measured),
        operations(extras.layers) if extras.layers is not None else None,
        _channels(extras) if extras.plan is not None and extras.plan.cuts else None,
        _notes(measured, extras),
        _making(measured, extras),
    ]
    body = element("body", header(measured), element("main", *parts), _footer(measured, extras))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


@cache
def _style() -> str:
    return resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")


def _latency(measured: Measured) -> Markup:
    latency = measured.latency
    return section(
        "How long an inference takes",
        element(
            "p", f"{latency.rounds} rounds by turns, {threads(latency.threads)}. Bar: the middle half, upright line: "
            "the median, thick line to the 90th percentile, thin to the 99th.", class_="note",
        ),
        figures.latency(measured),
    )  # fmt: skip


def _trade(measured: Measured) -> Markup:
    accuracy = measured.accuracy
    bars = " Upright line: 95 % interval of the change." if accuracy is not None else ""
    return section(
        "What it costs, what it brings",
        element("p", f"Upper left is better. A disc's area is the network's size.{bars}", class_="note"),
        figures.trade(measured),
    )


def _gate(measured: Measured) -> Markup:
    rows = [
        [
            row.what,
            in_figures(row.value),
            bound(row),
            element("span", f"{'✓' if row.holds else '✗'} {row.verdict}", class_=row.verdict) if row.verdict else "",
        ]
        for row in measured.rows
    ]
    lost = blame(measured)
    return section(
        "Gate",
        table(["promise", "measured", "must be", "holds"], rows),
        element("p", f"Where it was lost: {lost}.") if lost else None,
    )


def _self_test(measured: Measured) -> Markup:
    rows = [
        [name, f"{verdict.judged}", f"{verdict.agreement:.3f}", f"{verdict.mean_score_error:.4f}"]
        for name, verdict in measured.verdicts.items()
    ]
    return section(
        "Self-test of the bundle",
        element(
            "p", "The inputs that travel with the bundle, on each kind of kernels that a device may have, against what "
            "the float network found in them.", class_="note",
        ),
        table(["kernels", "results judged", "agreement", "mean score error"], rows),
    )  # fmt: skip


def _stages(measured: Measured) -> Markup:
    head = ["", *(stage.name for stage in measured.stages)]
    return section(
        "Every network on the way", table(head, stage_rows(measured), product=measured.product + 1),
        element("p", "The tinted column is what the bundle is made of.", class_="note"),
    )  # fmt: skip


def _channels(extras: Extras) -> Markup:
    plan = extras.plan
    assert plan is not None  # asked by the caller
    kept, total = sum(cut.kept for cut in plan.cuts), sum(cut.size for cut in plan.cuts)
    return section(
        "Channels pruned",
        element(
            "p", f"{total - kept} of {total} units are gone ({percent(plan.ratio)}). A group is what "
            "can only go together; dashed: what it had, filled: what is left.", class_="note",
        ),
        element("div", figures.channels(plan), class_="scroll"),
        long=True,
    )  # fmt: skip


def _notes(measured: Measured, extras: Extras) -> Markup | None:
    found = [*measured.findings, *extras.notes]
    if not found:
        return None
    return section("Worth a look", element("ul", *(element("li", finding) for finding in found)))


def _making(measured: Measured, extras: Extras) -> Markup:
    latency, accuracy = measured.latency, measured.accuracy
    facts = [
        ("machine", latency.machine),
        ("runtime", f"{latency.runtime}, {threads(latency.threads)}"),
        ("precision", measured.precision),
        ("accuracy on", f"{accuracy.data.count} {measured.noun} ({accuracy.data.name}), sha256 {accuracy.data.sha256[:16]}…"
         if accuracy is not None else f"no annotated {measured.noun} were given"),
        ("agreement on", f"{measured.agreement.pictures} {measured.noun}"),
        ("took", ", ".join(f"{step} {seconds:g} s" for step, seconds in measured.seconds.items())),
        ("peak memory", f"{measured.peak_bytes / 1e6:.0f} MB"),
        ("flatbuffer, sha256", extras.flatbuffer_sha256),
        *((name, version) for name, version in (extras.tools or {}).items()),
    ]  # fmt: skip
    listed = [
        part for name, value in facts if value for part in (element("dt", name), element("dd", value))
    ]  # fmt: skip
    recipe = (
        element("details", element("summary", f"recipe: {extras.recipe_name}"), element("pre", extras.recipe))
        if extras.recipe
        else None
    )
    return section("How it was made", element("dl", *listed), recipe, long=True)


def _footer(measured: Measured, extras: Extras) -> Markup:
    version = (extras.tools or {}).get("vedette", "")
    return element("footer", f"vedette-convert {version}".strip(), "; figures are of this machine alone.")
