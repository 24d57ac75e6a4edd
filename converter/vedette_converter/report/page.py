"""The report as one HTML page that needs nothing but itself: no script, no request, no font from elsewhere."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

from ..gate import GateRow, failing
from ..measured import Measured
from . import figures
from .extras import Extras
from .layers import Layer, Layers
from .markup import Content, Markup, element
from .samples import Look, SamplePicture, Seen
from .table import NAMES, blame, in_bytes, in_ms, stage_rows

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
        _cards(measured),
        _samples(measured, extras) if extras.look is not None and extras.look.pictures else None,
        element("div", _latency(measured), _trade(measured), class_="halves"),
        element("div", _gate(measured), _self_test(measured), class_="halves"),
        _stages(measured),
        _layers(extras.layers) if extras.layers is not None else None,
        _channels(extras) if extras.plan is not None and extras.plan.cuts else None,
        _notes(measured, extras),
        _making(measured, extras),
    ]
    body = element("body", _header(measured), element("main", *parts), _footer(measured, extras))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


@cache
def _style() -> str:
    return resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")


# -- at a glance -------------------------------------------------------------------------------------------------------


def _header(measured: Measured) -> Markup:
    return element(
        "header",
        element("h1", measured.name),
        element("p", _sentence(measured), class_="lead"),
        element("p", f"{measured.latency.machine}; {measured.latency.runtime}", class_="muted"),
    )


def _sentence(measured: Measured) -> str:
    before, after = measured.before, measured.after
    smaller, smaller_word = _times(before.bytes, after.bytes, "smaller", "larger")
    faster, faster_word = _times(before.timing.p50_ms, after.timing.p50_ms, "faster", "slower")
    accuracy = measured.accuracy
    if accuracy is not None:
        drop = accuracy.drop
        kept = f"{abs(drop) * 100:.2f} points {'lower' if drop >= 0 else 'higher'} in {NAMES[accuracy.metric]}"
        if accuracy.interval[0] <= 0 <= accuracy.interval[1]:
            kept += " (no change is within the 95 % interval)"
    else:
        kept = f"and keeps {figures.percent(measured.agreement.share, 1)} of the confident results"
    failed = [row.what for row in failing(measured.rows)]
    verdict = f"The gate does not hold: {', '.join(failed)}." if failed else _held(measured)
    return f"{after.name} is {smaller} {smaller_word} and {faster} {faster_word} than {before.name}, {kept}. {verdict}"


def _held(measured: Measured) -> str:
    promised = any(row.holds for row in measured.rows)
    return "The gate holds." if promised else "The gate promises nothing."


def _times(before: float, after: float, less: str, more: str) -> tuple[str, str]:
    """``2.4×`` and the word for it: never a figure below one."""
    return (f"{before / after:.1f}×", less) if after <= before else (f"{after / before:.1f}×", more)


def _points(change: float) -> str:
    """Percentage points, with a sign that is a minus."""
    return f"{change * 100:+.2f}".replace("-", "−")


def _cards(measured: Measured) -> Markup:
    before, after = measured.before, measured.after
    size, size_word = _times(before.bytes, after.bytes, "smaller", "larger")
    speed, speed_word = _times(before.timing.p50_ms, after.timing.p50_ms, "faster", "slower")
    return element(
        "div",
        _card(
            "the network's size", size, size_word, f"{in_bytes(before.bytes)} → {in_bytes(after.bytes)}",
            figures.two_bars(before.bytes, after.bytes, f"{before.name} above, {after.name} below"),
        ),
        _card(
            "latency, median", speed, speed_word, f"{in_ms(before.timing.p50_ms)} → {in_ms(after.timing.p50_ms)}, "
            f"{_threads(measured.latency.threads)}",
            figures.two_bars(before.timing.p50_ms, after.timing.p50_ms, f"{before.name} above, {after.name} below"),
        ),
        _kept(measured),
        _verdict(measured),
        class_="cards",
    )  # fmt: skip


def _card(what: str, figure: str, unit: str, said: str, bars: Content = None, class_: str = "") -> Markup:
    return element(
        "div",
        element("div", what, class_="what"),
        element("div", f"{figure} ", element("small", unit), class_="figure"),
        bars,
        element("div", said, class_="said"),
        class_=f"card {class_}".strip(),
    )


def _kept(measured: Measured) -> Markup:
    before, after, accuracy = measured.before, measured.after, measured.accuracy
    if accuracy is None:
        agreement = measured.agreement
        return _card(
            "agreement", figures.percent(agreement.share, 1), "kept",
            f"of {agreement.confident} confident results on {agreement.pictures} {measured.noun}",
            figures.two_bars(1.0, agreement.share, f"all of {before.name}'s above, those that {after.name} keeps below"),
        )  # fmt: skip
    low, high = accuracy.interval
    return _card(
        f"{NAMES[accuracy.metric]}, {accuracy.data.count} {measured.noun}", _points(-accuracy.drop), "points",
        f"{figures.percent(accuracy.before, 2)} → {figures.percent(accuracy.after, 2)}; 95 % interval {_points(low)} to "
        f"{_points(high)}",
        figures.two_bars(accuracy.before, accuracy.after, f"{before.name} above, {after.name} below"),
    )  # fmt: skip


def _verdict(measured: Measured) -> Markup:
    failed = failing(measured.rows)
    promised = [row for row in measured.rows if row.holds is not None]
    count = len(promised)
    if not promised:
        return _card("gate", "–", "nothing promised", "the figures below are shown, and judged by nothing")
    if not failed:
        promises = ", ".join(f"{row.what} {_bound(row)}" for row in promised)
        return _card("gate", "✓ holds", f"{count} of {count}", promises, class_="good")
    said = ", ".join(f"{row.what} {_figure(row.value)}, must be {_bound(row)}" for row in failed)
    return _card("gate: no bundle", "✗ fails", f"{len(failed)} of {count}", said, class_="bad")


# -- pictures ----------------------------------------------------------------------------------------------------------


def _samples(measured: Measured, extras: Extras) -> Markup:
    look = extras.look
    assert look is not None  # asked by the caller
    boxes = any(result.box for sample in look.pictures for result in (*sample.before, *sample.after))
    legend = element(
        "p", element("span", class_="key"), "both networks see it", element("span", class_="key alone"),
        "one of them alone", class_="note",
    ) if boxes else None  # fmt: skip
    return _section(
        "What they see",
        element("p", _chosen(look, extras, boxes, measured.noun), class_="note"),
        legend,
        element("div", *(_sample(measured, s, number) for number, s in enumerate(look.pictures)), class_="samples"),
        long=True,
    )


def _chosen(look: Look, extras: Extras, boxes: bool, noun: str) -> str:
    text = f"{look.agreeing} of {look.looked_at} {noun} that were looked at show the same"
    others, here = look.looked_at - look.agreeing, sum(sample.differing > 0 for sample in look.pictures)
    if others:
        which = "the other one stands" if others == 1 else f"all {others} others stand"
        text += f"; {which if here == others else f'the worst {here} of {others} others stand'} last"
    if boxes:
        text += (
            f". Shown from a score of {extras.confident:g} on; a result counts as the same with the same label in the "
            f"same place and {extras.partner_score:g} or more"
        )
    return f"{text}."


def _sample(measured: Measured, sample: SamplePicture, number: int) -> Markup:
    boxes = any(result.box for result in (*sample.before, *sample.after)) or not (sample.before or sample.after)
    names = (measured.before.name, measured.after.name)
    total = len(sample.before) + sum(result.alone for result in sample.after)
    if not sample.differing:
        verdict = element("span", "✓ the same", class_="yes")
    elif boxes:
        verdict = element("span", f"✗ {sample.differing} of {total} differ", class_="no")
    else:
        verdict = element("span", "✗ another class", class_="no")
    head = element("div", element("h3", sample.name), verdict, class_="verdict")
    if not boxes:
        return element("figure", head, _classes(sample, names))
    sides = [
        element(
            "div",
            figures.seen(sample, results, who, f"picture-{number}", first=place == 0),
            element("p", f"{who}: {_counted(len(results), 'result')}", class_="who"),
        )
        for place, (results, who) in enumerate(zip((sample.before, sample.after), names, strict=True))
    ]
    return element("figure", head, element("div", *sides, class_="two"), _alone(sample, names))


def _alone(sample: SamplePicture, names: tuple[str, str]) -> Markup | None:
    said = [
        f"{who} alone: {figures.described([result for result in results if result.alone])}"
        for who, results in zip(names, (sample.before, sample.after), strict=True)
        if any(result.alone for result in results)
    ]
    return element("figcaption", "; ".join(said), class_="alone-said") if said else None


def _classes(sample: SamplePicture, names: tuple[str, str]) -> Markup:
    data = base64.b64encode(sample.encoded).decode("ascii")
    best = " and ".join(f"{who} says {side[0].label}" for who, side in zip(names, (sample.before, sample.after),
                                                                         strict=True) if side)  # fmt: skip
    tiny = "tiny" if max(sample.width, sample.height) <= 128 else None
    picture = element(
        "img", src=f"data:{sample.media};base64,{data}", alt=f"{sample.name}: {best}", width=sample.width,
        height=sample.height, class_=tiny, style="height:auto",
    )  # fmt: skip
    return element(
        "div", picture, _ranked(sample.before, names[0], "float"), _ranked(sample.after, names[1], "product"),
        class_="classes",
    )  # fmt: skip


def _ranked(results: Sequence[Seen], who: str, class_: str) -> Markup:
    rows = [
        element(
            "li", element("b", result.told or figures.percent(result.score)), element("span", result.label),
            style=f"--w:{min(1.0, max(0.0, result.score)) * 100:.1f}%", class_="alone" if result.alone else None,
        )
        for result in results
    ]  # fmt: skip
    return element("div", element("p", who, class_="who"), element("ol", *rows), class_=class_)


# -- figures -----------------------------------------------------------------------------------------------------------


def _latency(measured: Measured) -> Markup:
    latency = measured.latency
    return _section(
        "How long an inference takes",
        element(
            "p", f"{latency.rounds} rounds by turns, {_threads(latency.threads)}. Bar: the middle half, upright line: "
            "the median, thick line to the 90th percentile, thin to the 99th.", class_="note",
        ),
        figures.latency(measured),
    )  # fmt: skip


def _trade(measured: Measured) -> Markup:
    accuracy = measured.accuracy
    bars = " Upright line: 95 % interval of the change." if accuracy is not None else ""
    return _section(
        "What it costs, what it brings",
        element("p", f"Upper left is better. A disc's area is the network's size.{bars}", class_="note"),
        figures.trade(measured),
    )


def _gate(measured: Measured) -> Markup:
    rows = [
        [
            row.what,
            _figure(row.value),
            _bound(row),
            element("span", f"{'✓' if row.holds else '✗'} {row.verdict}", class_=row.verdict) if row.verdict else "",
        ]
        for row in measured.rows
    ]
    lost = blame(measured)
    return _section(
        "Gate",
        _table(["promise", "measured", "must be", "holds"], rows),
        element("p", f"Where it was lost: {lost}.") if lost else None,
    )


def _self_test(measured: Measured) -> Markup:
    rows = [
        [name, f"{verdict.judged}", f"{verdict.agreement:.3f}", f"{verdict.mean_score_error:.4f}"]
        for name, verdict in measured.verdicts.items()
    ]
    return _section(
        "Self-test of the bundle",
        element(
            "p", "The inputs that travel with the bundle, on each kind of kernels that a device may have, against what "
            "the float network found in them.", class_="note",
        ),
        _table(["kernels", "results judged", "agreement", "mean score error"], rows),
    )  # fmt: skip


def _stages(measured: Measured) -> Markup:
    head = ["", *(stage.name for stage in measured.stages)]
    return _section(
        "Every network on the way", _table(head, stage_rows(measured), product=measured.product + 1),
        element("p", "The tinted column is what the bundle is made of.", class_="note"),
    )  # fmt: skip


def _layers(found: Layers) -> Markup:
    fallen = [row for row in found.rows if not row.on_target]
    said = f"Noise: over {found.samples} calibration samples, accumulated from the input on. " if found.samples else ""
    legend = element(
        "p", said, element("span", class_="key flat"), "on XNNPACK", element("span", class_="key flat off"),
        "elsewhere", element("span", class_="key flat work"), "share of the work", class_="note",
    )  # fmt: skip
    return _section(
        "Operation by operation",
        element("p", found.summary),
        legend,
        element("div", figures.layer_strip(found.rows), class_="scroll"),
        _fallen(fallen) if fallen else None,
        element("details", element("summary", f"all {len(found.rows)} operations"), _layer_table(found.rows)),
        long=True,
    )


def _fallen(rows: Sequence[Layer]) -> Markup:
    reasons = Counter((row.op, row.where, row.why) for row in rows)
    return element(
        "ul",
        *(element("li", f"{op}{f' ×{count}' if count > 1 else ''}, {where}: {why}") for (op, where, why), count in
          reasons.most_common()),
    )  # fmt: skip


def _layer_table(rows: Sequence[Layer]) -> Markup:
    finite = [row.sqnr_db for row in rows if row.sqnr_db is not None and math.isfinite(row.sqnr_db)]
    most = max([20.0, *finite])
    heaviest = max([row.mac_share for row in rows] or [0.0]) or 1.0
    body = [
        element(
            "tr",
            element("td", str(row.index)),
            element("td", row.op, class_="left"),
            element("td", row.output, class_="left"),
            element("td", row.where, class_="left", title=row.why or None),
            _meter(figures.ratio(row.sqnr_db), _share(row.sqnr_db, most), "var(--after)"),
            _meter(figures.percent(row.mac_share, 2) if row.mac_share else "", row.mac_share / heaviest, "var(--work)"),
            element("td", row.name.partition(";")[0], class_="left name", title=row.name),
            class_=None if row.on_target else "off",
        )
        for row in rows
    ]
    head = ["#", "operation", "output", "runs on", "signal to noise", "work", "tensor"]
    cells = [element("th", text, scope="col", class_="left" if text in ("operation", "output", "runs on", "tensor") else
                     None) for text in head]  # fmt: skip
    table = element("table", element("thead", element("tr", *cells)), element("tbody", *body), class_="layers")
    return element("div", table, class_="scroll")


def _share(db: float | None, most: float) -> float:
    if db is None:
        return 0.0
    return 1.0 if db == math.inf else max(0.0, db / most)


def _meter(text: str, share: float, hue: str) -> Markup:
    return element("td", element("span", text), class_="meter", style=f"--w:{min(1.0, share) * 100:.1f}%;--hue:{hue}")


def _channels(extras: Extras) -> Markup:
    plan = extras.plan
    assert plan is not None  # asked by the caller
    kept, total = sum(cut.kept for cut in plan.cuts), sum(cut.size for cut in plan.cuts)
    return _section(
        "Channels pruned",
        element(
            "p", f"{total - kept} of {total} units are gone ({figures.percent(plan.ratio)}). A group is what "
            "can only go together; dashed: what it had, filled: what is left.", class_="note",
        ),
        element("div", figures.channels(plan), class_="scroll"),
        long=True,
    )  # fmt: skip


def _notes(measured: Measured, extras: Extras) -> Markup | None:
    found = [*measured.findings, *extras.notes]
    if not found:
        return None
    return _section("Worth a look", element("ul", *(element("li", finding) for finding in found)))


# -- how it was made ---------------------------------------------------------------------------------------------------


def _making(measured: Measured, extras: Extras) -> Markup:
    latency, accuracy = measured.latency, measured.accuracy
    facts = [
        ("machine", latency.machine),
        ("runtime", f"{latency.runtime}, {_threads(latency.threads)}"),
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
    return _section("How it was made", element("dl", *listed), recipe, long=True)


def _footer(measured: Measured, extras: Extras) -> Markup:
    version = (extras.tools or {}).get("vedette", "")
    return element("footer", f"vedette-convert {version}".strip(), "; figures are of this machine alone.")


def _section(title: str, *content: Content, long: bool = False) -> Markup:
    return element("section", element("h2", title), *content, class_="long" if long else None)


def _table(head: Sequence[str], rows: Iterable[Sequence[Content]], product: int = -1) -> Markup:
    """``product``: the column that is tinted."""
    cells = [
        element("th", text, scope="col", class_="product" if place == product else None)
        for place, text in enumerate(head)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, class_="product" if place == product else None)
                for place, cell in enumerate(row[1:], 1)
            ),
        )
        for row in rows
    ]
    return element(
        "div", element("table", element("thead", element("tr", *cells)), element("tbody", *body)), class_="scroll"
    )


def _bound(row: GateRow) -> str:
    return row.target.replace("<=", "≤").replace(">=", "≥")


def _figure(value: float) -> str:
    """Of a gate's row: shares, milliseconds, bytes."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _threads(count: int) -> str:
    return _counted(count, "thread")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
