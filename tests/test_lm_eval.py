"""lm-eval in both directions: its text tasks on our checkpoint, and our tasks run by lm-eval itself."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from harness import answers
from harness.cli import export as command
from harness.errors import DataError, UserError
from harness.lm_eval_export import ANSWER, export, targets, template
from harness.models import TINY
from harness.models import lm_eval_bridge as bridge
from harness.prompts import PROMPTS, Prompt
from harness.records import GenerationArgs, ImageRef, Reference, Sample
from tests.conftest import load

ROWS = [
    {"q": "The liver is in the", "choices": ["abdomen", "head", "foot"], "gold": 0},
    {"q": "An x-ray of the lung shows the", "choices": ["chest", "knee", "hand", "brain"], "gold": 0},
    {"q": "What organ is this?", "choices": ["lung", "car"], "gold": 1},
    {"q": "What modality is used to take this image?", "choices": ["MRI", "CT", "x-ray"], "gold": 1},
    {"q": "Is there a lesion? Answer", "choices": ["yes", "no"], "gold": 1},
]
BASE = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{q}}}}"
metadata: {{version: 1.0}}
"""
CHOICE = """
task: toy_choice
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WRITE = """
task: toy_write
output_type: generate_until
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: word, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
metric_list: [{metric: exact_match, ignore_case: true}, {metric: bleu}]
"""
NEXT = """
task: toy_next
output_type: loglikelihood
doc_to_target: " {{choices[gold]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
"""
ROLLING = """
task: toy_rolling
output_type: loglikelihood_rolling
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}]
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A folder of lm-eval tasks over local rows."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    for text in (CHOICE, WRITE, NEXT, ROLLING):
        name = re.search(r"task: (\w+)", text)[1]
        (folder / f"{name}.yaml").write_text(text + BASE.format(data=folder / "rows.jsonl"))
    return folder


@pytest.fixture(scope="module")
def folders(toys, tiny, tmp_path_factory):
    """Each toy task in a run folder of its own."""
    runs = tmp_path_factory.mktemp("runs")
    done = bridge.run_lm_eval(["toy_choice", "toy_write", "toy_next"], tiny, runs, include_path=toys, batch_size=2)
    return {f.card().data.task: f for f in done}


def log_likelihood(model, context, continuation):
    """Without lm-eval: the sum of the continuation's token log-probabilities."""
    tokenizer = model.processor.tokenizer
    start = len(tokenizer(context, add_special_tokens=False)["input_ids"])
    ids = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        scores = model.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(scores[i - 1, ids[i]].item() for i in range(start, len(ids)))


def test_choices_are_the_likeliest(folders, tiny):
    folder = folders["lm_eval:toy_choice"]
    expected = {}
    for i, row in enumerate(ROWS):
        found = [log_likelihood(tiny, row["q"], " " + c) for c in row["choices"]]
        expected[str(i)] = row["choices"][found.index(max(found))]
        raw = json.loads(folder.verdicts("lm_eval:acc", folder.judges()[0][1])[str(i)].raw)
        assert [r[0][0] for r in raw] == pytest.approx(found, abs=1e-3)
    assert {i: p.text for i, p in folder.predictions().items()} == expected
    right = sum(expected[str(i)] == row["choices"][row["gold"]] for i, row in enumerate(ROWS))
    assert 0 < right < len(ROWS)
    scores = json.loads((folder.path / "scores.json").read_text())["judges"]
    ((name, entry),) = [(k, v) for k, v in scores.items() if k.startswith("lm_eval:acc@")]
    assert re.fullmatch(r"lm_eval:acc@\d+\.\d+\.\d+-v1\.0", name)
    assert entry["final"] == right / len(ROWS)
    assert {n for n, _ in folder.judges()} == {"lm_eval:acc", "lm_eval:acc_norm"}
    (row,) = [r for r in folder.samples() if r["id"] == "3"]
    assert row["reference"] == {"answers": ["CT"], "choices": ["MRI", "CT", "x-ray"], "reasoning": None}


def test_scores_are_lm_evals_own(folders):
    for folder in folders.values():
        name = folder.card().data.task.removeprefix("lm_eval:")
        theirs = json.loads((folder.path / "lm_eval.json").read_text())["results"][name]
        ours = json.loads((folder.path / "scores.json").read_text())["judges"]
        for judge, entry in ours.items():
            metric, _, filter_name = judge.rpartition("@")[0].removeprefix("lm_eval:").partition(":")
            assert entry["final"] == theirs[f"{metric},{filter_name or 'none'}"]
            assert (entry["n"], entry["missing"]) == (len(ROWS), 0)


def test_the_chat_template_is_the_models_own(toys, tiny, tmp_path):
    """What lm-eval sends is what the harness asks: the same tokens in, the same text out."""
    (folder,) = bridge.run_lm_eval(["toy_write"], tiny, tmp_path, include_path=toys, apply_chat_template=True)
    rows = [Sample(id=str(i), images=(), question=r["q"], reference=Reference(answers=("x",))) for i, r in enumerate(ROWS)]
    asked = tiny.generate(rows, PROMPTS["question"], GenerationArgs(max_new_tokens=6))
    ours = {p.sample_id: (p.prompt_tokens, p.text.split("\n")[0]) for batch in asked for p in batch}
    assert {i: (p.prompt_tokens, p.text) for i, p in folder.predictions().items()} == ours
    assert folder.card().prompt == "lm_eval 0-shot chat"


def test_a_chat_template_for_no_lm_eval_task_is_refused(command):
    code, _, err = command("run", "--model", "tiny", "--tasks", "slake", "--lm-eval-chat-template")
    assert code == 2
    assert "no lm_eval: task is asked" in err


def test_written_text_and_its_filters(folders, tiny):
    """Each filter's 0/1 metric is a judge; bleu, which is neither, is none. The text is what `generate` gives."""
    folder = folders["lm_eval:toy_write"]
    assert {n for n, _ in folder.judges()} == {"lm_eval:exact_match:whole", "lm_eval:exact_match:word"}
    tokenizer = tiny.processor.tokenizer
    for i, row in enumerate(ROWS):
        inputs = tokenizer(row["q"], return_tensors="pt", add_special_tokens=False)
        out = tiny.model.generate(**inputs, max_new_tokens=6, do_sample=False, temperature=None, top_p=None, top_k=None)
        text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        given = folder.predictions()[str(i)]
        assert given.text == text.split("\n")[0]
        assert given.finish == ("length" if given.completion_tokens >= 6 else "stop")


def test_next_words(folders, tiny):
    folder = folders["lm_eval:toy_next"]
    assert {n for n, _ in folder.judges()} == {"lm_eval:acc"}
    raw = json.loads(folder.verdicts(*folder.judges()[0])["0"].raw)
    assert raw[0][0][0] == pytest.approx(log_likelihood(tiny, ROWS[0]["q"], " abdomen"), abs=1e-3)


def test_on_the_leaderboard(folders):
    from leaderboard import table

    found, damaged = table.cells_of([f.path for f in folders.values()])
    assert not damaged
    assert len(found) == 5
    assert all(c.ranked and c.finished and c.n == len(ROWS) and c.model == "tiny" for c in found)


def test_finished_is_not_run_again_and_killed_is(toys, tiny, tmp_path):
    def run(**options):
        (folder,) = bridge.run_lm_eval(["toy_choice"], tiny, tmp_path, include_path=toys, limit=2, **options)
        return folder, (folder.path / "predictions.jsonl").stat().st_mtime_ns

    folder, first = run()
    assert run()[1] == first
    folder.write_card(folder.card().model_copy(update={"finished": None}))  # as a kill leaves it
    again, second = run()
    assert second != first
    assert again.path == folder.path
    assert len((folder.path / "predictions.jsonl").read_text().splitlines()) == 2
    assert run(fresh=True)[1] != second
    assert len({p.parent for p in tmp_path.rglob("card.json")}) == 1
    bridge.run_lm_eval(["toy_choice"], tiny, tmp_path, include_path=toys, limit=3)
    assert len({p.parent for p in tmp_path.rglob("card.json")}) == 2  # other rows are another run


def test_only_right_or_wrong(toys, tiny, tmp_path):
    with pytest.raises(UserError, match=r"none of its metrics \(word_perplexity\) is right or wrong"):
        bridge.run_lm_eval(["toy_rolling"], tiny, tmp_path, include_path=toys)
    assert not list(tmp_path.rglob("card.json"))


def test_names(toys, tmp_path):
    assert bridge.split_tasks("slake, lm_eval:arc_easy,vqa_rad,lm_eval:mmlu") == ("slake,vqa_rad", ["arc_easy", "mmlu"])
    with pytest.raises(UserError, match="no task named 'toy_choise'") as caught:
        bridge.load_tasks(["toy_choise"], include_path=toys)
    assert "toy_choice" in caught.value.hint
    code = tmp_path / "code.yaml"  # lm-eval would take a path for a name, and run what stands there
    code.write_text("task: x\ndoc_to_text: !function evil.run\n")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(doc): return ''\n")
    with pytest.raises(UserError, match="no task named"):
        bridge.load_tasks([str(code)], include_path=toys)
    assert not (tmp_path / "ran").exists()


def test_its_own_task_without_a_network():
    with pytest.raises(DataError, match="lm_eval:arc_easy: cannot be loaded"):
        bridge.load_tasks(["arc_easy"])


# -- our tasks, run by lm-eval ----------------------------------------------------------------------------------


def test_lm_eval_runs_our_task_and_agrees(tiny, tmp_path):
    """lm-eval's `hf-multimodal` on the exported rows: the same texts, and exact match as plain comparison gives it."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    task = load("slake", limit=20)
    path = export(task, PROMPTS["question"], tmp_path / "out", max_new_tokens=16)
    assert path.name == "slake_question.yaml"
    results = simple_evaluate(
        model="hf-multimodal", model_args={"pretrained": str(TINY), "dtype": "float32"}, tasks=["slake_question"], batch_size=4,
        task_manager=TaskManager(include_path=str(path.parent), include_defaults=False), apply_chat_template=True, device="cpu",
        bootstrap_iters=0,
    )  # fmt: skip
    theirs = {s["doc"]["id"]: s for s in results["samples"]["slake_question"]}
    done = tiny.generate(task.samples, PROMPTS["question"], GenerationArgs(max_new_tokens=16))
    ours = {p.sample_id: p for batch in done for p in batch}
    assert {i: s["resps"][0][0].strip() for i, s in theirs.items()} == {i: p.text for i, p in ours.items()}
    right = {s.id: (ours[s.id].answer or "").lower() in {a.lower() for a in s.reference.answers} for s in task.samples}
    assert {i: bool(s["exact_match"]) for i, s in theirs.items()} == right
    assert results["results"]["slake_question"]["exact_match,answer"] == sum(right.values()) / 20
    assert 0 < sum(right.values()) < 20


def test_export_is_data(tmp_path):
    import yaml

    out = tmp_path / "out"
    asked = ["--tasks", "slake", "--data", "bundled", "--limit", "30", "--prompt", "reasoning", "--json"]
    done = CliRunner().invoke(command.app, ["lm-eval", str(out), *asked])
    assert done.exit_code == 0, done.output
    (path,) = (Path(p) for p in json.loads(done.stdout)["written"])
    config = yaml.safe_load(path.read_text())  # refuses any tag
    assert not list(out.rglob("*.py"))
    (data,) = (p for p in out.iterdir() if p.is_dir())
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    samples = load("slake", limit=30).samples
    kept = [(r["id"], r["question"], tuple(r["answers"])) for r in rows]
    assert kept == [(s.id, s.question, s.reference.answers) for s in samples]
    assert len(list((data / "images").iterdir())) == len({s.images[0].sha256 for s in samples})
    for row, sample in zip(rows, samples, strict=True):
        assert Image.open(data / row["file_names"][0]).convert("RGB").tobytes() == sample.images[0].open().tobytes()
    assert config["doc_to_text"] == "<image>" + PROMPTS["reasoning"].template.replace("{question}", "{{question}}")
    assert config["generation_kwargs"]["max_gen_toks"] == 512


@pytest.mark.parametrize(
    "text",
    [
        "CT", "", "<answer>ct</answer>", "<think>a</think><answer>b</answer>", "<think>a</think> b ", "<think>cut off",
        "<answer>x</answer> no: <answer> Y </answer>", "<answer>cut", "<THINK>a</THINK><Answer>b</Answer>", "a</think><answer>b",
        "<answer></answer>", "two\nlines", "lung</answer>", "<think>a</think>", "<thinking>a</thinking>b",
        "<unused94>thought\na<unused95>b",
        "[THINK]a[/THINK]b", "<think>use <answer> tags</think><answer>b</answer>", "[THINK]a",
        "## Thinking\na\n## Final Response\nb",
        "<CAPTION>a</CAPTION><REASONING>a</REASONING><CONCLUSION>b</CONCLUSION>", "<thinking>cut off",
    ],
)  # fmt: skip
def test_answer_is_read_as_here(text):
    from lm_eval.filters.extraction import RegexFilter

    ((found,),) = RegexFilter(ANSWER, group_select=-1, fallback="").apply([[text]], [{}])
    assert found == (answers.read(text).answer or "")


def test_choices_and_templates():
    choice = Sample(id="1", images=(), question="?", reference=Reference(answers=("(B)",), choices=("one", "two")))
    assert targets(choice) == ["(B)", "B", "B.", "B)", "two"]
    braces = Prompt("braces", "Use {{x}} and {% y %}: {question} {", "test")
    from lm_eval.utils import apply_template

    assert apply_template(template(braces, 1), {"question": "why {{now}}?"}) == "<image>" + braces.render("why {{now}}?")
    with pytest.raises(UserError, match="lm-eval would read as its own"):
        template(Prompt("bad", "<image> {question}", "test"), 1)


def test_what_cannot_be_exported(slake, tmp_path):
    from dataclasses import replace

    first = slake.samples[0]
    odd = replace(slake, samples=[first.model_copy(update={"question": "what is <image>?"})])
    with pytest.raises(DataError, match=f"row {first.id}"):
        export(odd, PROMPTS["question"], tmp_path)
    mixed = replace(slake, samples=[first, first.model_copy(update={"id": "2", "images": (*first.images, ImageRef("b"))})])
    with pytest.raises(UserError, match=r"\[1, 2\] images"):
        export(mixed, PROMPTS["question"], tmp_path)
    assert not list(tmp_path.iterdir())
