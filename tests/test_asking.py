"""How a run may ask beyond its prompt: a system turn, worked examples with pictures, stop strings, template variables and pixel
bounds. None of them lets batches change a text, all are in the run's key, and none is dropped in silence."""

import json
import shutil

import pytest
import torch

from harness import dryrun, fewshot, specs
from harness.errors import DataError, UserError
from harness.lm_eval_export import export
from harness.models import TINY
from harness.models.endpoint import Endpoint, check_may_leave, outgoing
from harness.models.families.prompting import asked
from harness.models.litellm_model import LitellmModel
from harness.models.overrides import Overrides, variables
from harness.models.stops import Stops
from harness.models.transformers_model import TransformersModel
from harness.pipeline import askable
from harness.prompts import PROMPTS, Prompt
from harness.records import GenerationArgs, ModelCard
from harness.runs import RunFolder
from leaderboard import compare, table
from tests import families
from tests.conftest import load
from tests.run_folders import make_run
from tests.servers import FaultServer, completion

QUESTION = PROMPTS["question"]
SYSTEM = "You are a radiologist. Answer in one word."


def with_shots(task, count=2, seed=0, prompt=QUESTION, system=None):
    ((_, path),) = specs.find(task.spec.name)
    return fewshot.before(prompt, task, path, system=system, count=count, seed=seed)


@pytest.fixture(scope="module")
def rows():
    """A few pictures with several questions each."""
    return load("slake", limit=24)


@pytest.fixture(scope="module")
def shown(rows):
    return with_shots(rows, system=SYSTEM)


@pytest.fixture(scope="module")
def ways():
    """The tiny model: sharing prefixes, in plain batches, and one question at a time."""
    return [
        TransformersModel("tiny", device="cpu"),
        TransformersModel("tiny", device="cpu", batch_size=32, share_prefix="off"),
        TransformersModel("tiny", device="cpu", batch_size=1, share_prefix="off"),
    ]


def texts(model, samples, prompt=QUESTION, tokens=24, **args):
    done = [p for batch in model.generate(samples, prompt, GenerationArgs(max_new_tokens=tokens, **args)) for p in batch]
    assert sorted(p.sample_id for p in done) == sorted(s.id for s in samples)  # each exactly once
    return {p.sample_id: (p.text, p.finish, p.completion_tokens, p.prompt_tokens) for p in done}


@torch.inference_mode()
def official(model, sample, prompt, stop=(), tokens=24):
    """(text, finish, prompt tokens) by the two calls of the model's page, the turns written by hand; cut afterwards."""
    chat = [{"role": "system", "content": [{"type": "text", "text": prompt.system}]}] if prompt.system else []

    def user(images, question):
        shown = [{"type": "image", "image": i.open()} for i in images]
        return {"role": "user", "content": [*shown, {"type": "text", "text": prompt.render(question)}]}

    for shot in prompt.shots:
        chat.append(user(shot.images, shot.question))
        chat.append({"role": "assistant", "content": [{"type": "text", "text": shot.answer}]})
    inputs = model.processor.apply_chat_template(
        [*chat, user(sample.images, sample.question)],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    inputs.pop("labels", None)
    length = inputs["input_ids"].shape[1]
    new = model.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, length:].tolist()
    end = next((i for i, t in enumerate(new) if t in model.end), None)
    text = model.processor.tokenizer.decode(new[:end], skip_special_tokens=True)
    at = min((text.find(s) for s in stop if s in text), default=None)
    return text[:at].strip(), "length" if end is None and at is None else "stop", length


# -- batches never change a text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "args"),
    [
        ("shown", {}),
        ("shown", {"stop": ("s", "rai")}),
        ("shown", {"temperature": 0.9, "stop": ("e",)}),
        ("reasoning", {"stop": ("is a",)}),
        ("reasoning", {"stop": (" the ", "ct of")}),
        ("reasoning", {"stop": ("never written",)}),
    ],
)
def test_batch_of_one_is_auto_is_plain(rows, shown, ways, prompt, args):
    prompt = shown if prompt == "shown" else PROMPTS[prompt]
    auto, plain, one_by_one = (texts(model, rows.samples, prompt, **args) for model in ways)
    assert auto == plain == one_by_one
    assert ways[0].sharing == "proved on 4 rows"
    if "temperature" not in args:
        wanted = {s.id: official(ways[2], s, prompt, args.get("stop", ())) for s in rows.samples[::4]}
        assert {i: (auto[i][0], auto[i][1], auto[i][3]) for i in wanted} == wanted


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl", "idefics3", "mllama", "llava_onevision"])
def test_every_family_shows_the_examples(rows, tmp_path_factory, family):
    folder = str(families.build(family, tmp_path_factory.mktemp("asked")))
    model = TransformersModel(folder, device="cpu")
    some, prompt, stop = rows.samples[:8], with_shots(rows), ("a", "er")
    wanted = {s.id: official(model, s, prompt, stop, 12) for s in some}
    auto = texts(model, some, prompt, 12, stop=stop)
    assert {i: (text, finish, length) for i, (text, finish, _, length) in auto.items()} == wanted
    assert model.sharing == "proved on 4 rows"
    assert auto == texts(TransformersModel(folder, device="cpu", batch_size=3, share_prefix="off"), some, prompt, 12, stop=stop)
    assert model.prompting.count([asked(prompt, s, lambda i: i.size) for s in some]) == [wanted[s.id][2] for s in some]


# -- stop strings -----------------------------------------------------------------------------------------------


def test_a_row_is_over_with_the_token_that_completes_a_stop_string():
    pieces = ["a", " b", "c\n", "\nQ", ":", " d", "\n\n"]
    stops = Stops(("\n\n", "Q:"), lambda tokens: "".join(pieces[t] for t in tokens))
    assert stops.first([0, 1, 2, 3, 4, 5]) == 4  # "\n" of one token and "\n" of the next
    assert stops.cut(" bc\n\nQ") == " bc"
    assert stops.first([3, 4, 5]) == 2
    assert stops.first([0, 1, 5]) is None
    assert stops.cut("as it is") == "as it is"


def test_it_ends_early(ways, rows):
    """Written no further than the stop string, by the engine and by `generate`."""
    for model in ways:
        steps = []
        handle = model.model.register_forward_hook(lambda *_, steps=steps: steps.append(1))
        texts(model, rows.samples[:1], PROMPTS["reasoning"], stop=("this",))
        handle.remove()
        assert len(steps) < 8 * (3 if model.why_plain is None else 1)


def test_a_special_token_is_no_stop_string(ways, rows):
    with pytest.raises(UserError, match="is a special token, which no text holds"):
        texts(ways[0], rows.samples, stop=("<|im_end|>",))


# -- examples ---------------------------------------------------------------------------------------------------


def test_examples_are_drawn_by_seed_and_share_nothing_with_what_is_asked(rows):
    full = load("slake")
    prompts = [with_shots(full, 8, seed) for seed in range(6)]
    assert prompts[0].shots == with_shots(full, 8, 0).shots
    assert len({p.sha256 for p in prompts}) == 6
    assert with_shots(full, 3).shots == prompts[0].shots[:3]
    pictures = {i.file_sha256 for s in full.samples for i in s.images}
    for p in prompts:
        own = [i.file_sha256 for i in p.images]
        assert len(set(own)) == len(own) == 8
        assert pictures.isdisjoint(own)


def test_never_of_an_asked_cluster():
    """Even where the asked rows are of the split that examples are drawn from."""
    train = load("slake", split="train", limit=400)
    prompt = with_shots(train, 20)
    assert {i.file_sha256 for i in prompt.images}.isdisjoint(i.file_sha256 for s in train.samples for i in s.images)
    pool = train.samples[:40]
    patient = [s.model_copy(update={"group": "patient:1"}) for s in pool]
    with pytest.raises(UserError, match="only 0 of 40 rows of the train split can be shown"):
        fewshot.draw(patient, 1, 0, [train.samples[-1].model_copy(update={"group": "patient:1"})])


def test_an_example_with_reasoning_shows_it():
    grounded = load("slake_grounded", limit=4)
    ((_, path),) = specs.find("slake_grounded")
    (shot,) = fewshot.before(QUESTION, grounded, path, count=1).shots
    assert shot.answer.startswith("<think>")
    assert shot.answer.endswith("</answer>")


def test_what_cannot_be_shown_is_refused(rows, tmp_path):
    ((_, path),) = specs.find("slake")
    told = [rows.samples[0], rows.samples[1].model_copy(update={"system": "Be brief."})]
    own = type(rows)(rows.spec, told, rows.card)
    with pytest.raises(UserError, match=f"row {told[1].id} of task 'slake' has a system turn of its own"):
        fewshot.before(QUESTION, own, path, system=SYSTEM)
    with pytest.raises(UserError, match="--system is empty"):
        fewshot.before(QUESTION, rows, path, system=" ")
    bundled = rows.spec.bundled.model_copy(update={"splits": {"test": "test"}})
    alone = rows.spec.model_copy(update={"hub": None, "local": None, "bundled": bundled})
    with pytest.raises(UserError, match="no train split"):
        fewshot.before(QUESTION, type(rows)(alone, rows.samples, rows.card), path, count=1)
    with pytest.raises(UserError, match="system turn and examples are for lm-eval's own flags"):
        export(rows, with_shots(rows), tmp_path)


def test_a_chat_template_that_drops_a_turn_is_refused(rows, shown, tmp_path):
    folder = tmp_path / "silent"
    shutil.copytree(TINY, folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') %}" + template
    )
    model = TransformersModel(str(folder), device="cpu")
    with pytest.raises(UserError, match="drops the system turn"):
        askable(rows, model, shown, "fail")
    told = rows.samples[0].model_copy(update={"system": "Be brief."})
    with pytest.raises(DataError, match="drops the system turn"):
        askable(type(rows)(rows.spec, [*rows.samples[1:], told], rows.card), model, QUESTION, "fail")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('only one turn') if messages | length > 1 }}" + template)
    model = TransformersModel(str(folder), device="cpu")
    with pytest.raises(UserError, match=r"refuses it \(only one turn\)"):
        askable(rows, model, with_shots(rows), "fail")
    with pytest.raises(UserError, match=r"marker <\|im_end\|>"):
        askable(rows, model, Prompt("question", "{question}", "x", system="Stop at <|im_end|>"), "fail")


# -- the model's own settings -----------------------------------------------------------------------------------


@pytest.fixture
def thinking(tmp_path):
    """The tiny model with a template that can open the thinking."""
    folder = tmp_path / "thinking"
    shutil.copytree(TINY, folder)
    template = (folder / "chat_template.jinja").read_text()
    more = "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    (folder / "chat_template.jinja").write_text(template + more)
    return str(folder)


def test_template_variables_change_the_prompt_and_the_key(thinking, rows):
    plain = TransformersModel(thinking, device="cpu")
    off = Overrides({"enable_thinking": False})
    quick = TransformersModel(thinking, device="cpu", overrides=off)
    some = rows.samples[:8]
    one_by_one = TransformersModel(thinking, device="cpu", batch_size=1, share_prefix="off", overrides=off)
    assert texts(quick, some) == texts(one_by_one, some)
    tokens = {
        s.id: n for s, n in zip(some, quick.prompting.count([asked(QUESTION, s, lambda i: i.size) for s in some]), strict=True)
    }
    before = {i: n for i, (*_, n) in texts(plain, some).items()}
    assert all(tokens[i] > before[i] for i in before)
    assert quick.card.chat_template_kwargs == {"enable_thinking": False}
    assert quick.card.settings_sha256 != plain.card.settings_sha256
    assert dryrun.Plan(thinking, device="cpu", overrides=off).estimate(rows, QUESTION, GenerationArgs(max_new_tokens=4))[
        "prompt_tokens_one_by_one"
    ] > sum(plain.prompting.count([asked(QUESTION, s, lambda i: i.size) for s in rows.samples]))


def test_a_misspelt_variable_is_refused(thinking):
    assert variables("{% set a = 1 %}{{ a }}{{ messages }}{{ b if c is defined }}") == {"messages", "b", "c"}
    with pytest.raises(UserError, match="does not read 'enable_thinkin'") as e:
        TransformersModel(thinking, device="cpu", overrides=Overrides({"enable_thinkin": False}))
    assert "enable_thinking" in e.value.hint
    with pytest.raises(UserError, match="does not read 'messages'"):
        TransformersModel(thinking, device="cpu", overrides=Overrides({"messages": []}))


def test_pixel_bounds_go_through_the_processor(rows):
    small = Overrides(max_pixels=4 * 28 * 28)
    model = TransformersModel("tiny", device="cpu", overrides=small)
    sizes = {s.images[0].size for s in rows.samples}
    assert all(model.prompting.image_tokens(size) <= 4 for size in sizes)
    one_by_one = TransformersModel("tiny", device="cpu", batch_size=1, share_prefix="off", overrides=small)
    assert texts(model, rows.samples) == texts(one_by_one, rows.samples)
    assert model.card.max_pixels == 4 * 28 * 28
    large = TransformersModel("tiny", device="cpu", overrides=Overrides(min_pixels=500_000, max_pixels=600_000))
    assert all(600 < large.prompting.image_tokens(size) <= 765 for size in sizes)


@pytest.mark.parametrize("family", ["glm4v", "qwen3_vl"])
def test_pixel_bounds_of_other_families(tmp_path, family):
    model = TransformersModel(str(families.build(family, tmp_path)), device="cpu", overrides=Overrides(max_pixels=40_000))
    patch = model.processor.image_processor.patch_size * model.processor.image_processor.merge_size
    assert model.prompting.image_tokens((900, 700)) * patch**2 <= 40_000


@pytest.mark.parametrize("family", ["llava", "gemma3", "idefics3"])
def test_a_processor_without_bounds_refuses_them(tmp_path, family):
    with pytest.raises(UserError, match="bounds no number of pixels"):
        TransformersModel(str(families.build(family, tmp_path)), device="cpu", overrides=Overrides(max_pixels=40_000))


def test_bounds_that_cannot_hold_are_refused():
    with pytest.raises(UserError, match="--min-pixels 9 is more than --max-pixels 8"):
        Overrides(min_pixels=9, max_pixels=8)
    for bounds in ({"max_pixels": 100}, {"min_pixels": 10**9}):
        with pytest.raises(UserError, match="takes pictures of"):
            TransformersModel("tiny", device="cpu", overrides=Overrides(**bounds))


# -- keys, cards and tables -------------------------------------------------------------------------------------


def test_runs_without_them_keep_their_keys(tmp_path):
    """These were the key, the configuration and the arguments' record before there were such options."""
    folder = make_run(tmp_path, "tiny", "10")
    assert folder.path.name == "slake-902117ea"
    assert GenerationArgs(max_new_tokens=16).model_dump() == {"max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    assert QUESTION.label == "question"
    assert QUESTION.sha256 == "bf085a6e12c9d0e23a9dd157df084f933b2ef021caba82def1494bfb84a723c9"


def test_each_of_them_is_another_run(tmp_path, rows):
    card = make_run(tmp_path, "tiny", "10").card()
    prompts = [
        QUESTION,
        with_shots(rows, 0, system="A"),
        with_shots(rows, 0, system="B"),
        with_shots(rows, 1),
        with_shots(rows, 2),
    ]
    prompts.append(with_shots(rows, 2, seed=1))
    changed = [card.model_copy(update={"prompt_sha256": p.sha256}) for p in prompts]
    changed += [card.model_copy(update={"generation": GenerationArgs(max_new_tokens=16, stop=s)}) for s in (("a",), ("a", "b"))]
    settings = [Overrides({"thinking": True}), Overrides({"thinking": False}), Overrides(min_pixels=5), Overrides(max_pixels=5)]
    changed += [card.model_copy(update={"model": o.on_card(card.model)}) for o in settings]
    assert len({RunFolder.place(tmp_path, c).path for c in changed}) == len(changed)
    assert Overrides().on_card(ModelCard(name="x", path=None)) == ModelCard(name="x", path=None)


def test_other_stops_or_examples_never_share_a_table(tmp_path):
    plain = make_run(tmp_path, "plain", "1100")
    stopped = make_run(tmp_path, "stopped", "1000", generation=GenerationArgs(max_new_tokens=16, stop=("\n",)))
    same = make_run(tmp_path, "same", "1001", generation=GenerationArgs(max_new_tokens=16, stop=("\n",)))
    cells, _ = table.cells_of([plain.path, stopped.path, same.path])
    groups = sorted(sorted(c.model for c in group) for group in table.grouped(cells))
    assert groups == [["plain"], ["same", "stopped"]]
    with pytest.raises(UserError, match=r"prompt question against question stopped before '\\n'"):
        compare.compare(plain.path, stopped.path, "exact", "1")
    assert compare.compare(stopped.path, same.path, "exact", "1").model_a == "stopped"


def test_the_command(command, tmp_path, rows):
    runs = tmp_path / "runs"
    words = [
        "run",
        "--model",
        "tiny",
        "--tasks",
        "slake",
        "--limit",
        "6",
        "--prompt",
        "question",
        "--device",
        "cpu",
        "--runs",
        runs,
    ]
    words += ["--system", SYSTEM, "--num-fewshot", "1", "--stop", "s", "--stop", "zzz", "--max-pixels", "20000"]
    code, out, err = command(*words, "--dry-run", "--json")
    assert code == 0, err
    planned = json.loads(out)[0]["prompt_tokens_one_by_one"]
    code, out, err = command(*words, "--json")
    assert code == 0, err
    (folder,) = (RunFolder(p.parent) for p in runs.glob("*/*/card.json"))
    card = folder.card()
    assert sum(p.prompt_tokens for p in folder.predictions().values()) == planned
    assert (card.system, card.generation.stop, card.model.max_pixels) == (SYSTEM, ("s", "zzz"), 20000)
    assert card.prompt.startswith("question + system turn + 1-shot (")
    assert [len(e.images) for e in card.examples] == [1]
    assert not any("s" in p.text for p in folder.predictions().values())
    before = folder.path
    code, _, _ = command(*words, "--json")
    assert code == 0
    assert [p.parent for p in runs.glob("*/*/card.json")] == [before]  # the same run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chat-template-kwargs", "enable_thinking=false"], "--chat-template-kwargs: not JSON"),
        (["--chat-template-kwargs", "[1]"], "--chat-template-kwargs: not a JSON object"),
        (["--stop", ""], "--stop is empty"),
        (["--min-pixels", "9", "--max-pixels", "8"], "--min-pixels 9 is more than"),
        (["--num-fewshot", "100000"], "--num-fewshot 100000: only"),
    ],
)
def test_wrong_words_are_usage_errors(command, tmp_path, words, said):
    code, _, err = command("run", "--model", "tiny", "--tasks", "slake", "--limit", "2", "--runs", tmp_path, *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


# -- over an API ------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    found = FaultServer()
    yield found
    found.stop()


def test_a_server_is_sent_all_of_it(server, rows, shown):
    server.otherwise = completion("yes, it is\nQuestion: more", finish="length", tokens=9)
    model = LitellmModel(f"openai/some@{server.base}", overrides=Overrides({"enable_thinking": False}))
    found = texts(model, rows.samples[:2], shown, stop=("\n",))
    assert {(text, finish) for text, finish, *_ in found.values()} == {("yes, it is", "stop")}
    (sent, *_) = server.hits
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in sent["messages"] if m["role"] == "assistant"] == [s.answer for s in shown.shots]
    assert all(m["content"][0]["type"] == "image_url" for m in sent["messages"] if m["role"] == "user")
    assert len({m["content"][0]["image_url"]["url"] for m in sent["messages"] if m["role"] == "user"}) == 3
    assert (sent["stop"], sent["chat_template_kwargs"]) == (["\n"], {"enable_thinking": False})
    assert model.card.settings_sha256 is not None


def test_what_an_api_cannot_take_is_refused(server, monkeypatch):
    with pytest.raises(UserError, match="settings of a model in process"):
        LitellmModel(f"openai/some@{server.base}", overrides=Overrides(max_pixels=5))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    with pytest.raises(UserError, match="--chat-template-kwargs: the vendor 'openai' takes none"):
        LitellmModel("openai/gpt-4o-mini", allow_external=True, overrides=Overrides({"thinking": True}))


def test_what_examples_send_is_said(rows, shown):
    may = rows.spec.model_copy(update={"may_leave_machine": True})
    task = type(rows)(may, rows.samples, rows.card)
    plain, more = outgoing(task), outgoing(task, before=shown.images)
    assert more.images == plain.images + 2
    sent = sum(len(i.content) for i in shown.images)
    assert more.image_bytes == plain.image_bytes + len(rows.samples) * sent
    vendor = Endpoint.parse("openai/gpt-4o-mini")
    assert f"{more.images} images" in str(check_may_leave([more], vendor, allow_external=True))


def test_lm_evals_tasks_are_asked_in_their_own_way(command, tmp_path):
    code, _, err = command("run", "--model", "tiny", "--tasks", "lm_eval:arc_easy", "--runs", tmp_path, "--num-fewshot", "2")
    assert code == 2
    assert "lm-eval asks in its own way" in err


def test_a_question_without_a_picture_may_have_examples_with_one(ways, rows, shown):
    bare = [s.model_copy(update={"images": ()}) for s in rows.samples[:3]]
    auto, plain, one_by_one = (texts(model, bare, shown) for model in ways)
    assert auto == plain == one_by_one
