"""How far two networks see the same: no annotation needed, so any pictures will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vedette.contract.types import Classes, Detections
from vedette.contract.verdict import match


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over all pictures."""

    pictures: int
    confident: int
    """Results of the float network with a score of at least ``confident``: detections, or pictures' best classes."""
    found: int
    """Of those: how many the other network finds, of the same label, overlapping enough, at ``partner_score`` or above."""
    found_confident: int
    """The same at ``confident`` or above."""
    doubts: tuple[str, ...] = ()
    """Why that may mean nothing: see `vedette_converter.chance`."""

    @property
    def share(self) -> float:
        """0..1; 1 where nothing was to be found."""
        return self.found / self.confident if self.confident else 1.0

    @property
    def share_confident(self) -> float:
        """The same where the partner must be confident too."""
        return self.found_confident / self.confident if self.confident else 1.0


def compare(
    reference: Sequence[Detections], other: Sequence[Detections], *, confident: float, partner_score: float, iou: float
) -> Agreement:
    """Both picture by picture, decoded at ``partner_score`` or below. Each of ``other`` is a partner once at most."""
    total = found = found_confident = 0
    for sure, candidates in zip(reference, other, strict=True):
        sure = sure.take(sure.scores >= confident)
        total += len(sure)
        for least in (partner_score, confident):
            partners = match(sure, candidates.take(candidates.scores >= least), min_iou=iou)
            hits = sum(partner >= 0 for partner in partners)
            if least == confident:
                found_confident += hits
            if least == partner_score:
                found += hits
    return Agreement(len(reference), total, found, found_confident)


def compare_classes(
    reference: Sequence[Classes], other: Sequence[Classes], *, confident: float, partner_score: float
) -> Agreement:
    """Both picture by picture: of the pictures whose best class the float network is sure of, how many keep it."""
    total = found = found_confident = 0
    for sure, candidate in zip(reference, other, strict=True):
        if not len(sure) or sure.scores[0] < confident:
            continue
        total += 1
        if len(candidate) and candidate.class_ids[0] == sure.class_ids[0]:
            found += int(candidate.scores[0] >= partner_score)
            found_confident += int(candidate.scores[0] >= confident)
    return Agreement(len(reference), total, found, found_confident)
