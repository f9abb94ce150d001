"""load -> generate -> judge -> score: which run is whose, what is brought up to date, and what an API model used."""

import json
import time
from dataclasses import replace

import pytest

from harness import answers, data, pipeline, specs
from harness.models.litellm_model import LitellmModel
from harness.pipeline import add_usage, repeated
from harness.prompts import PROMPTS
from harness.records import DataCard, GenerationArgs, ModelCard, Prediction, Reference, RunCard, Sample, Verdict
from harness.runs import RunFolder
from harness.scoring.summary import scores
from judges.exact import ExactJudge
from tests.conftest import load
from tests.servers import FaultServer, completion

ARGS = GenerationArgs(max_new_tokens=8)
EXACT = f"exact@{answers.VERSION}"


def run(model, task, runs, args=ARGS, **options):
    return pipeline.run(task, model, PROMPTS["question"], args, [ExactJudge()], runs, **options)


@pytest.fixture
def server():
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function that writes six text questions with their slices and loads them by a YAML of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntitle: t\nlicense: x\nlocal: {splits: {test: rows.jsonl}, columns: {id: id, slices: [side]}}\n"
    )

    def load(sides="ababab"):
        rows = [{"id": i, "question": f"Is it {i}?", "answer": "yes", "side": s} for i, s in enumerate(sides)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        ((spec, path),) = specs.find("mine.yaml")
        return data.load(spec, path)

    return load


# -- which run is whose ------------------------------------------------------------------------------------------------


def card(task, **model):
    return RunCard(
        harness_version="0", created="", command=[], data=task.card, prompt="question", prompt_sha256="0", generation=ARGS,
        model=ModelCard(**{"name": "m", "path": None} | model), limit=None, git_sha=None, packages={}, hardware="",
    )  # fmt: skip


def test_another_server_is_another_run(own, server, tmp_path):
    """Two servers that answer to one model name; each run holds its own server's words."""
    other = FaultServer()
    try:
        server.otherwise, other.otherwise = completion("yes"), completion("no")
        folders = [run(LitellmModel(f"openai/m@{s.base}"), own(), tmp_path / "runs") for s in (server, other)]
    finally:
        other.stop()
    assert [{p.text for p in f.predictions().values()} for f in folders] == [{"yes"}, {"no"}]
    assert [f.scores()["judges"][EXACT]["final"] for f in folders] == [1.0, 0.0]


def test_the_key_holds_what_could_change_a_text(own, tmp_path):
    task = own()
    local = {"weights_sha256": "w", "dtype": "bfloat16", "attention": "sdpa", "device": "cuda:0"}

    def place(**model):
        return RunFolder.place(tmp_path, card(task, **local | model)).path

    assert place() == place(device="cuda:1")  # the ranks of one run
    others = [{"attention": "eager"}, {"device": "cpu"}, {"dtype": "float32"}, {"weights_sha256": "v"}, {"settings_sha256": "s"}]
    others += [{"adapter": "beside"}]
    assert len({place(), *(place(**o) for o in others)}) == 7
    reread = card(task, **local).model_copy(update={"reader": 9})
    assert RunFolder.place(tmp_path, reread).path != place()


def test_other_slices_are_taken_up_without_asking_again(own, server, tmp_path):
    model = LitellmModel(f"openai/m@{server.base}")
    before = run(model, own("ababab"), tmp_path / "runs")
    assert {k: v["n"] for k, v in before.scores()["judges"][EXACT]["slices"]["side"].items()} == {"a": 3, "b": 3}
    spec = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(spec + "description: other slices\n")
    task = own("abcccc")
    after = run(model, task, tmp_path / "runs")
    assert after.path == before.path
    assert len(server.hits) == 6
    assert {k: v["n"] for k, v in after.scores()["judges"][EXACT]["slices"]["side"].items()} == {"a": 1, "b": 1, "c": 4}
    assert [r["slices"]["side"] for r in after.samples()] == list("abcccc")
    assert after.card().data == task.card


def test_a_lost_samples_file_is_written_again(own, server, tmp_path):
    model = LitellmModel(f"openai/m@{server.base}")
    path = run(model, own(), tmp_path / "runs").path / "samples.jsonl"
    text = path.read_text()
    path.unlink()
    run(model, own(), tmp_path / "runs")
    assert path.read_text() == text
    assert len(server.hits) == 6


def test_repeats_of_a_question_are_one_cluster(own):
    """With an image the image is the cluster; without one, the question."""
    task = repeated(own(), 3)
    assert [s.cluster for s in task.samples] == [str(i) for i in range(6) for _ in range(3)]
    assert len({s.id for s in task.samples}) == 18


# -- what was used -----------------------------------------------------------------------------------------------------


def test_usage_is_each_tasks_own_and_is_added_up(own, server, tmp_path):
    """One model over two tasks, a row that fails, and two more calls: one that asks for it again, one that asks nothing."""
    task = own()
    first, second = replace(task, samples=task.samples[:4]), replace(task, samples=task.samples[4:])
    first, second = (replace(t, card=t.card.model_copy(update={"fingerprint": str(len(t.samples))})) for t in (first, second))
    server.plan = [400]
    model = LitellmModel(f"openai/m@{server.base}", max_in_flight=1)
    used = [run(model, t, tmp_path / "runs").card().usage for t in (first, second)]
    assert [(u["answered"], u["failed"], u["prompt_tokens"]) for u in used] == [(3, 1, 15), (2, 0, 10)]
    assert used[1]["served"] == {"served-model": 2}
    again = run(LitellmModel(f"openai/m@{server.base}"), first, tmp_path / "runs").card().usage
    assert (again["answered"], again["failed"], again["served"]) == (4, 1, {"served-model": 4})
    assert run(LitellmModel(f"openai/m@{server.base}"), first, tmp_path / "runs").card().usage == again


class Stops(ExactJudge):
    """The exact judge, taking its time, which is cut off before verdict number `stop`."""

    def __init__(self, stop=None):
        self.stop = stop

    def judge(self, pairs):
        for n, verdict in enumerate(super().judge(pairs)):
            if n == self.stop:
                raise KeyboardInterrupt
            time.sleep(0.02)
            yield verdict


def test_what_interrupted_tries_took_is_kept_and_added_up(own, server, tmp_path):
    """Answers, requests, seconds of answering and of judging: none is of the last try alone."""

    def cut_off(step, done, total):
        if step == "generate" and done == 2:
            raise KeyboardInterrupt

    task, runs, ask = own(), tmp_path / "runs", PROMPTS["question"]
    model, key = LitellmModel(f"openai/m@{server.base}", max_in_flight=1, batch_size=2), f"judge:exact@{ExactJudge.version}"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(task, model, ask, ARGS, [Stops()], runs, report=cut_off)
    (path,) = runs.glob("*/*/card.json")
    folder = RunFolder(path.parent)
    first = folder.card()
    assert first.finished is None
    assert first.seconds["generate"] > 0
    asked = len(server.hits)
    assert 2 <= first.usage["answered"] <= asked
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(task, LitellmModel(f"openai/m@{server.base}"), ask, ARGS, [Stops(3)], runs)
    second = folder.card()
    assert second.usage["answered"] >= len(folder.predictions()) == 6
    assert second.seconds["generate"] > first.seconds["generate"]
    assert second.seconds[key] >= 3 * 0.02
    assert len(folder.verdicts("exact", ExactJudge.version)) == 3
    pipeline.run(task, LitellmModel(f"openai/m@{server.base}"), ask, ARGS, [Stops()], runs)
    last = folder.card()
    assert last.seconds[key] >= second.seconds[key] + 3 * 0.02
    assert last.seconds["generate"] == second.seconds["generate"]  # nothing was left to answer
    assert last.finished
    pipeline.judge_again(folder, [Stops()])
    assert folder.card().seconds == last.seconds


def test_a_killed_run_has_its_seconds_but_for_the_last_few(own, server, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "KEEP_EVERY", 0.0)
    seen = []

    def look(step, done, total):
        if step == "generate" and done:
            (path,) = (tmp_path / "runs").glob("*/*/card.json")
            seen.append(RunFolder(path.parent).card())

    model = LitellmModel(f"openai/m@{server.base}", max_in_flight=1, batch_size=2)
    pipeline.run(own(), model, PROMPTS["question"], ARGS, [ExactJudge()], tmp_path / "runs", report=look)
    assert [c.usage.get("answered", 0) for c in seen[1:]] == sorted(c.usage["answered"] for c in seen[1:])
    assert seen[-1].seconds["generate"] > 0
    assert seen[-1].usage["answered"] >= 2


def test_a_cost_is_known_whole_or_not_at_all():
    none = {"answered": 0, "failed": 0, "cost_usd": None, "served": {}}
    paid = {"answered": 2, "failed": 0, "cost_usd": 0.5, "served": {"m": 2}}
    more = {"answered": 3, "failed": 0, "cost_usd": 0.75, "served": {"m": 3}}
    unknown = more | {"cost_usd": None}
    assert add_usage({}, none, paid) == paid
    assert add_usage(paid, paid, more) == more
    assert add_usage(paid, paid, unknown)["cost_usd"] is None
    assert add_usage(unknown, paid, more)["cost_usd"] is None
    assert add_usage(paid, more, more) == paid


def test_a_model_in_process_uses_nothing(tiny, tmp_path):
    assert run(tiny, load("slake", limit=2), tmp_path).card().usage == {}


# -- scores ------------------------------------------------------------------------------------------------------------


def test_a_row_that_a_judge_was_never_heard_on_is_missing(tmp_path):
    rows = [
        Sample(id=str(i), images=(), question="q", reference=Reference(answers=("yes",)), slices={"s": "x"}) for i in range(4)
    ]
    said = {"text": "yes", "reasoning": None, "answer": "yes", "finish": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    predictions = {s.id: Prediction(sample_id=s.id, **said) for s in rows}
    given = {str(i): Verdict(sample_id=str(i), judge="j", final=1) for i in range(3)}
    entry = scores([s.row() for s in rows], predictions, {"j@1": given}, ["s"])["judges"]["j@1"]
    assert (entry["final"], entry["n"], entry["missing"], entry["coverage"]) == (1.0, 4, 1, 0.75)
    assert (entry["low"], entry["high"]) == (0.75, 1.0)
    assert entry["slices"]["s"]["x"]["missing"] == 1


def test_cards_written_before_are_read():
    """A data card of before has neither origin nor count of rows that `where` left out."""
    old = {"task": "t", "split": "test", "source": "local", "resolution": "original", "rows": 1, "images": 0}
    found = DataCard.model_validate(old | {"fingerprint": "f", "spec_sha256": "s"})
    assert (found.origin, found.filtered) == (None, 0)
