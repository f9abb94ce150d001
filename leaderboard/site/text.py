"""Words as pages show them (harness/shown.py has the numbers). Text from a run folder is never trusted to be harmless."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from markupsafe import Markup


def visible(value: Any) -> Any:
    """Text in which nothing can hide: control, direction and other invisible characters become their code, as in <U+202E>.

    >>> visible("left\\u202eright")
    'left<U+202E>right'
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if value.isprintable():
        return value
    return "".join(f"<U+{ord(c):04X}>" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" else c for c in value)


def thoughts(text: str) -> list[tuple[bool, str]]:
    """The text in pieces, each with whether it is inside <think> (the tags included, which stay visible).

    >>> thoughts("<think>CT?</think>yes")
    [(True, '<think>CT?</think>'), (False, 'yes')]
    """
    pieces = re.split(r"(<think>.*?(?:</think>|\Z))", text, flags=re.DOTALL | re.IGNORECASE)
    return [(i % 2 == 1, piece) for i, piece in enumerate(pieces) if piece]


def spaced(name: str) -> str:
    """A field's name in words: content_type -> content type."""
    return name.replace("_", " ")
