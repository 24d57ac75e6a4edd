"""What two networks see in the same pictures, side by side."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from ..measured import Measured
from . import figures
from .extras import Extras
from .markup import Markup, element, section
from .samples import Look, SamplePicture, Seen
from .words import counted, percent


def pictures(measured: Measured, extras: Extras) -> Markup:
    """``extras``: with a look at some."""
    look = extras.look
    assert look is not None  # asked by the caller
    boxes = any(result.box for sample in look.pictures for result in (*sample.before, *sample.after))
    legend = element(
        "p", element("span", class_="key"), "both networks see it", element("span", class_="key alone"),
        "one of them alone", class_="note",
    ) if boxes else None  # fmt: skip
    return section(
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
            element("p", f"{who}: {counted(len(results), 'result')}", class_="who"),
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
            "li", element("b", result.told or percent(result.score)), element("span", result.label),
            style=f"--w:{min(1.0, max(0.0, result.score)) * 100:.1f}%", class_="alone" if result.alone else None,
        )
        for result in results
    ]  # fmt: skip
    return element("div", element("p", who, class_="who"), element("ol", *rows), class_=class_)
