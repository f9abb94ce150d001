"""What raters said, over all studies under a folder of runs.

A rater who met one text in several studies said last what counts. Hidden repeats and rows left half-said count for nothing. Where
one person decided after others had disagreed, their word stands alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from judges.human.given import Given
from judges.human.study import Item, Label, Study, StudyFolder, by_place, studies


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


def given(runs: Path, rater: str | None = None) -> list[Given]:
    """Each rater's last word on each text, or one rater's."""
    last: dict[tuple[str, tuple[str, str]], Said] = {}
    decided: dict[tuple[str, str], Said] = {}
    for one in said(runs):
        if rater is not None and one.rater != rater:
            continue
        about = (one.rater, one.item.key)
        if about not in last or last[about].label.at <= one.label.at:
            last[about] = one
        if one.study.adjudicates and one.label.final != "cannot":
            decided[one.item.key] = one
    if rater is not None:
        return [one.given() for one in last.values()]
    open_ = [one.given() for one in last.values() if one.item.key not in decided]
    return open_ + [one.given() for one in decided.values()]


def raters(runs: Path) -> list[str]:
    """Everybody who has a place in a study."""
    return sorted({rater for _, study in studies(runs) for rater in study.order})


def disputed(runs: Path, names: Collection[str]) -> list[Item]:
    """The items of these runs on which people differ, and on which nobody has decided yet."""
    words: dict[tuple[str, str], set[int]] = {}
    for one in given(runs):
        if one.final is not None:
            words.setdefault((one.sample_id, one.pair or ""), set()).add(one.final)
    items = {item.key: item for _, study in studies(runs) if not study.adjudicates for item in study.items}
    return [items[key] for key, said_ in words.items() if len(said_) == 2 and key in items and items[key].weights.keys() & names]
