"""A scheduler's warning, a full disk, a second process: what is on disk is whole, and one line says how to go on."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from harness.errors import RunError, Terminated, UserError
from tests.conftest import load
from tests.test_train_resume import SMALL, lines, make, same, weights
from trainers import checkpoint, disk, machine, resuming
from trainers import plan as plans
from trainers.runfile import as_yaml, read_run
from trainers.stopping import Stopping

SETTINGS = (*SMALL, "batch_size=2", "save_steps=4", "max_steps=6")


@pytest.fixture(scope="module")
def rows():
    return load("slake_grounded", split="train", limit=6)


@pytest.fixture(scope="module")
def dev():
    return load("slake_grounded", split="validation", limit=3)


@pytest.fixture(scope="module")
def whole(rows, dev, tmp_path_factory):
    """An uninterrupted training, scored on dev rows."""
    out = tmp_path_factory.mktemp("whole") / "sft"
    make("sft", rows, out, *SETTINGS, dev=dev).fit()
    return out


# -- signals --------------------------------------------------------------------------------------------------------------


def sent(signum, when):
    def report(step, steps, log):
        if when(step, log):
            os.kill(os.getpid(), signum)

    return report


@pytest.mark.parametrize(
    ("signum", "when", "kept"),
    [
        (signal.SIGTERM, lambda step, log: step == 2 and "loss" in log, 3),  # in a step: the one that follows the log
        (signal.SIGUSR1, lambda step, log: step == 4 and "loss" in log, 4),  # while a checkpoint is saved: before its score
        (signal.SIGTERM, lambda step, log: "dev" in log and step == 4, 5),
    ],
    ids=["in a step", "before saving", "after a score"],
)
def test_a_signal_saves_a_checkpoint_and_the_training_goes_on_from_it(rows, dev, whole, tmp_path, signum, when, kept):
    out = tmp_path / "x"
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Terminated) as e:
        make("sft", rows, out, *SETTINGS, dev=dev, report=sent(signum, when)).fit()
    assert (e.value.signum, e.value.kept) == (signum, f"checkpoint-{kept} is saved")
    assert checkpoint.last_whole(out)[0] == out / f"checkpoint-{kept}"
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    make("sft", rows, out, *SETTINGS, dev=dev).fit()
    same(out, whole)
    for log in ("log.jsonl", "dev.jsonl"):  # a checkpoint that only a signal asked for is not scored, and goes
        assert lines(out / log) == lines(whole / log)
    assert [c.name for c in checkpoint.checkpoints(out)] == [c.name for c in checkpoint.checkpoints(whole)]
    assert not list(out.glob(".*"))


def test_a_signal_while_a_checkpoint_is_scored_is_heard_at_once(rows, dev, whole, tmp_path, monkeypatch):
    from harness.models.transformers_model import TransformersModel

    real = TransformersModel.generate
    calls = []

    def generate(self, *a, **k):
        calls.append(1)
        if len(calls) == 2:  # the base was the first
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *a, **k)

    with monkeypatch.context() as patched:
        patched.setattr(TransformersModel, "generate", generate)
        with pytest.raises(Terminated):
            make("sft", rows, tmp_path / "x", *SETTINGS, dev=dev).fit()
    assert checkpoint.last_whole(tmp_path / "x")[0] == tmp_path / "x" / "checkpoint-4"
    assert [r["step"] for r in lines(tmp_path / "x" / "dev.jsonl")] == [0]
    make("sft", rows, tmp_path / "x", *SETTINGS, dev=dev).fit()
    same(tmp_path / "x", whole)
    assert lines(tmp_path / "x" / "dev.jsonl") == lines(whole / "dev.jsonl")


@pytest.mark.slow
def test_terminated_for_real(tmp_path):
    """kill -TERM of the real command: exit code 143, and the same command again gives the weights of an uninterrupted run."""
    settings = [*SMALL, "dev=none", "save_steps=50"]
    options = "train rarl --model tiny --task slake_grounded --data bundled --samples 6 --device cpu --quiet"
    command = [sys.executable, "-m", "harness", *options.split(), *" ".join(f"--set {s}" for s in settings).split()]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([*command, "--out", tmp_path / "x"], env=environment, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "x" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM == 143, said
    last, _ = checkpoint.last_whole(tmp_path / "x")
    assert f"ended by SIGTERM; {last.name} is saved" in said
    assert "Traceback" not in said
    from harness.cli.train import resume
    from harness.cli.train_setup import make as from_command_line

    resume(tmp_path / "x", quiet=True)
    from_command_line(
        "rarl", "tiny", "slake_grounded", None, settings, tmp_path / "whole", data="bundled", device="cpu", samples=6
    )[0].fit()  # fmt: skip
    same(tmp_path / "x", tmp_path / "whole")


def test_what_need_not_be_finished_is_left_at_once():
    with Stopping() as stopping, pytest.raises(Terminated):  # noqa: PT012 the signal is heard a moment later
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    with Stopping() as stopping, stopping.working():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        with pytest.raises(Terminated), stopping.at_once():
            pytest.fail("was not left")
        assert stopping.asked == signal.SIGTERM


# -- the disk -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(rows, tmp_path):
    """The file system takes no file beyond some size: the first checkpoint fits, the optimizer's state of later ones does not."""
    small = (*SMALL, "batch_size=2", "save_steps=1", "max_steps=3")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(step, steps, log):
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        with pytest.raises(disk.DiskError, match="could not be written: ") as e:
            make("sft", rows, tmp_path / "x", *small, report=full).fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert e.value.exit_code == 1
    assert "\n" not in str(e.value)
    assert "make room; " in e.value.hint
    assert f"{tmp_path / 'x' / 'checkpoint-1'} is whole" in e.value.hint
    assert [c.name for c in checkpoint.checkpoints(tmp_path / "x")] == ["checkpoint-1"]  # the torn one only took up room
    make("sft", rows, tmp_path / "x", *small).fit()
    assert weights(tmp_path / "x")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "log.jsonl"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=str,
)
def test_every_librarys_way_to_say_so(tmp_path, error):
    with pytest.raises(disk.DiskError), disk.kept(tmp_path):
        raise error
    with pytest.raises(ValueError, match="other"), disk.kept(tmp_path):
        raise ValueError("other")


def test_a_disk_that_will_not_do_is_known_before(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free", lambda folder: 1000)
    with pytest.raises(UserError, match=r"needs about 0\.0 GB, and 0\.0 GB are free"):
        make("sft", rows, tmp_path / "x", *SETTINGS).fit()
    assert not (tmp_path / "x").exists()


# -- other processes, other versions --------------------------------------------------------------------------------------


def test_one_process_trains_into_a_folder(rows, tmp_path):
    with resuming.alone(tmp_path / "x"):
        trainer = make("sft", rows, tmp_path / "x", *SETTINGS)
        with pytest.raises(RunError, match="another process is training into it"):
            trainer.fit()
    assert not list((tmp_path / "x").iterdir())


def test_going_on_with_other_versions_is_said(rows, whole, tmp_path):
    import shutil

    out = tmp_path / "x"
    shutil.copytree(whole, out)
    (out / "trained.json").unlink()
    run = read_run(out)
    (out / "run.yaml").write_text(as_yaml(run | {"packages": run["packages"] | {"torch": "1.0"}}))
    dev = load("slake_grounded", split="validation", limit=3)
    assert any(
        "begun with other versions (torch 1.0, now " in c for c in make("sft", rows, out, *SETTINGS, dev=dev).plan().caveats
    )
    held = {k: v for k, v in run["recipe"].items() if k not in ("target", "precision", "max_grad_norm", "stop_without_signal")}
    (out / "run.yaml").write_text(as_yaml(run | {"recipe": held}))  # of an older version, which had today's defaults
    make("sft", rows, out, *SETTINGS, dev=dev)
    with pytest.raises(UserError, match=r"another recipe \(learning_rate\)"):
        make("sft", rows, out, *SETTINGS, "learning_rate=1e-4", dev=dev)


# -- memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "2000000", "a/b/memory.max": "max"}, 2e6),  # a limit above counts too
        ("0::/host/path\n", {"memory.max": "3000000"}, 3e6),  # seen from within a container
        ("5:cpu:/\n4:memory:/job\n", {"memory/job/memory.limit_in_bytes": "1000000"}, 1e6),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),  # version 1's "none"
        ("", {}, None),
    ],
)
def test_a_containers_limit_is_the_memory_there_is(tmp_path, cgroup, files, limit):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert machine.machine_memory(tmp_path) == (limit or machine._built_in())


def test_a_row_longer_than_the_models_positions_is_refused(rows, tmp_path):
    trainer = make("grpo", rows, tmp_path / "x", "batch_size=4", "num_generations=2", "max_completion_length=3000")
    with pytest.raises(UserError, match=r"tokens with its completion, and the model has 2048 positions"):
        trainer.plan().check()
    assert plans.USABLE < 1
