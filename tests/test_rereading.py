"""Old runs read again, markers of one's own, special tokens that mark thinking, and answers that nobody can read."""

import json
import re
import shutil
from pathlib import Path

import pytest

from harness import answers, pipeline, rereading
from harness.errors import RunError
from harness.models.written import Written
from harness.prompts import PROMPTS
from harness.records import GenerationArgs, Prediction, Reference, Verdict
from harness.runs import RunFolder, write_atomic
from harness.scoring import unread
from judges.exact import ExactJudge
from leaderboard import table
from tests.conftest import load

ARGS = GenerationArgs(max_new_tokens=16)


def older(run: Path, text: str, answer: str | None) -> RunFolder:
    """The run as an older reader left it: every text is `text`, of which it took `answer`."""
    folder = RunFolder(run)
    rows = [p.model_copy(update={"text": text, "answer": answer, "reasoning": None}) for p in folder.predictions().values()]
    write_atomic(run / "predictions.jsonl", "".join(r.model_dump_json() + "\n" for r in rows))
    shutil.rmtree(run / "verdicts")
    folder.add_verdicts("exact", "2", [Verdict(sample_id=r.sample_id, judge="exact", final=0) for r in rows])
    folder.add_verdicts("gpt", "1", [Verdict(sample_id=r.sample_id, judge="gpt", final=1) for r in rows])
    folder.write_card(folder.card().model_copy(update={"reader": 2, "judges": {"exact@2": {}, "gpt@1": {"model": "gpt"}}}))
    place = RunFolder.place(folder.root, folder.card()).path
    run.rename(place)
    folder = RunFolder(place)
    pipeline.write_scores(folder, ["modality"], [], None)
    return folder


def test_an_old_run_is_read_again(run, command):
    folder = older(run, "<thinking>hmm</thinking>No\n\nExplanation: nothing is seen.", "<thinking>hmm</thinking>No")
    before = folder.path
    code, out, err = command("judge", before, "--reread", "--json")
    assert code == 0, err
    assert "120 answers changed" in err
    (new,) = folder.path.parent.glob("slake-*")
    again = RunFolder(new)
    assert new != before
    assert RunFolder.place(again.root, again.card()).path == new  # where the same command looks for it
    assert {p.answer for p in again.predictions().values()} == {"No\n\nExplanation: nothing is seen."}
    assert {p.reasoning for p in again.predictions().values()} == {"hmm"}
    noes = sum(s.reference.answers[0].lower() == "no" for s in again.questions())
    exact = again.verdicts("exact", str(answers.VERSION))
    assert noes > 10
    assert sum(v.final for v in exact.values()) == noes
    assert not again.verdicts("exact", "2")
    assert not again.verdicts("gpt", "1")  # they were about other answers
    assert again.card().reader == answers.VERSION
    assert again.scores()["judges"][f"exact@{answers.VERSION}"]["slices"]["modality"]
    assert json.loads(out)["scores"]
    kept = new / "read-by-2"
    assert json.loads((kept / "run-card.json").read_text())["reader"] == 2
    assert "<thinking>" in (kept / "predictions.jsonl").read_text()
    assert {p.name for p in (kept / "verdicts").iterdir()} == {"exact@2.jsonl", "gpt@1.jsonl"}
    code, _, err = command("judge", new, "--reread")  # again: nothing is left to do
    assert code == 0, err
    assert again.verdicts("exact", str(answers.VERSION)) == exact


def test_verdicts_on_answers_that_did_not_change_stay(run):
    folder = older(run, "left lung", "left lung")
    again, changed = rereading.reread(folder, [ExactJudge()])
    assert changed == 0
    assert len(again.verdicts("gpt", "1")) == 120
    assert again.card().judges.keys() == {"gpt@1", f"exact@{answers.VERSION}"}


def test_a_kill_between_keeping_and_naming_is_mended(run, monkeypatch):
    folder = older(run, "<thinking>a</thinking>yes", None)

    def killed(self, card):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_card", killed)
    with pytest.raises(KeyboardInterrupt):
        rereading.reread(folder, [ExactJudge()])
    monkeypatch.undo()
    assert folder.card().reader == 2
    again, _ = rereading.reread(folder, [ExactJudge()])
    assert again.card().reader == answers.VERSION
    assert "<thinking>" in (again.path / "read-by-2" / "predictions.jsonl").read_text()
    assert json.loads((again.path / "read-by-2" / "predictions.jsonl").read_text().splitlines()[0])["answer"] is None
    assert {p.answer for p in again.predictions().values()} == {"yes"}


def test_two_readers_never_share_a_table(run, command):
    folder = older(run, "yes", "yes")
    other = shutil.copytree(folder.path, folder.path.parent.parent / "tiny" / "slake-00000000")
    card = RunFolder(other).card()
    RunFolder(other).write_card(card.model_copy(update={"reader": 9}))
    cells, _ = table.cells_of([folder.path, other], judges=["exact"])
    assert len({c.comparable for c in cells}) == 2
    code, _, err = command("compare", folder.path, other, "--judge", "exact")
    assert code == 2
    assert "--reread" in err


def test_markers_of_ones_own(run, command):
    folder = older(run, "<<plan>>hmm<</plan>>no", "<<plan>>hmm<</plan>>no")
    code, _, err = command("judge", folder.path, "--reread", "--reasoning-tags", "<<plan>>,<</plan>>")
    assert code == 0, err
    (new,) = folder.path.parent.glob("slake-*")
    again = RunFolder(new)
    assert again.card().reasoning_tags == (("<<plan>>", "<</plan>>"),)
    assert {p.answer for p in again.predictions().values()} == {"no"}
    plain = again.card().model_copy(update={"reasoning_tags": ()})
    assert RunFolder.place(again.root, plain).path != new
    for wrong in ("<plan>", "a,a", ",b", "a,b,c"):
        code, _, err = command("judge", new, "--reread", "--reasoning-tags", wrong)
        assert code == 2, err
        assert "--reasoning-tags" in err
    assert command("judge", new, "--reasoning-tags", "a,b", "--judge", "exact")[0] == 2
    assert command("judge", new)[0] == 2


def test_lm_evals_answers_are_left_alone(run):
    folder = RunFolder(run)
    card = folder.card()
    folder.write_card(card.model_copy(update={"data": card.data.model_copy(update={"task": "lm_eval:mmlu"})}))
    with pytest.raises(RunError, match="by its own filters"):
        rereading.reread(folder, [ExactJudge()])


def prediction(sample_id: str, text: str) -> Prediction:
    reasoning, answer = answers.read(text)
    return Prediction(
        sample_id=sample_id, text=text, reasoning=reasoning, answer=answer, finish="stop", prompt_tokens=1, completion_tokens=1
    )


def test_answers_that_cannot_be_read_are_counted_with_examples():
    references = {
        "a": Reference(answers=("yes",)),
        "b": Reference(answers=("B",), choices=("x", "y")),
        "c": Reference(answers=("CT",)),
    }
    rows = [{"id": i, "reference": r.model_dump(mode="json")} for i, r in references.items()]
    texts = {"a": "There is no fracture.", "b": "B", "c": "whatever"}
    done = {i: prediction(i, t) for i, t in texts.items()}
    found = unread.count(rows, done)
    assert found == {"asked": 2, "unread": 1, "ids": ["a"]}
    first, example = unread.lines(found, done)
    assert "1 of 2 yes/no and choice answers (50.0 %)" in first
    assert "--reasoning-tags" in first
    assert example == "  a: There is no fracture."
    assert not list(unread.lines({"asked": 2, "unread": 0, "ids": []}, done))


def test_a_run_says_how_many_answers_it_could_not_read(tmp_path, command):
    asked = [
        "--model",
        "tiny",
        "--tasks",
        "slake",
        "--data",
        "bundled",
        "--limit",
        "30",
        "--max-new-tokens",
        "1",
        "--device",
        "cpu",
    ]
    code, out, err = command("run", *asked, "--prompt", "reasoning", "--runs", tmp_path, "--json", "--quiet")
    assert code == 0, err
    (scores,) = json.loads(out)["scores"].values()
    found = scores["reading"]
    assert found["unread"] == len(found["ids"]) > 1
    said = re.search(r"(\d+) of (\d+) yes/no and choice answers", err)
    assert said, err
    assert (int(said[1]), int(said[2])) == (found["unread"], found["asked"])
    assert found["ids"][0] in err


@pytest.fixture
def marking(tiny, monkeypatch):
    """The tiny model with a tokenizer that counts the thinking markers as special, as MedGemma's and Magistral's do."""
    import copy

    tokenizer = copy.deepcopy(tiny.processor.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<unused94>", "<unused95>", "<|other|>"]})
    monkeypatch.setattr(tiny.processor, "tokenizer", tokenizer)
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in ("<unused94>", "<unused95>", "<|other|>")}
    monkeypatch.setattr(tiny, "written", Written(tokenizer, ()))
    return tiny, ids


def test_special_tokens_that_mark_thinking_are_kept(marking):
    model, ids = marking

    def words(text: str) -> list[int]:
        return model.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    tokens = [ids["<unused94>"], *words("thought\nhmm"), ids["<unused95>"], ids["<|other|>"], *words("yes")]
    assert model.written.text(tokens) == "<unused94>thought\nhmm<unused95>yes"
    assert answers.read(model.written.text(tokens)) == ("hmm", "yes")
    plain = [*words("yes, it is"), ids["<|other|>"]]
    assert model.written.text(plain) == "yes, it is"


def test_a_template_that_opens_the_thinking_is_put_back(tiny, monkeypatch):
    template = tiny.processor.chat_template
    monkeypatch.setattr(tiny.processor, "chat_template", template + "{% if add_generation_prompt %}<think>\n{% endif %}")
    task = load("slake", limit=2)
    (batch,) = tiny.generate(task.samples, PROMPTS["question"], ARGS)
    monkeypatch.setattr(tiny.written, "opened", "")
    assert all(p.text.startswith("<think>\n") for p in batch)
    assert all(p.answer is None for p in batch if "</think>" not in p.text)
    (again,) = tiny.generate([task.samples[0].model_copy(update={"id": "x"})], PROMPTS["question"], ARGS)
    assert again[0].text.startswith("<think>")


def test_an_answer_that_nobody_can_read_is_null_in_its_row(judged):
    folder = RunFolder(judged)
    rows, found = {r["id"]: r for r in folder.samples()}, folder.scores()["reading"]
    for i, p in folder.predictions().items():
        assert (p.answer is None) == (i in found["ids"] or p.said is None)
        assert p.unread is None or (p.answer is None and p.unread in p.text)
    assert {rows[i]["slices"]["form"] for i in found["ids"]} <= {"yes/no", "choice"}
    assert any(p.unread for p in folder.predictions().values())
