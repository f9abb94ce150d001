"""Several processes, configurations for more devices, trackers, and going on from an adapter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import trainers
from harness import plugins
from harness.errors import UserError
from tests.conftest import load
from trainers import recipe

CONFIGS = Path(trainers.__file__).parent / "configs"
SMALL = ("batch_size=4", "num_generations=2", "max_completion_length=24", "max_steps=2", "learning_rate=2e-3")


@pytest.fixture(scope="module")
def rows():
    return load("slake_grounded", split="train", limit=12)


def make(name, rows, out, *settings, model="tiny", **options):
    return plugins.load("trainers", name)(model, rows, recipe.load(name, "tiny", None, settings), out, device="cpu", **options)


def logged(out, key):
    return [json.loads(line)[key] for line in (out / "log.jsonl").read_text().splitlines()]


def test_two_processes_train_one_model(tmp_path):
    """Over gloo: both see the group's rewards, rank 0 alone writes, and one checkpoint comes of it."""
    out = tmp_path / "x"
    options = (
        "train grpo --model tiny --task slake_grounded --data bundled --samples 12 --set dev=none --set save_steps=1 --quiet"
    )
    settings = [f"--set {s}" for s in SMALL]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "harness"]
    command = [*launcher, *options.split(), *" ".join(settings).split(), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "trained.json").read_text())["rows_per_step"] == 4  # two processes of two questions each
    completions = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert len(completions) == 2 * 8
    assert len({(c["step"], c["sample_id"]) for c in completions}) == 2 * 4
    assert len(logged(out, "reward")) == 2
    assert any(t.abs().max() > 0 for n, t in load_file(out / "adapter_model.safetensors").items() if "lora_B" in n)
    assert done.stdout.count("checkpoint:") == 1


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_configurations_are_accelerates_own(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes == 2


def test_curves_go_to_tensorboard_too(rows, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = make("sft", rows, tmp_path / "x", *SMALL, report_to=["tensorboard"]).fit()
    (events,) = out.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events)).Reload()
    assert [e.value for e in found.Scalars("train/loss")] == pytest.approx(logged(out, "loss"))


def test_trackers_are_checked_first():
    from harness.cli.train_setup import trackers

    assert trackers(None) == []
    assert trackers("tensorboard") == ["tensorboard"]
    with pytest.raises(UserError, match="--report-to tensorbord: unknown") as e:
        trackers("tensorbord")
    assert e.value.hint == "did you mean 'tensorboard'?"


def test_the_panel_says_what_is_known():
    from harness.cli.train_panel import Panel

    panel = Panel("rarl: tiny", 10)
    assert [name for name, _ in panel.facts()] == ["memory"]
    for step in (1, 2):
        panel(step, 10, {"reward": 1.25, "rewards/format/mean": 0.5, "kl": 0.01, "num_tokens": 100.0 * step})
    panel(2, 10, {"dev": 0.25})
    facts = dict(panel.facts())
    assert (facts["format"], facts["reward"], facts["KL"], facts["dev"]) == ("0.500", "1.250", "0.010", "25.0 %")
    assert facts["speed"].endswith("tokens/s")
    assert "left" in facts
    from rich.console import Console

    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(panel.render())
    _, head, bar, *cells, _ = console.export_text().splitlines()
    assert "step 2 of 10" in head
    assert set(bar) <= set("│ ━╸╺")
    assert "format 0.500" in cells[0]


@pytest.fixture(scope="module")
def adapter(rows, tmp_path_factory):
    return make(
        "sft", rows, tmp_path_factory.mktemp("adapter") / "sft", "max_steps=4", "batch_size=4", "learning_rate=3e-3"
    ).fit()


@pytest.mark.parametrize("reference", ["base", "init"])
def test_an_adapter_is_trained_on_against_its_base_or_itself(rows, tmp_path, adapter, reference):
    out = make("grpo", rows, tmp_path / "x", *SMALL, f"kl_reference={reference}", model=str(adapter)).fit()
    before, after = (load_file(f / "adapter_model.safetensors") for f in (adapter, out))
    assert before.keys() == after.keys()
    assert not (out / "ref").exists()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    first = logged(out, "kl")[0]
    if reference == "init":
        assert first == pytest.approx(0, abs=1e-6)  # the policy is the reference still
    else:
        assert first > 1e-3  # the adapter has left the base


def test_an_adapter_of_another_shape_is_refused(rows, tmp_path, adapter):
    with pytest.raises(UserError, match="is an adapter of another shape") as e:
        make("grpo", rows, tmp_path / "x", "lora.r=4", model=str(adapter)).fit()
    assert "--merge" in e.value.hint
    with pytest.raises(UserError, match="the recipe trains all weights"):
        make("grpo", rows, tmp_path / "x", "lora=null", model=str(adapter))
    assert not (tmp_path / "x").exists()


def test_quantized_training_is_refused_where_it_cannot_be(rows, tmp_path):
    with pytest.raises(UserError, match="needs a CUDA device"):
        make("grpo", rows, tmp_path / "x", "quantize=4bit")
    with pytest.raises(UserError, match="trains adapters alone"):
        make("grpo", rows, tmp_path / "x", "quantize=4bit", "lora=null")


def test_weights_that_train_are_fp32(rows, tmp_path):
    """bf16 would round the updates of full training away."""
    model = make("grpo", rows, tmp_path / "x", "lora=null").load("cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.model.visual.parameters())


def test_training_opens_no_socket(tmp_path):
    """An audit hook sees every socket that Python connects or resolves, TRL's own reports of its use among them."""
    program = f"""
import sys, pathlib
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("SOCKET", event, args, flush=True)
sys.addaudithook(hook)
from harness.cli.train_setup import make
settings = ["max_steps=1", "batch_size=2", "num_generations=2", "max_completion_length=4", "dev=none"]
out = pathlib.Path({str(tmp_path)!r})
for name in ("sft", "grpo"):
    make(name, "tiny", "slake_grounded", None, settings, out / name, data="bundled", device="cpu", samples=4)[0].fit()
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SOCKET" not in done.stdout
    assert (tmp_path / "grpo" / "trained.json").exists()


def launched(out, *settings):
    """Two processes of `harness train`, started as torchrun does."""
    options = "train grpo --model tiny --task slake_grounded --data bundled --samples 12 --set dev=none --quiet"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "harness"]
    command = [*launcher, *options.split(), *(w for s in (*SMALL, *settings) for w in ("--set", s)), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    """At a rate that breaks the model both stop at the same step; one says why, and nothing is saved."""
    process = launched(tmp_path / "x", "learning_rate=1e30", "save_steps=1", "rewards={length: 1, format: 1}")
    _, said = process.communicate()
    assert process.returncode == 1
    assert said.count("stopped at step") == 1
    assert not list((tmp_path / "x").glob("checkpoint-*"))


@pytest.mark.slow
def test_two_processes_are_terminated_together(tmp_path):
    """SIGTERM to the launcher reaches both: they agree on a step, and its checkpoint is whole."""
    import signal
    import time

    from trainers import checkpoint

    process = launched(tmp_path / "x", "max_steps=500", "save_steps=500")
    log = tmp_path / "x" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    last, _ = checkpoint.last_whole(tmp_path / "x")
    assert last is not None, said
    assert f"ended by SIGTERM; {last.name} is saved" in said
