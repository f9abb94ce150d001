"""Several processes, one run: two gloo ranks on the CPU give the predictions of one process."""

import json
import os
import socket
import subprocess
import sys

import pytest

from harness.distributed import Rank, shard
from harness.records import Prediction
from harness.runs import RunFolder
from tests.conftest import load

OPTIONS = "--data bundled --limit 110 --prompt question --max-new-tokens 16 --device cpu --json"
COMMAND = f"-m harness run --model tiny --tasks slake,vqa_rad {OPTIONS}"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def call(runs, launcher=()):
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, *COMMAND.split(), "--runs", str(runs)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=280, check=False)


def torchrun():
    """`accelerate launch --cpu` would start one process, whatever it is told."""
    where = f"--master_addr 127.0.0.1 --master_port {free_port()}"
    return f"-m torch.distributed.run --nproc_per_node 2 {where}".split()


def ranks(tmp_path, words):
    """Two gloo ranks, each with its own command line; `words` may hold $RANK."""
    where = f"--master_addr 127.0.0.1 --master_port {free_port()}"
    command = f"exec {sys.executable} {COMMAND.replace('--limit 110', '')} {words}"
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RUNS": str(tmp_path)}
    launcher = f"-m torch.distributed.run --nproc_per_node 2 {where} --no_python".split()
    whole = [sys.executable, *launcher, "bash", "-c", command]
    return subprocess.run(whole, capture_output=True, text=True, env=env, timeout=280, check=False)


def run(runs, launcher=()):
    done = call(runs, launcher)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folders(runs)


def folders(runs):
    return [RunFolder(p.parent) for p in sorted(runs.glob("*/*/card.json"))]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process makes of it."""
    return run(tmp_path_factory.mktemp("one"))


def test_two_ranks_equal_one_process(one, tmp_path):
    """220 rows: SLAKE's square images and VQA-RAD's of every shape."""
    document, alone = one
    shared_document, shared = run(tmp_path, torchrun())
    assert [f.card().processes for f in (*alone, *shared)] == [1, 1, 2, 2]
    for a, b in zip(alone, shared, strict=True):
        assert len(a.predictions()) == 110
        assert b.predictions() == a.predictions()
        assert not list(b.path.glob("predictions.rank*"))
        assert b.path.name == a.path.name
    assert [c["value"] for c in shared_document["cells"]] == [c["value"] for c in document["cells"]]


def test_a_folder_that_is_taken_ends_every_rank(one, tmp_path):
    """Rank 1 does not wait for a folder that rank 0 cannot have: one message, no traceback of ours, nothing written."""
    _, (folder, _) = one
    before = {p: p.stat().st_mtime_ns for p in folder.path.iterdir() if p.name != ".lock"}
    with folder:
        done = call(folder.root, torchrun())
    assert done.returncode != 0
    assert done.stdout == ""
    assert "another process is writing this run" in done.stderr
    assert "harness/pipeline.py" not in done.stderr
    assert {p: p.stat().st_mtime_ns for p in folder.path.iterdir() if p.name != ".lock"} == before


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_refused_before_any_work(tmp_path):
    """Two hosts with a disk of their own each: rank 0 would have scored its own rows alone."""
    done = ranks(tmp_path, "--limit 30 --runs $RUNS/$RANK")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "rank 1 does not see the folder that rank 0 writes" in done.stderr
    for rank in (0, 1):
        assert f"error: rank {rank} of 2: " in done.stderr  # each says so
    assert done.stderr.count("exitcode  : 1") == 2
    assert "harness/" not in done.stderr.split("=====")[0].replace("harness run", "")  # no traceback of ours
    assert not list(tmp_path.rglob("scores.json"))
    assert not list(tmp_path.rglob("predictions*.jsonl"))


@pytest.mark.slow
def test_ranks_that_read_other_rows_are_refused_before_any_work(tmp_path):
    done = ranks(tmp_path, "--limit 3$RANK --runs $RUNS")
    assert done.returncode != 0
    assert "rank 1 works on other rows than rank 0" in done.stderr
    assert done.stderr.count("exitcode  : 1") == 2
    assert not list(tmp_path.rglob("scores.json"))
    done = ranks(tmp_path, "--limit 30 --runs $RUNS --seed $RANK")
    assert "rank 1 works on other generation arguments than rank 0" in done.stderr


@pytest.mark.slow
def test_a_rank_that_fails_says_which_it_is(tmp_path):
    done = ranks(tmp_path, "--limit 30 --runs $RUNS --on-bad-row $([ $RANK = 1 ] && echo none || echo fail)")
    assert done.returncode != 0
    assert "error: rank 1 of 2: --on-bad-row none: unknown" in done.stderr
    assert not list(tmp_path.rglob("scores.json"))


class Forgetful:
    """A model that leaves a row out, or answers one twice."""

    def __init__(self, model, change):
        self.model, self.change = model, change

    @property
    def card(self):
        return self.model.card

    def generate(self, samples, prompt, args):
        yield self.change([p for batch in self.model.generate(samples, prompt, args) for p in batch])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], r"the model gave no answer to 1 rows"),
        (lambda rows: [*rows, rows[0]], "twice, or without being asked"),
        (lambda rows: [*rows[:-1], rows[0].model_copy(update={"sample_id": "other"})], "'other' twice, or without being asked"),
    ],
)
def test_every_row_has_one_answer_or_it_is_an_error(tiny, tmp_path, change, said):
    from harness import pipeline
    from harness.errors import RanksError
    from harness.prompts import PROMPTS
    from harness.records import GenerationArgs
    from judges.exact import ExactJudge

    task, args = load("slake", limit=6), GenerationArgs(max_new_tokens=4)
    with pytest.raises(RanksError, match=said) as caught:
        pipeline.run(task, Forgetful(tiny, change), PROMPTS["question"], args, [ExactJudge()], tmp_path)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.rglob("scores.json"))
    folder = pipeline.run(task, tiny, PROMPTS["question"], args, [ExactJudge()], tmp_path)  # it goes on
    assert len(folder.predictions()) == 6


def test_shards_are_whole_images_and_balanced(slake):
    parts = [shard(slake.samples, Rank(i, 3)) for i in range(3)]
    assert sorted(s.id for p in parts for s in p) == sorted(s.id for s in slake.samples)
    clusters = [{s.cluster for s in p} for p in parts]
    assert not (clusters[0] & clusters[1] | clusters[0] & clusters[2] | clusters[1] & clusters[2])
    assert max(map(len, parts)) - min(map(len, parts)) <= 20
    assert shard(slake.samples, Rank()) == slake.samples


def test_what_a_killed_rank_left_is_gathered_once(tmp_path):
    folder = RunFolder(tmp_path)

    def row(i):
        return Prediction(
            sample_id=str(i), text=f"{i}", reasoning=None, answer=f"{i}", finish="stop", prompt_tokens=1, completion_tokens=1
        )

    folder.add_predictions([row(0), row(1)])
    folder.add_predictions([row(1), row(2)], rank=1)
    folder.gather()
    folder.gather()
    assert list(folder.predictions()) == ["0", "1", "2"]
    assert (tmp_path / "predictions.jsonl").read_text().count("\n") == 3


def test_repeated_questions_keep_their_image(slake):
    from harness.pipeline import repeated

    task = load("slake", limit=5)
    twice = repeated(task, 2)
    assert [s.id for s in twice.samples][:3] == [f"{task.samples[0].id}#0", f"{task.samples[0].id}#1", f"{task.samples[1].id}#0"]
    assert twice.card.rows == 10
    assert {s.cluster for s in twice.samples} == {s.cluster for s in task.samples}
    assert twice.card.fingerprint != task.card.fingerprint
    assert repeated(task, 1) is task
