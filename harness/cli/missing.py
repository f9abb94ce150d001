"""What judges could not say, and why: the verdicts that are missing at the end of a command, by reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from harness.contracts import Judge
    from harness.runs import RunFolder

#: Reasons that are printed; --json has all.
SHOWN = 5
#: What differs between rows that are missing for one reason.
_TRIES = re.compile(r" \(\d+ tries\)")


class Missing(NamedTuple):
    """One judge's missing verdicts on one run."""

    run: str
    task: str
    judge: str
    rows: int
    reasons: dict[str, int]

    @property
    def missing(self) -> int:
        return sum(self.reasons.values())

    @property
    def everything(self) -> bool:
        return self.missing == self.rows

    def row(self) -> dict[str, Any]:
        """For --json."""
        return {**self._asdict(), "missing": self.missing}


def find(folders: Sequence[RunFolder], judges: Sequence[Judge]) -> list[Missing]:
    """Where verdicts of these judges are missing, the most frequent reason first."""
    out = []
    for folder in folders:
        ids = [row["id"] for row in folder.samples()]
        for judge in judges:
            given = folder.verdicts(judge.name, judge.version)
            reasons: Counter[str] = Counter()
            for i in ids:
                if i not in given:
                    reasons["not judged"] += 1
                elif given[i].final is None:
                    reasons[_TRIES.sub("", given[i].missing or "no reason given")] += 1
            if reasons:
                out.append(Missing(str(folder.path), folder.card().data.task, judge.name, len(ids), dict(reasons.most_common())))
    return out


def say(found: Sequence[Missing], judges: Sequence[Judge], *, as_json: bool = False) -> None:
    """Print them, and what else there is to know of how these judges were asked.

    A judge that gave no verdict at all is an error, shown on stderr whatever the flags.
    """
    from harness.cli import ui

    for judge in judges:
        card = judge.card()
        if kept := card.get("use", {}).get("kept_without_verdict"):
            ui.note(f"judge {judge.name}: {kept} replies from earlier are no verdicts, and were not paid for again (--ask-again)")
        if names := card.get("not_taken"):
            ui.note(f"judge {judge.name}: the model takes no {' and no '.join(names)}, and was asked without")
    for one in found:
        words = f"judge {one.judge} on {one.task}: {one.missing} of {one.rows} verdicts are missing"
        if one.everything:
            first = next(iter(one.reasons))
            ui.error(
                f"judge {one.judge} on {one.task}: no verdict on any of {one.rows} rows", f"{one.reasons[first]} times: {first}"
            )
        if as_json:
            continue
        ui.line(words, "bold")
        for reason, count in list(one.reasons.items())[:SHOWN]:
            ui.line(f"  {count:>6}  {reason}")
        if rest := list(one.reasons.values())[SHOWN:]:
            ui.line(f"  {sum(rest):>6}  for {len(rest)} other reasons (--json lists them)")
