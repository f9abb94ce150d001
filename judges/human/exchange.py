"""Verdicts of people to and from files that others read: CSV, JSON lines, Label Studio's JSON.

rows = export(folders)              a row for each rater and text of these runs
study, labels = adopt(given, folders, ...)    a study of what a file says, as if it had been judged here
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.runs import RunFolder
from judges import label_studio, sheets
from judges.human import labels
from judges.human.drawing import Row, answered, run_name
from judges.human.given import Given
from judges.human.study import UNIFORM, Item, Label, Study, stamp


def export(folders: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Each rater's last word on each text of these runs, with the texts. Raises UserError where there is none."""
    words: dict[tuple[str, str], list[Given]] = {}
    for word in labels.latest(labels.one_root(folders)):
        words.setdefault(word.item.key, []).append(word.given())
    out = []
    for folder in folders:
        predictions = folder.predictions()
        for row in answered(folder):
            reference = row.sample.reference
            for one in words.get((row.sample.id, row.pair), ()):
                said = {"final": one.final, "reasoning": one.reasoning}
                out.append(
                    {
                        "sample_id": one.sample_id, **{k: "" if v is None else v for k, v in said.items()},
                        "annotator": one.annotator, "comment": one.comment, "text": predictions[one.sample_id].text,
                        "pair": one.pair, "cannot": int(one.cannot), "run": run_name(folder), "question": row.sample.question,
                        "reference": " | ".join(reference.answers), "reference_reasoning": reference.reasoning or "",
                    }
                )  # fmt: skip
    if not out:
        raise UserError(
            "nobody has judged a row of these runs", hint="`harness annotate RUN --raters NAME` serves a page to judge on"
        )
    return out


def written(rows: Sequence[dict[str, Any]], path: Path) -> str:
    """The rows as the file's ending asks: .csv, .jsonl, or .json for Label Studio. Raises UserError for another."""
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(rows[0])
        writer.writerows([sheets.inert(v) if isinstance(v, str) else v for v in row.values()] for row in rows)
        return text.getvalue()
    if path.suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".json":
        return json.dumps(label_studio.tasks(rows), ensure_ascii=False, indent=1) + "\n"
    raise UserError(f"{path}: no such format", hint="write .csv, .jsonl, or .json for Label Studio")


def adopt(
    given: Sequence[Given], folders: Sequence[RunFolder], sampling: str, rater: str
) -> tuple[Study, dict[str, list[Label]], int, dict[str, str]]:
    """A study of what people said elsewhere of these runs' texts, each person's labels, how many rows are about no such text,
    and who had to take another name.

    Who said a thing stands in its `annotator`, else `rater` did. `sampling` is how the rows were drawn. Raises UserError where
    no row says anything about a text of these runs.
    """
    words = [g for g in given if g.final is not None or g.cannot]
    names = _names(dict.fromkeys(g.annotator for g in words if g.annotator))
    items: dict[tuple[str, str], Item] = {}
    about: list[tuple[Given, Item]] = []
    for folder in folders:
        there = {row.sample.id: row for row in answered(folder)}
        predictions, name = folder.predictions(), run_name(folder)
        mine = [(g, there[g.sample_id]) for g in words if g.sample_id in there]
        mine = [(g, row) for g, row in mine if _is_about(g, row, predictions[row.sample.id].text)]
        drawn = len({row.sample.id for _, row in mine})
        for one, row in mine:
            key = (row.sample.id, row.pair)
            weight = len(there) / drawn if sampling == UNIFORM else 1.0
            weights = (items[key].weights if key in items else {}) | {name: weight}
            reasoned = row.reasoned and any(g.reasoning is not None for g, r in mine if r is row)
            items[key] = Item(sample_id=key[0], pair=row.pair, cluster=row.cluster, weights=weights, reasoned=reasoned)
            about.append((one, items[key]))
    if not about:
        raise UserError("no verdict in the file is about an answer of these runs", hint="are these the runs that were judged?")
    numbers = {key: n for n, key in enumerate(items)}
    order: dict[str, list[int]] = {}
    said: dict[str, list[Label]] = {}
    for one, item in about:
        who, number = names.get(one.annotator, rater), numbers[item.key]
        own = order.setdefault(who, [])
        if number in own:
            continue
        own.append(number)
        thought = ("cannot" if one.reasoning is None else one.reasoning) if items[item.key].reasoned else None
        label = Label(
            place=len(own), final="cannot" if one.final is None else one.final, reasoning=thought, comment=one.comment, at=stamp()
        )
        said.setdefault(who, []).append(label)
    places = {who: tuple(numbers_) for who, numbers_ in order.items()}
    study = Study(created=stamp(), seed=0, sampling=sampling, items=tuple(items.values()), order=places)
    matched = {id(one) for one, _ in about}
    renamed = {told: name for told, name in names.items() if told != name}
    return study, said, sum(id(one) not in matched for one in words), renamed


def _names(told: Iterable[str]) -> dict[str, str]:
    """What each annotator of a file is called here: letters, digits, - and _; of an e-mail address what stands before the @.

    Raises UserError where two would be one.
    """
    out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for one in told:
        plain = unicodedata.normalize("NFKD", one.partition("@")[0]).encode("ascii", "ignore").decode()
        name = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")[:40] or f"rater-{hashlib.sha256(one.encode()).hexdigest()[:6]}"
        if (other := taken.setdefault(name.lower(), one)) != one:
            raise UserError(
                f"annotators '{other}' and '{one}' would both be called {name}",
                hint="name them apart in the file, by their first words",
            )
        out[one] = name
    return out


def _is_about(given: Given, row: Row, text: str) -> bool:
    return given.pair == row.pair if given.pair is not None else given.text in (None, text)
