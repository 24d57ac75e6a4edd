"""Charts as SVG, drawn for a page whose style sheet gives them their colours: light, dark or printed."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Final

from ..measured import Measured, Stage
from ..prune import Plan
from .layers import Layer
from .markup import Content, Markup, element, joined
from .samples import Box, SamplePicture, Seen
from .table import NAMES
from .words import in_bytes, in_ms, percent, ratio

MOST_CAPTIONS: Final = 8  # boxes of one picture that are captioned; results that stand alone always are
CAPTION: Final = 0.047  # letters' height, of the picture's width: pictures stand beside one another, equally wide
LETTER: Final = 0.58  # their mean width, of their height; the page's font is the reader's, so captions are fitted to it
NAMED_LAYERS: Final = 3  # of the strip: those with the worst ratio


def _svg(width: float, height: float, label: str, *content: Content, class_: str = "", stretch: bool = False) -> Markup:
    return element(
        "svg", *content, class_=class_ or None, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label,
        preserveAspectRatio="none" if stretch else None,
    )  # fmt: skip


def _text(x: float, y: float, text: str, *, class_: str = "", anchor: str = "start") -> Markup:
    return element("text", text, x=round(x, 1), y=round(y, 1), class_=class_ or None, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), class_=class_)


def _rect(x: float, y: float, width: float, height: float, class_: str, *content: Content) -> Markup:
    return element(
        "rect", *content, x=round(x, 2), y=round(y, 2), width=round(max(0.0, width), 2),
        height=round(max(0.0, height), 2), class_=class_,
    )  # fmt: skip


def _title(text: str) -> Markup:
    return element("title", text)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at or above ``low`` to at or below ``high``, about as many as wanted."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def kind(measured: Measured, number: int) -> str:
    """The class of a stage's marks: the first, the product, any other."""
    return "before" if number == 0 else "after" if number == measured.product else "between"


def two_bars(before: float, after: float, label: str) -> Markup:
    """One above the other, from zero: what a card's figure looks like."""
    most = max(before, after) or 1.0
    return _svg(
        200, 26, label,
        _rect(0, 0, 200 * before / most, 11, "fill-before"), _rect(0, 15, 200 * after / most, 11, "fill-after"),
        class_="bars", stretch=True,
    )  # fmt: skip


def latency(measured: Measured) -> Markup:
    """Per stage: the median, a box over the middle half, a thin line to the 90th and a thinner one to the 99th."""
    stages = measured.stages
    width, left, right = 560.0, 128.0, 18.0
    row = max(46.0, min(110.0, 226.0 / len(stages)))
    # one hiccup of the machine must not squeeze everything else: a 99th far out is cut, and said in words
    most = min(max(s.timing.p99_ms for s in stages), 1.6 * max(s.timing.p90_ms for s in stages))
    height = row * len(stages) + 40

    def x(ms: float) -> float:
        return left + (width - left - right) * min(ms, most) / most

    parts: list[Content] = []
    for tick in ticks(0, most):
        parts.append(_line(x(tick), 4, x(tick), height - 34, "grid"))
        parts.append(_text(x(tick), height - 18, f"{tick:g}", class_="tick", anchor="middle"))
    parts.append(_text(width - right, height - 3, "milliseconds for one inference", class_="axis", anchor="end"))
    for number, stage in enumerate(stages):
        timing, y, class_ = stage.timing, 4 + row * number + row / 2, kind(measured, number)
        parts.append(_text(left - 10, y - 2, _short(stage.name), class_="name", anchor="end"))
        parts.append(_text(left - 10, y + 13, f"median {in_ms(timing.p50_ms)}", class_="tick", anchor="end"))
        parts.append(_line(x(timing.p75_ms), y, x(timing.p99_ms), y, f"thin stroke-{class_}"))
        parts.append(_line(x(timing.p75_ms), y, x(timing.p90_ms), y, f"thick stroke-{class_}"))
        if timing.p99_ms > most:
            parts.append(_text(width - right, y - 7, f"p99 {in_ms(timing.p99_ms)} →", class_="tick", anchor="end"))
        else:
            parts.append(_line(x(timing.p99_ms), y - 5, x(timing.p99_ms), y + 5, f"thin stroke-{class_}"))
        said = (
            f"{stage.name}: p25 {in_ms(timing.p25_ms)}, median {in_ms(timing.p50_ms)}, p75 {in_ms(timing.p75_ms)}, "
            f"p90 {in_ms(timing.p90_ms)}, p99 {in_ms(timing.p99_ms)}"
        )
        box = max(2.0, x(timing.p75_ms) - x(timing.p25_ms))
        parts.append(_rect(x(timing.p25_ms), y - 11, box, 22, f"fill-{class_} soft", _title(said)))
        parts.append(_line(x(timing.p50_ms), y - 13, x(timing.p50_ms), y + 13, f"median stroke-{class_}"))
    told = "; ".join(
        f"{s.name} median {in_ms(s.timing.p50_ms)}, p90 {in_ms(s.timing.p90_ms)}, p99 {in_ms(s.timing.p99_ms)}"
        for s in stages
    )
    return _svg(width, height, f"Latency of one inference: {told}", *parts)


def score(measured: Measured, stage: Stage) -> tuple[float, float, float]:
    """0..1 with the ends of its interval: accuracy where it was measured, else agreement with the first stage."""
    known = measured.accuracy
    if known is None:
        share = stage.agreement.share if stage.agreement else 1.0
        return share, share, share
    if stage.accuracy is None:
        return known.before, known.before, known.before
    if stage.accuracy.interval is None:
        return stage.accuracy.after, stage.accuracy.after, stage.accuracy.after
    low, high = stage.accuracy.interval
    return stage.accuracy.after, known.before + low, known.before + high


def score_name(measured: Measured) -> str:
    """What `score` is."""
    return NAMES[measured.accuracy.metric] if measured.accuracy else "confident results kept"


def trade(measured: Measured) -> Markup:
    """Score over latency; a disc's area is the flatbuffer's size."""
    stages = measured.stages
    width, height, left, right, top, bottom = 560.0, 300.0, 58.0, 24.0, 16.0, 42.0
    scores = [score(measured, stage) for stage in stages]
    low, high = min(s[1] for s in scores), max(s[2] for s in scores)
    slack = max(0.005, 0.35 * (high - low))
    low, high = max(0.0, low - slack), min(1.0, high + slack) if high < 1 else 1.0 + slack / 2
    most = 1.25 * max(stage.timing.p50_ms for stage in stages)
    largest = max(stage.bytes for stage in stages)

    def x(ms: float) -> float:
        return left + (width - left - right) * ms / most

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts: list[Content] = []
    for tick in ticks(0, most):
        parts.append(_line(x(tick), top, x(tick), height - bottom, "grid"))
        parts.append(_text(x(tick), height - bottom + 16, f"{tick:g}", class_="tick", anchor="middle"))
    for tick in (t for t in ticks(low, high) if t <= 1):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 8, y(tick) + 4, f"{tick * 100:.4g} %", class_="tick", anchor="end"))
    parts.append(_text(width - right, height - 6, "median latency, ms", class_="axis", anchor="end"))
    parts.append(_text(left, 11, f"{score_name(measured)} (axis does not begin at 0)", class_="axis"))
    discs = [
        (x(stage.timing.p50_ms), y(value), 5 + 21 * math.sqrt(stage.bytes / largest))
        for stage, (value, _, _) in zip(stages, scores, strict=True)
    ]
    taken: list[Box] = [(at_x - r, at_y - r, at_x + r, at_y + r) for at_x, at_y, r in discs]
    for number, (stage, (value, least, greatest)) in enumerate(zip(stages, scores, strict=True)):
        class_, (at_x, at_y, radius) = kind(measured, number), discs[number]
        weights = f"{in_ms(stage.timing.p50_ms)}, {in_bytes(stage.bytes)}"
        if greatest > least:
            parts.append(_line(at_x, y(least), at_x, y(greatest), f"thick stroke-{class_}"))
            for end in (least, greatest):
                parts.append(_line(at_x - 5, y(end), at_x + 5, y(end), f"thick stroke-{class_}"))
        said = f"{stage.name}: {percent(value, 2)}, {weights}"
        parts.append(
            element("circle", _title(said), cx=round(at_x, 1), cy=round(at_y, 1), r=round(radius, 1),
                    class_=f"disc fill-{class_} stroke-{class_}")
        )  # fmt: skip
        parts.append(element("circle", cx=round(at_x, 1), cy=round(at_y, 1), r=2.5, class_=f"fill-{class_}"))
        wide = 7.0 * max(len(stage.name), len(weights))
        room = (left, top, width, height - bottom)
        label_x, label_y = _free(at_x, at_y, radius + 8, wide, room, taken)
        taken.append((label_x, label_y, label_x + wide, label_y + 30))
        parts.append(_text(label_x, label_y + 12, stage.name, class_="name"))
        parts.append(_text(label_x, label_y + 26, weights, class_="tick"))
    told = "; ".join(
        f"{stage.name} {percent(value, 2)}, {in_ms(stage.timing.p50_ms)}, {in_bytes(stage.bytes)}"
        for stage, (value, _, _) in zip(stages, scores, strict=True)
    )
    return _svg(width, height, f"{score_name(measured)} over latency and size: {told}", *parts)


def _free(x: float, y: float, away: float, wide: float, room: Box, taken: Sequence[Box]) -> tuple[float, float]:
    """Where a label of 30 pixels' height stands beside a point: right, below, above or left, else right all the same."""
    places = [(x + away, y - 15), (x - wide / 2, y + away), (x - wide / 2, y - away - 30), (x - away - wide, y - 15)]
    for place in places:
        own = (place[0], place[1], place[0] + wide, place[1] + 30)
        inside = own[0] >= room[0] and own[1] >= room[1] and own[2] <= room[2] and own[3] <= room[3]
        if inside and not any(_touch(own, other) for other in taken):
            return place
    return places[0]


def layer_strip(rows: Sequence[Layer]) -> Markup:
    """One column an operation, in the order of execution: dB upwards, its share of the multiply-accumulates downwards."""
    width, left, right = 1120.0, 58.0, 8.0
    base, deep, height = 184.0, 66.0, 290.0
    finite = [row.sqnr_db for row in rows if row.sqnr_db is not None and math.isfinite(row.sqnr_db)]
    most = 10.0 * math.ceil(max([20.0, *finite]) / 10)
    heaviest = max([row.mac_share for row in rows] or [0.0]) or 1.0
    pitch = (width - left - right) / max(1, len(rows))
    column = max(1.0, pitch * (0.78 if pitch > 4 else 0.9))

    def y(db: float) -> float:
        return base - (base - 38) * max(0.0, min(most, db)) / most

    parts: list[Content] = []
    for tick in ticks(0, most, 5):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g} dB", class_="tick", anchor="end"))
    parts.append(
        _text(left, 10, "signal to quantisation noise at each operation's output: higher is better", class_="axis")
    )
    parts.append(_text(left, height - 4, "share of the multiply-accumulates", class_="axis"))
    for share in (0.5, 1.0):
        under = base + 14 + deep * share
        parts.append(_line(left, under, width - right, under, "grid"))
        parts.append(_text(left - 8, under + 4, percent(heaviest * share, 1), class_="tick", anchor="end"))
    for number, row in enumerate(rows):
        x = left + pitch * number
        class_ = "fill-after" if row.on_target else "fill-bad"
        db = None if row.sqnr_db is None else most if row.sqnr_db == math.inf else row.sqnr_db
        said = f"{row.index} {row.op} {row.name}: {ratio(row.sqnr_db)}, {percent(row.mac_share, 2)} of the work, {row.where}"
        if db is not None:
            parts.append(_rect(x, y(db), column, base - y(db), class_, _title(said)))
        if not row.on_target:
            parts.append(
                element("path", _title(said), d=f"M{x + column / 2:.1f} {base + 2:g}l5 9h-10z", class_="fill-bad")
            )
        if row.mac_share:
            parts.append(_rect(x, base + 14, column, deep * row.mac_share / heaviest, "fill-work", _title(said)))
    parts.append(_line(left, base, width - right, base, "axis-line"))
    last = -math.inf
    known = [(number, row) for number, row in enumerate(rows) if row.sqnr_db is not None]
    lowest = sorted(known, key=lambda place: _db(place[1]))[:NAMED_LAYERS]
    for number, row in sorted(lowest, key=lambda place: place[0]):
        x = left + pitch * number + column / 2
        if x - last < 90:  # two flags would overlap; the first of them says it
            continue
        last = x
        anchor = "end" if x > width - 80 else "middle" if x > left + 40 else "start"
        parts.append(_line(x, 28, x, y(max(0.0, min(most, _db(row)))), "leader"))
        parts.append(_text(x, 25, f"#{row.index}: {ratio(row.sqnr_db)}", class_="flag", anchor=anchor))
    off = sum(not row.on_target for row in rows)
    worst = f"; lowest {ratio(lowest[0][1].sqnr_db)} at operation {lowest[0][1].index}" if lowest else ""
    return _svg(width, height, f"{len(rows)} operations, {off} of them off XNNPACK{worst}", *parts, class_="wide")


def _db(row: Layer) -> float:
    return math.inf if row.sqnr_db is None else row.sqnr_db


def channels(plan: Plan) -> Markup:
    """A bar a group: all units it had, those that stayed filled."""
    width, left, right, row = 1120.0, 250.0, 110.0, 24.0
    most = max(cut.size for cut in plan.cuts)
    parts: list[Content] = []
    for number, cut in enumerate(plan.cuts):
        y = row * number + 4
        whole = (width - left - right) * cut.size / most
        stays = whole * cut.kept / cut.size
        said = f"{cut.group}: {', '.join(cut.layers)}: {cut.size} units, {cut.kept} kept"
        parts.append(_text(left - 10, y + 13, _short(cut.group, 36), class_="name", anchor="end"))
        parts.append(_rect(left, y, whole, row - 7, "gone", _title(said)))
        parts.append(_rect(left, y, stays, row - 7, "fill-after", _title(said)))
        text = f"{cut.size} → {cut.kept}" if cut.removed else f"{cut.size}, whole"
        parts.append(_text(left + whole + 8, y + 13, text, class_="tick"))
    kept = sum(cut.kept for cut in plan.cuts)
    total = sum(cut.size for cut in plan.cuts)
    return _svg(
        width, row * len(plan.cuts) + 8, f"{kept} of {total} units kept in {len(plan.cuts)} groups", *parts,
        class_="wide",
    )  # fmt: skip


def seen(sample: SamplePicture, results: Sequence[Seen], who: str, picture_id: str, *, first: bool) -> Markup:
    """A picture with one network's boxes. The first one of a picture carries its bytes, the second refers to them."""
    width, height = sample.width, sample.height
    if first:
        data = base64.b64encode(sample.encoded).decode("ascii")
        picture = element("image", id=picture_id, href=f"data:{sample.media};base64,{data}", width=width, height=height)
    else:
        picture = element("use", href=f"#{picture_id}")
    boxes: list[Content] = []
    wanted: list[tuple[str, Box, str]] = []
    taken: list[Box] = []
    # those that stand alone are drawn last, over the others, and captioned first
    for place, result in sorted(enumerate(results), key=lambda one: one[1].alone):
        if result.box is None:
            continue
        x_min, y_min, x_max, y_max = (min(1.0, max(0.0, edge)) for edge in result.box)
        box = (x_min * width, y_min * height, x_max * width, y_max * height)
        class_ = "alone" if result.alone else "shared"
        said = f"{result.label} {percent(result.score)}"
        boxes.append(_rect(box[0], box[1], box[2] - box[0], box[3] - box[1], f"box {class_}", _title(said)))
        if place < MOST_CAPTIONS or result.alone:
            wanted.append((said, box, class_))
    captions = [_caption(*one, width, height, taken) for one in sorted(wanted, key=lambda one: one[2])]
    label = f"{sample.name}, {who}: {described(results)}"
    return _svg(width, height, label, picture, *boxes, *captions, class_="picture")


def _caption(text: str, box: Box, class_: str, width: float, height: float, taken: list[Box]) -> Markup | None:
    """Above its box, else right within it, else at its foot: the first place where no other caption stands, or none."""
    size = CAPTION * width
    wide, tall = LETTER * size * len(text) + 0.5 * size, 1.3 * size
    x = max(0.0, min(box[0], width - wide))
    for y in (box[1] - tall, box[1], box[3] - tall, box[3], (box[1] + box[3] - tall) / 2):
        own = (x, y, x + wide, y + tall)
        if y < 0 or y + tall > height or any(_touch(own, other) for other in taken):
            continue
        taken.append(own)
        letters = element(
            "text", text, x=round(x + 0.25 * size, 1), y=round(y + 0.98 * size, 1), font_size=round(size, 1), class_="said",
            textLength=round(wide - 0.5 * size, 1), lengthAdjust="spacingAndGlyphs",
        )  # fmt: skip
        return joined([_rect(x, y, wide, tall, f"plate {class_}"), letters])
    return None


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def described(results: Sequence[Seen]) -> str:
    """In words: what a picture's boxes say."""
    return ", ".join(f"{result.label} {percent(result.score)}" for result in results) or "nothing"


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
