"""The reward audit: numbers worked out by hand on small groups, each flag raised by what it is named for, and a real run."""

import json

import pytest

from harness import plugins
from harness.errors import RunError, UserError
from tests.conftest import load
from trainers import audit as audits
from trainers import recipe

GOOD = "<think>the lung is dark on the left.</think><answer>yes</answer>"
BAD = "<think>the lung is dark on the left.</think><answer>no</answer>"


def write(folder, steps):
    """steps: step -> groups; a group is (text, tokens, total) rows. Each group answers a row of its own with 'Yes'."""
    folder.mkdir(exist_ok=True)
    completions, samples = [], []
    for step, groups in steps.items():
        for g, rows in enumerate(groups):
            name = f"{step}-{g}"
            samples.append(
                {"id": name, "question": "Is it?", "reference": {"answers": ["Yes"], "choices": None, "reasoning": "dark"}}
            )
            for text, tokens, total in rows:
                rewards = {"format": 1.0 if text in (GOOD, BAD) else 0.0, "length": tokens / 1000}
                completions.append(
                    {"step": step, "sample_id": name, "text": text, "tokens": tokens, "rewards": rewards, "total": total}
                )
    for file, rows in {"completions.jsonl": completions, "samples.jsonl": samples}.items():
        (folder / file).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def raised(found):
    return {f.name for f in found.flags if f.raised}


def test_numbers_by_hand(tmp_path):
    """Two groups: one teaches (its totals are 1 and 0), one does not."""
    found = audits.audit(write(tmp_path / "x", {1: [[(GOOD, 10, 1.0), (BAD, 30, 0.0)], [(GOOD, 20, 1.0), (GOOD, 20, 1.0)]]}))
    assert (found.completions, found.groups, found.group_size, found.no_spread) == (4, 2, 2.0, 0.5)
    assert found.parts["format"].no_spread == 1.0
    assert found.parts["length"].within_group_sd == pytest.approx((0.01 + 0) / 2)
    assert found.parts["length"].mean == pytest.approx(0.02)
    # within groups: totals +.5 -.5 0 0; lengths -10 +10 0 0; correct +.5 -.5 0 0; format has no spread at all
    assert found.reward_with["length"] == pytest.approx(-1.0)
    assert found.reward_with["correctness"] == pytest.approx(1.0)
    assert found.reward_with["format"] is None
    assert found.start.correct == 0.75
    assert (found.start.reward, found.start.reward_error) == (0.75, 0.0)  # one step has no spread over steps


def test_a_healthy_training_raises_nothing(tmp_path):
    early = [[(GOOD, 20, 1.0), (BAD, 20, 0.0)]] * 12
    late = [[(GOOD, 21, 1.0), (f"<think>a lung {i}</think><answer>yes</answer>", 21, 0.9)] for i in range(12)]
    assert raised(audits.audit(write(tmp_path / "x", {1: early, 2: early, 3: late, 4: late}))) == set()


def test_length_hacking(tmp_path):
    steps = {n: [[(GOOD, 20 * n, 1.0 + n), (BAD, 19 * n, n)]] * 8 for n in (1, 2, 3, 4)}
    assert raised(audits.audit(write(tmp_path / "x", steps))) == {"length hacking"}


def test_longer_and_better_is_not_hacking(tmp_path):
    steps = {1: [[(BAD, 20, 0.5), (BAD, 21, 0.4)]] * 8, 4: [[(GOOD, 60, 1.0), (GOOD, 61, 1.1)]] * 8}
    assert raised(audits.audit(write(tmp_path / "x", steps))) == set()


def test_empty_answers(tmp_path):
    empty = "<think>the lung is dark on the left.</think><answer></answer>"
    steps = {1: [[(GOOD, 20, 1.0), (BAD, 20, 0.0)]] * 8, 4: [[(GOOD, 20, 1.0), (empty, 20, 0.9)]] * 8}
    assert raised(audits.audit(write(tmp_path / "x", steps))) == {"empty answers"}


def test_format_only_collapse(tmp_path):
    steps = {1: [[(GOOD, 20, 1.0), (BAD, 20, 0.0)]] * 8, 4: [[(BAD, 20, 1.0), (BAD, 20, 1.0)]] * 8}
    assert raised(audits.audit(write(tmp_path / "x", steps))) == {"format-only collapse"}


def test_a_token_more_hides_no_collapse(tmp_path):
    """Lengths that differ give every group some spread (0.001 a token), and nothing else tells its texts apart."""
    early = [[(GOOD, 20, 2.02), (BAD, 21, 1.021)]] * 8
    late = [[(BAD, 20 + i, 1.020 + i / 1000), (BAD, 27 - i, 1.027 - i / 1000)] for i in range(8)]
    found = audits.audit(write(tmp_path / "x", {1: early, 4: late}))
    assert raised(found) == {"format-only collapse"}
    why = next(f.why for f in found.flags if f.raised)
    assert "100 % of the last groups without spread but for length and format (0 % without any)" in why


def test_copied_openers(tmp_path):
    varied = [
        [(f"<think>{w} is seen.</think><answer>yes</answer>", 9, 1.0), (BAD, 9, 0.0)] for w in ("pus", "air", "bone", "fat")
    ]
    opener = "<think>Let me solve this step by step. It is.</think><answer>yes</answer>"
    found = audits.audit(write(tmp_path / "x", {1: varied * 2, 4: [[(opener, 9, 1.0), (opener, 9, 0.9)]] * 8}))
    assert raised(found) == {"copied openers"}
    assert found.end.master_key == 1.0


def test_rescoring(tmp_path):
    folder = write(tmp_path / "x", {1: [[(GOOD, 10, 0.0), (BAD, 30, 1.0)], [(GOOD, 20, 1.0), (BAD, 20, 0.0)]]})
    found = audits.audit(folder, ["accuracy:judge:exact", "length"])
    exact, length = found.rescored
    assert (exact.part, exact.mean, exact.correlation, exact.best_differs) == (
        "accuracy:judge:exact",
        0.5,
        pytest.approx(0.0),
        0.5,
    )
    assert (length.mean, length.best_differs) == (pytest.approx(0.02), 0.0)
    with pytest.raises(UserError, match="no reward named 'acuracy'") as e:
        audits.audit(folder, ["acuracy"])
    assert e.value.hint == "did you mean 'accuracy'?"


def test_nothing_to_audit(tmp_path):
    with pytest.raises(RunError, match=r"no completions\.jsonl") as e:
        audits.audit(tmp_path)
    assert "grpo or rarl" in e.value.hint
    folder = write(tmp_path / "x", {1: [[(GOOD, 10, 1.0), (BAD, 10, 0.0)]]})
    (folder / "samples.jsonl").write_text("")
    with pytest.raises(RunError, match="no row 1-0, which a completion answers"):
        audits.audit(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short real training."""
    out = tmp_path_factory.mktemp("real") / "rarl"
    rows = load("slake_grounded", split="train", limit=12)
    settings = ("batch_size=8", "num_generations=4", "max_steps=3", "save_steps=2")
    return plugins.load("trainers", "rarl")("tiny", rows, recipe.load("rarl", "tiny", None, settings), out, device="cpu").fit()


def test_a_real_training(trained, capsys):
    from harness.cli.train import audit

    audit(trained, rescore=["reasoning:rougeL"], json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["completions"], document["groups"]) == (3 * 8, 3 * 2)
    assert set(document["parts"]) == {"format", "length", "accuracy", "reasoning"}
    assert document["parts"]["accuracy"]["weight"] == 1.0
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    for name, part in document["parts"].items():
        assert part["mean"] == pytest.approx(sum(r[f"rewards/{name}/mean"] for r in log) / 3, abs=1e-5)
    (trained / "trained.json").rename(trained / "kept.json")  # the weights are known before the training ends
    assert audits.audit(trained).parts["accuracy"].weight == 1.0
    (trained / "kept.json").rename(trained / "trained.json")
    audit(trained)
    assert "copied openers" in capsys.readouterr().out


def test_advantages_and_totals_are_those_of_the_paper(trained):
    """Equation 2 from the stored totals gives the stored advantages."""
    import statistics

    rows = [json.loads(line) for line in (trained / "completions.jsonl").read_text().splitlines()]
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({r["sample_id"] for r in group}) == 1
        totals = [sum(v for v in r["rewards"].values() if v is not None) for r in group]
        assert [r["total"] for r in group] == pytest.approx(totals)
        mean, sd = statistics.mean(totals), statistics.stdev(totals)
        assert [r["advantage"] for r in group] == pytest.approx([(t - mean) / (sd + 1e-4) for t in totals], abs=1e-3)


def test_export_merged_equals_the_adapter(trained, tmp_path):
    import torch

    from harness.models import loading
    from trainers.export import _question, export

    merged = export(trained, tmp_path / "merged", merge=True)
    assert not (merged / "adapter_config.json").exists()
    assert {f.name for f in merged.iterdir()} >= {"config.json", "model.safetensors", "processor_config.json", "trained.json"}
    batch = _question(loading.load_processor(loading.resolve(str(merged))))
    adapter = loading.load_weights(loading.resolve(str(trained)), torch.float32, "cpu", merge=False)
    alone = loading.load_weights(loading.resolve(str(merged)), torch.float32, "cpu")
    with torch.inference_mode():
        assert torch.allclose(adapter(**batch).logits, alone(**batch).logits, atol=1e-4)


def test_export_leaves_the_training_behind(trained, tmp_path):
    from harness.models import loading
    from trainers.export import export

    out = export(trained, tmp_path / "adapter")
    assert {f.name for f in out.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "processor_config.json", "recipe.yaml",
        "tokenizer.json", "tokenizer_config.json", "trained.json",
    }  # fmt: skip
    assert loading.resolve(str(out)).trainer == "rarl"
    export(trained / "checkpoint-2", tmp_path / "two", merge=True)
    with pytest.raises(UserError, match="is there already"):
        export(trained, tmp_path / "two")
    with pytest.raises(UserError, match="there is nothing to merge"):
        export(tmp_path / "two", tmp_path / "three", merge=True)
    assert not (tmp_path / "three").exists()


def test_a_merge_that_is_not_the_adapter_is_refused(trained, tmp_path, monkeypatch):
    from peft import PeftModel

    from trainers.export import export

    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)  # the base, unmerged
    with pytest.raises(RunError, match="weights are not the base's with the adapter's added"):
        export(trained, tmp_path / "merged", merge=True)
    assert list(tmp_path.iterdir()) == []
