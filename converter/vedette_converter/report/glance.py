"""A build at a glance: one sentence, and a card each for size, latency, accuracy and gate."""

from __future__ import annotations

from ..gate import failing
from ..measured import Measured
from . import figures
from .markup import Content, Markup, element
from .table import NAMES, NO_INTERVAL
from .words import bound, in_bytes, in_figures, in_ms, percent, points, threads, times


def header(measured: Measured) -> Markup:
    """The name, the sentence, and where it was measured."""
    return element(
        "header",
        element("h1", measured.name),
        element("p", _sentence(measured), class_="lead"),
        element("p", f"{measured.latency.machine}; {measured.latency.runtime}", class_="muted"),
    )


def _sentence(measured: Measured) -> str:
    before, after = measured.before, measured.after
    smaller, smaller_word = times(before.bytes, after.bytes, "smaller", "larger")
    faster, faster_word = times(before.timing.p50_ms, after.timing.p50_ms, "faster", "slower")
    accuracy = measured.accuracy
    if accuracy is not None:
        drop = round(accuracy.drop * 100, 2)
        changed = f"{abs(drop):.2f} points {'lower' if drop > 0 else 'higher'}" if drop else "and the same"
        kept = f"{changed} in {NAMES[accuracy.metric]}"
        if drop and accuracy.interval is not None and accuracy.interval[0] <= 0 <= accuracy.interval[1]:
            kept += " (no change is within the 95 % interval)"
    else:
        kept = f"and keeps {percent(measured.agreement.share, 1)} of the confident results"
    failed = [row.what for row in failing(measured.rows)]
    verdict = f"The gate does not hold: {', '.join(failed)}." if failed else _held(measured)
    return f"{after.name} is {smaller} {smaller_word} and {faster} {faster_word} than {before.name}, {kept}. {verdict}"


def _held(measured: Measured) -> str:
    promised = any(row.holds for row in measured.rows)
    return "The gate holds." if promised else "The gate promises nothing."


def cards(measured: Measured) -> Markup:
    """What became of size, latency and accuracy, and whether the gate holds."""
    before, after = measured.before, measured.after
    size, size_word = times(before.bytes, after.bytes, "smaller", "larger")
    speed, speed_word = times(before.timing.p50_ms, after.timing.p50_ms, "faster", "slower")
    return element(
        "div",
        _card(
            "the network's size", size, size_word, f"{in_bytes(before.bytes)} → {in_bytes(after.bytes)}",
            figures.two_bars(before.bytes, after.bytes, f"{before.name} above, {after.name} below"),
        ),
        _card(
            "latency, median", speed, speed_word, f"{in_ms(before.timing.p50_ms)} → {in_ms(after.timing.p50_ms)}, "
            f"{threads(measured.latency.threads)}",
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
            "agreement", percent(agreement.share, 1), "kept",
            f"of {agreement.confident} confident results on {agreement.pictures} {measured.noun}",
            figures.two_bars(1.0, agreement.share, f"all of {before.name}'s above, those that {after.name} keeps below"),
        )  # fmt: skip
    interval = (
        f"95 % interval {' to '.join(points(end) for end in accuracy.interval)}" if accuracy.interval else NO_INTERVAL
    )
    return _card(
        f"{NAMES[accuracy.metric]}, {accuracy.data.count} {measured.noun}", points(-accuracy.drop), "points",
        f"{percent(accuracy.before, 2)} → {percent(accuracy.after, 2)}; {interval}",
        figures.two_bars(accuracy.before, accuracy.after, f"{before.name} above, {after.name} below"),
    )  # fmt: skip


def _verdict(measured: Measured) -> Markup:
    failed = failing(measured.rows)
    promised = [row for row in measured.rows if row.holds is not None]
    count = len(promised)
    if not promised:
        return _card("gate", "–", "nothing promised", "the figures below are shown, and judged by nothing")
    if not failed:
        promises = ", ".join(f"{row.what} {bound(row)}" for row in promised)
        return _card("gate", "✓ holds", f"{count} of {count}", promises, class_="good")
    said = ", ".join(f"{row.what} {in_figures(row.value)}, must be {bound(row)}" for row in failed)
    return _card("gate: no bundle", "✗ fails", f"{len(failed)} of {count}", said, class_="bad")
