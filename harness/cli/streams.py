"""Output on a screen or into a pipe that cannot show every character: LANG=C, PYTHONIOENCODING=ascii, cp1252, latin-1.

What cannot be written is replaced by what looks like it; what nothing looks like by its code, as \\u4e2d. Nothing fails, and in a
table the columns stay where they were: what is replaced most is as wide as before.
"""

from __future__ import annotations

import codecs
import io
import sys

_LOOK_ALIKES = {
    **dict.fromkeys("‐‑‒–—―−─━╌╴╶╸╺", "-"), **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("‘’‚′", "'"), **dict.fromkeys("“”„″«»", '"'),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╞╡", "+"), **dict.fromkeys("·•∙", "."), **dict.fromkeys("═", "="),
    "…": "...", "→": ">", "←": "<", "↑": "^", "↓": "v", "×": "x", "±": "+/-", "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=",
    "✓": "+", "✗": "x", "✔": "+", "✘": "x", "κ": "k", "α": "a", "β": "b", "\N{REPLACEMENT CHARACTER}": "?",
    "\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ",
}  # fmt: skip


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_written(c) for c in error.object[error.start : error.end]), error.end


def _written(c: str) -> str:
    if "\u2800" <= c <= "\u28ff":  # braille, of which spinners are made
        return "*"
    return _LOOK_ALIKES.get(c) or c.encode("ascii", "backslashreplace").decode()


def show_anything() -> None:
    """From now on stdout and stderr take every text."""
    codecs.register_error("look-alike", _look_alike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="look-alike")
