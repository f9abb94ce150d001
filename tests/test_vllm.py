"""vLLM gives the texts of the model in process: as a server, and as the backend.

HARNESS_VLLM_PYTHON=ENV/bin/python names a Python that has vLLM, in an environment of its own; docs/backends.md says how to make
one for a CPU. Without it these tests are skipped. They take some minutes.
"""

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from harness.models import TINY
from harness.models.litellm_model import LitellmModel
from tests.conftest import load
from tests.servers import free_port
from tests.test_asking import PROMPTS, QUESTION, SYSTEM, texts, with_shots

PYTHON = os.environ.get("HARNESS_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="HARNESS_VLLM_PYTHON names no Python with vLLM: vLLM is NOT tested here"),
    pytest.mark.timeout(1200),
]
ROWS = 200
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def rows():
    return load("slake", limit=ROWS)


@pytest.fixture(scope="module")
def ways(rows):
    """Prompts and arguments to ask with, by name."""
    return {
        "plain": (QUESTION, {}),
        "reasoning": (PROMPTS["reasoning"], {}),
        "examples": (with_shots(rows, system=SYSTEM), {}),
        "stop": (PROMPTS["reasoning"], {"stop": (" the", "is a")}),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log, port = tmp_path_factory.mktemp("vllm") / "log", free_port()
    command = [PYTHON, "-m", "vllm.entrypoints.cli.main", "serve", str(TINY), "--served-model-name", "tiny", "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--generation-config", "vllm"]
    command += ["--limit-mm-per-prompt", '{"image": 3, "video": 0}', "--enforce-eager"]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | QUIET)
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
        except OSError:
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(1)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(30)


def test_a_server_gives_the_same_texts(server, tiny, rows, ways):
    there = LitellmModel("hosted_vllm/tiny", api_base=server)
    for name, (prompt, args) in ways.items():
        ours, theirs = (texts(model, rows.samples, prompt, **args) for model in (tiny, there))
        for row, (text, finish, _, prompt_tokens) in ours.items():
            assert (theirs[row][0], theirs[row][1], theirs[row][3]) == (text, finish, prompt_tokens), (name, row)


BACKEND = """
import json, pickle, sys
from harness.models.vllm_model import VllmModel
from harness.records import GenerationArgs

if __name__ == "__main__":
    rows, ways = pickle.load(open(sys.argv[1], "rb"))
    model, out = VllmModel("tiny", dtype="float32", images=3), {}
    assert model.card.backend == "vllm" and model.card.weights_sha256
    for name, (prompt, args) in ways.items():
        batches = model.generate(rows, prompt, GenerationArgs(max_new_tokens=24, **args))
        out[name] = {p.sample_id: (p.text, p.finish, p.completion_tokens, p.prompt_tokens) for b in batches for p in b}
    json.dump(out, open(sys.argv[2], "w"))
"""


def test_the_backend_gives_the_same_records(tiny, rows, ways, tmp_path):
    import pickle

    script, asked, answered = tmp_path / "backend.py", tmp_path / "asked", tmp_path / "answered"
    script.write_text(BACKEND)
    asked.write_bytes(pickle.dumps((rows.samples, ways)))
    env = os.environ | QUIET | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([PYTHON, script, asked, answered], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(answered.read_text())
    for name, (prompt, args) in ways.items():
        ours = texts(tiny, rows.samples, prompt, **args)
        assert {row: list(values) for row, values in ours.items()} == found[name], name
