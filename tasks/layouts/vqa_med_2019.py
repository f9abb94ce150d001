"""VQA-Med 2019 (Ben Abacha et al. 2019), as its authors publish it: three folders, or their zips.

    ImageClef-2019-VQA-Med-Training/    All_QA_Pairs_train.txt   QAPairsByCategory/C1_Modality_train.txt ...   Train_images/
    ImageClef-2019-VQA-Med-Validation/  All_QA_Pairs_val.txt     QAPairsByCategory/C1_Modality_val.txt ...     Val_images/
    VQAMed2019Test/                     VQAMed2019_Test_Questions_w_Ref_Answers.txt                  VQAMed2019_Test_Images/

Lines are `image|question|answer`, those of the test `image|category|question|answer`; images end in .jpg. The folders are
found by the files in them, whatever they are called.

References, by the test set's README: `#` separates answers of which each is right, and `(...)` is a part "that makes the
answer perfect but could be ignored". Parentheses stand in the training and validation answers too ("ct w/contrast (iv)"),
always balanced; they are read alike, so that a model chosen on validation is judged there as on the test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from harness.archives import Archive
from harness.data import View
from harness.errors import DataError, RowError
from harness.records import Reference, Sample
from tasks.layouts.table import table

#: Our splits -> the file of questions and answers, and the official folder of images beside it.
_FILES = {
    "train": ("All_QA_Pairs_train.txt", "Train_images"),
    "val": ("All_QA_Pairs_val.txt", "Val_images"),
    "test": ("VQAMed2019_Test_Questions_w_Ref_Answers.txt", "VQAMed2019_Test_Images"),
}
_OPTIONAL = re.compile(r"\(([^()]*)\)")


def acceptable(reference: str) -> tuple[str, ...]:
    """The answers that a reference accepts, its own words first; none where it holds none.

    What cannot be parsed (a parenthesis without its other half, or one within another) is taken as it stands.

    >>> acceptable("microcystic (serous) adenoma#cyst")
    ('microcystic (serous) adenoma', 'microcystic serous adenoma', 'microcystic adenoma', 'cyst')
    """
    found: dict[str, None] = {}
    for written in reference.split("#"):
        forms = [written]
        if "(" in written and not set(_OPTIONAL.sub("", written)) & set("()"):
            forms += [_OPTIONAL.sub(r"\1", written), _OPTIONAL.sub(" ", written)]
        for form in forms:
            tidy = re.sub(r"\s+([,.;])", r"\1", " ".join(form.split())).strip(" ,;")
            if tidy:
                found[tidy] = None
    return tuple(found)


def vqa_med_2019(view: View) -> Iterator[Sample]:
    """The rows of a split; ids are image and category, such as "synpic41148-modality". The hub's copy is read as a table."""
    if view.split.endswith(".parquet"):
        for sample in table(view):
            answers = tuple(a for given in sample.reference.answers for a in acceptable(given))
            yield sample.model_copy(update={"reference": Reference(answers=answers)})
        return
    if view.split not in _FILES:
        raise DataError(f"{view.archive}: VQA-Med 2019 has no split '{view.split}'", hint=f"one of {', '.join(_FILES)}")
    archive, (file, images) = view.archive, _FILES[view.split]
    path = only(archive, f"**/{file}")
    folder = "" if path == file else f"{PurePosixPath(path).parent}/"
    rows = list(lines(archive, path, 4 if view.split == "test" else 3))
    categories = {} if view.split == "test" else _categories(archive, folder, view.split)
    images = image_folder(archive, folder, images, rows[0][1][0] if rows else "")
    for where, row in rows:
        name, question, answer = row[0], row[-2], row[-1]
        category = row[1] if view.split == "test" else categories.get((name, question))
        if category is None:
            raise DataError(f"{where}: no file in {archive.label(folder + 'QAPairsByCategory')} has this question of {name}")
        try:
            image = archive.image(f"{images}{name}.jpg", where)
        except RowError as e:
            view.reject(f"{name}-{category}", str(e))
            continue
        yield Sample(
            id=f"{name}-{category}",
            images=(image,),
            question=question,
            reference=Reference(answers=acceptable(answer)),
            slices={"category": category},
        )


def only(archive: Archive, pattern: str) -> str:
    """The one file that matches. Raises DataError where there is none, or several."""
    found = archive.glob(pattern)
    if len(found) != 1:
        file = pattern.removeprefix("**/")
        said = f"several files: {', '.join(found)}" if found else "no such file, in its folders or zips"
        raise DataError(f"{archive.label(file)}: {said}", hint="give the folder that holds one VQA-Med archive, unpacked once")
    return found[0]


def lines(archive: Archive, path: str, count: int) -> Iterator[tuple[str, list[str]]]:
    """("file: line n", cells). Only the last cell may hold a `|`."""
    for n, line in enumerate(archive.text(path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = [" ".join(c.split()) for c in line.split("|", count - 1)]
        where = f"{archive.label(path)}: line {n}"
        if len(cells) != count:
            raise DataError(f"{where}: {len(cells)} cells, expected {count} separated by '|'")
        yield where, cells


def _categories(archive: Archive, folder: str, split: str) -> dict[tuple[str, str], str]:
    """(image, question) -> modality, plane, organ or abnormality, from the files by category."""
    found: dict[tuple[str, str], str] = {}
    files = archive.glob(f"{folder}QAPairsByCategory/*_{split}.txt")
    if not files:
        raise DataError(f"{archive.label(folder + 'QAPairsByCategory')}: no files *_{split}.txt")
    for path in files:
        category = PurePosixPath(path).stem.split("_")[1].lower()
        found.update({(row[0], row[1]): category for _, row in lines(archive, path, 3)})
    return found


def image_folder(archive: Archive, folder: str, official: str, first: str) -> str:
    """The folder that holds the first image, with its slash; the official one where none does (the images are then missing)."""
    if f"{folder}{official}/{first}.jpg" in archive:
        return f"{folder}{official}/"
    held = archive.glob(f"{folder}**/{first}.jpg")
    return held[0][: -len(f"{first}.jpg")] if len(held) == 1 else f"{folder}{official}/"
