"""VQA-Med 2020 and 2021: the organisers' own test files, several references to a question, and what cannot be read."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from harness import data, specs
from harness.archives import Archive
from harness.data import View
from harness.errors import DataError
from harness.scoring.metrics import METRICS
from tasks.layouts.vqa_med import acceptable, vqa_med_2020, vqa_med_2021
from tests import published, published_text  # noqa: F401 (it adds its builders)
from tests.test_benchmarks import said


@pytest.mark.parametrize(("year", "several"), [(2020, 0), (2021, 75)])
def test_vqa_med_reads_the_official_test_files(archives, tmp_path, year, several):
    """The organisers' 500 questions and references, with made-up pictures, which are not at hand."""
    name = f"vqa_med_{year}"
    for file in (archives / name).iterdir():
        shutil.copy(file, tmp_path)
    (answers,) = tmp_path.glob("*Answers*.txt")
    (tmp_path / "imgs").mkdir()
    for line in answers.read_text().splitlines():
        Image.new("L", (8, 8)).save(tmp_path / "imgs" / f"{line.split('|')[0]}.jpg")
    ((spec, _),) = specs.find(name)
    reader = {2020: vqa_med_2020, 2021: vqa_med_2021}[year]
    samples = list(reader(View(Archive(tmp_path), "test", "test")))
    assert len(samples) == len({s.id for s in samples}) == spec.rows["test"]
    assert sum(len(s.reference.answers) > 1 for s in samples) == several
    assert {s.images[0].name for s in samples[:2]} == {f"imgs/{s.id}.jpg" for s in samples[:2]}
    for metric in ("exact_match", "bleu"):
        for answer in (lambda r: r.answers[0], lambda r: r.answers[-1].upper()):
            assert set(METRICS[metric]([(said(s.id, answer(s.reference)), s.reference) for s in samples])) == {1.0}
    some = [s for s in samples if s.reference.kind == "open"]
    wrong = METRICS["exact_match"]([(said(s.id, "aortic coarctation in a zebra"), s.reference) for s in some])
    assert set(wrong) == {0.0}


def test_vqa_med_2021_keeps_all_of_a_rows_references(archives):
    file = archives / "vqa_med_2021" / "Task1-VQAnswering2021-Test-ReferenceAnswers-4Evaluator.txt"
    assert acceptable(file.read_text().splitlines()[0].partition("|")[2]) == (
        "avascular necrosis",
        "extensive degenerative changes on the bilateral femoral heads and acetabula.",
        "Avascular Necrosis of femoral heads bilaterally with associated osteoarthritic changes",
    )


def test_vqa_med_names_the_question_without_an_answer(tmp_path):
    published.write("vqa_med_2020", tmp_path)
    (questions,) = tmp_path.glob("**/*Questions.txt")
    questions.write_text(questions.read_text() + "synpic9|what is it?\n")
    ((spec, path),) = specs.find("vqa_med_2020")
    with pytest.raises(DataError, match=r"Questions\.txt: line 5: no answer to synpic9 in .*ReferenceAnswers\.txt"):
        data.load(spec, path, source="local", data_dir=tmp_path)
