"""The command line as its user meets it: real processes, what stands on stdout, exit codes, no traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from harness.models import TINY

HEAVY = ("torch", "transformers", "litellm", "datasets", "trl", "peft", "duckdb", "pandas")


def harness(*args, cwd=None):
    env = os.environ | {"COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=280,
        check=False,
    )


def refused(*args, **options):
    """The error of a command that must fail with exit code 2, one clear message and nothing else."""
    done = harness(*args, **options)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["train", "list", "--help"], ["tasks", "list", "--help"]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nsys.argv = ['harness', *sys.argv[1:]]\nfrom harness.cli.main import _run\n_run()\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr.strip().endswith("[]")


def test_version():
    assert harness("--version").stdout.startswith("harness ")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def scored(runs):
    command = "run --model tiny --tasks slake,vqa_rad --data bundled --judge exact --limit 40 --device cpu --json"
    return harness(*command.split(), "--runs", runs)


def test_run_prints_one_json_document(scored):
    assert scored.returncode == 0, scored.stderr
    cells = json.loads(scored.stdout)["cells"]
    assert {(c["model"], c["task"], c["judge"], c["n"]) for c in cells} == {
        ("tiny", "slake", "exact", 40),
        ("tiny", "vqa_rad", "exact", 40),
    }
    for c in cells:
        assert 0 <= c["low"] <= c["value"] <= c["high"] <= 1
        assert c["resolution"] == "bundled-224px"
        assert c["coverage"] == 1


def test_leaderboard_and_compare(scored, runs, tmp_path):
    shown = harness("leaderboard", "--runs", runs)
    assert "tiny" in shown.stdout
    assert "95 %" in shown.stdout
    sliced = json.loads(harness("leaderboard", "--runs", runs, "--tasks", "slake", "--slice", "modality", "--json").stdout)
    assert sum(c["n"] for c in sliced["cells"]) == 40
    run = next(runs.glob("tiny/slake-*"))
    same = shutil.copytree(run, tmp_path / "same")
    found = json.loads(harness("compare", run, same, "--json").stdout)
    assert (found["difference"], found["n"]) == (0, 40)
    assert "did you mean 'modality'?" in refused("leaderboard", "--runs", runs, "--slice", "modalty")


def test_lists_as_json():
    tasks = {t["name"] for t in json.loads(harness("tasks", "list", "--json").stdout)}
    assert {"slake", "slake_grounded", "vqa_rad"} <= tasks
    assert {t["name"] for t in json.loads(harness("train", "list", "--json").stdout)} == {"sft", "grpo", "rarl"}
    assert "exact" in {j["name"] for j in json.loads(harness("judges", "list", "--json").stdout)["plugins"]}
    assert json.loads(harness("tasks", "show", "slake", "--json").stdout)["license"] == "CC-BY-4.0"
    splits = json.loads(harness("tasks", "validate", "slake_grounded", "--data", "bundled", "--json").stdout)
    assert [s["rows"] for s in splits] == [716, 132, 150]


def test_train_dry_run_is_a_plan(tmp_path):
    done = harness("train", "rarl", "--model", "tiny", "--task", "slake_grounded", "--out", "ckpt", "--dry-run", cwd=tmp_path)
    plan = json.loads(done.stdout)
    assert (plan["trainer"], plan["task"]["rows"], plan["recipe"]["lora"]["r"]) == ("rarl", 716, 8)
    assert not (tmp_path / "ckpt").exists()


def test_dry_run_says_what_would_run(tmp_path):
    command = (
        "run --model tiny --tasks slake --data bundled --limit 20 --prompt question --num-samples 2 --temperature 1 --dry-run"
    )
    (plan,) = json.loads(harness(*command.split(), "--json", cwd=tmp_path).stdout)
    assert (plan["rows"], plan["images"], plan["parameters"], plan["attention"][:4]) == (40, 2, 2881728, "sdpa")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "gate", "price"),
    [
        (
            "--model openai/gpt-4o-mini",
            "refused: this would be sent to the vendor 'openai'",
            r"\$[\d.]+ read, \$[\d.]+ written, a million tokens",
        ),
        (
            "--model openai/gpt-4o-mini --allow-external",
            "sending to the vendor 'openai'",
            r"\$[\d.]+ read, \$[\d.]+ written, a million tokens",
        ),
        ("--model mine --api-base http://127.0.0.1:9/v1", "stays on this machine", "unknown"),
    ],
)
def test_dry_run_of_an_api_model_sends_nothing_and_names_the_gate_and_the_price(options, gate, price, tmp_path):
    command = f"run {options} --tasks slake --data bundled --limit 4 --max-new-tokens 100 --dry-run --json"
    (plan,) = json.loads(harness(*command.split(), cwd=tmp_path).stdout)
    assert plan["gate"].startswith(gate)
    assert re.fullmatch(price, plan["price"])
    assert re.fullmatch(r"unknown" if price == "unknown" else r"\$\d+\.\d\d", plan["answers_cost_at_most"])
    assert (plan["rows"], plan["images"], plan["max_new_tokens"]) == (4, 1, 100)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "--model", "tiny", "--tasks", "slak"], ["no task named 'slak'", "did you mean 'slake'?"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--judge", "exat"], ["no judge named 'exat'", "did you mean 'exact'?"]),
        (
            ["run", "--model", "tiny", "--tasks", "slake", "--prompt", "reasonin"],
            ["no prompt named", "did you mean 'reasoning'?"],
        ),
        (["run", "--model", "nowhere/at/all", "--tasks", "slake"], ["no such folder"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--data", "local"], ["--data-dir"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--data", "lokal"], ["--data lokal"]),
        (["train", "rral", "--model", "tiny", "--task", "slake"], ["no trainer named 'rral'", "did you mean 'rarl'?"]),
        (
            ["train", "sft", "--model", "tiny", "--task", "slake", "--set", "epoch=1"],
            ["unknown key 'epoch'", "did you mean 'epochs'?"],
        ),
        (["run", "--model", "ckpt/", "--tasks", "slake", "--data", "bundled"], ["ckpt/: no such folder"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--data-dir", "typo"], ["--data-dir typo: no such folder"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--data", "bundled", "--device", "foo"], ["--device foo"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--temperature", "inf"], ["--temperature inf"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--attn", "flash_attention_2"], ["--attn flash_attention_2"]),
        (["run", "--model", "tiny", "--tasks", ""], ["--tasks names no task"]),
        (["run", "--model", "tiny", "--tasks", "slake", "--temperature", "1", "--top-p", "0"], ["--top-p 0.0: leaves no token"]),
        (["run", "--model", "openai/x", "--tasks", "lm_eval:arc_easy", "--dry-run"], ["need a checkpoint in process"]),
        (
            ["run", "--model", "tiny", "--tasks", "slake", "--data", "bundled", "--dry-run", "--attn", "flash_attention_2"],
            ["--attn flash_attention_2: flash attention needs a CUDA device"],
        ),
        (["run", "--model", "tiny", "--tasks", "slake", "--num-samples", "3"], ["greedy answers are all the same"]),
        (["run", "--model", "openai/gpt-4o-mini", "--tasks", "slake", "--data", "bundled"], ["--allow-external"]),
        (["train", "sft", "--model", "tiny", "--task", "slake", "--set", "learning_rate=[1"], ["the value is not YAML"]),
        (["train", "sft", "--model", "tiny", "--task", "slake", "--set", "learning_rate=.inf"], ["learning_rate"]),
        (["compare", "here", "there"], ["here: no run folder"]),
        (["leaderboard", "--runs", "nowhere"], ["nowhere"]),
        (["model", "build", "huge"], ["only 'tiny'"]),
    ],
    ids=lambda v: " ".join(v[:4]) if isinstance(v, list) else None,
)
def test_mistakes(args, words, tmp_path):
    message = refused(*args, cwd=tmp_path)
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_unknown_option_is_a_usage_error():
    done = harness("run", "--modell", "tiny")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_model_folder_without_config(tmp_path):
    (tmp_path / "ckpt").mkdir()
    message = refused("run", "--model", "ckpt", "--tasks", "slake", "--data", "bundled", cwd=tmp_path)
    assert "no config.json" in message


def test_pickled_weights_are_refused(tmp_path):
    shutil.copytree(TINY, tmp_path / "ckpt")
    (tmp_path / "ckpt" / "model.safetensors").rename(tmp_path / "ckpt" / "pytorch_model.bin")
    assert "pickled" in refused("run", "--model", "ckpt", "--tasks", "slake", "--data", "bundled", cwd=tmp_path)


def test_torn_weights(tmp_path):
    shutil.copytree(TINY, tmp_path / "ckpt")
    path = tmp_path / "ckpt" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    message = refused("run", "--model", "ckpt", "--tasks", "slake", "--data", "bundled", "--limit", 1, cwd=tmp_path)
    assert "model.safetensors: is damaged or cut off" in message


def test_corrupt_image_and_malformed_yaml(tmp_path):
    root = tmp_path / "data" / "slake"
    (root / "imgs" / "a").mkdir(parents=True)
    Image.new("RGB", (30, 30)).save(root / "imgs" / "a" / "source.jpg")
    row = {"qid": 7, "img_name": "a/source.jpg", "q_lang": "en", "question": "Why?", "answer": "Yes"}
    (root / "test.json").write_text(json.dumps([row]))
    (root / "imgs" / "a" / "source.jpg").write_bytes(b"\xff\xd8 not a picture")
    message = refused("run", "--model", "tiny", "--tasks", "slake", "--data-dir", tmp_path / "data", cwd=tmp_path)
    assert "row 7" in message
    assert "cannot be decoded" in message
    (root / "test.json").write_text(json.dumps([{k: v for k, v in row.items() if k != "question"}]))
    message = refused("run", "--model", "tiny", "--tasks", "slake", "--data-dir", tmp_path / "data", cwd=tmp_path)
    assert "test.json: row 0: no field 'question'" in message
    (tmp_path / "mine.yaml").write_text("name: mine\ntitle: [unclosed\n")
    assert "mine.yaml:" in refused("run", "--model", "tiny", "--tasks", "mine.yaml", cwd=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_code_in_a_checkpoint_never_runs(tmp_path):
    """Not even when somebody answers yes on stdin; and nothing of that stands on stdout."""
    folder = tmp_path / "ckpt"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("from pathlib import Path\nPath('PWNED').write_text('x')\nclass Evil: pass\n")
    options = ["--tasks", "slake", "--data", "bundled", "--limit", "1", "--json"]
    command = [sys.executable, "-m", "harness", "run", "--model", "ckpt", *options]
    done = subprocess.run(command, input="y\ny\ny\n", capture_output=True, text=True, cwd=tmp_path, timeout=200, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert not (tmp_path / "PWNED").exists()


def test_a_changed_processor_is_another_run(tmp_path):
    """Nothing is taken from a run whose image size was another."""
    shutil.copytree(TINY, tmp_path / "ckpt")
    command = "run --model ckpt --tasks slake --data bundled --limit 3 --prompt question --json"
    (before,) = json.loads(harness(*command.split(), cwd=tmp_path).stdout)["scores"]
    path = tmp_path / "ckpt" / "processor_config.json"
    path.write_text(path.read_text().replace("28224", "12544"))
    (after,) = json.loads(harness(*command.split(), cwd=tmp_path).stdout)["scores"]
    assert before != after


def test_names_with_brackets_are_shown_as_they_are(tmp_path):
    done = harness(
        "run", "--model", "tiny", "--tasks", "slake", "--data", "bundled", "--limit", 2, "--runs", "o[/x] b", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "o[/x] b" in done.stdout


def test_a_file_where_runs_should_go(tmp_path):
    (tmp_path / "afile").write_text("")
    done = harness(
        "run", "--model", "tiny", "--tasks", "slake", "--data", "bundled", "--limit", 2, "--runs", "afile", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "afile" in done.stderr
    assert "Traceback" not in done.stderr


def test_own_task_yaml(tmp_path, archives):
    """A new task is a YAML: here the CT questions of SLAKE, with a prompt of its own."""
    (tmp_path / "ct.yaml").write_text(
        "name: ct\ntitle: CT only\nlicense: CC-BY-4.0\nlocal: {folder: slake, layout: slake, splits: {test: test}}\n"
        "where: {modality: CT}\n"
        "prompts: {short: '{question} One word.'}\nprompt: short\nmax_new_tokens: 16\n"
    )
    command = "run --model tiny --tasks ct.yaml --limit 5 --json"
    done = harness(*command.split(), "--data-dir", archives, cwd=tmp_path)
    (cell,) = json.loads(done.stdout)["cells"]
    assert (cell["task"], cell["n"], cell["prompt"]) == ("ct", 5, "short")


def test_ctrl_c_exits_130_and_resumes(tmp_path):
    import signal
    import time

    command = f"-m harness run --model tiny --tasks slake --data bundled --batch-size 1 --runs {tmp_path}"
    process = subprocess.Popen([sys.executable, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(p.stat().st_size for p in tmp_path.glob("*/*/predictions.jsonl")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr


def test_offline_run_opens_no_socket(tmp_path):
    """An audit hook sees every socket that Python connects or resolves: with bundled data, tiny and exact there is none."""
    code = (
        "import sys\nseen = []\n"
        "sys.addaudithook(lambda e, a: seen.append((e, a[1:])) if e in ('socket.connect', 'socket.getaddrinfo') else None)\n"
        "from harness.cli.main import _run\n"
        "assert _run() == 0\n"
        "print('SOCKETS', seen)"
    )
    command = f"run --model tiny --tasks slake --data bundled --limit 4 --runs {tmp_path}"
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, env=env, timeout=200, check=False
    )
    assert "SOCKETS []" in done.stdout, done.stdout + done.stderr


def test_quickstart_in_small(tmp_path):
    """The demo's own path with two steps a trainer and few rows: four models, both tasks, the page; a second call keeps all."""
    args = ["quickstart", "--out", "demo", "--steps", 2, "--limit", 60, "--json"]
    done = harness(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {c["model"] for c in document["cells"]} == {"tiny", "tiny-sft", "tiny-grpo", "tiny-rarl"}
    assert {c["trainer"] for c in document["cells"]} == {None, "sft", "grpo", "rarl"}
    assert {c["task"] for c in document["cells"]} == {"slake", "vqa_rad"}
    assert document["says"]
    assert not any("nothing to compare" in s for s in document["says"])  # 60 rows of each domain, judged in every run
    page = Path(tmp_path / "demo" / "leaderboard.html").read_text()
    assert "tiny-rarl" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    again = json.loads(harness(*args, cwd=tmp_path).stdout)
    assert again["cells"] == document["cells"]
