"""What a rule says about an operation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operation does not run on the target."""

    why: str
    fix: str = ""
