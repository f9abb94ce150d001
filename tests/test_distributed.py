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
