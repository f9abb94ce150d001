"""Metrics, aggregates and sampling: real rows and exact numbers, worked out by hand or taken from the official scripts."""

import doctest
import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.records import Prediction, Reference, Verdict
from harness.scoring import aggregates, bertscore, bleu, exact, metrics, sampling
from harness.scoring.aggregates import cv_bench
from harness.scoring.metrics import METRICS
from harness.scoring.reports import RADEVAL
from harness.scoring.sampling import majority_vote, pass_at_k, sampled
from harness.scoring.summary import scores
from judges.exact import ExactJudge

CHOICES = ("3", "2", "1", "0")

#: Metrics that need no weights from the hub.
FREE = [m for m in METRICS if m not in RADEVAL]


def says(answer: str | None, sample_id: str = "x", finish: str = "stop") -> Prediction:
    error = "out of memory" if finish == "error" else None
    return Prediction(
        sample_id=sample_id, text=answer or "", reasoning=None, answer=answer, finish=finish, prompt_tokens=1,
        completion_tokens=1, error=error,
    )  # fmt: skip


def value(metric: str, answer: str | None, *right: str, choices: tuple[str, ...] | None = None) -> float | None:
    (out,) = METRICS[metric]([(says(answer), Reference(answers=right, choices=choices))])
    return out


# --- every metric, on everything ------------------------------------------------------------------------------------

#: As the official VQA-Med 2019 test file has them: alternatives ('#') and optional parts ('()') made into several answers.
VQA_MED = [
    ("face, sinuses, and neck", "skull and contents"),
    ("(angioinvasive aspergillosis with) septic cerebral emboli", "septic cerebral emboli"),
    ("mr - t1w w/gadolinium",),
    ('incompetent cervix, "hourglass membranes."',),
    ("no",),
    ("crohn’s disease",),
]
#: What a wrong answer is in all of the rows below.
WRONG = "zebra"


@pytest.fixture(scope="session")
def rows(slake) -> dict[str, list[Reference]]:
    from conftest import load

    choices = [Reference(answers=(f"({letter})",), choices=CHOICES) for letter in "ABCD"]
    return {
        "slake": [s.reference for s in slake.samples],
        "vqa_rad": [s.reference for s in load("vqa_rad").samples],
        "vqa_med": [Reference(answers=a) for a in VQA_MED],
        "choices": [*choices, Reference(answers=("left of",), choices=("left of", "right of"))],
        # what a normaliser can leave nothing of
        "odd": [Reference(answers=(a,)) for a in ("?", "the", "-", "A", "…", "左肺", "Ⅱ", "*", "1,000")],
    }


@pytest.mark.parametrize("metric", FREE)
@pytest.mark.parametrize("task", ["slake", "vqa_rad", "vqa_med", "choices", "odd"])
def test_all_right_is_one_and_all_wrong_is_zero(rows, task, metric):
    """Every reference answers itself with exactly 1.0, the last of the acceptable ones included; "zebra" answers none."""
    references = rows[task]
    applies = [r for r in references if metric != "choice_accuracy" or r.kind == "choice"]
    for pick in (0, -1):
        right = METRICS[metric]([(says(r.answers[pick]), r) for r in references])
        assert [v for v in right if v is not None] == [1.0] * len(applies)
    wrong = [v for v in METRICS[metric]([(says(WRONG), r) for r in references]) if v is not None]
    empty = METRICS[metric]([(says(None), r) for r in applies])
    assert empty == [0.0] * len(applies)
    if "bertscore" not in metric:  # unrelated words have a similarity above 0
        assert wrong == [0.0] * len(applies)
    assert all(0 <= v < 1 for v in wrong)


def test_row_counts(rows):
    assert (len(rows["slake"]), len(rows["vqa_rad"])) == (1061, 451)


NASTY = ["", " ", "\n", "\u200b", "\x00", "�", "🙂", "...", "()", "[CLS]", "[SEP] [SEP]", "</answer>", "a", "the the"]
LONG = ["w " * 3000, "x" * 5000]


@pytest.mark.parametrize("metric", FREE)
def test_no_text_breaks_a_metric(metric):
    references = [Reference(answers=(r, "lung")) for r in NASTY] + [Reference(answers=("A",), choices=("", "two"))]
    pairs = [(says(t), r) for t in NASTY for r in references] + [(says(t), references[-2]) for t in LONG]
    values = METRICS[metric](pairs)
    assert all(v is None or (0 <= v <= 1 and math.isfinite(v)) for v in values)
    assert METRICS[metric]([]) == []


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=20), min_size=1, max_size=3), st.booleans())
def test_exact_match_is_one_in_every_similarity(answer, right, itself):
    """Whatever the texts: in [0, 1], 1 where the exact reading is 1 on an open question, and 0 for an empty answer."""
    pair = (says(right[0] if itself else answer), Reference(answers=tuple(right)))
    for metric in ("token_f1", "bleu"):
        (got,) = METRICS[metric]([pair])
        if got is not None:
            assert 0 <= got <= 1
            if pair[1].kind == "open" and exact.is_correct(pair[0].answer, pair[1]):
                assert got == 1
            if not (pair[0].answer or "").strip():
                assert got == 0


def test_without_a_reference_there_is_no_similarity():
    assert [value(m, "lung", " ") for m in ("token_f1", "bleu", "bertscore")] == [None, None, None]


def test_names():
    assert metrics.check(["bleu", "bleu", "token_f1"]) == ("bleu", "token_f1")
    with pytest.raises(UserError, match="no metric named 'blue'") as e:
        metrics.check(["blue"])
    assert e.value.hint == "did you mean 'bleu'?"


@pytest.mark.parametrize("module", [exact, metrics, bleu, sampling])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.failed == 0


# --- one by one -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "right", "choices", "expected"),
    [
        ("The answer is (B)", ("(B)",), CHOICES, 1.0),  # T elsewhere
        ("Answer: B", ("(B)",), CHOICES, 1.0),  # A elsewhere
        ("**B**", ("(B)",), CHOICES, 1.0),
        ("2", ("(B)",), CHOICES, 1.0),  # the choice's own words
        ("(A) or (B)", ("(B)",), CHOICES, 0.0),
        ("", ("(B)",), CHOICES, 0.0),
        ("normal", ("No",), None, 0.0),
        ("No, it is normal", ("No",), None, 1.0),
        ("lung", ("Lung Cancer",), None, 0.0),
        ("...", ("?",), None, 0.0),
    ],
)
def test_exact_match_and_choice_accuracy(answer, right, choices, expected):
    assert value("exact_match", answer, *right, choices=choices) == expected
    assert value("choice_accuracy", answer, *right, choices=choices) == (expected if choices else None)


def test_exact_match_is_the_exact_judge(slake):
    answers = [s.reference.answers[0] if i % 3 else "Lung" for i, s in enumerate(slake.samples)]
    judged = [v.final for v in ExactJudge().judge([(s, says(a, s.id)) for s, a in zip(slake.samples, answers, strict=True)])]
    assert METRICS["exact_match"]([(says(a), s.reference) for s, a in zip(slake.samples, answers, strict=True)]) == judged


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("The left lung", ("left lower lung",), 0.8),  # 2 of 2 words, 2 of 3
        ("lung lung", ("lung",), 2 / 3),  # a multiset: the second "lung" is wrong
        ("right", ("left lung", "right lung"), 2 / 3),  # the nearest acceptable answer
        ("X-Ray", ("xray",), 1.0),
        ("upper-left", ("upper left",), 1.0),  # exact match reads these as one
        ("upper-left side", ("upper left lung side",), 1 / 3),  # SQuAD deletes punctuation
        ("lung,liver", ("Lung, Liver",), 1.0),  # exact match reads these as one
        ("yes, there is", ("yes",), 0.5),
        ("liver", ("lung",), 0.0),
    ],
)
def test_token_f1(answer, right, expected):
    assert value("token_f1", answer, *right) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        # NLTK 3.2.5 under the organisers' evaluator gave each of these
        ("chest mass", "chest cyst", 0.5**0.25),
        ("spine and contents", "skull and contents", 0.5**0.25),
        ("chest", "chest cyst", math.exp(-1)),  # brevity penalty
        ("pulmonary embolus on the left", "pulmonary embolus", (2 / 3 * 1 / 2) ** 0.25),
        ("disease crohns", "crohns disease", 1.0),
        ("calcified uterine leiomyomas", "Calcified uterine leiomyoma", 1.0),
        ("xr - plain film", "xr plain film", 1.0),
        ("yes", "no", 0.0),
        ("no", "no", 1.0),
        # and these differ from it on purpose: it gives 1 to any stop words for any others
        ("not", "no", 0.0),
        ("is", "both", 0.0),
    ],
)
def test_bleu(answer, right, expected):
    assert value("bleu", answer, right) == pytest.approx(expected, abs=1e-12)


def test_bleu_of_an_empty_or_foreign_answer():
    assert value("bleu", "", "no") == 0.0
    assert value("bleu", "both", "both", "left") == 1.0
    assert value("bleu", "左肺", "右肺") == 0.0


def test_similarities_compare_the_words_of_the_choices():
    for metric in ("token_f1", "bleu", "bertscore"):
        assert value(metric, "B) right", "(B)", choices=("left", "right")) == 1.0
        assert value(metric, "right", "(B)", choices=("left", "right")) == 1.0
    assert value("token_f1", "(A)", "(B)", choices=("left lung", "right lung")) == 0.5


def test_bertscore_equals_the_library_pair_by_pair():
    """A pair's score is bert-score's for the pair alone; in the library's own batches it depends on the neighbours."""
    words = ["5", "Pulmonary Nodule", "Center", "Atelectasis, Effusion", "Right", "Visual impairment, vomiting, tinnitus", "CT"]
    pairs = [(a, b) for a in words for b in words if a != b]
    scorer = bertscore._scorer(bertscore.MINILM)
    alone = [float(scorer.score([a], [b])[2].clamp(0, 1)) for a, b in pairs]
    batched = scorer.score([a for a, _ in pairs], [b for _, b in pairs])[2].tolist()
    assert bertscore.bertscore_f1(pairs) == pytest.approx(alone, abs=2e-6)
    assert max(abs(a - b) for a, b in zip(alone, batched, strict=True)) > 0.005


def test_bertscore_does_not_depend_on_the_batch(slake, monkeypatch):
    words = sorted({s.reference.answers[0] for s in slake.samples})
    shuffled = random.Random(0).sample(words, len(words))
    pairs = list(zip(words, shuffled, strict=True))[:150]
    together = bertscore.bertscore_f1(pairs)
    assert bertscore.bertscore_f1(list(reversed(pairs))) == list(reversed(together))  # from memory
    monkeypatch.setattr(bertscore, "_known", {})
    monkeypatch.setattr(bertscore, "CHUNK", 7)
    assert bertscore.bertscore_f1(pairs) == pytest.approx(together, abs=2e-6)


def test_bertscore_of_empties_special_tokens_and_identical_texts():
    odd = [("", "x"), (" ", "x"), ("x", ""), ("", ""), ("\u200b", "x"), ("[SEP] [SEP]", "[CLS]"), ("lung", "lung")]
    assert bertscore.bertscore_f1(odd) == [0, 0, 0, 0, 0, 0, 1]
    assert bertscore.bertscore_f1([]) == []


def test_bertscore_forgets_rather_than_grows(monkeypatch):
    monkeypatch.setattr(bertscore, "_known", {})
    monkeypatch.setattr(bertscore, "REMEMBERED", 2)
    first = bertscore.bertscore_f1([("lung", "liver"), ("lung", "heart")])
    assert bertscore.bertscore_f1([("lung", "liver"), ("lung", "brain")])[0] == pytest.approx(first[0], abs=2e-6)
    assert len(bertscore._known) == 2


# --- several samples a question -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "correct", "k", "expected"),
    [(1, 1, 1, 1.0), (1, 0, 1, 0.0), (10, 3, 1, 0.3), (10, 3, 5, 11 / 12), (5, 1, 5, 1.0), (200, 1, 100, 0.5), (10, 8, 3, 1.0)],
)
def test_pass_at_k(n, correct, k, expected):
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)
    assert pass_at_k(n, correct, k) == pytest.approx(1 - math.comb(n - correct, k) / math.comb(n, k), abs=1e-12)


def test_pass_at_k_is_the_mean_over_all_choices_of_k():
    from itertools import combinations

    right = [1, 0, 0, 1, 0, 0, 0]
    for k in range(1, 8):
        drawn = [max(c) for c in combinations(right, k)]
        assert pass_at_k(7, 2, k) == pytest.approx(sum(drawn) / len(drawn), abs=1e-12)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4), (0, 0, 1)])
def test_pass_at_k_refuses_the_impossible(n, correct, k):
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(n, correct, k)


@pytest.mark.parametrize(
    ("texts", "choices", "winner"),
    [
        (["Pneumonia", "no", "pneumonia."], None, "Pneumonia"),
        (["left", "right"], None, "left"),  # a tie goes to the first seen
        (["right", "left", "left ", "Right."], None, "right"),
        ([None, "", " ", "lung"], None, "lung"),  # an empty answer is no vote
        ([None, ""], None, None),
        ([], None, None),
        (["(B)", "C", "The answer is B", "1"], CHOICES, "(B)"),
        (["0", "D", "B"], CHOICES, "0"),  # a choice's words and its letter are one vote
    ],
)
def test_majority_vote(texts, choices, winner):
    assert majority_vote(texts, choices) == winner


def test_sampled():
    lung = Reference(answers=("lung",))
    groups = [
        ([says("lung"), says("liver"), says("Lung")], lung),
        ([says("liver"), says("lung"), says("liver")], lung),
        ([says(None), says("lung"), says(None, finish="error")], lung),  # two left: none for pass@3
        ([says(None, finish="error")] * 3, lung),
    ]
    out = sampled(groups, ks=(1, 3))
    assert out["pass@1"] == {"value": pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3), "n": 3}
    assert out["pass@3"] == {"value": 1.0, "n": 2}
    assert out["majority"] == {"value": pytest.approx(2 / 3), "n": 3}
    assert sampled([], ks=(1,)) == {"pass@1": {"value": None, "n": 0}, "majority": {"value": None, "n": 0}}


# --- CV-Bench -------------------------------------------------------------------------------------------------------

#: CV-Bench's test rows: task, source -> count.
CV_BENCH = {
    ("Count", "COCO"): 446,
    ("Count", "ADE20K"): 342,
    ("Relation", "COCO"): 359,
    ("Relation", "ADE20K"): 291,
    ("Depth", "Omni3D"): 600,
    ("Distance", "Omni3D"): 600,
}


def cv_rows(right) -> list[tuple[dict[str, str], int]]:
    """All 2,638 rows; `right` says how many of a (task, source) are right."""
    return [
        ({"task": task, "source": source, "type": "3D" if source == "Omni3D" else "2D"}, int(i < right[task, source]))
        for (task, source), n in CV_BENCH.items()
        for i in range(n)
    ]


#: The paper's Table 2: (Count, Relation, Depth, Distance, Total), in per cent.
TABLE_2 = {
    "RL only, 15,000": (69.54, 61.84, 66.50, 65.50, 66.03),
    "SFT, 500": (59.26, 52.61, 34.34, 38.33, 47.19),
    "SFT, 1,000": (59.90, 51.54, 46.67, 46.00, 51.67),
    "SFT, 5,000": (60.27, 65.54, 45.67, 42.83, 54.28),
    "RL w/ LoRA, 500": (58.74, 54.19, 38.00, 41.23, 48.04),
    "RL w/ LoRA, 1,000": (60.30, 57.23, 48.33, 47.47, 53.33),
    "RL w/ LoRA, 5,000": (63.89, 68.61, 52.84, 50.83, 59.04),
    "RL only, 5,000": (64.43, 65.65, 50.35, 55.71, 59.29),
}


@pytest.mark.parametrize(
    ("row", "part"), [(r, "column_mean" if "LoRA" in r else "total") for r in TABLE_2 if r != "RL only, 5,000"]
)
def test_the_papers_totals(row, part):
    """From the nearest counts of right rows: the columns, and the total that this row of the paper prints."""
    sizes = {"Count": 788, "Relation": 650, "Depth": 600, "Distance": 600}
    right = {t: round(p * n / 100) for (t, n), p in zip(sizes.items(), TABLE_2[row], strict=False)}
    out = cv_bench([({"task": t}, int(i < right[t])) for t, n in sizes.items() for i in range(n)])
    for task, printed in zip(sizes, TABLE_2[row], strict=False):
        assert 100 * out[task] == pytest.approx(printed, abs=0.07)
    assert 100 * out[part] == pytest.approx(TABLE_2[row][4], abs=0.03)
    other = {"total": "column_mean", "column_mean": "total"}[part]
    assert abs(100 * out[other] - TABLE_2[row][4]) > 0.15


def test_cv_bench_official():
    """2D averages the two sources, not the rows; overall averages 2D and 3D."""
    right = {("Count", "COCO"): 446, ("Count", "ADE20K"): 0, ("Relation", "COCO"): 359, ("Relation", "ADE20K"): 0,
             ("Depth", "Omni3D"): 600, ("Distance", "Omni3D"): 0}  # fmt: skip
    out = cv_bench(cv_rows(right))
    assert (out["COCO"], out["ADE20K"], out["Omni3D"]) == (1.0, 0.0, 0.5)
    assert (out["2D"], out["3D"], out["overall"]) == (0.5, 0.5, 0.5)
    assert (out["Count"], out["Relation"], out["Depth"], out["Distance"]) == (446 / 788, 359 / 650, 1.0, 0.0)
    assert out["total"] == (446 + 359 + 600) / 2638


@pytest.mark.parametrize("right", [0, 1])
def test_cv_bench_all_right_and_all_wrong(right):
    out = cv_bench(cv_rows({k: n * right for k, n in CV_BENCH.items()}))
    assert set(out.values()) == {float(right)}


def test_a_part_without_rows_is_none():
    out = cv_bench([({"task": "Count", "source": "COCO", "type": "2D"}, 0)])
    assert (out["Count"], out["COCO"], out["total"]) == (0.0, 0.0, 0.0)
    assert [k for k, v in out.items() if v is None] == [
        "2D", "3D", "overall", "ADE20K", "Omni3D", "Relation", "Depth", "Distance", "column_mean",
    ]  # fmt: skip
    assert set(cv_bench([]).values()) == {None}
    with pytest.raises(UserError, match="no aggregate named 'cvbench'") as e:
        aggregates.find("cvbench")
    assert e.value.hint == "did you mean 'cv_bench'?"


def test_cv_bench_on_its_real_rows(archives):
    """Every row's own answer gives 1.0 in every part; the counts are the benchmark's."""
    with open(archives / "cv_bench" / "test.jsonl", encoding="utf-8") as f:
        real = [json.loads(line) for line in f]
    references = [Reference(answers=(r["answer"],), choices=tuple(map(str, r["choices"]))) for r in real]
    for answer, expected in ((None, 0.0), ("own", 1.0)):
        got = METRICS["choice_accuracy"]([(says(r.answers[0] if answer else "zebra"), r) for r in references])
        out = cv_bench([(r, v) for r, v in zip(real, got, strict=True)])
        assert set(out.values()) == {expected}
    for (task, source), n in CV_BENCH.items():
        assert sum(r["task"] == task and r["source"] == source for r in real) == n


# --- scores.json ----------------------------------------------------------------------------------------------------


def stored(sample_id: str, answer: str, choices: tuple[str, ...] | None = None, **slices: str) -> dict:
    return {"id": sample_id, "slices": slices, "reference": Reference(answers=(answer,), choices=choices).model_dump(mode="json")}


ROWS = [
    stored("1", "(A)", CHOICES, task="Count", source="COCO", type="2D"),
    stored("2", "(B)", CHOICES, task="Count", source="ADE20K", type="2D"),
    stored("3", "(B)", CHOICES, task="Depth", source="Omni3D", type="3D"),
    stored("4", "left lung", task="Depth", source="Omni3D", type="3D"),
]
PREDICTIONS = {p.sample_id: p for p in (says("A", "1"), says("A", "2"), says(None, "3", "error"), says("the lung", "4"))}
VERDICTS = {
    "exact@1": {
        "1": Verdict(sample_id="1", judge="exact", final=1),
        "3": Verdict(sample_id="3", judge="exact", final=None, missing="x"),
    }
}


def test_scores_keep_their_keys():
    out = scores(ROWS, PREDICTIONS, VERDICTS, ["task"])
    assert (out["metrics"], out["aggregates"]) == ({}, {})
    assert out["judges"]["exact@1"]["final"] == 1.0
    assert out["generation"]["predictions"] == 4


def test_scores_with_metrics():
    out = scores(ROWS, PREDICTIONS, VERDICTS, iter(["task"]), metrics=["exact_match", "choice_accuracy", "token_f1"])["metrics"]
    assert list(out) == ["exact_match", "choice_accuracy", "token_f1"]
    em = out["exact_match"]
    assert (em["value"], em["n"], em["missing"]) == (pytest.approx(1 / 3), 3, 1)  # the failed one is missing, not 0
    assert em["slices"] == {
        "task": {"Count": {"value": 0.5, "n": 2, "missing": 0}, "Depth": {"value": 0.0, "n": 1, "missing": 1}}
    }
    choice = out["choice_accuracy"]
    assert (choice["value"], choice["n"], choice["missing"]) == (0.5, 2, 1)
    assert choice["slices"]["task"]["Depth"] == {"value": None, "n": 0, "missing": 1}
    assert choice["slices"]["right_choice"] == {  # the model that always says A
        "A": {"value": 1.0, "n": 1, "missing": 0},
        "B": {"value": 0.0, "n": 1, "missing": 1},
    }
    assert out["token_f1"]["value"] == pytest.approx((1 + 0 + 2 / 3) / 3)


def test_scores_with_an_aggregate():
    out = scores(ROWS, PREDICTIONS, VERDICTS, [], metrics=["choice_accuracy"], aggregate="cv_bench")["aggregates"]["cv_bench"]
    assert list(out) == ["exact@1", "exact_match", "choice_accuracy"]
    assert out["exact@1"]["parts"]["COCO"] == 1.0
    assert (out["exact@1"]["n"], out["exact@1"]["missing"]) == (1, 3)
    assert (out["exact_match"]["n"], out["exact_match"]["missing"]) == (3, 1)
    assert (out["exact_match"]["parts"]["2D"], out["exact_match"]["parts"]["3D"], out["exact_match"]["parts"]["overall"]) == (
        0.5,
        0,
        0.25,
    )
    assert out["choice_accuracy"]["parts"]["3D"] is None
    json.dumps(out, allow_nan=False)


def test_scores_refuse_unknown_names():
    with pytest.raises(UserError, match="no metric named"):
        scores(ROWS, PREDICTIONS, {}, [], metrics=["accuracy"])
    with pytest.raises(UserError, match="no aggregate named"):
        scores(ROWS, PREDICTIONS, {}, [], aggregate="mean")
