"""A training that is killed goes on from its last whole checkpoint, and ends with the weights of one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from harness import plugins
from harness.errors import RunError, UserError
from tests.conftest import load
from trainers import checkpoint, recipe
from trainers.runfile import as_yaml, read_run

SMALL = ("batch_size=4", "num_generations=2", "max_completion_length=12", "learning_rate=1e-3", "save_steps=1", "max_steps=7")


@pytest.fixture(scope="module")
def rows():
    """Six rows are three steps an epoch: seven steps cross into the third epoch."""
    return load("slake_grounded", split="train", limit=6)


def make(name, rows, out, *settings, **options):
    return plugins.load("trainers", name)("tiny", rows, recipe.load(name, "tiny", None, settings), out, device="cpu", **options)


class Stop(Exception):
    pass


def stop_at(step):
    def report(now, steps, log):
        if now == step:
            raise Stop

    return report


def weights(out):
    (file,) = out.glob("*.safetensors")
    return load_file(file)


def same(a, b):
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def lines(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("step_time", "records")} for r in rows]


@pytest.fixture(scope="module", params=[("rarl", ()), ("sft", ("batch_size=2",)), ("rarl", ("lora=null",))], ids=str)
def whole(request, rows, tmp_path_factory):
    """A trainer's name and settings, and the folder of its uninterrupted run."""
    name, more = request.param
    out = tmp_path_factory.mktemp("whole") / name
    make(name, rows, out, *SMALL, *more).fit()
    first, last = weights(out / "checkpoint-1"), weights(out)
    assert any(not torch.equal(first[k], last[k]) for k in first)  # weights that stay where they were resume by themselves
    return name, more, out


@pytest.mark.parametrize("after", [3, 5])  # at the end of the first epoch, within the second
def test_resumed_equals_uninterrupted(whole, rows, tmp_path, after):
    name, more, uninterrupted = whole
    out = tmp_path / name
    with pytest.raises(Stop):
        make(name, rows, out, *SMALL, *more, report=stop_at(after + 1)).fit()
    assert [checkpoint.step_of(c) for c in checkpoint.checkpoints(out)] == list(range(1, after + 1))
    make(name, rows, out, *SMALL, *more).fit()
    same(out, uninterrupted)
    assert lines(out / "log.jsonl") == lines(uninterrupted / "log.jsonl")
    if name != "sft":
        assert lines(out / "completions.jsonl") == lines(uninterrupted / "completions.jsonl")


def test_from_any_checkpoint(whole, rows, tmp_path):
    name, more, uninterrupted = whole
    out = tmp_path / name
    shutil.copytree(uninterrupted, out)
    (out / "trained.json").unlink()  # as if it had been killed at the end
    make(name, rows, out, *SMALL, *more).fit(out / "checkpoint-2")
    same(out, uninterrupted)
    assert lines(out / "log.jsonl") == lines(uninterrupted / "log.jsonl")


def test_killed_after_the_last_step(whole, rows, tmp_path):
    """The last checkpoint lies within an epoch, and not one step more is trained."""
    name, more, uninterrupted = whole
    out = tmp_path / name
    shutil.copytree(uninterrupted, out)
    for file in [*out.glob("*.safetensors"), out / "trained.json", out / "curves.png"]:
        file.unlink()
    make(name, rows, out, *SMALL, *more).fit()
    same(out, uninterrupted)
    assert lines(out / "log.jsonl") == lines(uninterrupted / "log.jsonl")
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in uninterrupted.iterdir())
    assert "step" not in json.loads((out / "trained.json").read_text())


def test_killed_in_the_middle(tmp_path):
    """kill -9 of the real command, then `harness train resume`."""
    from harness.cli.train import resume
    from harness.cli.train_setup import make as from_command_line

    settings = [*SMALL, "dev_rows=4", "save_steps=2"]
    from_command_line(
        "rarl", "tiny", "slake_grounded", None, settings, tmp_path / "whole", data="bundled", device="cpu", samples=6
    )[0].fit()  # fmt: skip
    options = "train rarl --model tiny --task slake_grounded --data bundled --samples 6 --device cpu --quiet"
    command = [sys.executable, "-m", "harness", *options.split(), *" ".join(f"--set {s}" for s in settings).split()]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([*command, "--out", tmp_path / "killed"], env=environment, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "log.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was still at work
    resume(tmp_path / "killed", quiet=True)
    same(tmp_path / "killed", tmp_path / "whole")
    for name in ("log.jsonl", "completions.jsonl", "dev.jsonl"):
        assert lines(tmp_path / "killed" / name) == lines(tmp_path / "whole" / name)
    with pytest.raises(UserError, match="is finished"):
        resume(tmp_path / "killed")


@pytest.fixture
def interrupted(rows, tmp_path):
    out = tmp_path / "x"
    with pytest.raises(Stop):
        make("sft", rows, out, *SMALL, "batch_size=2", report=stop_at(4)).fit()
    return out


def test_torn_checkpoints_are_passed_over_or_refused(interrupted):
    out = interrupted
    torn = out / "checkpoint-3"
    data = (torn / "adapter_model.safetensors").read_bytes()
    (torn / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])
    found, passed = checkpoint.last_whole(out)
    assert found == out / "checkpoint-2"
    assert passed == {"checkpoint-3": "adapter_model.safetensors is not as it was written"}
    with pytest.raises(RunError, match=r"a torn checkpoint: adapter_model\.safetensors is not as it was written") as e:
        checkpoint.whole(torn)
    assert e.value.hint == f"go on from {out / 'checkpoint-2'}"
    (out / "checkpoint-2" / "SHA256SUMS").unlink()
    (out / "checkpoint-1" / "optimizer.pt").unlink()
    found, passed = checkpoint.last_whole(out)
    assert found is None
    assert passed["checkpoint-2"] == "no SHA256SUMS: writing it was interrupted"
    assert passed["checkpoint-1"] == "optimizer.pt is missing"
    with pytest.raises(RunError, match="torn") as e:
        checkpoint.whole(torn)
    assert "start again" in e.value.hint


def test_the_sums_are_what_sha256sum_reads(interrupted):
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=interrupted / "checkpoint-2", capture_output=True, text=True)
    assert done.returncode == 0
    assert "optimizer.pt: OK" in done.stdout


def test_an_unfinished_folder_is_no_model(interrupted):
    from harness.errors import ModelError
    from harness.models import loading

    with pytest.raises(ModelError, match=r"no config\.json"):
        loading.resolve(str(interrupted))
    assert loading.resolve(str(interrupted / "checkpoint-2")).trainer == "sft"


def test_another_training_is_refused_and_the_same_goes_on(rows, interrupted):
    with pytest.raises(UserError, match="holds an unfinished training with another recipe") as e:
        make("sft", rows, interrupted, *SMALL, "batch_size=2", "learning_rate=2e-3")
    assert f"harness train resume {interrupted}" in e.value.hint
    with pytest.raises(UserError, match="with another trainer"):
        make("grpo", rows, interrupted, *SMALL)
    with pytest.raises(UserError, match="with another data fingerprint"):
        make("sft", load("slake_grounded", split="train", limit=7), interrupted, *SMALL, "batch_size=2")
    make("sft", rows, interrupted, *SMALL, "batch_size=2").fit()
    with pytest.raises(UserError, match="is not an empty folder"):
        make("sft", rows, interrupted, *SMALL, "batch_size=2")


def test_stopped_before_the_first_checkpoint_starts_again(rows, tmp_path):
    settings = (*SMALL, "batch_size=2", "save_steps=5", "max_steps=3")
    with pytest.raises(Stop):
        make("sft", rows, tmp_path / "x", *settings, report=stop_at(2)).fit()
    make("sft", rows, tmp_path / "x", *settings).fit()
    assert [r["step"] for r in lines(tmp_path / "x" / "log.jsonl")] == [1, 2, 3]


def test_killed_while_going_back(rows, interrupted, monkeypatch):
    """No checkpoint is left whose log has a gap before it."""

    def killed(*_):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_atomic", killed)
        with pytest.raises(Stop):
            checkpoint.rewind(interrupted, 2)
    assert [c.name for c in checkpoint.checkpoints(interrupted)] == ["checkpoint-1", "checkpoint-2"]
    make("sft", rows, interrupted, *SMALL, "batch_size=2").fit()
    assert [r["step"] for r in lines(interrupted / "log.jsonl")] == list(range(1, 8))
    assert not list(interrupted.glob(".*"))


def test_what_reached_a_checkpoint_is_never_thrown_away(rows, interrupted):
    for step in (1, 2, 3):
        (interrupted / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(RunError, match=r"no whole checkpoint is left to go on from \(checkpoint-3: optimizer.pt is missing\)"):
        make("sft", rows, interrupted, *SMALL, "batch_size=2").fit()
    assert len(lines(interrupted / "log.jsonl")) == 4


def test_killed_while_the_first_checkpoint_was_written_starts_again(rows, interrupted):
    for step in (2, 3):
        shutil.rmtree(interrupted / f"checkpoint-{step}")
    (interrupted / "checkpoint-1" / "SHA256SUMS").unlink()
    make("sft", rows, interrupted, *SMALL, "batch_size=2").fit()
    assert [r["step"] for r in lines(interrupted / "log.jsonl")] == list(range(1, 8))


def test_killed_before_anything_was_written(rows, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".run.yaml.77.tmp").write_text("trai")
    make("sft", rows, tmp_path / "x", *SMALL, "batch_size=2")
    (tmp_path / "x" / "mine.txt").write_text("hello")
    with pytest.raises(UserError, match="is not an empty folder"):
        make("sft", rows, tmp_path / "x", *SMALL, "batch_size=2")


def test_a_model_that_was_downloaded_after_the_start(rows, interrupted):
    """run.yaml did not know its hash yet; it does now."""
    run = read_run(interrupted)
    (interrupted / "run.yaml").write_text(as_yaml(run | {"weights_sha256": None}))
    make("sft", rows, interrupted, *SMALL, "batch_size=2").fit()
    assert read_run(interrupted)["weights_sha256"] == run["weights_sha256"]


def test_a_torn_last_line_of_the_log_is_no_harm(rows, interrupted):
    with open(interrupted / "log.jsonl", "a") as f:
        f.write('{"step": 4, "lo')
    make("sft", rows, interrupted, *SMALL, "batch_size=2").fit()
    assert [r["step"] for r in lines(interrupted / "log.jsonl")] == list(range(1, 8))


def test_a_run_yaml_that_is_damaged_or_of_another_version(interrupted):
    from harness.cli.train import resume

    run = read_run(interrupted)
    for damaged, message in (
        ({k: v for k, v in run.items() if k != "trainer"}, r"is not what a training leaves \(no trainer\)"),
        (run, "does not say task, split, data, data_dir, device"),
        (
            run | dict.fromkeys(("task", "split", "data", "data_dir", "device")) | {"recipe": {"learning_rat": 1}},
            r"run\.yaml: unknown key 'learning_rat'",
        ),
    ):
        (interrupted / "run.yaml").write_text(as_yaml(damaged))
        with pytest.raises(UserError, match=message):
            resume(interrupted, quiet=True)


def test_a_torn_checkpoint_is_not_exported(interrupted, tmp_path):
    from trainers.export import export

    export(interrupted / "checkpoint-2", tmp_path / "two")
    (interrupted / "checkpoint-3" / "SHA256SUMS").unlink()
    with pytest.raises(RunError, match="a torn checkpoint"):
        export(interrupted / "checkpoint-3", tmp_path / "three")


def test_not_a_training_folder(tmp_path):
    with pytest.raises(RunError, match=r"run\.yaml: cannot be read") as e:
        read_run(tmp_path)
    assert e.value.hint == "give the --out folder of a training"
    with pytest.raises(RunError, match="there is no such checkpoint"):
        checkpoint.whole(tmp_path / "checkpoint-99")
    with pytest.raises(RunError, match="is no checkpoint"):
        checkpoint.step_of(tmp_path / "checkpoint-last")
