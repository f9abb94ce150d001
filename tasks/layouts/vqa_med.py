"""VQA-Med 2020 and 2021 (Ben Abacha et al.), as their authors publish them: folders, or their zips.

    2020   **/VQAnswering_2020_Train_QA_pairs.txt, **/VQAnswering_2020_Val_QA_Pairs.txt: image|question|answer
           **/VQAMed2020-Task1-VQAnswering-Test-Questions.txt, ...-ReferenceAnswers.txt: image|question, image|answer
    2021   its training set is 2020's training and validation sets
           **/VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt: image|question|answer
           **/Task1-VQA-2021-TestSet-Questions.txt, ...-ReferenceAnswers.txt: image|question, image|answer|answer...
           or the evaluator's copies, Task1-VQAnswering2021-Test-*: the questions as JSON, the references alike

An image is IMAGE.jpg, wherever it lies; there is one question about each. Of the answers that `|` or, as the evaluator of 2020
reads them, `#` separates each is right. Unlike in 2019 nothing says that a part in parentheses may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from harness.archives import Archive
from harness.data import View
from harness.errors import DataError, RowError
from harness.records import Reference, Sample
from tasks.layouts.vqa_med_2019 import image_folder, lines, only


class _Pairs(NamedTuple):
    """A file of questions with their answers."""

    file: str


class _Apart(NamedTuple):
    """A file of questions and one of answers; each is the first of these names that is there."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


_TRAIN, _VAL = _Pairs("VQAnswering_2020_Train_QA_pairs.txt"), _Pairs("VQAnswering_2020_Val_QA_Pairs.txt")
_2020: dict[str, list[_Pairs | _Apart]] = {
    "train": [_TRAIN],
    "val": [_VAL],
    "test": [
        _Apart(("VQAMed2020-Task1-VQAnswering-Test-Questions.txt",), ("VQAMed2020-Task1-VQAnswering-Test-ReferenceAnswers.txt",))
    ],
}
_2021: dict[str, list[_Pairs | _Apart]] = {
    "train": [_TRAIN, _VAL],
    "val": [_Pairs("VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt")],
    "test": [
        _Apart(
            ("Task1-VQA-2021-TestSet-Questions.txt", "Task1-VQAnswering2021-Test-ReferenceQuestions_mscoco_format_vqa.json"),
            ("Task1-VQA-2021-TestSet-ReferenceAnswers.txt", "Task1-VQAnswering2021-Test-ReferenceAnswers-4Evaluator.txt"),
        )
    ],
}
#: (where a row stands, its image, its question, its answers as they are written)
_Row = tuple[str, str, str, str]


def acceptable(reference: str) -> tuple[str, ...]:
    """The answers that a reference accepts.

    >>> acceptable("pulmonary embolism|PE#saddle embolus")
    ('pulmonary embolism', 'PE', 'saddle embolus')
    """
    return tuple(dict.fromkeys(a for part in re.split(r"[|#]", reference) if (a := " ".join(part.split()))))


def vqa_med_2020(view: View) -> Iterator[Sample]:
    """The rows of a split: train, val or test. An image's name is its row's id."""
    return _samples(view, _2020, "VQA-Med 2020")


def vqa_med_2021(view: View) -> Iterator[Sample]:
    """The rows of a split: train (2020's train and val), val or test. An image's name is its row's id."""
    return _samples(view, _2021, "VQA-Med 2021")


def _samples(view: View, splits: dict[str, list[_Pairs | _Apart]], title: str) -> Iterator[Sample]:
    if view.split not in splits:
        raise DataError(f"{view.archive}: {title} has no split '{view.split}'", hint=f"one of {', '.join(splits)}")
    for files in splits[view.split]:
        folder: str | None = None
        for where, name, question, answer in _rows(view.archive, files):
            folder = image_folder(view.archive, "", "images", name) if folder is None else folder
            try:
                image = view.archive.image(f"{folder}{name}.jpg", where)
            except RowError as e:
                view.reject(name, str(e))
                continue
            yield Sample(id=name, images=(image,), question=question, reference=Reference(answers=acceptable(answer)))


def _rows(archive: Archive, files: _Pairs | _Apart) -> Iterator[_Row]:
    if isinstance(files, _Pairs):
        for where, (name, question, answer) in lines(archive, only(archive, f"**/{files.file}"), 3):
            yield where, name, question, answer
        return
    answers = {name: answer for _, (name, answer) in lines(archive, _first(archive, files.answers), 2)}
    path = _first(archive, files.questions)
    read: Callable[[Archive, str], Iterator[tuple[str, str, str]]] = _listed if path.endswith(".json") else _lined
    for where, name, question in read(archive, path):
        if name not in answers:
            raise DataError(f"{where}: no answer to {name} in {archive.label(_first(archive, files.answers))}")
        yield where, name, question, answers[name]


def _first(archive: Archive, names: tuple[str, ...]) -> str:
    """The first of these files that is there. Raises DataError, about the first, where none is."""
    return next((found[0] for name in names if len(found := archive.glob(f"**/{name}")) == 1), None) or only(
        archive, f"**/{names[0]}"
    )


def _lined(archive: Archive, path: str) -> Iterator[tuple[str, str, str]]:
    for where, (name, question) in lines(archive, path, 2):
        yield where, name, question


def _listed(archive: Archive, path: str) -> Iterator[tuple[str, str, str]]:
    """The questions of the evaluator's JSON, in the form of the VQA challenge."""
    try:
        rows = json.loads(archive.text(path))["questions"]
        yield from ((f"{archive.label(path)}: question {i}", r["question_id"], r["question"]) for i, r in enumerate(rows))
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{archive.label(path)}: not the JSON of a list of questions ({type(e).__name__}: {e})") from None
