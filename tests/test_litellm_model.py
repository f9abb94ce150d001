"""The API backend against real servers on loopback: same text as in process, and every way a request can fail."""

import asyncio
import io
import json
import os
import time
import urllib.request

import pytest
from PIL import Image, PngImagePlugin

from harness import pipeline
from harness.errors import ModelError, UserError
from harness.images import portable
from harness.models import api_client, endpoint
from harness.models.api_client import Client
from harness.models.endpoint import Endpoint, check_may_leave, is_api_model, outgoing
from harness.models.failures import redact, retry_after
from harness.models.litellm_model import LitellmModel, Usage, data_url
from harness.models.usage import Reply
from harness.prompts import PROMPTS
from harness.records import BadImageError, GenerationArgs, ImageRef, Reference, Sample
from judges.exact import ExactJudge
from tests.conftest import load
from tests.servers import FaultServer, TransformersServe, completion

CANARY = "canary-7f3a9c1e5b"
ROWS = 40


@pytest.fixture(scope="module", autouse=True)
def starting(tmp_path_factory):
    """The real server, started at once so that the other tests run while it does."""
    server = TransformersServe(tmp_path_factory.mktemp("serve") / "log")
    yield server
    server.stop()


@pytest.fixture
def served(starting):
    return starting.base


@pytest.fixture
def faults():
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture
def quick(monkeypatch):
    """Back-off of milliseconds; a server's own Retry-After is still waited for."""
    monkeypatch.setattr(api_client.random.Random, "uniform", lambda *_: 0.002)


def questions(n):
    return [Sample(id=str(i), images=(), question=f"q{i}", reference=Reference(answers=("fine",))) for i in range(n)]


def ask(model, samples, prompt="question", **args):
    options = GenerationArgs(**{"max_new_tokens": 16} | args)
    done = [p for batch in model.generate(samples, PROMPTS[prompt], options) for p in batch]
    assert sorted(p.sample_id for p in done) == sorted(s.id for s in samples)  # each exactly once
    return {p.sample_id: p for p in done}


def at(server, **options):
    return LitellmModel(f"openai/some@{server.base}", **{"deadline": 20.0} | options)


# -- faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [408, 409, 429, 500, 502, 503, "drop"], ids=str)
def test_tried_again(faults, quick, step):
    faults.plan = [step, step]
    model = at(faults)
    assert ask(model, questions(1))["0"].text == "fine"
    assert len(faults.hits) == 3
    assert model.usage.tries == 3


def test_retry_after_is_waited_for(faults, quick):
    faults.plan = [(429, {"retry-after": "1"})]
    ask(at(faults), questions(1))
    assert faults.times[1] - faults.times[0] >= 1.0


def test_retry_after_beyond_the_deadline_ends_at_once(faults):
    faults.plan = [(429, {"retry-after": "3600"})]
    start = time.monotonic()
    done = ask(at(faults), questions(1))["0"]
    assert time.monotonic() - start < 5
    assert done.finish == "error"
    assert "asked to wait 3600 s, past the deadline of 20 s" in done.error
    assert len(faults.hits) == 1


def test_hang_is_cut_at_its_timeout(faults, quick):
    faults.plan = ["hang"]
    start = time.monotonic()
    assert ask(at(faults, timeout=0.5), questions(1))["0"].text == "fine"
    assert 0.5 <= time.monotonic() - start < 5


def test_deadline_holds_over_all_tries(faults, quick):
    faults.otherwise = "hang"
    start = time.monotonic()
    done = ask(at(faults, timeout=0.4, deadline=1.0, retries=50), questions(1))["0"]
    assert time.monotonic() - start < 2.5
    assert (done.finish, done.text, done.answer) == ("error", "", None)
    assert "no reply within" in done.error


@pytest.mark.parametrize("step", [400, 413, 422])
def test_refused_is_not_tried_again(faults, step):
    """One bad row is an error with its reason, which the judge counts as missing; the others are answered."""
    faults.plan = [step]
    samples = questions(3)
    done = ask(at(faults, max_in_flight=1), samples)
    assert len(faults.hits) == 3
    assert [done[s.id].finish for s in samples] == ["error", "stop", "stop"]
    assert str(step) in done["0"].error
    verdicts = {v.sample_id: v for v in pipeline.verdicts_of(ExactJudge(), [(s, done[s.id]) for s in samples])}
    assert verdicts["0"].final is None
    assert verdicts["0"].missing
    assert verdicts["1"].final == 1


@pytest.mark.parametrize("step", [401, 403, 404])
def test_wrong_key_or_model_ends_the_run(faults, step):
    faults.plan = [completion("fine"), completion("fine"), step]
    batches = at(faults, max_in_flight=1).generate(questions(20), PROMPTS["question"], GenerationArgs(max_new_tokens=4))
    assert [p.text for p in next(batches)] == ["fine", "fine"]  # what was finished is handed on first
    with pytest.raises(ModelError, match=str(step)) as caught:
        next(batches)
    assert "HARNESS_API_KEY" in caught.value.hint
    assert len(faults.hits) == 3


def test_server_that_is_down(faults, quick):
    faults.stop()
    with pytest.raises(ModelError, match=r"first \d+ requests all failed: Connection error: refused \(2 tries\)$"):
        ask(at(faults, retries=1, max_in_flight=4), questions(30))


def test_answers_that_are_none(faults):
    faults.plan = [
        completion("", finish="content_filter", tokens=0),
        completion("", tokens=0),
        completion("", tokens=1),  # the model chose to say nothing: its own failure
        completion("half", finish="length"),
        {**completion("x"), "choices": []},
    ]
    done = ask(at(faults, max_in_flight=1), questions(5))
    assert [done[str(i)].finish for i in range(5)] == ["error", "error", "stop", "length", "error"]
    assert "content filter" in done["0"].error
    assert done["2"].answer is None


def test_never_more_in_flight_than_asked(faults):
    faults.otherwise = 0.1
    ask(at(faults, max_in_flight=3), questions(12))
    assert faults.peak == 3


def test_closed_early_and_used_again(faults):
    model = at(faults, max_in_flight=2, batch_size=2)
    batches = model.generate(questions(30), PROMPTS["question"], GenerationArgs(max_new_tokens=4))
    assert len(next(batches)) >= 2
    batches.close()
    assert len(faults.hits) < 10
    assert len(ask(model, questions(5))) == 5


def test_what_is_sent(faults, slake):
    ask(at(faults), slake.samples[:1], seed=5, max_new_tokens=33)
    (body,) = faults.hits
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "some", "temperature": 0.0, "top_p": 1.0, "seed": 5, "max_tokens": 33,
    }  # fmt: skip
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": slake.samples[0].question}
    assert image["image_url"]["url"] == data_url(slake.samples[0].images[0])


def test_each_sampled_row_has_a_seed_of_its_own(faults):
    """Under one seed, a server would give the same text to every sample of a question."""
    for seed in (5, 5, 6):
        ask(at(faults, max_in_flight=1), questions(3), temperature=0.7, top_p=0.9, seed=seed)
    sent = [(h["temperature"], h["top_p"], h["seed"]) for h in faults.hits]
    assert {s[:2] for s in sent} == {(0.7, 0.9)}
    seeds = [s[2] for s in sent]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 6
    assert all(0 <= s < 2**31 for s in seeds)


def test_no_proxy_for_a_local_server(faults, monkeypatch):
    """A proxy in the environment would take the rows off this machine."""
    proxy = FaultServer()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}" if "no" not in name.lower() else "")
    for provider in ("openai", "hosted_vllm"):
        ask(LitellmModel(f"{provider}/some@{faults.base}"), questions(1))
    assert (len(faults.hits), len(proxy.hits)) == (2, 0)
    proxy.stop()


# -- keys -------------------------------------------------------------------------------------------------------


def test_a_key_reaches_no_record_and_no_message(faults, quick, monkeypatch, tmp_path, capfd):
    """The server quotes the key back in each of its errors."""
    monkeypatch.setenv("HARNESS_API_KEY", CANARY)
    faults.plan = [400, 500, 422, 429]
    model = at(faults, max_in_flight=1, retries=1)
    pipeline.run(load("slake", limit=6), model, PROMPTS["question"], GenerationArgs(max_new_tokens=4), [ExactJudge()], tmp_path)
    assert {h["seed"] for h in faults.hits} == {0}
    faults.plan = [401]
    with pytest.raises(ModelError) as caught:
        ask(model, questions(1))
    texts = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert any("you sent Bearer" in t or "[key]" in t for t in texts)
    chain, links = caught.value, []
    while chain is not None:
        links.append(repr(chain))
        chain = chain.__cause__ or chain.__context__
    for text in [*texts, *links, str(caught.value.hint), *capfd.readouterr()]:
        assert CANARY not in text


def test_redact(monkeypatch):
    monkeypatch.setenv("SOME_VENDOR_API_KEY", CANARY)
    assert CANARY not in redact(f"no such key: {CANARY}")
    for shaped in ("sk-proj-abc123def456", "AIza" + "x" * 35, "Bearer abcdef123456", "https://x/y?key=abcdef123"):
        assert "abc" not in redact(f"bad {shaped} here").replace("https://x/y", "")
        assert "xxxxx" not in redact(shaped)
    assert redact("see data:image/png;base64,AAAA== end") == "see [image] end"
    assert len(redact("a " * 2000)) == 500


def test_vendor_key_stays_with_the_vendor(faults, monkeypatch):
    """OPENAI_API_KEY is not sent to a server that the command line names."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert at(faults).endpoint.api_key() == "none"
    monkeypatch.setenv("OPENAI_BASE_URL", faults.base)
    beside = Endpoint.parse("openai/some")
    assert (beside.api_base, beside.api_key()) == (faults.base, CANARY)


# -- names, prices, replies -------------------------------------------------------------------------------------


def test_names():
    import litellm

    assert set(endpoint.PROVIDERS) <= {str(p.value if hasattr(p, "value") else p) for p in litellm.provider_list}
    assert is_api_model("openai/gpt-4o-mini")
    assert is_api_model("openai//a/folder@http://127.0.0.1:8000/v1")
    assert not is_api_model("Qwen/Qwen2-VL-2B-Instruct")
    assert not is_api_model("tiny")
    assert not is_api_model("./openai")
    assert Endpoint.parse("openai/a@b@https://h/v1").api_base == "https://h/v1"
    assert Endpoint.parse("llama", "http://127.0.0.1:1/v1").model == "openai/llama"
    for name, base in [
        ("hosted_vllm/x", None), ("gpt-4o-mini", None), ("openai/x@http://h/v1", "http://h/v1"), ("openai/x", "h:80"),
        ("openai/x", f"http://user:{CANARY}@127.0.0.1/v1"), ("openai/x", f"http://127.0.0.1/v1?key={CANARY}"),
    ]:  # fmt: skip
        with pytest.raises(ModelError) as caught:
            Endpoint.parse(name, base)
        assert CANARY not in str(caught.value)


def test_missing_key_is_said_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelError, match="no key") as caught:
        LitellmModel("openai/gpt-4o-mini", allow_external=True)
    assert "OPENAI_API_KEY" in caught.value.hint


def test_cost_is_known_or_unknown_never_nothing():
    def cost(name):
        client = Client(Endpoint.parse(name))
        usage = Usage()
        usage.add(asyncio.run(client.ask([{"role": "user", "content": "hi"}], mock_response="yes", max_tokens=5)))
        return usage.cost

    assert 0 < cost("openai/gpt-4o-mini") < 0.01
    assert cost("openai/some-model-of-tomorrow") is None
    assert Usage().cost is None


@pytest.mark.parametrize(
    ("content", "reasoning", "finish", "text"),
    [
        ("<answer>ct</answer>", "a ct.", "stop", "<think>a ct.</think><answer>ct</answer>"),
        ("", "a ct of", "length", "<think>a ct of"),
        ("", "a ct.", "stop", "<think>a ct.</think>"),
        (" ct \n", None, "stop", "ct"),
    ],
)
def test_join(content, reasoning, finish, text):
    assert Reply(content, reasoning, finish, None, 1, 1, None, 1).text == text


def test_retry_after():
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, now=1792567670.0) == 10.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after(None) is None


# -- what may leave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "local"),
    [
        ("http://127.0.0.1:8000/v1", True), ("http://localhost:8000/v1", True), ("http://[::1]:8000/v1", True),
        ("http://127.9.9.9/v1", True), ("http://127.0.0.1.evil.example/v1", False), ("http://10.0.0.7:8000/v1", False),
        ("https://api.openai.com/v1", False), ("http://0.0.0.0:80/v1", False), (None, False),
    ],
)  # fmt: skip
def test_loopback_is_not_external(base, local):
    assert Endpoint("openai/x", base).is_local is local


def test_nothing_leaves_unasked(slake):
    few = load("slake", limit=20)
    vendor = Endpoint.parse("openai/gpt-4o-mini")
    with pytest.raises(UserError, match=r"sent to the vendor 'openai': slake: 20 questions, \d+ images") as caught:
        check_may_leave([outgoing(few)], vendor, allow_external=False)
    assert "--allow-external" in caught.value.hint
    said = check_may_leave([outgoing(few)], vendor, allow_external=True)
    size = sum(len(i.content) for s in few.samples for i in s.images) / 1e6
    images = len({i.name for s in few.samples for i in s.images})
    assert said == (
        f"sending to the vendor 'openai' (as openai/gpt-4o-mini): slake: 20 questions, {images} images "
        f"({size:.1f} MB over all requests)"
    )
    assert "images" not in check_may_leave([outgoing(few, images=False)], vendor, allow_external=True)  # a judge gets text alone
    assert check_may_leave([outgoing(few)], Endpoint.parse("x", "http://127.0.0.1:1/v1"), allow_external=False) is None

    private = type(few)(few.spec.model_copy(update={"name": "ward", "may_leave_machine": False}), few.samples, few.card)
    with pytest.raises(UserError, match="task 'ward' may not leave this machine"):
        check_may_leave([outgoing(few), outgoing(private)], vendor, allow_external=True)
    with pytest.raises(UserError, match="answered by the vendor"):
        LitellmModel("openai/gpt-4o-mini")


# -- images -----------------------------------------------------------------------------------------------------


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return ImageRef("i", data=out.getvalue())


@pytest.fixture(scope="module")
def picture(slake):
    return slake.samples[0].images[0].open()


def test_plain_files_go_out_as_they_are(slake, picture):
    for image in (slake.samples[0].images[0], encoded(picture, "PNG"), encoded(picture.convert("L"), "JPEG", progressive=True)):
        assert portable(image).data == image.content


def test_metadata_stays_here_and_pixels_do_not_change(picture):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = f"patient {CANARY}", 6  # a description, and an orientation some readers apply
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", CANARY)
    alpha = picture.convert("RGBA")
    alpha.putalpha(7)
    for image in (
        encoded(picture, "JPEG", exif=exif), encoded(picture, "JPEG", comment=CANARY), encoded(picture, "PNG", pnginfo=note),
        encoded(picture.convert("CMYK"), "JPEG"), encoded(alpha, "PNG"), encoded(picture.convert("P"), "PNG"),
        encoded(picture, "BMP"), encoded(picture.convert("L").convert("I;16"), "PNG"),
    ):  # fmt: skip
        sent = portable(image)
        assert not sent.untouched
        assert CANARY.encode() not in sent.data
        assert ImageRef("sent", data=sent.data).open().tobytes() == image.open().tobytes()


def test_size_limit_and_broken_files():
    noise = Image.frombytes("RGB", (900, 900), os.urandom(900 * 900 * 3))
    sent = portable(encoded(noise, "PNG"), max_bytes=1_500_000)
    assert sent.media_type == "image/jpeg"
    assert len(sent.data) <= 1_500_000
    with pytest.raises(BadImageError, match="do not fit"):
        portable(encoded(noise, "PNG"), max_bytes=1000)
    for broken in (b"", b"\xff\xd8\xff nothing", encoded(noise, "PNG").content[:2000]):
        with pytest.raises(BadImageError):
            portable(ImageRef("broken", data=broken))


# -- a real server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(slake):
    radiographs = [s.model_copy(update={"id": f"rad-{s.id}"}) for s in load("vqa_rad", limit=ROWS // 2).samples]
    return slake.samples[:: 1061 // (ROWS // 2)][: ROWS // 2] + radiographs


def test_same_text_as_in_process(served, tiny, rows):
    """Thinking included: the server hands it over apart from the answer, and it is joined again."""
    body = {
        "model": tiny.model.name_or_path, "max_tokens": 48, "temperature": 0.0,
        "messages": LitellmModel._messages(rows[0], PROMPTS["reasoning"]),
    }  # fmt: skip
    kind = {"content-type": "application/json"}
    request = urllib.request.Request(f"{served}/chat/completions", json.dumps(body).encode(), kind)
    message = json.loads(urllib.request.urlopen(request, timeout=60).read())["choices"][0]["message"]
    assert message["reasoning_content"]
    assert "<think>" not in message["content"]

    model = LitellmModel(f"openai/{tiny.model.name_or_path}@{served}", max_in_flight=4)
    here, there = (ask(m, rows, "reasoning", max_new_tokens=48) for m in (tiny, model))
    assert {i: (p.text, p.reasoning, p.answer, p.finish) for i, p in there.items()} == {
        i: (p.text, p.reasoning, p.answer, p.finish) for i, p in here.items()
    }
    assert all(p.text.startswith("<think>") and p.answer for p in there.values())
    assert {i: p.prompt_tokens for i, p in there.items()} == {i: p.prompt_tokens for i, p in here.items()}
    assert model.usage.answered == model.usage.tries == ROWS
    assert model.usage.cost is None  # unknown, not $0


def test_cut_off_in_its_thinking(served, tiny, rows):
    model = LitellmModel(f"openai/{tiny.model.name_or_path}", api_base=served)
    here, there = (ask(m, rows[:4], "reasoning", max_new_tokens=5) for m in (tiny, model))
    assert {i: (p.text, p.finish, p.answer) for i, p in there.items()} == {i: (p.text, "length", None) for i, p in here.items()}


def test_a_run_and_its_resume(served, tiny, tmp_path):
    """Through the pipeline: the same scores as in process; the second call asks nothing again."""
    task = load("slake", limit=12)
    args = GenerationArgs(max_new_tokens=16)
    scores = []
    for model in (tiny, LitellmModel(f"openai/{tiny.model.name_or_path}@{served}")):
        folder = pipeline.run(task, model, PROMPTS["question"], args, [ExactJudge()], tmp_path)
        scores.append(json.loads((folder.path / "scores.json").read_text())["judges"])
    assert scores[0] == scores[1]
    again = LitellmModel(f"openai/{tiny.model.name_or_path}@{served}")
    pipeline.run(task, again, PROMPTS["question"], args, [ExactJudge()], tmp_path)
    assert again.usage.tries == 0
