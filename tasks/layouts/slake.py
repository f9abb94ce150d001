"""SLAKE 1.0 (Liu et al. 2021): `train|validate|test.json` and `imgs/xmlabN/{source.jpg, detection.json}`; English rows.

The hub's copy calls the second split `validation` and holds `imgs.zip`.

Silvar-Med (Pham et al. 2025) is SLAKE's English abnormality rows, each with reasoning that physicians wrote: same
questions, same images, 716 and 150 rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from harness.data import View
from harness.errors import DataError, RowError
from harness.records import BadImageError, Reference, Sample
from tasks import grounding
from tasks.layouts.rows import json_rows, name_of, text, texts

_SLICES = {"answer_type": "answer_type", "modality": "modality", "content_type": "content_type", "organ": "location"}


def slake(view: View) -> Iterator[Sample]:
    """The English rows."""
    for _, sample in _english(view):
        yield sample


def _english(view: View) -> Iterator[tuple[dict[str, Any], Sample]]:
    file = f"{view.split}.json"
    for i, row in enumerate(json_rows(view.archive, file)):
        where = f"{view.archive.label(file)}: row {i}"
        try:
            if texts(where, row, "q_lang") != ["en"]:
                continue
            sample = _sample(view, row, where)
        except RowError as e:
            view.reject(name_of(row, "qid", f"{file} row {i}"), str(e))
        else:
            yield row, sample


def _sample(view: View, row: dict[str, Any], where: str) -> Sample:
    qid, name, question, answer = texts(where, row, "qid", "img_name", "question", "answer")
    return Sample(
        id=qid,
        images=(view.archive.image(f"imgs/{name}", where),),
        question=question,
        reference=Reference(answers=(answer,) if answer else ()),
        slices={k: value for k, v in _SLICES.items() if (value := text(f"{where}: field '{v}'", row.get(v)))},
    )


def _abnormality(view: View) -> Iterator[tuple[dict[str, Any], Sample]]:
    return ((row, s) for row, s in _english(view) if s.slices.get("content_type") == "Abnormality")


def slake_grounded(view: View) -> Iterator[Sample]:
    """The abnormality rows, with reasoning derived by rule from `detection.json` (see tasks/grounding.py)."""
    known: dict[str, tuple[list[dict[str, Any]], int, int]] = {}
    for row, sample in _abnormality(view):
        (image,) = sample.images
        if image.name not in known:
            boxes = json_rows(view.archive, str(PurePosixPath(image.name).parent / "detection.json"))
            try:
                known[image.name] = (boxes, *image.verify())
            except BadImageError as e:
                view.reject(sample.id, f"image {e}")
                continue
        reasoning = grounding.reasoning(row, *known[image.name])
        yield sample.model_copy(update={"reference": Reference(answers=sample.reference.answers, reasoning=reasoning)})


def silvar_med(view: View) -> Iterator[Sample]:
    """SLAKE's abnormality rows with the physicians' reasoning, where the folder `annotations` holds it.

    The annotation (`train|test.json`, a list of `img_name, question, answer`, the answer one prose explanation) is joined
    to SLAKE on image and question; the row's short answer is SLAKE's. Without it every row has its short answer only, and
    a note says so. An annotated question that SLAKE does not have is a bad row.
    """
    rows = [sample for _, sample in _abnormality(view)]
    annotations = view.extra.get("annotations")
    file = f"{view.name}.json"
    if annotations is None or file not in annotations:
        view.notes.append(
            f"silvar_med: the physicians' reasoning is not here; these are SLAKE's own {len(rows)} abnormality rows with "
            "short answers"
        )
        yield from rows
        return
    by_key = {_key(s.images[0].name, s.question): s for s in rows}
    if len(by_key) != len(rows):
        raise DataError(f"{view.archive.label(view.split)}.json: two abnormality rows ask the same of one image")
    for i, row in enumerate(json_rows(annotations, file)):
        where = f"{annotations.label(file)}: row {i}"
        try:
            name, question, prose = texts(where, row, "img_name", "question", "answer")
        except RowError as e:
            view.reject(f"{file} row {i}", str(e))
            continue
        sample = by_key.get(_key(name, question))
        if sample is None:
            view.reject(f"{file} row {i}", f"SLAKE has no abnormality row with image '{name}' and question '{question}'")
        elif not prose:
            view.reject(sample.id, f"{file} row {i}: empty explanation")
        else:
            yield sample.model_copy(update={"reference": Reference(answers=sample.reference.answers, reasoning=prose)})


def _key(name: str, question: str) -> tuple[str, str]:
    """Image and question, whatever the folder, the ending and a copy's number: "x/xmlab102_1.jpg" is "xmlab102"."""
    found = re.search(r"xmlab\d+", name)
    return found.group() if found else name, " ".join(question.lower().split())
