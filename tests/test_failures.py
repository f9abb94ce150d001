"""Why a request got no answer: vendors' own words on loopback, certificates, names, parameters; and what is done about it."""

import asyncio
import random
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ModelError
from harness.models import api_client
from harness.models.api_client import Client, RequestFailed
from harness.models.endpoint import Endpoint
from harness.models.failures import retry_after
from harness.models.flight import in_flight
from harness.models.usage import Budget, Price, nano
from harness.prompts import PROMPTS
from harness.records import GenerationArgs
from tests.servers import FaultServer, Says, completion
from tests.test_litellm_model import at, questions

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def faults():
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(api_client.random.Random, "uniform", lambda *_: 0.002)


def client(base, model="openai/some", **options):
    return Client(Endpoint.parse(model, base), **{"timeout": 5.0, "deadline": 10.0} | options)


def fails(one, **sent):
    async def ask():
        try:
            return await one.ask(HI, **{"max_tokens": 5} | sent)
        finally:
            await one.close()

    with pytest.raises(RequestFailed) as caught:
        asyncio.run(ask())
    return caught.value


def error(message, code=None, kind="invalid_request_error", param=None):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


QUOTA = "You exceeded your current quota, please check your plan and billing details."
MINUTE = {"error": {"code": 429, "message": f"{QUOTA} Please retry in 20s.", "status": "RESOURCE_EXHAUSTED", "details": [
    {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}]}, {"retryDelay": "20s"}]}}  # fmt: skip
DAY = {"error": {"code": 429, "message": f"{QUOTA} Please retry in 20s.", "status": "RESOURCE_EXHAUSTED", "details": [
    {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}, {"retryDelay": "20s"}]}}  # fmt: skip
CLAUDE, GEMINI, DEEPSEEK = "anthropic/claude-3-5-haiku-latest", "gemini/gemini-2.0-flash", "deepseek/deepseek-chat"


def claude(kind, message):
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize(
    ("model", "status", "body", "kind"),
    [
        ("openai/some", 429, error(QUOTA, "insufficient_quota", "insufficient_quota"), "final"),
        ("openai/some", 429, error("You have run out of money", "insufficient_quota", "insufficient_quota"), "final"),
        ("openai/some", 429, error(QUOTA), "final"),
        ("openai/some", 400, error("Budget has been exceeded! Current cost: 3.1", "400", "budget_exceeded"), "final"),
        ("openai/some", 402, error("Insufficient credits"), "final"),
        ("openai/some", 429, error("Rate limit reached for requests", "rate_limit_exceeded", "requests"), "busy"),
        ("openai/some", 503, error("overloaded"), "busy"),
        ("openai/some", 401, error("Incorrect API key provided", "invalid_api_key"), "final"),
        ("openai/some", 403, error("You are not allowed to do that"), "final"),
        ("openai/some", 404, error("The model `some` does not exist", "model_not_found"), "final"),
        ("openai/some", 400, error("This model's maximum context length is 8192 tokens.", "context_length_exceeded"), "row"),
        ("openai/some", 400, error("Your request was filtered", "content_filter"), "withheld"),
        ("openai/some", 400, error("Unsupported value: 'temperature' does not support 0", "unsupported_value",
                                   param="temperature"), "parameter"),
        ("openai/some", 400, error("something else is wrong with this one"), "row"),
        (CLAUDE, 400, claude("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), "final"),
        (CLAUDE, 401, claude("authentication_error", "invalid x-api-key"), "final"),
        (CLAUDE, 429, claude("rate_limit_error", "This would exceed your rate limit"), "busy"),
        (CLAUDE, 529, claude("overloaded_error", "Overloaded"), "busy"),
        (GEMINI, 429, MINUTE, "busy"),
        (GEMINI, 429, DAY, "final"),
        (GEMINI, 400, {"error": {"code": 400, "message": "No.", "details": [{"reason": "API_KEY_INVALID"}]}}, "final"),
        (DEEPSEEK, 402, error("Insufficient Balance", "invalid_request_error", "unknown_error"), "final"),
    ],
    ids=lambda v: v if isinstance(v, str | int) else "",
)  # fmt: skip
def test_what_a_vendor_says_is_understood(faults, quick, monkeypatch, model, status, body, kind):
    for name in ("ANTHROPIC", "GEMINI", "DEEPSEEK"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-canary-0123456789")
    faults.otherwise = Says(status, body)
    base = faults.base if model.startswith("openai") else faults.base.removesuffix("/v1")
    found = fails(client(base, model, retries=1), temperature=0)
    assert found.kind == kind, str(found)
    assert len(faults.hits) == (2 if kind == "busy" else 1)  # what cannot change is not tried again
    assert (found.hint is not None) == (kind in ("final", "parameter"))


def test_no_credit_ends_a_run_at_its_first_requests(faults):
    """Not after hundreds, each tried again and again."""
    faults.otherwise = Says(429, error(QUOTA, "insufficient_quota", "insufficient_quota"))
    with pytest.raises(ModelError, match="exceeded your current quota") as caught:
        list(at(faults, max_in_flight=64).generate(questions(994), PROMPTS["question"], GenerationArgs(max_new_tokens=4)))
    assert "no credit or quota left" in caught.value.hint
    assert len(faults.hits) <= 8


def test_a_server_that_is_busy_for_ever_ends_it(faults, quick):
    """After some answers, too: with the reason."""
    faults.plan = [completion("fine")] * 10
    faults.otherwise = 429
    batches = at(faults, retries=1, max_in_flight=16).generate(
        questions(400), PROMPTS["question"], GenerationArgs(max_new_tokens=4)
    )
    with pytest.raises(ModelError, match=r"32 requests in a row got no answer: 429"):
        list(batches)
    assert len(faults.hits) < 150


def test_a_server_that_takes_no_seed_answers_without(faults):
    faults.otherwise = lambda body: (
        Says(422, error("Extra inputs are not permitted: seed")) if "seed" in body else completion("fine")
    )
    model = at(faults, max_in_flight=1)
    done = [p for b in model.generate(questions(3), PROMPTS["question"], GenerationArgs(max_new_tokens=4)) for p in b]
    assert [p.text for p in done] == ["fine"] * 3
    assert model.left_away == ["seed"]
    assert len(faults.hits) == 4


def test_a_parameter_that_is_not_taken_is_left_away_where_it_may_be(faults):
    faults.otherwise = lambda body: (
        Says(400, error("Unrecognized request argument supplied: seed")) if "seed" in body else completion("fine")
    )
    one = client(faults.base)

    async def ask(**sent):
        try:
            return [(await one.ask(HI, optional=("seed",), max_tokens=5, **sent)).content for _ in range(3)]
        finally:
            await one.close()

    assert asyncio.run(ask(seed=1)) == ["fine"] * 3
    assert one.untaken == {"seed": None}
    assert [("seed" in hit) for hit in faults.hits] == [True, False, False, False]  # learnt once
    faults.otherwise = lambda body: (
        Says(400, error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens"))
        if "max_tokens" in body
        else completion("fine")
    )
    assert asyncio.run(ask()) == ["fine"] * 3
    assert faults.hits[-1]["max_completion_tokens"] == 5


def test_a_model_that_takes_no_temperature_is_known_before_anything_is_sent(monkeypatch):
    from harness.models.litellm_model import LitellmModel

    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    for name in ("openai/o3-mini", "openai/gpt-5"):
        model = LitellmModel(name, allow_external=True)
        with pytest.raises(ModelError, match="temperature") as caught:
            model.generate(questions(3), PROMPTS["question"], GenerationArgs(max_new_tokens=4))
        assert "--temperature 1" in caught.value.hint


def test_words_are_found_wherever_they_stand(faults):
    said = {
        "refusal": ({"content": None, "refusal": "I cannot"}, ("", None, "I cannot", "I cannot")),
        "thinking": ({"content": None, "reasoning_content": "hm"}, ("", "hm", None, "<think>hm</think>")),
        "vllm": ({"content": "1", "reasoning": "hm"}, ("1", "hm", None, "<think>hm</think>1")),
        "tool": ({"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                 ("{}", None, None, "{}")),
        "parts": ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ("ab", None, None, "ab")),
        "thinking parts": ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                                        {"type": "text", "text": "b"}]}, ("b", "hm", None, "<think>hm</think>b")),
        "an object": ({"content": {"prediction_score": 1}}, ('{"prediction_score": 1}', None, None, '{"prediction_score": 1}')),
    }  # fmt: skip
    one = client(faults.base)
    faults.plan = [completion(**message) for message, _ in said.values()]

    async def ask():
        found = [await one.ask(HI, max_tokens=5) for _ in said]
        await one.close()
        return [(r.content, r.reasoning, r.refusal, r.text) for r in found]

    assert asyncio.run(ask()) == [expected for _, expected in said.values()]


# -- below HTTP -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """(certificate, key) for this machine, and for another name."""
    folder = tmp_path_factory.mktemp("certificates")
    out = []
    for name in ("127.0.0.1", "other.example"):
        files = (folder / f"{name}.crt", folder / f"{name}.key")
        kind = "IP" if name[0].isdigit() else "DNS"
        command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {files[1]} -out {files[0]} -subj /CN={name}"
        subprocess.run([*command.split(), "-addext", f"subjectAltName={kind}:{name}"], check=True, capture_output=True)
        out.append(files)
    return out


@pytest.mark.parametrize("model", ["openai/some", CLAUDE])
def test_tls_names_and_ports_are_called_what_they_are(certificates, monkeypatch, model):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-0123456789")
    mine, others = certificates
    own, other, bare, gone = FaultServer(mine), FaultServer(others), FaultServer(), FaultServer()
    gone.stop()

    def said(base):
        found = fails(client(base, model, retries=0))
        return f"{found} / {found.hint}"

    try:
        assert "TLS: the server's certificate is refused: self-signed certificate / " in said(own.base)
        assert "SSL_CERT_FILE" in said(own.base)
        assert "TLS: the server does not speak it" in said(bare.base.replace("http:", "https:"))
        assert "http:// in place of https://" in said(bare.base.replace("http:", "https:"))
        assert "does it want https://" in said(own.base.replace("https:", "http:"))
        assert "Connection error: refused / is the server up" in said(gone.base)
        assert "no address is known for the server's name" in said("http://no-such-host.invalid/v1")
        monkeypatch.setenv("SSL_CERT_FILE", str(others[0]))
        assert "the certificate is for another name" in said(other.base)
    finally:
        for server in (own, other, bare):
            server.stop()


def test_a_certificate_that_is_named_is_trusted(certificates, monkeypatch):
    server = FaultServer(certificates[0])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates[0][0]))
    one = client(server.base)

    async def ask():
        reply = await one.ask(HI, max_tokens=5)
        await one.close()
        return reply.content

    assert asyncio.run(ask()) == "fine"
    server.stop()


def test_retry_after_in_milliseconds():
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert retry_after({"Retry-After": "3"}) == 3
    assert retry_after({"retry-after": "nan"}) is None


# -- money ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.floats(0, 3), st.integers(1, 64))
def test_a_budget_is_never_passed_and_never_waited_for_in_vain(seed, limit, at_most):
    """Requests of all prices, under way together, that cost what they cost or are lost: the sum is exact, and it ends."""
    draw, budget = random.Random(seed), Budget(limit)
    spent = []

    async def job():
        worst = draw.uniform(0, 0.1)
        while not budget.hold(worst):
            if not budget.held:
                return False
            await asyncio.sleep(0)
        for _ in range(draw.randrange(3)):
            await asyncio.sleep(0)
        cost = worst * draw.choice([0, 0.1, draw.random(), 1])
        spent.append(nano(cost))
        budget.settle(worst, cost)
        return True

    async def close():
        pass

    async def ended():
        return [await job() for _ in range(2)] + list(await asyncio.gather(*(job() for _ in range(at_most))))

    done = asyncio.run(asyncio.wait_for(ended(), 20))
    assert budget.held == 0
    assert budget.spent == sum(spent) / 1e9 <= limit
    assert sum(done) == len(spent)


def test_prices_with_cached_tokens(faults, monkeypatch):
    assert Price(10, 20).of(1_000_000, 0, 900_000) == 10
    assert Price(10, 20, 1).of(1_000_000, 0, 900_000) == pytest.approx(1.9)
    usage = {
        "prompt_tokens": 2000,
        "completion_tokens": 10,
        "total_tokens": 2010,
        "prompt_tokens_details": {"cached_tokens": 1900},
    }
    faults.otherwise = completion("fine") | {"usage": usage}
    one = client(faults.base, price=Price(10, 20, 1))

    async def ask():
        reply = await one.ask(HI, max_tokens=5)
        await one.close()
        return reply.cost

    assert asyncio.run(ask()) == pytest.approx((100 * 10 + 1900 * 1 + 10 * 20) / 1e6)


def test_at_first_only_a_few_are_open():
    """What is wrong with all of them is seen before many are paid."""
    now, most = 0, []

    async def job():
        nonlocal now
        now += 1
        most.append(now)
        await asyncio.sleep(0.02)
        now -= 1

    async def close():
        pass

    list(in_flight((job for _ in range(60)), at_most=20, batch=60, flush=5, close=close))
    assert max(most[:8]) <= 8 < max(most) <= 20


def test_a_mistake_of_ours_shows_no_key_and_moves_no_cursor(command, monkeypatch):
    """A traceback may quote whatever a server sent."""
    from harness.cli import main

    canary = "sk-canary-1f2e3d4c5b6a7980"
    monkeypatch.setenv("HARNESS_API_KEY", canary)

    def broken():
        raise RuntimeError(f"{canary} \x1b[2J")

    monkeypatch.setattr(main, "app", broken)
    code, out, err = command("run")
    assert code == 1
    assert "RuntimeError: [key] \N{REPLACEMENT CHARACTER}[2J" in err
    assert canary not in out + err
