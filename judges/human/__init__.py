"""Human judge (`--judge human`): verdicts that people gave, on the pages of `harness annotate` or in a file.

    human              what more than half of all raters of these runs say; where one decides (`annotate adjudicate`), their word
    human:alice        what one rater says
    human:FILE         verdicts in a CSV or JSON lines (judges/human/given.py)

A tie is missing, as is a row that nobody judged; a verdict counts only for the text that it was given for.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Prediction, Sample, Verdict
from judges.human import given as files
from judges.human import labels
from judges.human.given import Given, Score
from judges.replay import pair

NAME = "human"


def majority(votes: Sequence[int]) -> Score:
    """What more than half of the votes say; None for a tie or none."""
    for value in (0, 1):
        if 2 * votes.count(value) > len(votes):
            return value  # type: ignore[return-value]
    return None


class HumanJudge(Judge):
    """Fulfils harness.contracts.Judge. Its version is a hash of what people said."""

    #: What people said before is still in their studies or files: a run keeps only what they say now.
    supersedes = True

    def __init__(self, name: str, version: str, rows: Iterable[Given], source: str) -> None:
        self.name, self.version, self.source = name, version, source
        #: sample id -> each person's word, by what it is about.
        self.given: dict[str, dict[tuple[str, str | None], Given]] = defaultdict(dict)
        for row in rows:
            key = (row.annotator, row.pair or row.text)
            if row.final is not None or key not in self.given[row.sample_id]:
                self.given[row.sample_id][key] = row

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        for sample, prediction in pairs:
            yield self._verdict(sample, prediction)

    def _verdict(self, sample: Sample, prediction: Prediction) -> Verdict:
        about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
        rows = list(self.given.get(sample.id, {}).values())
        about_this = [r for r in rows if self._is_about(r, sample, prediction)]
        # two lines of one person are one vote (given.read refuses those that differ)
        votes = [*{r.annotator: r.final for r in about_this if r.final is not None}.values()]
        final = majority(votes)
        if final is None:
            return Verdict(**about, final=None, missing=_why(rows, about_this, votes))
        reasoning = majority([*{r.annotator: r.reasoning for r in about_this if r.reasoning is not None}.values()])
        words = [f"{r.annotator}: {r.comment}" if r.annotator else r.comment for r in about_this if r.comment]
        return Verdict(**about, final=final, reasoning=reasoning, rationale="; ".join(words) or None)

    @staticmethod
    def _is_about(given: Given, sample: Sample, prediction: Prediction) -> bool:
        if given.pair is not None:
            return given.pair == pair(sample, prediction)
        return given.text is None or given.text == prediction.text

    def card(self) -> dict[str, Any]:
        people = {r.annotator for rows in self.given.values() for r in rows.values() if r.annotator}
        return {"source": self.source, "rows": len(self.given), "annotators": len(people) or None}


def _why(rows: Sequence[Given], about_this: Sequence[Given], votes: Sequence[int]) -> str:
    """Why there is no verdict."""
    if rows and not about_this:
        return "the human verdict is about another text"
    if votes:
        return f"people disagree: {votes.count(1)} say 1, {votes.count(0)} say 0"
    return "people say that it cannot be judged" if any(r.cannot for r in about_this) else "no human verdict"


def create(argument: str, options: JudgeOptions) -> HumanJudge:
    """The factory behind `--judge human`, `--judge human:RATER` and `--judge human:FILE`. Raises UserError."""
    path = Path(argument)
    if argument and (path.suffix or path.exists() or "/" in argument):
        rows = list(files.read(path))
        return HumanJudge(f"{NAME}:{path.stem}", hashlib.sha256(path.read_bytes()).hexdigest()[:8], rows, path.name)
    return people(options.runs, argument or None)


def people(runs: Path, rater: str | None = None, within: Collection[Path] | None = None) -> HumanJudge:
    """What the raters of these runs say, or one of them; within some studies only, where they are named. Raises UserError."""
    said = labels.given(runs, rater, within)
    if not said:
        known = labels.raters(runs)
        hint = f"human:FILE reads a file; {did_you_mean(rater, known)}" if rater and known else _HOW
        whose = f" called '{rater}'" if rater else ""
        raise UserError(f"--judge {NAME}{f':{rater}' if rater else ''}: nobody{whose} has judged a row here", hint=hint)
    content = "".join(sorted(row.model_dump_json() for row in said))
    version = hashlib.sha256(content.encode()).hexdigest()[:8]
    return HumanJudge(f"{NAME}:{rater}" if rater else NAME, version, said, "harness annotate")


_HOW = "`harness annotate RUN --raters NAME` serves a page to judge on; human:FILE reads a file"
