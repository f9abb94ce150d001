"""Other people's rules: what each reads and compares, what all of them hold, and public reports of scores that were wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest

from harness import answers
from harness.errors import UserError
from harness.records import Prediction, Reference, Sample
from harness.runs import RunFolder
from harness.scoring import unread
from harness.scoring.exact import is_correct
from harness.scoring.protocols import PROTOCOLS, find, find_all, score
from tests.conftest import load

CHOICES = ("CT", "MRI", "Ultrasound", "T1 weighted MRI")


def sample(*right: str, choices: Sequence[str] | None = None, answer_type: str | None = None) -> Sample:
    reference = Reference(answers=right, choices=tuple(choices) if choices else None)
    slices = {"answer_type": answer_type} if answer_type else {}
    return Sample(id="q", images=(), question="What is seen?", reference=reference, slices=slices)


def says(text: str, asked: Sample) -> Prediction:
    """The prediction of a model that writes `text`, read as a run reads it."""
    reasoning, answer = answers.read(text)
    made = Prediction(
        sample_id=asked.id, text=text, reasoning=reasoning, answer=answer, finish="stop", prompt_tokens=1, completion_tokens=1
    )
    return unread.noted(made, asked.reference)


def value(name: str, text: str, asked: Sample) -> float:
    return find(name).mark(says(text, asked), asked).value


def total(name: str, rows: Sequence[Sample], answer: Callable[[Sample], str]) -> Fraction | None:
    return score(find(name).mark(says(answer(s), s), s) for s in rows)


def right(asked: Sample) -> str:
    return asked.reference.answers[0]


def wrong(asked: Sample) -> str:
    """The other side of a yes/no question, another choice's letter, and for open questions what no reference is."""
    if asked.reference.choices:
        letter = answers.letter(right(asked), asked.reference.choices)
        return next(other for other in asked.reference.lettered if other != letter)
    return {"yes": "no", "no": "yes"}.get(right(asked).lower(), "zebra")


@pytest.fixture(scope="module")
def rows(slake) -> dict[str, list[Sample]]:
    made = [sample(a, choices=CHOICES) for a in ("A", "B", "(C)", "D", "CT", "MRI", "Ultrasound", "T1 weighted MRI")]
    return {"slake": list(slake.samples), "vqa_rad": list(load("vqa_rad").samples), "choices": made}


@pytest.mark.parametrize("name", [n for n, p in PROTOCOLS.items() if not p.as_is])
def test_all_right_is_one_and_all_wrong_is_zero(name, rows):
    """Exactly, under every rule whose name does not say that it repeats a fault."""
    for asked in rows.values():
        assert total(name, asked, right) == 1
        assert total(name, asked, wrong) == 0
        assert total(name, asked, lambda s: "") == 0
    assert total(name, rows["choices"], lambda s: s.reference.lettered[wrong(s)]) == 0  # another choice, by its words


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("The final answer is \\boxed{CT}.", sample("ct")),
        ("CT. The image shows a cross-section.", sample("CT")),
        ("CT. The image shows a cross-section.", sample("CT. The image shows a cross-section.")),
        ("?", sample("?")),
        ("It is an X-ray", sample("x ray")),
        ("Yes, there is", sample("yes")),
        ("normal", sample("no")),
        ("The answer is (B).", sample("MRI", choices=CHOICES)),
        ("neither A nor B", sample("A", choices=CHOICES)),
        ("lung", sample("Lung Cancer")),
        ("", sample("")),
    ],
)
def test_exact_is_the_exact_judge(text, asked):
    said = says(text, asked)
    assert value("exact", text, asked) == float(is_correct(said.answer, asked.reference))


@pytest.mark.parametrize(
    ("name", "text", "asked", "worth"),
    [
        ("strict", "Lung", sample("Lung"), 1),
        ("strict", "lung", sample("Lung"), 0),
        ("vqa-rad-hub", "lung", sample("Lung"), 1),
        ("vqa-rad-hub", "Lung.", sample("Lung"), 0),
        ("llava-med", "Yes, it is.", sample("yes"), 1),
        ("llava-med", "There is no fracture", sample("no"), 1),
        ("llava-med", "yes or no", sample("yes"), 0),
        ("llava-med", "It lies in the left lung", sample("Left"), 1),
        ("llava-med", "fluid in the lung", sample("left lung"), 0.5),
        ("llava-med", "lung lung lung", sample("left lung"), 0.5),
        ("llava-med", "the heart, mostly", sample("Heart", answer_type="CLOSED"), 1),
        ("llava-med", "the heart", sample("big heart", answer_type="CLOSED"), 0),
        ("llava-med-asis", "lung lung lung", sample("left lung"), 0.75),
        ("medevalkit", "The answer is CT", sample("CT"), 1),
        ("medevalkit", "So: \\boxed{CT}", sample("CT"), 1),
        ("medevalkit", "<think>MRI?</think><answer>CT</answer>", sample("CT"), 1),
        ("medevalkit", "CT.", sample("CT"), 0),
        ("medevalkit", "CT.", sample("CT", answer_type="CLOSED"), 1),
        ("medevalkit", "B", sample("B", choices=CHOICES), 1),
        ("medevalkit", "The answer is B. Because of its contrast.", sample("MRI", choices=CHOICES), 1),
        ("medevalkit", "(B) MRI", sample("B", choices=CHOICES), 1),
        ("medevalkit", "magnetic resonance ultrasound", sample("C", choices=CHOICES), 1),
        ("medevalkit-f1", "the left lung", sample("left lung"), 0.8),
        ("lmms-eval", "X-Ray (chest)", sample("xray"), 1),
        ("lmms-eval", "It is an X-ray", sample("xray"), 0),
        ("lmms-eval", "Yep", sample("yes"), 1),
        ("lmms-eval", "The answer is (B).", sample("B", choices=CHOICES), 1),
        ("lmms-eval", "Answer: A. Final answer: **B**", sample("B", choices=CHOICES), 1),
        ("lmms-eval", "The answer is A or B", sample("A", choices=CHOICES), 0),
        ("lmms-eval", "A fracture is seen", sample("A", choices=CHOICES), 0),
        ("evalscope", "I see a scan.\nANSWER: two lungs", sample("2 lungs"), 1),
        ("evalscope", "none", sample("0"), 1),
        ("evalscope", "ANSWER: B, not C", sample("B", choices=CHOICES), 1),
        ("evalscope", "It is an MRA", sample("A", choices=CHOICES), 1),  # its last capital
        ("vlmevalkit", "The two lungs", sample("2 lungs"), 1),
        ("vlmevalkit", "no, it is normal", sample("no"), 1),
        ("vlmevalkit", "I choose B", sample("B", choices=CHOICES), 1),
        ("vlmevalkit", "It shows an ultrasound", sample("C", choices=CHOICES), 1),
        ("medgemma", "the left lung", sample("left lung"), 1),
        ("medgemma", "Yes, it is", sample("yes"), 0.5),
        ("vqa-med", "The x-ray", sample("mri", "X ray"), 1),
        ("vqa-med", "It is an x-ray", sample("x ray"), 0),
        ("vqa-med-bleu", "skull contents", sample("skull and contents"), 1),
    ],
)
def test_each_rule_reads_and_compares_as_its_source(name, text, asked, worth):
    assert value(name, text, asked) == pytest.approx(worth)


# -- public reports: the input, the number that was printed, and the number without the fault --------------------------------


@pytest.mark.parametrize("text", ["normal", "Please note the heart", "yes and no"])
def test_llava_med_12_the_letters_of_no(text):
    """microsoft/LLaVA-Med issue 12: "normal" and "note" are right answers to a question whose answer is no; so are both words."""
    assert (value("llava-med-asis", text, sample("no")), value("llava-med", text, sample("no"))) == (1, 0)


def test_llava_med_12_wrong_answers_are_not_counted():
    """The same file: a wrong yes or no is put into no list, so that three wrong answers of four score 100 %."""
    said = dict(zip("abcd", ("yes", "no", "no", "no"), strict=True))
    asked = [sample("yes").model_copy(update={"id": i}) for i in said]
    assert total("llava-med-asis", asked, lambda s: said[s.id]) == 1
    assert total("llava-med", asked, lambda s: said[s.id]) == Fraction(1, 4)


def test_llava_med_113_closed_questions_that_are_not_yes_or_no(slake):
    """microsoft/LLaVA-Med issue 113: SLAKE has 61 closed questions whose answer is neither; all of them are wrong."""
    asked = [s for s in slake.samples if s.slices["answer_type"] == "CLOSED" and s.reference.kind == "open"]
    assert len(asked) == 61
    assert (total("llava-med-asis", asked, right), total("llava-med", asked, right)) == (0, 1)


def test_medevalkit_30_closed_rows_are_zeroed_or_doubled(rows):
    """alibaba-damo-academy/MedEvalKit issue 30: with its judge on, an all-correct VQA-RAD run scores the share of its 200 other
    rows, and an all-correct SLAKE run more than 100 %."""
    closed = [s for s in rows["vqa_rad"] if s.reference.kind == "yesno"]
    assert total("medevalkit-rad-asis", rows["vqa_rad"], right) == Fraction(200, 451)
    assert total("medevalkit-rad-asis", closed, right) == 0
    assert total("medevalkit-slake-asis", rows["slake"], right) == Fraction(1061 + 416, 1061)
    half = [sample("yes", answer_type="CLOSED"), sample("Lung", answer_type="OPEN")]
    assert total("medevalkit-slake-asis", half, right) == Fraction(3, 2)
    assert total("medevalkit", rows["vqa_rad"], right) == total("medevalkit", rows["slake"], right) == 1


def test_medevalkit_30_f1_is_the_recall():
    """The same evaluation: calculate_f1 returns (F1, precision, recall), and its caller unpacks (precision, recall, F1)."""
    asked, text = sample("left lung"), "there is fluid in the left lung"
    assert value("medevalkit-f1-asis", text, asked) == 1
    assert value("medevalkit-f1", text, asked) == pytest.approx(4 / 9)


def test_medevalkit_21_the_overall_score_is_the_mean_over_rows(rows):
    """alibaba-damo-academy/MedEvalKit issue 21: 79.3 on 251 closed and 64 on 200 open rows of VQA-RAD make the printed 72.5. The
    49.9 that MedGemma's own report has for the same model is no accuracy but token F1 over all rows."""
    kinds = {True: [], False: []}
    for s in rows["vqa_rad"]:
        kinds[s.reference.kind == "yesno"].append(s.id)
    solved = {*kinds[True][:199], *kinds[False][:128]}

    def said(s: Sample) -> str:
        return right(s) if s.id in solved else wrong(s)

    found = {part: float(100 * total(f"medevalkit{part}", rows["vqa_rad"], said)) for part in ("", "/yesno")}
    assert found == {"": pytest.approx(72.5, abs=0.05), "/yesno": pytest.approx(79.3, abs=0.05)}


def test_vlmevalkit_1175_a_letter_in_the_prose():
    """open-compass/VLMEvalKit pull request 1175: "Company B" is read as the answer B, and an article as A."""
    asked = sample("B", choices=("1,000", "2,000", "3,000", "4,000"))
    text = "To determine the missing gain for Company B, we use the formula for net income and put in what is known"
    assert (value("vlmevalkit-asis", text, asked), value("vlmevalkit", text, asked)) == (1, 0)
    asked, text = sample("A", choices=("Rib", "Spine", "Skull")), "A fracture can be seen, but where it lies is hard to tell"
    assert (value("vlmevalkit-asis", text, asked), value("vlmevalkit", text, asked)) == (1, 0)


@pytest.mark.parametrize("text", ["The answer is (B)", "Answer: B", "**B**"])
def test_lmms_eval_cv_bench_reads_the_first_letter(text):
    """lmms-eval's CV-Bench task takes T, A and nothing from these."""
    asked = sample("(B)", choices=("2", "3"))
    assert (value("lmms-eval-cv-bench-asis", text, asked), value("lmms-eval", text, asked)) == (0, 1)


def test_bleu_of_right_answers_under_a_newer_nltk():
    """The challenge's own call gives a right answer about 0 since NLTK 3.3."""
    assert value("vqa-med-bleu-asis", "axial", sample("axial")) < 0.01
    assert value("vqa-med-bleu", "axial", sample("axial")) == 1


# -- names, parts, judges ----------------------------------------------------------------------------------------------------


def test_parts_count_their_rows_alone(rows):
    counted = {
        part: sum(find(f"strict/{part}").mark(says("", s), s).counting.counted for s in rows["vqa_rad"])
        for part in ("closed", "open", "yesno")
    }
    assert counted == {"closed": 272, "open": 179, "yesno": 251}


def test_names_that_do_not_exist_are_told_with_the_nearest():
    with pytest.raises(UserError, match="no protocol named 'lava-med'") as told:
        find("protocol:lava-med")
    assert "llava-med" in (told.value.hint or "")
    with pytest.raises(UserError, match="no part named 'close'"):
        find("llava-med/close")
    with pytest.raises(UserError, match="no protocol is named"):
        find_all(" , ")
    assert [p.name for p in find_all("strict,protocol:strict,medgemma/open")] == ["strict", "medgemma/open"]


def test_every_protocol_says_its_rule_and_source():
    for name, p in PROTOCOLS.items():
        assert p.name == name
        assert p.rule.endswith(".")
        assert p.source
        assert p.differs or name == "exact"
        assert p.quirks or name in ("exact", "strict")
        assert all(q.endswith((".", '".')) for q in p.quirks), name


def test_a_run_is_judged_by_a_protocol(run, command):
    """As by any judge: verdicts in the run's folder, with the fractional values' mean beside them as the metric of its name."""
    code, _, err = command("judge", run, "--judge", "protocol:llava-med,protocol:medevalkit/closed")
    assert code == 0, err
    folder = RunFolder(run)
    version = f"{answers.VERSION}-1"
    verdicts = folder.verdicts("protocol:llava-med", version)
    marks = {s.id: find("llava-med").mark(folder.predictions()[s.id], s) for s in folder.questions()}
    assert {i: v.final for i, v in verdicts.items()} == {i: int(m.value == 1) for i, m in marks.items()}
    scores = folder.scores()
    assert scores["metrics"]["protocol:llava-med"]["value"] == pytest.approx(float(score(marks.values())))
    assert scores["metrics"]["protocol:llava-med"]["n"] == 120
    left_out = [v for v in folder.verdicts("protocol:medevalkit/closed", version).values() if v.final is None]
    assert len(left_out) == sum(s.slices["answer_type"] != "CLOSED" for s in folder.questions())
    assert {v.missing for v in left_out} == {"medevalkit/closed does not count this row"}


def test_a_protocol_s_verdicts_are_given_anew_when_answers_are_read_again(run, command):
    command("judge", run, "--judge", "protocol:medgemma", "--quiet")
    code, _, err = command("judge", run, "--reread")
    assert code == 0, err
    (again,) = run.parent.glob("slake-*")
    assert ("protocol:medgemma", f"{answers.VERSION}-1") in RunFolder(again).judges()


def test_the_judge_without_a_name_lists_them(run, command):
    code, _, err = command("judge", run, "--judge", "protocol:")
    assert code == 2
    assert "which one?" in err
    assert "llava-med" in err
