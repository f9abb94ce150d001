"""A training that failed says so: nothing that is not finite is saved, and what taught nothing is named."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from harness import plugins
from harness.errors import UserError
from tests.conftest import load
from trainers import checkpoint, health, recipe, splits
from trainers.health import Halted

SMALL = ("batch_size=4", "num_generations=2", "max_completion_length=6", "max_steps=3", "save_steps=1")


@pytest.fixture(scope="module")
def rows():
    return load("slake_grounded", split="train", limit=8)


def make(name, rows, out, *settings, **options):
    said = []
    chosen = recipe.load(name, "tiny", None, [*SMALL, *settings])
    trainer = plugins.load("trainers", name)("tiny", rows, chosen, out, device="cpu", **options)
    trainer.warn = said.append
    return trainer, said


def finite(folder):
    return all(torch.isfinite(t).all() for t in load_file(folder / "adapter_model.safetensors").values())


# -- what is not finite ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error:.*not computed by group")  # one step of bfloat16 is no difference
@pytest.mark.parametrize(
    ("name", "settings"), [("sft", ()), ("rarl", ()), ("grpo", ("lora=null", "precision=bfloat16"))], ids=str
)
def test_an_absurd_rate_stops_at_its_step_and_nothing_of_it_is_saved(rows, tmp_path, name, settings):
    # hot and long: completions of one prompt must differ in reward, or the first step has no gradient and rightly saves itself
    more = ("rewards={length: 1, format: 1}", "max_completion_length=24", "num_generations=4", "temperature=3")
    trainer, _ = make(name, rows, tmp_path / "x", "learning_rate=1e30", *settings, *(more if name != "sft" else ()))
    with pytest.raises(Halted, match=r"stopped at step [12]: .*(finite|nan)") as e:
        trainer.fit()
    assert e.value.exit_code == 1
    assert "learning_rate or max_grad_norm" in e.value.hint
    assert "precision=float32" in e.value.hint
    assert not checkpoint.checkpoints(tmp_path / "x")
    assert not (tmp_path / "x" / "trained.json").exists()


@pytest.mark.parametrize("broken", ["loss", "gradient", "weight"])
def test_each_stops_at_that_very_step_and_the_last_good_checkpoint_is_kept(rows, tmp_path, monkeypatch, broken):
    """One number of a real training becomes NaN in its second step."""
    trainer, _ = make("sft", rows, tmp_path / "x")
    real = trainer._trainer

    def poisoned(model):
        inner = real(model)
        weight = next(p for p in inner.model.parameters() if p.requires_grad)
        if broken == "loss":
            loss = inner.compute_loss
            inner.compute_loss = lambda *a, **k: loss(*a, **k) * (math.nan if inner.state.global_step == 1 else 1)
        elif broken == "gradient":
            weight.register_hook(lambda g: g * math.nan if inner.state.global_step == 1 else g)
        else:
            create = inner.create_optimizer

            def created(*a, **k):
                optimizer = create(*a, **k)
                step = optimizer.step

                def stepped(*a, **k):
                    step(*a, **k)
                    if inner.state.global_step == 1:
                        weight.data[0] = math.nan

                optimizer.step = stepped
                return optimizer

            inner.create_optimizer = created
        return inner

    monkeypatch.setattr(trainer, "_trainer", poisoned)
    what = {"loss": "the loss is nan", "gradient": "the gradient is not finite", "weight": "weights are not finite"}[broken]
    with pytest.raises(Halted, match=f"stopped at step 2: .*{what}.*checkpoint-1 is kept"):
        trainer.fit()
    assert [c.name for c in checkpoint.checkpoints(tmp_path / "x")] == ["checkpoint-1"]
    assert checkpoint.torn(tmp_path / "x" / "checkpoint-1") is None
    assert finite(tmp_path / "x" / "checkpoint-1")
    assert "nan" not in (tmp_path / "x" / "log.jsonl").read_text().lower()


def test_a_base_that_is_broken_stops_before_the_first_step(rows, tmp_path, monkeypatch):
    trainer, _ = make("sft", rows, tmp_path / "x")
    real = trainer.load

    def poisoned(device):
        model = real(device)
        next(p for n, p in model.named_parameters() if "down_proj" in n).data.fill_(math.nan)
        return model

    monkeypatch.setattr(trainer, "load", poisoned)
    with pytest.raises(Halted, match="stopped at step 1: before its first step what the model says is not finite"):
        trainer.fit()


def not_a_number(rollouts):
    return [math.nan for _ in rollouts]


def raising(rollouts):
    return [1 / 0 for _ in rollouts]


def nothing(rollouts):
    return [None for _ in rollouts]


@pytest.mark.parametrize(
    ("reward", "said"),
    [("not_a_number", "gave nan, which is no finite number"), ("raising", "raised ZeroDivisionError: division by zero")],
)
def test_a_reward_that_fails_is_named_with_its_step(rows, tmp_path, reward, said):
    trainer, _ = make("grpo", rows, tmp_path / "x", f"rewards={{{__name__}.{reward}: 1}}")
    with pytest.raises(Halted, match=f"stopped at step 1: reward '{__name__}.{reward}' {said}") as e:
        trainer.fit()
    assert e.value.exit_code == 1


# -- what teaches nothing -------------------------------------------------------------------------------------------------


def test_rewards_that_never_differ_stop_the_training(rows, tmp_path):
    trainer, _ = make("grpo", rows, tmp_path / "x", f"rewards={{{__name__}.nothing: 1}}", "stop_without_signal=2")
    with pytest.raises(Halted, match="stopped at step 2: 2 steps in a row taught nothing: no reward gave any completion") as e:
        trainer.fit()
    assert "stop_without_signal=0" in e.value.hint
    # the key decides no weight: with it changed the same folder goes on, and the end says what came of it
    trainer, said = make("grpo", rows, tmp_path / "x", f"rewards={{{__name__}.nothing: 1}}", "stop_without_signal=0")
    trainer.fit()
    assert any("none of the 3 steps taught anything" in s for s in said)
    assert any("nothing' gave no value to 12 of 12 completions" in s for s in said)
    assert any("were cut at max_completion_length" in s for s in said)
    about = json.loads((tmp_path / "x" / "trained.json").read_text())
    assert about["health"]["steps_that_taught_nothing"] == about["health"]["steps"] == 3
    assert about["optimizer"]["optim"]
    assert about["optimizer"]["reward_weights"] == [1.0]


def test_a_step_is_judged_by_its_line():
    taught = {"loss": 0.5, "grad_norm": 0.1}
    assert health.nothing_taught(taught) is None
    assert health.nothing_taught(taught | {"grad_norm": 0.0}) == "the gradient was 0"
    assert health.nothing_taught(taught, taught) == "the loss was the same to the last digit"
    by_reward = taught | {"frac_reward_zero_std": 0.5, "reward": 1.0}
    assert health.nothing_taught(by_reward, by_reward) is None  # a loss by reward is near 0 whatever is learned
    assert "same reward" in health.nothing_taught(by_reward | {"frac_reward_zero_std": 1.0})
    idle = health.Idle([taught, taught, taught, taught | {"loss": 0.4}, taught | {"grad_norm": 0}])
    assert (idle.steps, idle.why) == (1, "the gradient was 0")


def test_a_policy_that_left_its_reference_is_said():
    found = {"steps": 3, "steps_that_taught_nothing": 0, "largest_kl": 40.0, "completions_cut": 0.1}
    assert health.complaints(found) == [
        "the policy has left its reference: KL reached 40.0 nats a token; see log.jsonl",
    ]


# -- what cannot teach is refused -----------------------------------------------------------------------------------------


def test_no_rows_and_more_rows_a_step_than_there_are(rows, tmp_path):
    with pytest.raises(UserError, match="there is no row to train on"):
        make("sft", splits.with_samples(rows, []), tmp_path / "x")
    with pytest.raises(UserError, match="a step takes 16 rows, and there are 8 training rows"):
        make("sft", rows, tmp_path / "x", "batch_size=16")[0].steps()


def test_an_adapter_on_layers_that_do_not_exist_is_refused(rows, tmp_path):
    """PEFT passes over a name as long as it finds another."""
    with pytest.raises(UserError, match="no layer of the model is named 'k_prj'") as e:
        make("sft", rows, tmp_path / "x", "lora.target_modules=[q_proj, k_prj]")[0].plan()
    assert "k_proj" in e.value.hint


def test_epochs_are_transformers_own(rows, tmp_path):
    """Eight rows in steps of three are three steps an epoch, the last one smaller."""
    assert make("sft", rows, tmp_path / "x", "batch_size=3", "max_steps=null", "epochs=2")[0].steps() == 6


# -- two formats under one prompt -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(rows):
    def bare(s):
        return s.model_copy(update={"reference": s.reference.model_copy(update={"reasoning": " "})})

    return splits.with_samples(rows, [bare(s) if i < 3 else s for i, s in enumerate(rows.samples)])


def test_the_form_of_the_target_is_a_choice(mixed, rows, tmp_path):
    with pytest.raises(UserError, match="5 of 8 rows have reference reasoning, 3 have none: two formats") as e:
        make("sft", mixed, tmp_path / "x")[0].plan()
    assert all(f"target={form}" in e.value.hint for form in ("reasoning", "answer", "mixed"))

    def taught(form, task=mixed):
        trainer, _ = make("sft", task, tmp_path / "x", f"target={form}")
        data = trainer.dataset(completions=True)
        tagged = sum("<think>" in row["completion"][0]["content"] for row in data)
        return trainer.plan(), len(data), tagged

    plan, count, tagged = taught("mixed")
    assert (count, tagged, plan.targets) == (8, 5, {"reasoning and answer": 5, "answer alone": 3})
    assert any("two formats are taught under one prompt" in c for c in plan.caveats)
    plan, count, tagged = taught("reasoning")
    assert (count, tagged, plan.targets, plan.task.rows) == (5, 5, {"reasoning and answer": 5}, 5)
    assert plan.task.fingerprint != mixed.card.fingerprint
    plan, count, tagged = taught("answer", rows)
    assert (count, tagged, plan.targets) == (8, 0, {"answer alone": 8})
    bare = splits.with_samples(mixed, mixed.samples[:3])
    with pytest.raises(UserError, match="has no row with reference reasoning"):
        make("sft", bare, tmp_path / "x", "target=reasoning", "batch_size=2")[0].plan()
    with pytest.raises(UserError, match="'target': means nothing to rarl"):
        make("rarl", rows, tmp_path / "x", "target=answer")[0].plan()


def test_rows_without_reasoning_are_counted_for_the_reward(mixed, tmp_path):
    plan = make("rarl", mixed, tmp_path / "x")[0].plan()
    assert plan.explained == 5
    assert any("5 of 8 rows have reference reasoning; reward 'reasoning' is left out" in c for c in plan.caveats)


# -- prompts --------------------------------------------------------------------------------------------------------------


def test_a_tasks_own_prompt_is_trained_on_and_scored_with(rows, tmp_path):
    import dataclasses

    from trainers import dev_scores

    spec = rows.spec.model_copy(update={"prompts": {"terse": "In a word: {question}"}, "prompt": "terse"})
    own = dataclasses.replace(rows, spec=spec)
    trainer, _ = make("sft", own, tmp_path / "x", dev=own)
    assert trainer.recipe.prompts == {"terse": 1.0}  # the task's default, where the recipe names none
    asked = {row["prompt"][0]["content"] for row in trainer.dataset(completions=True)}
    assert asked == {f"In a word: {s.question}" for s in rows.samples}
    plan = trainer.plan()
    (prompt,) = plan.prompts
    assert (prompt.name, prompt.rows, prompt.template) == ("terse", 8, "In a word: {question}")
    assert f"In a word: {rows.samples[0].question}" in prompt.example
    assert prompt.example.endswith("</answer>")
    assert dev_scores.prompt(trainer).template == "In a word: {question}"
    assert plan.dev_scores["prompt_of_the_training"]
    from harness.cli.train import _prompt

    assert _prompt(trainer) == ""
    both, _ = make("rarl", own, tmp_path / "x", "prompts={terse: 1, short_form: 1}", dev=own)
    assert dev_scores.prompt(both).name == "terse"
    assert any("dev rows are asked with prompt 'terse', the training with terse, short_form" in c for c in both.plan().caveats)
    other, _ = make("sft", own, tmp_path / "x", "prompts={question: 1}", "dev_prompt=short_form", dev=own)
    assert dev_scores.prompt(other).name == "short_form"
    assert _prompt(other) == " --prompt question"
    with pytest.raises(UserError, match="recipe key 'prompts': task 'slake_grounded' knows no prompt named 'ters'") as e:
        make("sft", own, tmp_path / "x", "prompts={ters: 1}")
    assert e.value.hint == "did you mean 'terse'?"
    with pytest.raises(UserError, match="recipe key 'dev_prompt'"):
        make("sft", own, tmp_path / "x", "dev_prompt=ters")


def test_a_best_that_chance_chooses_is_said(rows, tmp_path):
    few = splits.with_samples(rows, rows.samples[:3])
    caveats = make("sft", rows, tmp_path / "x", dev=few)[0].plan().caveats
    assert any("best/ will be chosen by 3 dev rows in" in c and "below 50 rows and 20 clusters" in c for c in caveats)
    validation = load("slake_grounded", split="validation")
    assert not make("sft", rows, tmp_path / "x", dev=validation)[0].plan().caveats


def test_the_plan_shows_what_trl_is_built_with(rows, tmp_path):
    trainer, _ = make("rarl", rows, tmp_path / "x", "max_grad_norm=0.5")
    plan, args = trainer.plan(), trainer.config()
    assert plan.optimizer["max_grad_norm"] == 0.5
    for name in ("adam_beta2", "weight_decay", "warmup_steps", "learning_rate", "top_k", "epsilon", "seed"):
        assert plan.optimizer[name] == getattr(args, name)
    assert args.logging_nan_inf_filter is False
    from rich.console import Console

    from trainers import plan_view

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(plan_view.render(plan))
    shown = " ".join(console.export_text().split())
    assert "adam_beta2 0.999" in shown
    assert "lr_scheduler_type linear" in shown
    assert "format x 1, length x 1, accuracy x 1, reasoning x 1" in shown
    assert all(p.name in shown for p in plan.prompts)


def test_patients_are_not_split(rows):
    """A cluster that the test shows is not held out, and one that is held out does not train."""
    groups = list(dict.fromkeys(s.cluster for s in rows.samples))
    several = rows.samples + load("slake_grounded", split="train", limit=60).samples[8:]
    for s in several:  # as a task that names patients would have it: two images each
        s.__dict__["cluster"] = f"patient {int(s.images[0].sha256, 16) % 12}"
    task = splits.with_samples(rows, several)
    test = {several[0].cluster}
    train, dev = splits.hold_out(task, test, 0)
    assert groups
    assert not {s.cluster for s in dev.samples} & {s.cluster for s in train.samples}
    assert several[0].cluster not in {s.cluster for s in dev.samples}
    with pytest.raises(UserError, match=r"shares 1 cluster\(s\) with the test split"):
        splits.check_dev(train, dev, {dev.samples[0].cluster})
