"""The score that a judge states, 0 or 1."""

from __future__ import annotations

import re
from typing import Literal

_EDGE = " \t\n\r\"'`*_.,;:!?"
_AFTER = r"(?!\s*(?:/|[-–—]|to\b|or\b|and\b|out\b|of\b|[.,]?\d|e\d|%))"
_SCORE = re.compile(rf"\bscore\b[\"'*]*\s*(?:is|:|=)?[\"'*]*\s*[\"'*]*(\d+(?:\.\d+)?){_AFTER}", re.I)


def score(text: str | None) -> Literal[0, 1] | None:
    """The 0 or 1 that a judge states as its score; None for prose, other numbers or contradictions.

    "Score: 0. Reason 1: wrong side" is 0; "I cannot judge this" is None, never 0.
    """
    if not text:
        return None
    if (bare := text.strip(_EDGE)) in ("0", "1"):
        return int(bare)  # type: ignore[return-value]
    stated = {float(x) for x in _SCORE.findall(text)}
    if stated == {0.0} or stated == {1.0}:
        return int(stated.pop())  # type: ignore[return-value]
    return None
