"""VQA-RAD (Lau et al. 2018): `VQA_RAD Dataset Public.json` and `VQA_RAD Image Folder/`.

Test rows have a `phrase_type` that starts with `test`; `answer_type` may trail a blank, answers may be ints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.data import View
from harness.errors import RowError
from harness.records import Reference, Sample
from tasks.layouts.rows import json_rows, name_of, texts

FILE = "VQA_RAD Dataset Public.json"


def vqa_rad(view: View) -> Iterator[Sample]:
    """The official test rows, or all others."""
    for i, row in enumerate(json_rows(view.archive, FILE)):
        try:
            sample = _sample(view, row, f"{view.archive.label(FILE)}: row {i}")
        except RowError as e:
            view.reject(name_of(row, "qid", f"row {i}"), str(e))
        else:
            if sample:
                yield sample


def _sample(view: View, row: dict[str, Any], where: str) -> Sample | None:
    """None for a row of the other split."""
    phrase, qid, name, question, answer = texts(where, row, "phrase_type", "qid", "image_name", "question", "answer")
    if phrase.startswith("test") != (view.split == "test"):
        return None
    kind, organ, content = texts(where, row, "answer_type", "image_organ", "question_type")
    return Sample(
        id=qid,
        images=(view.archive.image(f"VQA_RAD Image Folder/{name}", where),),
        question=question,
        reference=Reference(answers=(answer,) if answer else ()),
        slices={"answer_type": kind.upper(), "organ": organ, "content_type": content},
    )
