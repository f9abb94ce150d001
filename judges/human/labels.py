"""What raters said, over all studies under a folder of runs.

A rater who met one text in several studies said last what counts. Hidden repeats and rows left half-said count for nothing. Where
one person decided after others had disagreed, their word stands alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import UserError
from harness.runs import RunFolder
from judges.human.drawing import answered
from judges.human.given import Given
from judges.human.study import Item, Label, Study, StudyFolder, by_place, studies

#: What a verdict is about: a row and the hash over its texts.
Key = tuple[str, str]


class Said(NamedTuple):
    """All that one rater says of one item; `again` is what they said of its hidden repeat, None where there is none."""

    folder: StudyFolder
    study: Study
    rater: str
    item: Item
    label: Label
    again: Label | None

    def given(self) -> Given:
        final, reasoning = ((None if word == "cannot" else word) for word in (self.label.final, self.label.reasoning))
        return Given(
            sample_id=self.item.sample_id, pair=self.item.pair, annotator=self.rater, final=final, reasoning=reasoning,
            comment=self.label.comment, cannot=self.label.final == "cannot",
        )  # fmt: skip


def said(runs: Path) -> Iterator[Said]:
    """Whatever is said in full, study by study. Raises RunError for a study that cannot be read."""
    for folder, study in studies(runs):
        for rater in study.order:
            kept = by_place(folder.lines(rater))
            complete = {p: label for p, label in kept.items() if label.complete(study.item(rater, p))}
            repeats = study.repeats(rater)
            again = {first: complete[place] for place, first in repeats.items() if place in complete}
            for place, label in sorted(complete.items()):
                if place not in repeats:
                    yield Said(folder, study, rater, study.item(rater, place), label, again.get(place))


def latest(runs: Path, within: Collection[Path] | None = None) -> list[Said]:
    """Each rater's last word on each text; within these studies only, if any are named."""
    last: dict[tuple[str, Key], Said] = {}
    for one in said(runs):
        about = (one.rater, one.item.key)
        if within is not None and one.folder.path not in within:
            continue
        if about not in last or last[about].label.at <= one.label.at:
            last[about] = one
    return list(last.values())


def given(runs: Path, rater: str | None = None, within: Collection[Path] | None = None) -> list[Given]:
    """What counts: each rater's last word on each text, or one rater's; where somebody decided, their word alone."""
    words = latest(runs, within)
    if rater is not None:
        return [one.given() for one in words if one.rater == rater]
    decided = {one.item.key: one for one in words if one.study.adjudicates and one.label.final != "cannot"}
    return [one.given() for one in words if one.item.key not in decided] + [one.given() for one in decided.values()]


def raters(runs: Path) -> list[str]:
    """Everybody who has a place in a study."""
    return sorted({rater for _, study in studies(runs) for rater in study.order})


def disputed(folders: Sequence[RunFolder]) -> list[Item]:
    """The texts of these runs on which people differ, and on which nobody has decided yet. Raises UserError for several roots."""
    runs = one_root(folders)
    words: dict[Key, set[int]] = {}
    for one in given(runs):
        if one.final is not None:
            words.setdefault((one.sample_id, one.pair or ""), set()).add(one.final)
    there = {(row.sample.id, row.pair) for folder in folders for row in answered(folder)}
    items = {item.key: item for _, study in studies(runs) if not study.adjudicates for item in study.items}
    return [items[key] for key, said_ in words.items() if len(said_) == 2 and key in items and key in there]


def one_root(folders: Sequence[RunFolder]) -> Path:
    """The folder of runs that all of these stand in. Raises UserError for several."""
    roots = {folder.root for folder in folders}
    if len(roots) > 1:
        raise UserError("these runs are in different folders of runs", hint="give one folder's runs at a time")
    return folders[0].root
