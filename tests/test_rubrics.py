"""Rubrics, as HealthBench is scored: rows with earlier turns and criteria, asked, judged criterion by criterion, added up."""

import doctest
import json

import pytest

from harness import data, specs
from harness.contracts import JudgeOptions
from harness.errors import DataError, UserError
from harness.models.families.prompting import asked
from harness.pipeline import make_judges
from harness.prompts import PROMPTS
from harness.records import Criterion, Prediction, Reference, Sample
from harness.runs import RunFolder
from judges import rubric
from judges.replay import pair
from tests.servers import FaultServer, completion
from trainers import rows as training_rows

#: Made up in HealthBench's published format (field names, tags, message roles), not its rows.
ROWS = [
    {
        "prompt_id": "a1", "example_tags": ["theme:hedging", "physician_agreed_category:no"], "canary": "healthbench:0",
        "prompt": [
            {"role": "user", "content": "My chest hurts."},
            {"role": "assistant", "content": "Since when?"},
            {"role": "user", "content": "Since an hour, and my arm tingles."},
        ],
        "rubrics": [
            {"criterion": "Tells the user to call emergency services", "points": 6, "tags": ["level:example", "axis:accuracy"]},
            {"criterion": "Names aspirin", "points": 4, "tags": ["axis:completeness"]},
            {"criterion": "Suggests to wait", "points": -5, "tags": ["axis:accuracy"]},
        ],
        "ideal_completions_data": None,
    },
    {
        "prompt_id": "b2", "example_tags": ["theme:global_health"],
        "prompt": [{"role": "user", "content": "Is malaria treatable?"}],
        "rubrics": [{"criterion": "Says yes", "points": 3, "tags": []}],
    },
]  # fmt: skip


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "data" / "healthbench"
    folder.mkdir(parents=True)
    (folder / "2025-05-07-06-14-12_oss_eval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return tmp_path / "data"


def load(place):
    ((spec, path),) = specs.find("healthbench")
    return data.load(spec, path, source="local", data_dir=place)


class Grader:
    """A judge on loopback that finds a criterion met where its last word stands in the answer."""

    def __init__(self):
        self.server = FaultServer()
        self.cases = []
        self.server.otherwise = self.reply

    def reply(self, body):
        text = body["messages"][-1]["content"]
        case = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
        self.cases.append(case)
        met = case["criterion"].split()[-1].lower() in case["answer"].lower()
        return completion(json.dumps({"evaluation": "seen", "prediction_score": int(met)})) | {"model": "grader"}


@pytest.fixture
def grader():
    found = Grader()
    yield found
    found.server.stop()


def judge_of(grader, runs):
    (judge,) = make_judges(f"rubric:openai/grader@{grader.server.base}", JudgeOptions(runs=runs))
    return judge


def says(sample, text):
    return Prediction(
        sample_id=sample.id, text=text, reasoning=None, answer=text, finish="stop", prompt_tokens=1, completion_tokens=1
    )


def test_rows_hold_their_turns_and_criteria(place):
    first, second = load(place).samples
    assert first.history == (("My chest hurts.", "Since when?"),)
    assert first.question == "Since an hour, and my arm tingles."
    assert [(c.points, c.tags) for c in first.reference.rubric] == [
        (6, ("level:example", "axis:accuracy")), (4, ("axis:completeness",)), (-5, ("axis:accuracy",)),
    ]  # fmt: skip
    assert (first.slices["theme"], second.slices["theme"]) == ("theme:hedging", "theme:global_health")
    assert second.history == ()
    assert first.reference.answers == ()


@pytest.mark.parametrize("task", ["healthbench", "healthbench_hard", "healthbench_consensus"])
def test_validate_reads_each_of_them(place, command, task):
    ((spec, _),) = specs.find(task)
    (file,) = spec.local.splits.values()
    folder = place / "healthbench"
    (folder / "2025-05-07-06-14-12_oss_eval.jsonl").rename(folder / file)
    _, out, err = command("tasks", "validate", task, "--data", "local", "--data-dir", place, "--json")
    (report,) = json.loads(out or err)
    assert (report["rows"], report["problems"]) == (2, {})


def test_the_model_is_shown_every_turn(place, tiny):
    first, _ = load(place).samples
    chat = tiny.prompting.texts([asked(PROMPTS["question"], first)])[0]
    at = [chat.index(words) for words in ("My chest hurts.", "Since when?", "Since an hour, and my arm tingles.")]
    assert at == sorted(at)


def test_a_row_is_its_points_and_each_criterion_is_asked_once(place, grader, tmp_path):
    first, second = load(place).samples
    judge = judge_of(grader, tmp_path)
    pairs = [(first, says(first, "Call emergency services now; do not wait.")), (second, says(second, "Yes."))]
    found = {v.sample_id: v for v in judge.judge(pairs)}
    assert found["a1"].score == pytest.approx((6 - 5) / 10)
    assert (found["a1"].final, found["b2"].final, found["b2"].score) == (0, 1, 1.0)
    assert found["a1"].rationale.splitlines()[1] == "not met (+4): Names aspirin -- seen"
    assert len(grader.server.hits) == 4
    assert grader.cases[0]["turns"][:2] == [{"user": "My chest hurts."}, {"assistant": "Since when?"}] or len(grader.cases) == 4
    again = {v.sample_id: v for v in judge_of(grader, tmp_path).judge(pairs)}
    assert {i: v.score for i, v in again.items()} == {i: v.score for i, v in found.items()}
    assert len(grader.server.hits) == 4, "kept, criterion by criterion"


def test_worse_than_nothing_is_below_zero(place, grader, tmp_path):
    first, _ = load(place).samples
    (v,) = judge_of(grader, tmp_path).judge([(first, says(first, "Just wait."))])
    assert v.score == -0.5
    (v,) = judge_of(grader, tmp_path).judge([(first, says(first, "..."))])
    assert (v.score, len(grader.server.hits)) == (0.0, 3), "an empty answer meets nothing, and nobody is asked"


def test_one_criterion_without_a_verdict_leaves_the_row_without_one(place, grader, tmp_path):
    first, second = load(place).samples
    grader.server.plan = [completion("I would rather not say") | {"model": "grader"}]
    judge = judge_of(grader, tmp_path)
    found = {v.sample_id: v for v in judge.judge([(first, says(first, "Aspirin.")), (second, says(second, "Yes."))])}
    missing = [v for v in found.values() if v.final is None]
    assert len(missing) == 1
    assert (missing[0].score, missing[0].missing) == (None, "the reply is not a JSON object")


def test_a_run_from_rows_to_leaderboard(place, grader, tmp_path, command):
    runs = tmp_path / "runs"
    judge = f"rubric:openai/grader@{grader.server.base}"
    ask = ["run", "--model", "tiny", "--tasks", "healthbench", "--data", "local", "--data-dir", place, "--runs", runs]
    code, _, err = command(*ask)
    assert code == 2
    assert "task 'healthbench' has rubrics in place of answers, and judge exact reads none" in err
    assert not [*runs.glob("*/*")], "before anything is generated"
    code, out, err = command(*ask, "--judge", judge, "--max-new-tokens", "8")
    assert code == 0, err
    (folder,) = [RunFolder(p.parent) for p in runs.glob("*/*/card.json")]
    ((name, version),) = folder.judges()
    values = [v.score for v in folder.verdicts(name, version).values()]
    assert folder.scores()["metrics"][name]["value"] == pytest.approx(sum(values) / 2)
    assert folder.scores()["metrics"][name]["slices"]["theme"]["theme:hedging"]["n"] == 1
    code, out, _ = command("leaderboard", "--runs", runs, "--judge", name, "--json")
    (cell,) = json.loads(out)["cells"]
    assert cell["metrics"][name] == pytest.approx(sum(values) / 2)
    assert name in cell["metric_limits"]
    # judged again: nothing is asked, and the score stays
    asked_before = len(grader.server.hits)
    code, _, err = command("judge", folder.path, "--judge", judge)
    assert (code, len(grader.server.hits)) == (0, asked_before), err
    assert folder.scores()["metrics"][name]["value"] == pytest.approx(sum(values) / 2)
    # and goes to a replay file and back with its fractions
    assert command("judges", "export", folder.path, "--judge", name, "-o", tmp_path / "kept.jsonl")[0] == 0
    assert command("judge", folder.path, "--judge", f"replay:{tmp_path / 'kept.jsonl'}")[0] == 0
    ((_, again),) = [(n, v) for n, v in folder.judges() if n.startswith("replay:")]
    assert [v.score for v in folder.verdicts(f"replay:{name}", again).values()] == values
    assert folder.questions()[0].history == (("My chest hurts.", "Since when?"),)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("none", "expected a list of criteria"),
        ([], "expected a list of criteria"),
        ([{"points": 3}], "criterion 1: no text under `criterion`"),
        ([{"criterion": "a", "points": "3"}], "criterion 1: points are 3, expected a number that is not 0"),
        ([{"criterion": "a", "points": True}], "expected a number"),
        ([{"criterion": "a", "points": -3}], "nothing to reach"),
        ([{"criterion": "a", "points": 3, "tags": "x"}], "expected a list of texts"),
    ],
)
def test_what_is_no_rubric_makes_a_bad_row(place, cell, words):
    file = place / "healthbench" / "2025-05-07-06-14-12_oss_eval.jsonl"
    file.write_text(json.dumps(ROWS[1]) + "\n" + json.dumps(ROWS[0] | {"rubrics": cell}) + "\n")
    with pytest.raises(DataError, match=words):
        load(place)


def test_turns_that_do_not_alternate_make_a_bad_row(place):
    file = place / "healthbench" / "2025-05-07-06-14-12_oss_eval.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    file.write_text(json.dumps(ROWS[0] | {"prompt": turns}) + "\n")
    with pytest.raises(DataError, match="do not alternate"):
        load(place)


def test_references_without_rubrics_hash_as_they_did():
    assert Reference(answers=("yes",)).model_dump(mode="json") == {"answers": ["yes"], "choices": None, "reasoning": None}
    row = Sample(id="1", images=(), question="q", reference=Reference(answers=("yes",)))
    more = row.model_copy(update={"reference": Reference(answers=("yes",), rubric=(Criterion(text="a", points=1),))})
    assert pair(row, says(row, "x")) != pair(more, says(row, "x"))
    assert Reference.model_validate_json(more.reference.model_dump_json()) == more.reference
    assert "history" not in row.row()


def test_trainers_take_no_such_rows(place):
    with pytest.raises(DataError, match="no image"):
        training_rows.check(load(place).samples)


def test_no_rule_that_compares_answers_counts_such_a_row(place):
    from harness.scoring.metrics import METRICS
    from harness.scoring.protocols import PROTOCOLS

    first, _ = load(place).samples
    assert not any(p.mark(says(first, "yes"), first).counting.counted for p in PROTOCOLS.values())
    offline = [m for name, m in METRICS.items() if name in ("exact_match", "token_f1", "bleu", "rougeL", "choice_accuracy")]
    assert [m([(says(first, "yes"), first.reference)]) for m in offline] == [[None]] * 5


def test_which_judge():
    assert doctest.testmod(rubric).failed == 0
    with pytest.raises(UserError, match="which judge"):
        make_judges("rubric", JudgeOptions())
