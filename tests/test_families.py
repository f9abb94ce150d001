"""Every family answers as transformers' own `apply_chat_template` and `generate` do, row by row, and shares what it can."""

import json
import shutil
import threading
import time

import pytest
import torch
from PIL import Image
from transformers.utils import logging

from harness import dryrun
from harness.errors import DataError, ModelError
from harness.models import engine
from harness.models.families import parts
from harness.models.families.prompting import Ask, IndivisibleError, Prompting
from harness.models.transformers_model import TransformersModel
from harness.pipeline import askable
from harness.prompts import PROMPTS
from harness.records import GenerationArgs
from tests import families
from tests.conftest import load

#: The others in `make test-slow`.
QUICK = ("qwen2_vl", "qwen2_5_vl", "gemma3", "internvl", "llava", "idefics3", "paligemma", "pixtral", "mllama")
EVERY = [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in families.FAMILIES]
ARGS = GenerationArgs(max_new_tokens=12)
QUESTION = PROMPTS["question"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("families")
    return lambda family: families.build(family, root)


@pytest.fixture(scope="session")
def rows():
    """Questions of mixed length about a few SLAKE pictures (square) and about VQA-RAD's, of every shape."""
    shared = load("slake").samples[:16]
    return shared + [s.model_copy(update={"id": f"rad-{s.id}"}) for s in load("vqa_rad").samples[:8]]


def answered(model, samples, args=ARGS, prompt=QUESTION):
    done = {p.sample_id: (p.text, p.prompt_tokens) for batch in model.generate(samples, prompt, args) for p in batch}
    assert done.keys() == {s.id for s in samples}
    return done


@torch.inference_mode()
def official(model, sample):
    """(text, prompt tokens) as the model's page on the hub says to ask it."""
    content = [{"type": "image", "image": i.open()} for i in sample.images]
    content.append({"type": "text", "text": QUESTION.render(sample.question)})
    inputs = model.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs.pop("labels", None)
    out = model.model.generate(**inputs, max_new_tokens=ARGS.max_new_tokens, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    cut = next((i for i, t in enumerate(new) if t in model.end), len(new))
    return model.processor.tokenizer.decode(new[:cut], skip_special_tokens=True).strip(), inputs["input_ids"].shape[1]


@pytest.mark.parametrize("family", EVERY)
def test_batch_of_one_is_auto_is_the_models_own(folders, rows, family):
    folder = str(folders(family))
    model = TransformersModel(folder, device="cpu")
    wanted = {s.id: official(model, s) for s in rows}
    assert len({text for text, _ in wanted.values()}) > len(rows) / 2, "the weights say the same to everything"
    assert answered(model, rows) == wanted
    if family == "paligemma":  # its pictures attend to the question
        assert model.sharing.startswith("off: compared with the model's own generate")
    else:
        assert model.sharing == "proved on 4 rows"
    for size in (1, 32):
        plain = TransformersModel(folder, device="cpu", batch_size=size, share_prefix="off")
        assert answered(plain, rows) == wanted
    task = load("slake", limit=16)
    plan = dryrun.Plan(folder, device="cpu").estimate(task, QUESTION, ARGS)
    assert plan["prompt_tokens_one_by_one"] == sum(wanted[s.id][1] for s in task.samples)


@pytest.mark.parametrize("family", EVERY)
def test_without_a_picture_and_with_two(folders, rows, family):
    model = TransformersModel(str(folders(family)), device="cpu")
    bare = [s.model_copy(update={"images": ()}) for s in rows[:3]]
    if not model.prompting.takes_text():
        assert family == "paligemma"
        assert set(model.refused(bare, QUESTION)) == {s.id for s in bare}
        bare = []
    two = [s.model_copy(update={"id": f"two-{s.id}", "images": (rows[0].images[0], rows[-1].images[0])}) for s in rows[:3]]
    wanted = {s.id: official(model, s) for s in bare + two}
    assert answered(model, bare + two) == wanted
    counted = model.prompting.count([Ask(tuple(i.size for i in s.images), QUESTION.render(s.question)) for s in bare + two])
    assert counted == [n for _, n in wanted.values()]


@pytest.mark.parametrize("question", ["  two spaces first", "\nline first", "1. A list?", "last line\n", "?", "Größe \u2009?"])
@pytest.mark.parametrize("family", QUICK)
def test_prompt_in_two_parts_has_the_models_own_tokens(folders, rows, family, question):
    prompting = Prompting(model_processor(folders(family)))
    picture = rows[-1].images[0].open()
    found = prompting.openings([[picture]])
    ours = found.inputs["input_ids"][0].tolist() + prompting.tails(found.border, prompting.texts([Ask(1, question)]))[0]
    assert ours == prompting.inputs([Ask([picture], question)])["input_ids"][0].tolist()


def model_processor(folder):
    from harness.models import loading

    return loading.load_processor(loading.resolve(str(folder)))


def test_two_threads_do_not_pad_each_others_questions(tiny, rows, monkeypatch):
    """Reading several pictures at once turns padding on in the tokenizer itself, which the other worker's questions also pass."""
    prompting, pictures = tiny.prompting, [[s.images[0].open()] for s in rows[:2]]
    border = prompting.openings(pictures).border
    chats = prompting.texts([Ask(1, s.question) for s in rows])
    alone, stop = prompting.tails(border, chats), threading.Event()
    assert len({len(tail) for tail in alone}) > 1
    set_padding = prompting.tokenizer.set_truncation_and_padding

    def set_and_wait(*args, **kwargs):  # the other thread's turn comes between setting and tokenising
        set_padding(*args, **kwargs)
        time.sleep(0.002)

    monkeypatch.setattr(prompting.tokenizer, "set_truncation_and_padding", set_and_wait)

    def read():
        while not stop.is_set():
            prompting.openings(pictures)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert all(prompting.tails(border, chats) == alone for _ in range(50))
    finally:
        stop.set()
        reader.join()


def test_the_opening_token_is_sent_once(folders, rows):
    for family in ("gemma3", "pixtral", "llava"):
        prompting = Prompting(model_processor(folders(family)))
        ids = prompting.inputs([Ask([rows[0].images[0].open()], "What is shown?")])["input_ids"][0].tolist()
        assert ids.count(prompting.tokenizer.bos_token_id) == 1
        assert prompting.writes_opening() == (family != "llava")  # there the tokenizer writes it
    assert TransformersModel(str(folders("gemma3")), device="cpu").card.opening == "once"


def test_a_marker_that_merges_with_what_follows_is_no_border(folders):
    """Gemma's vocabulary has "\\n\\n" and "\\n\\n\\n" as tokens: a question that begins with a line joins the ones before."""
    processor = model_processor(folders("gemma3"))
    processor.tokenizer.add_tokens(["\n\n", "\n\n\n"])
    prompting = Prompting(processor)
    picture = Image.new("RGB", (60, 40))
    found = prompting.openings([[picture]])
    assert found.border.anchor == "<end_of_image>"
    processor.chat_template = processor.chat_template.replace(" | trim", "")
    ours = found.inputs["input_ids"][0].tolist() + prompting.tails(found.border, prompting.texts([Ask(1, "\nIs it?")]))[0]
    assert ours == prompting.inputs([Ask([picture], "\nIs it?")])["input_ids"][0].tolist()


def test_a_template_with_the_question_first_is_asked_plainly(folders, rows, tmp_path):
    processor = model_processor(folders("qwen2_vl"))
    turn = "{% for c in messages[0]['content'] if c['type'] == 'KIND' %}"
    text = turn.replace("KIND", "text") + "{{ c['text'] }}{% endfor %}"
    processor.chat_template = text + turn.replace("KIND", "image") + "<|vision_start|><|image_pad|><|vision_end|>{% endfor %}"
    with pytest.raises(IndivisibleError, match=r"no marker stands between|changes the text after"):
        Prompting(processor).openings([[rows[0].images[0].open()]])


def test_a_checkpoint_that_cannot_answer_says_so(folders, rows, tmp_path):
    """Its picture takes more places in the prompt than it has features."""
    folder = tmp_path / "uneven"
    shutil.copytree(folders("llava"), folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["num_additional_image_tokens"] = 5
    (folder / "processor_config.json").write_text(json.dumps(settings))
    model = TransformersModel(str(folder), device="cpu")
    with pytest.raises(ModelError, match="uneven: its generate fails: ValueError: Image features and image tokens do not match"):
        answered(model, rows[:5])


def test_no_chat_template(folders):
    processor = model_processor(folders("qwen2_vl"))
    processor.chat_template = processor.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="mine: no chat template"):
        Prompting(processor, "mine")


def wrong_rows(cache, owner):
    return right(cache, owner.roll(1))


def wrong_position(model, inputs):
    out, positions, following = read_prompts(model, inputs)
    return out, positions, following + 1


right, read_prompts = engine.expanded, engine.read_prompts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "wrong"), [("expanded", wrong_rows), ("read_prompts", wrong_position)])
def test_a_wrong_expansion_is_found_before_it_answers(folders, rows, monkeypatch, dtype, name, wrong):
    """Rows that read another's picture, and positions that go on one too late: sharing is off, said, and the texts are right."""
    folder = str(folders("internvl"))
    model = TransformersModel(folder, device="cpu", dtype=dtype)
    monkeypatch.setattr(engine, name, wrong)
    done = answered(model, rows)
    assert model.sharing.startswith("off: compared with the model's own generate, ")
    plain = TransformersModel(folder, device="cpu", dtype=dtype, share_prefix="off")
    assert done == answered(plain, rows)


def test_bf16_is_held_to_its_own_rounding(folders, rows):
    for family in ("qwen2_vl", "internvl", "llava", "gemma3"):
        model = TransformersModel(str(folders(family)), device="cpu", dtype="bfloat16")
        answered(model, rows)
        assert model.sharing == "proved on 4 rows", family


def test_the_run_says_and_records_that_sharing_is_off(folders, tmp_path, command):
    folder = folders("paligemma")
    code, _, err = command(
        *f"run --model {folder} --tasks slake --limit 6 --data bundled --device cpu --runs {tmp_path} --max-new-tokens 4".split()
    )
    assert code == 0
    assert "sharing off: compared with the model's own generate" in " ".join(err.split())
    (card,) = tmp_path.rglob("card.json")
    assert json.loads(card.read_text())["shared_prefix"].startswith("off: compared with the model's own generate")


def test_a_prompt_without_a_position_for_its_answer_is_a_bad_row(folders, rows):
    model = TransformersModel(str(folders("llava")), device="cpu")
    task = load("slake", limit=4)
    lengths = {s.id: n for s, n in zip(task.samples, counted(model, task.samples), strict=True)}
    model.longest = max(lengths.values())
    long = [i for i, n in lengths.items() if n == model.longest]
    with pytest.raises(
        DataError, match=f"its prompt takes {model.longest} tokens, and the model has positions for {model.longest}"
    ):
        askable(task, model, QUESTION, "fail")
    left = askable(task, model, QUESTION, "skip")
    assert list(left.card.dropped) == long
    done = [p for b in model.generate(left.samples, QUESTION, ARGS) for p in b]
    for p in done:  # nothing is written beyond the last position
        assert p.prompt_tokens + p.completion_tokens <= model.longest
        assert p.finish == "length" or p.prompt_tokens + p.completion_tokens < model.longest


def test_a_dry_run_counts_the_rows_that_are_too_long(folders, tmp_path):
    """LLaVA-NeXT takes hundreds of tokens for a picture, more than this copy has positions for."""
    folder = tmp_path / "short"
    shutil.copytree(folders("llava_next"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    plan = dryrun.Plan(str(folder), device="cpu").estimate(load("slake", limit=3), QUESTION, ARGS)
    assert plan["rows_too_long"] == 3
    assert len(TransformersModel(str(folder), device="cpu").refused(load("slake", limit=3).samples, QUESTION)) == 3


def counted(model, samples):
    return model.prompting.count([Ask(tuple(i.size for i in s.images), QUESTION.render(s.question)) for s in samples])


def test_a_generation_config_with_rules_of_its_own_is_left_to_generate(folders, rows, tmp_path):
    model = TransformersModel(str(folders("qwen2_vl")), device="cpu")
    model.model.generation_config.suppress_tokens = [5]
    assert "suppress_tokens" in parts.why_not_shared(model.model)


@pytest.mark.parametrize("family", EVERY)
def test_every_part_is_found(folders, rows, family):
    backend = TransformersModel(str(folders(family)), device="cpu")
    model = backend.model
    where = parts.names(model)
    assert ("projector" not in where) == family.startswith(("qwen", "glm"))  # there it is a part of the encoder
    owners = {parts.part_of(where, name) for name, _ in model.named_parameters()}
    assert owners == set(where)
    inputs = backend.prompting.inputs([Ask([rows[0].images[0].open()], "What is shown?")])
    with torch.inference_mode():
        wanted = model(**inputs).logits
        if family == "mllama":
            with pytest.raises(LookupError, match="takes no image features"):
                parts.features(model, inputs)
            return
        features = parts.features(model, inputs)
        given = {k: v for k, v in inputs.items() if k != "pixel_values"}
        assert torch.equal(model(**given, mm_encoder_outputs={"image": features}).logits, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pixtral", "gemma3"])
def test_lm_eval_sends_the_opening_token_once(folders, family, tmp_path):
    """lm-eval's own texts on the exported rows are ours, with the folder that the export makes of the checkpoint."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from harness.lm_eval_export import export, model_folder

    task = load("slake", limit=6)
    path = export(task, QUESTION, tmp_path / "out", max_new_tokens=ARGS.max_new_tokens)
    folder = model_folder(str(folders(family)), path.parent)
    assert folder != str(folders(family))
    results = simple_evaluate(
        model="hf-multimodal", model_args={"pretrained": str(folder), "dtype": "float32"}, tasks=["slake_question"], batch_size=1,
        task_manager=TaskManager(include_path=str(path.parent), include_defaults=False), apply_chat_template=True, device="cpu",
        bootstrap_iters=0,
    )  # fmt: skip
    theirs = {s["doc"]["id"]: s["resps"][0][0].strip() for s in results["samples"]["slake_question"]}
    ours = answered(TransformersModel(str(folders(family)), device="cpu"), task.samples)
    assert theirs == {i: text for i, (text, _) in ours.items()}


def test_lm_eval_gets_a_checkpoint_as_it_is_where_it_can(folders, tmp_path):
    from harness.lm_eval_export import model_folder

    assert model_folder(str(folders("qwen2_vl")), tmp_path) == str(folders("qwen2_vl"))
