"""Official archives -> samples. One reader per layout, registered under the entry point `harness.layouts`.

A reader takes the archive's root folder and a split's name as the archive spells it, and yields samples in the
archive's own order, none left out: what a row lacks is for the loader to report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.records import ImageRef, Reference, Sample
from tasks import grounding


def _load_json(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file", hint="point --data-dir (or HARNESS_DATA_DIR) at the folder that holds the archive"
        )
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise DataError(f"{path}: not JSON ({e})") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, found {type(rows).__name__}")
    return rows


def _fields(path: Path, i: int, row: dict[str, Any], *names: str) -> list[Any]:
    for name in names:
        if name not in row:
            raise DataError(f"{path}: row {i}: no field '{name}'", hint=f"found: {', '.join(row)}")
    return [row[n] for n in names]


def _slice(value: Any) -> str:
    return str(value).strip()


def slake(root: Path, split: str) -> Iterator[Sample]:
    """SLAKE 1.0 (Liu et al. 2021): `train|validate|test.json` and `imgs/xmlabN/source.jpg`. English rows."""
    for _, sample in _slake_rows(root, split):
        yield sample


def _slake_rows(root: Path, split: str) -> Iterator[tuple[dict[str, Any], Sample]]:
    path = root / f"{split}.json"
    for i, row in enumerate(_load_json(path)):
        lang, qid, name, question, answer = _fields(path, i, row, "q_lang", "qid", "img_name", "question", "answer")
        if lang != "en":
            continue
        keys = {"answer_type": "answer_type", "modality": "modality", "content_type": "content_type", "organ": "location"}
        slices = {k: _slice(row[v]) for k, v in keys.items() if row.get(v)}
        answers = (str(answer).strip(),) if str(answer).strip() else ()
        image = ImageRef(name=f"imgs/{name}", path=root / "imgs" / name)
        yield row, Sample(id=str(qid), images=(image,), question=question, reference=Reference(answers=answers), slices=slices)


def slake_grounded(root: Path, split: str) -> Iterator[Sample]:
    """SLAKE's abnormality rows, with reasoning derived by rule from `detection.json` (see tasks/grounding.py)."""
    for row, sample in _slake_rows(root, split):
        if row["content_type"] != "Abnormality":
            continue
        with_boxes = root / "imgs" / Path(row["img_name"]).parent / "detection.json"
        width, height = sample.images[0].open().size
        text = grounding.reasoning(row, _load_json(with_boxes), width, height)
        yield sample.model_copy(update={"reference": Reference(answers=sample.reference.answers, reasoning=text)})


def vqa_rad(root: Path, split: str) -> Iterator[Sample]:
    """VQA-RAD (Lau et al. 2018): one JSON and `VQA_RAD Image Folder/`. Test rows have a `phrase_type` that starts
    with `test`; `answer_type` may trail a blank and answers may be ints."""
    path = root / "VQA_RAD Dataset Public.json"
    for i, row in enumerate(_load_json(path)):
        phrase, qid, name, question, answer = _fields(path, i, row, "phrase_type", "qid", "image_name", "question", "answer")
        if phrase.startswith("test") != (split == "test"):
            continue
        slices = {
            "answer_type": _slice(row["answer_type"]).upper(),
            "organ": _slice(row["image_organ"]),
            "content_type": _slice(row["question_type"]),
            # 21 of the 272 CLOSED test rows are choices such as "left"; papers often split by yes/no instead (251/200)
            "form": "yes/no" if _slice(answer).lower() in ("yes", "no") else "other",
        }
        answers = (str(answer).strip(),) if str(answer).strip() else ()
        image = ImageRef(name=f"VQA_RAD Image Folder/{name}", path=root / "VQA_RAD Image Folder" / name)
        yield Sample(id=str(qid), images=(image,), question=question.strip(), reference=Reference(answers=answers), slices=slices)


def bundle(root: Path, split: str) -> Iterator[Sample]:
    """This package's own small parquet pair: `rows.parquet` and `images.parquet` (see tasks/bundle.py).

    `rows.parquet` may name another bundle's images in its metadata (`images`), as slake_grounded does SLAKE's.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not (root / "rows.parquet").is_file():
        raise DataError(f"{root / 'rows.parquet'}: no such file", hint="this task has no bundled data; use --data local or hub")
    rows = pq.read_table(root / "rows.parquet")
    shared = (rows.schema.metadata or {}).get(b"images", b".").decode()
    rows = rows.filter(pc.equal(rows["split"], split))
    if not rows.num_rows:
        raise DataError(f"{root / 'rows.parquet'}: no rows of split '{split}'")
    wanted = pc.unique(rows["image"])
    pixels = pq.read_table(root / shared / "images.parquet", filters=pc.is_in(pc.field("name"), wanted)).to_pydict()
    images = {n: ImageRef(name=n, data=b) for n, b in zip(pixels["name"], pixels["jpeg"], strict=True)}
    for row in rows.to_pylist():
        yield Sample(
            id=row["id"],
            images=(images[row["image"]],),
            question=row["question"],
            reference=Reference(answers=tuple(row["answers"]), reasoning=row.get("reasoning")),
            slices={k: v for k, v in row["slices"].items() if v is not None},
        )
