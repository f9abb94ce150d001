"""What others read from us, checked by their own schemas and programs; what we read from others, from files they wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import DataError, RunError, UserError
from harness.records import ImageRef, Reference, Sample
from harness.runs import RunFolder
from leaderboard.compare import compare_all
from leaderboard.exports import eee, read
from leaderboard.importing import import_log
from leaderboard.table import Cell, cells
from tests.run_folders import make_run

SCHEMAS = Path(__file__).parents[2] / "shared" / "schemas" / "every_eval_ever"
HOSTILE = '|<b>` "quoted"\n---\nname: x'


def run_cli(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.exception
    return result.stdout


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """12 questions about 6 images, the two about one image without a verdict, three with a verdict on the reasoning."""
    return make_run(tmp_path / "runs", "sft", "1101?.110110", reasoning="110", truncated=1)


def cell_of(run: RunFolder) -> Cell:
    (cell,) = cells([run.path.parent.parent])[0]
    return cell


def test_runs_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    unfinished = make_run(tmp_path, "a", "110---", finished=False)
    unjudged = make_run(tmp_path, "b", "......")
    damaged = make_run(tmp_path, "c", "110110")
    (damaged.path / "predictions.jsonl").write_text("nothing\n")
    for folder, message in (
        (unfinished.path, "not finished"),
        (unjudged.path, "no judge has judged it"),
        (damaged.path, "damaged line"),
        (tmp_path / "nothing", "no run folder"),
    ):
        with pytest.raises(UserError, match=message):
            read([folder])


# -- Every Eval Ever --------------------------------------------------------------------------------------------------


def exported(run: RunFolder, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    document = json.loads(run_cli("export", "eee", run.path, "--out", out, "--json"))
    (path,) = map(Path, document["written"])
    samples = path.with_name(f"{path.stem}_samples.jsonl")
    return json.loads(path.read_text()), [json.loads(line) for line in samples.read_text().splitlines()]


def test_every_eval_evers_schemas_accept_it(run: RunFolder, tmp_path: Path) -> None:
    if not SCHEMAS.is_dir():
        pytest.skip("Every Eval Ever's schemas are not on this machine")
    from jsonschema import Draft7Validator

    document, samples = exported(run, tmp_path / "out")
    by_model = {"model": "openai/gpt-4o-mini-2024-07-18", "prompt": "rarl-v2", "prompt_sha256": "ab12", "cost": None}
    run.write_card(run.card().model_copy(update={"judges": {"exact@1": by_model}}))
    by_llm, _ = exported(run, tmp_path / "by_llm")
    scoring = by_llm["evaluation_results"][0]["metric_config"]["llm_scoring"]
    assert scoring["judges"][0]["model_info"]["id"] == "openai/gpt-4o-mini-2024-07-18"
    assert scoring["input_prompt"] == "judge prompt rarl-v2 (sha256 ab12)"
    for name, instances in (("eval", [document, by_llm]), ("instance_level_eval", samples)):
        schema = Draft7Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))
        for instance in instances:
            assert [e.message for e in schema.iter_errors(instance)] == []


def test_it_holds_score_interval_judge_and_what_is_missing(run: RunFolder, tmp_path: Path) -> None:
    document, samples = exported(run, tmp_path / "out")
    cell = cell_of(run)
    final, reasoning = document["evaluation_results"]
    assert final["score_details"]["score"] == cell.value == 7 / 10
    limits = final["score_details"]["uncertainty"]["confidence_interval"]
    assert (limits["lower"], limits["upper"], limits["confidence_level"]) == (cell.low, cell.high, 0.95)
    assert limits["method"] == f"{cell.method}, clustered by image (5 images)"
    details = final["score_details"]["details"]
    assert (details["asked"], details["judged"], details["missing"]) == ("12", "10", "2")
    assert json.loads(details["missing_reasons"]) == {"not judged yet": 1, "the judge gave no verdict": 1}
    assert final["metric_config"]["additional_details"] == {"judge": "exact", "judge_version": "1"}
    assert "llm_scoring" not in final["metric_config"]
    assert reasoning["score_details"]["score"] == 2 / 3
    assert final["source_data"]["hf_repo"] == "BoKelvin/SLAKE"
    assert len(samples) == 10 + 3, "a line for each verdict; what is missing has none"
    scores: dict[str, float] = {}
    for s in samples:
        scores[s["evaluation_result_id"]] = scores.get(s["evaluation_result_id"], 0.0) + s["evaluation"]["score"]
    assert scores == {final["evaluation_result_id"]: 7, reasoning["evaluation_result_id"]: 2}


def test_samples_give_the_score_whatever_else_stands_in_the_lines(run: RunFolder, tmp_path: Path) -> None:
    """A torn verdict is not counted, a prediction with an odd number of tokens is."""
    with open(run.verdict_path("exact", "1"), "a") as f:
        f.write('{"sample_id":"q0","judge":"exact","final":0}')
    predictions = run.path / "predictions.jsonl"
    predictions.write_text(predictions.read_text().replace('"prompt_tokens":9', '"prompt_tokens":"x"', 1))
    document, lines = exported(run, tmp_path / "out")
    final = [x["evaluation"]["score"] for x in lines if x["evaluation_result_id"].endswith("/final")]
    (score,) = (
        r["score_details"]["score"] for r in document["evaluation_results"] if r["metric_config"]["metric_id"] == "accuracy"
    )
    assert len(final) == cell_of(run).n == 10
    assert sum(final) / len(final) == score == cell_of(run).value


def test_samples_that_do_not_give_the_score_are_refused(run: RunFolder, tmp_path: Path) -> None:
    (whole,) = read([run.path])
    predictions = run.path / "samples.jsonl"
    predictions.write_text("".join(predictions.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match="9 samples of final by exact, but the score is over 10 rows"):
        eee.write(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_samples_file_is_named_hashed_and_counted(run: RunFolder, tmp_path: Path) -> None:
    document, samples = exported(run, tmp_path / "out")
    detailed = document["detailed_evaluation_results"]
    content = (tmp_path / "out" / detailed["file_path"]).read_bytes()
    assert detailed["checksum"] == hashlib.sha256(content).hexdigest()
    assert detailed["total_rows"] == len(samples)
    again, _ = exported(run, tmp_path / "out")
    assert again["detailed_evaluation_results"]["file_path"] == detailed["file_path"], "exporting again replaces"
    assert len(list((tmp_path / "out").rglob("*.json"))) == 1


# -- the hub ----------------------------------------------------------------------------------------------------------


def test_the_hub_reads_its_model_index_back(run: RunFolder, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    text = run_cli("export", "model-index", run.path)
    card = ModelCard(f"---\n{text}---\n")
    (result,) = card.data.eval_results
    cell = cell_of(run)
    assert (card.data.model_name, result.dataset_type, result.metric_value) == ("sft", "BoKelvin/SLAKE", 70.0)
    assert result.metric_args["confidence_interval_95"] == [round(100 * x, 2) for x in (cell.low, cell.high)]  # type: ignore[operator]
    assert (result.metric_args["n"], result.metric_args["coverage"]) == (10, round(10 / 12, 4))


def test_the_hub_reads_eval_results_back(run: RunFolder, tmp_path: Path) -> None:
    from huggingface_hub import parse_eval_result_entries
    from ruamel.yaml import YAML

    make_run(tmp_path / "runs", "sft", "110110", task="my_own", fingerprint="mine")
    run_cli("export", "model-index", run.path.parent, "--eval-results", tmp_path / "repo", "--out", tmp_path / "index.yaml")
    (path,) = (tmp_path / "repo" / ".eval_results").iterdir()
    assert path.name == "slake.yaml", "a task that is not on the hub has no place there"
    (entry,) = parse_eval_result_entries(YAML(typ="safe").load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("BoKelvin/SLAKE", "slake", 70.0)
    assert "95 % interval" in entry.notes
    assert "bundled rows, 224 px" in entry.notes


def test_a_model_cards_section(run: RunFolder) -> None:
    cell = cell_of(run)
    text = run_cli("export", "model-card", run.path)
    limits = f"{100 * cell.low:.1f} – {100 * cell.high:.1f}"  # type: ignore[operator]
    assert text.startswith("## Evaluation\n")
    assert f"| slake (test) | 12 questions | exact@1 | 70.0 | {limits} | 10 | 5 | 83.3 % | bundled, 224 px |" in text
    assert "greedy, at most 16 new tokens" in text


@pytest.mark.parametrize("form", ["model-index", "model-card", "lm-eval-results"])
def test_one_models_runs_only(run: RunFolder, tmp_path: Path, form: str) -> None:
    other = make_run(tmp_path / "runs", "other", "110110110110")
    result = CliRunner().invoke(app, ["export", form, str(run.path), str(other.path)])
    assert isinstance(result.exception, UserError)
    assert "runs of sft and of other" in str(result.exception)


def test_a_hostile_name_stays_a_value(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = make_run(tmp_path / "runs", HOSTILE, "110110")
    card = ModelCard(f"---\n{run_cli('export', 'model-index', folder.path)}---\n")
    assert card.data.model_name == HOSTILE
    assert [r.metric_value for r in card.data.eval_results] == [round(100 * 4 / 6, 2)]


# -- lm-eval ----------------------------------------------------------------------------------------------------------


def test_lm_eval_prints_our_results_as_its_own(run: RunFolder) -> None:
    from lm_eval.utils import make_table

    document = json.loads(run_cli("export", "lm-eval-results", run.path))
    table = make_table(document)
    assert "|slake|" in table.replace(" ", "")
    error = document["results"]["slake"]["exact@1_stderr,none"]
    assert f"|exact@1|↑|0.7|±|{error:.4f}|" in table.replace(" ", "")
    assert document["harness"]["slake"]["exact@1"]["low"] == cell_of(run).low
    assert document["n-samples"]["slake"] == {"original": 12, "effective": 12}


YAML = """
task: toy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
metadata: {{version: 1.0}}
doc_to_text: "{{{{q}}}}"
"""
WRITES = """
output_type: generate_until
doc_to_target: "{{a}}"
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match}, {metric: bleu}]
"""
CHOOSES = """
output_type: multiple_choice
doc_to_choice: ["yes", "no"]
doc_to_target: "{{['yes', 'no'].index(a)}}"
metric_list: [{metric: acc}]
"""
ROWS = [{"q": f"Is {i} even?", "a": "no" if i % 2 else "yes", "picture": f"{i // 2}.png"} for i in range(8)]


@pytest.fixture(params=[WRITES, CHOOSES], ids=["writes", "chooses"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A per-sample file that lm-eval itself wrote, with its own dummy model."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (tmp_path / "toy.yaml").write_text(YAML.format(data=tmp_path / "rows.jsonl") + request.param)
    manager = TaskManager(include_path=tmp_path, include_defaults=False)
    found = simple_evaluate(model="dummy", tasks=["toy"], task_manager=manager, log_samples=True, bootstrap_iters=0)
    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    tracker.general_config_tracker.model_name_sanitized = "org__model"
    tracker.save_results_aggregated(results={k: v for k, v in found.items() if k != "samples"}, samples=found["samples"])
    tracker.save_results_samples("toy", found["samples"]["toy"])
    (path,) = (tmp_path / "theirs").rglob("samples_*.jsonl")
    return path


def test_lm_evals_log_becomes_a_run(log: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    metric = "exact_match" if "exact_match" in lines[0] else "acc"
    path = run_cli("import", "lm-eval", log, "--runs", tmp_path / "runs").strip()
    folder = RunFolder(Path(path))
    cell = cell_of(folder)
    assert (cell.task, cell.split, cell.model) == ("toy", "imported", "org__model (lm-eval)")
    assert (cell.judge, cell.judge_version, cell.n) == (f"lm_eval:{metric}", "imported", 8)
    assert cell.value == sum(row[metric] for row in lines) / 8
    assert [s["question"] for s in folder.samples()] == [r["q"] for r in ROWS]
    assert [s["reference"]["answers"] for s in folder.samples()] == [[r["a"]] for r in ROWS]
    if metric == "acc":
        assert {p.text for p in folder.predictions().values()} <= {"yes", "no"}, "the choice that was found likeliest"
    origin = json.loads((folder.path / "imported.json").read_text())
    assert origin["sha256"] == hashlib.sha256(log.read_bytes()).hexdigest()


def test_an_imported_run_is_comparable_with_itself_only(log: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    a = import_log(log, "lm-eval", runs, model="a")
    (tmp_path / log.name).write_bytes(log.read_bytes() + b"\n")
    text = log.read_text().replace('"doc_id": 0', '"doc_id": 0 ')
    (tmp_path / log.name).write_text(text)
    b = import_log(tmp_path / log.name, "lm-eval", runs, model="b")
    found, _ = cells([runs])
    assert len({c.comparable for c in found}) == 2
    with pytest.raises(UserError, match="cannot compare: prompt imported from"):
        compare_all([a.path, b.path])
    assert compare_all([a.path, b.path], across_prompts=True)[0].n == 8


def test_importing_again_changes_nothing_and_images_make_clusters(log: Path, tmp_path: Path) -> None:
    plain = import_log(log, "lm-eval", tmp_path / "runs")
    assert cell_of(plain).clusters == 8
    again = import_log(log, "lm-eval", tmp_path / "runs")
    assert again.path == plain.path
    assert cell_of(again).n == 8
    clustered = import_log(log, "lm-eval", tmp_path / "clustered", image_key="picture")
    assert cell_of(clustered).clusters == 4
    with pytest.raises(UserError, match="no key 'image'"):
        import_log(log, "lm-eval", tmp_path / "wrong", image_key="image")


def test_lmms_evals_log_becomes_a_run(tmp_path: Path) -> None:
    """Lines in the form of lmms-eval 0.7: no doc, an input, numbers beside dicts that are no verdicts."""
    wrote = "<think>so</think><answer>yes</answer>"
    rows = [
        {"doc_id": i, "target": "yes", "doc_hash": "x", "filtered_resps": [wrote if i % 3 else "no"],
         "input": f"question {i}", "exact_match": float(i % 3 > 0), "gpt_eval": {"score": 3}, "bleu": 0.3}
        for i in range(6)
    ]  # fmt: skip
    path = tmp_path / "org__model" / "20261101_101500_samples_slake_bench.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder = RunFolder(Path(run_cli("import", "lmms-eval", path, "--runs", tmp_path / "runs").strip()))
    cell = cell_of(folder)
    assert (cell.task, cell.model, cell.judge) == ("slake_bench", "org__model (lmms-eval)", "lmms_eval:exact_match")
    assert cell.value == 4 / 6
    prediction = folder.predictions()["1"]
    assert (prediction.reasoning, prediction.answer) == ("so", "yes")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataError, "empty"),
        ("no json\n", DataError, ":1: no line of a per-sample log"),
        ('{"results": {}}\n', DataError, ":1: no line of a per-sample log"),
        ('{"doc_id": 0, "target": "a", "filtered_resps": ["a"], "bleu": 0.5}\n', UserError, "no metric is 0 or 1 on every row"),
        ('{"doc_id": 0, "target": "a", "filtered_resps": ["a"], "filter": "none", "acc": 1}\n', UserError, "which task"),
        ('{"doc_id": 0, "target": "a", "filtered_resps": ["a"], "acc": 1, "doc": "s"}\n', DataError, ":1: 'doc'"),
        (
            '{"doc_id": 0, "target": "a", "filtered_resps": [[], []], "acc": 1,'
            ' "arguments": {"a": {"arg_1": "x"}, "b": {"arg_1": "y"}}}\n',
            DataError,
            ":1: 'doc', 'arguments'",
        ),
        (
            '{"doc_id": 0, "target": "a", "filtered_resps": ["a", "b"], "acc": 1, "doc": "s", "arguments": {"a": {}, "b": 5}}\n',
            DataError,
            ":1: 'doc', 'arguments'",
        ),
        ('{"doc_id": ' + "[" * 100_000 + "\n", DataError, ":1: no line of a per-sample log"),
        ('{"doc_id": 0, "target": "a", "filtered_resps": ["\\ud800"], "acc": 1}\n', DataError, ":1: no line of a per-sample log"),
        ('{"doc_id": 0, "target": "a", "filtered_resps": ["a"], "a b": 1, "a-b": 0}\n', UserError, "kept in one file"),
        ('{"doc_id": 0, "target": "a", "filtered_resps": ["a"], "acc": 1}\n' * 2, DataError, ":2: a second row about doc_id 0"),
    ],
)
def test_a_file_that_is_no_log_is_refused_before_anything_is_written(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    with pytest.raises(error, match=message):
        import_log(path, "lm-eval", tmp_path / "runs", task=None if "which task" in message else "toy")
    assert not (tmp_path / "runs").exists()


def test_the_filter_is_chosen_where_rows_were_read_in_several_ways(tmp_path: Path) -> None:
    rows = [
        {"doc_id": i, "target": "a", "filtered_resps": ["a"], "filter": name, "acc": int(name == "loose")}
        for i in range(4)
        for name in ("strict", "loose")
    ]
    path = tmp_path / "samples_toy_2026-01-01T00-00-00.0.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert cell_of(import_log(path, "lm-eval", tmp_path / "first")).value == 0.0
    assert cell_of(import_log(path, "lm-eval", tmp_path / "loose", filter_name="loose")).value == 1.0
    with pytest.raises(UserError, match="no rows of filter 'lose'"):
        import_log(path, "lm-eval", tmp_path / "none", filter_name="lose")


def test_reference_reasoning_and_choices_reach_the_samples_file(tmp_path: Path) -> None:
    reference = Reference(answers=("(A)",), choices=("A) one", "B) two"), reasoning="because")
    sample = Sample(id="q0", images=(ImageRef(name="0.jpg", data=b"x"),), question="?", reference=reference)
    folder = make_run(tmp_path / "runs", "base", "1", samples=[sample], reasoning="1")
    _, samples = exported(folder, tmp_path / "out")
    by_kind = {s["evaluation_result_id"].rpartition("/")[2]: s for s in samples}
    assert by_kind["final"]["input"] == {"raw": "?", "reference": ["(A)"], "choices": ["A) one", "B) two"]}
    assert by_kind["reasoning"]["input"]["reference"] == ["because"]
