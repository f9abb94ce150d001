"""The table at which raters sit: what each of them is shown, what they said, and the lock that keeps others away.

One process serves a study. What a rater says is on disk before `say` returns.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RunError, UserError
from harness.runs import RunFolder
from judges.human.drawing import run_name
from judges.human.study import Item, Label, Study, StudyFolder, Word, by_place, stamp, standing
from judges.replay import pair

if TYPE_CHECKING:
    from filelock import FileLock

    from harness.records import RunCard
    from leaderboard.browse import Row

#: A rater who comes back after longer than this, in seconds, was away.
AWAY = 300.0


class Desk:
    """A study while it is worked on. Threads may share it. Use as a context manager: it holds the study's lock."""

    def __init__(self, folder: StudyFolder, study: Study, runs: Sequence[RunFolder]) -> None:
        """Raises RunError where an answer is no longer what it was when the study was drawn."""
        self.folder, self.study = folder, study
        self._secret = _secret(folder.path)
        self._shown = _rows(study, runs)
        self._lines = {rater: folder.lines(rater) for rater in study.order}
        self._kept = {rater: standing(lines) for rater, lines in self._lines.items()}
        self._locks = {rater: threading.RLock() for rater in study.order}
        self._lock: FileLock | None = None

    def __enter__(self) -> Desk:
        from filelock import FileLock, Timeout

        self._lock = FileLock(self.folder.path / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunError(
                f"{self.folder.path}: another process serves this study", hint="its address is in that terminal"
            ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lock:
            self._lock.release()

    # -- who is there --

    def token(self, rater: str) -> str:
        """What lets this rater in, and nobody else; the same after a restart."""
        return hmac.new(self._secret, f"rater {rater}".encode(), hashlib.sha256).hexdigest()[:32]

    def opaque(self, name: str) -> str:
        """A name that says nothing, the same for the same thing."""
        return hmac.new(self._secret, f"name {name}".encode(), hashlib.sha256).hexdigest()[:16]

    # -- what they see --

    def places(self, rater: str) -> int:
        return len(self.study.order[rater])

    def item(self, rater: str, place: int) -> Item:
        return self.study.item(rater, place)

    def row(self, rater: str, place: int) -> tuple[RunCard, Row]:
        """The question with its answer, and the card of a run that holds it."""
        return self._shown[self.item(rater, place).key]

    # -- what they said --

    def said(self, rater: str) -> dict[int, Label]:
        return by_place(self._kept[rater])

    def seconds(self, rater: str) -> float:
        """Time spent so far, slips included."""
        return sum(line.seconds for line in self._lines[rater])

    def done(self, rater: str) -> set[int]:
        """The places of which everything is said."""
        return {place for place, label in self.said(rater).items() if label.complete(self.item(rater, place))}

    def next(self, rater: str, after: int = 0) -> int | None:
        """The first place after this one, else the first of all, that is not done."""
        done, last = self.done(rater), self.places(rater)
        return next((p for p in [*range(after + 1, last + 1), *range(1, min(after, last) + 1)] if p not in done), None)

    def say(
        self, rater: str, place: int, final: Word | None, reasoning: Word | None, comment: str = "", seconds: float = 0.0
    ) -> Label:
        """Keep what a rater says of a place."""
        label = Label(
            place=place, final=final, reasoning=reasoning if self.item(rater, place).reasoned else None, comment=comment,
            seconds=round(min(seconds, AWAY), 3), at=stamp(),
        )  # fmt: skip
        return self._add(rater, label)

    def undo(self, rater: str) -> int | None:
        """Take the rater's last word back; the place it was about, or None where there is none."""
        with self._locks[rater]:
            if not self._kept[rater]:
                return None
            return self._add(rater, Label(place=self._kept[rater][-1].place, at=stamp(), undo=True)).place

    def _add(self, rater: str, label: Label) -> Label:
        with self._locks[rater]:
            self.folder.add(rater, label)
            self._lines[rater].append(label)
            self._kept[rater] = standing([*self._kept[rater], label])
        return label


def _rows(study: Study, folders: Sequence[RunFolder]) -> dict[tuple[str, str], tuple[RunCard, Row]]:
    """Item -> the row to show and its run's card."""
    from leaderboard import store
    from leaderboard.browse import Browser

    by_name = {run_name(folder): folder for folder in folders}
    wanted: dict[str, list[Item]] = {}
    for item in study.items:
        run = next((name for name in item.weights if name in by_name), None)
        if run is None:
            raise UserError(f"the runs {', '.join(item.weights)} of this study are not given", hint="name them all")
        wanted.setdefault(run, []).append(item)
    sound, damaged = store.load([by_name[name].path for name in wanted])
    runs, unreadable = store.read_runs(sound)
    for bad in (*damaged, *unreadable):
        if Path(bad.path) in {by_name[name].path for name in wanted}:
            raise RunError(f"{bad.path}: {bad.reason}")
    browser, cards = Browser(runs), dict(sound)
    shown: dict[tuple[str, str], tuple[RunCard, Row]] = {}
    for name, items in wanted.items():
        folder = by_name[name]
        if changed := _changed(folder, items):
            raise RunError(
                f"{folder.path}: {len(changed)} answers are no longer those that were drawn ({changed[0]}, ...)",
                hint="draw anew with another --seed; what was said of the others is kept",
            )
        rows = browser.samples([(folder.path, i.sample_id) for i in items])
        shown |= {item.key: (cards[folder.path], row) for item, row in zip(items, rows, strict=True)}
    return shown


def _changed(folder: RunFolder, items: Sequence[Item]) -> list[str]:
    """The items whose question or answer is no longer what was drawn."""
    predictions, samples = folder.predictions(), {s.id: s for s in folder.questions()}
    there = {i: pair(samples[i], p) for i, p in predictions.items() if i in samples}
    return [item.sample_id for item in items if there.get(item.sample_id) != item.pair]


def _secret(folder: Path) -> bytes:
    """The study's own, made once and readable by its owner alone; tokens and opaque names come from it."""
    path = folder / ".secret"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as f:
            f.write(secrets.token_hex(32))
            f.flush()
            os.fsync(f.fileno())
    except FileExistsError:
        pass
    found = path.read_text(encoding="ascii")
    if len(found) != 64:  # killed while it was made: nobody can have had a token from it
        path.unlink()
        return _secret(folder)
    return found.encode()
