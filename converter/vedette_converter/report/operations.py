"""A network operation by operation: where each runs, how much of the work it is, and what quantising it has done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from . import figures
from .layers import Layer, Layers
from .markup import Markup, element, section
from .words import percent, ratio


def operations(found: Layers) -> Markup:
    """A strip of all, what runs elsewhere than on XNNPACK and why, and a table to unfold."""
    fallen = [row for row in found.rows if not row.on_target]
    said = f"Noise: over {found.samples} calibration samples, accumulated from the input on. " if found.samples else ""
    legend = element(
        "p", said, element("span", class_="key flat"), "on XNNPACK", element("span", class_="key flat off"),
        "elsewhere", element("span", class_="key flat work"), "share of the work", class_="note",
    )  # fmt: skip
    return section(
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
            _meter(ratio(row.sqnr_db), _share(row.sqnr_db, most), "var(--after)"),
            _meter(percent(row.mac_share, 2) if row.mac_share else "", row.mac_share / heaviest, "var(--work)"),
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
