"""What people said as a judge: taken from studies and files, compared with judges, and used to calibrate them."""

import csv
import json
import math
import random

import numpy as np
import pytest

from benchmarks.calibration import made_up
from harness.contracts import JudgeOptions
from harness.errors import UserError
from harness.pipeline import make_judges, write_scores
from harness.runs import RunFolder
from judges.agreement import alpha
from judges.human import calibrating, drawing, exchange, labels
from judges.human.given import read
from judges.human.reliability import reliability
from judges.human.study import Label, StudyFolder, studies
from leaderboard.calibration import MIN_LABELS, TooFewLabels, calibrate, plan, rates
from tests.run_folders import make_run, make_samples


@pytest.fixture
def run(tmp_path):
    """240 rows on 60 images; the judge says 1, 0, 1, 0, ..."""
    folder = make_run(tmp_path / "runs", "model-a", "10" * 120, samples=make_samples(240, per_image=4))
    write_scores(folder, ["modality"], ["exact_match"], None)
    return folder


def truth(item):
    """What people would say of a row: the judge's word, but for every eighth."""
    i = int(item.sample_id[1:])
    return (1 - i % 2) if i % 8 else 1 - (1 - i % 2)


def studied(run, say, raters=("alice", "bob"), key="k", **options):
    """A study of the run, `say(rater, item, place)` what each rater says."""
    folder = StudyFolder(run.root / ".annotations" / key)
    folder.write(drawing.draw([run], raters, **({"rows": 100} | options)))
    study = folder.study
    for rater in study.order:
        for place in range(1, len(study.order[rater]) + 1):
            if (word := say(rater, study.item(rater, place), place)) is not None:
                folder.add(rater, Label(place=place, final=word, at=f"2025-01-01T00:00:{place:04d}"))
    return folder


def by(run, name):
    (judge,) = make_judges(name, JudgeOptions(runs=run.root))
    predictions = run.predictions()
    return judge, {v.sample_id: v for v in judge.judge([(s, predictions[s.id]) for s in run.questions()])}


# -- people as a judge --------------------------------------------------------------------------------------------------------


def test_people_are_a_judge_like_any_other(run, command):
    folder = studied(run, lambda rater, item, place: truth(item))
    judge, found = by(run, "human")
    assert judge.name == "human"
    drawn = {item.sample_id: truth(item) for item in folder.study.items}
    assert {i: v.final for i, v in found.items() if v.final is not None} == drawn
    assert {v.missing for v in found.values() if v.final is None} == {"no human verdict"}
    assert by(run, "human")[0].version == judge.version
    code, _, err = command("judge", run.path, "--judge", "human,human:alice")
    assert code == 0, err
    names = {name for name, _ in RunFolder(run.path).judges()}
    assert names == {"exact", "human", "human:alice"}


def test_a_tie_a_doubt_and_the_one_who_decides(run):
    shared = drawing.draw([run], ["alice", "bob"], rows=40, overlap=1.0).items
    tie, doubt, both = (item.sample_id for item in shared[:3])

    def say(rater, item, place):
        if item.sample_id == tie:
            return int(rater == "alice")
        if item.sample_id == doubt:
            return "cannot"
        return truth(item)

    studied(run, say, rows=40, overlap=1.0)
    judge, found = by(run, "human")
    assert (found[tie].final, found[tie].missing) == (None, "people disagree: 1 say 1, 1 say 0")
    assert (found[doubt].final, found[doubt].missing) == (None, "people say that it cannot be judged")
    assert found[both].final is not None
    disputed = labels.disputed([run])
    assert [item.sample_id for item in disputed] == [tie]
    decides = StudyFolder(run.root / ".annotations" / "decides")
    decides.write(drawing.to_decide(disputed, "carol"))
    decides.add("carol", Label(place=1, final=0, at="2025-01-02"))
    after, decided = by(run, "human")
    assert decided[tie].final == 0
    assert after.version != judge.version
    assert not labels.disputed([run])
    # what they said is still theirs, and goes out whole
    assert sorted(row["annotator"] for row in exchange.export([run]) if row["sample_id"] == tie) == ["alice", "bob", "carol"]
    assert by(run, "human:alice")[1][tie].final == 1, "what she said is still hers"


def test_a_hidden_repeat_counts_for_nothing_but_agreement_with_oneself(run):
    folder = StudyFolder(run.root / ".annotations" / "k")
    study = drawing.draw([run], ["alice"], rows=100, repeats=0.1)
    again = study.repeats("alice")
    studied(run, lambda rater, item, place: 1 - truth(item) if place in again else truth(item), ["alice"], repeats=0.1)
    assert folder.study.repeats("alice") == again
    _, found = by(run, "human")
    assert all(found[i.sample_id].final == truth(i) for i in folder.study.items)
    (alice,) = reliability(run).raters
    assert (alice.n, alice.repeats, alice.itself.value) == (100, len(again), 0.0)


def test_nobody_is_no_judge(run, tmp_path):
    for name, words in (("human", "nobody has judged"), ("human:dora", "nobody called 'dora'")):
        with pytest.raises(UserError, match=words):
            make_judges(name, JudgeOptions(runs=run.root))


# -- files --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_what_people_said_goes_out_and_comes_back(run, tmp_path, command, ending):
    def say(rater, item, place):
        return "cannot" if place == 3 else truth(item) if rater == "alice" else 1

    studied(run, say, rows=40)
    _, before = by(run, "human")
    file = tmp_path / f"ward.{ending}"
    code, out, err = command("annotate", "export", run.path, "-o", file)
    assert code == 0, err
    (run.root / ".annotations").rename(tmp_path / "away")
    code, out, err = command("annotate", "import", file, run.path)
    assert code == 0, err
    assert "alice, bob taken in" in out
    assert "--drawn-at-random" in err
    assert {i: (v.final, v.missing) for i, v in by(run, "human")[1].items()} == {
        i: (v.final, v.missing) for i, v in before.items()
    }
    code, _, err = command("annotate", "import", file, run.path)
    assert "was taken in before" in err
    # a file is a judge without being taken in, too
    assert {i: v.final for i, v in by(run, f"human:{file}")[1].items()} == {i: v.final for i, v in before.items()}


def test_label_studios_own_exports(run, tmp_path):
    """As its JSON and JSON-MIN exports are documented: accounts as numbers or objects, cancelled work, choices as words."""
    ids = [s.id for s in run.questions()[:3]]
    full = [
        {
            "id": 7, "data": {"sample_id": ids[0], "question": "?"}, "predictions": [],
            "annotations": [
                {"id": 1, "completed_by": 3, "was_cancelled": False, "result": [
                    {"id": "a", "from_name": "final", "to_name": "text", "type": "choices", "value": {"choices": ["wrong"]}},
                    {"id": "b", "from_name": "comment", "to_name": "text", "type": "textarea", "value": {"text": ["vague"]}}]},
                {"id": 2, "completed_by": {"id": 4, "email": "dora@ward.example"}, "was_cancelled": True, "result": []},
                {"id": 3, "completed_by": {"id": 4, "email": "dora@ward.example"}, "result": [
                    {"from_name": "final", "to_name": "text", "type": "choices", "value": {"choices": ["0"]}}]},
            ],
        },
    ]  # fmt: skip
    flat = [{"id": 1, "sample_id": ids[1], "final": "1", "annotator": 3, "annotation_id": 9, "lead_time": 2.5}]
    for n, tasks in enumerate((full, flat)):
        (tmp_path / f"{n}.json").write_text(json.dumps(tasks))
    first = list(read(tmp_path / "0.json"))
    assert [(g.sample_id, g.final, g.annotator, g.comment) for g in first] == [
        (ids[0], 0, "3", "vague"),
        (ids[0], 0, "dora@ward.example", ""),
    ]
    assert [(g.sample_id, g.final, g.annotator) for g in read(tmp_path / "1.json")] == [(ids[1], 1, "3")]
    (tmp_path / "2.json").write_text("[1]")
    with pytest.raises(UserError, match="not Label Studio's JSON"):
        list(read(tmp_path / "2.json"))


def test_another_text_is_not_taken_in(run, tmp_path, command):
    file = tmp_path / "ward.csv"
    file.write_text("sample_id,final,text\nq0,1,yes\nq1,0,something else\nq9999,1,yes\n")
    code, out, err = command("annotate", "import", file, run.path, "--rater", "dora")
    assert (code, "1 verdict of dora" in out, "2 rows of the file are about no answer" in err) == (0, True, True)
    file.write_text("sample_id,final,text\nq1,0,something else\n")
    code, _, err = command("annotate", "import", file, run.path)
    assert code == 2
    assert "no verdict in the file is about an answer of these runs" in err


def test_no_cell_of_an_export_is_a_formula(run, tmp_path, command):
    studied(run, lambda rater, item, place: 1, ["alice"], rows=15)
    rows = exchange.export([run])
    rows[0]["comment"] = "=1+1"
    text = exchange.written(rows, tmp_path / "x.csv")
    assert next(row["comment"] for row in csv.DictReader(text.splitlines())) == "'=1+1"
    with pytest.raises(UserError, match="no such format"):
        exchange.written(rows, tmp_path / "x.xlsx")


# -- agreement ----------------------------------------------------------------------------------------------------------------


def test_krippendorffs_own_example():
    """Computing Krippendorff's alpha-reliability (2011), section A: ten units, binary, two observers: 0.095."""
    a, b = (0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)
    units = {str(i): [x, y] for i, (x, y) in enumerate(zip(a, b, strict=True))}
    found = alpha(units, {i: i for i in units})
    assert found.value == pytest.approx(0.095, abs=5e-4)
    assert found.low < found.value < found.high
    assert alpha(units | {"alone": [1]}, {i: i for i in [*units, "alone"]}) == found
    assert alpha({"1": [1, 1]}, {"1": "1"}).value is None


def test_three_raters_with_gaps_by_pairs():
    """The definition, counted pair by pair."""
    rng = random.Random(0)
    votes = {str(i): [rng.random() < 0.6 for _ in range(rng.choice((0, 1, 2, 3)))] for i in range(80)}
    votes = {i: [int(v) for v in vs] for i, vs in votes.items()}
    told = [vs for vs in votes.values() if len(vs) > 1]
    n = sum(map(len, told))
    observed = sum((x != y) / (len(vs) - 1) for vs in told for k, x in enumerate(vs) for m, y in enumerate(vs) if k != m) / n
    every = [v for vs in told for v in vs]
    expected = sum(x != y for k, x in enumerate(every) for m, y in enumerate(every) if k != m) / (n * (n - 1))
    assert alpha(votes, {i: i for i in votes}).value == pytest.approx(1 - observed / expected)


def test_agreement_of_people_and_of_judges_with_them(run, command):
    studied(run, lambda rater, item, place: truth(item) if rater == "alice" else 1, rows=100, overlap=0.5)
    code, out, err = command("agreement", run.path, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert [(r["name"], r["right"]["value"] == 1) for r in found["raters"]] == [("alice", False), ("bob", True)]
    (both,) = found["pairs"]
    assert both["found"]["n"] == found["several"] == 50
    (judge,) = found["judges"]
    people = {i: v.final for i, v in by(run, "human")[1].items() if v.final is not None}
    said = {i: v.final for i, v in run.verdicts("exact", "1").items()}
    right = [i for i, v in people.items() if v == 1]
    assert judge["sensitivity"]["value"] == pytest.approx(sum(said[i] for i in right) / len(right))
    code, out, _ = command("agreement", run.path)
    assert "Krippendorff's alpha over all raters" in out
    assert "harness annotate adjudicate" in out
    code, out, err = command("agreement", run.path, "--by", "modality", "--json")
    parts = json.loads(out)
    assert [p["slice"] for p in parts] == [{"modality": "CT"}, {"modality": "MRI"}]
    assert sum(p["rows"] for p in parts) == found["rows"]
    code, _, err = command("agreement", run.path, "--by", "modalty")
    assert (code, "did you mean" in err) == (2, True)


# -- calibration --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "score", "sensitivity", "specificity"),
    [(148, 0.6, 0.92, 0.78), (60, 0.6, 0.92, 0.78), (148, 0.95, 0.92, 0.78), (148, 0.6, 0.5, 0.5)],
)
def test_its_intervals_hold_and_are_narrower(n, score, sensitivity, specificity):
    rng = np.random.default_rng(n)
    found = [calibrate(*made_up(rng, n, score, sensitivity, specificity)) for _ in range(600)]
    covered = sum(c.calibrated.low <= score <= c.calibrated.high for c in found) / 600
    assert 0.93 <= covered <= 0.975
    width = [np.mean([i.high - i.low for i in part]) for part in ([c.calibrated for c in found], [c.people for c in found])]
    assert width[0] < width[1]
    bias = np.mean([c.calibrated.value for c in found]) - score
    assert abs(bias) < 4 * np.std([c.calibrated.value for c in found]) / math.sqrt(600)
    if sensitivity == 0.92 and score == 0.6:
        assert width[0] < 0.8 * width[1]
        # the judge alone is wrong, and sure of it
        assert np.mean([c.judge.low <= score <= c.judge.high for c in found]) < 0.9


def test_all_rows_labelled_is_what_people_say_and_a_perfect_judge_is_believed():
    rng = np.random.default_rng(1)
    judged, given, weights, clusters = made_up(rng, 1056, 0.6, 0.8, 0.7)
    found = calibrate(judged, given, weights, clusters)
    assert found.calibrated.value == pytest.approx(found.people.value)
    judged, given, weights, clusters = made_up(rng, 100, 0.6, 1.0, 1.0)
    found = calibrate(judged, given, weights, clusters)
    assert found.trust == pytest.approx(1.0)
    assert found.calibrated.value == pytest.approx(found.judge.value)
    assert found.calibrated.high - found.calibrated.low == pytest.approx(found.judge.high - found.judge.low, rel=0.1)
    assert (found.sensitivity.value, found.specificity.value) == (1.0, 1.0)


def test_weights_undo_a_stratified_draw():
    """Half of the labels from a tenth of the rows, in which everything is wrong."""
    ids = [str(i) for i in range(1000)]
    y = {i: int(int(i) >= 100) for i in ids}
    drawn = [*ids[:50], *ids[100:150]]
    weights = {i: 2.0 if int(i) < 100 else 18.0 for i in drawn}
    judged = dict.fromkeys(ids, 1)
    found = calibrate(judged, {i: y[i] for i in drawn}, weights, {i: i for i in ids})
    assert found.calibrated.value == pytest.approx(0.9)
    assert found.people.value == pytest.approx(0.9)


def test_too_few_labels_are_refused():
    rng = np.random.default_rng(1)
    judged, given, weights, clusters = made_up(rng, MIN_LABELS - 1, 0.6, 0.9, 0.8)
    with pytest.raises(TooFewLabels, match="59 rows"):
        calibrate(judged, given, weights, clusters)
    assert rates({"a": 1}, {"a": 1}, {"a": "x"})[1] is None


def test_the_plan_is_what_comes_of_it():
    rng = np.random.default_rng(2)
    found = [calibrate(*made_up(rng, 148, 0.6, 0.92, 0.78)) for _ in range(200)]
    (expected,) = plan([148], 1056, score=0.6, sensitivity=0.92, specificity=0.78, images=96, icc=0.15)
    for half, intervals in ((expected.people, [c.people for c in found]), (expected.calibrated, [c.calibrated for c in found])):
        assert half == pytest.approx(np.mean([i.high - i.low for i in intervals]) / 2, rel=0.06)


def test_a_run_is_calibrated_and_the_leaderboard_shows_it(run, command):
    studied(run, lambda rater, item, place: truth(item))
    code, out, err = command("calibrate", run.path, "--judge", "exact", "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["labels"] == 100
    assert found["calibrated"]["low"] < found["calibrated"]["value"] < found["calibrated"]["high"]
    truths = [truth(type("Row", (), {"sample_id": f"q{i}"})) for i in range(240)]
    assert found["calibrated"]["low"] <= sum(truths) / 240 <= found["calibrated"]["high"]
    kept = RunFolder(run.path).card().judges["exact@1"]["calibrated"]
    assert kept["calibrated"] == found["calibrated"]
    code, out, _ = command("leaderboard", "--runs", run.root, "--judge", "exact", "--json")
    (cell,) = json.loads(out)["cells"]
    assert cell["metrics"]["calibrated"] == found["calibrated"]["value"]
    code, out, _ = command("leaderboard", "--runs", run.root, "--judge", "exact", "--group-by", "trainer")
    assert "calibrated" in out


def test_what_was_not_drawn_at_random_calibrates_nothing(run, command, tmp_path):
    code, _, err = command("calibrate", run.path, "--judge", "exact")
    assert (code, "no rows of it were drawn at random for people" in err) == (2, True)
    studied(run, lambda rater, item, place: truth(item), rows=30)
    code, _, err = command("calibrate", run.path, "--judge", "exact")
    assert code == 2
    assert "30 rows with a human verdict are too few" in err
    assert "30 more at least" in err
    file = tmp_path / "ward.csv"
    file.write_text("sample_id,final\n" + "".join(f"q{i},1\n" for i in range(100)))
    assert command("judge", run.path, "--judge", f"human:{file}")[0] == 0
    code, _, err = command("calibrate", run.path, "--judge", "exact", "--human", "human:ward")
    assert (code, "were these rows drawn at random?" in err) == (2, True)
    code, out, err = command("calibrate", run.path, "--judge", "exact", "--human", "human:ward", "--drawn-at-random")
    assert code == 0, err
    assert "against people: sensitivity 50.0" in out


def test_only_a_judge_of_all_rows_is_calibrated(run, command):
    """Which rows it judged may be those that people judged, and then it seems to know."""
    studied(run, lambda rater, item, place: truth(item))
    assert command("judge", run.path, "--judge", "human")[0] == 0
    code, _, err = command("calibrate", run.path, "--judge", "human")
    assert (code, "people are what a judge is calibrated by" in err) == (2, True)
    verdicts = run.verdicts("exact", "1")
    drawn = {i.sample_id for _, study in studies(run.root) for i in study.items}
    run.add_verdicts("half", "1", [v.model_copy(update={"judge": "half"}) for i, v in verdicts.items() if i in drawn])
    code, _, err = command("calibrate", run.path, "--judge", "half")
    assert (code, "half has judged 100 of 240 rows" in err) == (2, True)


def calibrated(run):
    return calibrating.calibrate(run, "exact", "1")[0]


def test_strata_are_weighed_by_what_was_labelled_of_them(run):
    """Several draws, and rows that nobody could judge: each stratum stands for itself. CT is right, MRI wrong, half of each."""
    kind = {s.id: s.slices["modality"] for s in run.questions()}

    def say(rater, item, place):
        return int(kind[item.sample_id] == "CT")

    way = {"sampling": "stratified:modality"}
    studied(run, say, rows=90, **way)
    assert calibrated(run).people.value == pytest.approx(0.5)
    studied(run, lambda r, i, p: "cannot" if say(r, i, p) and p % 2 else say(r, i, p), key="k2", seed=1, **way)
    studied(run, say, key="k3", seed=2, rows=40, **way)
    found, record = calibrating.calibrate(run, "exact", "1")
    assert found.people.value == pytest.approx(0.5)
    assert "taken to be like the others of their stratum" in " ".join(record["notes"])


def test_only_words_said_in_the_random_draw_count(run):
    """A study of disputed rows, and another run's, judge rows that the draw has not come to yet."""
    wrong = {s.id for s in run.questions()[:60]}
    studied(run, lambda r, i, place: int(i.sample_id not in wrong) if place <= 80 else None, ["alice"], rows=240, repeats=0)
    before = calibrated(run)
    assert before.labels == 80
    run.add_verdicts(
        "other", "1", [v.model_copy(update={"judge": "other", "final": 0}) for v in run.verdicts("exact", "1").values()]
    )
    studied(run, lambda r, i, place: 0, ["bob"], key="k2", sampling="disagreement", rows=200)
    after, record = calibrating.calibrate(run, "exact", "1")
    assert (after.people, after.labels) == (before.people, before.labels)
    assert "that people judged were drawn otherwise and are left out" in " ".join(record["notes"])


def test_a_run_that_was_renamed_keeps_its_draw(run, tmp_path):
    studied(run, lambda rater, item, place: truth(item) if rater == "alice" else 1)
    before = calibrated(run)
    other = run.path.with_name("slake-ffffffff")
    run.path.rename(other)
    assert calibrated(RunFolder(other)).calibrated == before.calibrated
    assert labels.disputed([RunFolder(other)])


def test_a_calibration_of_yesterday_is_not_shown(run, command):
    folder = studied(run, lambda rater, item, place: truth(item))
    assert command("calibrate", run.path, "--judge", "exact")[0] == 0
    shown = command("leaderboard", "--runs", run.root, "--judge", "exact")[1]
    assert "calibrated" in shown
    folder.add("alice", Label(place=1, final=0, at="2026"))
    (cell,) = json.loads(command("leaderboard", "--runs", run.root, "--judge", "exact", "--json")[1])["cells"]
    assert (cell["metrics"], cell["stale_calibration"]) == ({}, True)
    shown = " ".join(command("leaderboard", "--runs", run.root, "--judge", "exact")[1].split())
    assert "was calibrated before labels" in shown


def test_an_answer_that_is_gone_is_a_drawn_row_without_a_verdict(run):
    folder = studied(run, lambda rater, item, place: truth(item))
    lines = (run.path / "predictions.jsonl").read_text().splitlines(keepends=True)
    gone = folder.study.items[0].sample_id
    (run.path / "predictions.jsonl").write_text("".join(line for line in lines if json.loads(line)["sample_id"] != gone))
    found = calibrated(run)
    assert found.labels == 99
    assert found.judge.n == 239


def test_a_later_word_of_one_rater_stands_in_place_of_the_first(run):
    studied(run, lambda rater, item, place: 1, ["alice"], rows=40, repeats=0)
    again = StudyFolder(run.root / ".annotations" / "k2")
    again.write(drawing.draw([run], ["alice"], rows=40, repeats=0))
    for place in range(1, 41):
        again.add("alice", Label(place=place, final="cannot", at=f"2026-01-01T00:00:{place:02d}"))
    (alice,) = reliability(run).raters
    assert (alice.n, alice.cannot) == (40, 40)


def test_more_labels_take_the_place_of_a_runs_human_verdicts(run, command):
    studied(run, lambda rater, item, place: truth(item) if place <= 20 else None, ["alice"])
    assert command("judge", run.path, "--judge", "human")[0] == 0
    studied(run, lambda rater, item, place: truth(item), ["alice"], key="k2", seed=5)
    assert command("judge", run.path, "--judge", "human")[0] == 0
    assert [name for name, _ in run.judges()] == ["exact", "human"]


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("Dr. Müller", "Jane"), {"Dr-Muller", "Jane"}),
        (("Doe, Jane", "bob"), {"Doe-Jane", "bob"}),
        ((" alice ", "bob"), {"alice", "bob"}),
        (("a.b@ward.example", "c@ward.example"), {"a-b", "c"}),
    ],
)
def test_annotators_of_a_file_get_names_that_can_be_typed(run, tmp_path, command, names, called):
    file = tmp_path / "ward.csv"
    with open(file, "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["sample_id", "final", "annotator"])
        rows.writerows([f"q{i}", 1, names[i % 2]] for i in range(6))
    code, _, err = command("annotate", "import", file, run.path)
    assert code == 0, err
    assert set(labels.raters(run.root)) == called
    assert by(run, f"human:{min(called)}")


def test_annotators_who_would_be_one_are_refused(run, tmp_path, command):
    file = tmp_path / "ward.csv"
    file.write_text("sample_id,final,annotator\nq0,1,a@x.example\nq0,0,a@y.example\n")
    code, _, err = command("annotate", "import", file, run.path)
    assert (code, "'a@x.example' and 'a@y.example' would both be called a" in err) == (2, True)


def test_one_person_and_one_row_with_two_words_is_refused_whatever_text_is_named(tmp_path):
    file = tmp_path / "ward.csv"
    file.write_text("sample_id,final,annotator,text\nq1,1,fay,yes\nq1,0,fay,\n")
    with pytest.raises(UserError, match="'fay' says final 0 of 'q1', and 1 in line 2"):
        list(read(file))


def test_a_file_that_says_nothing_is_not_taken_in(run, tmp_path, command):
    file = tmp_path / "ward.csv"
    file.write_text("sample_id,final\nq0,\nq1,\n")
    code, _, err = command("annotate", "import", file, run.path)
    assert (code, "no verdict in the file is about" in err) == (2, True)
    assert not (run.root / ".annotations").exists()


def test_runs_of_two_folders_are_not_mixed(run, tmp_path, command):
    other = make_run(tmp_path / "elsewhere", "model-b", "10" * 120, samples=make_samples(240, per_image=4))
    studied(run, lambda rater, item, place: 1)
    code, _, err = command("annotate", "export", run.path, other.path, "-o", tmp_path / "x.csv")
    assert (code, "different folders of runs" in err) == (2, True)


def test_a_run_may_be_named_from_where_one_stands(run, command, monkeypatch):
    studied(run, lambda rater, item, place: truth(item))
    monkeypatch.chdir(run.path.parent)
    code, _, err = command("calibrate", run.path.name, "--judge", "exact")
    assert code == 0, err


def test_stratified_draws_near_the_edge_hold():
    """Two strata of very different weight, the few errors mostly in the lighter one."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        right = np.concatenate([rng.random(100) < 0.77, rng.random(900) < 0.97]).astype(int)
        says = np.where(rng.random(1000) < 0.9, right, 1 - right)
        drawn = [*rng.choice(100, 50, replace=False), *(100 + rng.choice(900, 50, replace=False))]
        weights = {str(i): 2.0 if i < 100 else 18.0 for i in drawn}
        found = calibrate(
            {str(i): int(says[i]) for i in range(1000)}, {str(i): int(right[i]) for i in drawn}, weights,
            {str(i): i for i in range(1000)},
        )  # fmt: skip
        held += found.calibrated.low <= 0.95 <= found.calibrated.high
    assert held / 300 >= 0.93


def test_labels_that_are_all_the_same_count_by_image():
    ids = [str(i) for i in range(1000)]
    found = calibrate(
        dict.fromkeys(ids, 1), dict.fromkeys(ids[:100], 1), dict.fromkeys(ids[:100], 10.0), {i: int(i) // 10 for i in ids}
    )
    assert found.calibrated == found.people
    assert found.people.low < 0.75, "ten images"


def test_a_certificate_carries_what_people_found(run, command):
    assert command("judges", "test", "exact", "--rows", "5", "--runs", run.root, "--data", "bundled")[0] == 0
    from judges import certificate
    from judges.exact import ExactJudge

    studied(run, lambda rater, item, place: truth(item))
    found, record = calibrating.calibrate(run, "exact", "1")
    calibrating.keep(run, "exact", "1", record)  # this run's exact judge is of another version: its certificate is not that one's
    assert certificate.load(run.root, "exact", ExactJudge.version).people == {}
    made = certificate.load(run.root, "exact", ExactJudge.version).model_copy(update={"version": "1"})
    certificate.save(made, run.root)
    calibrating.keep(run, "exact", "1", record)
    told = certificate.load(run.root, "exact", "1")
    assert told.people[drawing.run_name(run)]["sensitivity"]["value"] == found.sensitivity.value
    assert "against people on model-a/" in told.summary()


def test_labels_are_planned(command):
    code, out, _ = command("power", "--human", "--n", "1061", "--images", "96", "--icc", "0.15", "--json")
    widths = [(p["labels"], p["calibrated"] < p["people"]) for p in json.loads(out)["plan"]]
    assert widths == [(n, True) for n in (60, 100, 150, 200, 300, 500)]
    code, _, err = command("power", "--human", "--n", "10")
    assert (code, "60 or more" in err) == (2, True)
