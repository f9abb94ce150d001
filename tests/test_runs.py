"""The run folder: killed at any moment, nothing is lost and nothing is counted twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from harness import answers, pipeline
from harness.errors import RunError
from harness.prompts import PROMPTS
from harness.records import GenerationArgs, Prediction, Verdict
from harness.runs import RunFolder, append_jsonl, find, read_jsonl, slug, write_atomic
from judges.exact import ExactJudge
from tests.conftest import load

ARGS = GenerationArgs(max_new_tokens=16)
EXACT = f"exact@{answers.VERSION}"


def verdict(i: int) -> Verdict:
    return Verdict(sample_id=str(i), judge="exact", final=1)


def test_torn_last_line_is_left_out_and_repaired(tmp_path):
    path = tmp_path / "v.jsonl"
    append_jsonl(path, [verdict(0), verdict(1)])
    whole = path.read_bytes()
    for cut in range(1, len(whole) - whole.index(b"\n")):
        path.write_bytes(whole[:-cut])
        assert [r["sample_id"] for r in read_jsonl(path)] == ["0"]
    append_jsonl(path, [verdict(2)])
    assert [r["sample_id"] for r in read_jsonl(path)] == ["0", "2"]


def test_damage_inside_is_an_error_not_a_gap(tmp_path):
    path = tmp_path / "v.jsonl"
    append_jsonl(path, [verdict(0), verdict(1)])
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(RunError, match=r"v\.jsonl:1: damaged line"):
        list(read_jsonl(path))


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "card.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"


def run(model, task, runs, **options):
    return pipeline.run(task, model, PROMPTS["question"], ARGS, [ExactJudge()], runs, **options)


@pytest.fixture(scope="module")
def task():
    return load("slake", limit=60)


def test_run_records_everything(tiny, task, tmp_path):
    folder = run(tiny, task, tmp_path)
    card = folder.card()
    assert (card.data.task, card.data.resolution, card.data.rows) == ("slake", "bundled-224px", 60)
    assert card.model.weights_sha256
    assert card.prompt_sha256 == PROMPTS["question"].sha256
    assert card.finished
    assert set(folder.predictions()) == set(folder.verdicts("exact", str(answers.VERSION))) == {s.id for s in task.samples}
    scores = json.loads((folder.path / "scores.json").read_text())
    right = sum(v.final for v in folder.verdicts("exact", str(answers.VERSION)).values())
    assert scores["judges"][EXACT]["final"] == right / 60
    by_slice = scores["judges"][EXACT]["slices"]["modality"].values()
    assert sum(s["n"] for s in by_slice) == 60
    assert find(tmp_path)[0].path == folder.path


def test_second_run_asks_nothing_again(tiny, task, tmp_path):
    folder = run(tiny, task, tmp_path)
    before = (folder.path / "predictions.jsonl").stat().st_mtime_ns
    again = run(tiny, task, tmp_path)
    assert again.path == folder.path
    assert (folder.path / "predictions.jsonl").stat().st_mtime_ns == before
    run(tiny, task, tmp_path, fresh=True)
    assert (folder.path / "predictions.jsonl").stat().st_mtime_ns != before


def test_interrupted_run_goes_on_to_the_same_texts(tiny, task, tmp_path):
    whole = run(tiny, task, tmp_path / "whole").predictions()
    folder = run(tiny, task, tmp_path / "torn")
    path = folder.path / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:2000])  # a crash: some lines, the last torn
    for f in (folder.path / "verdicts").iterdir():
        f.unlink()
    assert run(tiny, task, tmp_path / "torn").predictions() == whole


def test_a_different_question_is_a_different_run(tiny, task, tmp_path):
    a = run(tiny, task, tmp_path)
    b = pipeline.run(task, tiny, PROMPTS["non_reasoning"], ARGS, [ExactJudge()], tmp_path)
    c = run(tiny, load("slake", limit=59), tmp_path)
    assert len({a.path, b.path, c.path}) == 3


def test_second_writer_is_refused(tiny, task, tmp_path):
    folder = run(tiny, task, tmp_path)
    with RunFolder(folder.path), pytest.raises(RunError, match="another process is writing"):
        run(tiny, task, tmp_path)


#: The command line, which notes the rows that it is about to compute in the file named last.
WATCHED = """
import json, sys
from harness.cli.main import main
from harness.models import engine

log, complete = sys.argv.pop(), engine.complete

def noted(model, shared, rows, *args, **options):
    if "watch" not in options:  # the proof's rows are answered once more
        with open(log, "a") as f:
            print(json.dumps([r.key for r in rows]), file=f)
    return complete(model, shared, rows, *args, **options)

engine.complete = noted
main()
"""


def test_killed_process_resumes(tiny, tmp_path):
    """A real process with two workers, killed with SIGKILL while it writes; the next one repeats nothing that was stored and at
    most one batch of what was computed, and its texts are those of a run that nobody killed."""
    runs, batch = tmp_path / "runs", 8
    options = f"--data bundled --limit 300 --prompt question --batch-size {batch} --runs {runs} --device cpu --json"
    command = [sys.executable, "-c", WATCHED, *f"run --model tiny --tasks slake {options}".split()]
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    begun = tmp_path / "begun.log"
    process = subprocess.Popen([*command, begun], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 120
    stored: list[str] = []
    while time.monotonic() < deadline and len(stored) < 16:
        stored = [r["sample_id"] for p in runs.glob("*/*/predictions.jsonl") for r in read_jsonl(p)]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (path,) = runs.glob("*/*/predictions.jsonl")
    stored = [r["sample_id"] for r in read_jsonl(path)]
    assert 16 <= len(stored) < 300
    computed = {i for line in begun.read_text().splitlines() for i in json.loads(line)}
    assert len(computed - set(stored)) <= batch
    done = subprocess.run([*command, tmp_path / "again.log"], capture_output=True, text=True, check=True, timeout=120, env=env)
    asked = [i for line in (tmp_path / "again.log").read_text().splitlines() for i in json.loads(line)]
    assert len(asked) == len(set(asked)) == 300 - len(stored)
    rows = [r["sample_id"] for r in read_jsonl(path)]
    assert rows[: len(stored)] == stored
    assert len(rows) == len(set(rows)) == 300
    assert json.loads(done.stdout)
    folder = RunFolder(path.parent)
    assert folder.card().finished
    whole = pipeline.run(
        load("slake", limit=300), tiny, PROMPTS["question"], folder.card().generation, [ExactJudge()], tmp_path / "whole"
    )
    assert folder.predictions() == whole.predictions()


def test_slug():
    assert slug("Qwen/Qwen2-VL-2B-Instruct") == "Qwen-Qwen2-VL-2B-Instruct"
    assert slug("../..") == "unnamed"


def test_prediction_is_frozen_and_strict():
    with pytest.raises(ValueError, match="extra"):
        Prediction(sample_id="1", text="", reasoning=None, answer=None, finish="stop", prompt_tokens=0, completion_tokens=0, x=1)
