"""What a split holds, in a line, and where it looks wrong: `harness tasks validate`.

Samples are counted as they come, so that a table of any length is surveyed in little memory. A warning is evidence and no
proof: the rows are read as the YAML says, and whoever wrote it looks again.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.answers import normalise
from harness.data import Split, Tally
from harness.errors import DataError
from harness.records import Sample
from tasks.layouts import cells, choices, yesno
from tasks.layouts.files import by_columns, header, rows_of
from tasks.layouts.table import files_of, wanted
from tasks.signs import is_picture

#: Below this many rows no share says anything.
FEW = 10
_BRACES = re.compile(r"^\s*[\[{]|[\]}]\s*$|['\"]\s*:\s*['\"]")
#: Rows whose unused columns are looked at.
_LOOK = 20


@dataclass
class Survey:
    """Counts over the samples of one split."""

    tally: Tally = field(default_factory=Tally)
    forms: Counter[str] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    choices: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    slices: set[str] = field(default_factory=set)
    #: Evidence: how many open answers are single letters, how many open questions list choices, and so on.
    letters: int = 0
    listed: int = 0
    polar: int = 0
    braces: int = 0
    several: int = 0
    repeats: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def add(self, s: Sample) -> None:
        self.tally.add(s)
        self.forms[s.slices["form"]] += 1
        self.images[len(s.images)] += 1
        self.slices.update(s.slices)
        reference = s.reference
        key = hashlib.blake2b(
            repr((s.question, s.system, s.history, s.pictured if s.images else "")).encode(), digest_size=8
        ).digest()
        self.repeats += key in self._seen
        self._seen.add(key)
        if reference.rubric:
            return  # it has no answers to look at
        first = reference.answers[0]
        if reference.choices:
            self.choices[len(reference.lettered)] += 1
            self.braces += any(_BRACES.search(c) for c in reference.choices if c)
            self.several += len(reference.answers) > 1
        else:
            self.letters += reference.kind == "open" and bool(re.fullmatch(r"\(?[A-J][).]?", first))
            self.polar += reference.kind == "open" and yesno.reading(first) is not None and not first.strip().isdecimal()
            self.listed += choices.lettered(s.question) is not None
        answer = first.strip("()") if reference.choices else normalise(first)[:60] or first[:60]
        if answer in self.answers or len(self.answers) < 10_000:
            self.answers[answer] += 1

    def line(self) -> str:
        """ "12 rows (12 yes/no), 8 images (1 a row)" and so on."""
        card = self.tally.fields()
        rows, images = card["rows"], card["images"]
        said = [f"{rows} rows ({', '.join(f'{n} {k}' for k, n in self.forms.items())})" if rows else "0 rows", f"{images} images"]
        if images:
            said[-1] += f" ({_range(self.images)} a row)"
        if self.choices:
            said.append(f"{_range(self.choices)} choices a row")
        if rows and card["cluster_of"] not in ("image", "image set", "question"):
            said.append(f"{card['clusters']} clusters ({card['cluster_of']})")
        return ", ".join(said)

    def commonest(self) -> str:
        """The commonest answers with their shares."""
        rows = self.tally.rows
        return ", ".join(f"{cells.short(a, 30)} {100 * n / rows:.0f} %" for a, n in self.answers.most_common(3))

    def warnings(self, split: Split) -> Iterator[str]:
        """Where the evidence looks wrong."""
        rows, unanswered = self.tally.rows, self.forms["open"]
        columns = split.view.columns if split.place.layout == "table" else None
        if columns:
            yield from _unused_pictures(split)
        if split.spec.kind in ("text", "rubric"):
            pass  # questions in words alone are meant to have no image
        elif rows and not sum(n for k, n in self.images.items() if k) and not (columns and columns.images_optional):
            yield "no row has an image: the questions are asked without any (images_optional: true says that this is meant)"
        elif self.images[0]:
            yield f"{self.images[0]} rows have no image and are asked without one"
        if self.listed and unanswered and self.listed >= 0.5 * sum(self.forms[f] for f in ("open", "yes/no")):
            yield f"{self.listed} questions list lettered choices: it looks like choices_in: question (under columns)"
        elif self.letters > max(1, 0.2 * unanswered):
            yield f"{self.letters} open answers are single letters: choices that are not named? (choices, choices_in: question)"
        if self.polar:
            yield f"{self.polar} open answers are true, false, Y or N: answer_as: yesno reads a column of these as yes or no"
        if self.braces:
            yield f"{self.braces} rows have choices with brackets or braces in them: is the cell a list or an object?"
        if self.several:
            yield f"{self.several} rows have several right choices: any one of them is counted as right"
        if rows >= FEW and self.answers.most_common(1)[0][1] > 0.9 * rows:
            answer, n = self.answers.most_common(1)[0]
            yield f"{n} of {rows} answers are '{cells.short(answer, 40)}': who always says so is right there"
        if self.repeats:
            yield f"{self.repeats} rows repeat an earlier one's question and images"
        if self.tally.shared:
            yield f"{len(self.tally.shared)} images are in rows of several clusters, which are then not independent"


def _range(counts: Counter[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _unused_pictures(split: Split) -> Iterator[str]:
    """Columns of pictures that the YAML does not name, wherever in the table they are filled first."""
    told: dict[str, list[bool]] = {}
    try:
        for row in _unused(split):
            for column, value in row.items():
                if len(seen := told.setdefault(column, [])) < _LOOK and not cells.empty(value):
                    seen.append(is_picture(value))
    except DataError:  # reading the rows has said it
        return
    for column, seen in told.items():
        if sum(seen) > len(seen) / 2:
            yield f"column '{column}' holds pictures or their names and is not under image"


def _unused(split: Split) -> Iterator[dict[str, Any]]:
    """The split's rows, of their unused columns those that are not yet known to be filled."""
    view = split.view
    for file in files_of(view):
        names, rows = header(view.archive, file, _LOOK, split=view.name, encoding=view.encoding)
        unused = set(names) - set(cells.tops(wanted(view.columns), names))
        yield from ({k: r[k] for k in unused if k in r} for r in rows)
        # a table by columns names them all at once, and those are read alone; of other files any row may bring one more
        empty = [k for k in unused if all(cells.empty(r.get(k)) for r in rows)]
        if len(rows) < _LOOK or (by_columns(file) and not empty):
            continue
        used = set(names) - unused
        for row in rows_of(view.archive, file, empty if by_columns(file) else [], split=view.name, encoding=view.encoding):
            yield {k: v for k, v in row.items() if k not in used}


def report(split: Split, survey: Survey, card: dict[str, Any]) -> dict[str, Any]:
    """The document of one split that could be read."""
    bad = split.view.bad
    return {
        **card,
        "dropped": split.left_out.dropped,
        "ok": not bad,
        "problems": bad,
        "image_problems": sum(why.startswith("image ") for why in bad.values()),
        "duplicate_ids": sum(why.startswith("duplicate id") for why in bad.values()),
        "forms": dict(survey.forms),
        "images_a_row": dict(sorted(survey.images.items())),
        "choices_a_row": dict(sorted(survey.choices.items())),
        "answers": dict(survey.answers.most_common(10)),
        "line": survey.line(),
        "commonest": survey.commonest() if survey.tally.rows else "",
        "warnings": list(survey.warnings(split)),
        "missing_slices": [k for k in split.spec.slices if k not in survey.slices],
        "notes": split.view.notes,
    }
