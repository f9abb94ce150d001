"""What a report or an export to send leaves out: paths, commands, addresses of servers, and the names of files and rows.

A page tells system text (errors, notes, what a card says) from what was asked and answered (`said`). In the first every path,
address and known file name is replaced; the second stays as it is, for it is what the report is about. Rows are called by their
number, as an id may be a file's name or a patient's number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePath, PureWindowsPath
from typing import TypeVar

from markupsafe import Markup

from harness.runs import read_jsonl, slug
from leaderboard.cell import Cell
from leaderboard.reading import Run

T = TypeVar("T")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>()@,;]+")
#: Two folders deep at least, from the root, the home, here, or a drive on.
_PATH = re.compile(r"(?<![\w<./\\])(?:~|\.{1,2}|[A-Za-z]:)?[\\/]{1,2}(?:[^\s\"'<>|:;,()\\/]+[\\/]+)+[^\s\"'<>|:;,()\\/]*")
_WORD = re.compile(r"[^\s\"'<>|;,()]+")


class Said(str):
    """A question, an answer, a judge's words: shown as it is."""

    __slots__ = ()


class Share:
    """Knows what these runs must not give away; `places` are further folders, `texts` further values that may be paths."""

    def __init__(self, runs: Sequence[Run], places: Sequence[Path] = (), texts: Sequence[str] = ()) -> None:
        self._runs, self._places, self._texts = runs, places, texts

    def words(self, value: T) -> T:
        """System text without what must not be shown; anything else as it is."""
        if not isinstance(value, str) or isinstance(value, Markup | Said):
            return value
        text: str = value
        if text in self._named:
            return PurePath(text).name  # type: ignore[return-value]
        text = _PATH.sub("(path)", _ADDRESS.sub("(address)", self._paths.sub("(path)", text)))
        return _WORD.sub(self._word, text)  # type: ignore[return-value]

    def tree(self, value: T) -> T:
        """A JSON document's values, each without what must not be shown."""
        if isinstance(value, dict):
            return {self.words(key): self.tree(v) for key, v in value.items()}  # type: ignore[return-value]
        if isinstance(value, list):
            return [self.tree(v) for v in value]  # type: ignore[return-value]
        return self.words(value)

    def page(self, text: str) -> str:
        """A page, or the name of its file: addresses also stand in names that are made of a judge's name."""
        for name in self._slugs:
            text = text.replace(name, "address")
        return text

    def cell(self, c: Cell) -> Cell:
        """For a plot."""
        names = ("model", "base", "judge", "prompt", "task", "resolution")
        return c.model_copy(update={name: self.words(getattr(c, name)) for name in names})

    def label(self, text: str) -> str:
        return self.page(self.words(text))

    def _word(self, found: re.Match[str]) -> str:
        word = found[0].rstrip(".:")
        hidden = word in self._files or PurePath(word).name in self._files
        if not hidden and word.partition(":")[0] in self._hosts:
            return "(address)"
        return f"(file){found[0][len(word) :]}" if hidden else found[0]

    @cached_property
    def _addresses(self) -> list[str]:
        """Of servers, as the runs' cards and judges name them."""
        named = [text for run in self._runs for text in (run.card.model_dump_json(), *(j.judge for j in run.judged))]
        return list(dict.fromkeys(found for text in named for found in _ADDRESS.findall(text)))

    @cached_property
    def _hosts(self) -> frozenset[str]:
        return frozenset(address.partition("://")[2].partition("/")[0].partition(":")[0] for address in self._addresses)

    @cached_property
    def _slugs(self) -> list[str]:
        return sorted({slug(address) for address in self._addresses}, key=len, reverse=True)

    @cached_property
    def _named(self) -> frozenset[str]:
        """The folders and files that runs, trainings and commands name."""
        cards = [run.card for run in self._runs]
        named = [*self._places, *(run.folder for run in self._runs)]
        given = [*self._texts, *(word.partition("=")[2] or word for card in cards for word in card.command)]
        given += [text for card in cards for text in (card.model.path, card.model.base) if text]
        found = {str(path) for path in (*named, *(path.absolute() for path in named), Path.cwd(), Path.home())}
        found |= {text for text in given if _is_path(text)}
        return frozenset(path for path in found if len(PurePath(path).parts) > 1)

    @cached_property
    def _paths(self) -> re.Pattern[str]:
        """Those, spaces and all, and what lies below them; for the runs, which may be many, the folder that they are in."""
        runs = {str(path) for run in self._runs for path in (run.folder, run.folder.absolute())}
        roots = {str(Path(run).parent.parent) for run in runs}
        longest_first = sorted((p for p in self._named - runs | roots if len(PurePath(p).parts) > 1), key=len, reverse=True)
        return re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])[^\s\"'<>|:;,()]*")

    @cached_property
    def _files(self) -> frozenset[str]:
        """Names of the images, with and without their folders."""
        found: set[str] = set()
        for run in self._runs:
            for row in read_jsonl(run.folder / "samples.jsonl"):
                found.update(name for name in row.get("images") or () if isinstance(name, str))
        return frozenset(found | {PureWindowsPath(name).name for name in found}) - {""}


def _is_path(text: str) -> bool:
    """Whether a text of a command or a card is a file's or folder's, and not a hub's name or a word."""
    if not text or "://" in text or "\n" in text or len(text) > 1000:
        return False
    return PurePath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text[0] in "~." or os.path.exists(text)
