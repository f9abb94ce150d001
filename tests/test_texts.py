"""Questions in words alone: asked like any other, by every backend in this process, with the model's chat template."""

from __future__ import annotations

import pytest

from harness import data, pipeline, specs
from harness.prompts import Prompt
from harness.records import GenerationArgs
from judges.exact import ExactJudge
from tests import published, published_text  # noqa: F401 (it adds its builders)
from tests.conftest import load


@pytest.fixture(scope="module")
def medqa(tmp_path_factory) -> data.LoadedTask:
    ((spec, path),) = specs.find("medqa")
    return data.load(spec, path, source="local", data_dir=published.write("medqa", tmp_path_factory.mktemp("medqa")))


def test_the_group_holds_every_text_task():
    texts = {path.stem for path in specs.catalog().values() if specs.read(path).kind == "text"}
    assert {spec.name for spec, _ in specs.find("medical-text")} == texts


def test_a_text_row_runs_and_is_judged_like_any_other(medqa, tiny, tmp_path):
    folder = pipeline.run(medqa, tiny, medqa.spec.get_prompt(), GenerationArgs(max_new_tokens=8), [ExactJudge()], tmp_path)
    assert set(folder.predictions()) == {s.id for s in medqa.samples}
    scores = folder.scores()
    assert scores["judges"][f"exact@{ExactJudge.version}"]["n"] == 4
    assert set(scores["judges"][f"exact@{ExactJudge.version}"]["slices"]["step"]) == {"step1", "step2&3"}
    assert (folder.card().data.images, folder.card().data.cluster_of) == (0, "question")


def test_text_rows_are_asked_with_the_chat_template_and_nothing_else(medqa, tiny):
    """What the model reads is its own template around the prompt, token for token, with no place for a picture."""
    prompt = medqa.spec.get_prompt()
    (prediction,) = [p for batch in tiny.generate(medqa.samples[:1], prompt, GenerationArgs(max_new_tokens=4)) for p in batch]
    turn = [{"role": "user", "content": [{"type": "text", "text": prompt.render(medqa.samples[0].question)}]}]
    tokens = tiny.processor.apply_chat_template(turn, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert prediction.prompt_tokens == len(tokens["input_ids"][0])


def test_text_rows_beside_pictures_get_the_text_they_get_alone(medqa, tiny):
    """A batch of both kinds, whatever is shared within it, changes no text."""
    prompt, args = Prompt("question", "{question}", "test"), GenerationArgs(max_new_tokens=8)
    pictured = load("slake", limit=4).samples

    def texts(samples):
        return {p.sample_id: p.text for batch in tiny.generate(samples, prompt, args) for p in batch}

    mixed = texts([x for pair in zip(medqa.samples, pictured, strict=True) for x in pair])
    assert mixed == texts(medqa.samples) | texts(pictured)
