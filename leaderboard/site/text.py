"""Words and numbers as pages show them. Text from a run folder is never trusted to be harmless."""

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


def points(difference: float) -> str:
    """A difference of shares in points, with its sign.

    >>> points(-0.0421), points(0.0)
    ('−4.2', '+0.0')
    """
    return f"{100 * difference:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """
    >>> duration(2.995), duration(84), duration(7500)
    ('3.0 s', '1.4 min', '2.1 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def count(number: int, one: str, many: str | None = None) -> str:
    """
    >>> count(1, "image"), count(1061, "question"), count(2, "entry", "entries")
    ('1 image', '1,061 questions', '2 entries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def spaced(name: str) -> str:
    """A field's name in words: content_type -> content type."""
    return name.replace("_", " ")
